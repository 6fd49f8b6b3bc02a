//! What the two stages share of a request to a pool: a value in the memory of the worker, found by a
//! reference that the gateway stage leaves beside the request.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::gateway::Gateway;
use super::host::Host;
use super::measure::{AttemptResult, Counter};
use crate::base::codec::{Reader, Writer};
use crate::config::Subscription;
use crate::reply::{Reason, Reply};
use crate::response::diagnosis::Diagnosis;
use crate::routing::cooldown::{Claim, Evidence, Outcome};
use crate::routing::plan::{AttemptPlan, DetachedPlan};
use crate::routing::selection::Asker;
use crate::routing::RoutingError;

/// Callers that retry at once are no help to anybody.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// A request to a pool.
#[derive(Debug)]
pub struct PoolRequest {
    /// The gateway that admitted it. Another configuration may have replaced its since then.
    pub gateway: Rc<Gateway>,
    /// From what its attempts are made.
    pub plan: AttemptPlan,
    /// What it has claimed for its first attempt.
    pub claim: Option<Claim>,
    /// How many attempts have begun.
    pub attempts: usize,
    /// When the last one began.
    pub began: SystemTime,
    /// How it stands.
    pub last: LastAttempt,
    /// The backend that was asked last.
    pub asked: Option<String>,
    /// When an attempt first had the whole request.
    pub whole_since: Option<SystemTime>,
    /// Whether the last attempt has found no connection.
    pub connection_failed: bool,
    /// The subscription that it is of.
    pub subscription: Arc<Subscription>,
    /// The backends that failed, until it is known whether another one serves the request.
    pub failed: Vec<String>,
    /// What its attempts have met with.
    pub met: Met,
}

/// What the attempts of a request have met with so far.
#[derive(Debug, Default)]
pub struct Met {
    /// Whether a backend has throttled it.
    pub throttling: bool,
    /// Whether one has done so without saying for how long. The others may do so for the same reason, which
    /// is the request.
    pub throttling_without_time: bool,
    /// Whether a backend has failed.
    pub failure: bool,
    /// The first misconfiguration: the diagnosis's name.
    pub misconfiguration: Option<&'static str>,
}

/// How the last attempt of a request stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastAttempt {
    /// There was none.
    None,
    /// The backend was asked, and has not responded.
    Pending {
        /// Its name.
        backend: String,
    },
    /// The backend's response has begun.
    Responded {
        /// Its name.
        backend: String,
        /// The response's status.
        status: u16,
        /// What it tells of the backend.
        outcome: Outcome,
        /// The mistake that it shows, whosever that is.
        diagnosis: Option<&'static Diagnosis>,
    },
    /// The backend stage itself has replied.
    Replied(Reason),
}

impl PoolRequest {
    /// Whether the backend has failed that has not responded. An upload that stalls is its caller's doing.
    fn is_backends_failure(&self) -> bool {
        self.whole_since.is_some() || self.connection_failed
    }

    /// Counts the last attempt as failed, where its backend has not responded.
    pub fn note_failure(&mut self, host: &dyn Host) {
        if let LastAttempt::Pending { backend } = &self.last {
            let (model, result) = (self.plan.model.name.as_str(), AttemptResult::Failed);
            host.add(Counter::Attempt { backend, model, result, status: None }, 1);
            self.met.failure = true;
            if self.is_backends_failure() {
                self.failed.push(backend.clone());
            }
        }
    }

    /// Remembers how an attempt at one of its backends ended. `is_confirmed` tells of a failure whether
    /// another backend has then served the request.
    pub fn record(
        &self,
        host: &dyn Host,
        backend: &str,
        outcome: Outcome,
        is_confirmed: bool,
        now: impl FnOnce() -> SystemTime,
    ) {
        let Gateway { cooldowns, config, .. } = &*self.gateway;
        let pair = (backend, self.plan.model.name.as_str());
        let subscription = || self.asker().number();
        let began = self.began;
        let evidence = || Evidence { subscription: subscription(), is_confirmed, began };
        cooldowns.record(host, pair, outcome, evidence, &config.failover, now);
    }

