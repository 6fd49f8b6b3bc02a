//! Cooldowns of backends that throttle, fail or are misconfigured: a value of which each event makes the
//! next one.
//!
//! Only trouble is remembered, so that a proxy whose backends all respond remembers nothing. What counts is
//! the pair of backend and model: Azure's limits are a deployment's own. A misconfiguration may concern a
//! backend for all of its models.
//!
//! A cooldown is evidence about a backend, and one subscription's requests are weak evidence: see
//! [`Cooldowns::binds`].

mod bytes;
mod evidence;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use crate::base::random::jitter;
use crate::config::{Config, Failover};

pub use evidence::{Cause, Evidence, Misconfiguration, Outcome};

/// A probe whose response's head has not come after so long is taken for lost, and another request may
/// probe. Models that reason for minutes respond later; two probes of them do no harm.
const LONGEST_PROBE: Duration = Duration::from_secs(60);

/// For so long a probe may lack the end of its request. One that stalls keeps nobody else from probing.
const LONGEST_UPLOAD: Duration = Duration::from_secs(1);

/// How often a backend in cooldown is asked all the same, where no backend of the model is ready.
const TRICKLE: Duration = Duration::from_secs(1);

/// The backends that throttled or failed, or are misconfigured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cooldowns {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    backend: String,
    /// `None` where it concerns every model.
    model: Option<String>,
    /// What the cooldown was begun by.
    cause: Cause,
    /// 429s in a row.
    throttled: u32,
    /// 5xx and failed connections in a row.
    failed: u32,
    /// Responses in a row that tell of a misconfiguration.
    misconfigured: u32,
    /// Such failures that do not count yet, because they may be their caller's doing.
    unconfirmed: Option<Unconfirmed>,
    state: State,
    /// When the cooldown began.
    since: SystemTime,
    /// The one subscription whose requests are all evidence for the cooldown; `None` where several
    /// subscriptions' are.
    subscription: Option<u64>,
    /// When a request was last let through in spite of the cooldown.
    trickled: SystemTime,
}

/// Failures of requests that failed everywhere, all of one subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unconfirmed {
    subscription: u64,
    count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Has failed, but not often enough for a cooldown.
    Counting,
    /// Is in cooldown until then; from then on one request may probe.
    Cooldown(SystemTime),
    /// A probe is under way until its response's head has come, or until this time at the longest.
    Probing {
        until: SystemTime,
        /// Whether the backend has the whole request, so that the response depends on nobody else.
        is_whole: bool,
    },
}

/// Whether a backend may be tried for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// It may.
    Ready,
    /// By one request, which must claim the probe first: see [`Cooldowns::claim`].
    Probe,
    /// Not before this time.
    Cooldown(SystemTime),
}

/// What a request has to claim before it is sent to a backend that may not be well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// To find out whether the backend is well after its cooldown.
    Probe,
    /// To find out during its cooldown, because no backend is ready.
    Trickle,
}

impl Cooldowns {
    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether anything is remembered of a backend and a model.
    pub fn knows(&self, backend: &str, model: &str) -> bool {
        self.of(backend, model).next().is_some()
    }

    /// Whether a backend may be tried for a model now, by a request of which the proxy has all
    /// (`is_whole`) or not.
    pub fn availability(
        &self,
        backend: &str,
        model: &str,
        is_whole: bool,
        now: SystemTime,
    ) -> Availability {
        self.of(backend, model).fold(Availability::Ready, |known, entry| {
            match (known, entry.availability(is_whole, now)) {
                (Availability::Cooldown(one), Availability::Cooldown(other)) => {
                    Availability::Cooldown(one.max(other))
                }
                (found @ Availability::Cooldown(_), _) | (_, found @ Availability::Cooldown(_)) => {
                    found
                }
                (Availability::Probe, _) | (_, Availability::Probe) => Availability::Probe,
                (Availability::Ready, Availability::Ready) => Availability::Ready,
            }
        })
    }

