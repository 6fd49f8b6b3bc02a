//! The internal listeners that serve a client assertion (a projected service account token) or a client
//! secret to the filter, from its file (RFC 7521).

use std::path::Path;

use aoai_filter::identity::entra::LONGEST_CLIENT_CREDENTIAL;

use super::sign_in::{SignIn, To};
use super::yaml::scalar;

/// The extension that Envoy needs for internal listeners; empty, where there are none.
pub(super) fn extension(sign_ins: &[&SignIn<'_>]) -> &'static str {
    if sign_ins.iter().all(|one| !matches!(one.to, To::File(_))) {
        return "";
    }
    "
# For internal listeners, which serve client assertions and client secrets: see below.
bootstrap_extensions:
- name: envoy.bootstrap.internal_listener
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener
"
}

/// All of them as items of a list, the first with a comment above it.
pub(super) fn listeners(sign_ins: &[&SignIn<'_>]) -> Vec<String> {
    let mut all = Vec::new();
    for one in sign_ins {
        if let To::File(file) = one.to {
            all.push(listener(one.cluster, file, all.is_empty()));
        }
    }
    all
}

fn listener(cluster: &str, file: &str, first: bool) -> String {
    let comment = if first {
        "\
# The client assertion or client secret of an application, which Envoy reads from its file and serves
# to the filter. The listener is internal and has no port: every process on the machine or in the pod
# could connect to a port, even on loopback.
"
    } else {
        ""
    };
    // A relative path may have no folder: then it is the directory where Envoy was started.
    let folder = Path::new(file).parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = scalar(&folder.unwrap_or(Path::new(".")).to_string_lossy());
    let (name, file) = (scalar(&listener_name(cluster)), scalar(file));
    format!(
        "\
{comment}- name: {name}
  internal_listener: {{}}
  # Callers use up the memory, and not the filter that reads this.
  bypass_overload_manager: true
  filter_chains:
  - filters:
    - name: envoy.filters.network.http_connection_manager
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: aoai_credential
        route_config:
          max_direct_response_body_size_bytes: {LONGEST_CLIENT_CREDENTIAL}
          virtual_hosts:
          - name: aoai
            domains: [\"*\"]
            routes:
            - match: {{path: /}}
              direct_response:
                status: 200
                body:
                  filename: {file}
                  # Read again whenever something is renamed in this directory, as kubelet does with ..data.
                  watched_directory: {{path: {folder}}}
        http_filters:
        - name: envoy.filters.http.router
          typed_config:
            \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
"
    )
}

/// The listener's cluster.
pub(super) fn cluster(cluster: &str) -> String {
    let plain = listener_name(cluster);
    let (name, listener) = (scalar(cluster), scalar(&plain));
    format!(
        "\
# The internal listener {plain}.
- name: {name}
  type: STATIC
  connect_timeout: 2s
  load_assignment:
    cluster_name: {name}
    endpoints:
    - lb_endpoints:
      - endpoint: {{address: {{envoy_internal_address: {{server_listener_name: {listener}}}}}}}
"
    )
}

/// A name that no other listener has, whatever the name of the cluster.
fn listener_name(cluster: &str) -> String {
    format!("aoai/{cluster}")
}
