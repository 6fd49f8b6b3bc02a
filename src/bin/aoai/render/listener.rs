//! The listener: its address, the gateway stage, and the routes to clusters of backends.

use std::net::IpAddr;

use aoai_filter::config::{Config, TlsFiles, BACKEND_CLUSTER_PREFIX, POOL_PREFIX};

use super::access_log;
use super::filter::{Filters, WASM};
use super::guard;
use super::options::Options;
use super::pools::Pool;
use super::ratelimit;
use super::yaml::{indented, scalar};

/// The listener as an item of a list.
pub(super) fn listener(
    config: &Config,
    options: &Options,
    filters: &Filters<'_>,
    pools: &[Pool<'_>],
) -> String {
    let listener = &config.listener;
    let port = options.listener_port.unwrap_or(listener.port);
    let address = scalar(&listener.address.to_string());
    // Without it, `::` would not accept IPv4.
    let both = match listener.address {
        IpAddr::V6(address) if address.is_unspecified() => ", ipv4_compat: true",
        _ => "",
    };
    let body_limit = listener.body_limit;
    let tls = listener.tls.as_ref().map(tls).unwrap_or_default();
    let http_filters = filters.gateway(false) + &ratelimit::filter(config, false);
    let http_filters = indented(&http_filters, 8);
    let host = VirtualHost { config, pools, hosts: &[], enables: &[], is_mesh: false };
    let host = indented(&host.item(), 10);
    let early = indented(EARLY, 8);
    let access_log = indented(access_log::of(listener), 8);
    format!(
        "\
- name: aoai
  address:
    socket_address: {{address: {address}, port_value: {port}{both}}}
  # How much of a body Envoy buffers: until its model is known, and for another attempt.
  per_connection_buffer_limit_bytes: {body_limit}
  filter_chains:
  - name: aoai
{tls}    filters:
    - name: envoy.filters.network.http_connection_manager
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: aoai
        use_remote_address: true
        # Who sends nothing, or not even a whole head, does not stay. Streams are not idle connections.
        request_headers_timeout: 10s
        common_http_protocol_options: {{idle_timeout: 300s}}
        http2_protocol_options:
          max_concurrent_streams: 100
          initial_stream_window_size: 262144
          initial_connection_window_size: 1048576
        # A reasoning model may send nothing for minutes.
        stream_idle_timeout: 900s
        upgrade_configs: [{{upgrade_type: websocket}}]
{access_log}{early}        route_config:
          virtual_hosts:
{host}        http_filters:
{http_filters}        - name: envoy.filters.http.router
          typed_config:
            \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
            suppress_envoy_headers: true
"
    )
}

/// What removes a caller's choice of a cluster, as a field of the HTTP connection manager.
pub(super) const EARLY: &str = "\
# Only the filter chooses a cluster: what a caller sends in this header reaches nothing, not
# even where the filter is missing.
early_header_mutation_extensions:
- name: envoy.http.early_header_mutation.header_mutation
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
    mutations: [{remove: x-aoai-cluster}]
";

/// The virtual host of the gateway.
pub(super) struct VirtualHost<'a> {
    pub(super) config: &'a Config,
    pub(super) pools: &'a [Pool<'a>],
    /// The hosts that callers use; none: all of them.
    pub(super) hosts: &'a [String],
    /// The filters that are off by default, among them the gateway stage's.
    pub(super) enables: &'a [&'a str],
    /// Whether the HTTP connection manager is that of a mesh, whose proxies add headers of their own.
    pub(super) is_mesh: bool,
}

