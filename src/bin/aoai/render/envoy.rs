//! A complete Envoy bootstrap, as text, so that it has comments.
//!
//! Source of the shapes: Envoy's v3 API reference.

use super::filter::Stage;
use super::options::Options;
use super::pools::pools;
use super::sign_in::SignIn;
use super::{client_credential, clusters, listener, monitoring, overload};
use crate::document::Document;

/// The labels of the module's metrics: its names carry them, because the ABI has none.
pub(super) const STATS_TAGS: &str = r"
# Labels for the module's metrics, whose names carry them as `.label.value`.
stats_config:
  stats_tags:
  - {tag_name: outcome, regex: 'wasmcustom\.aoai_requests_total(\.outcome\.(\w+))\.backend\.'}
  - {tag_name: backend, regex: 'wasmcustom\.aoai_\w+(?:\.outcome\.\w+)?(\.backend\.([\w-]+))'}
  - {tag_name: subscription, regex: 'wasmcustom\.aoai_(?:requests_total\.outcome\.\w+\.backend\.[\w-]+|tokens_total\.backend\.[\w-]+\.type\.\w+\.source\.\w+|limits_unchecked_total)(\.subscription\.([\w-]+))\.model\.'}
  - {tag_name: model, regex: 'wasmcustom\.aoai_(?:requests_total|tokens_total|limits_unchecked_total|time_to_first_token_ms|request_duration_ms)\.(?:backend|outcome|subscription)\..*?(\.model\.(.+))$'}
  - {tag_name: type, regex: 'wasmcustom\.aoai_tokens_total\.backend\.[\w-]+(\.type\.(\w+))\.source\.'}
  - {tag_name: source, regex: 'wasmcustom\.aoai_tokens_total\.backend\.[\w-]+\.type\.\w+(\.source\.(\w+))\.subscription\.'}
  - {tag_name: diagnosis, regex: 'wasmcustom\.aoai_(?:diagnoses_total|misconfigured)\.backend\.[\w-]+(\.diagnosis\.(\w+))$'}
  - {tag_name: identity, regex: 'wasmcustom\.aoai_entra_token_\w+(\.identity\.([\w-]+))'}
  - {tag_name: result, regex: 'wasmcustom\.aoai_\w+\.(?:identity|backend)\.[\w-]+(\.result\.(\w+))$'}
";

/// The bootstrap of a document.
pub(super) fn bootstrap(document: &Document, options: &Options, sign_ins: &[SignIn<'_>]) -> String {
    let pools = pools(&document.config);
    let admin = options.admin_port;
    let shares_vm = !pools.is_empty();
    let gateway = Stage::Gateway { document, wasm: &options.wasm, shares_vm, off: false };
    let listener = listener::listener(&document.config, options, &gateway, &pools);
    let monitoring =
        document.config.listener.monitoring.as_ref().map(monitoring::listener).unwrap_or_default();
    let credentials = client_credential::listeners(sign_ins);
    let overload = overload::manager(&document.config.listener);
    let extension = client_credential::extension(sign_ins);
    let clusters = clusters::clusters(&document.config, options, sign_ins, &pools);
    format!(
        "\
# Envoy with aoai-filter, rendered by `aoai render envoy` from the document that is contained below.
# To change it, change the document and render again.
admin:
  address:
    socket_address: {{address: 127.0.0.1, port_value: {admin}}}
  ignore_global_conn_limit: true
{STATS_TAGS}{overload}{extension}
static_resources:
  listeners:
{listener}{monitoring}{credentials}
  clusters:
{clusters}"
    )
}
