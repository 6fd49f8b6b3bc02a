//! What flows count and log. Names and sentences are telemetry's.

use std::time::Duration;

use crate::identity::Failure;
use crate::reply::Reason;
use crate::response::diagnosis::{Diagnosis, Finding};
use crate::routing::cooldown::Outcome;

/// The labels of a request's metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Labels<'a> {
    /// The subscription's id, `none` or `other`.
    pub subscription: &'a str,
    /// The model's name, `none` or `other`.
    pub model: &'a str,
}

impl Labels<'static> {
    /// Where nothing is known.
    pub const NONE: Self = Self { subscription: "none", model: "none" };
    /// Beyond the number of those that have series of their own.
    pub const OTHER: Self = Self { subscription: "other", model: "other" };
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter<'a> {
    /// Requests that got a backend's response, by the backend that was asked first.
    Forwarded {
        /// Its name.
        backend: &'a str,
        /// Whose they are.
        labels: Labels<'a>,
    },
    /// Requests whose callers left before there was a response, by the backend that was asked first.
    Abandoned {
        /// Its name; `None` where none was asked.
        backend: Option<&'a str>,
        /// Whose they are.
        labels: Labels<'a>,
    },
    /// Requests for models, which the configuration answered.
    ModelsListed {
        /// Whose they are.
        labels: Labels<'a>,
    },
    /// Requests that got a local reply.
    Replied {
        /// Why.
        reason: Reason,
        /// Whose they are.
        labels: Labels<'a>,
    },
    /// Tokens that requests have used.
    Tokens {
        /// Whose requests.
        labels: Labels<'a>,
        /// The backend that has responded.
        backend: &'a str,
        /// What kind of tokens.
        kind: TokenKind,
        /// How they are known.
        source: Source,
    },
    /// Requests that no limit was checked for, although the service of limits should have.
    LimitsUnchecked {
        /// Whose they are.
        labels: Labels<'a>,
    },
    /// Attempts at backends.
    Attempt {
        /// The backend's name.
        backend: &'a str,
        /// The model's name, or `none`.
        model: &'a str,
        /// How they ended.
        result: AttemptResult,
        /// The HTTP status of the response; `None` where there was none.
        status: Option<u16>,
    },
    /// Attempts beyond the first.
    Retries,
    /// How often a backend's cooldowns began.
    Cooldowns {
        /// The backend's name.
        backend: &'a str,
        /// The model's name; `None` where it is in cooldown for all of them.
        model: Option<&'a str>,
    },
    /// Responses that told of a mistake.
    Diagnosis {
        /// The backend's name.
        backend: &'a str,
        /// The mistake.
        diagnosis: &'static Diagnosis,
    },
    /// Fetches of Entra ID tokens.
    TokenFetch {
        /// The identity's name.
        identity: &'a str,
        /// How they ended.
        result: FetchResult,
    },
}

/// What kind of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// All of the input.
    Input,
    /// Those of the input that came from a prompt cache.
    CachedInput,
    /// All of the output.
    Output,
    /// Those of the output that were used for reasoning.
    Reasoning,
}

/// How a number of tokens is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The response has told it.
    Reported,
    /// It was estimated.
    Estimated,
}

/// What is distributed: times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Histogram<'a> {
    /// From a request's head to the first event of its response that has some of the output.
    TimeToFirstToken {
        /// The backend that has responded.
        backend: &'a str,
        /// The model's name.
        model: &'a str,
    },
    /// From a request's head to the end of its response.
    RequestDuration {
        /// The backend that has responded.
        backend: &'a str,
        /// The model's name.
        model: &'a str,
    },
}

