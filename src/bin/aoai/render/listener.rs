//! The listener: where callers come in, the gateway stage, and the one route.

use std::net::IpAddr;

use aoai_filter::config::{Config, TlsFiles};

use super::envoy::{Pool, Stage};
use super::yaml::scalar;
use super::Options;

/// The listener as an item of a list, on the level of `listeners`.
pub(super) fn listener(
    config: &Config,
    options: &Options,
    gateway: &Stage<'_>,
    pools: &[Pool<'_>],
) -> String {
    let listener = &config.listener;
    let port = options.listener_port.unwrap_or(listener.port);
    let address = scalar(&listener.address.to_string());
    // Without it, `::` would leave out callers of IPv4.
    let both = match listener.address {
        IpAddr::V6(address) if address.is_unspecified() => ", ipv4_compat: true",
        _ => "",
    };
    let body_limit = listener.body_limit;
    let tls = listener.tls.as_ref().map(tls).unwrap_or_default();
    let route = route(pools);
    let gateway = gateway.filter(10);
    format!(
        "  \
  - name: aoai
    address:
      socket_address: {{address: {address}, port_value: {port}{both}}}
    # How much of a body is held back: until its model is known, and for another attempt.
    per_connection_buffer_limit_bytes: {body_limit}
    filter_chains:
    - name: aoai
{tls}      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: aoai
          use_remote_address: true
          # A reasoning model may say nothing for minutes.
          stream_idle_timeout: 900s
          upgrade_configs: [{{upgrade_type: websocket}}]
          route_config:
            virtual_hosts:
            - name: aoai
              domains: [\"*\"]
              routes:
              - match: {{prefix: /}}
{route}                request_headers_to_remove: [x-aoai-cluster]
          http_filters:
{gateway}          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
              suppress_envoy_headers: true
"
    )
}

fn tls(files: &TlsFiles) -> String {
    let (certificate, key) = (scalar(&files.certificate), scalar(&files.key));
    format!(
        "      \
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

/// Where the gateway stage says. With pools, attempts go on to the next backend, at once and before
/// the first byte of an answer, where the backend stage or a connection says so.
fn route(pools: &[Pool<'_>]) -> String {
    let Some(longest) = pools.iter().map(|pool| pool.order.len()).max() else {
        return "                route: {cluster_header: x-aoai-cluster, timeout: 0s}\n".to_owned();
    };
    let retries = longest.saturating_sub(1);
    format!(
        "                \
                route:
                  cluster_header: x-aoai-cluster
                  timeout: 0s
                  # From one backend of a pool to the next, at once, until the first byte of an answer.
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
    )
}
