//! The `model` field of a `multipart/form-data` body (RFC 7578), found while the body arrives.
//!
//! Parsers of forms differ in what they forgive. This reader forgives nothing that could make another
//! one see a different form: delimiters stand behind CRLF, a part has one plain `name`, and whatever
//! looks like a delimiter without being one is refused.

use memchr::{memchr2, memmem};

use super::model::{is_data_sources, is_model, BodyError, ModelField, LONGEST_VALUE};

/// The longest header section of a part; browsers and SDKs write two short lines.
const LONGEST_HEADERS: usize = 4096;

/// How much of a piece is put behind what is pending at once.
const CONTINUATION: usize = 256;

/// RFC 2046, 5.1.1.
const LONGEST_BOUNDARY: usize = 70;

/// White space of header fields. To some parsers other characters of Unicode are white space, too.
const BLANKS: [char; 2] = [' ', '\t'];

/// Reads a form in pieces.
#[derive(Debug)]
pub struct MultipartReader {
    /// `--` and the boundary.
    dashed: Vec<u8>,
    /// Finds that.
    finder: memmem::Finder<'static>,
    state: State,
    /// The end of what has come, if that is not decided yet.
    pending: Vec<u8>,
    /// How many bytes of the body are decided.
    offset: usize,
    model: Option<ModelField>,
    refuses_data_sources: bool,
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
    /// In another part's content, behind these two bytes.
    Content { behind: [u8; 2] },
    /// Behind the last delimiter.
    End,
}

/// What a step did with the bytes that are not decided.
enum Step {
    /// So many of them are read; continue in this state.
    Take(usize, State),
    /// More must come first.
    More,
}

impl MultipartReader {
    pub(super) fn new(boundary: &str) -> Self {
        let dashed = [b"--", boundary.as_bytes()].concat();
        Self {
            finder: memmem::Finder::new(&dashed).into_owned(),
            dashed,
            state: State::Start,
            pending: Vec::new(),
            offset: 0,
            model: None,
            refuses_data_sources: false,
        }
    }

