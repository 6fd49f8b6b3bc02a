//! Durations and instants as the document writes them.

use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use super::problem::quoted;
use super::reader::Reader;
use crate::base::json::Node;

/// Reads one number and its unit, such as `500ms`, `5s` or `2m`, within bounds.
pub(super) fn duration(
    reader: &mut Reader,
    node: &Node,
    bounds: RangeInclusive<Duration>,
) -> Option<Duration> {
    if matches!(node, Node::Unsigned(_) | Node::Negative(_) | Node::Float(_)) {
        reader
            .problem("found a number without a unit; expected a duration such as 500ms, 5s or 2m");
        return None;
    }
    let text = reader.string(node)?;
    let Some(duration) = parse_duration(text) else {
        let found = quoted(text);
        reader.problem(format!(
            "found {found}; expected one whole number and its unit, such as 500ms, 5s or 2m"
        ));
        return None;
    };
    let (least, most) = (bounds.start().as_secs(), bounds.end().as_secs());
    if !bounds.contains(&duration) {
        let found = quoted(text);
        let right = if duration < *bounds.start() {
            format!("at least {least}s")
        } else {
            format!("at most {most}s")
        };
        reader.problem(format!("found {found}; expected {right}"));
        return None;
    }
    Some(duration)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(unit_at)?;
    if number.is_empty() {
        return None;
    }
    let scale = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return None,
    };
    // Digits only, so what does not fit is too long, and a duration beyond every bound.
    let number: u64 = number.parse().unwrap_or(u64::MAX);
    Some(Duration::from_millis(number.saturating_mul(scale)))
}

/// Reads an RFC 3339 time in UTC.
pub(super) fn instant(reader: &mut Reader, node: &Node) -> Option<SystemTime> {
    let text = reader.string(node)?;
    let time = humantime::parse_rfc3339(text).ok();
    if time.is_none() {
        let found = quoted(text);
        reader.problem(format!(
            "found {found}; expected an RFC 3339 time in UTC, with its Z, such as 2026-01-01T00:00:00Z"
        ));
    }
    time
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_one_number_and_a_unit() {
        let huge = Duration::from_millis(u64::MAX);
        for (text, expected) in [
            ("0s", Some(Duration::ZERO)),
            ("500ms", Some(Duration::from_millis(500))),
            ("5s", Some(Duration::from_secs(5))),
            ("2m", Some(Duration::from_secs(120))),
            ("99999999999999999999999s", Some(huge)),
            ("18446744073709551615m", Some(huge)),
            ("", None),
            ("5", None),
            ("s", None),
            ("-5s", None),
            ("+5s", None),
            ("1.5s", None),
            ("5 s", None),
            (" 5s", None),
            ("5S", None),
            ("1h", None),
            ("1m30s", None),
            ("5é", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }
}
