//! For how long a backend is throttled, by its response.
//!
//! Azure sends the time in one of several headers, or in none, and some values are meaningless: `-1`, `0`
//! and garbage occur. The order is the one in which official clients read them (openai-python,
//! `_base_client.py`; Azure SDK guidelines, "Retry-After").

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Header names in the order in which they count, and how each is read.
const HEADERS: [(&str, Format); 7] = [
    ("retry-after-ms", Format::Milliseconds),
    ("x-ms-retry-after-ms", Format::Milliseconds),
    ("retry-after", Format::Seconds),
    ("x-ratelimit-reset-requests", Format::Reset),
    ("x-ratelimit-reset-tokens", Format::Reset),
    ("x-rate-limit-reset-requests", Format::Reset),
    ("x-rate-limit-reset-tokens", Format::Reset),
];

#[derive(Debug, Clone, Copy)]
enum Format {
    Milliseconds,
    /// A number of seconds, or an HTTP date (RFC 9110, 10.2.3).
    Seconds,
    /// A number of seconds, a time since the epoch, or a duration such as `6m0s`.
    Reset,
}

/// More seconds than this are a time since the epoch and not a duration.
const EPOCH: Duration = Duration::from_secs(100_000_000);

/// Reads the first header that holds a usable time, from the names and values of a response's headers.
pub fn read<'h>(
    headers: impl Iterator<Item = (&'h str, &'h [u8])> + Clone,
    now: SystemTime,
) -> Option<Duration> {
    HEADERS.iter().find_map(|(wanted, format)| {
        let (_, value) = headers.clone().find(|(name, _)| name == wanted)?;
        let value = std::str::from_utf8(value).ok()?.trim();
        format.read(value, now).filter(|retry_after| !retry_after.is_zero())
    })
}

impl Format {
    fn read(self, value: &str, now: SystemTime) -> Option<Duration> {
        match (self, decimal(value)) {
            (Self::Milliseconds, number) => Some(number? / 1000),
            (Self::Seconds | Self::Reset, Some(number)) if number < EPOCH => Some(number),
            (Self::Reset, Some(epoch)) => UNIX_EPOCH.checked_add(epoch)?.duration_since(now).ok(),
            (Self::Seconds, _) => httpdate::parse_http_date(value).ok()?.duration_since(now).ok(),
            (Self::Reset, None) => humantime::parse_duration(value).ok(),
        }
    }
}

/// A number such as `7` or `1.25`, as seconds.
fn decimal(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    // Nanoseconds: nine digits of the fraction, and what is finer goes.
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some(Duration::new(whole.parse().ok()?, nanos.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn retry_after(headers: &[(&str, &str)]) -> Option<Duration> {
        read(headers.iter().map(|(name, value)| (*name, value.as_bytes())), now())
    }

    #[test]
    fn each_form_is_read_in_the_order_of_official_clients() {
        let ms = |number| Some(Duration::from_millis(number));
        let rows: &[(&[(&str, &str)], Option<Duration>)] = &[
            (&[], None),
            (&[("retry-after", "7")], ms(7000)),
            (&[("retry-after", " 1.5 ")], ms(1500)),
            (&[("retry-after", "Tue, 14 Nov 2023 22:13:50 GMT")], ms(30_000)),
            (&[("retry-after", "Tue, 14 Nov 2023 22:13:10 GMT")], None),
            (&[("retry-after", "86400")], ms(86_400_000)),
            (&[("retry-after", "99999999999")], None),
            (&[("retry-after", "0.0000000001")], None),
            (&[("retry-after", ".5")], None),
            (&[("retry-after-ms", "250")], ms(250)),
            (&[("x-ms-retry-after-ms", "300")], ms(300)),
            (&[("retry-after", "7"), ("retry-after-ms", "250")], ms(250)),
            (&[("retry-after", "7"), ("x-ms-retry-after-ms", "300")], ms(300)),
            (&[("retry-after", "7"), ("retry-after-ms", "-1")], ms(7000)),
            (&[("retry-after", "7"), ("retry-after-ms", "soon")], ms(7000)),
            (&[("retry-after", "0"), ("x-ratelimit-reset-tokens", "12")], ms(12_000)),
            (&[("x-ratelimit-reset-requests", "6m0s")], ms(360_000)),
            (&[("x-ratelimit-reset-requests", "120ms"), ("retry-after", "1")], ms(1000)),
            (&[("x-ratelimit-reset-tokens", "1700000010")], ms(10_000)),
            (&[("x-ratelimit-reset-tokens", "1600000000")], None),
            (&[("x-rate-limit-reset-requests", "3")], ms(3000)),
            (&[("x-rate-limit-reset-tokens", "4")], ms(4000)),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "0")], None),
            (&[("retry-after", "")], None),
            (&[("retry-after", "NaN")], None),
            (&[("retry-after", "inf")], None),
            (&[("retry-after", "1e300")], None),
        ];
        for (headers, expected) in rows {
            assert_eq!(retry_after(headers), *expected, "{headers:?}");
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(index in 0..HEADERS.len(), value in any::<Vec<u8>>(), text in ".{0,30}") {
            for value in [value.as_slice(), text.as_bytes()] {
                let _ = read(std::iter::once((HEADERS[index].0, value)), now());
            }
        }
    }
}
