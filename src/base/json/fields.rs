//! Fields of a JSON document, read while the document arrives in pieces of any size.
//!
//! What is read is read strictly (RFC 8259): the document's object, and those in it that are wanted. What
//! is nested elsewhere is skipped, with an eye only on strings and brackets and on bytes that JSON does not
//! have outside strings. So no comment, quote or second document can hide from this reader what a lenient
//! parser would see. Nothing is kept but what is wanted, up to a limit.

use std::borrow::Cow;
use std::ops::Range;

use super::skip::{self, Skipped};
use super::Node;

pub use super::skip::NotJson;

/// What is wanted of a document.
pub trait Visitor {
    /// A field that is wanted.
    type Field: Copy;

    /// Why reading ends early.
    type Error: From<NotJson>;

    /// The longest spelling of a key that can be wanted, with its quotes. A longer key is skipped.
    const LONGEST_KEY: usize;

    /// What is wanted of the field with this key, in the document's object or in one that was entered.
    ///
    /// # Errors
    /// The document must not have such a field.
    fn field(
        &mut self,
        object: Option<Self::Field>,
        key: &str,
    ) -> Result<Want<Self::Field>, Self::Error>;

    /// Takes the beginning of a key that is too long to be wanted.
    ///
    /// # Errors
    /// The document must not have such a field.
    fn long_key(
        &mut self,
        object: Option<Self::Field>,
        beginning: &str,
    ) -> Result<(), Self::Error> {
        let _ = (object, beginning);
        Ok(())
    }

    /// Takes the value of a field that is wanted; `at` is where it stands, counted from the document's
    /// first byte, with its quotes or brackets.
    ///
    /// # Errors
    /// The field must not have such a value.
    fn value(
        &mut self,
        field: Self::Field,
        value: Value<'_>,
        at: Range<usize>,
    ) -> Result<(), Self::Error>;

    /// The document's object ends, or one that was entered: its bracket stands there.
    fn close(&mut self, object: Option<Self::Field>, at: usize, is_empty: bool) {
        let _ = (object, at, is_empty);
    }
}

/// What is wanted of a field's value.
#[derive(Debug, Clone, Copy)]
pub enum Want<F> {
    /// Nothing.
    Nothing,
    /// Its text, where it is a string that is written with at most so many bytes, its quotes included.
    Text(F, usize),
    /// How it is written, where it is no string, in at most so many bytes.
    Raw(F, usize),
    /// The fields in it, where it is an object; where it is a number, `true`, `false` or `null`, how that
    /// is written.
    Object(F),
}

impl<F> Want<F> {
    /// The same of a field that has this in it.
    pub fn map<G>(self, field: impl FnOnce(F) -> G) -> Want<G> {
        match self {
            Self::Nothing => Want::Nothing,
            Self::Text(inner, limit) => Want::Text(field(inner), limit),
            Self::Raw(inner, limit) => Want::Raw(field(inner), limit),
            Self::Object(inner) => Want::Object(field(inner)),
        }
    }
}

