//! What an Envoy of one's own needs, without the rest of a bootstrap: each part under the names of where it goes.

use super::envoy::STATS_TAGS;
use super::filter::Stage;
use super::listener::{virtual_host, EARLY};
use super::options::Options;
use super::pools::pools;
use super::sign_in::SignIn;
use super::yaml::{indented, scalar};
use super::{client_credential, clusters, ratelimit};
use crate::document::Document;

/// The parts of a document.
pub(super) fn parts(document: &Document, options: &Options, sign_ins: &[SignIn<'_>]) -> String {
    let config = &document.config;
    let pools = pools(config);
    let shares_vm = !pools.is_empty();
    let gateway = Stage::Gateway { document, wasm: &options.wasm, shares_vm, off: true };
    let domains = domains(document, options);
    let host = indented(&virtual_host(config, &pools, &domains, true), 4);
    let filters = gateway.filter(2) + &indented(&ratelimit::filter(config, true), 2);
    let early = indented(EARLY, 2);
    let limit = config.listener.body_limit;
    let extension = client_credential::extension(sign_ins);
    let listeners = match client_credential::listeners(sign_ins) {
        none if none.is_empty() => none,
        some => format!("  listeners:\n{some}"),
    };
    let clusters = clusters::clusters(config, options, sign_ins, &pools);
    format!(
        "\
# Parts for an Envoy of your own, rendered by `aoai render envoy --parts`. Each one goes where the names above it
# say. Requests for other hosts pass the filter by, and their routes stay as they are.
{STATS_TAGS}{extension}
# The listener.
listener:
  # How much of a body Envoy buffers: until its model is known, and for another attempt.
  per_connection_buffer_limit_bytes: {limit}

# The HTTP connection manager.
http_connection_manager:
  # A reasoning model may send nothing for minutes.
  stream_idle_timeout: 900s
  upgrade_configs: [{{upgrade_type: websocket}}]
{early}  # Before the router and the filters whose work is for all hosts.
  http_filters:
{filters}  route_config:
    # A route adds its header after the virtual host has removed a backend's.
    most_specific_header_mutations_wins: true
    virtual_hosts:
{host}
static_resources:
{listeners}  clusters:
{clusters}"
    )
}

/// The hosts that callers use, on any port, and those of the backends: the filter has the route chosen again when
/// it has written a backend's.
fn domains(document: &Document, options: &Options) -> String {
    let own = options.host.iter().flat_map(|host| [host.clone(), format!("{host}:*")]);
    let backends = document.config.backends.iter().map(|one| one.endpoint.authority().to_owned());
    let mut all: Vec<String> = Vec::new();
    for domain in own.chain(backends) {
        if !all.contains(&domain) {
            all.push(domain);
        }
    }
    let all: Vec<_> = all.iter().map(|domain| scalar(domain)).collect();
    format!("[{}]", all.join(", "))
}
