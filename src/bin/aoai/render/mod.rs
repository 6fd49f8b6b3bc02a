//! `aoai render`: from the one document to what Envoy reads.

mod clusters;
mod envoy;
mod listener;
mod yaml;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use aoai_filter::config::Config;
use clap::{Args, Subcommand};

use crate::document;
use crate::Outcome;

/// What to render.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Print a whole Envoy bootstrap for a configuration
    ///
    /// It has the listener, the filter with the document in it, a cluster with TLS for each
    /// backend, the pools in which models fail over, the identity endpoint, labels for the
    /// metrics, and the admin interface on loopback. The same document always renders the same.
    ///
    /// Exit status: 0 when it is printed, 1 when the document has problems, which are printed
    /// instead, 2 when the file cannot be read or an option does not fit the document.
    #[command(after_help = "Examples:
  aoai render envoy gateway.yaml > envoy.yaml && envoy -c envoy.yaml
  aoai render envoy gateway.yaml --wasm /etc/envoy/aoai_filter.wasm
  aoai render envoy gateway.yaml --identity 127.0.0.1:8000")]
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
    /// Where the identity endpoint answers: by default the Instance Metadata Service
    #[arg(long, value_name = "IP:PORT", default_value = "169.254.169.254:80")]
    identity: SocketAddr,
    /// The certificate authorities by which backends prove who they are, a PEM file
    #[arg(long, value_name = "PATH", default_value = "/etc/ssl/certs/ca-certificates.crt")]
    ca: String,
    /// Reach a backend at a port of this machine, without TLS: for trying things out. Repeatable
    #[arg(long, value_name = "BACKEND=IP:PORT")]
    resolve: Vec<Resolve>,
}

impl Options {
    /// Where a backend is instead of where the document says.
    fn resolved(&self, backend: &str) -> Option<SocketAddr> {
        self.resolve.iter().find(|one| one.backend == backend).map(|one| one.address)
    }

    /// Each `--resolve` names a backend of the document, and none twice.
    fn check(&self, config: &Config) -> Result<(), ResolveError> {
        for (index, one) in self.resolve.iter().enumerate() {
            let backend = one.backend.clone();
            if !config.backends.iter().any(|known| known.name == backend) {
                return Err(ResolveError::Unknown { backend });
            }
            if self.resolve.iter().take(index).any(|other| other.backend == backend) {
                return Err(ResolveError::Twice { backend });
            }
        }
        Ok(())
    }
}

/// A backend that is reached at a port of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Resolve {
    backend: String,
    address: SocketAddr,
}

impl FromStr for Resolve {
    type Err = ResolveError;

    fn from_str(text: &str) -> Result<Self, ResolveError> {
        let (backend, address) = text.split_once('=').ok_or(ResolveError::Form)?;
        let address: SocketAddr = address.parse().map_err(|_| ResolveError::Form)?;
        if !address.ip().is_loopback() {
            return Err(ResolveError::NotLoopback { address });
        }
        Ok(Self { backend: backend.to_owned(), address })
    }
}

/// Why a `--resolve` does not work.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum ResolveError {
    #[error("expected BACKEND=IP:PORT, such as eastus=127.0.0.1:18001")]
    Form,
    #[error(
        "{address} is not on this machine; there is no TLS on the way, and what travels it has the \
         proxy's token: expected an address such as 127.0.0.1:18001"
    )]
    NotLoopback { address: SocketAddr },
    #[error("--resolve {backend}: the document has no backend of this name")]
    Unknown { backend: String },
    #[error("--resolve {backend}: given twice; keep one")]
    Twice { backend: String },
}

/// Renders it.
pub(crate) fn run(command: &Command) -> ExitCode {
    let Command::Envoy(options) = command;
    let outcome = match document::open(&options.file) {
        Ok(document) => match options.check(&document.config) {
            Ok(()) => print(&envoy::bootstrap(&document, options)),
            Err(error) => {
                // There is no other place to complain at.
                let _ = writeln!(io::stderr(), "aoai: {error}");
                Outcome::Unusable
            }
        },
        Err(outcome) => outcome,
    };
    outcome.into()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_resolved_to_this_machine_alone() {
        let at = |address: &str| {
            Ok(Resolve { backend: "eastus".to_owned(), address: address.parse().unwrap() })
        };
        let not =
            |address: &str| Err(ResolveError::NotLoopback { address: address.parse().unwrap() });
        for (text, expected) in [
            ("eastus=127.0.0.1:18001", at("127.0.0.1:18001")),
            ("eastus=[::1]:18001", at("[::1]:18001")),
            ("eastus=10.0.0.1:18001", not("10.0.0.1:18001")),
            ("eastus=0.0.0.0:18001", not("0.0.0.0:18001")),
            ("eastus=127.0.0.1", Err(ResolveError::Form)),
            ("eastus=localhost:18001", Err(ResolveError::Form)),
            ("127.0.0.1:18001", Err(ResolveError::Form)),
            ("", Err(ResolveError::Form)),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }
}
