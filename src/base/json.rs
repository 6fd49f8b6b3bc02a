//! A document as a tree, before anything is known about its meaning.

pub mod fields;
mod skip;

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// How deep values may nest. The configuration needs six levels.
pub(crate) const MAX_DEPTH: u8 = 32;

/// Up to here every whole number has its own `f64` (2⁵³).
const EXACT_IN_F64: f64 = 9_007_199_254_740_992.0;

/// A value of a JSON or YAML document.
///
/// Unlike `serde_json::Value` it keeps what an author wrote twice. `1` and `1.0` read the same,
/// because Envoy turns every number of a `google.protobuf.Struct` into a double.
///
/// It may hold keys and tokens, so its `Debug` shows the shape of the tree and not what is in it.
#[derive(Clone, PartialEq)]
pub enum Node {
    /// `null`, or nothing at all in YAML.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number from zero up.
    Unsigned(u64),
    /// A whole number below zero.
    Negative(i64),
    /// A number that is not whole, or too large for the others.
    Float(f64),
    /// A text.
    String(String),
    /// A list.
    Array(Vec<Node>),
    /// Fields in the document's order, duplicates and all.
    Object(Vec<(String, Node)>),
}

impl Node {
    /// Reads one JSON value and refuses anything after it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, NodeError> {
        serde_json::from_slice(bytes).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let text = error.to_string();
            let what = text.strip_suffix(&format!(" at line {line} column {column}"));
            NodeError { line, column, what: what.unwrap_or(&text).to_owned() }
        })
    }

    /// The value of a field: `None` where this is no object, or has the field not once but never
    /// or twice.
    pub fn field(&self, name: &str) -> Option<&Node> {
        let mut found = self.as_object()?.iter().filter(|(field, _)| field == name);
        match (found.next(), found.next()) {
            (Some((_, node)), None) => Some(node),
            _ => None,
        }
    }

    /// The text, if this is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value, if this is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The whole number, if this is one and not negative. Digits in a string are a string.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(number) => Some(*number),
            _ => None,
        }
    }

    /// The number, if this is one, to the precision of a double.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Unsigned(number) => Some(*number as f64),
            Self::Negative(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// The values, if this is a list.
    pub fn as_array(&self) -> Option<&[Node]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The fields in the document's order, if this is an object.
    pub fn as_object(&self) -> Option<&[(String, Node)]> {
        match self {
            Self::Object(fields) => Some(fields),
            _ => None,
        }
    }

    /// What this is, for a message: `a string`, `null`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Unsigned(_) | Self::Negative(_) | Self::Float(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    pub(crate) fn from_f64(number: f64) -> Self {
        // The casts are exact: the number is whole and within ±2⁵³.
        if number.fract() != 0.0 || number.abs() > EXACT_IN_F64 {
            Self::Float(number)
        } else if number < 0.0 {
            Self::Negative(number as i64)
        } else {
            Self::Unsigned(number as u64)
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Array(items) => f.debug_list().entries(items).finish(),
            Self::Object(fields) => {
                f.debug_map().entries(fields.iter().map(|(name, node)| (name, node))).finish()
            }
            _ => f.write_str(self.kind()),
        }
    }
}

/// Why bytes are not one JSON value, and where. It holds nothing of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct NodeError {
    /// The line, from 1.
    pub line: usize,
    /// The column in bytes, from 1; 0 where the line has not begun.
    pub column: usize,
    /// What is wrong there.
    pub what: String,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Levels(MAX_DEPTH).deserialize(deserializer)
    }
}

/// Reads a value that may nest this many levels of lists and objects.
#[derive(Clone, Copy)]
struct Levels(u8);

