//! What an attempt tells of its backend.

use std::fmt;
use std::time::{Duration, SystemTime};

/// A 429 that says to retry after so long is about the one request, which is larger than the deployment's
/// whole quota: others may succeed at once (recorded with `retry-after: 86400`).
const OVERSIZED: Duration = Duration::from_secs(60 * 60);

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With a response below 400: the backend is at work.
    Served,
    /// With a response that is about the request and tells nothing of the backend: a client's error, or a
    /// 429 about one request that is larger than the deployment's quota.
    Inconclusive,
    /// With a 429, and the time after which to retry, if it contains one.
    Throttled(Option<Duration>),
    /// With a 5xx, or without a response.
    Failed,
    /// With a response that tells of an operator's mistake.
    Misconfigured(Misconfiguration),
}

/// An operator's mistake, as a backend's response tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Misconfiguration {
    /// The diagnosis's name.
    pub diagnosis: &'static str,
    /// Whether it concerns the one model, and not the backend for all models.
    pub is_of_model: bool,
}

/// Why a backend is in cooldown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It throttled.
    Throttled,
    /// It failed.
    Failed,
    /// It is misconfigured: the diagnosis's name.
    Misconfigured(String),
}

/// Where an outcome comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// The number of the subscription whose request it was.
    pub subscription: u64,
    /// Whether another backend has then served the same request. A failure without that may be the
    /// request's own, and counts when another subscription's requests fail too.
    pub is_confirmed: bool,
    /// When the attempt began. What began before a cooldown does not end it.
    pub began: SystemTime,
}

impl Outcome {
    /// The outcome of a response with this status; `retry_after` is read where it is throttled.
    pub fn of_status(status: u16, retry_after: impl FnOnce() -> Option<Duration>) -> Self {
        match status {
            429 => match retry_after() {
                Some(wait) if wait >= OVERSIZED => Self::Inconclusive,
                wait => Self::Throttled(wait),
            },
            500.. => Self::Failed,
            // A client's mistakes and a content filter's refusals would be the same elsewhere.
            400.. => Self::Inconclusive,
            _ => Self::Served,
        }
    }

    /// Whether the next backend may do better.
    pub fn may_move_on(self) -> bool {
        matches!(self, Self::Throttled(_) | Self::Failed | Self::Misconfigured(_))
    }

    /// The model that it concerns, of a request for this one; `None` for all.
    pub(super) fn concerns(self, model: &str) -> Option<&str> {
        match self {
            Self::Misconfigured(found) if !found.is_of_model => None,
            _ => Some(model),
        }
    }

    pub(super) fn into_cause(self) -> Cause {
        match self {
            Self::Throttled(_) => Cause::Throttled,
            Self::Misconfigured(found) => Cause::Misconfigured(found.diagnosis.to_owned()),
            Self::Failed | Self::Served | Self::Inconclusive => Cause::Failed,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Served | Self::Inconclusive => f.write_str("responded"),
            Self::Throttled(Some(wait)) => {
                let (seconds, millis) = (wait.as_secs(), wait.subsec_millis());
                write!(f, "throttled (retry after {seconds}.{millis:03} s)")
            }
            Self::Throttled(None) => f.write_str("throttled (no retry-after)"),
            Self::Failed => f.write_str("failed"),
            Self::Misconfigured(found) => write!(f, "misconfigured ({})", found.diagnosis),
        }
    }
}