impl VirtualHost<'_> {
    /// The virtual host as an item of a list.
    pub(super) fn item(&self) -> String {
        let mut per_filter: String = self.enables.iter().map(|filter| enabled(filter)).collect();
        per_filter += &ratelimit::per_host(self.config);
        if !per_filter.is_empty() {
            per_filter = "  typed_per_filter_config:\n".to_owned() + &indented(&per_filter, 4);
        }
        let domains = self.domains();
        let mut routes = self.routes();
        if !self.enables.is_empty() {
            routes += FALLBACK;
        }
        let routes = indented(&routes, 2);
        format!(
            "\
- name: aoai
  domains: {domains}
{per_filter}  # Clusters of backends and pools, and no others.
  routes:
{routes}"
        )
    }

    /// The hosts that callers use, on any port, and those of the backends: the filter has the route chosen again
    /// when it has written a backend's.
    fn domains(&self) -> String {
        if self.hosts.is_empty() {
            return "[\"*\"]".to_owned();
        }
        let own = self.hosts.iter().flat_map(|host| [host.clone(), format!("{host}:*")]);
        let backends = self.config.backends.iter().map(|one| one.endpoint.authority().to_owned());
        let mut all: Vec<String> = Vec::new();
        for domain in own.chain(backends) {
            if !all.contains(&domain) {
                all.push(domain);
            }
        }
        let all: Vec<_> = all.iter().map(|domain| scalar(domain)).collect();
        format!("[{}]", all.join(", "))
    }

    /// A route for each kind of cluster that the gateway stage may name: without the filter, and for other
    /// clusters, there is no route.
    fn routes(&self) -> String {
        let custom = self.config.backends.iter().map(|backend| backend.cluster.as_str());
        let custom = custom.filter(|cluster| !cluster.starts_with(BACKEND_CLUSTER_PREFIX));
        let singles = std::iter::once(("prefix", BACKEND_CLUSTER_PREFIX))
            .chain(custom.map(|one| ("exact", one)));
        let mut text = self.pool_route();
        for (kind, name) in singles {
            let idle = if self.is_mesh { ", idle_timeout: 900s" } else { "" };
            let route = format!("  route: {{cluster_header: x-aoai-cluster, timeout: 0s{idle}}}\n");
            text += &self.matched(kind, name, &route, "");
        }
        text
    }

    /// The route of the pools, where there are any: Envoy retries at the next backend, at once and before the
    /// first byte of a response, where the backend stage marks the response or a connection fails.
    fn pool_route(&self) -> String {
        let Some(longest) = self.pools.iter().map(|pool| pool.order.len()).max() else {
            return String::new();
        };
        let retries = longest.saturating_sub(1);
        let idle = if self.is_mesh { IDLE } else { "" };
        let route = format!(
            "  \
  route:
    cluster_header: x-aoai-cluster
    timeout: 0s
{idle}    # From one backend of a pool to the next, at once, until the first byte of a response.
    retry_policy:
      retry_on: retriable-headers,connect-failure,refused-stream,reset
      retriable_headers: [{{name: x-aoai-retry, present_match: true}}]
      num_retries: {retries}
      retry_back_off: {{base_interval: 0.001s, max_interval: 0.002s}}
      retry_priority:
        name: envoy.retry_priorities.previous_priorities
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig
          update_frequency: 1
"
        );
        self.matched("prefix", POOL_PREFIX, &route, ATTEMPTS)
    }

    /// A route to the clusters whose name matches.
    fn matched(&self, kind: &str, name: &str, route: &str, adds: &str) -> String {
        let name = scalar(name);
        let mesh = if self.is_mesh { MESH_HEADERS } else { "" };
        let guarded = if self.enables.contains(&guard::FILTER) { guard::MATCH } else { "" };
        format!(
            "\
- match: {{prefix: /, headers: [{{name: x-aoai-cluster, string_match: {{{kind}: {name}}}}}]{guarded}}}
{route}  request_headers_to_remove: [x-aoai-cluster, x-envoy-external-address, x-forwarded-for, x-request-id{mesh}]
  # Callers get these headers from Envoy and the filter only.
  response_headers_to_remove: [x-aoai-attempts, x-aoai-backend, x-aoai-cluster, x-aoai-diagnosis, x-aoai-reason, x-aoai-retry]
  response_headers_to_add:
  - header: {{key: x-aoai-backend, value: \"%UPSTREAM_METADATA(aoai:backend)%\"}}
    append_action: OVERWRITE_IF_EXISTS_OR_ADD
{adds}"
        )
    }
}

/// How long nothing may move in a stream, where the HTTP connection manager is not ours.
const IDLE: &str = "    \
    # A reasoning model may send nothing for minutes.
    idle_timeout: 900s
";

/// What the route of the pools adds to a response.
const ATTEMPTS: &str = "  \
  - header: {key: x-aoai-attempts, value: \"%UPSTREAM_REQUEST_ATTEMPT_COUNT%\"}
    append_action: OVERWRITE_IF_EXISTS_OR_ADD
";

/// The headers that Istio's proxies add to requests, of those that a backend need not see.
const MESH_HEADERS: &str =
    ", x-envoy-attempt-count, x-envoy-decorator-operation, x-envoy-peer-metadata, x-envoy-peer-metadata-id";

/// A request that no route matches passes no filter that is off by default: this one matches each until the gateway
/// stage has chosen a cluster.
const FALLBACK: &str = "\
# Enables the filter, which has a route above chosen then. Without the filter this is all there is.
- match: {prefix: /}
  direct_response: {status: 404}
";

/// What has requests of a virtual host pass a filter that others pass by. The filter has no configuration by host:
/// Envoy ignores the one that is here, without which control planes written in Go could not read this.
fn enabled(filter: &str) -> String {
    format!(
        "\
{filter}:
  \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig
  is_optional: true
  config: {{\"@type\": {WASM}}}
"
    )
}

fn tls(files: &TlsFiles) -> String {
    let (certificate, key) = (scalar(&files.certificate), scalar(&files.key));
    format!(
        "    \
    transport_socket_connect_timeout: 10s
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
        common_tls_context:
          alpn_protocols: [h2, http/1.1]
          tls_certificates:
          - certificate_chain: {{filename: {certificate}}}
            private_key: {{filename: {key}}}
"
    )
}
