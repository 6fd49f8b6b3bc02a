//! What an Envoy of one's own needs, without the rest of a bootstrap: each part under the names of where it goes.

use super::destinations::Destinations;
use super::envoy::{in_place, STATS_TAGS};
use super::filter::{local, Filters};
use super::listener::{VirtualHost, EARLY};
use super::options::Options;
use super::pools::Pool;
use super::yaml::indented;
use super::{client_credential, clusters, ratelimit};
use crate::document::Document;

/// The parts of a document.
pub(super) fn parts(
    document: &Document,
    options: &Options,
    pools: &[Pool<'_>],
    destinations: &Destinations<'_>,
) -> String {
    let config = &document.config;
    let filters = Filters { document, code: local(&options.wasm), delivery: in_place(pools) };
    let enables = &[filters.gateway_name()];
    let host = VirtualHost { config, pools, hosts: &options.host, enables, is_mesh: false };
    let host = indented(&host.item(), 4);
    let http_filters = indented(&(filters.gateway(true) + &ratelimit::filter(config, true)), 2);
    let early = indented(EARLY, 2);
    let limit = config.listener.body_limit;
    let extension = client_credential::extension(&destinations.sign_ins);
    let listeners = match client_credential::listeners(&destinations.sign_ins) {
        none if none.is_empty() => String::new(),
        some => format!("  listeners:\n{}", indented(&some.concat(), 2)),
    };
    let clusters = clusters::clusters(destinations, &options.addresses, &filters).concat();
    let clusters = indented(&clusters, 2);
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
{http_filters}  route_config:
    virtual_hosts:
{host}
static_resources:
{listeners}  clusters:
{clusters}"
    )
}
