//! The listeners that serve a projected token or a client secret to the filter, from its file.

use std::path::Path;

use aoai_filter::identity::entra::LONGEST_PROOF;

use super::envoy::indented;
use super::sign_in::{SignIn, To};
use super::yaml::scalar;

/// What Envoy needs before it knows such listeners; nothing, where there are none.
pub(super) fn extension(sign_ins: &[SignIn<'_>]) -> &'static str {
    if sign_ins.iter().all(|one| !matches!(one.to, To::File(_))) {
        return "";
    }
    "
# Listeners that have no port: see those of the proofs.
bootstrap_extensions:
- name: envoy.bootstrap.internal_listener
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener
"
}

/// All of them as items of a list, on the level of `listeners`.
pub(super) fn listeners(sign_ins: &[SignIn<'_>]) -> String {
    let mut text = String::new();
    for one in sign_ins {
        if let To::File(file) = one.to {
            text += &listener(one.cluster, file, text.is_empty());
        }
    }
    indented(&text, 2)
}

fn listener(cluster: &str, file: &str, first: bool) -> String {
    let comment = if first {
        "\
# What an application proves itself by, read from its file by Envoy, for the filter alone. It is
# within Envoy, without a port: a port, even of loopback, could be read by every process that shares
# the machine or the pod.
"
    } else {
        ""
    };
    // The file at a relative path may be in the directory that Envoy was started in.
    let folder = Path::new(file).parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = scalar(&folder.unwrap_or(Path::new(".")).to_string_lossy());
    let (name, file) = (scalar(&listener_name(cluster)), scalar(file));
    format!(
        "\
{comment}- name: {name}
  internal_listener: {{}}
  filter_chains:
  - filters:
    - name: envoy.filters.network.http_connection_manager
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: aoai_proof
        route_config:
          max_direct_response_body_size_bytes: {LONGEST_PROOF}
          virtual_hosts:
          - name: aoai
            domains: [\"*\"]
            routes:
            - match: {{path: /}}
              direct_response:
                status: 200
                body:
                  filename: {file}
                  # Read again whenever something is renamed in here, as kubelet's ..data is.
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
# The listener {plain}, within Envoy.
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

/// No other listener's: a document may call the cluster as it likes.
fn listener_name(cluster: &str) -> String {
    format!("aoai/{cluster}")
}