    /// Whether the cooldown of a backend binds the requests of a subscription. Evidence of one
    /// subscription alone binds only that one: another one's requests may find out for themselves where
    /// no backend is ready, and confirm it.
    pub fn binds(&self, backend: &str, model: &str, subscription: u64, now: SystemTime) -> bool {
        let mut excluding = self.of(backend, model).filter(|entry| entry.state.excludes(now));
        excluding.any(|entry| entry.subscription.is_none_or(|only| only == subscription))
    }

    /// Whether a request may ask a backend in its cooldown, where no backend is ready.
    pub fn may_trickle(&self, backend: &str, model: &str, now: SystemTime) -> bool {
        // A clock that is set back holds nobody up.
        let is_due = |last: SystemTime| now.duration_since(last).is_ok_and(|ago| ago < TRICKLE);
        let mut excluding = self.of(backend, model).filter(|entry| entry.state.excludes(now));
        !excluding.any(|entry| is_due(entry.since) || is_due(entry.trickled))
    }

    /// Why a backend is in cooldown for a model: a misconfiguration before anything else.
    pub fn cause(&self, backend: &str, model: &str, now: SystemTime) -> Option<&Cause> {
        let concerned = self.entries.iter().filter(|entry| entry.concerns(backend, model));
        let causes = concerned.filter(|entry| entry.state.excludes(now)).map(|entry| &entry.cause);
        causes.max_by_key(|cause| matches!(cause, Cause::Misconfigured(_)))
    }

    /// When the present or the last cooldown of a backend began, by the model it concerns.
    pub fn since(&self, backend: &str, model: Option<&str>) -> Option<SystemTime> {
        let entry = self.find(backend, model).filter(|entry| entry.state != State::Counting);
        entry.map(|entry| entry.since)
    }

    /// The memory after a request has claimed what it needs to be sent to a backend; `None` where
    /// another request has it, or there is nothing to claim any more.
    pub fn claim(
        &self,
        backend: &str,
        model: &str,
        claim: Claim,
        is_whole: bool,
        now: SystemTime,
    ) -> Option<Self> {
        let may = match claim {
            Claim::Probe => self.availability(backend, model, is_whole, now) == Availability::Probe,
            Claim::Trickle => {
                let availability = self.availability(backend, model, is_whole, now);
                matches!(availability, Availability::Cooldown(_))
                    && self.may_trickle(backend, model, now)
            }
        };
        may.then(|| {
            self.changed(backend, model, |entry| match (claim, entry.state) {
                (Claim::Trickle, _) => entry.trickled = now,
                (Claim::Probe, State::Counting) => {}
                (Claim::Probe, State::Cooldown(_) | State::Probing { .. }) => {
                    entry.state = State::probing(is_whole, now);
                }
            })
        })
    }

    /// The memory after the backend has got the whole of the request that probes it.
    pub fn complete_probe(&self, backend: &str, model: &str, now: SystemTime) -> Option<Self> {
        let next = self.changed(backend, model, |entry| {
            if matches!(entry.state, State::Probing { .. }) {
                entry.state = State::probing(true, now);
            }
        });
        (next != *self).then_some(next)
    }

    /// The memory after a request ended that had claimed a probe, and nothing is known of the backend:
    /// another one may probe, at once. `None` where that was not so.
    pub fn give_back(&self, backend: &str, model: &str, now: SystemTime) -> Option<Self> {
        let next = self.changed(backend, model, |entry| {
            if matches!(entry.state, State::Probing { .. }) {
                entry.state = State::Cooldown(now);
            }
        });
        (next != *self).then_some(next)
    }

