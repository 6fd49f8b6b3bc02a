//! Reads how the proxy signs in, and for what.

use super::node::Node;
use super::problem::{quoted, shape};
use super::reader::{Object, Reader};
use super::{backend, Identity, IdentitySelector};

/// The kinds of identity that the module knows.
const KINDS: [&str; 1] = ["managed_identity"];

/// What an audience looks like.
const AUDIENCE: &str = "an https URL such as https://cognitiveservices.azure.com";

/// Reads `identity`: an object with the one kind.
pub(super) fn identity(reader: &mut Reader, node: &Node) -> Option<Identity> {
    let kinds = node.as_object().or_else(|| reader.wrong_kind(node, "an object"))?;
    if kinds.len() != 1 {
        let (count, known) = (kinds.len(), KINDS.join(" or "));
        reader.problem(format!("found {count} kinds of identity; expected exactly one: {known}"));
    }
    let mut identity = None;
    for (kind, node) in kinds {
        identity = reader.at_field(kind, |reader| match kind.as_str() {
            "managed_identity" => managed(reader, node),
            _ => {
                let right = reader.nearest(kind, KINDS.into_iter());
                reader.problem(format!("unknown kind of identity; {right}"));
                None
            }
        });
    }
    identity
}

fn managed(reader: &mut Reader, node: &Node) -> Option<Identity> {
    let object = reader.object(node, &["cluster", "client_id", "object_id", "resource_id"])?;
    let cluster =
        reader.required(object, "cluster", "the Envoy cluster of the endpoint", backend::cluster);
    let selector = selector(reader, object);
    Some(Identity::Managed { cluster: cluster?, selector: selector? })
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

/// A GUID in its plain form. A client secret stands near a client id wherever ids are copied from,
/// so what is not a GUID is not shown.
fn guid(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = reader.string(node)?;
    let is_guid = text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if is_guid {
        return Some(text.to_ascii_lowercase());
    }
    let shape = shape(text);
    reader.problem(format!(
        "found {shape} that is not a GUID; expected one such as 00000000-0000-0000-0000-000000000000"
    ));
    None
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

/// Reads `audience`: what a token is asked for.
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
             an endpoint wants it"
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
