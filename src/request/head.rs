//! A request's head, read once: what the filter decides by, and what must be removed before it is forwarded.
//!
//! All header pairs are looked at, because asking for a header by name would show only the first of
//! several. Values are bytes: nothing here needs them to be text.

use thiserror::Error;

use super::body::{BodyFormat, FormatError};
use crate::base::header::{
    is_envoy_control, KEY_HEADERS, KEY_SUBPROTOCOL, OWN_PREFIX, SUBPROTOCOLS,
};

/// A request's head. Header names are lower case, as Envoy hands them over.
#[derive(Debug, Default)]
pub struct Head<'a> {
    /// The method, empty where it is missing.
    pub method: &'a str,
    /// Path and query as they came.
    pub path: &'a [u8],
    /// Keys in headers of their own, as bearer token and as subprotocol, in the order they came.
    pub keys: Vec<&'a [u8]>,
    /// Whether one of the key headers came more than once.
    pub repeated_key: bool,
    /// Names of headers to remove, whatever becomes of the request.
    pub remove: Vec<&'a str>,
    /// What remains of the subprotocols that the client offers, where one of them holds a key and others
    /// do not. The header gets this value, whatever becomes of the request.
    pub subprotocols: Option<Vec<u8>>,
    /// The declared length of the body.
    pub content_length: Option<u64>,
    content_type: Field<'a>,
    content_encoding: Field<'a>,
    pairs: &'a [(String, Vec<u8>)],
}

/// A header that is read only where it comes once.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Field<'a> {
    #[default]
    Absent,
    Once(&'a [u8]),
    Repeated,
}

/// Why a head does not determine how to read its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BodyKindError {
    /// More than one `content-type`.
    #[error("the request has more than one content-type")]
    RepeatedContentType,
    /// A body that is compressed or otherwise encoded.
    #[error("the body has a content-encoding")]
    Encoded,
    /// A format that the filter does not read.
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl<'a> Head<'a> {
    /// Reads all pairs of a request's header map, pseudo-headers included.
    pub fn read(pairs: &'a [(String, Vec<u8>)]) -> Self {
        let mut head = Self { pairs, ..Self::default() };
        let mut seen = [false; KEY_HEADERS.len() + 1];
        let mut subprotocols = Vec::new();
        for (name, value) in pairs {
            let name = name.as_str();
            match name {
                ":method" => head.method = std::str::from_utf8(value).unwrap_or_default(),
                ":path" => head.path = value,
                "authorization" => {
                    if let Some(key) = bearer(value) {
                        head.repeated_key |= is_joined(key);
                        head.present(key, seen.last_mut());
                    }
                }
                SUBPROTOCOLS => subprotocols.extend(value.split(|&byte| byte == b',')),
                "content-type" => head.content_type.add(value),
                "content-encoding" => head.content_encoding.add(value),
                "content-length" => head.content_length = parse_length(value),
                name if name.starts_with(OWN_PREFIX) || is_envoy_control(name) => head.remove(name),
                name => {
                    if let Some(which) = KEY_HEADERS.iter().position(|key| *key == name) {
                        head.remove(name);
                        head.present(value, seen.get_mut(which));
                    }
                }
            }
        }
        head.read_subprotocols(&subprotocols);
        head
    }

    fn read_subprotocols(&mut self, offered: &[&'a [u8]]) {
        let mut seen = false;
        let mut has_key = false;
        let mut others = Vec::new();
        for name in offered.iter().map(|name| name.trim_ascii()).filter(|name| !name.is_empty()) {
            match name.split_at_checked(KEY_SUBPROTOCOL.len()) {
                Some((start, key)) if start.eq_ignore_ascii_case(KEY_SUBPROTOCOL.as_bytes()) => {
                    has_key = true;
                    self.present(key, Some(&mut seen));
                }
                _ => others.push(name),
            }
        }
        match has_key {
            true if others.is_empty() => self.remove(SUBPROTOCOLS),
            true => self.subprotocols = Some(others.join(&b", "[..])),
            false => {}
        }
    }

    /// The first value of a header, by its name in lower case.
    pub fn value(&self, name: &str) -> Option<&'a [u8]> {
        let (_, value) = self.pairs.iter().find(|(header, _)| header == name)?;
        Some(value)
    }

    /// How the body is to be read, where the model stands in it.
    pub fn body_format(&self) -> Result<BodyFormat, BodyKindError> {
        self.check_encoding()?;
        match self.content_type {
            Field::Absent => Ok(BodyFormat::Json),
            Field::Once(value) => Ok(BodyFormat::of_content_type(value)?),
            Field::Repeated => Err(BodyKindError::RepeatedContentType),
        }
    }

    /// Whether the body can be read as JSON, where it can be nothing else. Its type is not looked at, but
    /// for the character encoding: clients send JSON under all types, and backends may not look at it either.
    pub fn check_json(&self) -> Result<(), BodyKindError> {
        self.check_encoding()?;
        match self.content_type {
            Field::Absent => Ok(()),
            Field::Once(value) => Ok(BodyFormat::check_charset(value)?),
            Field::Repeated => Err(BodyKindError::RepeatedContentType),
        }
    }

    fn check_encoding(&self) -> Result<(), BodyKindError> {
        match self.content_encoding {
            Field::Absent => Ok(()),
            Field::Once(value) if value.eq_ignore_ascii_case(b"identity") => Ok(()),
            Field::Once(_) | Field::Repeated => Err(BodyKindError::Encoded),
        }
    }

    fn present(&mut self, key: &'a [u8], seen: Option<&mut bool>) {
        if key.is_empty() {
            return;
        }
        if let Some(seen) = seen {
            self.repeated_key |= std::mem::replace(seen, true);
        }
        self.keys.push(key);
    }

    fn remove(&mut self, name: &'a str) {
        if !self.remove.contains(&name) {
            self.remove.push(name);
        }
    }
}

