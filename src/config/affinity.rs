//! Reads the value by which a model's requests prefer one of its backends.

use super::reader::Reader;
use super::types::{Affinity, AFFINITY_FIELDS};
use crate::base::json::Node;

use crate::base::header;

const BODY: &str = "prompt_cache_key or user";

const HEADER: &str =
    "the name of a header that callers send, and none of those that hold keys or that \
    the filter removes";

/// Reads a model's `affinity`.
pub(super) fn affinity(reader: &mut Reader, node: &Node) -> Option<Affinity> {
    let object = reader.object(node, &["body", "header"])?;
    let body = reader.optional(object, "body", |reader, node| {
        let name = reader.text(node, |name| AFFINITY_FIELDS.contains(&name), BODY)?;
        AFFINITY_FIELDS.into_iter().find(|field| *field == name)
    });
    let header = reader.optional(object, "header", |reader, node| {
        let name = reader.text(node, |name| is_header(&name.to_ascii_lowercase()), HEADER)?;
        Some(name.to_ascii_lowercase())
    });
    if object.field("body").is_some() == object.field("header").is_some() {
        reader.problem("expected exactly one of body and header");
        return None;
    }
    body.map(Affinity::Body).or(header.map(Affinity::Header))
}

/// A token (RFC 9110, 5.6.2), so that no pseudo-header is one, of something that reaches the backend.
fn is_header(name: &str) -> bool {
    let is_right = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=128).contains(&name.len()) && name.bytes().all(is_right) && header::is_forwarded(name)
}
