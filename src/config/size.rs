//! Numbers of bytes as the document writes them.

use std::ops::RangeInclusive;

use super::problem::quoted;
use super::reader::Reader;
use crate::base::json::Node;

pub(super) const KIB: u64 = 1 << 10;

pub(super) const MIB: u64 = 1 << 20;

/// Reads one number and its unit, such as `512KiB` or `10MiB`, within bounds.
pub(super) fn size(reader: &mut Reader, node: &Node, bounds: RangeInclusive<u64>) -> Option<u64> {
    let (least, most) = (written(*bounds.start()), written(*bounds.end()));
    let expected = format!("expected a size from {least} to {most}, such as 256MiB");
    if matches!(node, Node::Unsigned(_) | Node::Negative(_) | Node::Float(_)) {
        reader.problem(format!("found a number without a unit; {expected}"));
        return None;
    }
    let text = reader.string(node)?;
    let size = parse_size(text).filter(|size| bounds.contains(size));
    if size.is_none() {
        let found = quoted(text);
        reader.problem(format!("found {found}; {expected}"));
    }
    size
}

/// A size as a document would have it.
pub(super) fn written(size: u64) -> String {
    match size % MIB {
        0 => format!("{}MiB", size / MIB),
        _ => format!("{}KiB", size / KIB),
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = match (text.strip_suffix("KiB"), text.strip_suffix("MiB")) {
        (Some(number), _) => (number, KIB),
        (_, Some(number)) => (number, MIB),
        _ => return None,
    };
    // Parsing alone would take a sign as well.
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_one_number_and_a_unit() {
        for (text, expected) in [
            ("64KiB", Some(65_536)),
            ("10MiB", Some(10_485_760)),
            ("0MiB", Some(0)),
            ("4096MiB", Some(4_294_967_296)),
            ("17592186044416MiB", None),
            ("99999999999999999999MiB", None),
            ("10", None),
            ("MiB", None),
            ("", None),
            ("+1MiB", None),
            ("-1MiB", None),
            ("1.5MiB", None),
            ("1 MiB", None),
            ("1MB", None),
            ("1mib", None),
            ("1GiB", None),
        ] {
            assert_eq!(parse_size(text), expected, "{text}");
        }
    }

    #[test]
    fn a_size_is_written_as_it_is_read() {
        for text in ["64KiB", "1MiB", "1025KiB", "1024MiB"] {
            assert_eq!(written(parse_size(text).unwrap()), text);
        }
    }
}
