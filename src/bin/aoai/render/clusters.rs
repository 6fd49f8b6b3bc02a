//! The clusters: those of identities, backends, and the pools of backends.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use aoai_filter::config::{host_and_port, Backend, SharedStore};

use super::client_credential;
use super::destinations::Destinations;
use super::filter::Filters;
use super::options::Addresses;
use super::pools::Pool;
use super::sign_in::{SignIn, To};
use super::yaml::{indented, scalar};

/// The Instance Metadata Service.
/// Source: Microsoft Learn, "Azure Instance Metadata Service".
const METADATA: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);

/// The port of envoyproxy/ratelimit for gRPC.
const LIMITS_PORT: u16 = 8081;

/// All of them as items of a list, each with the comments that are above it.
pub(super) fn clusters(
    destinations: &Destinations<'_>,
    addresses: &Addresses,
    filters: &Filters<'_>,
) -> Vec<String> {
    let Destinations { sign_ins, stores, backends, pools } = destinations;
    let mut all: Vec<_> = sign_ins.iter().map(|one| sign_in(one, addresses)).collect();
    all.extend(stores.iter().map(|store| limit_service(store, addresses)));
    for (index, one) in backends.iter().enumerate() {
        all.push(backend(one, addresses) + &keepalive(index == 0) + &limits(index == 0));
    }
    for (index, one) in pools.iter().enumerate() {
        let comment = if index == 0 { POOLS } else { "" };
        all.push(comment.to_owned() + &pool(one, index == 0, filters));
    }
    all
}

const POOLS: &str = "\
# A pool for each ordered pair of a model's backends: the first attempt, the second, and then the
# best of the rest. See the route's retries.
";

fn sign_in(one: &SignIn<'_>, addresses: &Addresses) -> String {
    match one.to {
        To::Metadata => metadata(one.cluster, addresses),
        To::AppService(authority) => app_service(one.cluster, authority, addresses),
        To::Entra(authority) => entra(one.cluster, authority, addresses),
        To::File(_) => client_credential::cluster(one.cluster),
    }
}

fn metadata(cluster: &str, addresses: &Addresses) -> String {
    let resolved = addresses.resolved(cluster).map(|one| one.address);
    let address = resolved.or(addresses.identity).unwrap_or(METADATA);
    let comment = "# The identity endpoint: link-local or on this machine, and plain HTTP.\n";
    comment.to_owned() + &single(cluster, &address.ip().to_string(), address.port(), "")
}