    pub(super) fn refuse_data_sources(&mut self) {
        self.refuses_data_sources = true;
    }

    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        let mut rest = piece;
        // What is pending is continued until all of it is decided: a piece is long, and not copied.
        while !self.pending.is_empty() {
            if rest.is_empty() {
                return Ok(());
            }
            let (next, behind) = rest.split_at_checked(CONTINUATION).unwrap_or((rest, &[]));
            let mut pending = std::mem::take(&mut self.pending);
            let earlier = pending.len();
            pending.extend_from_slice(next);
            let undecided = self.read(&pending)?.len();
            if undecided > next.len() {
                let decided = pending.len() - undecided;
                pending.drain(..decided);
                self.pending = pending;
                rest = behind;
            } else {
                rest = rest.get(pending.len() - undecided - earlier..).unwrap_or_default();
            }
        }
        let undecided = self.read(rest)?;
        self.pending.extend_from_slice(undecided);
        Ok(())
    }

    /// Reads what follows the decided bytes, and returns what remains undecided.
    fn read<'a>(&mut self, mut rest: &'a [u8]) -> Result<&'a [u8], BodyError> {
        while let Step::Take(length, state) = self.step(rest)? {
            rest = rest.get(length..).unwrap_or_default();
            self.offset += length;
            self.state = state;
            if length == 0 {
                break;
            }
        }
        Ok(rest)
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

    /// Whether the name or the value of a part is not known yet whose beginning has come.
    pub(super) fn is_undecided(&self) -> bool {
        matches!(self.state, State::Delimiter | State::Headers | State::Model)
    }

    fn step(&mut self, rest: &[u8]) -> Result<Step, BodyError> {
        match self.state {
            State::Start => self.start(rest),
            State::Delimiter => delimiter_line(rest),
            State::Headers => self.headers(rest),
            State::Model => self.model_value(rest),
            State::Content { behind } => self.content(rest, behind),
            State::End => epilogue(rest),
        }
    }

    /// A preamble is allowed by RFC 2046, but no client writes one, and tolerant parsers differ about it.
    fn start(&self, rest: &[u8]) -> Result<Step, BodyError> {
        if rest.starts_with(&self.dashed) {
            Ok(Step::Take(self.dashed.len(), State::Delimiter))
        } else if self.dashed.starts_with(rest) {
            Ok(Step::More)
        } else {
            Err(BodyError::Unreadable)
        }
    }

    fn headers(&self, rest: &[u8]) -> Result<Step, BodyError> {
        const END: &[u8] = b"\r\n\r\n";
        let found = memmem::find(rest, END);
        let length = found.unwrap_or_else(|| (rest.len() + 1).saturating_sub(END.len()));
        if length > LONGEST_HEADERS {
            return Err(BodyError::Unreadable);
        }
        if found.is_none() {
            // A parser that takes one for a line's end would see other headers, and find their end.
            return if has_bare_break(rest) { Err(BodyError::Unreadable) } else { Ok(Step::More) };
        }
        let headers = rest.get(..length).unwrap_or_default();
        let part = part_name(headers).ok_or(BodyError::Unreadable)?;
        if self.refuses_data_sources && is_data_sources(part.name) {
            return Err(BodyError::DataSources);
        }
        let state = if is_model(part.name)? {
            if self.model.is_some() {
                return Err(BodyError::TwoModels);
            }
            if !part.plain {
                return Err(BodyError::NotAString);
            }
            State::Model
        } else {
            // Where a part has no content, the delimiter has a line break of its own all the same: to some
            // parsers the empty line's is not the delimiter's.
            State::Content { behind: *b"\n\n" }
        };
        Ok(Step::Take(length + END.len(), state))
    }

    fn model_value(&mut self, rest: &[u8]) -> Result<Step, BodyError> {
        let delimiter = [b"\r\n", self.dashed.as_slice()].concat();
        let found = memmem::find(rest, &delimiter);
        // The delimiter stands here, or not before here.
        let length = found.unwrap_or_else(|| (rest.len() + 1).saturating_sub(delimiter.len()));
        if length > LONGEST_VALUE {
            return Err(BodyError::NotAString);
        }
        if found.is_none() {
            return Ok(Step::More);
        }
        let value = rest.get(..length).unwrap_or_default();
        // What another parser could take for a delimiter, such as that of a part without content.
        if self.finder.find(value).is_some() {
            return Err(BodyError::Unreadable);
        }
        let name = std::str::from_utf8(value).map_err(|_| BodyError::NotAString)?;
        let at = self.offset..self.offset + length;
        self.model = Some(ModelField { name: name.to_owned(), at });
        Ok(Step::Take(length + delimiter.len(), State::Delimiter))
    }

    fn content(&self, rest: &[u8], behind: [u8; 2]) -> Result<Step, BodyError> {
        let before = |at: usize| match (at.checked_sub(2), at.checked_sub(1)) {
            (Some(two), Some(one)) => {
                [rest.get(two), rest.get(one)].map(|b| b.copied().unwrap_or(0))
            }
            (None, Some(one)) => [behind[1], rest.get(one).copied().unwrap_or(0)],
            _ => behind,
        };
        if let Some(at) = self.finder.find(rest) {
            let end = at + self.dashed.len();
            return match before(at) {
                [b'\r', b'\n'] => Ok(Step::Take(end, State::Delimiter)),
                // A line break to some parsers, and none to others.
                [_, b'\n' | b'\r'] => Err(BodyError::Unreadable),
                // No other place counts up to the next line break, which is not within a boundary: one of
                // dashes is found everywhere in a line of them.
                _ => {
                    let behind = rest.get(end..).unwrap_or_default();
                    let end = end + memchr2(b'\r', b'\n', behind).unwrap_or(behind.len());
                    Ok(Step::Take(end, State::Content { behind: before(end) }))
                }
            };
        }
        // All but what could be the beginning of a delimiter.
        let decided = (rest.len() + 1).saturating_sub(self.dashed.len());
        if decided == 0 {
            return Ok(Step::More);
        }
        Ok(Step::Take(decided, State::Content { behind: before(decided) }))
    }
}

/// Whether there is a CR without an LF behind it, or an LF without a CR before it. A CR at the end may have
/// its LF still.
fn has_bare_break(bytes: &[u8]) -> bool {
    let pairs = bytes.iter().zip(bytes.iter().skip(1));
    bytes.first() == Some(&b'\n')
        || pairs.into_iter().any(|(one, next)| (*one == b'\r') != (*next == b'\n'))
}

fn delimiter_line(rest: &[u8]) -> Result<Step, BodyError> {
    match rest {
        [b'\r', b'\n', ..] => Ok(Step::Take(2, State::Headers)),
        [b'-', b'-', ..] => Ok(Step::Take(2, State::End)),
        [] | [b'\r'] | [b'-'] => Ok(Step::More),
        _ => Err(BodyError::Unreadable),
    }
}

