//! Reads how the gateway is part of what Envoy Gateway manages: for what the tool renders.

use super::kubernetes::{self, hosts, missing, module, name, DEFAULT_NAME};
use super::listener::port;
use super::reader::{Object, Reader};
use super::types::{ApiGateway, EnvoyGateway};
use crate::base::json::Node;

const FIELDS: [&str; 10] = [
    "name",
    "namespace",
    "gateway",
    "listener",
    "first_listener",
    "class",
    "port",
    "hosts",
    "tls_secret",
    "module",
];

/// The namespace of objects that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// What Envoy Gateway's own examples call its GatewayClass.
const DEFAULT_CLASS: &str = "eg";

/// Reads `envoy_gateway`.
pub(super) fn envoy_gateway(reader: &mut Reader, node: &Node) -> Option<EnvoyGateway> {
    let object = reader.object(node, &FIELDS)?;
    let own_name = reader.optional(object, "name", kubernetes::resource_name);
    let namespace = reader.optional(object, "namespace", name);
    let hosts = reader.optional(object, "hosts", hosts);
    let module = reader.required(object, "module", kubernetes::MODULE, module);
    let gateway = match object.field("gateway") {
        Some(_) => existing(reader, object),
        None => Some(own(reader, object)),
    };
    Some(EnvoyGateway {
        name: own_name.unwrap_or_else(|| DEFAULT_NAME.to_owned()),
        namespace: namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
        gateway: gateway?,
        hosts: hosts.unwrap_or_default(),
        module: module?,
    })
}

/// What only a Gateway has that is rendered.
fn own(reader: &mut Reader, object: Object<'_>) -> ApiGateway {
    let class = reader.optional(object, "class", name);
    let tls_secret = reader.optional(object, "tls_secret", name);
    let port = reader.optional(object, "port", port);
    for field in ["listener", "first_listener"] {
        if object.field(field).is_some() {
            reader.at_field(field, |reader| {
                reader.problem("expected only with gateway, the name of an existing one");
            });
        }
    }
    let default_port = if tls_secret.is_some() { 443 } else { 80 };
    ApiGateway::Own {
        class: class.unwrap_or_else(|| DEFAULT_CLASS.to_owned()),
        port: port.unwrap_or(default_port),
        tls_secret,
    }
}

/// One that is there has a listener, and serves other hosts as well.
fn existing(reader: &mut Reader, object: Object<'_>) -> Option<ApiGateway> {
    for field in ["class", "port", "tls_secret"] {
        if object.field(field).is_some() {
            reader.at_field(field, |reader| {
                reader.problem("expected only without gateway; an existing one has its own");
            });
        }
    }
    if object.field("hosts").is_none() {
        missing(reader, "hosts", "the hosts of the existing Gateway that callers use");
    }
    let gateway = reader.optional(object, "gateway", name);
    let listener = "the name of the listener of the existing Gateway that callers use";
    let listener = reader.required(object, "listener", listener, name);
    let first = reader.optional(object, "first_listener", name);
    let listener = listener?;
    let first_listener = first.unwrap_or_else(|| listener.clone());
    Some(ApiGateway::Existing { name: gateway?, listener, first_listener })
}