fn app_service(cluster: &str, authority: &str, addresses: &Addresses) -> String {
    let (host, port) = host_and_port(authority, 80).unwrap_or((authority, 80));
    let (comment, cluster) = match addresses.resolved(cluster).map(|one| one.address) {
        Some(address) => (
            format!("# Instead of {authority}, by --resolve.\n"),
            single(cluster, &address.ip().to_string(), address.port(), ""),
        ),
        None => (
            "# The identity endpoint of the app's platform: plain HTTP.\n".to_owned(),
            single(cluster, host, port, ""),
        ),
    };
    format!(
        "\
{comment}{cluster}  \
  # The platform's secret, which Envoy reads from its environment: it is not in the document.
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config: {{http_protocol_options: {{}}}}
      http_filters:
      - name: envoy.filters.http.header_mutation
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
          mutations:
            request_mutations:
            - append:
                header: {{key: x-identity-header, value: \"%ENVIRONMENT(IDENTITY_HEADER)%\"}}
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
      - name: envoy.filters.http.upstream_codec
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec
"
    )
}

fn entra(cluster: &str, authority: &str, addresses: &Addresses) -> String {
    let (host, port) = host_and_port(authority, 443).unwrap_or((authority, 443));
    let comment = "# Entra ID, which issues tokens for a client assertion or client secret.\n";
    secure(
        &Place { cluster, authority, host, port, name: cluster, metadata: "" },
        comment,
        addresses,
    )
}

fn backend(backend: &Backend, addresses: &Addresses) -> String {
    let name = scalar(&backend.name);
    let metadata =
        format!("        metadata: {{filter_metadata: {{aoai: {{backend: {name}}}}}}}\n");
    let endpoint = &backend.endpoint;
    let place = Place {
        cluster: &backend.cluster,
        authority: endpoint.authority(),
        host: endpoint.host(),
        port: endpoint.port(),
        name: &backend.name,
        metadata: &metadata,
    };
    secure(&place, "", addresses)
}

/// The service that keeps the limits for all proxies.
fn limit_service(store: &SharedStore, addresses: &Addresses) -> String {
    let SharedStore { cluster, endpoint, .. } = store;
    let authority = &endpoint.authority;
    let (host, port) = host_and_port(authority, LIMITS_PORT).unwrap_or((authority, LIMITS_PORT));
    let comment = "# The service that keeps the limits of subscriptions for all proxies.\n";
    let place = Place { cluster, authority, host, port, name: cluster, metadata: "" };
    let mut text = match addresses.resolved(cluster) {
        None if !endpoint.tls => comment.to_owned() + &single(cluster, host, port, ""),
        _ => secure(&place, comment, addresses),
    };
    text += "  \
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config: {http2_protocol_options: {}}
";
    text
}

/// A TLS endpoint, and its address in the document.
struct Place<'a> {
    cluster: &'a str,
    authority: &'a str,
    host: &'a str,
    port: u16,
    /// Its name in `--resolve`.
    name: &'a str,
    metadata: &'a str,
}

/// A cluster with TLS that verifies the certificate, at its own name or where `--resolve` says.
fn secure(place: &Place<'_>, comment: &str, addresses: &Addresses) -> String {
    let Place { cluster, authority, host, port, name, metadata } = *place;
    let Some(resolved) = addresses.resolved(name) else {
        return comment.to_owned()
            + &single(cluster, host, port, metadata)
            + &tls(host, &addresses.ca);
    };
    let (ip, port) = (resolved.address.ip().to_string(), resolved.address.port());
    let at = single(cluster, &ip, port, metadata);
    if resolved.tls {
        let tls = tls(host, &addresses.ca);
        format!("# {authority} at this address, by --resolve.\n{at}{tls}")
    } else {
        format!("# Instead of {authority}, by --resolve: no TLS.\n{at}")
    }
}

/// A cluster with one endpoint: an IP address, or a host name.
fn single(cluster: &str, host: &str, port: u16, metadata: &str) -> String {
    let lookup = if host.parse::<IpAddr>().is_ok() {
        "  type: STATIC\n"
    } else {
        "  type: LOGICAL_DNS\n  dns_lookup_family: V4_PREFERRED\n"
    };
    let (name, host) = (scalar(cluster), scalar(host));
    format!(
        "\
- name: {name}
{lookup}  connect_timeout: 2s
  load_assignment:
    cluster_name: {name}
    endpoints:
    - lb_endpoints:
      - endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}
{metadata}"
    )
}

/// TLS that verifies the server's certificate for this host name.
fn tls(host: &str, ca: &str) -> String {
    let (host, ca) = (scalar(host), scalar(ca));
    format!(
        "  \
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

/// A model may think for minutes without a byte: only this tells a backend that has gone from one that is
/// silent.
fn keepalive(first: bool) -> String {
    if !first {
        return "  upstream_connection_options: *keepalive\n".to_owned();
    }
    "  \
  # A connection that is dead shows within a minute, however long a model is silent.
  upstream_connection_options: &keepalive
    tcp_keepalive: {keepalive_time: 30, keepalive_interval: 10, keepalive_probes: 3}
"
    .to_owned()
}

/// Envoy's default limits, 1024 requests and 3 retries at once for a cluster, are too low for streams
/// that last for minutes: Azure's quotas are the limit here.
fn limits(first: bool) -> String {
    if !first {
        return "  circuit_breakers: *limits\n".to_owned();
    }
    "  \
  # Azure's quotas are the limit, not Envoy's default of 1024 requests and 3 retries at once.
  circuit_breakers: &limits
    thresholds:
    - max_connections: 65536
      max_pending_requests: 65536
      max_requests: 65536
      max_retries: 65536
"
    .to_owned()
}

fn pool(pool: &Pool<'_>, first: bool, filters: &Filters<'_>) -> String {
    let name = scalar(&pool.name);
    let members: Vec<_> =
        pool.order.iter().map(|placement| scalar(&placement.backend.cluster)).collect();
    let members = members.join(", ");
    let stage = if first {
        let filter = indented(&filters.backend(), 6);
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
