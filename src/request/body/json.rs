//! The top-level `model` of a JSON document, and other fields that are wanted or refused, found while the
//! document arrives.
//!
//! The top level is read strictly (RFC 8259); what is nested is skipped, with an eye only on strings
//! and brackets and on bytes that JSON does not have outside strings. So no comment, quote or second
//! document can hide from this reader what a lenient parser would see.

use std::borrow::Cow;
use std::ops::Range;

use super::model::{
    begins_like_data_sources, begins_like_model, is_data_sources, is_model, BodyError, ModelField,
    LONGEST_VALUE,
};
use super::skip::{self, Skipped};
use crate::base::json::Node;

/// The longest spelling of a key that could be wanted: every letter as `\uXXXX`, and the quotes.
pub(super) const LONGEST_KEY: usize = "prompt_cache_key".len() * "\\u0000".len() + 2;

/// Reads a JSON object in pieces.
#[derive(Debug, Default)]
pub struct JsonReader {
    state: State,
    /// How many bytes came before the current piece.
    offset: usize,
    /// What earlier pieces had of the key or value that is being read, without the opening quote.
    text: Vec<u8>,
    model: Option<ModelField>,
    /// Other fields by name, with their texts as soon as those are known. Of several the first counts.
    wanted: Vec<(&'static str, Option<String>)>,
    /// Whether `model` is a field like any other.
    ignores_model: bool,
    refuses_data_sources: bool,
}

/// Which field of the document a key names.
#[derive(Debug, Clone, Copy)]
enum Field {
    Model,
    /// By its place among those that are wanted.
    Wanted(usize),
    Other,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    /// Before the object.
    #[default]
    Start,
    /// Behind `{`: a key or the end.
    FirstKey,
    /// Behind a comma: a key.
    Key,
    /// In a string that is kept.
    Kept { kept: Kept, escaped: bool },
    /// Behind a key.
    Colon { field: Field },
    /// Behind a colon.
    Value { field: Field },
    /// In another string of the top level: a key that is too long to be wanted, or a value.
    Skipped { is_key: bool, escaped: bool },
    /// In a number, `true`, `false` or `null`.
    InScalar,
    /// In a nested value; in a string of it, behind a backslash or not.
    Nested { depth: usize, string: Option<bool> },
    /// Behind a value: a comma or the end.
    Comma,
    /// Behind the object.
    End,
}

/// What a string is that is kept.
#[derive(Debug, Clone, Copy)]
enum Kept {
    Key,
    /// The value of a field, which begins at this offset.
    Value {
        field: Field,
        start: usize,
    },
}

impl JsonReader {
    pub(super) fn new(wanted: impl Iterator<Item = &'static str>) -> Self {
        Self { wanted: wanted.map(|name| (name, None)).collect(), ..Self::default() }
    }

    /// Of a document whose model does not matter.
    pub(super) fn without_model() -> Self {
        Self { ignores_model: true, ..Self::default() }
    }

    pub(super) fn refuse_data_sources(&mut self) {
        self.refuses_data_sources = true;
    }

    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        let mut rest = piece;
        while !rest.is_empty() {
            rest = self.read(rest, self.offset + (piece.len() - rest.len()))?;
        }
        self.offset += piece.len();
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

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.wanted.iter().find(|(wanted, _)| *wanted == name)?.1.as_deref()
    }

