//! A request's path and query, split and decoded once.
//!
//! What is authorised must be what is sent. So the path is decoded here and nowhere else, everything
//! later looks at the decoded segments, and the path that leaves is written anew from them. Spellings
//! that two parsers could read differently (dot segments, encoded separators, double encoding) are
//! refused rather than repaired; empty segments, which a base URL with a trailing slash makes, go.

use std::borrow::Cow;
use std::ops::Range;

use percent_encoding::{percent_decode, utf8_percent_encode, AsciiSet, NON_ALPHANUMERIC};
use thiserror::Error;

use crate::base::header::KEY_PARAMETERS;

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

/// Names of the query parameters in which realtime names its model, v1 and dated.
const MODEL_PARAMETERS: [&str; 2] = ["model", "deployment"];

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
    /// What is between the `&`, in order and with the empty ones.
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

    /// Whether it can hold a key, and so must not leave.
    pub fn is_key(self) -> bool {
        KEY_PARAMETERS.iter().any(|name| self.is_named(name))
    }

    /// Whether it names a model.
    pub fn is_model(self) -> bool {
        MODEL_PARAMETERS.iter().any(|name| self.is_named(name))
    }

    /// Whether it names a model, or may do so to a parser that reads names more generously.
    pub fn is_like_model(self) -> bool {
        MODEL_PARAMETERS.iter().any(|name| self.is_like(name))
    }

    /// Whether its name is this one to any parser: in any case, between spaces, or with an index in
    /// brackets, as parsers have it that make lists of parameters.
    pub fn is_like(self, name: &str) -> bool {
        let (raw, _) = self.halves();
        let decoded = form_decode(raw);
        let text = String::from_utf8_lossy(&decoded);
        let bare = text.split_once('[').map_or(&*text, |(bare, _)| bare);
        let is_blank = |c: char| c.is_whitespace() || c.is_control();
        bare.trim_matches(is_blank).eq_ignore_ascii_case(name)
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
    if !query.parameters().any(Parameter::is_key) {
        return None;
    }
    let mut kept = start.to_vec();
    let mut separator = b'?';
    for parameter in query.parameters().filter(|&parameter| !parameter.is_key()) {
        kept.push(separator);
        separator = b'&';
        kept.extend_from_slice(parameter.raw);
    }
    Some(kept)
}

/// Which part of a path or query names the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelInUrl {
    /// This segment.
    Segment(usize),
    /// The parameter `model` or `deployment`.
    Parameter,
}

/// A `:path` as it is sent: without keys, and with the place where it names the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenPath {
    bytes: Vec<u8>,
    model: Option<Range<usize>>,
}

impl WrittenPath {
    /// The bytes, with the model's name as the caller wrote it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes with this name in the place of the model's. A deployment's name
    /// ([`crate::config::Placement`]) has no character that would need an escape.
    pub fn with_deployment(&self, deployment: &str) -> Cow<'_, [u8]> {
        let parts = self.model.as_ref().and_then(|at| {
            let (before, model) = (self.bytes.get(..at.start)?, self.bytes.get(at.clone())?);
            Some((before, model, self.bytes.get(at.end..)?))
        });
        match parts {
            Some((before, model, behind)) if model != deployment.as_bytes() => {
                Cow::Owned([before, deployment.as_bytes(), behind].concat())
            }
            _ => Cow::Borrowed(&self.bytes),
        }
    }
}

