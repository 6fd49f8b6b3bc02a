//! A request's path and query, split and decoded once.
//!
//! What is authorised must be what is sent. So the path is decoded here and nowhere else, everything
//! later looks at the decoded segments, and the path that leaves is written anew from them. Spellings
//! that two parsers could read differently (dot segments, encoded separators, double encoding) are
//! refused rather than repaired; empty segments, which a base URL with a trailing slash makes, go.

use std::borrow::Cow;

use percent_encoding::{percent_decode, utf8_percent_encode, AsciiSet, NON_ALPHANUMERIC};
use thiserror::Error;

use crate::key::is_key;

/// What a path segment may carry as it is: unreserved and sub-delims of RFC 3986, `:` and `@`.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// Why a path cannot be read in one way only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TargetError {
    /// It does not begin with `/`.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// `.` or `..`, plain or encoded.
    #[error("the path has a dot segment")]
    DotSegment,
    /// A separator, a percent sign, a control character or no UTF-8 inside a segment.
    #[error("the path has a character that other software could read differently")]
    Ambiguous,
}

/// A request's path and query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    segments: Vec<Cow<'a, str>>,
    query: Option<&'a [u8]>,
}

impl<'a> Target<'a> {
    /// Splits the `:path` of a request.
    pub fn parse(path: &'a [u8]) -> Result<Self, TargetError> {
        let (path, query) = match split_once(path, b'?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        let Some(relative) = path.strip_prefix(b"/") else {
            return Err(TargetError::NotAbsolute);
        };
        // As many as the data plane's longest paths have.
        let mut segments = Vec::with_capacity(8);
        for segment in relative.split(|&byte| byte == b'/').filter(|segment| !segment.is_empty()) {
            segments.push(decode_segment(segment)?);
        }
        Ok(Self { segments, query })
    }

    /// The decoded segments of the path, none of them empty.
    pub fn segments(&self) -> &[Cow<'a, str>] {
        &self.segments
    }

    /// The query.
    pub fn query(&self) -> Query<'a> {
        Query(self.query)
    }
}

/// A query string: parameters between `&`, kept as the bytes they came in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Query<'a>(Option<&'a [u8]>);

impl<'a> Query<'a> {
    /// What stands between the `&`, in order and with the empty ones.
    pub fn parameters(self) -> impl Iterator<Item = Parameter<'a>> {
        self.0
            .into_iter()
            .flat_map(|query| query.split(|&byte| byte == b'&'))
            .map(|raw| Parameter { raw })
    }
}

/// One parameter of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter<'a> {
    raw: &'a [u8],
}

impl<'a> Parameter<'a> {
    /// Whether this is the name, however it is encoded and in any case: a key must not slip through
    /// because a backend reads names more generously.
    pub fn is_named(self, name: &str) -> bool {
        let (raw, _) = self.halves();
        form_decode(raw).eq_ignore_ascii_case(name.as_bytes())
    }

    /// The decoded value; empty where there is none.
    pub fn value(self) -> Cow<'a, [u8]> {
        form_decode(self.halves().1)
    }

    /// The bytes of the value as they came.
    pub fn raw_value(self) -> &'a [u8] {
        self.halves().1
    }

    fn halves(self) -> (&'a [u8], &'a [u8]) {
        split_once(self.raw, b'=').unwrap_or((self.raw, b""))
    }
}

/// A `:path` without the parameters that hold a key, however odd the rest of it is; `None` where there
/// are none.
pub fn without_keys(path: &[u8]) -> Option<Vec<u8>> {
    let (start, query) = split_once(path, b'?')?;
    let query = Query(Some(query));
    if !query.parameters().any(is_key) {
        return None;
    }
    let mut kept = start.to_vec();
    let mut separator = b'?';
    for parameter in query.parameters().filter(|&parameter| !is_key(parameter)) {
        kept.push(separator);
        separator = b'&';
        kept.extend_from_slice(parameter.raw);
    }
    Some(kept)
}

/// What becomes of a query parameter on its way to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep<'s> {
    /// It goes on as the bytes it came in.
    AsIs,
    /// It goes on with another value.
    WithValue(&'s str),
    /// It does not go on.
    Drop,
}

