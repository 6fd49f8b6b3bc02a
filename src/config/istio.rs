//! Reads how the gateway is part of an Istio mesh: for what the tool renders.

use super::kubernetes::{self, hosts, missing, module, name, DEFAULT_NAME};
use super::listener::port;
use super::reader::{Object, Reader};
use super::types::{Attach, GatewayResource, Istio};
use crate::base::json::Node;

const FIELDS: [&str; 11] = [
    "name",
    "attach",
    "namespace",
    "selector",
    "gateway",
    "port",
    "target_port",
    "hosts",
    "tls_secret",
    "module",
    "revision",
];

/// Istio's own name of where its control plane runs.
const DEFAULT_NAMESPACE: &str = "istio-system";

/// The label of the ingress gateway that Istio installs.
const DEFAULT_SELECTOR: (&str, &str) = ("istio", "ingressgateway");

/// Reads `istio`.
pub(super) fn istio(reader: &mut Reader, node: &Node) -> Option<Istio> {
    let object = reader.object(node, &FIELDS)?;
    let own_name = reader.optional(object, "name", kubernetes::resource_name);
    let is_sidecar = reader.optional(object, "attach", |reader, node| {
        let expected = "gateway or sidecar";
        let text = reader.text(node, |text| matches!(text, "gateway" | "sidecar"), expected)?;
        Some(text == "sidecar")
    });
    let namespace = reader.optional(object, "namespace", name);
    let selector = reader.optional(object, "selector", labels);
    let listens = reader.optional(object, "port", port);
    let hosts = reader.optional(object, "hosts", hosts);
    let module = reader.required(object, "module", kubernetes::MODULE, module);
    let revision = reader.optional(object, "revision", name);
    let (attach, default_port) = match is_sidecar.unwrap_or_default() {
        true => (sidecar(reader, object), 80),
        false => gateway(reader, object, listens),
    };
    let selector = selector.unwrap_or_else(|| {
        let (label, value) = DEFAULT_SELECTOR;
        vec![(label.to_owned(), value.to_owned())]
    });
    Some(Istio {
        name: own_name.unwrap_or_else(|| DEFAULT_NAME.to_owned()),
        attach,
        namespace: namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
        selector,
        port: listens.unwrap_or(default_port),
        hosts: hosts.unwrap_or_default(),
        module: module?,
        revision,
    })
}

/// What only a gateway has, and the port that it has by default.
fn gateway(reader: &mut Reader, object: Object<'_>, listens: Option<u16>) -> (Attach, u16) {
    let is_existing = reader.optional(object, "gateway", |reader, node| {
        let text =
            reader.text(node, |text| matches!(text, "own" | "existing"), "own or existing")?;
        Some(text == "existing")
    });
    let is_existing = is_existing.unwrap_or_default();
    let tls_secret = reader.optional(object, "tls_secret", |reader, node| {
        let found = name(reader, node);
        if is_existing {
            reader.problem(
                "expected only with gateway: own; an existing one has its own certificate",
            );
        }
        found
    });
    if is_existing && object.field("hosts").is_none() {
        missing(reader, "hosts", "the hosts of the existing Gateway that callers use");
    }
    let default_port = if tls_secret.is_some() { 443 } else { 80 };
    let target_port = reader.optional(object, "target_port", port);
    let resource = match is_existing {
        true => GatewayResource::Existing,
        false => GatewayResource::Own { tls_secret },
    };
    let target_port = target_port.or(listens).unwrap_or(default_port);
    (Attach::Gateway { target_port, resource }, default_port)
}

/// A sidecar needs to be told whose, and has no gateway's fields.
fn sidecar(reader: &mut Reader, object: Object<'_>) -> Attach {
    for (field, expected) in [
        ("namespace", "the namespace of the workloads whose sidecars call Azure OpenAI"),
        ("selector", "the labels of those workloads"),
        ("hosts", "the hosts that those workloads call"),
    ] {
        if object.field(field).is_none() {
            missing(reader, field, expected);
        }
    }
    for field in ["gateway", "target_port", "tls_secret"] {
        if object.field(field).is_some() {
            reader.at_field(field, |reader| {
                reader.problem("expected only with attach: gateway; a sidecar has no Gateway");
            });
        }
    }
    Attach::Sidecar
}

/// Reads labels of pods.
fn labels(reader: &mut Reader, node: &Node) -> Option<Vec<(String, String)>> {
    let Some(fields) = node.as_object() else {
        return reader.wrong_kind(node, "labels and their values");
    };
    if fields.is_empty() {
        reader.problem(
            "found no label; expected at least one, or all pods of the namespace are meant",
        );
        return None;
    }
    let is_label = |text: &str| {
        (1..=253).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
    };
    let mut found = Vec::new();
    for (label, node) in fields {
        let value = reader.at_field(label, |reader| {
            if !is_label(label) {
                reader.problem("expected a label of Kubernetes: letters, digits, -, _, . and /");
            }
            reader.text(node, is_label, "the value of a label: letters, digits, -, _ and .")
        });
        found.extend(value.map(|value| (label.clone(), value)));
    }
    Some(found)
}