impl Target<'_> {
    /// Writes the `:path` anew from the decoded segments and the query without keys.
    pub fn write(&self, model: Option<ModelInUrl>) -> WrittenPath {
        let mut path = Vec::with_capacity(128);
        let mut at = None;
        for (index, segment) in self.segments.iter().enumerate() {
            path.push(b'/');
            let start = path.len();
            for piece in utf8_percent_encode(segment, SEGMENT) {
                path.extend_from_slice(piece.as_bytes());
            }
            if model == Some(ModelInUrl::Segment(index)) {
                at = Some(start..path.len());
            }
        }
        if path.is_empty() {
            path.push(b'/');
        }
        let mut separator = b'?';
        for parameter in self.query().parameters().filter(|parameter| !parameter.is_key()) {
            path.push(separator);
            separator = b'&';
            path.extend_from_slice(parameter.raw);
            if model == Some(ModelInUrl::Parameter) && parameter.is_model() {
                at = Some(path.len() - parameter.raw_value().len()..path.len());
            }
        }
        WrittenPath { bytes: path, model: at }
    }
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
    fn a_path_is_written_without_keys_and_all_else_keeps_its_bytes() {
        let rows: &[(&str, &[u8], &[u8])] = &[
            ("no query", b"/a", b"/a"),
            ("no segment", b"//?api-key", b"/"),
            ("empty query", b"/a?", b"/a?"),
            ("untouched", b"/a?x=%41+b&&y&=z&%zz=\xff", b"/a?x=%41+b&&y&=z&%zz=\xff"),
            ("first", b"/a?api-key=1&x=2", b"/a?x=2"),
            ("last", b"/a?x=2&subscription-key=1", b"/a?x=2"),
            ("in between", b"/a?x=2&api-key&y=3", b"/a?x=2&y=3"),
            ("alone", b"/a?api-key=1", b"/a"),
            ("encoded", b"/a?api%2Dkey=1&x", b"/a?x"),
            ("in another case", b"/a?API-KEY=1&x", b"/a?x"),
        ];
        for (name, path, expected) in rows {
            let written = Target::parse(path).unwrap().write(None);
            assert_eq!(written.bytes(), *expected, "{name}");
            assert_eq!(written.with_deployment("d"), *expected, "{name}");
        }
    }

    #[test]
    fn a_deployment_stands_where_the_model_stood() {
        use ModelInUrl::{Parameter, Segment};
        let rows: &[(&str, ModelInUrl, &[u8], &[u8])] = &[
            ("a segment", Segment(1), b"/x/m/y?z", b"/x/d-1/y?z"),
            ("an encoded segment", Segment(1), b"/x/m%2Dm?z=m", b"/x/d-1?z=m"),
            ("a parameter", Parameter, b"/x?a&model=m&b", b"/x?a&model=d-1&b"),
            ("another case", Parameter, b"/x?DEPLOYMENT=m&api-key=k", b"/x?DEPLOYMENT=d-1"),
            ("the same name", Parameter, b"/x?model=d-1", b"/x?model=d-1"),
        ];
        for (name, place, path, expected) in rows {
            let written = Target::parse(path).unwrap().write(Some(*place));
            assert_eq!(written.with_deployment("d-1"), *expected, "{name}");
        }
    }

    #[test]
    fn a_name_that_a_lenient_parser_takes_for_the_models_is_like_it() {
        let rows: &[(&[u8], bool, bool)] = &[
            (b"model", true, true),
            (b"deployment=m", true, true),
            (b"mo%64el=m", true, true),
            (b"MODEL=m", true, true),
            (b"%20model=m", false, true),
            (b"+model=m", false, true),
            (b"model%20=m", false, true),
            (b"model%00=m", false, true),
            (b"%09Deployment+=m", false, true),
            (b"model[]=m", false, true),
            (b"model[0]=m", false, true),
            (b"model%5B%5D=m", false, true),
            (b"deployment[=m", false, true),
            (b"+model+[x][y]=m", false, true),
            (b"models=m", false, false),
            (b"[model]=m", false, false),
            (b"x=model", false, false),
            (b"\xffmodel=m", false, false),
            (b"", false, false),
        ];
        for (raw, is_model, is_like) in rows {
            let path = [b"/a?", *raw].concat();
            let target = Target::parse(&path).unwrap();
            let parameter = target.query().parameters().next().unwrap();
            assert_eq!(
                (parameter.is_model(), parameter.is_like_model()),
                (*is_model, *is_like),
                "{}",
                String::from_utf8_lossy(raw)
            );
        }
    }

    #[test]
    fn keys_are_removed_from_a_path_that_cannot_be_read() {
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
