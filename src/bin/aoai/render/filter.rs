//! The filter, in the listener and in the pools.

use super::yaml::{fields, indented, scalar};
use crate::document::Document;

/// The field of a filter that requests pass by unless their virtual host enables it.
pub(super) const OFF: &str = "  disabled: true\n";

/// One of the two filters that the module is.
pub(super) enum Stage<'a> {
    /// In the listener, with the document. Where there are pools, their filters share its VM. Where it is
    /// `off` by default, a virtual host enables it.
    Gateway { document: &'a Document, wasm: &'a str, shares_vm: bool, off: bool },
    /// In the pools, without a configuration: each request's state contains what it needs.
    Backend,
}

impl Stage<'_> {
    /// The filter as an item of a list, indented by this many spaces.
    pub(super) fn filter(&self, indent: usize) -> String {
        let root_id = match self {
            Self::Gateway { .. } => "gateway",
            Self::Backend => "backend",
        };
        let off = match self {
            Self::Gateway { off: true, .. } => OFF,
            _ => "",
        };
        let head = format!(
            "\
- name: aoai
{off}  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
    config:
      name: aoai
      root_id: {root_id}
      failure_policy: FAIL_RELOAD
      allow_on_headers_stop_iteration: true
"
        );
        let rest = match self {
            Self::Backend => "      vm_config: *vm\n".to_owned(),
            Self::Gateway { document, wasm, shares_vm, .. } => {
                let vm = if *shares_vm { " &vm" } else { "" };
                let (wasm, fields) = (scalar(wasm), fields(&document.node, 10));
                format!(
                    "      \
      vm_config:{vm}
        vm_id: aoai
        runtime: envoy.wasm.runtime.v8
        code: {{local: {{filename: {wasm}}}}}
      configuration:
        \"@type\": type.googleapis.com/google.protobuf.Struct
        value:
{fields}"
                )
            }
        };
        indented(&(head + &rest), indent)
    }
}
