//! A fetch of a token, from the first request to the token.
//!
//! ```text
//! IMDS, App Service      Token ──► token
//! Entra ID       ClientCredential ──► Token ──► token
//!                the client assertion or secret comes from a file that Envoy serves
//! ```

use std::time::{Duration, SystemTime};

use super::exchange::{CalloutResponse, Request};
use super::failure::Failure;
use super::token::Token;
use super::{app_service, entra, managed_identity};
use crate::base::digest::Digest;
use crate::base::secret::Secret;
use crate::config::{Credential, Identity};

/// How long an identity endpoint may take to respond after so many failures in a row. IMDS normally
/// responds in milliseconds, so the first attempt ends early enough for a second one while requests still
/// wait; later attempts have more time, for an endpoint that is slow.
pub fn fetch_timeout(failures: u32) -> Duration {
    Duration::from_secs(if failures == 0 { 3 } else { 10 })
}

/// What a fetch is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The client assertion or client secret.
    ClientCredential,
    /// The token.
    Token,
}

/// What a response leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The next request, for the token.
    Ask(Request),
    /// The fetch has ended.
    Done(Result<Token, Failure>),
}

impl Credential {
    /// How a fetch begins.
    pub fn begin(&self) -> (Step, Request) {
        let audience = &self.audience;
        match &self.identity {
            Identity::Managed { cluster, selector } => {
                (Step::Token, managed_identity::request(cluster, selector, audience))
            }
            Identity::AppService { cluster, authority, path, selector } => {
                (Step::Token, app_service::request(cluster, authority, path, selector, audience))
            }
            Identity::Application(application) => (
                Step::ClientCredential,
                entra::client_credential_request(&application.credential_cluster),
            ),
        }
    }

    /// How it continues after the response of a step. `random` is any number.
    pub fn proceed(
        &self,
        step: Step,
        response: &CalloutResponse,
        now: SystemTime,
        random: u64,
    ) -> Progress {
        let token = match (&self.identity, step) {
            (Identity::Application(application), Step::ClientCredential) => {
                return match entra::read_client_credential(application.credential, response, now) {
                    Ok(credential) => {
                        Progress::Ask(entra::request(application, &self.audience, &credential))
                    }
                    Err(failure) => Progress::Done(Err(failure)),
                };
            }
            (Identity::Application(_), Step::Token) => entra::read(response, now, random),
            (Identity::AppService { .. }, _) => app_service::read(response, now, random),
            (Identity::Managed { .. }, _) => managed_identity::read(response, now, random),
        };
        Progress::Done(token)
    }

    /// How many responses a fetch takes.
    pub fn steps(&self) -> u32 {
        if matches!(self.identity, Identity::Application(_)) {
            2
        } else {
            1
        }
    }

    /// Distinguishes this identity and audience from all others, in a store that other configurations
    /// may share.
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
