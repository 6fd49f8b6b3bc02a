//! Readers of bodies and URLs that are not the module's own. What the module authorises must be what
//! such a reader finds, because a backend may have one like it.

use std::fmt;

use futures_util::{stream, FutureExt};
use multer::Multipart;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// The fields of a JSON object in order, each as often as it stands there.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Collect)
    }
}

struct Collect;

impl<'de> Visitor<'de> for Collect {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Fields(fields))
    }
}

/// Whether a lenient reader may take a field of this name for the model.
pub(crate) fn is_like_model(name: &str) -> bool {
    name.trim().eq_ignore_ascii_case("model")
}

/// The fields of a document at its top level in order, as serde_json reads them; `None` where it reads no
/// object.
pub(crate) fn fields_of_json(body: &[u8]) -> Option<Vec<(String, Value)>> {
    serde_json::from_slice(body).ok().map(|Fields(fields)| fields)
}

/// The parts of a form, as multer reads them.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// The contents of those that a lenient reader may take for the model.
    pub(crate) models: Vec<Vec<u8>>,
    /// Whether the form was read to its end.
    pub(crate) complete: bool,
}

/// Reads a form with multer. What stands before an error counts, too: some servers act on parts as they
/// come.
pub(crate) fn parts_of_form(boundary: &str, body: &[u8]) -> Parts {
    let body = stream::iter([Ok::<_, std::convert::Infallible>(body.to_vec())]);
    let mut form = Multipart::new(body, boundary);
    let mut parts = Parts::default();
    // All of the body is there, so that nothing is ever waited for.
    while let Some(Ok(part)) = form.next_field().now_or_never() {
        let Some(part) = part else {
            parts.complete = true;
            break;
        };
        let is_model = part.name().is_some_and(is_like_model);
        let content = part.bytes().now_or_never();
        let Some(Ok(content)) = content else { break };
        if is_model {
            parts.models.push(content.to_vec());
        }
    }
    parts
}

/// A parameter of a query, decoded.
pub(crate) type Parameter = (String, String);

/// The path and the parameters of a URL, as `http` and `form_urlencoded` read them; `None` where they do
/// not.
pub(crate) fn path_and_query(target: &[u8]) -> Option<(String, Vec<Parameter>)> {
    let uri = http::Uri::try_from(target).ok()?;
    let query = uri.query().unwrap_or_default();
    let parameters = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    Some((uri.path().to_owned(), parameters))
}
