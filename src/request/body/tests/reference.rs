//! The reader of JSON that looks at one byte after the other: the reference for the fast one.

use std::ops::Range;

use super::super::json::LONGEST_KEY;
use super::super::model::{begins_like_model, is_model, BodyError, ModelField, LONGEST_VALUE};
use crate::base::json::fields::beginning_of;
use crate::config::Node;

/// As [`super::super::json::JsonReader`].
#[derive(Debug, Default)]
pub(super) struct Reference {
    state: State,
    /// How many bytes have come.
    offset: usize,
    model: Option<ModelField>,
    /// Other fields by name, with their texts as soon as those are known. Of several the first counts.
    wanted: Vec<(&'static str, Option<String>)>,
}

/// Which field of the document a key names.
#[derive(Debug, Clone, Copy)]
enum Field {
    Model,
    /// By its place among those that are wanted.
    Wanted(usize),
    Other,
}

#[derive(Debug, Default)]
enum State {
    /// Before the object.
    #[default]
    Start,
    /// Behind `{`: a key or the end.
    FirstKey,
    /// Behind a comma: a key.
    Key,
    /// In a key.
    InKey(Text),
    /// Behind a key.
    Colon { field: Field },
    /// Behind a colon.
    Value { field: Field },
    /// In a string that is the value of a field, which began at this offset.
    InText { field: Field, text: Text, start: usize },
    /// In another top-level string.
    InString { escaped: bool },
    /// In a number, `true`, `false` or `null`.
    InScalar,
    /// In a nested value.
    Nested { depth: usize, string: Option<Escaped> },
    /// Behind a value: a comma or the end.
    Comma,
    /// Behind the object.
    End,
}

type Escaped = bool;

/// A string as it is written, with its quotes, up to a limit.
#[derive(Debug, Default)]
struct Text {
    raw: Vec<u8>,
    too_long: bool,
    escaped: bool,
}

impl Reference {
    pub(super) fn new(wanted: impl Iterator<Item = &'static str>) -> Self {
        Self { wanted: wanted.map(|name| (name, None)).collect(), ..Self::default() }
    }

    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        for byte in piece {
            self.step(*byte, self.offset)?;
            self.offset += 1;
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

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.wanted.iter().find(|(wanted, _)| *wanted == name)?.1.as_deref()
    }

    fn step(&mut self, byte: u8, position: usize) -> Result<(), BodyError> {
        let state = std::mem::take(&mut self.state);
        self.state = match (state, byte) {
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
            (State::FirstKey | State::Key, b'"') => State::InKey(Text::opened()),
            (State::InKey(mut text), byte) => {
                let ended = text.add(byte, LONGEST_KEY)?;
                if text.too_long {
                    let text = beginning_of(&text.raw[1..]).ok_or(BodyError::Unreadable)?;
                    if begins_like_model(&text) {
                        return Err(BodyError::TwoModels);
                    }
                }
                match ended {
                    Ended::NotYet => State::InKey(text),
                    Ended::Here => State::Colon { field: self.field(&text)? },
                }
            }
            (State::Colon { field }, b':') => State::Value { field },
            (State::Value { field: Field::Other }, b'"') => State::InString { escaped: false },
            (State::Value { field }, b'"') => {
                State::InText { field, text: Text::opened(), start: position }
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
            (State::InText { field, mut text, start }, byte) => {
                match text.add(byte, LONGEST_VALUE)? {
                    Ended::NotYet if text.too_long => {
                        self.found(field, None, start..position)?;
                        State::InString { escaped: text.escaped }
                    }
                    Ended::NotYet => State::InText { field, text, start },
                    Ended::Here => {
                        self.found(field, text.decode(), start..position + 1)?;
                        State::Comma
                    }
                }
            }
            (State::InString { escaped }, byte) => match in_string(byte, escaped)? {
                Some(escaped) => State::InString { escaped },
                None => State::Comma,
            },
            (State::InScalar, b' ' | b'\t' | b'\r' | b'\n') => State::Comma,
            (State::InScalar | State::Comma, b',') => State::Key,
            (State::InScalar, b'}') => State::End,
            (State::Nested { depth, string: Some(escaped) }, byte) => {
                State::Nested { depth, string: in_string(byte, escaped)? }
            }
            (State::Nested { depth, string: None }, byte) => match byte {
                b'"' => State::Nested { depth, string: Some(false) },
                b'{' | b'[' => State::Nested { depth: depth + 1, string: None },
                b'}' | b']' if depth == 1 => State::Comma,
                b'}' | b']' => State::Nested { depth: depth - 1, string: None },
                b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' => State::Nested { depth, string: None },
                byte if is_scalar(byte) => State::Nested { depth, string: None },
                _ => return Err(BodyError::Unreadable),
            },
            _ => return Err(BodyError::Unreadable),
        };
        Ok(())
    }

    fn field(&self, key: &Text) -> Result<Field, BodyError> {
        if key.too_long {
            return Ok(Field::Other);
        }
        let name = key.decode().ok_or(BodyError::Unreadable)?;
        if is_model(&name)? {
            return if self.model.is_some() { Err(BodyError::TwoModels) } else { Ok(Field::Model) };
        }
        let new = self.wanted.iter().position(|(wanted, text)| *wanted == name && text.is_none());
        Ok(new.map_or(Field::Other, Field::Wanted))
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

/// The state in which a string continues: after an escape or not, or `None` where it has ended.
fn in_string(byte: u8, escaped: Escaped) -> Result<Option<Escaped>, BodyError> {
    match (byte, escaped) {
        (0..=0x1f, _) => Err(BodyError::Unreadable),
        (_, true) => Ok(Some(false)),
        (b'\\', false) => Ok(Some(true)),
        (b'"', false) => Ok(None),
        _ => Ok(Some(false)),
    }
}

enum Ended {
    NotYet,
    Here,
}

impl Text {
    fn opened() -> Self {
        Self { raw: vec![b'"'], ..Self::default() }
    }

    fn add(&mut self, byte: u8, limit: usize) -> Result<Ended, BodyError> {
        if self.raw.len() < limit {
            self.raw.push(byte);
        } else {
            self.too_long = true;
        }
        Ok(match in_string(byte, self.escaped)? {
            Some(escaped) => {
                self.escaped = escaped;
                Ended::NotYet
            }
            None => Ended::Here,
        })
    }

    /// The text, unless it is too long or no valid JSON string.
    fn decode(&self) -> Option<String> {
        if self.too_long {
            return None;
        }
        match Node::from_json(&self.raw) {
            Ok(Node::String(text)) => Some(text),
            _ => None,
        }
    }
}
