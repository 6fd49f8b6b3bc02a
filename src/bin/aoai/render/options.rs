//! The options of `aoai render`.

use std::net::SocketAddr;
use std::path::PathBuf;

use aoai_filter::config::{is_host, Config};
use clap::Args;

use super::destinations::Destinations;
use super::resolve::{self, Resolve, ResolveError};
use super::sign_in::To;

/// Options: what the document does not contain.
#[derive(Args)]
pub(crate) struct Options {
    /// A YAML or JSON file, or - for standard input
    pub(super) file: PathBuf,
    /// The path of the module on the machine where Envoy runs
    #[arg(long, value_name = "PATH", default_value = "dist/aoai_filter.wasm")]
    pub(super) wasm: String,
    /// Listen on this port instead of the document's; 0 lets the operating system choose
    #[arg(long, value_name = "PORT")]
    pub(super) listener_port: Option<u16>,
    /// The port of the admin interface, on loopback; 0 lets the operating system choose
    #[arg(long, value_name = "PORT", default_value_t = 9901)]
    pub(super) admin_port: u16,
    /// Print the parts that an Envoy of your own needs instead of a whole bootstrap
    ///
    /// They serve the hosts that --host names. Requests for other hosts of the same listener pass the
    /// filter by.
    #[arg(long, requires = "host")]
    pub(super) parts: bool,
    /// A host that callers use, with --parts. Repeatable
    #[arg(long, value_name = "NAME", requires = "parts", value_parser = host)]
    pub(super) host: Vec<String>,
    /// Write files into this directory that Envoy follows, instead of printing a bootstrap
    ///
    /// Start Envoy with its bootstrap.yaml. Keys, backends and modules are replaced without a restart, by
    /// rendering into the same directory again. No reader ever sees a part of a file.
    #[arg(long, value_name = "DIR", conflicts_with = "parts")]
    pub(super) xds: Option<PathBuf>,
    /// The path of that directory on the machine where Envoy runs [default: DIR]
    #[arg(long, value_name = "PATH", requires = "xds")]
    pub(super) xds_at: Option<PathBuf>,
    /// Render the clusters of this document as well, for the steps between two documents
    ///
    /// When backends are added or removed, no request is lost in three steps: the old document with the
    /// clusters of the new one, the new document with the clusters of the old one, the new document alone.
    #[arg(long, value_name = "FILE", requires = "xds")]
    pub(super) clusters_of: Option<PathBuf>,
    #[command(flatten)]
    pub(super) addresses: Addresses,
}

/// Options of what is rendered for a control plane.
#[derive(Args)]
pub(crate) struct Resources {
    /// A YAML or JSON file, or - for standard input
    pub(super) file: PathBuf,
    /// Render the clusters of this document as well, for the steps between two documents
    ///
    /// A proxy gets clusters and the document separately. When backends are added or removed, no request is
    /// lost in three steps: the old document with the clusters of the new one, the new document with the
    /// clusters of the old one, the new document alone.
    #[arg(long, value_name = "FILE")]
    pub(super) clusters_of: Option<PathBuf>,
    #[command(flatten)]
    pub(super) addresses: Addresses,
}

/// Options: addresses, of which the document has names only.
#[derive(Args)]
pub(crate) struct Addresses {
    /// The address of the endpoint of managed identities [default: 169.254.169.254:80]
    #[arg(long, value_name = "IP:PORT")]
    pub(super) identity: Option<SocketAddr>,
    /// The CA bundle that server certificates are verified against, a PEM file
    #[arg(long, value_name = "PATH", default_value = "/etc/ssl/certs/ca-certificates.crt")]
    pub(super) ca: String,
    /// Reach a backend, or an identity's cluster, at this address. Repeatable
    ///
    /// NAME is the name of a backend or of a cluster. NAME=IP:PORT connects to a port of this machine
    /// without TLS, for tests. NAME=https://IP:PORT connects to any address with TLS: the certificate
    /// must be valid for the host name in the document.
    #[arg(long, value_name = "NAME=IP:PORT")]
    pub(super) resolve: Vec<Resolve>,
}

impl Addresses {
    /// The address of a backend or a cluster, where `--resolve` sets one.
    pub(super) fn resolved(&self, name: &str) -> Option<&Resolve> {
        resolve::resolved(&self.resolve, name)
    }

    pub(super) fn check(&self, destinations: &Destinations<'_>) -> Result<(), OptionError> {
        let sign_ins = &destinations.sign_ins;
        if self.identity.is_some() && sign_ins.iter().all(|one| one.to != To::Metadata) {
            return Err(OptionError::NoMetadata);
        }
        Ok(resolve::check(&self.resolve, destinations)?)
    }
}

impl Options {
    pub(super) fn check(
        &self,
        config: &Config,
        destinations: &Destinations<'_>,
    ) -> Result<(), OptionError> {
        if self.parts && config.listener.monitoring.is_some() {
            return Err(OptionError::MonitoringOfParts);
        }
        if self.admin_port == 0 && config.listener.monitoring.is_some() {
            return Err(OptionError::UnknownAdminPort);
        }
        self.addresses.check(destinations)
    }
}

/// A host as a virtual host has it: Envoy adds the ports.
fn host(text: &str) -> Result<String, String> {
    match is_host(text) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("expected a host name without a port, such as ai.example.com".to_owned()),
    }
}

/// Why an option does not fit the document.
#[derive(Debug, thiserror::Error)]
pub(super) enum OptionError {
    #[error(
        "--identity: no backend uses a managed_identity; for identities of other kinds see --resolve"
    )]
    NoMetadata,
    #[error("--admin-port 0: the document's listener.monitoring leads to the admin interface; expected its port")]
    UnknownAdminPort,
    #[error("--parts: an Envoy of your own has its own monitoring; remove listener.monitoring")]
    MonitoringOfParts,
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}
