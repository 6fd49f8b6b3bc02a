//! What tells one document from another.

use crate::base::digest::Digest;
use crate::base::json::Node;

/// As many digits of the digest as no two documents of a proxy have in common.
const DIGITS: usize = 12;

/// The first digits of a digest of what a document says. Its syntax, the order of its fields and Envoy's way of
/// handing it over make no difference.
pub(super) fn version(document: &Node) -> String {
    let mut text = Vec::new();
    write(document, &mut text);
    Digest::of(&text).hex().chars().take(DIGITS).collect()
}

fn write(node: &Node, text: &mut Vec<u8>) {
    match node {
        Node::Null => text.push(b'n'),
        Node::Bool(value) => text.extend([b'b', u8::from(*value)]),
        Node::Unsigned(number) => write_text(b's', &number.to_string(), text),
        Node::Negative(number) => write_text(b's', &number.to_string(), text),
        Node::Float(number) => text.extend(number.to_bits().to_be_bytes()),
        // Envoy makes a string of a large number.
        Node::String(value) => write_text(b's', value, text),
        Node::Array(items) => {
            text.push(b'[');
            items.iter().for_each(|item| write(item, text));
            text.push(b']');
        }
        Node::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|(one, _), (other, _)| one.cmp(other));
            text.push(b'{');
            for (name, value) in fields {
                write_text(b'f', name, text);
                write(value, text);
            }
            text.push(b'}');
        }
    }
}

/// A text with its length before it, so that no two sequences of texts are the same.
fn write_text(kind: u8, value: &str, text: &mut Vec<u8>) {
    text.push(kind);
    text.extend((value.len() as u64).to_be_bytes());
    text.extend(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> String {
        version(&Node::from_json(json.as_bytes()).unwrap())
    }

    #[test]
    fn a_version_is_that_of_what_a_document_says() {
        let one = of(r#"{"a": [1, "x", true], "b": {"c": -1, "d": 4000000000}}"#);
        assert_eq!(one.len(), DIGITS);
        for same in [
            r#"{"b": {"d": 4000000000, "c": -1}, "a": [1, "x", true]}"#,
            r#"{"b":{"d":"4000000000","c":-1.0},"a":[1.0,"x",true]}"#,
        ] {
            assert_eq!(of(same), one, "{same}");
        }
        for other in [
            r#"{"a": ["x", 1, true], "b": {"c": -1, "d": 4000000000}}"#,
            r#"{"a": [1, "x", false], "b": {"c": -1, "d": 4000000000}}"#,
            r#"{"a": [1, "x", true], "b": {"c": -1, "e": 4000000000}}"#,
            r#"{"a": [1, "xs"], "b": {"c": -1, "d": 4000000000}}"#,
            r#"{"a": [1, ["x", true]], "b": {"c": -1, "d": 4000000000}}"#,
        ] {
            assert_ne!(of(other), one, "{other}");
        }
    }
}