/// What Envoy knows of a request by the module: its access logs can show it, and its filter of rate limits asks
/// and charges the service of limits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogField<'a> {
    /// The subscription's id.
    Subscription(&'a str),
    /// The model's name.
    Model(&'a str),
    /// The operation's name.
    Operation(&'static str),
    /// The backend that has responded, or was asked last.
    Backend(&'a str),
    /// How many backends of a pool were asked.
    Attempts(usize),
    /// Why it got a local reply.
    Reason(Reason),
    /// The mistake that its response shows.
    Diagnosis(&'a str),
    /// The tokens that it has used, input and output.
    Tokens(u64),
    /// Those of the input.
    InputTokens(u64),
    /// Those of the output.
    OutputTokens(u64),
    /// The counter of requests that it is to be counted in by the service of limits.
    RequestLimit(&'a str),
    /// The counter of tokens.
    TokenLimit(&'a str),
    /// The counter of the tokens of a longer period.
    Quota(&'a str),
}

/// What has a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gauge<'a> {
    /// Whether a backend's cooldown has begun, and the backend has not served the model since: 1 or 0.
    InCooldown {
        /// The backend's name.
        backend: &'a str,
        /// The model's name; `None` where it is in cooldown for all of them.
        model: Option<&'a str>,
    },
    /// Whether a backend is misconfigured in a way: 1 or 0.
    Misconfigured {
        /// The backend's name.
        backend: &'a str,
        /// The diagnosis's name.
        diagnosis: &'a str,
        /// The model's name; `None` where it concerns all of them.
        model: Option<&'a str>,
    },
    /// When a document was taken, in seconds since the beginning of 1970.
    DocumentTaken {
        /// Its version.
        version: &'a str,
    },
    /// For how many more seconds an identity has a token.
    TokenRemaining {
        /// The identity's name.
        identity: &'a str,
    },
}

/// How a fetch of a token ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchResult {
    /// With a token.
    Success,
    /// With a failure that may pass.
    Failed,
    /// With a refusal.
    Refused,
}

impl FetchResult {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Success, Self::Failed, Self::Refused];
}

/// How an attempt at a backend ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptResult {
    /// With a response other than these.
    Responded,
    /// With a 429.
    Throttled,
    /// With a 5xx or no response.
    Failed,
    /// With a response that tells of an operator's mistake.
    Misconfigured,
}

impl From<Outcome> for AttemptResult {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Served | Outcome::Inconclusive => Self::Responded,
            Outcome::Throttled(_) => Self::Throttled,
            Outcome::Failed => Self::Failed,
            Outcome::Misconfigured(_) => Self::Misconfigured,
        }
    }
}

/// A change of state, or a mistake, that an operator should learn of.
#[derive(Debug)]
pub enum LogEntry<'a> {
    /// A backend's cooldown begins.
    Cooldown {
        /// The backend's name.
        backend: &'a str,
        /// The model's name.
        model: &'a str,
        /// For how long.
        wait: Duration,
        /// What the attempt ended with.
        outcome: Outcome,
    },
    /// A backend serves a model again.
    Recovered {
        /// The backend's name.
        backend: &'a str,
        /// The model's name.
        model: &'a str,
    },
    /// There were so many changes of a backend's state that some were not logged.
    Unlogged {
        /// The backend's name.
        backend: &'a str,
        /// How many.
        changes: u64,
        /// For how many models the backend is in cooldown now.
        models: usize,
    },
    /// A backend's response tells of a mistake.
    Finding(&'a Finding<'a>),
    /// A fetch of a token failed, and not in the way of the fetch before.
    TokenFailed {
        /// The identity's name.
        identity: &'a str,
        /// Why.
        failure: &'a Failure,
        /// Until the next fetch.
        retry_in: Duration,
    },
    /// There is a token again after fetches that failed.
    TokenRecovered {
        /// The identity's name.
        identity: &'a str,
        /// How many fetches failed.
        failures: u32,
        /// How long the token lasts.
        lasts: Duration,
    },
    /// The store that all workers share cannot be written.
    StoreFailed,
    /// Envoy has no cluster of this name, which the configuration needs.
    NoCluster {
        /// Its name.
        cluster: &'a str,
    },
    /// The service of limits has not checked a subscription's.
    LimitsUnchecked {
        /// The subscription's id.
        subscription: &'a str,
    },
}
