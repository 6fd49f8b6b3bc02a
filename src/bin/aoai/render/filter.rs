//! The module's two filters, in a listener (the gateway stage) and in the pools (the backend stage).

use std::path::Path;

use super::config_source::filter_source;
use super::yaml::{fields, indented, scalar};
use crate::document::Document;

/// The field of a filter that requests pass by unless their virtual host enables it.
pub(super) const OFF: &str = "  disabled: true\n";

/// The type of the filters' configuration.
pub(super) const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";

/// The filters of a document.
pub(super) struct Filters<'a> {
    pub(super) document: &'a Document,
    /// Where Envoy gets the module from: a `config.core.v3.AsyncDataSource`, on one line.
    pub(super) code: String,
    pub(super) delivery: Delivery<'a>,
}

/// How Envoy gets the filters' configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery<'a> {
    /// In place, both in one YAML document: the pools' filters refer to the listener's for its VM.
    Together,
    /// In place, each by itself.
    Apart,
    /// By extension config discovery (ECDS): a change of the document changes neither a listener nor a cluster.
    Discovered(Source<'a>),
}

/// Where extension config discovery finds the filters' configurations.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source<'a> {
    /// The config source, whatever the filter.
    Stream(&'a str),
    /// A file for each filter in this directory.
    Files(&'a Path),
}

/// A module in a file of the proxy's machine, as `code`.
pub(super) fn local(path: &str) -> String {
    format!("{{local: {{filename: {}}}}}", scalar(path))
}

impl Filters<'_> {
    /// The name of the gateway stage's filter, by which a virtual host enables it.
    pub(super) fn gateway_name(&self) -> &'static str {
        match self.delivery {
            Delivery::Discovered(_) => "aoai.gateway",
            _ => "aoai",
        }
    }

    fn backend_name(&self) -> &'static str {
        match self.delivery {
            Delivery::Discovered(_) => "aoai.backend",
            _ => "aoai",
        }
    }

    /// The gateway stage as an item of a list of filters. Where it is `off` by default, a virtual host enables it.
    pub(super) fn gateway(&self, off: bool) -> String {
        self.item(self.gateway_name(), off, || self.gateway_config())
    }

    /// The backend stage as an item of a list of filters.
    pub(super) fn backend(&self) -> String {
        self.item(self.backend_name(), false, || self.backend_config())
    }

    /// The filters' configurations as extension config discovery has them, by their names. The backend stage's
    /// comes first: a request meets the gateway stage first, and what it finds there has to be complete.
    pub(super) fn discovered(&self) -> [(&'static str, String); 2] {
        [(self.backend_name(), self.backend_config()), (self.gateway_name(), self.gateway_config())]
    }

    fn item(&self, name: &str, off: bool, config: impl FnOnce() -> String) -> String {
        let off = if off { OFF } else { "" };
        let rest = match self.delivery {
            Delivery::Discovered(source) => {
                let source = match source {
                    Source::Stream(source) => source.to_owned(),
                    Source::Files(directory) => filter_source(directory, name),
                };
                format!(
                    "  \
  config_discovery:
    config_source: {source}
    type_urls: [{WASM}]
"
                )
            }
            _ => "  typed_config:\n".to_owned() + &indented(&config(), 4),
        };
        format!("- name: {name}\n{off}{rest}")
    }

    /// With the document.
    fn gateway_config(&self) -> String {
        let anchor = if self.delivery == Delivery::Together { " &vm" } else { "" };
        let vm = anchor.to_owned() + "\n" + &self.vm();
        let fields = fields(&self.document.node, 6);
        let configuration = format!(
            "  \
  configuration:
    \"@type\": type.googleapis.com/google.protobuf.Struct
    value:
{fields}"
        );
        config("gateway", &vm) + &configuration
    }

    /// Without a configuration: each request's state contains what it needs.
    fn backend_config(&self) -> String {
        match self.delivery {
            Delivery::Together => config("backend", " *vm\n"),
            _ => config("backend", &("\n".to_owned() + &self.vm())),
        }
    }

    /// Both filters have the same: they share a VM.
    fn vm(&self) -> String {
        let code = &self.code;
        format!(
            "    \
    vm_id: aoai
    runtime: envoy.wasm.runtime.v8
    code: {code}
"
        )
    }
}

fn config(root_id: &str, vm: &str) -> String {
    format!(
        "\
\"@type\": {WASM}
config:
  name: aoai
  root_id: {root_id}
  failure_policy: FAIL_RELOAD
  allow_on_headers_stop_iteration: true
  vm_config:{vm}"
    )
}