impl<'a> Field<'a> {
    fn add(&mut self, value: &'a [u8]) {
        *self = match self {
            Self::Absent => Self::Once(value),
            Self::Once(_) | Self::Repeated => Self::Repeated,
        };
    }
}

/// The token of `Bearer <token>` (RFC 6750); other schemes carry no subscription key.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Whether this is the token of a header that came more than once: Envoy joins those with a comma.
fn is_joined(token: &[u8]) -> bool {
    token
        .split(|&byte| byte == b',')
        .skip(1)
        .any(|value| bearer(value.trim_ascii_start()).is_some())
}

fn parse_length(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(rows: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
        rows.iter().map(|(name, value)| (name.to_string(), value.to_vec())).collect()
    }

    #[test]
    fn every_key_header_is_read_and_removed() {
        let rows: &[(&str, &[(&str, &[u8])], &[&[u8]], &[&str])] = &[
            ("api-key", &[("api-key", b"k")], &[b"k"], &["api-key"]),
            (
                "API Management's header",
                &[("ocp-apim-subscription-key", b"k")],
                &[b"k"],
                &["ocp-apim-subscription-key"],
            ),
            (
                "both, as AnthropicFoundry sends them",
                &[("x-api-key", b"k"), ("api-key", b"k")],
                &[b"k", b"k"],
                &["x-api-key", "api-key"],
            ),
            ("bearer", &[("authorization", b"Bearer k")], &[b"k"], &[]),
            ("bearer in any case", &[("authorization", b"bEARER  k ")], &[b"k"], &[]),
            ("basic is no key", &[("authorization", b"Basic a2V5")], &[], &[]),
            ("scheme alone", &[("authorization", b"Bearer ")], &[], &[]),
            ("empty", &[("api-key", b"")], &[], &["api-key"]),
            ("not utf-8", &[("api-key", b"\xff\xfe")], &[b"\xff\xfe"], &["api-key"]),
            (
                "both, as azure-ai-inference sends them",
                &[("authorization", b"Bearer k"), ("api-key", b"k")],
                &[b"k", b"k"],
                &["api-key"],
            ),
        ];
        for (name, headers, keys, removed) in rows {
            let pairs = pairs(headers);
            let head = Head::read(&pairs);
            assert_eq!((head.keys.as_slice(), head.remove.as_slice()), (*keys, *removed), "{name}");
            assert!(!head.repeated_key, "{name}");
        }
    }

    #[test]
    fn a_key_header_that_comes_twice_is_noticed() {
        for name in KEY_HEADERS {
            assert!(Head::read(&pairs(&[(name, b"k"), (name, b"k")])).repeated_key, "{name}");
        }
        let twice = pairs(&[("authorization", b"Bearer k"), ("authorization", b"Bearer k")]);
        assert!(Head::read(&twice).repeated_key);
        for joined in ["Bearer k,Bearer k", "Bearer k, bearer l", "Bearer k,Basic b,Bearer l"] {
            let joined = pairs(&[("authorization", joined.as_bytes())]);
            assert!(Head::read(&joined).repeated_key);
        }
        let comma = pairs(&[("authorization", b"Bearer k,l")]);
        assert!(!Head::read(&comma).repeated_key, "a key may have a comma");
    }

    #[test]
    fn a_key_among_the_subprotocols_is_read_and_the_others_stay() {
        let header = SUBPROTOCOLS;
        let rows: &[(&str, &[&[u8]], &[&[u8]], Option<&str>, bool)] = &[
            (
                "the official client's",
                &[b"realtime, openai-insecure-api-key.k, openai-beta.realtime-v1"],
                &[b"k"],
                Some("realtime, openai-beta.realtime-v1"),
                false,
            ),
            ("in any case", &[b"a,OpenAI-Insecure-API-Key.K"], &[b"K"], Some("a"), false),
            ("alone", &[b" openai-insecure-api-key.k "], &[b"k"], None, true),
            ("empty", &[b"a, openai-insecure-api-key."], &[], Some("a"), false),
            (
                "in the second of two headers",
                &[b"a,b", b"openai-insecure-api-key.k, c"],
                &[b"k"],
                Some("a, b, c"),
                false,
            ),
            ("none", &[b"realtime,,x , openai-insecure-api-key"], &[], None, false),
        ];
        for (name, values, keys, rest, removed) in rows {
            let pairs: Vec<_> =
                values.iter().map(|value| (header.to_owned(), value.to_vec())).collect();
            let head = Head::read(&pairs);
            assert_eq!(head.keys, *keys, "{name}");
            assert_eq!(head.subprotocols.as_deref(), rest.map(str::as_bytes), "{name}");
            assert_eq!(head.remove == [header], *removed, "{name}");
            assert!(!head.repeated_key, "{name}");
        }
        let twice = b"openai-insecure-api-key.k, openai-insecure-api-key.k";
        assert!(Head::read(&pairs(&[(header, twice)])).repeated_key);
    }

    #[test]
    fn every_header_of_the_filters_own_is_removed_whatever_its_name() {
        let pairs = pairs(&[
            ("x-aoai-cluster", b"azure_identity"),
            ("x-aoai-", b""),
            ("x-aoai-cluster", b"again"),
            ("x-aoai-anything", b"\xff"),
            ("x-aoa", b"not ours"),
        ]);
        let removed = Head::read(&pairs).remove;
        assert_eq!(removed, ["x-aoai-cluster", "x-aoai-", "x-aoai-anything"]);
    }

    #[test]
    fn headers_that_control_the_router_are_removed() {
        let names = [
            "x-envoy-retry-on",
            "x-envoy-retriable-status-codes",
            "x-envoy-retriable-header-names",
            "x-envoy-max-retries",
            "x-envoy-hedge-on-per-try-timeout",
            "x-envoy-upstream-rq-timeout-ms",
            "x-envoy-upstream-rq-per-try-timeout-ms",
            "x-envoy-original-dst-host",
            "x-envoy-upstream-alt-stat-name",
            "x-envoy-ip-tags",
            "x-envoy-decorator-operation",
            "x-envoy-force-trace",
            "x-envoy-expected-rq-timeout-ms",
        ];
        let given: Vec<_> = names.iter().map(|name| (*name, &b"1"[..])).collect();
        assert_eq!(Head::read(&pairs(&given)).remove, names);
        assert!(Head::read(&pairs(&[("x-envoy-internal", b"true")])).remove.is_empty());
    }

    #[test]
    fn a_body_that_cannot_be_read_as_it_stands_is_refused() {
        let rows: &[(&str, &[(&str, &[u8])], Result<(), BodyKindError>)] = &[
            ("no content type", &[], Ok(())),
            ("json", &[("content-type", b"application/json")], Ok(())),
            ("identity", &[("content-encoding", b"Identity")], Ok(())),
            ("gzip", &[("content-encoding", b"gzip")], Err(BodyKindError::Encoded)),
            (
                "two content types",
                &[("content-type", b"application/json"), ("content-type", b"multipart/form-data")],
                Err(BodyKindError::RepeatedContentType),
            ),
        ];
        for (name, headers, expected) in rows {
            let pairs = pairs(headers);
            assert_eq!(Head::read(&pairs).body_format().map(|_| ()), *expected, "{name}");
        }
    }
}
