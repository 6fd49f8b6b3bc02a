//! `aoai render`: from the document to Envoy's configuration.

mod access_log;
mod client_credential;
mod clusters;
mod config_source;
pub(crate) mod destinations;
mod envoy;
mod envoy_gateway;
mod filter;
mod guard;
mod istio;
mod listener;
mod monitoring;
mod options;
mod overload;
mod parts;
pub(crate) mod pools;
mod ratelimit;
pub(crate) mod resolve;
pub(crate) mod sign_in;
mod xds;
mod yaml;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aoai_filter::config::Problem;
use clap::Subcommand;

use self::destinations::Destinations;
use self::options::{Options, Resources};
use self::pools::Pool;
use self::sign_in::SignIn;
use crate::document::{self, Document};
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
  aoai render envoy gateway.yaml --parts --host ai.example.com
  aoai render envoy gateway.yaml --xds /etc/aoai && envoy -c /etc/aoai/bootstrap.yaml")]
    Envoy(Options),
    /// Print the resources that bring a configuration into an Istio mesh
    ///
    /// A Gateway, or a ServiceEntry for sidecars; EnvoyFilters with the filter, its routes and the clusters; a
    /// ConfigMap with the labels of the metrics. The section istio of the document says which proxies are
    /// meant, by which hosts and port callers reach them, and where they get the module from. The same
    /// document always renders to the same resources.
    ///
    /// Exit status: 0 when they are printed, 1 when the document has problems, which are printed instead, 2
    /// when the file cannot be read or an option does not fit the document.
    #[command(after_help = "Examples:
  aoai render istio gateway.yaml | kubectl apply --server-side -f -
  aoai render istio gateway.yaml --identity 127.0.0.1:8000

Adding and removing backends without losing a request:
  aoai render istio old.yaml --clusters-of new.yaml | kubectl apply --server-side -f -
  aoai render istio new.yaml --clusters-of old.yaml | kubectl apply --server-side -f -
  aoai render istio new.yaml | kubectl apply --server-side -f -
Between two steps, istioctl proxy-status says when the proxies have the first.")]
    Istio(Resources),
    /// Print the resources that bring a configuration into Envoy Gateway
    ///
    /// An EnvoyPatchPolicy with the filter, its routes and the clusters; an EnvoyProxy with the module and the
    /// labels of the metrics; a Gateway, unless one is there. The section envoy_gateway of the document says
    /// which Gateway is meant, and where its proxies get the module from. The same document always renders to the
    /// same resources.
    ///
    /// Exit status: 0 when they are printed, 1 when the document has problems, which are printed instead, 2
    /// when the file cannot be read or an option does not fit the document.
    #[command(after_help = "Examples:
  aoai render envoy-gateway gateway.yaml | kubectl apply --server-side -f -
  kubectl get envoypatchpolicy aoai -o jsonpath='{.status}'

Adding and removing backends without losing a request:
  aoai render envoy-gateway old.yaml --clusters-of new.yaml | kubectl apply --server-side -f -
  aoai render envoy-gateway new.yaml --clusters-of old.yaml | kubectl apply --server-side -f -
  aoai render envoy-gateway new.yaml | kubectl apply --server-side -f -")]
    EnvoyGateway(Resources),
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
        Command::Istio(options) => mesh(options),
        Command::EnvoyGateway(options) => gateway(options),
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

/// The bootstrap, or nothing where files are written instead. Prints the error, if there is one.
fn bootstrap(options: &Options) -> Result<String, Outcome> {
    let document = document::open(&options.file)?;
    let other = Other::open(options.clusters_of.as_deref())?;
    let config = &document.config;
    let sign_ins = sign_ins(&options.file, &document)?;
    let pools = pools::pools(config);
    let others = other.as_ref().map(Other::parts).transpose()?;
    let destinations = Destinations::of(config, &sign_ins, &pools);
    let destinations = both(destinations, other.as_ref(), others.as_ref());
    options.check(config, &destinations).map_err(|error| document::print_error(&error))?;
    if let Some(directory) = &options.xds {
        let at = options.xds_at.as_ref().unwrap_or(directory);
        let files = xds::files(&document, options, at, &pools, &destinations);
        xds::write(directory, &files).map_err(|error| document::print_error(&error))?;
        return Ok(String::new());
    }
    Ok(match options.parts {
        true => parts::parts(&document, options, &pools, &destinations),
        false => envoy::bootstrap(&document, options, &pools, &destinations),
    })
}

