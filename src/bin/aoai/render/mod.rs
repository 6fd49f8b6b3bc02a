//! `aoai render`: from the one document to what Envoy reads.

mod clusters;
mod envoy;
mod listener;
mod proof;
pub(crate) mod resolve;
pub(crate) mod sign_in;
mod yaml;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use aoai_filter::config::Config;
use clap::{Args, Subcommand};

use self::resolve::{Resolve, ResolveError};
use self::sign_in::{SignIn, To};
use crate::document;
use crate::Outcome;

/// What to render.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Print a whole Envoy bootstrap for a configuration
    ///
    /// It has the listener, the filter with the document in it, a cluster with TLS for each
    /// backend, the pools in which models fail over, all that the identities need, labels for the
    /// metrics, and the admin interface on loopback. The same document always renders the same.
    ///
    /// Exit status: 0 when it is printed, 1 when the document has problems, which are printed
    /// instead, 2 when the file cannot be read or an option does not fit the document.
    #[command(after_help = "Examples:
  aoai render envoy gateway.yaml > envoy.yaml && envoy -c envoy.yaml
  aoai render envoy gateway.yaml --wasm /etc/envoy/aoai_filter.wasm
  aoai render envoy gateway.yaml --identity 127.0.0.1:8000
  aoai render envoy gateway.yaml --resolve eastus=https://10.1.0.4:443")]
    Envoy(Options),
}

/// What the document does not say.
#[derive(Args)]
pub(crate) struct Options {
    /// A YAML or JSON file, or - for standard input
    file: PathBuf,
    /// Where Envoy finds the module
    #[arg(long, value_name = "PATH", default_value = "dist/aoai_filter.wasm")]
    wasm: String,
    /// Listen on this port, whatever the document says; 0 lets the system choose
    #[arg(long, value_name = "PORT")]
    listener_port: Option<u16>,
    /// The port of the admin interface, which is on loopback; 0 lets the system choose
    #[arg(long, value_name = "PORT", default_value_t = 9901)]
    admin_port: u16,
    /// Where the endpoint of managed identities answers [default: 169.254.169.254:80]
    #[arg(long, value_name = "IP:PORT")]
    identity: Option<SocketAddr>,
    /// The certificate authorities by which backends and Entra ID prove who they are, a PEM file
    #[arg(long, value_name = "PATH", default_value = "/etc/ssl/certs/ca-certificates.crt")]
    ca: String,
    /// Reach a backend, or an identity's cluster, at this address. Repeatable
    ///
    /// NAME=IP:PORT is a port of this machine without TLS, for trying things out. NAME=https://IP:PORT
    /// is any address, where the certificate has to be the right one.
    #[arg(long, value_name = "NAME=IP:PORT")]
    resolve: Vec<Resolve>,
}

impl Options {
    /// Where a backend or a cluster is instead of where the document says.
    fn resolved(&self, name: &str) -> Option<&Resolve> {
        resolve::resolved(&self.resolve, name)
    }

    fn check(&self, config: &Config, sign_ins: &[SignIn<'_>]) -> Result<(), OptionError> {
        if self.identity.is_some() && sign_ins.iter().all(|one| one.to != To::Metadata) {
            return Err(OptionError::NoMetadata);
        }
        Ok(resolve::check(&self.resolve, config, sign_ins)?)
    }
}

/// Why an option does not fit the document.
#[derive(Debug, thiserror::Error)]
enum OptionError {
    #[error(
        "--identity: no backend signs in with a managed_identity; see --resolve for other kinds"
    )]
    NoMetadata,
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}

/// Renders it.
pub(crate) fn run(command: &Command) -> ExitCode {
    let Command::Envoy(options) = command;
    match bootstrap(options) {
        Ok(bootstrap) => print(&bootstrap),
        Err(outcome) => outcome,
    }
    .into()
}

/// The bootstrap. Why there is none has been told when there is none.
fn bootstrap(options: &Options) -> Result<String, Outcome> {
    let document = document::open(&options.file)?;
    let sign_ins = sign_in::sign_ins(&document.config)
        .map_err(|problems| document::report(&options.file, &problems))?;
    options.check(&document.config, &sign_ins).map_err(|error| {
        // There is no other place to complain at.
        let _ = writeln!(io::stderr(), "aoai: {error}");
        Outcome::Unusable
    })?;
    Ok(envoy::bootstrap(&document, options, &sign_ins))
}

fn print(bootstrap: &str) -> Outcome {
    match io::stdout().write_all(bootstrap.as_bytes()) {
        Ok(()) => Outcome::Fine,
        Err(error) => {
            let _ = writeln!(io::stderr(), "aoai: {error}");
            Outcome::Unusable
        }
    }
}
