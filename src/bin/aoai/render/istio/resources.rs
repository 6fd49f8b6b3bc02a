//! The resources, with the patches of the EnvoyFilters as their caller has them.

use aoai_filter::config::{Attach, GatewayResource, Istio};

use crate::render::envoy::STATS_TAGS;
use crate::render::yaml::{indented, scalar};

/// What has proxies listen for callers: a Gateway of our own, or the hosts that workloads call. `None` where an
/// existing Gateway serves the hosts.
pub(super) fn entry(istio: &Istio) -> Option<String> {
    match &istio.attach {
        Attach::Gateway { resource: GatewayResource::Own { tls_secret }, .. } => {
            Some(gateway(istio, tls_secret.as_deref()))
        }
        Attach::Gateway { resource: GatewayResource::Existing, .. } => None,
        Attach::Sidecar => Some(service_entry(istio)),
    }
}

fn gateway(istio: &Istio, tls_secret: Option<&str>) -> String {
    let Istio { port, hosts, .. } = istio;
    let metadata = metadata(istio, "");
    let selector = labels(istio);
    let hosts = match hosts.as_slice() {
        [] => "[\"*\"]".to_owned(),
        some => list(some),
    };
    let (protocol, tls) = match tls_secret {
        Some(secret) => {
            let secret = scalar(secret);
            ("HTTPS", format!("    tls: {{mode: SIMPLE, credentialName: {secret}}}\n"))
        }
        None => ("HTTP", String::new()),
    };
    format!(
        "\
apiVersion: networking.istio.io/v1
kind: Gateway
{metadata}spec:
  selector: {selector}
  servers:
  - port: {{number: {port}, name: aoai, protocol: {protocol}}}
    hosts: {hosts}
{tls}"
    )
}

fn service_entry(istio: &Istio) -> String {
    let Istio { port, hosts, .. } = istio;
    let metadata = metadata(istio, "");
    let hosts = list(hosts);
    format!(
        "\
# The hosts that workloads call. The filter chooses where a request goes; the endpoint, an address that is reserved
# for documentation, stands for what is there without the filter: nothing.
apiVersion: networking.istio.io/v1
kind: ServiceEntry
{metadata}spec:
  hosts: {hosts}
  exportTo: [\".\"]
  location: MESH_EXTERNAL
  ports:
  - {{number: {port}, name: http, protocol: HTTP}}
  resolution: STATIC
  endpoints:
  - address: 192.0.2.1
"
    )
}

/// An EnvoyFilter with these patches, items of a list. Its name ends with `suffix`.
pub(super) fn envoy_filter(istio: &Istio, suffix: &str, patches: &str) -> String {
    let metadata = metadata(istio, suffix);
    let labels = labels(istio);
    let patches = indented(patches, 2);
    format!(
        "\
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
{metadata}spec:
  workloadSelector:
    labels: {labels}
  configPatches:
{patches}"
    )
}

/// What Envoy's bootstrap has to have for the metrics.
pub(super) fn bootstrap(istio: &Istio) -> String {
    let metadata = metadata(istio, BOOTSTRAP);
    let name = &istio.name;
    let tags = STATS_TAGS.trim_start_matches('\n').to_owned() + SHOWN;
    let tags = indented(&tags, 4);
    format!(
        "\
# The metrics and their labels, which Envoy takes from its bootstrap only: give the proxies' pods the annotation
# sidecar.istio.io/bootstrapOverride: {name}{BOOTSTRAP}, and restart them. Without it, labels remain parts of the
# metrics' names.
apiVersion: v1
kind: ConfigMap
{metadata}data:
  custom_bootstrap.json: |
{tags}"
    )
}

/// What Istio shows of Envoy's metrics, besides its own choice: in Envoy 1.37 the module's begin with a cluster's.
const SHOWN: &str = "  \
  stats_matcher: {inclusion_list: {patterns: [{contains: wasmcustom.aoai_}]}}
";

/// What the name of the ConfigMap ends with.
const BOOTSTRAP: &str = "-bootstrap";

/// The metadata of a resource whose name ends with `suffix`.
fn metadata(istio: &Istio, suffix: &str) -> String {
    let name = scalar(&format!("{}{suffix}", istio.name));
    let namespace = scalar(&istio.namespace);
    let revision = match &istio.revision {
        Some(revision) => format!("  labels: {{istio.io/rev: {}}}\n", scalar(revision)),
        None => String::new(),
    };
    format!("metadata:\n  name: {name}\n  namespace: {namespace}\n{revision}")
}

/// The labels of the proxies' pods.
fn labels(istio: &Istio) -> String {
    let one = |(label, value): &(String, String)| format!("{}: {}", scalar(label), scalar(value));
    let all: Vec<_> = istio.selector.iter().map(one).collect();
    format!("{{{}}}", all.join(", "))
}

fn list(texts: &[String]) -> String {
    let all: Vec<_> = texts.iter().map(|text| scalar(text)).collect();
    format!("[{}]", all.join(", "))
}
