//! The `model` field of a `multipart/form-data` body (RFC 7578), found while the body arrives.
//!
//! Parsers of forms differ in what they forgive. This reader forgives nothing that could make another
//! one see a different form: delimiters stand behind CRLF, a part has one plain `name`, and whatever
//! looks like a delimiter without being one is refused.

use super::{is_model, BodyError, ModelField, LONGEST_VALUE};

/// The longest header section of a part; browsers and SDKs write two short lines.
const LONGEST_HEADERS: usize = 4096;

/// RFC 2046, 5.1.1.
const LONGEST_BOUNDARY: usize = 70;

/// Reads a form in pieces.
#[derive(Debug)]
pub struct MultipartReader {
    /// `--` and the boundary, with the line feed before it.
    delimiter: Vec<u8>,
    state: State,
    /// What has come and is not decided yet.
    pending: Vec<u8>,
    /// How many bytes of the body were decided before `pending`.
    offset: usize,
    model: Option<ModelField>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first delimiter.
    Start,
    /// Behind a delimiter: the end of its line, or `--`.
    Delimiter,
    /// In a part's headers.
    Headers,
    /// In the model's value.
    Model,
    /// In another part's content; whether the last byte that was passed over is CR.
    Content { behind_cr: bool },
    /// Behind the last delimiter.
    End,
}

/// What a step did with the pending bytes.
enum Step {
    /// So many of them are decided; go on in this state.
    Take(usize, State),
    /// More must come first.
    More,
}

impl MultipartReader {
    pub(super) fn new(boundary: &str) -> Self {
        Self {
            delimiter: [b"\n--", boundary.as_bytes()].concat(),
            state: State::Start,
            pending: Vec::new(),
            offset: 0,
            model: None,
        }
    }

    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        self.pending.extend_from_slice(piece);
        while let Step::Take(length, state) = self.step()? {
            self.pending.drain(..length.min(self.pending.len()));
            self.offset += length;
            self.state = state;
            if length == 0 {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn finish(&self) -> Result<(), BodyError> {
        match self.state {
            State::End => Ok(()),
            _ => Err(BodyError::Incomplete),
        }
    }

    pub(super) fn model(&self) -> Option<&ModelField> {
        self.model.as_ref()
    }

    fn step(&mut self) -> Result<Step, BodyError> {
        match self.state {
            State::Start => self.start(),
            State::Delimiter => self.delimiter_line(),
            State::Headers => self.headers(),
            State::Model => self.model_value(),
            State::Content { behind_cr } => self.content(behind_cr),
            State::End => self.epilogue(),
        }
    }

    /// A preamble is allowed by RFC 2046 and written by nobody; generous parsers differ about it.
    fn start(&self) -> Result<Step, BodyError> {
        let first = self.delimiter.get(1..).unwrap_or_default();
        let come = self.pending.len().min(first.len());
        match (self.pending.get(..come), first.get(..come)) {
            (Some(pending), Some(expected)) if pending == expected => Ok(if come == first.len() {
                Step::Take(come, State::Delimiter)
            } else {
                Step::More
            }),
            _ => Err(BodyError::Unreadable),
        }
    }

    fn delimiter_line(&self) -> Result<Step, BodyError> {
        match self.pending.as_slice() {
            [b'\r', b'\n', ..] => Ok(Step::Take(2, State::Headers)),
            [b'-', b'-', ..] => Ok(Step::Take(2, State::End)),
            [] | [b'\r'] | [b'-'] => Ok(Step::More),
            _ => Err(BodyError::Unreadable),
        }
    }

    fn headers(&self) -> Result<Step, BodyError> {
        const END: &[u8] = b"\r\n\r\n";
        let found = find(&self.pending, END);
        let length = found.unwrap_or_else(|| (self.pending.len() + 1).saturating_sub(END.len()));
        if length > LONGEST_HEADERS {
            return Err(BodyError::Unreadable);
        }
        if found.is_none() {
            return Ok(Step::More);
        }
        let headers = self.pending.get(..length).unwrap_or_default();
        let state = match part_name(headers).ok_or(BodyError::Unreadable)? {
            PartName { name, plain } if is_model(name)? => {
                if self.model.is_some() {
                    return Err(BodyError::TwoModels);
                }
                if !plain {
                    return Err(BodyError::NotAString);
                }
                return Ok(Step::Take(length + END.len(), State::Model));
            }
            _ => State::Content { behind_cr: true },
        };
        // The line break of the empty line may belong to a delimiter: a part without content.
        Ok(Step::Take(length + END.len() - 1, state))
    }

    fn model_value(&mut self) -> Result<Step, BodyError> {
        let found = find(&self.pending, &self.delimiter);
        // The line feed of the delimiter stands here, or not before here.
        let feed =
            found.unwrap_or_else(|| (self.pending.len() + 1).saturating_sub(self.delimiter.len()));
        if feed > LONGEST_VALUE + 1 {
            return Err(BodyError::NotAString);
        }
        if found.is_none() {
            return Ok(Step::More);
        }
        let value = self.pending.get(..feed).and_then(|value| value.strip_suffix(b"\r"));
        let value = value.ok_or(BodyError::Unreadable)?;
        // A part without content, and another one that pretends to be this one's.
        if value.starts_with(self.delimiter.get(1..).unwrap_or_default()) {
            return Err(BodyError::Unreadable);
        }
        let name = std::str::from_utf8(value).map_err(|_| BodyError::NotAString)?;
        self.model =
            Some(ModelField { name: name.to_owned(), at: self.offset..self.offset + value.len() });
        Ok(Step::Take(feed + self.delimiter.len(), State::Delimiter))
    }

    fn content(&self, behind_cr: bool) -> Result<Step, BodyError> {
        let is_cr = |length: usize| match length.checked_sub(1) {
            Some(last) => self.pending.get(last) == Some(&b'\r'),
            None => behind_cr,
        };
        if let Some(feed) = find(&self.pending, &self.delimiter) {
            return if is_cr(feed) {
                Ok(Step::Take(feed + self.delimiter.len(), State::Delimiter))
            } else {
                Err(BodyError::Unreadable)
            };
        }
        // All but what could be the beginning of a delimiter.
        let decided = self.pending.len().saturating_sub(self.delimiter.len() - 1);
        if decided == 0 {
            return Ok(Step::More);
        }
        Ok(Step::Take(decided, State::Content { behind_cr: is_cr(decided) }))
    }

    /// Some clients end with a line break. More than that would be a second form.
    fn epilogue(&self) -> Result<Step, BodyError> {
        if self.pending.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            Ok(Step::Take(self.pending.len(), State::End))
        } else {
            Err(BodyError::Unreadable)
        }
    }
}

struct PartName<'a> {
    name: &'a str,
    /// Neither a file nor encoded.
    plain: bool,
}

