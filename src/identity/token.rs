//! An access token and its times, read from an identity endpoint's response.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;

use super::date;
use super::failure::Failure;
use crate::base::json::Node;
use crate::base::random::jitter;
use crate::base::secret::Secret;

/// Azure's tokens have one to three KiB; more than this would not fit into a header.
const LONGEST: usize = 16 * 1024;

/// No token lives longer (Azure's managed identities: 24 h); a later expiry is a wrong clock.
const LONGEST_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// From this lifetime on, a token is refreshed at half of it (Azure SDKs do the same).
const LONG_LIFE: Duration = Duration::from_secs(2 * 3600);

/// Otherwise it is refreshed so long before it expires.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// An access token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What goes behind `Bearer`.
    pub secret: Secret,
    /// From when on a new one is fetched.
    pub refresh_at: SystemTime,
    /// From when on it is refused.
    pub expires_at: SystemTime,
}

/// Why a successful response contains no usable token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// The body is not a JSON object.
    #[error("the response is not a JSON object")]
    NotJson,
    /// There is no `access_token`.
    #[error("the response has no access_token")]
    NoToken,
    /// The token is empty, far too long, or has other characters than visible ASCII.
    #[error("the access_token cannot be sent in a header")]
    NotAHeaderValue,
    /// The token is of another type.
    #[error("the token_type is not Bearer")]
    OtherType,
    /// There is neither `expires_in` nor `expires_on`, or they are no times.
    #[error("the response does not contain the token's expiry")]
    NoExpiry,
    /// The token has expired, or expires in a week or later.
    #[error("the token's expiry is not plausible")]
    ImplausibleExpiry,
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        Self::Transient { status: Some(200), detail: error.to_string(), retry_after: None }
    }
}

impl Token {
    /// Reads the response of an endpoint that came at `now`. Numbers may be strings.
    ///
    /// `random` is any number; it moves the refresh forward by up to a tenth, so that proxies do not
    /// fetch at the same time.
    pub fn read(body: &[u8], now: SystemTime, random: u64) -> Result<Self, TokenError> {
        let response = Node::from_json(body).map_err(|_| TokenError::NotJson)?;
        let text = |name| response.field(name).and_then(Node::as_str);
        let seconds = |name| response.field(name).and_then(seconds);

        let token = text("access_token").ok_or(TokenError::NoToken)?;
        // A token is opaque to its user.
        let is_sendable = token.bytes().all(|byte| byte.is_ascii_graphic());
        if !(1..=LONGEST).contains(&token.len()) || !is_sendable {
            return Err(TokenError::NotAHeaderValue);
        }
        if text("token_type").is_some_and(|kind| !kind.eq_ignore_ascii_case("Bearer")) {
            return Err(TokenError::OtherType);
        }
        // The time that is left does not depend on two clocks being alike.
        let life = match (seconds("expires_in"), seconds("expires_on")) {
            (Some(left), _) => Duration::from_secs(left),
            (None, Some(epoch)) => UNIX_EPOCH
                .checked_add(Duration::from_secs(epoch))
                .and_then(|at| at.duration_since(now).ok())
                .unwrap_or_default(),
            (None, None) => return Err(TokenError::NoExpiry),
        };
        if life.is_zero() || life > LONGEST_LIFE {
            return Err(TokenError::ImplausibleExpiry);
        }
        let wait = refresh_after(life, seconds("refresh_in").map(Duration::from_secs));
        Ok(Self {
            secret: Secret::new(token.to_owned()),
            refresh_at: now + wait - jitter(wait, 10, random),
            expires_at: now + life,
        })
    }

    /// Whether it can still be used. A token that should be refreshed can.
    pub fn is_usable(&self, now: SystemTime) -> bool {
        now < self.expires_at
    }
}

/// When to refresh, as Azure's SDKs do: `refresh_in`, else half of a long life, else a
/// margin before the end, else half of what is left.
fn refresh_after(life: Duration, refresh_in: Option<Duration>) -> Duration {
    match refresh_in {
        Some(refresh_in) if !refresh_in.is_zero() && refresh_in < life => refresh_in,
        _ if life >= LONG_LIFE => life / 2,
        _ if life > MARGIN * 2 => life - MARGIN,
        _ => life / 2,
    }
}

