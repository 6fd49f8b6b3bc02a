//! A complete Envoy bootstrap, as text, so that it has comments.
//!
//! Source of the shapes: Envoy's v3 API reference.

use super::clusters::clusters;
use super::destinations::Destinations;
use super::filter::{local, Delivery, Filters};
use super::listener::listener;
use super::options::Options;
use super::pools::Pool;
use super::yaml::indented;
use super::{client_credential, monitoring, overload};
use crate::document::Document;

/// The labels of the module's metrics: its names carry them, because the ABI has none.
pub(super) const STATS_TAGS: &str = r"
# Labels for the module's metrics, whose names carry them as `.label.value`.
stats_config:
  stats_tags:
  - {tag_name: outcome, regex: 'wasmcustom\.aoai_requests_total(\.outcome\.(\w+))\.backend\.'}
  - {tag_name: backend, regex: 'wasmcustom\.aoai_\w+(?:\.outcome\.\w+)?(\.backend\.([\w-]+))'}
  - {tag_name: subscription, regex: 'wasmcustom\.aoai_(?:requests_total\.outcome\.\w+\.backend\.[\w-]+|tokens_total\.backend\.[\w-]+\.type\.\w+\.source\.\w+|limits_unchecked_total)(\.subscription\.([\w-]+))\.model\.'}
  - {tag_name: model, regex: 'wasmcustom\.aoai_(?:requests_total|tokens_total|limits_unchecked_total|time_to_first_token_ms|request_duration_ms|attempts_total|cooldowns_total|in_cooldown|misconfigured)\.(?:backend|outcome|subscription)\..*?(\.model\.(.+))$'}
  - {tag_name: type, regex: 'wasmcustom\.aoai_tokens_total\.backend\.[\w-]+(\.type\.(\w+))\.source\.'}
  - {tag_name: source, regex: 'wasmcustom\.aoai_tokens_total\.backend\.[\w-]+\.type\.\w+(\.source\.(\w+))\.subscription\.'}
  - {tag_name: diagnosis, regex: 'wasmcustom\.aoai_(?:diagnoses_total|misconfigured)\.backend\.[\w-]+(\.diagnosis\.(\w+))(?:\.model\.|$)'}
  - {tag_name: identity, regex: 'wasmcustom\.aoai_entra_token_\w+(\.identity\.([\w-]+))'}
  - {tag_name: result, regex: 'wasmcustom\.aoai_\w+\.(?:identity|backend)\.[\w-]+(\.result\.(\w+))(?:\.status\.|$)'}
  - {tag_name: version, regex: 'wasmcustom\.aoai_document_taken_timestamp_seconds(\.version\.(\w+))$'}
  - {tag_name: status, regex: 'wasmcustom\.aoai_attempts_total\.backend\.[\w-]+\.result\.\w+(\.status\.(\w+))\.model\.'}
";

/// The bootstrap of a document.
pub(super) fn bootstrap(
    document: &Document,
    options: &Options,
    pools: &[Pool<'_>],
    destinations: &Destinations<'_>,
) -> String {
    let filters = Filters { document, code: local(&options.wasm), delivery: in_place(pools) };
    let (listeners, clusters) = resources(options, pools, destinations, &filters);
    let listeners = indented(&listeners.concat(), 2);
    let clusters = indented(&clusters.concat(), 2);
    let process = process(document, options, destinations);
    format!(
        "\
# Envoy with aoai-filter, rendered by `aoai render envoy` from the document that is contained below.
# To change it, change the document and render again.
{process}
static_resources:
  listeners:
{listeners}
  clusters:
{clusters}"
    )
}

/// The listeners and the clusters, as items of lists.
pub(super) fn resources(
    options: &Options,
    pools: &[Pool<'_>],
    destinations: &Destinations<'_>,
    filters: &Filters<'_>,
) -> (Vec<String>, Vec<String>) {
    let config = &filters.document.config;
    let mut listeners = vec![listener(config, options, filters, pools)];
    let mut clusters = clusters(destinations, &options.addresses, filters);
    if let Some(monitored) = &config.listener.monitoring {
        listeners.push(monitoring::listener(monitored));
        clusters.push(monitoring::cluster(options.admin_port));
    }
    listeners.extend(client_credential::listeners(&destinations.sign_ins));
    (listeners, clusters)
}

/// What is about the process as a whole, and takes effect when it starts.
pub(super) fn process(
    document: &Document,
    options: &Options,
    destinations: &Destinations<'_>,
) -> String {
    let admin = options.admin_port;
    let overload = overload::manager(&document.config.listener);
    let extension = client_credential::extension(&destinations.sign_ins);
    format!(
        "\
admin:
  address:
    socket_address: {{address: 127.0.0.1, port_value: {admin}}}
  ignore_global_conn_limit: true
{STATS_TAGS}{overload}{extension}"
    )
}

/// How the filters are delivered in one YAML document.
pub(super) fn in_place(pools: &[Pool<'_>]) -> Delivery<'static> {
    match pools {
        [] => Delivery::Apart,
        _ => Delivery::Together,
    }
}
