//! This worker's view of a token that all workers share, and its fetches.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use super::host::Host;
use super::measure::{Counter, FetchResult, Gauge, LogEntry};
use super::store::View;
use crate::base::random;
use crate::base::secret::Secret;
use crate::config::{Config, Credential};
use crate::identity::cache::{Readiness, Slot};
use crate::identity::fetch::{fetch_timeout, Progress, Step};
use crate::identity::token::Token;
use crate::identity::{CalloutResponse, Failure, IdentityError, Request};
use crate::routing::selection::SignIn;

/// How often a worker looks around when nothing is due: tokens that others fetched, the gauge, requests
/// that wait.
pub const IDLE: Duration = Duration::from_secs(1);

/// Envoy counts in milliseconds, and none of them would stop the ticks.
pub const SHORTEST_TICK: Duration = Duration::from_millis(1);

/// A claim outlives the fetch by this, so that its end is seen before another worker starts.
const CLAIM_MARGIN: Duration = Duration::from_secs(1);

/// How soon a worker looks again for a token that another one is fetching: nothing will tell it.
const RECHECK: Duration = Duration::from_millis(200);

/// How much later a worker claims a fetch that cannot reach the client credential: all others have looked
/// by then.
const OTHERS_FIRST: Duration = Duration::from_secs(6);

/// For so long a worker may not know of a token that another one has fetched.
const MAX_AGE: Duration = Duration::from_millis(1);

/// A token as the requests of this worker use it.
#[derive(Debug)]
pub struct Bearer {
    /// The value of the `authorization` header.
    pub value: Secret,
    expires_at: SystemTime,
}

/// A fetch of this worker's, at one of its steps.
#[derive(Debug, Clone, Copy)]
struct Fetch {
    claim: u64,
    step: Step,
    /// Of each step.
    timeout: Duration,
}

/// A credential's tokens, as far as this worker knows.
#[derive(Debug)]
pub struct Tokens {
    /// The credential.
    pub credential: Credential,
    /// Whether a backend is signed in to with it.
    pub is_used: bool,
    slot: View<Slot>,
    bearer: RefCell<Option<Rc<Bearer>>>,
    /// This worker's fetch, while it is under way, and the callout whose response it waits for.
    fetch: Cell<Option<(u32, Fetch)>>,
    /// Whether others go first, because the client credential could not be reached from here.
    is_remote: Cell<bool>,
}

/// Where the token of a credential is in the store that all workers share.
pub fn key(credential: &Credential) -> String {
    format!("aoai-filter/token/{}", credential.slot())
}

impl Tokens {
    /// Those of each credential of a configuration, in its order.
    pub fn of(config: &Config, host: &dyn Host) -> Vec<Self> {
        let is_used = |position| config.backends.iter().any(|one| one.credential == position);
        let credentials = config.credentials.iter().enumerate();
        credentials.map(|(position, one)| Self::new(one, is_used(position), host)).collect()
    }

    fn new(credential: &Credential, is_used: bool, host: &dyn Host) -> Self {
        Self {
            is_used,
            slot: View::new(host, key(credential), MAX_AGE),
            credential: credential.clone(),
            bearer: RefCell::new(None),
            fetch: Cell::new(None),
            is_remote: Cell::new(false),
        }
    }

    /// The token for a request that waits until `deadline` at the longest; `None` to wait on.
    ///
    /// # Errors
    /// There is none, and there will be none in time.
    pub fn admit(
        &self,
        host: &dyn Host,
        now: SystemTime,
        deadline: SystemTime,
    ) -> Result<Option<Rc<Bearer>>, IdentityError> {
        match self.usable(now) {
            Some(bearer) => Ok(Some(bearer)),
            None => {
                let slot = self.slot.get(host, now);
                Ok(slot.readiness(now).admit(now, deadline)?.map(|token| self.keep(token)))
            }
        }
    }

    /// Whether there is a token, or may be one soon.
    pub fn sign_in(&self, host: &dyn Host, now: SystemTime) -> SignIn {
        if self.usable(now).is_some() {
            return SignIn::Ready;
        }
        match self.slot.get(host, now).readiness(now) {
            Readiness::Ready(_) => SignIn::Ready,
            Readiness::Pending(_) => SignIn::Pending,
            Readiness::Refused(..) => SignIn::Refused,
        }
    }

    /// The token that all workers share now, be it newer than what this one knows.
    ///
    /// # Errors
    /// There is none.
    pub fn newest(
        &self,
        host: &dyn Host,
        now: SystemTime,
    ) -> Result<Option<Rc<Bearer>>, IdentityError> {
        let slot = self.slot.get(host, now);
        // The deadline is now: nothing can wait here.
        Ok(slot.readiness(now).admit(now, now)?.map(|token| self.keep(token)))
    }

    /// Starts a fetch if one is due and no other worker is at it; learns what the others have fetched.
    /// Returns when to look again.
    pub fn tick(&self, host: &dyn Host, now: SystemTime) -> SystemTime {
        let claim = random::from_clock(now);
        let timeout = |slot: &Slot| fetch_timeout(slot.failures());
        let later = if self.is_remote.get() { OTHERS_FIRST } else { Duration::ZERO };
        let claimed = self.slot.change(host, now, &|slot| {
            let slot = slot.after_others(later);
            slot.claim(claim, now, timeout(&slot) * self.credential.steps() + CLAIM_MARGIN)
        });
        if let Some((_, slot)) = claimed {
            let (step, request) = self.credential.begin();
            self.send(host, &request, Fetch { claim, step, timeout: timeout(&slot) }, now);
        }
        // What `change` left as it is, it has not read into the view.
        let slot = self.slot.reload(host, now);
        if let Readiness::Ready(token) = slot.readiness(now) {
            self.keep(token);
        }
        let identity = &self.credential.name;
        host.set(Gauge::TokenRemaining { identity }, self.remaining(now).as_secs());
        if slot.is_claimed() {
            now + RECHECK
        } else {
            slot.due() + later
        }
    }

