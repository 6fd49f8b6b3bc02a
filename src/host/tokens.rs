//! This worker's view of the token that all workers share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use log::{error, info, warn};
use proxy_wasm::hostcalls;

use super::callout;
use super::metrics::Metrics;
use super::worker::dice;
use crate::answer::Answer;
use crate::config::{Config, Identity};
use crate::identity::cache::{Readiness, Slot};
use crate::identity::token::Token;
use crate::identity::{fetch_timeout, Failure, Reply};
use crate::metrics::FetchResult;

/// A claim outlives the fetch by this, so that its end is seen before somebody else starts.
const CLAIM_MARGIN: Duration = Duration::from_secs(1);

/// How soon a worker looks again for a token that another one is fetching: nobody will tell it.
const RECHECK: Duration = Duration::from_millis(200);

/// Other workers may write the slot between a read and a write of ours; they do so a few times an
/// hour.
const ATTEMPTS: usize = 16;

/// A claim that no worker makes.
const NOBODY: u64 = 0;

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
    expires_at: SystemTime,
}

#[derive(Clone, Copy)]
struct Fetch {
    callout: u32,
    claim: u64,
}

/// The token, as far as this worker knows.
pub(super) struct Tokens {
    identity: Identity,
    audience: String,
    /// Where the slot is in the store that all workers share.
    key: String,
    bearer: RefCell<Option<Rc<Bearer>>>,
    /// This worker's fetch, while it is under way.
    fetch: Cell<Option<Fetch>>,
}

impl Tokens {
    pub(super) fn new(config: &Config) -> Self {
        let tokens = Self {
            identity: config.identity.clone(),
            audience: config.audience.clone(),
            key: format!("aoai-filter/token/{}", config.token_slot()),
            bearer: RefCell::new(None),
            fetch: Cell::new(None),
        };
        tokens.prepare();
        tokens
    }

    /// Puts an empty slot where none is: only what is there can be compared and swapped. Envoy
    /// configures the module on its main thread before any worker has it, so nobody is overwritten.
    fn prepare(&self) {
        if matches!(hostcalls::get_shared_data(&self.key), Ok((None, _))) {
            let _ = hostcalls::set_shared_data(&self.key, Some(&Slot::new().to_bytes()), None);
        }
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
        let (slot, _) = self.load();
        match slot.readiness(now) {
            Readiness::Ready(token) => Look::Ready(self.keep(token)),
            Readiness::Coming(_) | Readiness::Refused(..) => Look::NotReady(slot),
        }
    }

    /// Starts a fetch if one is due and nobody else is at it; learns what the others have fetched.
    /// Returns when to look again.
    pub(super) fn tick(&self, now: SystemTime, metrics: &Metrics) -> SystemTime {
        let (slot, version) = self.load();
        let claim = dice(now);
        let timeout = fetch_timeout(slot.failures());
        if let Some(claimed) = slot.claim(claim, now, timeout + CLAIM_MARGIN) {
            if self.store(&claimed, version) {
                let request = self.identity.request(&self.audience);
                match callout::send(&request, timeout) {
                    Ok(callout) => self.fetch.set(Some(Fetch { callout, claim })),
                    Err(nothing) => self.end(claim, &nothing, now, metrics),
                }
            }
        }
        let (slot, _) = self.load();
        if let Readiness::Ready(token) = slot.readiness(now) {
            self.keep(token);
        }
        metrics.set_remaining_seconds(self.remaining(now).as_secs());
        if slot.is_claimed() {
            now + RECHECK
        } else {
            slot.due()
        }
    }

    /// Takes what came back for a callout of this worker's. That of an earlier fetch, which was given
    /// up, may still bring a token, but is nobody's claim.
    pub(super) fn settle(&self, callout: u32, reply: &Reply, now: SystemTime, metrics: &Metrics) {
        let claim = match self.fetch.get() {
            Some(fetch) if fetch.callout == callout => {
                self.fetch.set(None);
                fetch.claim
            }
            _ => NOBODY,
        };
        self.end(claim, reply, now, metrics);
    }

    fn end(&self, claim: u64, reply: &Reply, now: SystemTime, metrics: &Metrics) {
        let outcome = self.identity.read(reply, now, dice(now));
        metrics.count_fetch(match &outcome {
            Ok(_) => FetchResult::Success,
            Err(Failure::Passing { .. }) => FetchResult::Failed,
            Err(Failure::Refused { .. }) => FetchResult::Refused,
        });
        for _ in 0..ATTEMPTS {
            let (before, version) = self.load();
            let after = before.settle(claim, outcome.clone(), now, dice(now));
            if self.store(&after, version) {
                report(&before, &after, outcome.as_ref(), now);
                return;
            }
        }
        error!("the shared token slot cannot be written");
    }

    /// Leaves a fetch to the others whose answer this worker will not see.
    pub(super) fn release(&self, now: SystemTime) {
        let Some(Fetch { claim, .. }) = self.fetch.take() else {
            return;
        };
        for _ in 0..ATTEMPTS {
            let (slot, version) = self.load();
            if self.store(&slot.release(claim, now), version) {
                return;
            }
        }
    }

    fn remaining(&self, now: SystemTime) -> Duration {
        let bearer = self.bearer.borrow();
        let expires_at = bearer.as_ref().map(|bearer| bearer.expires_at);
        expires_at.and_then(|at| at.duration_since(now).ok()).unwrap_or_default()
    }

    fn usable(&self, now: SystemTime) -> Option<Rc<Bearer>> {
        self.bearer.borrow().as_ref().filter(|bearer| now < bearer.expires_at).cloned()
    }

    fn keep(&self, token: &Token) -> Rc<Bearer> {
        let value = format!("Bearer {}", token.secret.expose());
        let bearer = Rc::new(Bearer { value, expires_at: token.expires_at });
        *self.bearer.borrow_mut() = Some(Rc::clone(&bearer));
        bearer
    }

    fn load(&self) -> (Slot, Option<u32>) {
        let (bytes, version) = hostcalls::get_shared_data(&self.key).unwrap_or_default();
        let slot = bytes.and_then(|bytes| Slot::from_bytes(&bytes)).unwrap_or_default();
        (slot, version)
    }

    fn store(&self, slot: &Slot, version: Option<u32>) -> bool {
        hostcalls::set_shared_data(&self.key, Some(&slot.to_bytes()), version).is_ok()
    }
}

/// One line for each change of state, and none for what stays the same.
fn report(before: &Slot, after: &Slot, outcome: Result<&Token, &Failure>, now: SystemTime) {
    let next = |at: SystemTime| at.duration_since(now).unwrap_or_default().as_secs();
    match outcome {
        Ok(token) if before.failures() > 0 => info!(
            "the identity endpoint gives tokens again, after {} failures; this one lasts {} s",
            before.failures(),
            next(token.expires_at),
        ),
        Ok(_) => {}
        Err(failure) if before.failure().is_some_and(|known| known.is_like(failure)) => {}
        Err(failure @ Failure::Refused { .. }) => error!(
            "no token for Azure: {failure}. This needs mending; asking again in {} s",
            next(after.due()),
        ),
        Err(failure) => {
            warn!("no token for Azure: {failure}; asking again in {} s", next(after.due()));
        }
    }
}