/// The name of a part, if its headers give exactly one, in a way that all parsers read alike.
fn part_name(headers: &[u8]) -> Option<PartName<'_>> {
    let headers = std::str::from_utf8(headers).ok()?;
    let mut found: Option<PartName<'_>> = None;
    let mut encoded = false;
    for line in headers.split("\r\n") {
        if line.contains(['\r', '\n']) {
            return None;
        }
        let (field, value) = line.split_once(':')?;
        // A folded line begins with white space; a field name has none anywhere.
        if field.is_empty() || field.contains([' ', '\t']) {
            return None;
        }
        if field.eq_ignore_ascii_case("content-disposition") {
            if found.is_some() {
                return None;
            }
            found = Some(disposition(value)?);
        } else if field.eq_ignore_ascii_case("content-transfer-encoding") {
            encoded = true;
        }
    }
    found.map(|part| PartName { plain: part.plain && !encoded, ..part })
}

fn disposition(value: &str) -> Option<PartName<'_>> {
    let (kind, parameters) = value.split_once(';').unwrap_or((value, ""));
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return None;
    }
    let mut name = None;
    let mut plain = true;
    for (parameter, value) in parameters_of(parameters)? {
        if parameter.eq_ignore_ascii_case("name") {
            if value.contains('\\') || name.replace(value).is_some() {
                return None;
            }
        } else if parameter.eq_ignore_ascii_case("name*") {
            return None;
        } else {
            plain = false;
        }
    }
    name.map(|name| PartName { name, plain })
}

/// The boundary among the parameters of a content type, if there is exactly one that RFC 2046 allows.
pub(super) fn boundary(parameters: &str) -> Option<String> {
    let mut found = None;
    for (name, value) in parameters_of(parameters)? {
        if name.eq_ignore_ascii_case("boundary") && found.replace(value).is_some() {
            return None;
        }
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "'()+_,-./:=? ".contains(c);
    found
        .filter(|boundary| {
            (1..=LONGEST_BOUNDARY).contains(&boundary.len())
                && boundary.chars().all(is_allowed)
                && !boundary.ends_with(' ')
        })
        .map(str::to_owned)
}

/// `; name=value; name="quoted"`. Browsers and SDKs write `%22` for a quote inside; about `\"` parsers
/// differ, so it is refused.
fn parameters_of(mut rest: &str) -> Option<Vec<(&str, &str)>> {
    let mut parameters = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() {
            return Some(parameters);
        }
        let (name, behind) = rest.split_once('=')?;
        let name = name.trim();
        let (value, behind) = match behind.trim_start().strip_prefix('"') {
            Some(quoted) => quoted_string(quoted)?,
            None => {
                let end = behind.find(';').unwrap_or(behind.len());
                let (value, behind) = behind.split_at_checked(end)?;
                // Envoy joins repeated headers with a comma; a token has none.
                if value.contains([',', '"']) {
                    return None;
                }
                (value.trim(), behind)
            }
        };
        let behind = behind.trim_start();
        if name.is_empty() || name.contains(['"', ';', ' ']) {
            return None;
        }
        if !(behind.is_empty() || behind.starts_with(';')) {
            return None;
        }
        parameters.push((name, value));
        rest = behind;
    }
}

/// The text up to the closing quote, and what stands behind it.
fn quoted_string(quoted: &str) -> Option<(&str, &str)> {
    let (value, behind) = quoted.split_once('"')?;
    (!value.ends_with('\\')).then_some((value, behind))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let (&first, _) = needle.split_first()?;
    let mut from = 0;
    while let Some(found) = haystack.get(from..)?.iter().position(|&byte| byte == first) {
        let at = from + found;
        if haystack.get(at..)?.starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}
