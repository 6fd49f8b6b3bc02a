//! A [`Slot`] as bytes, for the store that all workers of a proxy share.
//!
//! The store outlives reloads of the configuration. What another version of the module wrote is taken
//! as nothing: a fetch is due then, and nothing worse.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cache::{Fetch, Slot};
use super::failure::Failure;
use super::token::Token;
use crate::base::secret::Secret;

/// Changes with the format.
const VERSION: &str = "2";

impl Slot {
    /// The slot as bytes: a line for each field. Times keep their milliseconds. The bytes hold the
    /// token.
    pub fn to_bytes(&self) -> Vec<u8> {
        let fetch = match self.fetch {
            Fetch::Due(at) => format!("due {}", millis(at)),
            Fetch::Claimed { claim, until } => format!("claimed {claim} {}", millis(until)),
        };
        let failure = match &self.failure {
            None => "none".to_owned(),
            Some(Failure::Permanent { status, detail }) => format!("refused {status} {detail}"),
            Some(Failure::Transient { status, detail, .. }) => {
                format!("passing {} {detail}", status.unwrap_or_default())
            }
        };
        let token = match &self.token {
            None => "none".to_owned(),
            Some(token) => format!(
                "{} {} {}",
                millis(token.refresh_at),
                millis(token.expires_at),
                token.secret.expose()
            ),
        };
        let failures = self.failures;
        let written = millis(self.written);
        format!("{VERSION}\n{fetch}\n{failures}\n{failure}\n{written}\n{token}").into_bytes()
    }

    /// Reads such bytes, if they are of this version.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.splitn(6, '\n');
        if lines.next()? != VERSION {
            return None;
        }
        Some(Self {
            fetch: read_fetch(lines.next()?)?,
            failures: lines.next()?.parse().ok()?,
            failure: read_failure(lines.next()?)?,
            written: time(lines.next()?)?,
            token: read_token(lines.next()?)?,
        })
    }
}

fn read_fetch(line: &str) -> Option<Fetch> {
    let (kind, rest) = line.split_once(' ')?;
    match kind {
        "due" => Some(Fetch::Due(time(rest)?)),
        "claimed" => {
            let (claim, until) = rest.split_once(' ')?;
            Some(Fetch::Claimed { claim: claim.parse().ok()?, until: time(until)? })
        }
        _ => None,
    }
}

fn read_failure(line: &str) -> Option<Option<Failure>> {
    if line == "none" {
        return Some(None);
    }
    let (kind, rest) = line.split_once(' ')?;
    let (status, detail) = rest.split_once(' ')?;
    let status: u16 = status.parse().ok()?;
    let detail = detail.to_owned();
    match kind {
        "refused" => Some(Some(Failure::Permanent { status, detail })),
        "passing" => Some(Some(Failure::Transient {
            status: (status != 0).then_some(status),
            detail,
            retry_after: None,
        })),
        _ => None,
    }
}

fn read_token(line: &str) -> Option<Option<Token>> {
    if line == "none" {
        return Some(None);
    }
    let mut fields = line.splitn(3, ' ');
    Some(Some(Token {
        refresh_at: time(fields.next()?)?,
        expires_at: time(fields.next()?)?,
        secret: Secret::new(fields.next()?.to_owned()),
    }))
}

fn millis(at: SystemTime) -> u128 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

fn time(text: &str) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(text.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(millis)
    }

    #[test]
    fn every_slot_survives_the_store() {
        let token = Token {
            secret: Secret::new("ey.J0.x-_~".to_owned()),
            refresh_at: at(1_700_000_000_123),
            expires_at: at(1_700_000_100_456),
        };
        let fetches = [Fetch::Due(UNIX_EPOCH), Fetch::Claimed { claim: u64::MAX, until: at(5) }];
        let failures = [
            None,
            Some(Failure::Permanent { status: 400, detail: "a: b c".to_owned() }),
            Some(Failure::Transient {
                status: Some(503),
                detail: String::new(),
                retry_after: None,
            }),
            Some(Failure::Transient {
                status: None,
                detail: "reset".to_owned(),
                retry_after: None,
            }),
        ];
        for fetch in fetches {
            for failure in &failures {
                for token in [None, Some(token.clone())] {
                    let written = at(9);
                    let slot =
                        Slot { token, fetch, failures: 3, failure: failure.clone(), written };
                    assert_eq!(Slot::from_bytes(&slot.to_bytes()), Some(slot));
                }
            }
        }
    }

    #[test]
    fn bytes_of_another_version_are_no_slot() {
        let rows: &[&[u8]] = &[
            b"",
            b"2",
            b"1\ndue 0\n0\nnone\n0\nnone",
            b"2\nnow 0\n0\nnone\n0\nnone",
            b"2\ndue x\n0\nnone\n0\nnone",
            b"2\ndue 0\n-1\nnone\n0\nnone",
            b"2\ndue 0\n0\nodd 1 x\n0\nnone",
            b"2\ndue 0\n0\nnone\n0\n1 2",
            b"2\ndue 0\n0\nnone\n0\nx 2 t",
            b"\xff",
        ];
        for row in rows {
            assert_eq!(Slot::from_bytes(row), None, "{row:?}");
        }
    }
}
