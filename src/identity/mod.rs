//! How the proxy gets a token for Azure: what is asked, what the answer means, and when to ask again.
//!
//! Each kind of identity has a module that builds its request and reads its answer; [`cache`] decides
//! over time. Whoever calls sends the request and measures the time.

pub mod cache;
pub mod imds;
pub mod secret;
pub mod shared;
pub mod token;

use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::config::{Config, Identity};
use crate::digest::Digest;
use token::Token;

/// How long an identity endpoint may take to answer after so many failures in a row. IMDS answers in
/// milliseconds when it is well, so the first attempt is given up early enough for a second one while
/// requests still wait; an endpoint that is slow is given more.
pub fn fetch_timeout(failures: u32) -> Duration {
    Duration::from_secs(if failures == 0 { 3 } else { 10 })
}

/// A request to an identity endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The Envoy cluster that reaches it.
    pub cluster: String,
    /// Pseudo-headers and headers.
    pub headers: Vec<(&'static str, String)>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An HTTP answer, be it of the endpoint or of the proxy on its behalf.
    Answer {
        /// Its status.
        status: u16,
        /// Its `retry-after`, as it came.
        retry_after: Option<String>,
        /// Its body.
        body: Vec<u8>,
    },
    /// Nothing, and why.
    Nothing(&'static str),
}

/// Why a fetch brought no token. The details are short, printable, and hold no secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// It will not get better by asking again.
    #[error("refused with status {status}: {detail}")]
    Refused {
        /// The status of the answer.
        status: u16,
        /// What the endpoint says.
        detail: String,
    },
    /// It may be better the next time.
    #[error("failed{}: {detail}", status.map(|status| format!(" with status {status}")).unwrap_or_default())]
    Passing {
        /// The status of the answer, if there was one.
        status: Option<u16>,
        /// What the endpoint says, or what is wrong with its answer.
        detail: String,
        /// When it asks to be left alone until.
        retry_after: Option<Duration>,
    },
}

impl Failure {
    /// Whether asking again is pointless until somebody mends something.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// Whether it is the same trouble as another failure, whatever the details.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.is_permanent(), self.status()) == (other.is_permanent(), other.status())
    }

    /// The HTTP status of the answer, if there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Passing { status, .. } => *status,
        }
    }
}

impl Identity {
    /// The request for a token for an audience.
    pub fn request(&self, audience: &str) -> Request {
        match self {
            Self::Managed { cluster, selector } => imds::request(cluster, selector, audience),
        }
    }

    /// Reads what came back for such a request. `dice` is any number.
    pub fn read(&self, reply: &Reply, now: SystemTime, dice: u64) -> Result<Token, Failure> {
        match self {
            Self::Managed { .. } => imds::read(reply, now, dice),
        }
    }
}

impl Config {
    /// Tells this identity and audience from all others, in a store that other configurations may
    /// share.
    pub fn token_slot(&self) -> String {
        let Request { cluster, headers } = self.identity.request(&self.audience);
        let parts = headers.iter().flat_map(|(name, value)| [*name, value.as_str()]);
        let whole = [cluster.as_str()].into_iter().chain(parts).collect::<Vec<_>>().join("\n");
        Digest::of(whole.as_bytes()).to_string()
    }
}

/// A text from outside, made fit for a log line.
fn printable(text: &str) -> String {
    const LONGEST: usize = 200;
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}
