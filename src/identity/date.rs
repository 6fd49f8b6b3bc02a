//! Dates as App Service writes them: `expires_on` is seconds on some platforms, and a date on others.
//!
//! Source of the forms: the official SDKs' readers of this response.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Reads `2026-01-02T15:04:05Z`, `1/2/2026 3:04:05 PM +00:00` and `01/02/2026 15:04:05 +00:00` (month
/// first) as seconds since 1970. An offset that is not there is zero.
pub(super) fn epoch(text: &str) -> Option<u64> {
    let (date, rest) = text.trim().split_once(['T', ' '])?;
    let (date, month_first) = match date.contains('/') {
        true => (numbers(date, '/')?, true),
        false => (numbers(date, '-')?, false),
    };
    let [year, month, day] = match (month_first, date) {
        (true, [month, day, year]) => [year, month, day],
        (false, date) => date,
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != ':').unwrap_or(rest.len());
    let (time, zone) = rest.split_at_checked(end)?;
    let [hour, minute, second] = numbers(time, ':')?;
    // A fraction of a second is too little to matter.
    let zone = zone
        .strip_prefix('.')
        .map_or(zone, |zone| zone.trim_start_matches(|c: char| c.is_ascii_digit()));
    let (hour, zone) = match zone.trim_start() {
        zone if zone.starts_with("AM") => (hour % 12, zone.get(2..)?),
        zone if zone.starts_with("PM") => (hour % 12 + 12, zone.get(2..)?),
        zone => (hour, zone),
    };
    let plain = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z");
    let local = humantime::parse_rfc3339(&plain).ok()?;
    let at = shift(local, zone.trim())?;
    Some(at.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// Three numbers of a few digits.
fn numbers(text: &str, separator: char) -> Option<[u32; 3]> {
    let mut parts = text.split(separator).map(|part| {
        let is_number = part.len() <= 4 && part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.parse().ok()).flatten()
    });
    let three = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(three)
}

/// A local time as the time that it is, by its offset `+01:00`.
fn shift(local: SystemTime, zone: &str) -> Option<SystemTime> {
    let (zone, is_ahead) = match zone {
        "" | "Z" => return Some(local),
        zone => match (zone.strip_prefix('+'), zone.strip_prefix('-')) {
            (Some(zone), _) => (zone, true),
            (_, Some(zone)) => (zone, false),
            _ => return None,
        },
    };
    let (hours, minutes) = zone.split_once(':')?;
    let minutes =
        u64::from(hours.parse::<u8>().ok()?) * 60 + u64::from(minutes.parse::<u8>().ok()?);
    let offset = Duration::from_secs(minutes * 60);
    if is_ahead {
        local.checked_sub(offset)
    } else {
        local.checked_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_the_same_moment() {
        const MOMENT: Option<u64> = Some(1_767_366_245);
        let rows = [
            ("2026-01-02T15:04:05Z", MOMENT),
            ("2026-01-02T15:04:05+00:00", MOMENT),
            ("2026-01-02T16:34:05+01:30", MOMENT),
            ("2026-01-02T10:04:05-05:00", MOMENT),
            ("2026-01-02T15:04:05.1234567Z", MOMENT),
            ("2026-01-02T15:04:05", MOMENT),
            ("2026-01-02 15:04:05", MOMENT),
            ("1/2/2026 3:04:05 PM +00:00", MOMENT),
            ("01/02/2026 15:04:05 +00:00", MOMENT),
            (" 01/02/2026 03:04:05 PM ", MOMENT),
            ("1/2/2026 12:04:05 AM +00:00", Some(1_767_312_245)),
            ("1/2/2026 12:04:05 PM +00:00", Some(1_767_355_445)),
            ("", None),
            ("soon", None),
            ("2026-01-02", None),
            ("2026-13-02T15:04:05Z", None),
            ("2026-01-02T25:04:05Z", None),
            ("2026-01-02T15:04Z", None),
            ("2026-01-02T15:04:05 UTC", None),
            ("2026-01-02T15:04:05+99999:00", None),
            ("2026-01-02T15:04:05+9999:00", None),
            ("1/2/2026/3 3:04:05", None),
            ("99999/1/1 1:1:1", None),
            ("1960-01-02T15:04:05Z", None),
        ];
        for (text, expected) in rows {
            assert_eq!(epoch(text), expected, "{text}");
        }
    }
}
