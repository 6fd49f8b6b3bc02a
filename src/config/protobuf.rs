//! A `google.protobuf.Struct` in its wire format.
//!
//! By Envoy's documentation, a plugin's configuration of this type arrives as JSON. Envoy 1.37
//! to 1.40 hand it to a wasm plugin in its wire format, so it is read here.
//! Source: protobuf.dev, "Encoding", and google/protobuf/struct.proto for the numbers of the fields.

use crate::base::json::{Node, MAX_DEPTH};

/// The value of one field on the wire.
enum Field<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
}

/// Reads a message of type `google.protobuf.Struct`; `None` where it is none.
pub(super) fn read_struct(bytes: &[u8]) -> Option<Node> {
    structure(bytes, MAX_DEPTH)
}

fn structure(bytes: &[u8], levels: u8) -> Option<Node> {
    let levels = levels.checked_sub(1)?;
    let mut fields = Vec::new();
    read_fields(bytes, |number, field| {
        match (number, field) {
            (1, Field::Bytes(bytes)) => fields.push(entry(bytes, levels)?),
            _ => return None,
        }
        Some(())
    })?;
    Some(Node::Object(fields))
}

/// An entry of a map: its key and its value.
fn entry(bytes: &[u8], levels: u8) -> Option<(String, Node)> {
    let (mut name, mut node) = (String::new(), Node::Null);
    read_fields(bytes, |number, field| {
        match (number, field) {
            (1, Field::Bytes(text)) => name = string(text)?,
            (2, Field::Bytes(found)) => node = value(found, levels)?,
            _ => return None,
        }
        Some(())
    })?;
    Some((name, node))
}

fn value(bytes: &[u8], levels: u8) -> Option<Node> {
    let mut node = Node::Null;
    read_fields(bytes, |number, field| {
        node = match (number, field) {
            (1, Field::Varint(0)) => Node::Null,
            (2, Field::Fixed64(number)) => Node::from_f64(f64::from_le_bytes(number)),
            (3, Field::Bytes(text)) => Node::String(string(text)?),
            (4, Field::Varint(truth)) => Node::Bool(truth != 0),
            (5, Field::Bytes(fields)) => structure(fields, levels)?,
            (6, Field::Bytes(items)) => list(items, levels)?,
            _ => return None,
        };
        Some(())
    })?;
    Some(node)
}

fn list(bytes: &[u8], levels: u8) -> Option<Node> {
    let levels = levels.checked_sub(1)?;
    let mut items = Vec::new();
    read_fields(bytes, |number, field| {
        match (number, field) {
            (1, Field::Bytes(item)) => items.push(value(item, levels)?),
            _ => return None,
        }
        Some(())
    })?;
    Some(Node::Array(items))
}

fn string(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// Hands each field of a message to `each`, until that returns `None` or the wire format is invalid.
fn read_fields<'a>(
    mut bytes: &'a [u8],
    mut each: impl FnMut(u64, Field<'a>) -> Option<()>,
) -> Option<()> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let field = match tag & 7 {
            0 => Field::Varint(varint(&mut bytes)?),
            1 => Field::Fixed64(take(&mut bytes, 8)?.try_into().ok()?),
            2 => {
                let length = varint(&mut bytes)?;
                Field::Bytes(take(&mut bytes, usize::try_from(length).ok()?)?)
            }
            _ => return None,
        };
        each(tag >> 3, field)?;
    }
    Some(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *take(bytes, 1)?.first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Fields of a message, each with its number.
    fn message(fields: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, content) in fields {
            // Up to 2¹⁴ bytes, as two digits of a varint.
            let length = content.len();
            bytes.extend([number << 3 | 2, length as u8 | 0x80, (length >> 7) as u8]);
            bytes.extend_from_slice(content);
        }
        bytes
    }

    fn field(name: &str, value: &[u8]) -> Vec<u8> {
        message(&[(1, &message(&[(1, name.as_bytes()), (2, value)]))])
    }

    #[test]
    fn every_kind_of_value_is_read() {
        let number = [&[0x11][..], &1.5_f64.to_le_bytes()].concat();
        let whole = [&[0x11][..], &3.0_f64.to_le_bytes()].concat();
        let text = message(&[(3, b"text")]);
        let rows = [
            ("null", vec![0x08, 0x00], Node::Null),
            ("a number", number, Node::Float(1.5)),
            ("a whole number", whole, Node::Unsigned(3)),
            ("a string", text.clone(), Node::String("text".to_owned())),
            ("true", vec![0x20, 0x01], Node::Bool(true)),
            (
                "an object",
                message(&[(5, &field("inner", &text))]),
                Node::Object(vec![("inner".to_owned(), Node::String("text".to_owned()))]),
            ),
            (
                "a list",
                message(&[(6, &message(&[(1, &text), (1, &[0x20, 0x00])]))]),
                Node::Array(vec![Node::String("text".to_owned()), Node::Bool(false)]),
            ),
            ("an empty list", message(&[(6, b"")]), Node::Array(Vec::new())),
        ];
        for (name, bytes, expected) in rows {
            let expected = Node::Object(vec![("field".to_owned(), expected)]);
            assert_eq!(read_struct(&field("field", &bytes)), Some(expected), "{name}");
        }
    }

    #[test]
    fn what_is_no_struct_is_none() {
        let nested = |levels| {
            let list = |inner: Vec<u8>, _| message(&[(6, &message(&[(1, &inner)]))]);
            field("field", &(1..levels).fold(message(&[(3, b"x")]), list))
        };
        assert!(read_struct(&nested(MAX_DEPTH)).is_some());
        assert_eq!(read_struct(&nested(MAX_DEPTH + 1)), None);
        let rows: &[(&str, &[u8])] = &[
            ("cut", b"\x0a\x05\x0a"),
            ("another field", b"\x12\x00"),
            ("a length beyond all bytes", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
            ("an endless number", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            ("a group", b"\x0b"),
            ("JSON", b"\n{}"),
        ];
        for (name, bytes) in rows {
            assert_eq!(read_struct(bytes), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
            let _ = read_struct(&bytes);
        }
    }
}
