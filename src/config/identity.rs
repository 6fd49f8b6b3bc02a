//! Reads one identity.

use std::net::IpAddr;

use super::authority::host_and_port;
use super::cloud::Cloud;
use super::problem::{quoted, shape};
use super::reader::{Object, Reader};
use super::types::{Application, ClientCredential, Identity, IdentitySelector};
use super::value;
use crate::base::json::Node;

/// The kinds of identity that the module knows.
pub(super) const KINDS: [&str; 4] =
    ["managed_identity", "app_service", "workload_identity", "client_secret"];

/// What an audience looks like.
const AUDIENCE: &str = "an https URL such as https://cognitiveservices.azure.com";

const CLUSTER: &str = "the Envoy cluster of the endpoint";

/// Reads an identity of one of these kinds, in this cloud.
pub(super) fn identity(
    reader: &mut Reader,
    kind: &str,
    node: &Node,
    cloud: Cloud,
) -> Option<Identity> {
    match kind {
        "managed_identity" => managed(reader, node),
        "app_service" => app_service(reader, node),
        "workload_identity" => application(reader, node, cloud, &WORKLOAD_IDENTITY),
        _ => application(reader, node, cloud, &CLIENT_SECRET),
    }
}

fn managed(reader: &mut Reader, node: &Node) -> Option<Identity> {
    let object = reader.object(node, &["cluster", "client_id", "object_id", "resource_id"])?;
    let cluster = reader.required(object, "cluster", CLUSTER, value::identity_cluster);
    let selector = selector(reader, object);
    Some(Identity::Managed { cluster: cluster?, selector: selector? })
}

fn app_service(reader: &mut Reader, node: &Node) -> Option<Identity> {
    const FIELDS: [&str; 5] = ["cluster", "endpoint", "client_id", "object_id", "resource_id"];
    let object = reader.object(node, &FIELDS)?;
    let cluster = reader.required(object, "cluster", CLUSTER, value::identity_cluster);
    // Container Apps have it there; App Service chooses a port at each start.
    let endpoint = match object.field("endpoint") {
        Some(_) => reader.optional(object, "endpoint", app_service_endpoint),
        None => Some(("localhost:42356".to_owned(), "/msi/token".to_owned())),
    };
    let selector = selector(reader, object);
    let (authority, path) = endpoint?;
    Some(Identity::AppService { cluster: cluster?, authority, path, selector: selector? })
}

/// Whether a platform has its endpoint there: on this machine, or in a private network. The platform's
/// secret is sent there in clear text.
fn is_near(host: &str) -> bool {
    match host.parse() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
        Err(_) => !host.contains('.'),
    }
}

/// The value of `IDENTITY_ENDPOINT`: `http://`, a host that is near, and a path.
fn app_service_endpoint(reader: &mut Reader, node: &Node) -> Option<(String, String)> {
    let text = reader.string(node)?;
    let rest = text.strip_prefix("http://").unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_plain =
        |part: &str| part.bytes().all(|b| b.is_ascii_graphic() && !b"?#@\"\\".contains(&b));
    let is_near = host_and_port(authority, 80).is_some_and(|(host, _)| is_near(host));
    if !is_near || path.is_empty() || !is_plain(rest) {
        let found = quoted(text);
        reader.problem(format!(
            "found {found}; expected what the platform puts into IDENTITY_ENDPOINT, such as \
             http://localhost:42356/msi/token"
        ));
        return None;
    }
    Some((authority.to_owned(), path.to_owned()))
}

