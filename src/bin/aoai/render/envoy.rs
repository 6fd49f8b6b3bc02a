//! A whole bootstrap for Envoy, as text, so that it comes with its comments.
//!
//! Source of the shapes: Envoy's v3 API reference.

use aoai_filter::config::Config;
use aoai_filter::pool::Order;

use super::sign_in::SignIn;
use super::yaml::{fields, scalar};
use super::{clusters, listener, proof, Options};
use crate::document::Document;

/// The labels of the module's metrics: its names carry them, because the ABI has none.
const STATS_TAGS: &str = r"
# Labels for the module's metrics, whose names carry them as `.label.value`.
stats_config:
  stats_tags:
  - {tag_name: outcome, regex: '(?:^|\.)wasmcustom\.aoai_requests_total(\.outcome\.(\w+))\.backend\.'}
  - {tag_name: backend, regex: '(?:^|\.)wasmcustom\.aoai_\w+(?:\.outcome\.\w+)?(\.backend\.([\w-]+))'}
  - {tag_name: diagnosis, regex: '(?:^|\.)wasmcustom\.aoai_diagnoses_total\.backend\.[\w-]+(\.diagnosis\.(\w+))$'}
  - {tag_name: identity, regex: '(?:^|\.)wasmcustom\.aoai_token_\w+(\.identity\.([\w-]+))'}
  - {tag_name: result, regex: '(?:^|\.)wasmcustom\.aoai_\w+\.(?:identity|backend)\.[\w-]+(\.result\.(\w+))$'}
";

/// The bootstrap of a document.
pub(super) fn bootstrap(document: &Document, options: &Options, sign_ins: &[SignIn<'_>]) -> String {
    let pools = pools(&document.config);
    let admin = options.admin_port;
    let gateway = Stage::Gateway { document, wasm: &options.wasm, shared: !pools.is_empty() };
    let listener = listener::listener(&document.config, options, &gateway, &pools);
    let proofs = proof::listeners(sign_ins);
    let extension = proof::extension(sign_ins);
    let clusters = clusters::clusters(&document.config, options, sign_ins, &pools);
    format!(
        "\
# Envoy with aoai-filter, made by `aoai render envoy` from the document that stands in it below.
# To change it, change the document and render again.
admin:
  address:
    socket_address: {{address: 127.0.0.1, port_value: {admin}}}
{STATS_TAGS}{extension}
static_resources:
  listeners:
{listener}{proofs}
  clusters:
{clusters}"
    )
}

/// A pool: a cluster that tries some backends in their order.
pub(super) struct Pool<'c> {
    pub(super) name: String,
    pub(super) order: Order<'c>,
}

/// The pools of all models that have several backends. Models with the same ones share theirs.
fn pools(config: &Config) -> Vec<Pool<'_>> {
    let mut pools: Vec<Pool<'_>> = Vec::new();
    for model in config.models.values().filter(|model| model.placements.len() > 1) {
        for order in model.orders() {
            let name = model.cluster(&order);
            if pools.iter().all(|pool| pool.name != name) {
                pools.push(Pool { name, order });
            }
        }
    }
    pools
}

/// One of the two filters that the module is.
pub(super) enum Stage<'a> {
    /// In the listener. When the configuration is shared, the pools refer to it.
    Gateway { document: &'a Document, wasm: &'a str, shared: bool },
    /// In the pools.
    Backend,
}

impl Stage<'_> {
    /// The filter as an item of a list, indented by this many spaces.
    pub(super) fn filter(&self, indent: usize) -> String {
        let root_id = match self {
            Self::Gateway { .. } => "gateway",
            Self::Backend => "backend",
        };
        let head = format!(
            "\
- name: aoai
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
    config:
      name: aoai
      root_id: {root_id}
      failure_policy: FAIL_RELOAD
      allow_on_headers_stop_iteration: true
"
        );
        let rest = match self {
            Self::Backend => "      vm_config: *vm\n      configuration: *document\n".to_owned(),
            Self::Gateway { document, wasm, shared } => {
                let (vm, anchor) = if *shared { (" &vm", " &document") } else { ("", "") };
                let (wasm, fields) = (scalar(wasm), fields(&document.node, 10));
                format!(
                    "      \
      vm_config:{vm}
        vm_id: aoai
        runtime: envoy.wasm.runtime.v8
        code: {{local: {{filename: {wasm}}}}}
      configuration:{anchor}
        \"@type\": type.googleapis.com/google.protobuf.Struct
        value:
{fields}"
                )
            }
        };
        indented(&(head + &rest), indent)
    }
}

/// Each line of a text, further to the right.
pub(super) fn indented(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{}{line}\n", " ".repeat(by))).collect()
}