/// The value of a field that is wanted.
#[derive(Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A string.
    Text(Cow<'a, str>),
    /// Another value as it is written.
    Raw(&'a [u8]),
    /// Not what is wanted, or longer than that. It need not have ended.
    Other,
}

/// What a value other than an object has at most where an object is wanted: `false`.
const LONGEST_LITERAL: usize = 5;

/// How deep objects can be entered.
const DEEPEST: usize = 4;

/// Reads the fields of a document that a visitor wants.
#[derive(Debug)]
pub struct FieldReader<V: Visitor> {
    /// The visitor.
    pub visitor: V,
    state: State<V::Field>,
    /// How many bytes came before the current piece.
    offset: usize,
    /// What earlier pieces had of the key or value that is kept: of strings without the opening quote.
    text: Vec<u8>,
    /// The objects that were entered.
    objects: Vec<V::Field>,
}

#[derive(Debug, Clone, Copy)]
enum State<F> {
    /// Before the object.
    Start,
    /// Behind `{`: a key or the end.
    FirstKey,
    /// Behind a comma: a key.
    Key,
    /// Behind a key.
    Colon { want: Want<F> },
    /// Behind a colon.
    Value { want: Want<F> },
    /// In a string that is kept.
    Kept { kept: Kept<F>, escaped: bool },
    /// In another value that is kept and begins at this offset.
    Raw { field: F, limit: usize, start: usize, inside: Inside },
    /// In a string that is not kept: a key that is too long to be wanted, or a value.
    Skipped { is_key: bool, escaped: bool },
    /// In another value that is not kept.
    Passed(Inside),
    /// Behind a value: a comma or the end.
    Comma,
    /// Behind the document's object.
    End,
}

/// What a string is that is kept.
#[derive(Debug, Clone, Copy)]
enum Kept<F> {
    Key,
    /// The value of a field, which begins at this offset.
    Text {
        field: F,
        limit: usize,
        start: usize,
    },
}

/// Inside what.
#[derive(Debug, Clone, Copy)]
enum Inside {
    /// A number, `true`, `false` or `null`.
    Scalar,
    /// An object or a list; in a string of it, behind a backslash or not.
    Nested { depth: usize, string: Option<bool> },
}

/// How much of a value was passed.
enum Passed<'a> {
    /// What was there.
    Part(Inside),
    /// All; this follows.
    Whole(&'a [u8]),
}

impl<V: Visitor + Default> Default for FieldReader<V> {
    fn default() -> Self {
        Self::new(V::default())
    }
}

impl<V: Visitor> FieldReader<V> {
    /// A reader of a document of which nothing has come.
    pub fn new(visitor: V) -> Self {
        let (text, objects) = (Vec::new(), Vec::new());
        Self { visitor, state: State::Start, offset: 0, text, objects }
    }

    /// Makes this a reader of another document.
    pub fn restart(&mut self) {
        self.state = State::Start;
        self.offset = 0;
        self.text.clear();
        self.objects.clear();
    }

    /// Reads the next piece. After an error the reader is not to be used again.
    ///
    /// # Errors
    /// The document is not a JSON object, or is refused by the visitor.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), V::Error> {
        let mut rest = piece;
        while !rest.is_empty() {
            rest = self.read(rest, self.offset + (piece.len() - rest.len()))?;
        }
        self.offset += piece.len();
        Ok(())
    }

    /// Whether the document's object has ended.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// The field whose value is kept and incomplete, and where that begins.
    pub fn incomplete(&self) -> Option<(V::Field, usize)> {
        match self.state {
            State::Raw { field, start, .. }
            | State::Kept { kept: Kept::Text { field, start, .. }, .. } => Some((field, start)),
            _ => None,
        }
    }

    /// Reads the next token, or as much of it as is here, and returns what follows it. The first byte
    /// stands at this offset.
    fn read<'a>(&mut self, rest: &'a [u8], position: usize) -> Result<&'a [u8], V::Error> {
        match self.state {
            State::Kept { kept, escaped } => self.keep(kept, escaped, rest, position),
            State::Raw { field, limit, start, inside } => {
                self.keep_raw((field, limit, start), inside, rest, position)
            }
            State::Skipped { is_key, escaped } => {
                let (skipped, rest) = skip::string(rest, escaped)?;
                self.state = match skipped {
                    Skipped::Whole if is_key => State::Colon { want: Want::Nothing },
                    Skipped::Whole => State::Comma,
                    Skipped::Part { escaped } => State::Skipped { is_key, escaped },
                };
                Ok(rest)
            }
            State::Passed(inside) => match pass(inside, rest)? {
                Passed::Part(inside) => {
                    self.state = State::Passed(inside);
                    Ok(&[])
                }
                Passed::Whole(behind) => {
                    self.state = State::Comma;
                    Ok(behind)
                }
            },
            _ => match rest {
                [byte, behind @ ..] => match self.step(*byte, position)? {
                    true => Ok(behind),
                    false => Ok(rest),
                },
                [] => Ok(rest),
            },
        }
    }

    /// Reads a byte between strings and nested values. Whether it was read: a value that is kept as it is
    /// written begins with it.
    fn step(&mut self, byte: u8, position: usize) -> Result<bool, V::Error> {
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
            (state @ (State::FirstKey | State::Comma), b'}') => {
                let object = self.objects.pop();
                self.visitor.close(object, position, matches!(state, State::FirstKey));
                if object.is_some() {
                    State::Comma
                } else {
                    State::End
                }
            }
            (State::FirstKey | State::Key, b'"') => State::Kept { kept: Kept::Key, escaped: false },
            (State::Colon { want }, b':') => State::Value { want },
            (State::Value { want }, byte) => {
                self.state = self.begin(want, byte, position)?;
                return Ok(!matches!(self.state, State::Raw { .. }));
            }
            (State::Comma, b',') => State::Key,
            _ => return Err(NotJson.into()),
        };
        Ok(true)
    }

    /// Begins a value by its first byte.
    fn begin(
        &mut self,
        want: Want<V::Field>,
        byte: u8,
        position: usize,
    ) -> Result<State<V::Field>, V::Error> {
        let inside = match byte {
            b'"' => None,
            b'{' | b'[' => Some(Inside::Nested { depth: 1, string: None }),
            byte if is_scalar(byte) => Some(Inside::Scalar),
            _ => return Err(NotJson.into()),
        };
        match (want, inside) {
            (Want::Text(field, limit), None) => {
                let kept = Kept::Text { field, limit, start: position };
                return Ok(State::Kept { kept, escaped: false });
            }
            (Want::Object(field), Some(_)) if byte == b'{' && self.objects.len() < DEEPEST => {
                self.objects.push(field);
                return Ok(State::FirstKey);
            }
            (Want::Object(field), Some(inside @ Inside::Scalar)) => {
                return Ok(State::Raw { field, limit: LONGEST_LITERAL, start: position, inside });
            }
            (Want::Raw(field, limit), Some(inside)) => {
                let inside = match inside {
                    Inside::Scalar => Inside::Scalar,
                    // Its bracket is read with it.
                    Inside::Nested { .. } => Inside::Nested { depth: 0, string: None },
                };
                return Ok(State::Raw { field, limit, start: position, inside });
            }
            (Want::Text(field, _) | Want::Raw(field, _) | Want::Object(field), _) => {
                self.visitor.value(field, Value::Other, position..position)?;
            }
            (Want::Nothing, _) => {}
        }
        Ok(match inside {
            None => State::Skipped { is_key: false, escaped: false },
            Some(inside) => State::Passed(inside),
        })
    }

    /// Reads a string that is kept as long as it is not too long.
    fn keep<'a>(
        &mut self,
        kept: Kept<V::Field>,
        escaped: bool,
        rest: &'a [u8],
        position: usize,
    ) -> Result<&'a [u8], V::Error> {
        let limit = match kept {
            Kept::Key => V::LONGEST_KEY,
            Kept::Text { limit, .. } => limit,
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
                            let text = beginning_of(&beginning).ok_or(NotJson)?;
                            self.visitor.long_key(self.objects.last().copied(), &text)?;
                        }
                        Kept::Text { field, .. } => {
                            self.visitor.value(field, Value::Other, position..position)?;
                        }
                    }
                }
                self.state = State::Skipped { is_key: matches!(kept, Kept::Key), escaped };
                Ok(beyond)
            }
        }
    }

    /// Takes the text of a string whose bytes, without quotes, are all here.
    fn kept(&mut self, kept: Kept<V::Field>, text: &[u8], end: usize) -> Result<(), V::Error> {
        self.state = match kept {
            Kept::Key => {
                let key = decode(text).ok_or(NotJson)?;
                State::Colon { want: self.visitor.field(self.objects.last().copied(), &key)? }
            }
            Kept::Text { field, start, .. } => {
                let value = decode(text).map_or(Value::Other, Value::Text);
                self.visitor.value(field, value, start..end)?;
                State::Comma
            }
        };
        Ok(())
    }

    /// Reads a value that is kept as it is written, as long as it is not too long.
    fn keep_raw<'a>(
        &mut self,
        (field, limit, start): (V::Field, usize, usize),
        inside: Inside,
        rest: &'a [u8],
        position: usize,
    ) -> Result<&'a [u8], V::Error> {
        let (here, behind) = match pass(inside, rest)? {
            Passed::Whole(behind) => {
                self.state = State::Comma;
                (rest.get(..rest.len() - behind.len()).unwrap_or_default(), behind)
            }
            Passed::Part(inside) if self.text.len() + rest.len() <= limit => {
                self.text.extend_from_slice(rest);
                self.state = State::Raw { field, limit, start, inside };
                return Ok(&[]);
            }
            Passed::Part(inside) => {
                self.text.clear();
                self.state = State::Passed(inside);
                self.visitor.value(field, Value::Other, start..start)?;
                return Ok(&[]);
            }
        };
        let earlier = std::mem::take(&mut self.text);
        let value = match earlier.len() + here.len() <= limit {
            true if earlier.is_empty() => Cow::Borrowed(here),
            true => Cow::Owned([earlier.as_slice(), here].concat()),
            false => {
                self.visitor.value(field, Value::Other, start..start)?;
                return Ok(behind);
            }
        };
        self.visitor.value(field, Value::Raw(&value), start..position + here.len())?;
        Ok(behind)
    }
}