fn seconds(node: &Node) -> Option<u64> {
    match node.as_str() {
        Some(text) => text.trim().parse().ok().or_else(|| date::epoch(text)),
        None => node.as_u64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW)
    }

    /// Seconds from now until refresh and expiry.
    fn times(body: &str) -> Result<(u64, u64), TokenError> {
        let token = Token::read(body.as_bytes(), now(), 0)?;
        let left = |at: SystemTime| at.duration_since(now()).unwrap_or_default().as_secs();
        Ok((left(token.refresh_at), left(token.expires_at)))
    }

    #[test]
    fn every_form_of_a_response_is_read() {
        use TokenError::*;
        let of_length =
            |length| format!(r#"{{"access_token":"{}","expires_in":600}}"#, "t".repeat(length));
        let rows = [
            (
                "strings",
                r#"{"access_token":"h.p.s","expires_in":"3599","token_type":"Bearer"}"#,
                Ok((3299, 3599)),
            ),
            ("numbers", r#"{"access_token":"h.p.s","expires_in":3599}"#, Ok((3299, 3599))),
            ("doubles", r#"{"access_token":"h.p.s","expires_in":3599.0}"#, Ok((3299, 3599))),
            ("epoch", r#"{"access_token":"h.p.s","expires_on":"1700003600"}"#, Ok((3300, 3600))),
            (
                "what is left counts more than the other clock",
                r#"{"access_token":"h.p.s","expires_in":"3600","expires_on":"1"}"#,
                Ok((3300, 3600)),
            ),
            (
                "a day: half-life",
                r#"{"access_token":"h.p.s","expires_in":86400}"#,
                Ok((43200, 86400)),
            ),
            (
                "two hours: half-life",
                r#"{"access_token":"h.p.s","expires_in":7200}"#,
                Ok((3600, 7200)),
            ),
            ("short: half", r#"{"access_token":"h.p.s","expires_in":600}"#, Ok((300, 600))),
            ("very short", r#"{"access_token":"h.p.s","expires_in":2}"#, Ok((1, 2))),
            (
                "refresh_in",
                r#"{"access_token":"h.p.s","expires_in":86400,"refresh_in":"1000"}"#,
                Ok((1000, 86400)),
            ),
            (
                "refresh_in after the expiry",
                r#"{"access_token":"h.p.s","expires_in":3600,"refresh_in":"3600"}"#,
                Ok((3300, 3600)),
            ),
            (
                "type in another case",
                r#"{"access_token":"h.p.s","expires_in":600,"token_type":"bearer"}"#,
                Ok((300, 600)),
            ),
            ("empty", "", Err(NotJson)),
            ("cut", r#"{"access_token":"h.p.s","expires_in":"36"#, Err(NotJson)),
            ("html", "<html></html>", Err(NotJson)),
            ("list", "[]", Err(NoToken)),
            ("no token", r#"{"expires_in":600}"#, Err(NoToken)),
            (
                "two tokens",
                r#"{"access_token":"h.p.s","access_token":"h.q.s","expires_in":600}"#,
                Err(NoToken),
            ),
            ("null", r#"{"access_token":null,"expires_in":600}"#, Err(NoToken)),
            ("opaque", r#"{"access_token":"~aB3/+-._==","expires_in":600}"#, Ok((300, 600))),
            ("opaque, no expiry", r#"{"access_token":"opaque"}"#, Err(NoExpiry)),
            ("as long as may be", &of_length(16 * 1024), Ok((300, 600))),
            ("too long", &of_length(16 * 1024 + 1), Err(NotAHeaderValue)),
            ("empty token", r#"{"access_token":"","expires_in":600}"#, Err(NotAHeaderValue)),
            ("space", r#"{"access_token":"two words","expires_in":600}"#, Err(NotAHeaderValue)),
            (
                "line break",
                r#"{"access_token":"h.p.s\r\nx: y","expires_in":600}"#,
                Err(NotAHeaderValue),
            ),
            ("no ASCII", r#"{"access_token":"caf\u00e9","expires_in":600}"#, Err(NotAHeaderValue)),
            ("delete", r#"{"access_token":"a\u007f","expires_in":600}"#, Err(NotAHeaderValue)),
            (
                "another type",
                r#"{"access_token":"h.p.s","expires_in":600,"token_type":"pop"}"#,
                Err(OtherType),
            ),
            (
                "a date",
                r#"{"access_token":"h.p.s","expires_on":"11/14/2023 11:13:20 PM +00:00"}"#,
                Ok((3300, 3600)),
            ),
            ("no expiry", r#"{"access_token":"h.p.s"}"#, Err(NoExpiry)),
            ("words", r#"{"access_token":"h.p.s","expires_in":"soon"}"#, Err(NoExpiry)),
            (
                "expired",
                r#"{"access_token":"h.p.s","expires_on":"1699999999"}"#,
                Err(ImplausibleExpiry),
            ),
            ("nothing left", r#"{"access_token":"h.p.s","expires_in":0}"#, Err(ImplausibleExpiry)),
            (
                "forever",
                r#"{"access_token":"h.p.s","expires_in":18446744073709551615}"#,
                Err(ImplausibleExpiry),
            ),
            (
                "epoch forever",
                r#"{"access_token":"h.p.s","expires_on":18446744073709551615}"#,
                Err(ImplausibleExpiry),
            ),
        ];
        for (name, body, expected) in rows {
            assert_eq!(times(body), expected, "{name}");
        }
    }

    #[test]
    fn refreshes_spread_over_a_tenth_of_the_wait() {
        let body = br#"{"access_token":"h.p.s","expires_in":7200}"#;
        let refresh = |random| Token::read(body, now(), random).map(|token| token.refresh_at);
        assert_eq!(refresh(0), Ok(now() + Duration::from_secs(3600)));
        let earliest = (0..2000).filter_map(|random| refresh(random).ok()).min();
        assert!(earliest.is_some_and(|at| at >= now() + Duration::from_secs(3240)));
        assert_ne!(refresh(500), refresh(0));
    }

    #[test]
    fn a_token_does_not_print() {
        let body = br#"{"access_token":"eyJhbGciOi.e30.s","expires_in":7200}"#;
        let token = Token::read(body, now(), 0).unwrap();
        assert!(!format!("{token:?}").contains("eyJ"));
    }
}
