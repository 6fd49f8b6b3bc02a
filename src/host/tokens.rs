//! This worker's view of a token that all workers share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use log::{info, log, Level};

use super::callout;
use super::metrics::Metrics;
use super::shared;
use super::worker::{dice, IDLE};
use crate::answer::Answer;
use crate::config::{Config, Credential};
use crate::diagnosis::{Diagnosis, Said};
use crate::health::SignIn;
use crate::identity::cache::{Readiness, Slot};
use crate::identity::token::Token;
use crate::identity::{fetch_timeout, Failure, Progress, Reply, Request, Step};
use crate::metrics::FetchResult;

/// A claim outlives the fetch by this, so that its end is seen before somebody else starts.
const CLAIM_MARGIN: Duration = Duration::from_secs(1);

/// How soon a worker looks again for a token that another one is fetching: nobody will tell it.
const RECHECK: Duration = Duration::from_millis(200);

/// How much later somebody claims a fetch who cannot reach the proof: all others have looked by then.
const OTHERS_FIRST: Duration = IDLE.saturating_add(Duration::from_secs(1));

/// What a look at the token has found.
pub(super) enum Look {
    Ready(Rc<Bearer>),
    NotReady(Slot),
}

impl Look {
    /// As [`Tokens::admit`].
    pub(super) fn admit(
        &self,
        now: SystemTime,
        deadline: SystemTime,
    ) -> Result<Option<Rc<Bearer>>, Answer> {
        match self {
            Self::Ready(bearer) => Ok(Some(Rc::clone(bearer))),
            Self::NotReady(slot) => slot.readiness(now).admit(now, deadline).map(|_| None),
        }
    }
}

/// A token as the requests of this worker use it.
pub(super) struct Bearer {
    /// The value of the `authorization` header.
    pub(super) value: String,
    /// The position of its credential in the configuration.
    pub(super) credential: usize,
    expires_at: SystemTime,
}

/// A fetch of this worker's, at one of its steps.
#[derive(Clone, Copy)]
struct Fetch {
    claim: u64,
    step: Step,
    /// Of each step.
    timeout: Duration,
}

/// A credential's tokens, as far as this worker knows.
pub(super) struct Tokens {
    pub(super) credential: Credential,
    /// Whether a backend is signed in to with it.
    pub(super) is_used: bool,
    /// Its position in the configuration.
    position: usize,
    /// Where the slot is in the store that all workers share.
    key: String,
    bearer: RefCell<Option<Rc<Bearer>>>,
    /// This worker's fetch, while it is under way, and the callout whose answer it waits for.
    fetch: Cell<Option<(u32, Fetch)>>,
    /// Whether others go first, because the proof could not be reached from here.
    is_remote: Cell<bool>,
}

impl Tokens {
    /// Those of each credential of a configuration, in its order.
    pub(super) fn of(config: &Config) -> Vec<Self> {
        let is_used = |position| config.backends.iter().any(|one| one.credential == position);
        let credentials = config.credentials.iter().enumerate();
        credentials.map(|(position, one)| Self::new(one, position, is_used(position))).collect()
    }

    fn new(credential: &Credential, position: usize, is_used: bool) -> Self {
        let tokens = Self {
            is_used,
            key: format!("aoai-filter/token/{}", credential.slot()),
            credential: credential.clone(),
            position,
            bearer: RefCell::new(None),
            fetch: Cell::new(None),
            is_remote: Cell::new(false),
        };
        shared::prepare(&tokens.key, &Slot::new().to_bytes());
        tokens
    }

    /// The token for a request that waits until `deadline` at the longest; `None` to wait on.
    pub(super) fn admit(
        &self,
        now: SystemTime,
        deadline: SystemTime,
    ) -> Result<Option<Rc<Bearer>>, Answer> {
        match self.usable(now) {
            Some(bearer) => Ok(Some(bearer)),
            None => self.look(now).admit(now, deadline),
        }
    }

    /// What there is for requests now. One look serves all that wait.
    pub(super) fn look(&self, now: SystemTime) -> Look {
        if let Some(bearer) = self.usable(now) {
            return Look::Ready(bearer);
        }
        let slot = self.load();
        match slot.readiness(now) {
            Readiness::Ready(token) => Look::Ready(self.keep(token)),
            Readiness::Coming(_) | Readiness::Refused(..) => Look::NotReady(slot),
        }
    }

    /// Whether there is a token, or when there may be one.
    pub(super) fn sign_in(&self, now: SystemTime) -> SignIn {
        match self.look(now) {
            Look::Ready(_) => SignIn::Ready,
            Look::NotReady(slot) => match slot.readiness(now) {
                Readiness::Refused(..) => SignIn::Refused,
                Readiness::Ready(_) | Readiness::Coming(_) => SignIn::Coming,
            },
        }
    }

    /// The token that all workers share now, be it newer than what this one knows.
    pub(super) fn newest(&self, now: SystemTime) -> Result<Option<Rc<Bearer>>, Answer> {
        let slot = self.load();
        // The deadline is now: nobody can wait here.
        Ok(slot.readiness(now).admit(now, now)?.map(|token| self.keep(token)))
    }

