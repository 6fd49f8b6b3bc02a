//! The clusters: the identity endpoint, the backends, and the pools over these.

use std::net::SocketAddr;

use aoai_filter::config::{Backend, Config, Identity};

use super::envoy::{indented, Pool, Stage};
use super::yaml::scalar;
use super::Options;

/// All of them as items of a list, on the level of `clusters`.
pub(super) fn clusters(config: &Config, options: &Options, pools: &[Pool<'_>]) -> String {
    let mut text = config
        .credentials
        .iter()
        .map(|one| identity(&one.identity, options.identity))
        .collect::<String>();
    for (index, backend) in config.backends.iter().enumerate() {
        text += &match options.resolved(&backend.name) {
            Some(address) => local(backend, address),
            None => azure(backend, &options.ca),
        };
        text += &limits(index == 0);
    }
    if !pools.is_empty() {
        text += "# A pool for each order in which a model's backends are tried: see the route's retries.\n";
    }
    for (index, one) in pools.iter().enumerate() {
        text += &pool(one, index == 0);
    }
    indented(&text, 2)
}

fn identity(identity: &Identity, address: SocketAddr) -> String {
    let Identity::Managed { cluster, .. } = identity else {
        return String::new();
    };
    let (name, address) = (scalar(cluster), endpoint(address));
    format!(
        "\
# The identity endpoint: link-local or on this machine, and plain HTTP.
- name: {name}
  type: STATIC
  connect_timeout: 2s
  load_assignment:
    cluster_name: {name}
    endpoints:
    - lb_endpoints:
      - endpoint: {address}
"
    )
}

/// A backend where it is: its own name, TLS, and a checked certificate.
fn azure(backend: &Backend, ca: &str) -> String {
    let (cluster, name) = (scalar(&backend.cluster), scalar(&backend.name));
    let (host, port) = (scalar(backend.endpoint.host()), backend.endpoint.port());
    let ca = scalar(ca);
    format!(
        "\
- name: {cluster}
  type: LOGICAL_DNS
  dns_lookup_family: V4_PREFERRED
  connect_timeout: 2s
  load_assignment:
    cluster_name: {cluster}
    endpoints:
    - lb_endpoints:
      - endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}
        metadata: {{filter_metadata: {{aoai: {{backend: {name}}}}}}}
  transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
      sni: {host}
      common_tls_context:
        validation_context:
          trusted_ca: {{filename: {ca}}}
          match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: {host}}}}}]
"
    )
}

/// What stands in for a backend on this machine.
fn local(backend: &Backend, address: SocketAddr) -> String {
    let (cluster, name) = (scalar(&backend.cluster), scalar(&backend.name));
    let address = endpoint(address);
    format!(
        "\
# In the place of {host}, by --resolve: no TLS.
- name: {cluster}
  type: STATIC
  connect_timeout: 2s
  load_assignment:
    cluster_name: {cluster}
    endpoints:
    - lb_endpoints:
      - endpoint: {address}
        metadata: {{filter_metadata: {{aoai: {{backend: {name}}}}}}}
",
        host = backend.endpoint.authority(),
    )
}

fn endpoint(address: SocketAddr) -> String {
    let (ip, port) = (scalar(&address.ip().to_string()), address.port());
    format!("{{address: {{socket_address: {{address: {ip}, port_value: {port}}}}}}}")
}

/// Envoy's own limits, 1024 requests and 3 retries at once for a cluster, are far below what streams
/// that last for minutes need: Azure's quotas are the limit here.
fn limits(first: bool) -> String {
    if !first {
        return "  circuit_breakers: *limits\n".to_owned();
    }
    "  \
  # Azure's quotas are the limit, not Envoy's 1024 requests and 3 retries at once.
  circuit_breakers: &limits
    thresholds:
    - max_connections: 65536
      max_pending_requests: 65536
      max_requests: 65536
      max_retries: 65536
"
    .to_owned()
}

fn pool(pool: &Pool<'_>, first: bool) -> String {
    let name = scalar(&pool.name);
    let members: Vec<_> =
        pool.order.iter().map(|placement| scalar(&placement.backend.cluster)).collect();
    let members = members.join(", ");
    let stage = if first {
        let filter = Stage::Backend.filter(6);
        format!(
            " &backend_stage
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config: {{http_protocol_options: {{}}}}
      http_filters:
{filter}      - name: envoy.filters.http.upstream_codec
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec
"
        )
    } else {
        " *backend_stage\n".to_owned()
    };
    format!(
        "\
- name: {name}
  lb_policy: CLUSTER_PROVIDED
  cluster_type:
    name: envoy.clusters.aggregate
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig
      clusters: [{members}]
  circuit_breakers: *limits
  typed_extension_protocol_options:{stage}"
    )
}