    /// Takes what the response of one of its backends tells of that.
    pub fn learn(
        &mut self,
        host: &dyn Host,
        backend: &str,
        outcome: Outcome,
        now: &impl Fn() -> SystemTime,
    ) {
        match outcome {
            Outcome::Served => {
                if !self.failed.is_empty() {
                    self.settle_failures(host, true, now());
                }
                self.record(host, backend, outcome, true, now);
            }
            Outcome::Inconclusive => self.give_back_probe(host, backend, now),
            Outcome::Throttled(retry_after) => {
                self.met.throttling = true;
                let is_again = retry_after.is_none()
                    && std::mem::replace(&mut self.met.throttling_without_time, true);
                if !is_again {
                    self.record(host, backend, outcome, true, now);
                }
            }
            Outcome::Failed => {
                self.met.failure = true;
                self.failed.push(backend.to_owned());
            }
            Outcome::Misconfigured(found) => {
                self.met.misconfiguration.get_or_insert(found.diagnosis);
                self.record(host, backend, outcome, true, now);
            }
        }
    }

    /// Remembers the failures of its backends: they count where another backend has served the request, and
    /// otherwise as those of its subscription.
    pub fn settle_failures(&mut self, host: &dyn Host, is_served: bool, now: SystemTime) {
        for backend in std::mem::take(&mut self.failed) {
            self.record(host, &backend, Outcome::Failed, is_served, || now);
        }
    }

    /// As whom it asks.
    pub fn asker(&self) -> Asker<'_> {
        Asker { subscription: &self.subscription.id, is_whole: self.whole_since.is_some() }
    }

    /// Another request may probe the backend that this one has, if it has: it has told nothing.
    pub fn give_back_probe(
        &self,
        host: &dyn Host,
        backend: &str,
        now: impl FnOnce() -> SystemTime,
    ) {
        // Another request may have claimed a probe of the same backend since this one was sent.
        if self.claim == Some(Claim::Probe) && self.attempts == 1 {
            self.gateway.cooldowns.give_back(host, backend, &self.plan.model.name, now());
        }
    }

    /// Whether a backend's response serves it.
    pub fn is_served(&self) -> bool {
        matches!(self.last, LastAttempt::Responded { outcome: Outcome::Served, .. })
    }

    /// The reason of the local reply that ends it.
    pub fn reply(&self) -> Option<Reason> {
        match self.last {
            LastAttempt::Replied(reason) => Some(reason),
            _ => None,
        }
    }

    /// When a backend of its model may be asked again.
    pub fn soonest(&self, host: &dyn Host, now: SystemTime) -> Duration {
        let states = self.gateway.states(host, now);
        let soonest = self.plan.model.soonest(&states.get(), self.asker(), now);
        if soonest.is_zero() {
            SHORTEST_WAIT
        } else {
            soonest
        }
    }

    /// What its caller is told when no backend has served it: that it was throttled before that backends
    /// failed, and that before that they are misconfigured. What keeps it from the others counts too.
    pub fn exhausted(&self, host: &dyn Host, now: SystemTime) -> Reply {
        let wait = self.soonest(host, now);
        let Met { throttling, failure, misconfiguration, .. } = self.met;
        match misconfiguration {
            _ if throttling => RoutingError::AllThrottled { wait }.into(),
            Some(diagnosis) if !failure => {
                let states = self.gateway.states(host, now);
                let (model, states, asker) = (&self.plan.model, states.get(), self.asker());
                if model.has_ready(&states, asker, now) {
                    return Reply::misconfigured(diagnosis).retry_after(SHORTEST_WAIT);
                }
                match model.exhausted(&states, asker, now) {
                    RoutingError::AllMisconfigured { .. } => Reply::misconfigured(diagnosis),
                    others => others.into(),
                }
            }
            _ => Reply::no_response().retry_after(wait),
        }
    }

    /// For how long backends have had the whole request, all attempts together. The time that its
    /// caller takes to send it does not count.
    pub fn waited(&self, now: SystemTime) -> Duration {
        let waited = self.whole_since.and_then(|since| now.duration_since(since).ok());
        waited.unwrap_or_default()
    }

    /// Whether Envoy can send it again. It keeps what it has sent up to its buffer limit; where more comes
    /// after a response was given up for a retry and before that has begun, the caller gets Envoy's `507` in
    /// place of the response.
    pub fn can_be_sent_again(&self) -> bool {
        let kept = u64::from(self.gateway.config.listener.body_limit);
        self.whole_since.is_some() || self.plan.content_length.is_none_or(|length| length <= kept)
    }

    /// What another module needs for its attempts.
    ///
    /// # Errors
    /// [`RoutingError::UnknownBackend`].
    pub fn detached(&self) -> Result<DetachedPlan, RoutingError> {
        let config = &self.gateway.config;
        DetachedPlan::of(&self.plan, config.failover.retry_within, |backend| {
            let credential = config.credentials.get(backend.credential);
            credential.map(super::tokens::key).unwrap_or_default()
        })
    }
}

