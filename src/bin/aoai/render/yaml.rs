//! Pieces of YAML: a document's values, written so that every YAML parser reads the same.

use std::net::IpAddr;

use aoai_filter::config::Node;

/// A line that is longer is split, where it can be.
const WIDTH: usize = 100;

/// Words that some YAML parsers do not read as strings.
const WORDS: [&str; 13] =
    ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf", "infinity", "none"];

/// Units of the document's numbers.
const UNITS: [&str; 5] = ["ms", "s", "m", "KiB", "MiB"];

/// A string on one line: in quotes, unless every YAML parser reads it as a string without them.
pub(super) fn scalar(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            // Line breaks of several kinds among them, which YAML would fold into a space.
            _ if character != ' ' && (character.is_control() || character.is_whitespace()) => {
                quoted += &format!("\\u{:04x}", u32::from(character));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

fn is_plain(text: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b"_./-".contains(&b);
    let Some(first) = text.bytes().next().filter(|_| text.bytes().all(is_inner)) else {
        return false;
    };
    if first.is_ascii_digit() {
        let is_count = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let has_unit = UNITS.iter().any(|unit| text.strip_suffix(unit).is_some_and(is_count));
        return has_unit || text.parse::<IpAddr>().is_ok();
    }
    (first.is_ascii_alphabetic() || first == b'/')
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// Each line of a text that is not empty, further to the right.
pub(super) fn indented(text: &str, by: usize) -> String {
    let line = |line: &str| match line {
        "" => "\n".to_owned(),
        some => format!("{}{some}\n", " ".repeat(by)),
    };
    text.lines().map(line).collect()
}

/// An item of a list, apart from it: the comments above it, and the value.
pub(super) fn item(text: &str) -> (String, String) {
    let start =
        text.lines().take_while(|line| line.starts_with('#')).map(|line| line.len() + 1).sum();
    let (comments, item) = text.split_at_checked(start).unwrap_or(("", text));
    // The dash and its space, or the indentation of what follows.
    let value = item.lines().map(|line| format!("{}\n", line.get(2..).unwrap_or_default()));
    (comments.to_owned(), value.collect())
}

/// The fields of an object, a line for each that fits on one. Every line ends, and is indented by
/// this many spaces.
pub(super) fn fields(object: &Node, indent: usize) -> String {
    let mut text = String::new();
    for (name, node) in object.as_object().unwrap_or_default() {
        text += &" ".repeat(indent);
        text += &scalar(name);
        text.push(':');
        push_value(&mut text, node, indent, indent + name.len() + 1);
    }
    text
}

/// A value behind its field's name, or behind the dash of a list's item.
fn push_value(text: &mut String, node: &Node, indent: usize, column: usize) {
    match node {
        _ if fits(node, column) => *text += &format!(" {}\n", flow(node)),
        Node::Object(_) => *text += &format!("\n{}", fields(node, indent + 2)),
        Node::Array(items) => {
            text.push('\n');
            for item in items {
                *text += &format!("{}-", " ".repeat(indent));
                match item {
                    Node::Object(fields) if !is_flat(fields) || !fits(item, indent + 1) => {
                        // The first field is on the line of the dash.
                        text.push(' ');
                        *text += self::fields(item, indent + 2).trim_start_matches(' ');
                    }
                    _ => push_value(text, item, indent + 2, indent + 1),
                }
            }
        }
        _ => *text += &format!(" {}\n", flow(node)),
    }
}

/// Whether a value has its place on the line, behind what is on it and a space.
fn fits(node: &Node, column: usize) -> bool {
    column + 1 + flow(node).chars().count() <= WIDTH
}

/// Whether an object holds nothing that has parts of its own.
fn is_flat(fields: &[(String, Node)]) -> bool {
    fields.iter().all(|(_, node)| !matches!(node, Node::Array(_) | Node::Object(_)))
}

/// A value on one line.
fn flow(node: &Node) -> String {
    let joined = |parts: Vec<String>| parts.join(", ");
    match node {
        Node::Null => "null".to_owned(),
        Node::Bool(truth) => truth.to_string(),
        Node::Unsigned(number) => number.to_string(),
        Node::Negative(number) => number.to_string(),
        Node::Float(number) => number.to_string(),
        Node::String(text) => scalar(text),
        Node::Array(items) => format!("[{}]", joined(items.iter().map(flow).collect())),
        Node::Object(fields) => {
            let field = |(name, node): &(String, Node)| format!("{}: {}", scalar(name), flow(node));
            format!("{{{}}}", joined(fields.iter().map(field).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ambiguous_strings_are_in_quotes() {
        for (text, expected) in [
            ("aoai_eastus", "aoai_eastus"),
            ("contoso-eastus.openai.azure.com", "contoso-eastus.openai.azure.com"),
            ("/etc/tls/tls.crt", "/etc/tls/tls.crt"),
            ("gpt-4o", "gpt-4o"),
            ("5s", "5s"),
            ("500ms", "500ms"),
            ("10MiB", "10MiB"),
            ("127.0.0.1", "127.0.0.1"),
            ("::", "\"::\""),
            ("", "\"\""),
            ("No", "\"No\""),
            ("y", "\"y\""),
            ("1e3", "\"1e3\""),
            ("1.5", "\"1.5\""),
            ("0x1f", "\"0x1f\""),
            ("2026-01-01", "\"2026-01-01\""),
            ("-a", "\"-a\""),
            (".inf", "\".inf\""),
            ("*", "\"*\""),
            ("a: b", "\"a: b\""),
            ("a\"b\\c", "\"a\\\"b\\\\c\""),
            ("a\u{2028}\u{85}\tb", "\"a\\u2028\\u0085\\u0009b\""),
            ("schön", "\"schön\""),
            ("aoai/eastus>sweden", "\"aoai/eastus>sweden\""),
        ] {
            assert_eq!(scalar(text), expected, "{text}");
        }
    }

    #[test]
    fn what_fits_on_a_line_stands_on_one() {
        let long = "x".repeat(60);
        let yaml = format!(
            "small: {{a: [1, true]}}
list: [{{a: {long}, b: 1}}, {{a: {long}, b: [1]}}, [{long}, {long}], {long}]
object: {{a: {long}, b: {{c: {long}}}}}
"
        );
        let node: Node = serde_yaml_ng::from_str(&yaml).unwrap();
        let expected = format!(
            "  small: {{a: [1, true]}}
  list:
  - {{a: {long}, b: 1}}
  - a: {long}
    b: [1]
  -
    - {long}
    - {long}
  - {long}
  object:
    a: {long}
    b: {{c: {long}}}
"
        );
        assert_eq!(fields(&node, 2), expected);
        assert_eq!(serde_yaml_ng::from_str::<Node>(&expected).unwrap(), node);
    }

    fn any_node() -> impl Strategy<Value = Node> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Node::Bool),
            any::<u32>().prop_map(|number| Node::Unsigned(number.into())),
            ".{0,40}".prop_map(Node::String),
            "[a-z0-9:/. #'-]{0,60}".prop_map(Node::String),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 1..6).prop_map(Node::Array),
                proptest::collection::vec(("[a-z_]{1,12}", inner), 1..6).prop_map(Node::Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(value in any_node(), indent in 0_usize..9) {
            let node = Node::Object(vec![("field".to_owned(), value)]);
            let text = fields(&node, indent);
            prop_assert_eq!(serde_yaml_ng::from_str::<Node>(&text).unwrap(), node, "{}", text);
        }
    }
}
