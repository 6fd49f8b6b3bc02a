//! How the proxy gets a token for Azure: what is asked, what the answer means, and when to ask again.
//!
//! Each kind of identity has a module that builds its request and reads its answer; [`cache`] decides
//! over time. Whoever calls sends the requests and measures the time.
//!
//! ```text
//! IMDS, App Service      Token ──► token
//! Entra ID       Proof ──► Token ──► token     the proof comes from a file, by way of Envoy
//! ```

pub mod app_service;
pub mod cache;
pub mod claims;
mod date;
pub mod entra;
pub mod imds;
pub mod secret;
pub mod shared;
pub mod token;

use std::time::{Duration, SystemTime};

use percent_encoding::{utf8_percent_encode, NON_ALPHANUMERIC};
use thiserror::Error;

use crate::config::{Credential, Identity, IdentitySelector};
use crate::diagnosis::Said;
use crate::digest::Digest;
use secret::Secret;
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
    /// What is posted, which may hold a proof.
    pub body: Option<Secret>,
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

impl Reply {
    /// Whether the proxy could not reach the cluster from where it was asked. Envoy's main thread, where
    /// a root context lives too, has none of the internal listeners that workers have: measured with 1.36.4
    /// and 1.40.0.
    pub fn is_unreached(&self) -> bool {
        matches!(self, Self::Answer { status: 503, .. })
    }
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

    /// What was said, or what is wrong with it.
    pub fn detail(&self) -> &str {
        let (Self::Refused { detail, .. } | Self::Passing { detail, .. }) = self;
        detail
    }

    /// One that passes, without a status: what came back is of no use.
    fn useless(detail: impl Into<String>) -> Self {
        Self::Passing { status: None, detail: detail.into(), retry_after: None }
    }
}

/// What a fetch is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// What the identity proves itself by.
    Proof,
    /// The token.
    Token,
}

/// What an answer leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The token is asked for next.
    Ask(Request),
    /// It is over.
    Done(Result<Token, Failure>),
}

impl Credential {
    /// How a fetch begins.
    pub fn begin(&self) -> (Step, Request) {
        let audience = &self.audience;
        match &self.identity {
            Identity::Managed { cluster, selector } => {
                (Step::Token, imds::request(cluster, selector, audience))
            }
            Identity::AppService { cluster, authority, path, selector } => {
                (Step::Token, app_service::request(cluster, authority, path, selector, audience))
            }
            Identity::Application(application) => {
                (Step::Proof, entra::proof_request(&application.proof_cluster))
            }
        }
    }

    /// How it goes on after what came back at a step. `dice` is any number.
    pub fn proceed(&self, step: Step, reply: &Reply, now: SystemTime, dice: u64) -> Progress {
        let token = match (&self.identity, step) {
            (Identity::Application(application), Step::Proof) => {
                return match entra::read_proof(application.proof, reply, now) {
                    Ok(proof) => Progress::Ask(entra::request(application, &self.audience, &proof)),
                    Err(failure) => Progress::Done(Err(failure)),
                };
            }
            (Identity::Application(_), Step::Token) => entra::read(reply, now, dice),
            (Identity::AppService { .. }, _) => app_service::read(reply, now, dice),
            (Identity::Managed { .. }, _) => imds::read(reply, now, dice),
        };
        Progress::Done(token)
    }

    /// How many answers a fetch takes.
    pub fn steps(&self) -> u32 {
        if matches!(self.identity, Identity::Application(_)) {
            2
        } else {
            1
        }
    }

    /// Tells this identity and audience from all others, in a store that other configurations may
    /// share.
    pub fn slot(&self) -> String {
        let mut requests = vec![self.begin().1];
        if let Identity::Application(application) = &self.identity {
            let nothing = Secret::new(String::new());
            requests.push(entra::request(application, &self.audience, &nothing));
        }
        let mut whole = String::new();
        for Request { cluster, headers, body } in &requests {
            let headers = headers.iter().flat_map(|(name, value)| [*name, value.as_str()]);
            for part in [cluster.as_str()].into_iter().chain(headers) {
                whole.push_str(part);
                whole.push('\n');
            }
            whole.push_str(body.as_ref().map(Secret::expose).unwrap_or_default());
        }
        Digest::of(whole.as_bytes()).to_string()
    }
}

/// The path and query by which a managed identity's token is asked for. `names` are the parameters for a
/// client id, an object id and a resource id.
fn managed_path(
    path: &str,
    api_version: &str,
    audience: &str,
    selector: &IdentitySelector,
    names: [&str; 3],
) -> String {
    let [client_id, object_id, resource_id] = names;
    let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let whole = format!("{path}?api-version={api_version}&resource={}", encoded(audience));
    let (name, id) = match selector {
        IdentitySelector::SystemAssigned => return whole,
        IdentitySelector::ClientId(id) => (client_id, id),
        IdentitySelector::ObjectId(id) => (object_id, id),
        IdentitySelector::ResourceId(id) => (resource_id, id),
    };
    format!("{whole}&{name}={}", encoded(id))
}

/// Takes an answer of an identity endpoint apart: the body of a success, or why there is none.
/// `passes` tells which statuses pass, of those that are no success.
fn success(reply: &Reply, passes: impl Fn(u16, &Said) -> bool) -> Result<&[u8], Failure> {
    let (status, retry_after, body) = match reply {
        Reply::Answer { status: 200, body, .. } => return Ok(body),
        Reply::Answer { status, retry_after, body } => (*status, retry_after, body),
        Reply::Nothing(why) => return Err(Failure::useless(*why)),
    };
    let said = Said::read(body);
    let detail = describe(&said);
    // Whatever is no client error is no judgement of the request.
    Err(if passes(status, &said) || !(400..500).contains(&status) {
        let retry_after = retry_after.as_deref().and_then(|text| text.trim().parse().ok());
        Failure::Passing {
            status: Some(status),
            detail,
            retry_after: retry_after.map(Duration::from_secs),
        }
    } else {
        Failure::Refused { status, detail }
    })
}

/// What an error says, for a line of the log. A body without a shape that is known may be anybody's.
fn describe(said: &Said) -> String {
    match (said.code.as_str(), said.message.as_str()) {
        ("", _) => "no explanation".to_owned(),
        (text, "") => printable(text),
        (code, message) => printable(&format!("{code}: {}", message.trim_end_matches('.'))),
    }
}

/// A text from outside, made fit for a log line.
fn printable(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut line: String = chars.by_ref().take(LONGEST).collect();
    if chars.next().is_some() {
        line.pop();
        line.push('…');
    }
    line
}