/// Writes a `:path` from decoded segments and what `keep` leaves of the query.
pub fn write_path<'s>(
    segments: impl Iterator<Item = &'s str>,
    query: Query<'_>,
    keep: impl Fn(Parameter<'_>) -> Keep<'s>,
) -> Vec<u8> {
    let mut path = Vec::with_capacity(128);
    for segment in segments {
        path.push(b'/');
        for piece in utf8_percent_encode(segment, SEGMENT) {
            path.extend_from_slice(piece.as_bytes());
        }
    }
    if path.is_empty() {
        path.push(b'/');
    }
    let mut separator = b'?';
    for parameter in query.parameters() {
        let value = match keep(parameter) {
            Keep::Drop => continue,
            Keep::AsIs => None,
            Keep::WithValue(value) => Some(value),
        };
        path.push(separator);
        separator = b'&';
        match value {
            None => path.extend_from_slice(parameter.raw),
            Some(value) => {
                path.extend_from_slice(parameter.halves().0);
                path.push(b'=');
                for piece in utf8_percent_encode(value, SEGMENT) {
                    path.extend_from_slice(piece.as_bytes());
                }
            }
        }
    }
    path
}

/// Which part of a path or query names the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rename {
    /// This segment.
    Segment(usize),
    /// The parameter `model` or `deployment`.
    Parameter,
}

/// Names of the query parameters in which realtime names its model, v1 and dated.
const MODEL_PARAMETERS: [&str; 2] = ["model", "deployment"];

/// Whether a query parameter names a model.
pub fn is_model(parameter: Parameter<'_>) -> bool {
    MODEL_PARAMETERS.iter().any(|name| parameter.is_named(name))
}

/// Writes a target without keys, and with a deployment's name where the model's stands.
pub fn write_renamed(target: &Target<'_>, deployment: Option<(Rename, &str)>) -> Vec<u8> {
    let segments = target.segments().iter().enumerate().map(|(index, segment)| match deployment {
        Some((Rename::Segment(at), name)) if at == index => name,
        _ => segment.as_ref(),
    });
    write_path(segments, target.query(), |parameter| match deployment {
        _ if is_key(parameter) => Keep::Drop,
        Some((Rename::Parameter, name))
            if is_model(parameter) && parameter.raw_value() != name.as_bytes() =>
        {
            Keep::WithValue(name)
        }
        _ => Keep::AsIs,
    })
}

fn decode_segment(raw: &[u8]) -> Result<Cow<'_, str>, TargetError> {
    let decoded: Cow<'_, [u8]> = percent_decode(raw).into();
    let decoded = match decoded {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    };
    let segment = decoded.ok_or(TargetError::Ambiguous)?;
    if segment == "." || segment == ".." {
        return Err(TargetError::DotSegment);
    }
    // A percent sign that is still there was encoded twice or belongs to no valid triplet.
    let ambiguous = |c: char| c.is_control() || matches!(c, '/' | '\\' | '%' | '?' | '#');
    if segment.contains(ambiguous) {
        return Err(TargetError::Ambiguous);
    }
    Ok(segment)
}

/// Decodes a query component: `+` is a space there (WHATWG URL, application/x-www-form-urlencoded).
fn form_decode(raw: &[u8]) -> Cow<'_, [u8]> {
    if raw.contains(&b'+') {
        let spaced: Vec<u8> =
            raw.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
        Cow::Owned(percent_decode(&spaced).collect())
    } else {
        percent_decode(raw).into()
    }
}

fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == separator)?;
    Some((bytes.get(..at)?, bytes.get(at + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_reading_or_none() {
        use TargetError::*;
        let rows: &[(&str, &[u8], Result<&[&str], TargetError>)] = &[
            ("plain", b"/openai/v1/models", Ok(&["openai", "v1", "models"])),
            ("root", b"/", Ok(&[])),
            ("double slashes", b"//openai///models/", Ok(&["openai", "models"])),
            ("encoded letter", b"/open%61i/m%2Dx", Ok(&["openai", "m-x"])),
            ("space", b"/openai/a%20b", Ok(&["openai", "a b"])),
            ("query not decoded", b"/a?b=/../c", Ok(&["a"])),
            ("utf-8", "/openai/\u{e9}".as_bytes(), Ok(&["openai", "\u{e9}"])),
            ("encoded utf-8", b"/openai/%C3%A9", Ok(&["openai", "\u{e9}"])),
            ("relative", b"openai", Err(NotAbsolute)),
            ("absolute URL", b"https://a/openai", Err(NotAbsolute)),
            ("asterisk", b"*", Err(NotAbsolute)),
            ("empty", b"", Err(NotAbsolute)),
            ("dot", b"/openai/./models", Err(DotSegment)),
            ("dot dot", b"/openai/deployments/a/../b", Err(DotSegment)),
            ("encoded dots", b"/openai/%2e%2E/b", Err(DotSegment)),
            ("encoded slash", b"/openai/deployments/a%2Fb", Err(Ambiguous)),
            ("backslash", b"/openai\\..\\x", Err(Ambiguous)),
            ("encoded backslash", b"/openai%5C..", Err(Ambiguous)),
            ("encoded twice", b"/openai/%252e%252e/b", Err(Ambiguous)),
            ("bad triplet", b"/openai/%zz", Err(Ambiguous)),
            ("cut triplet", b"/openai/%2", Err(Ambiguous)),
            ("encoded question mark", b"/openai/a%3Fapi-key=x", Err(Ambiguous)),
            ("fragment", b"/openai/a#b", Err(Ambiguous)),
            ("nul", b"/openai/a%00", Err(Ambiguous)),
            ("newline", b"/openai/a%0d%0aHost:b", Err(Ambiguous)),
            ("not utf-8", b"/openai/%ff", Err(Ambiguous)),
            ("raw not utf-8", b"/openai/\xff", Err(Ambiguous)),
        ];
        for (name, path, expected) in rows {
            let segments = Target::parse(path).map(|target| target.segments);
            let expected =
                expected.map(|segments| segments.iter().map(|&s| Cow::from(s)).collect());
            assert_eq!(segments, expected, "{name}");
        }
    }

    #[test]
    fn what_is_kept_of_a_query_keeps_its_bytes() {
        let rows: &[(&str, &[u8], &[u8])] = &[
            ("no query", b"/a", b"/a"),
            ("no segment", b"//?drop", b"/"),
            ("empty query", b"/a?", b"/a?"),
            ("untouched", b"/a?x=%41+b&&y&=z&%zz=\xff", b"/a?x=%41+b&&y&=z&%zz=\xff"),
            ("dropped first", b"/a?drop=1&x=2", b"/a?x=2"),
            ("dropped last", b"/a?x=2&drop=1", b"/a?x=2"),
            ("dropped in between", b"/a?x=2&drop&y=3", b"/a?x=2&y=3"),
            ("dropped alone", b"/a?drop=1", b"/a"),
            ("dropped encoded", b"/a?dr%6Fp=1&x", b"/a?x"),
            ("dropped in another case", b"/a?DROP=1&x", b"/a?x"),
            ("given another value", b"/a?Set=1&x", b"/a?Set=b%20c&x"),
        ];
        for (name, path, expected) in rows {
            let target = Target::parse(path).unwrap();
            let written = write_path(
                target.segments().iter().map(Cow::as_ref),
                target.query(),
                |parameter| match parameter {
                    p if p.is_named("drop") => Keep::Drop,
                    p if p.is_named("set") => Keep::WithValue("b c"),
                    _ => Keep::AsIs,
                },
            );
            assert_eq!(written, *expected, "{name}");
        }
    }

    #[test]
    fn keys_leave_a_path_that_nothing_else_can_be_made_of() {
        let rows: &[(&[u8], Option<&[u8]>)] = &[
            (b"/a", None),
            (b"/a?x=1", None),
            (b"/a?api-key=k", Some(b"/a")),
            (b"/../%zz?x=\xff&subscription%2Dkey=k&&y#", Some(b"/../%zz?x=\xff&&y#")),
            (b"?API-KEY=k", Some(b"")),
        ];
        for (path, expected) in rows {
            assert_eq!(without_keys(path).as_deref(), *expected, "{path:?}");
        }
    }

    #[test]
    fn a_query_value_is_decoded_as_a_form_does() {
        let target = Target::parse(b"/a?k=a+b%2Bc%3D&k=").unwrap();
        let values: Vec<_> = target.query().parameters().map(|p| p.value()).collect();
        assert_eq!(values, [&b"a b+c="[..], b""]);
    }
}
