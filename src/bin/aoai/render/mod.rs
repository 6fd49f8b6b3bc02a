//! `aoai render`: from the document to Envoy's configuration.

mod client_credential;
mod clusters;
mod envoy;
mod filter;
mod listener;
mod monitoring;
mod options;
mod overload;
mod parts;
mod pools;
mod ratelimit;
pub(crate) mod resolve;
pub(crate) mod sign_in;
mod yaml;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
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
  aoai render envoy gateway.yaml --resolve eastus=https://10.1.0.4:443
  aoai render envoy gateway.yaml --parts --host ai.example.com")]
    Envoy(Options),
    /// Print the configuration of envoyproxy/ratelimit for a configuration
    ///
    /// With limits.store: ratelimit, the service keeps the limits of all subscriptions for all proxies
    /// together. Put what is printed into the service's RUNTIME_ROOT/config, and print it again whenever
    /// the document changes.
    ///
    /// Exit status: 0 when it is printed, 1 when the document has problems, which are printed instead, 2
    /// when the file cannot be read or the document keeps its limits in the proxies.
    #[command(after_help = "Examples:
  aoai render ratelimit gateway.yaml > /srv/runtime_data/current/config/aoai.yaml")]
    Ratelimit {
        /// A YAML or JSON file, or - for standard input
        file: PathBuf,
    },
}

/// Renders a document.
pub(crate) fn run(command: &Command) -> ExitCode {
    let rendered = match command {
        Command::Envoy(options) => bootstrap(options),
        Command::Ratelimit { file } => limits(file),
    };
    rendered.map_or_else(|outcome| outcome, |text| print(&text)).into()
}

/// The configuration of the service of limits. Prints the error, if there is one.
fn limits(file: &Path) -> Result<String, Outcome> {
    let document = document::open(file)?;
    if ratelimit::store(&document.config).is_none() {
        return Err(document::print_error(&NoService));
    }
    Ok(ratelimit::service(&document.config))
}

/// The document has no service of limits.
#[derive(Debug, thiserror::Error)]
#[error("the document keeps its limits in the proxies: expected limits.store: ratelimit")]
struct NoService;

/// The bootstrap. Prints the error, if there is one.
fn bootstrap(options: &Options) -> Result<String, Outcome> {
    let document = document::open(&options.file)?;
    let sign_ins = sign_in::sign_ins(&document.config)
        .map_err(|problems| document::report(&options.file, &problems))?;
    if let Some(problem) = ratelimit::problem(&document.config, &sign_ins) {
        return Err(document::report(&options.file, &problem.into()));
    }
    options.check(&document.config, &sign_ins).map_err(|error| document::print_error(&error))?;
    Ok(match options.parts {
        true => parts::parts(&document, options, &sign_ins),
        false => envoy::bootstrap(&document, options, &sign_ins),
    })
}

fn print(text: &str) -> Outcome {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Outcome::Success,
        Err(error) => document::print_error(&error),
    }
}