    fn send(&self, host: &dyn Host, request: &Request, fetch: Fetch, now: SystemTime) {
        match host.call(request, fetch.timeout) {
            Ok(callout) => self.fetch.set(Some((callout, fetch))),
            Err(response) => self.proceed(host, fetch, &response, now),
        }
    }

    /// Takes what came back for a callout, if that was of this fetch.
    pub fn settle(
        &self,
        host: &dyn Host,
        callout: u32,
        response: &CalloutResponse,
        now: SystemTime,
    ) -> bool {
        match self.fetch.get() {
            Some((asked, fetch)) if asked == callout => {
                self.fetch.set(None);
                self.proceed(host, fetch, response, now);
                true
            }
            _ => false,
        }
    }

    fn proceed(&self, host: &dyn Host, fetch: Fetch, response: &CalloutResponse, now: SystemTime) {
        let Fetch { claim, step, .. } = fetch;
        if step == Step::ClientCredential {
            let was_remote = self.is_remote.replace(response.is_unreached());
            if response.is_unreached() && !was_remote {
                // Another worker may reach it.
                self.slot.change(host, now, &|slot| Some(slot.release(claim, now)));
                return;
            }
        }
        let number = random::from_clock(now);
        let outcome = match self.credential.proceed(step, response, now, number) {
            Progress::Ask(request) => {
                return self.send(host, &request, Fetch { step: Step::Token, ..fetch }, now);
            }
            Progress::Done(outcome) => outcome,
        };
        let result = match &outcome {
            Ok(_) => FetchResult::Success,
            Err(Failure::Transient { .. }) => FetchResult::Failed,
            Err(Failure::Permanent { .. }) => FetchResult::Refused,
        };
        host.add(Counter::TokenFetch { identity: &self.credential.name, result }, 1);
        let settled = self
            .slot
            .change(host, now, &|slot| Some(slot.settle(claim, outcome.clone(), now, number)));
        if let Some((before, after)) = settled {
            self.report(host, &before, &after, outcome.as_ref(), now);
        }
    }

    /// Has a token fetched anew that a backend has rejected, unless it is new; whether it is.
    pub fn reject(&self, host: &dyn Host, now: SystemTime) -> bool {
        self.slot.change(host, now, &|slot| slot.renew(now)).is_some()
    }

    /// Leaves a fetch to the others whose response this worker will not see.
    pub fn release(&self, host: &dyn Host, now: SystemTime) {
        if let Some((_, Fetch { claim, .. })) = self.fetch.take() {
            self.slot.change(host, now, &|slot| Some(slot.release(claim, now)));
        }
    }

    fn remaining(&self, now: SystemTime) -> Duration {
        let bearer = self.bearer.borrow();
        let expires_at = bearer.as_ref().map(|bearer| bearer.expires_at);
        expires_at.and_then(|at| at.duration_since(now).ok()).unwrap_or_default()
    }

    /// The token, if this worker has one that can still be used.
    pub fn usable(&self, now: SystemTime) -> Option<Rc<Bearer>> {
        self.bearer.borrow().as_ref().filter(|bearer| now < bearer.expires_at).cloned()
    }

    fn keep(&self, token: &Token) -> Rc<Bearer> {
        let mut bearer = self.bearer.borrow_mut();
        match &*bearer {
            Some(known) if known.is(token) => Rc::clone(known),
            _ => {
                let value = bearer_value(&token.secret);
                let new = Rc::new(Bearer { value, expires_at: token.expires_at });
                *bearer = Some(Rc::clone(&new));
                new
            }
        }
    }

    /// One line for each change of state, and none for what stays the same.
    fn report(
        &self,
        host: &dyn Host,
        before: &Slot,
        after: &Slot,
        outcome: Result<&Token, &Failure>,
        now: SystemTime,
    ) {
        let until = |at: SystemTime| at.duration_since(now).unwrap_or_default();
        let identity = &self.credential.name;
        match outcome {
            Ok(token) if before.failures() > 0 => {
                let (failures, lasts) = (before.failures(), until(token.expires_at));
                host.log(&LogEntry::TokenRecovered { identity, failures, lasts });
            }
            Ok(_) => {}
            Err(failure) if before.failure().is_some_and(|known| known.is_like(failure)) => {}
            Err(failure) => {
                let retry_in = until(after.due());
                host.log(&LogEntry::TokenFailed { identity, failure, retry_in });
            }
        }
    }
}

/// The value of the `authorization` header.
pub fn bearer_value(token: &Secret) -> Secret {
    Secret::new(format!("Bearer {}", token.expose()))
}

impl Bearer {
    fn is(&self, token: &Token) -> bool {
        self.expires_at == token.expires_at
            && self.value.expose().strip_prefix("Bearer ") == Some(token.secret.expose())
    }
}