impl Levels {
    fn below<E: Error>(self) -> Result<Self, E> {
        let left = self.0.checked_sub(1);
        left.map(Self)
            .ok_or_else(|| E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")))
    }
}

impl<'de> DeserializeSeed<'de> for Levels {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Levels {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Node, E> {
        Ok(Node::Unsigned(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Node, E> {
        Ok(u64::try_from(number).map_or(Node::Negative(number), Node::Unsigned))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Node, E> {
        Ok(Node::from_f64(number))
    }

    // YAML has whole numbers beyond 64 bits; nothing in a document of ours is that large.
    fn visit_u128<E: Error>(self, number: u128) -> Result<Node, E> {
        Ok(Node::Float(number as f64))
    }

    fn visit_i128<E: Error>(self, number: i128) -> Result<Node, E> {
        Ok(Node::Float(number as f64))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Node, E> {
        Ok(Node::String(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Node, E> {
        Ok(Node::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let below = self.below()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(below)? {
            items.push(item);
        }
        Ok(Node::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let below = self.below()?;
        let mut fields = Vec::new();
        while let Some(name) = map.next_key()? {
            fields.push((name, map.next_value_seed(below)?));
        }
        Ok(Node::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Node {
        Node::from_json(text.as_bytes()).unwrap()
    }

    #[test]
    fn every_kind_of_value_reads() {
        for (text, expected) in [
            ("null", Node::Null),
            ("true", Node::Bool(true)),
            ("0", Node::Unsigned(0)),
            ("18446744073709551615", Node::Unsigned(u64::MAX)),
            ("-9223372036854775808", Node::Negative(i64::MIN)),
            ("1.0", Node::Unsigned(1)),
            ("1e3", Node::Unsigned(1000)),
            ("-0.0", Node::Unsigned(0)),
            ("-1.0", Node::Negative(-1)),
            ("1.5", Node::Float(1.5)),
            ("9007199254740992.0", Node::Unsigned(1 << 53)),
            ("1e20", Node::Float(1e20)),
            (r#""a\nb""#, Node::String("a\nb".into())),
            ("[1, []]", Node::Array(vec![Node::Unsigned(1), Node::Array(vec![])])),
            (
                r#"{"b": 1, "a": 2, "b": 3}"#,
                Node::Object(vec![
                    ("b".into(), Node::Unsigned(1)),
                    ("a".into(), Node::Unsigned(2)),
                    ("b".into(), Node::Unsigned(3)),
                ]),
            ),
        ] {
            assert_eq!(json(text), expected, "{text}");
        }
    }

    #[test]
    fn yaml_reads_the_same() {
        for (text, expected) in [
            ("~", Node::Null),
            ("1.0", Node::Unsigned(1)),
            ("-3", Node::Negative(-3)),
            (".inf", Node::Float(f64::INFINITY)),
            ("99999999999999999999", Node::Float(1e20)),
            ("2026-01-01T00:00:00Z", Node::String("2026-01-01T00:00:00Z".into())),
            (
                "{a: [x], a: yes}",
                Node::Object(vec![
                    ("a".into(), Node::Array(vec![Node::String("x".into())])),
                    ("a".into(), Node::String("yes".into())),
                ]),
            ),
        ] {
            assert_eq!(serde_yaml_ng::from_str::<Node>(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_one_json_value_says_where() {
        for (text, expected) in [
            ("", "line 1, column 0: EOF while parsing a value"),
            ("{} x", "line 1, column 4: trailing characters"),
            ("{\"a\": 1,\n \"b\" 2}", "line 2, column 6: expected `:`"),
            ("{\"a\": 1,}", "line 1, column 9: trailing comma"),
            ("1e999", "line 1, column 5: number out of range"),
        ] {
            assert_eq!(
                Node::from_json(text.as_bytes()).unwrap_err().to_string(),
                expected,
                "{text}"
            );
        }
        assert_eq!(
            Node::from_json(b"\"\xff\"").unwrap_err().to_string(),
            "line 1, column 2: invalid unicode code point"
        );
    }

    #[test]
    fn nesting_has_a_bound() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(Node::from_json(nested(32).as_bytes()).is_ok());
        assert_eq!(
            Node::from_json(nested(33).as_bytes()).unwrap_err().what,
            "nested deeper than 32 levels"
        );
        assert!(Node::from_json(nested(100_000).as_bytes()).is_err());
    }

    #[test]
    fn a_field_is_found_only_when_it_is_there_once() {
        let node = json(r#"{"a": 1, "b": 2, "b": 2}"#);
        assert_eq!(node.field("a").and_then(Node::as_u64), Some(1));
        assert_eq!(node.field("b"), None);
        assert_eq!(node.field("c"), None);
        assert_eq!(json("[1]").field("a"), None);
    }

    #[test]
    fn accessors_convert_nothing() {
        assert_eq!(json("\"7\"").as_u64(), None);
        assert_eq!(json("-7").as_u64(), None);
        assert_eq!(json("7.5").as_u64(), None);
        assert_eq!(json("-7").as_f64(), Some(-7.0));
        assert_eq!(json("7").as_str(), None);
        assert_eq!(json("1").as_bool(), None);
    }

    #[test]
    fn debug_shows_no_value() {
        let node = json(r#"{"access_token": "secret", "list": [1, null, true]}"#);
        assert_eq!(
            format!("{node:?}"),
            r#"{"access_token": a string, "list": [a number, null, a boolean]}"#
        );
    }
}