/// Passes a value from inside it.
fn pass(inside: Inside, bytes: &[u8]) -> Result<Passed<'_>, NotJson> {
    let Inside::Nested { mut depth, mut string } = inside else {
        return Ok(match bytes.iter().position(|byte| !is_scalar(*byte)) {
            Some(length) => Passed::Whole(bytes.get(length..).unwrap_or_default()),
            None => Passed::Part(inside),
        });
    };
    let mut rest = bytes;
    loop {
        if let Some(escaped) = string {
            let (skipped, behind) = skip::string(rest, escaped)?;
            rest = behind;
            if let Skipped::Part { escaped } = skipped {
                return Ok(Passed::Part(Inside::Nested { depth, string: Some(escaped) }));
            }
            string = None;
        }
        rest = skip::between_strings(rest);
        match rest {
            [] => return Ok(Passed::Part(Inside::Nested { depth, string })),
            [b'"', behind @ ..] => (string, rest) = (Some(false), behind),
            [b'{' | b'[', behind @ ..] => (depth, rest) = (depth + 1, behind),
            [b'}' | b']', behind @ ..] if depth == 1 => return Ok(Passed::Whole(behind)),
            [b'}' | b']', behind @ ..] => (depth, rest) = (depth - 1, behind),
            _ => return Err(NotJson),
        }
    }
}