    /// Starts a fetch if one is due and nobody else is at it; learns what the others have fetched.
    /// Returns when to look again.
    pub(super) fn tick(&self, now: SystemTime, metrics: &Metrics) -> SystemTime {
        let claim = dice(now);
        let timeout = |slot: &Slot| fetch_timeout(slot.failures());
        let later = if self.is_remote.get() { OTHERS_FIRST } else { Duration::ZERO };
        let claimed = self.change(|slot| {
            let slot = slot.after_others(later);
            slot.claim(claim, now, timeout(&slot) * self.credential.steps() + CLAIM_MARGIN)
        });
        if let Some((_, slot)) = claimed {
            let (step, request) = self.credential.begin();
            self.send(&request, Fetch { claim, step, timeout: timeout(&slot) }, now, metrics);
        }
        let slot = self.load();
        if let Readiness::Ready(token) = slot.readiness(now) {
            self.keep(token);
        }
        metrics.set_remaining_seconds(self.position, self.remaining(now).as_secs());
        if slot.is_claimed() {
            now + RECHECK
        } else {
            slot.due() + later
        }
    }

    fn send(&self, request: &Request, fetch: Fetch, now: SystemTime, metrics: &Metrics) {
        match callout::send(request, fetch.timeout) {
            Ok(callout) => self.fetch.set(Some((callout, fetch))),
            Err(nothing) => self.proceed(fetch, &nothing, now, metrics),
        }
    }

    /// Takes what came back for a callout, if that was of this fetch.
    pub(super) fn settle(
        &self,
        callout: u32,
        reply: &Reply,
        now: SystemTime,
        metrics: &Metrics,
    ) -> bool {
        match self.fetch.get() {
            Some((asked, fetch)) if asked == callout => {
                self.fetch.set(None);
                self.proceed(fetch, reply, now, metrics);
                true
            }
            _ => false,
        }
    }

    fn proceed(&self, fetch: Fetch, reply: &Reply, now: SystemTime, metrics: &Metrics) {
        let Fetch { claim, step, .. } = fetch;
        if step == Step::Proof {
            let was_remote = self.is_remote.replace(reply.is_unreached());
            if reply.is_unreached() && !was_remote {
                // Another worker may reach it.
                self.change(|slot| Some(slot.release(claim, now)));
                return;
            }
        }
        let outcome = match self.credential.proceed(step, reply, now, dice(now)) {
            Progress::Ask(request) => {
                return self.send(&request, Fetch { step: Step::Token, ..fetch }, now, metrics);
            }
            Progress::Done(outcome) => outcome,
        };
        metrics.count_fetch(
            self.position,
            match &outcome {
                Ok(_) => FetchResult::Success,
                Err(Failure::Passing { .. }) => FetchResult::Failed,
                Err(Failure::Refused { .. }) => FetchResult::Refused,
            },
        );
        let settled = self.change(|slot| Some(slot.settle(claim, outcome.clone(), now, dice(now))));
        if let Some((before, after)) = settled {
            self.report(&before, &after, outcome.as_ref(), now);
        }
    }

    /// Has a token fetched anew that a backend has rejected, unless it is new; whether it is.
    pub(super) fn reject(&self, now: SystemTime) -> bool {
        self.change(|slot| slot.renew(now)).is_some()
    }

    /// Leaves a fetch to the others whose answer this worker will not see.
    pub(super) fn release(&self, now: SystemTime) {
        if let Some((_, Fetch { claim, .. })) = self.fetch.take() {
            self.change(|slot| Some(slot.release(claim, now)));
        }
    }

    fn change(&self, change: impl Fn(&Slot) -> Option<Slot>) -> Option<(Slot, Slot)> {
        shared::change(&self.key, &change)
    }

    fn remaining(&self, now: SystemTime) -> Duration {
        let bearer = self.bearer.borrow();
        let expires_at = bearer.as_ref().map(|bearer| bearer.expires_at);
        expires_at.and_then(|at| at.duration_since(now).ok()).unwrap_or_default()
    }

    /// The token, if this worker has one that can still be used.
    pub(super) fn usable(&self, now: SystemTime) -> Option<Rc<Bearer>> {
        self.bearer.borrow().as_ref().filter(|bearer| now < bearer.expires_at).cloned()
    }

    fn keep(&self, token: &Token) -> Rc<Bearer> {
        let value = format!("Bearer {}", token.secret.expose());
        let bearer =
            Rc::new(Bearer { value, credential: self.position, expires_at: token.expires_at });
        *self.bearer.borrow_mut() = Some(Rc::clone(&bearer));
        bearer
    }

    fn load(&self) -> Slot {
        shared::load(&self.key)
    }

    /// One line for each change of state, and none for what stays the same.
    fn report(
        &self,
        before: &Slot,
        after: &Slot,
        outcome: Result<&Token, &Failure>,
        now: SystemTime,
    ) {
        let next = |at: SystemTime| at.duration_since(now).unwrap_or_default().as_secs();
        let name = &self.credential.name;
        match outcome {
            Ok(token) if before.failures() > 0 => info!(
                "the identity endpoint gives tokens again (failed fetches before: {}); this one lasts {} s \
                 (identity {name})",
                before.failures(),
                next(token.expires_at),
            ),
            Ok(_) => {}
            Err(failure) if before.failure().is_some_and(|known| known.is_like(failure)) => {}
            Err(failure) => {
                let level = if failure.is_permanent() { Level::Error } else { Level::Warn };
                log!(
                    level,
                    "no token for Azure: {failure}. {}Asking again in {} s (identity {name})",
                    explanation(failure),
                    next(after.due()),
                );
            }
        }
    }
}

/// What a failure means and what to do about it, in sentences, where that is known.
fn explanation(failure: &Failure) -> String {
    let said = Said { code: String::new(), message: failure.detail().to_owned() };
    match Diagnosis::of_refusal(&said) {
        Some(found) => format!("{}: {}. {} ", found.slug, found.wrong, found.mend),
        None if failure.is_permanent() => "This needs mending. ".to_owned(),
        None => String::new(),
    }
}