/// The fields of a kind of application, and of its client credential.
struct ApplicationFields {
    fields: [&'static str; 6],
    cluster: &'static str,
    file: &'static str,
    expected: &'static str,
    credential: ClientCredential,
}

const WORKLOAD_IDENTITY: ApplicationFields = ApplicationFields {
    fields: ["tenant", "client_id", "cluster", "authority", "token_cluster", "token_file"],
    cluster: "token_cluster",
    file: "token_file",
    expected: "the Envoy cluster of a listener that serves the projected service account token",
    credential: ClientCredential::Assertion,
};

const CLIENT_SECRET: ApplicationFields = ApplicationFields {
    fields: ["tenant", "client_id", "cluster", "authority", "secret_cluster", "secret_file"],
    cluster: "secret_cluster",
    file: "secret_file",
    expected: "the Envoy cluster of a listener that serves the client secret",
    credential: ClientCredential::Secret,
};

fn application(
    reader: &mut Reader,
    node: &Node,
    cloud: Cloud,
    kind: &ApplicationFields,
) -> Option<Identity> {
    let object = reader.object(node, &kind.fields)?;
    let tenant =
        reader.required(object, "tenant", "the tenant's GUID or one of its domains", tenant);
    let client_id =
        reader.required(object, "client_id", "the application's client id, a GUID", guid);
    let cluster = reader.required(
        object,
        "cluster",
        "the Envoy cluster of Entra ID",
        value::identity_cluster,
    );
    let authority = reader.optional(object, "authority", authority);
    let credential_cluster =
        reader.required(object, kind.cluster, kind.expected, value::identity_cluster);
    let credential_file = reader.optional(object, kind.file, value::path);
    if cluster.is_some() && cluster == credential_cluster {
        reader.at_field(kind.cluster, |reader| {
            reader.problem("found the cluster of Entra ID again; expected one of its own");
        });
    }
    Some(Identity::Application(Application {
        cluster: cluster?,
        authority: authority.unwrap_or_else(|| cloud.authority().to_owned()),
        tenant: tenant?,
        client_id: client_id?,
        credential: kind.credential,
        credential_cluster: credential_cluster?,
        credential_file,
    }))
}

fn selector(reader: &mut Reader, object: Object<'_>) -> Option<IdentitySelector> {
    let client_id = reader.optional(object, "client_id", guid);
    let object_id = reader.optional(object, "object_id", guid);
    let resource_id = reader.optional(object, "resource_id", resource_id);
    let given: Vec<_> = ["client_id", "object_id", "resource_id"]
        .into_iter()
        .filter(|name| object.field(name).is_some())
        .collect();
    if given.len() > 1 {
        let given = given.join(" and ");
        reader
            .problem(format!("found {given}; expected at most one of them, to name one identity"));
        return None;
    }
    Some(match (client_id, object_id, resource_id) {
        (Some(id), _, _) => IdentitySelector::ClientId(id),
        (_, Some(id), _) => IdentitySelector::ObjectId(id),
        (_, _, Some(id)) => IdentitySelector::ResourceId(id),
        (None, None, None) => IdentitySelector::SystemAssigned,
    })
}

fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A GUID in its plain form. A client secret stands near a client id wherever ids are copied from,
/// so what is not a GUID is not shown.
fn guid(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = reader.string(node)?;
    if is_guid(text) {
        return Some(text.to_ascii_lowercase());
    }
    let shape = shape(text);
    reader.problem(format!(
        "found {shape} that is not a GUID; expected one such as 00000000-0000-0000-0000-000000000000"
    ));
    None
}

/// A tenant becomes a segment of a path. Other texts are not shown, as above.
fn tenant(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = reader.string(node)?;
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let is_domain = text.contains('.') && text.len() <= 253 && text.split('.').all(is_part);
    if is_guid(text) || is_domain {
        return Some(text.to_ascii_lowercase());
    }
    let shape = shape(text);
    reader.problem(format!(
        "found {shape} that is not a tenant; expected its GUID, or a domain such as \
         contoso.onmicrosoft.com"
    ));
    None
}

/// Reads `authority`: the host of Entra ID.
fn authority(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = reader.string(node)?;
    let host = text.strip_prefix("https://").map(|host| host.trim_end_matches('/'));
    let is_host = |host: &&str| {
        host_and_port(host, 443).is_some()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:".contains(&b))
    };
    let host = host.filter(is_host);
    if host.is_none() {
        let found = quoted(text);
        reader.problem(format!(
            "found {found}; expected an https URL without a path, such as \
             https://login.microsoftonline.com"
        ));
    }
    host.map(str::to_ascii_lowercase)
}

fn resource_id(reader: &mut Reader, node: &Node) -> Option<String> {
    reader.text(
        node,
        |text| {
            let start = text.get(..15).unwrap_or_default();
            start.eq_ignore_ascii_case("/subscriptions/")
                && !text.contains(|c: char| c.is_whitespace() || c.is_control())
        },
        "an ARM resource id such as /subscriptions/…/providers/Microsoft.ManagedIdentity/userAssignedIdentities/NAME",
    )
}

/// Reads `audience`: the audience of tokens.
pub(super) fn audience(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = reader.string(node)?;
    let found = quoted(text);
    let Some(rest) = text.strip_prefix("https://").filter(|rest| !rest.starts_with('/')) else {
        reader.problem(format!("found {found}; expected {AUDIENCE}"));
        return None;
    };
    if let Some(audience) = text.strip_suffix("/.default") {
        let right = quoted(audience.trim_end_matches('/'));
        reader.problem(format!(
            "{found} is a scope; expected the audience, {right}: the filter adds /.default where \
             an endpoint requires it"
        ));
    } else if rest.ends_with('/') {
        let right = quoted(text.trim_end_matches('/'));
        reader.problem(format!(
            "{found} ends with a slash, which Azure takes for another audience; expected {right}"
        ));
    } else if rest.is_empty()
        || rest.bytes().any(|b| !b.is_ascii_graphic() || b"?#@\"\\".contains(&b))
    {
        reader.problem(format!("found {found}; expected {AUDIENCE}"));
    } else {
        return Some(text.to_owned());
    }
    None
}