    /// The memory after an attempt, or `None` where it stays what it is.
    ///
    /// `random` is any number; it lengthens a cooldown by up to a tenth, so that proxies do not probe in
    /// step.
    pub fn record(
        &self,
        (backend, model): (&str, &str),
        outcome: Outcome,
        evidence: Evidence,
        now: SystemTime,
        policy: &Failover,
        random: u64,
    ) -> Option<Self> {
        match outcome {
            Outcome::Inconclusive => return None,
            Outcome::Served => return self.without_ended(backend, model, evidence.began, now),
            Outcome::Throttled(_) | Outcome::Failed | Outcome::Misconfigured(_) => {}
        }
        let model = outcome.concerns(model);
        let known = self.find(backend, model);
        let in_cooldown =
            known.is_some_and(|entry| matches!(entry.state, State::Cooldown(until) if now < until));
        if in_cooldown && outcome == Outcome::Failed {
            // The failures of a burst are one.
            return None;
        }
        let mut entry = known.cloned().unwrap_or_else(|| Entry::new(backend, model, now));
        let failures = match (outcome, evidence.is_confirmed) {
            (Outcome::Failed, true) => 1,
            (Outcome::Failed, false) => entry.failure_of(evidence.subscription),
            _ => 0,
        };
        let is_of_several = failures > 1;
        let wait = match outcome {
            Outcome::Throttled(retry_after) => {
                entry.throttled = entry.throttled.saturating_add(u32::from(!in_cooldown));
                let longest = policy.longest_cooldown;
                Some(retry_after.unwrap_or_else(|| policy.doubled(entry.throttled)).min(longest))
            }
            Outcome::Misconfigured(_) => {
                entry.misconfigured = entry.misconfigured.saturating_add(u32::from(!in_cooldown));
                Some(policy.doubled(entry.misconfigured))
            }
            // Nothing is known of the backend: another request may probe it.
            _ if failures == 0 => {
                if let State::Probing { .. } = entry.state {
                    entry.state = State::Cooldown(now);
                }
                None
            }
            _ => {
                // However many are confirmed at once, they begin the shortest cooldown.
                let most = policy.failures_in_a_row.max(entry.failed.saturating_add(1));
                entry.failed = entry.failed.saturating_add(failures).min(most);
                let over = (entry.failed + 1).saturating_sub(policy.failures_in_a_row);
                // A failure after a cooldown is that of a probe, be it given back or not.
                let was_probe = entry.state != State::Counting;
                (over > 0 || was_probe).then(|| policy.doubled(over.max(1)))
            }
        };
        if let Some(wait) = wait {
            let until = now + wait + jitter(wait, 10, random);
            match entry.state {
                State::Cooldown(known) if in_cooldown => {
                    entry.state = State::Cooldown(known.max(until));
                    entry.subscription =
                        entry.subscription.filter(|only| *only == evidence.subscription);
                }
                _ => {
                    entry.state = State::Cooldown(until);
                    entry.since = now;
                    entry.subscription = (!is_of_several).then_some(evidence.subscription);
                }
            }
            entry.cause = outcome.into_cause();
        }
        let mut cooldowns = self.clone();
        match cooldowns.entries.iter_mut().find(|one| one.is(backend, model)) {
            Some(known) => *known = entry,
            None => cooldowns.entries.push(entry),
        }
        (cooldowns != *self).then_some(cooldowns)
    }

    /// The memory without what is over and concerns no backend of this configuration, or `None` where it
    /// stays what it is. A running cooldown is remembered all the same: the configuration after this one
    /// may have the backend again, and another one of the same proxy may have it now.
    pub fn forget(&self, config: &Config, now: SystemTime) -> Option<Self> {
        let mut cooldowns = self.clone();
        cooldowns.entries.retain(|Entry { backend, model, state, .. }| {
            let is_there = match model {
                Some(model) => {
                    config.models.get(model).is_some_and(|model| model.on(backend).is_some())
                }
                None => config.backends.iter().any(|one| one.name == *backend),
            };
            state.excludes(now) || is_there
        });
        (cooldowns != *self).then_some(cooldowns)
    }

    /// For how many models a backend is in cooldown now, where the misconfiguration of all of them counts
    /// as one.
    pub fn models_in_cooldown(&self, backend: &str, now: SystemTime) -> usize {
        let excludes = |entry: &&Entry| entry.backend == backend && entry.state.excludes(now);
        self.entries.iter().filter(excludes).count()
    }

    /// The cooldowns that have not been seen to end: the backend, the model (`None` where it is for all of them),
    /// and the cause.
    pub fn unended(&self) -> impl Iterator<Item = (&str, Option<&str>, &Cause)> {
        let began = self.entries.iter().filter(|entry| entry.state != State::Counting);
        began.map(|entry| (entry.backend.as_str(), entry.model.as_deref(), &entry.cause))
    }