/// Some clients end with a line break. More than that would be a second form.
fn epilogue(rest: &[u8]) -> Result<Step, BodyError> {
    if rest.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
        Ok(Step::Take(rest.len(), State::End))
    } else {
        Err(BodyError::Unreadable)
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
        // So no line is a folded one either.
        if !is_token(field) {
            return None;
        }
        if field.eq_ignore_ascii_case("content-disposition") {
            if found.is_some() {
                return None;
            }
            found = Some(disposition(value)?);
        } else if field.eq_ignore_ascii_case("content-transfer-encoding") {
            encoded = true;
        } else if field.eq_ignore_ascii_case("content-type") && is_composite(value) {
            return None;
        }
    }
    found.map(|part| PartName { plain: part.plain && !encoded, ..part })
}

fn disposition(value: &str) -> Option<PartName<'_>> {
    let (kind, parameters) = value.split_once(';').unwrap_or((value, ""));
    if !kind.trim_matches(BLANKS).eq_ignore_ascii_case("form-data") {
        return None;
    }
    let mut name = None;
    let mut plain = true;
    for Parameter { name: parameter, value, is_quoted } in parameters_of(parameters)? {
        // Without quotes, some parsers end a value at the first character that is not of a token.
        if !is_quoted && !is_token(value) {
            return None;
        }
        match parameter {
            "name" if name.is_none() && is_plain(value) => name = Some(value),
            // Some parsers search for a name without an eye on quotes.
            "filename" | "filename*" if !has_name(value) => plain = false,
            // Twice, encoded or in pieces (RFC 2231, RFC 2047), or in another case: parsers differ.
            _ => return None,
        }
    }
    name.map(|name| PartName { name, plain })
}

/// Whether a content type is one of parts within the part (RFC 2046, 5), which parsers of mail take for
/// parts of the form.
fn is_composite(content_type: &str) -> bool {
    let kind = content_type.trim_start().split('/').next().unwrap_or_default();
    ["multipart", "message"].iter().any(|composite| kind.eq_ignore_ascii_case(composite))
}

/// Whether a value has what looks like the parameter `name`.
fn has_name(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    let mut behind = value.split("name").skip(1);
    behind.any(|rest| rest.trim_start().starts_with('='))
}

/// Whether all parsers read a name alike.
fn is_plain(name: &str) -> bool {
    !name.contains("=?") && !has_name(name) && !name.contains(|c: char| c.is_control() || c == '\\')
}

/// The boundary among the parameters of a content type, if there is exactly one that RFC 2046 allows.
pub(super) fn boundary(parameters: &str) -> Option<String> {
    let mut found = None;
    for Parameter { name, value, .. } in parameters_of(parameters)? {
        let is_boundary = name.eq_ignore_ascii_case("boundary");
        // Encoded, in pieces, or twice.
        if name.contains('*') || is_boundary && found.replace(value).is_some() {
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

/// A parameter of a header field.
struct Parameter<'a> {
    name: &'a str,
    /// Without the quotes.
    value: &'a str,
    is_quoted: bool,
}

/// `; name=value; name="quoted"`, without blanks at the `=`, about which parsers differ. Browsers and SDKs
/// write `%22` for a quote inside; about `\"` parsers differ, so it is refused.
fn parameters_of(mut rest: &str) -> Option<Vec<Parameter<'_>>> {
    let mut parameters = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() {
            return Some(parameters);
        }
        let (name, behind) = rest.split_once('=')?;
        if !is_token(name) {
            return None;
        }
        let (value, is_quoted, behind) = match behind.strip_prefix('"') {
            Some(quoted) => {
                let (value, behind) = quoted_string(quoted)?;
                (value, true, behind)
            }
            None => {
                let end = behind.find(';').unwrap_or(behind.len());
                let (value, behind) = behind.split_at_checked(end)?;
                let value = value.trim_end_matches(BLANKS);
                // Many write a boundary with `=` or `/` without quotes. White space, parentheses and
                // commas end a value for some parsers, and Envoy joins repeated headers by the last.
                if value.contains([',', '"', '(', ')', ' ', '\t']) {
                    return None;
                }
                (value, false, behind)
            }
        };
        rest = behind.trim_start_matches(BLANKS);
        if !(rest.is_empty() || rest.starts_with(';')) {
            return None;
        }
        parameters.push(Parameter { name, value, is_quoted });
    }
}

/// The text up to the closing quote, and what follows it.
fn quoted_string(quoted: &str) -> Option<(&str, &str)> {
    let (value, behind) = quoted.split_once('"')?;
    (!value.ends_with('\\')).then_some((value, behind))
}

/// RFC 9110, 5.6.2.
fn is_token(text: &str) -> bool {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(is_token)
}