/// What numbers and literals are made of.
fn is_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

/// The text of a string that is cut off after these bytes, without its quote, unless it is no valid JSON string.
pub fn beginning_of(string: &[u8]) -> Option<Cow<'_, str>> {
    // It may end within an escape, the longest of which is that of a surrogate pair, or a character.
    let ends = (0.."\\ud83d\\ude00".len()).map_while(|cut| string.len().checked_sub(cut));
    ends.filter_map(|end| string.get(..end).and_then(decode)).next()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::*;

    const LIMIT: usize = 40;

    /// Notes all that it is told.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Notes(Vec<String>);

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Field {
        Text,
        Raw,
        Object,
    }

    impl Visitor for Notes {
        type Field = Field;
        type Error = NotJson;
        const LONGEST_KEY: usize = 20;

        fn field(&mut self, _: Option<Field>, key: &str) -> Result<Want<Field>, NotJson> {
            Ok(match key {
                "text" => Want::Text(Field::Text, LIMIT),
                "raw" => Want::Raw(Field::Raw, LIMIT),
                "object" => Want::Object(Field::Object),
                _ => Want::Nothing,
            })
        }

        fn value(
            &mut self,
            field: Field,
            value: Value<'_>,
            at: Range<usize>,
        ) -> Result<(), NotJson> {
            self.0.push(match value {
                Value::Text(text) => format!("{field:?} {text} {at:?}"),
                Value::Raw(raw) => {
                    format!("{field:?} {} {at:?}", String::from_utf8_lossy(raw))
                }
                // Where that is known depends on the pieces.
                Value::Other => format!("{field:?} other"),
            });
            Ok(())
        }

        fn close(&mut self, object: Option<Field>, at: usize, is_empty: bool) {
            self.0.push(format!("{object:?} ends at {at}, empty: {is_empty}"));
        }
    }

    fn read(document: &[u8], size: usize) -> Result<(Vec<String>, bool), NotJson> {
        let mut reader = FieldReader::<Notes>::default();
        for piece in document.chunks(size.max(1)) {
            reader.push(piece)?;
        }
        let is_complete = reader.is_complete();
        Ok((reader.visitor.0, is_complete))
    }

    #[test]
    fn what_is_wanted_is_found_with_its_place() {
        let rows: &[(&str, &[&str])] = &[
            (r#"{}"#, &["None ends at 1, empty: true"]),
            (
                r#"{"raw": [1, {"raw": "]"}] , "x":{"raw":1}}"#,
                &[r#"Raw [1, {"raw": "]"}] 8..25"#, "None ends at 41, empty: false"],
            ),
            (r#"{"raw":-1.5e3}"#, &["Raw -1.5e3 7..13", "None ends at 13, empty: false"]),
            (r#"{"raw":"[]"}"#, &["Raw other", "None ends at 11, empty: false"]),
            (
                r#"{"object":{"text":"a\u0062"},"text":null}"#,
                &[
                    "Text ab 18..27",
                    "Some(Object) ends at 27, empty: false",
                    "Text other",
                    "None ends at 40, empty: false",
                ],
            ),
            (
                r#"{"object":null,"object":[],"object":{}}"#,
                &[
                    "Object null 10..14",
                    "Object other",
                    "Some(Object) ends at 37, empty: true",
                    "None ends at 38, empty: false",
                ],
            ),
        ];
        for (document, expected) in rows {
            for size in [1, 2, 3, 7, document.len()] {
                let found = read(document.as_bytes(), size).unwrap();
                assert_eq!(found, (expected.iter().map(|one| (*one).to_owned()).collect(), true));
            }
        }
    }

    #[test]
    fn what_is_too_long_is_told_and_not_kept() {
        let digits = "1".repeat(LIMIT);
        for (value, is_kept) in [
            (digits.clone(), true),
            (digits.clone() + "1", false),
            (format!("[{}]", "1".repeat(LIMIT - 2)), true),
            (format!("[{}]", "1".repeat(LIMIT - 1)), false),
        ] {
            let document = format!(r#"{{"raw":{value}}}"#);
            for size in [1, 2, 5, 1000] {
                let (notes, is_complete) = read(document.as_bytes(), size).unwrap();
                assert!(is_complete);
                assert_eq!(notes[0] != "Raw other", is_kept, "{document} in pieces of {size}");
            }
        }
    }

    #[test]
    fn what_is_incomplete_is_known_by_its_beginning() {
        let mut reader = FieldReader::<Notes>::default();
        for (piece, expected) in [
            (r#"{"a":1,"raw":"#, None),
            (" fal", Some((Field::Raw, 14))),
            ("se", Some((Field::Raw, 14))),
            (r#", "text" : "x"#, Some((Field::Text, 30))),
            ("\"", None),
        ] {
            reader.push(piece.as_bytes()).unwrap();
            assert_eq!(reader.incomplete(), expected, "{piece}");
        }
    }

    /// Any JSON value, small, with the keys that are wanted.
    fn json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Into::into),
            any::<i32>().prop_map(Into::into),
            ".{0,12}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let key = "(text|raw|object|[a-z\"\\\\]{0,6})";
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map(key, inner, 0..4)
                    .prop_map(|map| Json::Object(map.into_iter().collect())),
            ]
        })
    }

    /// What the visitor must be told of an object, but for the places.
    fn expected(object: &serde_json::Map<String, Json>, depth: usize, notes: &mut Vec<String>) {
        for (key, value) in object {
            let raw = value.to_string();
            match (key.as_str(), value) {
                ("text", Json::String(text)) if raw.len() <= LIMIT => {
                    notes.push(format!("Text {text}"));
                }
                ("raw", Json::String(_)) => notes.push("Raw other".to_owned()),
                ("raw", _) if raw.len() <= LIMIT => notes.push(format!("Raw {raw}")),
                ("object", Json::Object(inner)) if depth < DEEPEST => {
                    expected(inner, depth + 1, notes);
                    notes.push("Some(Object) ends".to_owned());
                }
                ("object", Json::Null | Json::Bool(_) | Json::Number(_)) if raw.len() <= 5 => {
                    notes.push(format!("Object {raw}"));
                }
                ("text", _) => notes.push("Text other".to_owned()),
                ("raw", _) => notes.push("Raw other".to_owned()),
                ("object", _) => notes.push("Object other".to_owned()),
                _ => {}
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_wanted_is_what_a_whole_parser_finds(
            fields in prop::collection::btree_map("(text|raw|object|[a-z]{0,6})", json(), 0..5),
            size in 1_usize..40,
        ) {
            let object: serde_json::Map<String, Json> = fields.into_iter().collect();
            let document = Json::Object(object.clone()).to_string();
            let (found, is_complete) = read(document.as_bytes(), size).unwrap();
            prop_assert!(is_complete);
            let mut notes = Vec::new();
            expected(&object, 0, &mut notes);
            notes.push("None ends".to_owned());
            prop_assert_eq!(found.len(), notes.len(), "{}", document);
            for (found, note) in found.iter().zip(&notes) {
                prop_assert!(found.starts_with(note.as_str()), "{} for {} in {}", found, note, document);
            }
        }

        #[test]
        fn cuts_make_no_difference(
            document in prop::collection::vec(
                prop::sample::select(b"{}[]\":,\\ 1nulltext".to_vec()), 0..80),
            size in 1_usize..40,
        ) {
            let document = [br#"{"raw":"#, document.as_slice()].concat();
            prop_assert_eq!(read(&document, size), read(&document, document.len()));
        }
    }
}