/// The resources for an Istio mesh. Prints the error, if there is one.
fn mesh(options: &Resources) -> Result<String, Outcome> {
    resources(options, |document, pools, destinations| {
        let expected = "missing; expected which proxies of the mesh are meant, and their module";
        let istio = document.config.istio.as_ref();
        let istio = istio.ok_or_else(|| Problem::new("istio", expected))?;
        Ok(istio::render(document, istio, &options.addresses, pools, destinations))
    })
}

/// The resources for Envoy Gateway. Prints the error, if there is one.
fn gateway(options: &Resources) -> Result<String, Outcome> {
    resources(options, |document, pools, destinations| {
        let expected = "missing; expected which Gateway is meant, and the module of its proxies";
        let section = document.config.envoy_gateway.as_ref();
        let section = section.ok_or_else(|| Problem::new("envoy_gateway", expected))?;
        Ok(envoy_gateway::render(document, section, &options.addresses, pools, destinations))
    })
}

/// What a document renders to for a control plane. Prints the error, if there is one.
fn resources(
    options: &Resources,
    render: impl FnOnce(&Document, &[Pool<'_>], &Destinations<'_>) -> Result<String, Problem>,
) -> Result<String, Outcome> {
    let Resources { file, clusters_of, addresses } = options;
    let document = document::open(file)?;
    let other = Other::open(clusters_of.as_deref())?;
    let config = &document.config;
    let sign_ins = sign_ins(file, &document)?;
    let pools = pools::pools(config);
    let others = other.as_ref().map(Other::parts).transpose()?;
    let destinations = Destinations::of(config, &sign_ins, &pools);
    let destinations = both(destinations, other.as_ref(), others.as_ref());
    addresses.check(&destinations).map_err(|error| document::print_error(&error))?;
    render(&document, &pools, &destinations)
        .map_err(|problem| document::report(file, &document.locate(problem.into())))
}

/// The destinations of a document, and those of the other one, where there is one.
fn both<'a>(
    own: Destinations<'a>,
    other: Option<&'a Other<'_>>,
    parts: Option<&'a OtherParts<'a>>,
) -> Destinations<'a> {
    match (other, parts) {
        (Some(other), Some((sign_ins, pools))) => {
            own.and(Destinations::of(&other.document.config, sign_ins, pools))
        }
        _ => own,
    }
}

/// The clusters of the other document's identities, and its pools.
type OtherParts<'d> = (Vec<SignIn<'d>>, Vec<Pool<'d>>);

/// The other document of a step between two.
struct Other<'f> {
    file: &'f Path,
    document: Document,
}

impl<'f> Other<'f> {
    fn open(file: Option<&'f Path>) -> Result<Option<Self>, Outcome> {
        file.map(|file| Ok(Self { file, document: document::open(file)? })).transpose()
    }

    /// What its destinations are made from.
    fn parts(&self) -> Result<OtherParts<'_>, Outcome> {
        Ok((sign_ins(self.file, &self.document)?, pools::pools(&self.document.config)))
    }
}

/// The clusters of the identities. Prints the problems, if there are any.
fn sign_ins<'d>(file: &Path, document: &'d Document) -> Result<Vec<SignIn<'d>>, Outcome> {
    let report = |problems| document::report(file, &document.locate(problems));
    let sign_ins = sign_in::sign_ins(&document.config).map_err(report)?;
    match ratelimit::problem(&document.config, &sign_ins) {
        Some(problem) => Err(report(problem.into())),
        None => Ok(sign_ins),
    }
}

fn print(text: &str) -> Outcome {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Outcome::Success,
        Err(error) => document::print_error(&error),
    }
}