    /// Reads the next token, or as much of it as is here, and returns what follows it. The first
    /// byte stands at this offset.
    fn read<'a>(&mut self, rest: &'a [u8], position: usize) -> Result<&'a [u8], BodyError> {
        match self.state {
            State::Kept { kept, escaped } => self.keep(kept, escaped, rest, position),
            State::Skipped { is_key, escaped } => {
                let (skipped, rest) = skip::string(rest, escaped)?;
                self.state = match skipped {
                    Skipped::Whole if is_key => State::Colon { field: Field::Other },
                    Skipped::Whole => State::Comma,
                    Skipped::Part { escaped } => State::Skipped { is_key, escaped },
                };
                Ok(rest)
            }
            State::Nested { depth, string } => self.skip_nested(depth, string, rest),
            _ => match rest {
                [byte, behind @ ..] => {
                    self.step(*byte, position)?;
                    Ok(behind)
                }
                [] => Ok(rest),
            },
        }
    }

    /// Reads a byte between strings and nested values.
    fn step(&mut self, byte: u8, position: usize) -> Result<(), BodyError> {
        self.state = match (self.state, byte) {
            (
                state @ (State::Start
                | State::FirstKey
                | State::Key
                | State::Colon { .. }
                | State::Value { .. }
                | State::Comma
                | State::End),
                b' ' | b'\t' | b'\r' | b'\n',
            ) => state,
            (State::Start, b'{') => State::FirstKey,
            (State::FirstKey | State::Comma, b'}') => State::End,
            (State::FirstKey | State::Key, b'"') => State::Kept { kept: Kept::Key, escaped: false },
            (State::Colon { field }, b':') => State::Value { field },
            (State::Value { field: Field::Other }, b'"') => {
                State::Skipped { is_key: false, escaped: false }
            }
            (State::Value { field }, b'"') => {
                State::Kept { kept: Kept::Value { field, start: position }, escaped: false }
            }
            (State::Value { field }, b'{' | b'[') => {
                self.found(field, None, position..position)?;
                State::Nested { depth: 1, string: None }
            }
            (State::Value { field }, byte) if is_scalar(byte) => {
                self.found(field, None, position..position)?;
                State::InScalar
            }
            (State::InScalar, byte) if is_scalar(byte) => State::InScalar,
            (State::InScalar, b' ' | b'\t' | b'\r' | b'\n') => State::Comma,
            (State::InScalar | State::Comma, b',') => State::Key,
            (State::InScalar, b'}') => State::End,
            _ => return Err(BodyError::Unreadable),
        };
        Ok(())
    }

    /// Reads a string that is kept as long as it is not too long.
    fn keep<'a>(
        &mut self,
        kept: Kept,
        escaped: bool,
        rest: &'a [u8],
        position: usize,
    ) -> Result<&'a [u8], BodyError> {
        let limit = match kept {
            Kept::Key => LONGEST_KEY,
            Kept::Value { .. } => LONGEST_VALUE,
        };
        // The opening quote counts, and is not kept.
        let (here, beyond) =
            rest.split_at_checked(limit - 1 - self.text.len()).unwrap_or((rest, &[]));
        let (skipped, behind) = skip::string(here, escaped)?;
        match skipped {
            Skipped::Whole => {
                let length = here.len() - behind.len();
                let end = position + length;
                let here = here.get(..length - 1).unwrap_or_default();
                // Most strings come in one piece, and are read where they are.
                let earlier = std::mem::take(&mut self.text);
                if earlier.is_empty() {
                    self.kept(kept, here, end)?;
                } else {
                    self.kept(kept, &[earlier.as_slice(), here].concat(), end)?;
                }
                Ok(rest.get(length..).unwrap_or_default())
            }
            Skipped::Part { escaped } if beyond.is_empty() => {
                self.text.extend_from_slice(here);
                self.state = State::Kept { kept, escaped };
                Ok(beyond)
            }
            Skipped::Part { escaped } => {
                let mut beginning = std::mem::take(&mut self.text);
                if let [0x20..=0xff, ..] = beyond {
                    match kept {
                        Kept::Key => {
                            beginning.extend_from_slice(here);
                            self.check_long_key(&beginning)?;
                        }
                        Kept::Value { field, .. } => self.found(field, None, position..position)?,
                    }
                }
                self.state = State::Skipped { is_key: matches!(kept, Kept::Key), escaped };
                Ok(beyond)
            }
        }
    }

    /// Keeps the text of a string whose bytes, without quotes, are all here.
    fn kept(&mut self, kept: Kept, text: &[u8], end: usize) -> Result<(), BodyError> {
        self.state = match kept {
            Kept::Key => State::Colon { field: self.field(text)? },
            Kept::Value { field, start } => {
                self.found(field, decode(text).map(Cow::into_owned), start..end)?;
                State::Comma
            }
        };
        Ok(())
    }

    fn skip_nested<'a>(
        &mut self,
        mut depth: usize,
        mut string: Option<bool>,
        mut rest: &'a [u8],
    ) -> Result<&'a [u8], BodyError> {
        loop {
            if let Some(escaped) = string {
                let (skipped, behind) = skip::string(rest, escaped)?;
                rest = behind;
                if let Skipped::Part { escaped } = skipped {
                    self.state = State::Nested { depth, string: Some(escaped) };
                    return Ok(rest);
                }
                string = None;
            }
            rest = skip::between_strings(rest);
            match rest {
                [] => {
                    self.state = State::Nested { depth, string };
                    return Ok(rest);
                }
                [b'"', behind @ ..] => (string, rest) = (Some(false), behind),
                [b'{' | b'[', behind @ ..] => (depth, rest) = (depth + 1, behind),
                [b'}' | b']', behind @ ..] if depth == 1 => {
                    self.state = State::Comma;
                    return Ok(behind);
                }
                [b'}' | b']', behind @ ..] => (depth, rest) = (depth - 1, behind),
                _ => return Err(BodyError::Unreadable),
            }
        }
    }

    fn field(&self, key: &[u8]) -> Result<Field, BodyError> {
        let name = decode(key).ok_or(BodyError::Unreadable)?;
        if self.refuses_data_sources && is_data_sources(&name) {
            return Err(BodyError::DataSources);
        }
        if !self.ignores_model && is_model(&name)? {
            return if self.model.is_some() { Err(BodyError::TwoModels) } else { Ok(Field::Model) };
        }
        let new = self.wanted.iter().position(|(wanted, text)| *wanted == name && text.is_none());
        Ok(new.map_or(Field::Other, Field::Wanted))
    }

    /// Looks at the beginning of a key that is too long to be wanted, without its quote: with enough white
    /// space around it, `model` is that long too.
    pub(super) fn check_long_key(&self, beginning: &[u8]) -> Result<(), BodyError> {
        let text = beginning_of(beginning).ok_or(BodyError::Unreadable)?;
        if self.refuses_data_sources && begins_like_data_sources(&text) {
            return Err(BodyError::DataSources);
        }
        if !self.ignores_model && begins_like_model(&text) {
            return Err(BodyError::TwoModels);
        }
        Ok(())
    }

    /// Keeps what a field is: this text at this place, or nothing of use.
    fn found(
        &mut self,
        field: Field,
        text: Option<String>,
        at: Range<usize>,
    ) -> Result<(), BodyError> {
        match field {
            Field::Model => {
                let name = text.ok_or(BodyError::NotAString)?;
                self.model = Some(ModelField { name, at });
            }
            Field::Wanted(which) => {
                if let Some((_, known)) = self.wanted.get_mut(which) {
                    *known = Some(text.unwrap_or_default());
                }
            }
            Field::Other => {}
        }
        Ok(())
    }
}

/// What numbers and literals are made of.
fn is_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

/// The text of a key that is cut off after these bytes, without its quote.
fn beginning_of(key: &[u8]) -> Option<Cow<'_, str>> {
    // It may end within an escape, the longest of which is that of a surrogate pair, or a character.
    let ends = (0.."\\ud83d\\ude00".len()).map_while(|cut| key.len().checked_sub(cut));
    ends.filter_map(|end| key.get(..end).and_then(decode)).next()
}

/// The text of a string, whose bytes are given without quotes, unless it is no valid JSON string.
fn decode(text: &[u8]) -> Option<Cow<'_, str>> {
    if !text.contains(&b'\\') {
        return std::str::from_utf8(text).ok().map(Cow::Borrowed);
    }
    match Node::from_json(&[b"\"", text, b"\""].concat()) {
        Ok(Node::String(text)) => Some(Cow::Owned(text)),
        _ => None,
    }
}
