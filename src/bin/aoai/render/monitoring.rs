//! The listener for scrapers and probes: metrics and readiness, and nothing else of Envoy's admin interface, which
//! stays on loopback.

use std::net::IpAddr;

use aoai_filter::config::Monitoring;

use super::yaml::scalar;

/// The cluster of the admin interface. Routes to backends do not match it.
const CLUSTER: &str = "aoai-admin";

/// The listener, as an item of a list.
pub(super) fn listener(monitoring: &Monitoring) -> String {
    let Monitoring { address, port } = monitoring;
    // Without it, `::` would not accept IPv4.
    let both = match address {
        IpAddr::V6(address) if address.is_unspecified() => ", ipv4_compat: true",
        _ => "",
    };
    let address = scalar(&address.to_string());
    let routes = [("/metrics", "/stats/prometheus"), ("/ready", "/ready")].map(|(path, admin)| {
        format!(
            "            \
            - match: {{path: {path}, headers: [{{name: \":method\", string_match: {{exact: GET}}}}]}}
              route: {{cluster: {CLUSTER}, prefix_rewrite: {admin}, timeout: 30s}}
"
        )
    });
    let routes = routes.concat();
    format!(
        "\
# Metrics for Prometheus and readiness for probes, and nothing else of the admin interface. What callers do to
# the gateway's listener does not keep them out.
- name: aoai-monitoring
  address:
    socket_address: {{address: {address}, port_value: {port}{both}}}
  ignore_global_conn_limit: true
  bypass_overload_manager: true
  filter_chains:
  - name: aoai-monitoring
    filters:
    - name: envoy.filters.network.http_connection_manager
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: aoai-monitoring
        request_headers_timeout: 10s
        common_http_protocol_options: {{idle_timeout: 300s}}
        route_config:
          virtual_hosts:
          - name: aoai-monitoring
            domains: [\"*\"]
            routes:
{routes}        http_filters:
        - name: envoy.filters.http.router
          typed_config:
            \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
            suppress_envoy_headers: true
"
    )
}

/// The cluster of the admin interface, as an item of a list.
pub(super) fn cluster(admin_port: u16) -> String {
    format!(
        "\
# The admin interface, for the monitoring listener.
- name: {CLUSTER}
  type: STATIC
  connect_timeout: 2s
  load_assignment:
    cluster_name: {CLUSTER}
    endpoints:
    - lb_endpoints:
      - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin_port}}}}}}}
"
    )
}
