//! `aoai render`: from the document to Envoy's configuration.

mod client_credential;
mod clusters;
mod envoy;
mod filter;
mod listener;
mod options;
mod overload;
mod pools;
pub(crate) mod resolve;
pub(crate) mod sign_in;
mod yaml;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Subcommand;

use self::options::Options;
use crate::document;
use crate::outcome::Outcome;

/// What to render.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Print a complete Envoy bootstrap for a configuration
    ///
    /// It contains the listener, the filter with the document, a cluster with TLS for each backend,
    /// the pools for failover, the clusters and listeners of the identities, labels for the metrics,
    /// and the admin interface on loopback. The same document always renders to the same bootstrap.
    ///
    /// Exit status: 0 when the bootstrap is printed, 1 when the document has problems, which are
    /// printed instead, 2 when the file cannot be read or an option does not fit the document.
    #[command(after_help = "Examples:
  aoai render envoy gateway.yaml > envoy.yaml && envoy -c envoy.yaml
  aoai render envoy gateway.yaml --wasm /etc/envoy/aoai_filter.wasm
  aoai render envoy gateway.yaml --identity 127.0.0.1:8000
  aoai render envoy gateway.yaml --resolve eastus=https://10.1.0.4:443")]
    Envoy(Options),
}

/// Renders a document.
pub(crate) fn run(command: &Command) -> ExitCode {
    let Command::Envoy(options) = command;
    match bootstrap(options) {
        Ok(bootstrap) => print(&bootstrap),
        Err(outcome) => outcome,
    }
    .into()
}

/// The bootstrap. Prints the error, if there is one.
fn bootstrap(options: &Options) -> Result<String, Outcome> {
    let document = document::open(&options.file)?;
    let sign_ins = sign_in::sign_ins(&document.config)
        .map_err(|problems| document::report(&options.file, &problems))?;
    options.check(&document.config, &sign_ins).map_err(|error| document::print_error(&error))?;
    Ok(envoy::bootstrap(&document, options, &sign_ins))
}

fn print(bootstrap: &str) -> Outcome {
    match io::stdout().write_all(bootstrap.as_bytes()) {
        Ok(()) => Outcome::Success,
        Err(error) => document::print_error(&error),
    }
}