    /// What is remembered of the pair, and of the backend for every model.
    fn of<'a, 'n: 'a>(
        &'a self,
        backend: &'n str,
        model: &'n str,
    ) -> impl Iterator<Item = &'a Entry> + use<'a, 'n> {
        self.entries.iter().filter(move |entry| entry.concerns(backend, model))
    }

    fn find(&self, backend: &str, model: Option<&str>) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.is(backend, model))
    }

    fn changed(&self, backend: &str, model: &str, change: impl Fn(&mut Entry)) -> Self {
        let mut cooldowns = self.clone();
        let concerned = cooldowns.entries.iter_mut().filter(|one| one.concerns(backend, model));
        concerned.for_each(change);
        cooldowns
    }

    /// The memory after a backend has served a request that was sent at a time: what is remembered ends,
    /// unless it is a cooldown that began after that.
    fn without_ended(
        &self,
        backend: &str,
        model: &str,
        began: SystemTime,
        now: SystemTime,
    ) -> Option<Self> {
        // The store has milliseconds.
        let is_newer = |entry: &Entry| {
            let is_running = matches!(entry.state, State::Cooldown(until) if now < until);
            is_running && began <= entry.since + Duration::from_millis(1)
        };
        let mut cooldowns = self.clone();
        cooldowns.entries.retain(|entry| !entry.concerns(backend, model) || is_newer(entry));
        (cooldowns != *self).then_some(cooldowns)
    }
}

impl State {
    fn probing(is_whole: bool, now: SystemTime) -> Self {
        let longest = if is_whole { LONGEST_PROBE } else { LONGEST_UPLOAD };
        Self::Probing { until: now + longest, is_whole }
    }

    /// Whether requests may not go there now.
    fn excludes(self, now: SystemTime) -> bool {
        matches!(self, Self::Cooldown(until) | Self::Probing { until, .. } if now < until)
    }
}

impl Entry {
    fn new(backend: &str, model: Option<&str>, now: SystemTime) -> Self {
        Self {
            backend: backend.to_owned(),
            model: model.map(str::to_owned),
            cause: Cause::Failed,
            throttled: 0,
            failed: 0,
            misconfigured: 0,
            unconfirmed: None,
            state: State::Counting,
            since: now,
            subscription: None,
            trickled: SystemTime::UNIX_EPOCH,
        }
    }

    fn availability(&self, is_whole: bool, now: SystemTime) -> Availability {
        match self.state {
            State::Counting => Availability::Ready,
            // A request that the proxy has all of need not wait for one that may stall.
            State::Probing { is_whole: false, .. } if is_whole => Availability::Probe,
            State::Cooldown(until) | State::Probing { until, .. } if now >= until => {
                Availability::Probe
            }
            State::Cooldown(until) => Availability::Cooldown(until),
            State::Probing { until, .. } => Availability::Cooldown(until.min(now + TRICKLE)),
        }
    }

    /// How many failures count once a request of this subscription has failed everywhere.
    fn failure_of(&mut self, subscription: u64) -> u32 {
        match &mut self.unconfirmed {
            Some(known) if known.subscription == subscription => {
                known.count = known.count.saturating_add(1);
                0
            }
            Some(known) => {
                let failures = known.count.saturating_add(1);
                self.unconfirmed = None;
                failures
            }
            None => {
                self.unconfirmed = Some(Unconfirmed { subscription, count: 1 });
                0
            }
        }
    }

    fn is(&self, backend: &str, model: Option<&str>) -> bool {
        self.backend == backend && self.model.as_deref() == model
    }

    fn concerns(&self, backend: &str, model: &str) -> bool {
        self.backend == backend && self.model.as_deref().is_none_or(|known| known == model)
    }
}

impl Failover {
    /// The cooldown after the `n`th 429 or failure in a row, from 1.
    fn doubled(&self, n: u32) -> Duration {
        let factor = 2_u32.saturating_pow(n.saturating_sub(1).min(16));
        self.cooldown.saturating_mul(factor).min(self.longest_cooldown)
    }
}