/// The requests to pools of all configurations of this worker.
#[derive(Debug, Default)]
pub struct PoolRequests {
    /// Tells this memory from that of another module, whose requests have the same numbers.
    nonce: Cell<u64>,
    by_id: RefCell<HashMap<u32, Rc<RefCell<PoolRequest>>>>,
}

/// What the gateway stage leaves beside a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolReference {
    nonce: u64,
    id: u32,
    /// For which backend the request's head is written.
    pub first: String,
    /// What another module needs for the other backends. Where only one is known of, it is left out until
    /// an attempt has failed.
    pub plan: Option<DetachedPlan>,
}

/// A request's place among those of its worker, which it leaves when this is dropped.
#[derive(Debug)]
pub struct Registration {
    id: u32,
    requests: Rc<PoolRequests>,
    /// The request.
    pub request: Rc<RefCell<PoolRequest>>,
}

impl PoolRequests {
    /// Gives this memory its number, any that others will not have; the first one stays.
    pub fn identify(&self, nonce: u64) {
        if self.nonce.get() == 0 {
            self.nonce.set(nonce.max(1));
        }
    }

    /// Registers a request under its number.
    pub fn register(self: &Rc<Self>, id: u32, request: PoolRequest) -> Registration {
        let request = Rc::new(RefCell::new(request));
        self.by_id.borrow_mut().insert(id, Rc::clone(&request));
        Registration { id, requests: Rc::clone(self), request }
    }

    /// The reference to leave for a request.
    pub fn reference(&self, id: u32, first: String, plan: Option<DetachedPlan>) -> PoolReference {
        PoolReference { nonce: self.nonce.get(), id, first, plan }
    }

    /// The request of a reference, if it is in this memory.
    pub fn find(&self, reference: &PoolReference) -> Option<Rc<RefCell<PoolRequest>>> {
        if reference.nonce != self.nonce.get() {
            return None;
        }
        self.by_id.borrow().get(&reference.id).map(Rc::clone)
    }

    /// How many requests there are.
    pub fn len(&self) -> usize {
        self.by_id.borrow().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.requests.by_id.borrow_mut().remove(&self.id);
    }
}

impl PoolReference {
    /// The reference as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.number(self.nonce).number(self.id.into()).text(&self.first);
        if let Some(plan) = &self.plan {
            writer.bytes(&plan.to_bytes());
        }
        writer.finish()
    }

    /// Reads such bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (nonce, id) = (reader.number()?, reader.number()?);
        let (id, first) = (u32::try_from(id).ok()?, reader.text()?.to_owned());
        let plan = reader.bytes().and_then(DetachedPlan::from_bytes);
        Some(Self { nonce, id, first, plan })
    }
}
