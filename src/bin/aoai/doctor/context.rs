//! The doctor's options, and what all of its steps have in common.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;

use super::address::Address;
use super::identity_endpoint::IdentityEndpoint;
use super::network::Place;
use super::tls::RootCertificates;
use crate::render::resolve::{self, Resolve};

/// Options of the doctor.
#[derive(Args)]
pub(crate) struct Options {
    /// A YAML or JSON file, or - for standard input
    pub(super) file: PathBuf,
    /// Print one JSON document with all steps
    #[arg(long)]
    pub(super) json: bool,
    /// The time limit of each step
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = timeout)]
    pub(super) timeout: Duration,
    /// The address of all identity endpoints, instead of their usual addresses
    ///
    /// http://IP:PORT, or https://IP:PORT for Entra ID, where the certificate must be valid for Entra
    /// ID's host name.
    #[arg(long, value_name = "URL")]
    pub(super) identity_endpoint: Option<IdentityEndpoint>,
    /// Reach a backend, or an identity's cluster, at this address, as in aoai render envoy. Repeatable
    ///
    /// NAME is the name of a backend or of a cluster. NAME=IP:PORT connects to a port of this machine
    /// without TLS, for tests. NAME=https://IP:PORT connects to any address with TLS: the certificate
    /// must be valid for the host name in the document.
    #[arg(long, value_name = "NAME=IP:PORT")]
    pub(super) resolve: Vec<Resolve>,
    /// Test the gateway itself, where callers reach it, too: http://HOST:PORT or https://HOST
    #[arg(long, value_name = "URL")]
    pub(super) gateway: Option<Address>,
    /// Read from its metrics which document the gateway has, and whether Envoy has all clusters
    ///
    /// http://HOST:9090 is a monitoring listener (listener.monitoring). Of a proxy of Istio it is
    /// http://POD:15090/stats/prometheus, of Envoy Gateway http://POD:19001/stats/prometheus. Several proxies
    /// need a run each.
    #[arg(long, value_name = "URL")]
    pub(super) metrics: Option<Address>,
    /// The CA bundle that server certificates are verified against, a PEM file
    #[arg(long, value_name = "PATH", default_value = "/etc/ssl/certs/ca-certificates.crt")]
    pub(super) ca: String,
}

fn timeout(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).ok().filter(|one| !one.is_zero());
    duration.ok_or_else(|| "expected a duration such as 500ms or 10s".to_owned())
}

/// What all steps have in common.
pub(super) struct Context<'a> {
    pub(super) options: &'a Options,
    pub(super) root_certificates: RootCertificates,
    pub(super) now: SystemTime,
}

impl Context<'_> {
    /// The address of a backend or a cluster, if `--resolve` sets one.
    pub(super) fn resolved(&self, name: &str) -> Option<Place> {
        let found = resolve::resolved(&self.options.resolve, name)?;
        Some(Place { address: found.address, tls: found.tls })
    }

    /// The address of an identity's cluster, if an option sets one.
    pub(super) fn override_of(&self, cluster: &str) -> Option<Place> {
        let endpoint = self.options.identity_endpoint.map(|IdentityEndpoint(place)| place);
        self.resolved(cluster).or(endpoint)
    }
}
