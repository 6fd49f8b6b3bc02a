//! The cooldowns that all workers share, as one worker uses them.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use super::host::Host;
use super::measure::{Counter, Gauge, LogEntry};
use super::store::{may_log, View};
use crate::base::random;
use crate::config::{Config, Failover};
use crate::routing::cooldown::{Availability, Cooldowns, Evidence, Outcome};

/// Where they are in the store. Names of backends mean the same to all configurations of a proxy.
pub const KEY: &str = "aoai-filter/cooldowns";

/// For so long a worker may not know what another one has learned.
const MAX_AGE: Duration = Duration::from_millis(1);

/// The cooldowns, shared.
#[derive(Debug)]
pub struct SharedCooldowns(View<Cooldowns>);

impl SharedCooldowns {
    /// Those of the process.
    pub fn new(host: &dyn Host) -> Self {
        Self(View::new(host, KEY.to_owned(), MAX_AGE))
    }

    /// What is known now.
    pub fn get(&self, host: &dyn Host, now: SystemTime) -> Rc<Cooldowns> {
        self.0.get(host, now)
    }

    /// Forgets what is over and concerns none of this configuration's pools.
    pub fn forget(&self, host: &dyn Host, config: &Config, now: SystemTime) {
        self.0.change(host, now, &|cooldowns| cooldowns.forget(config, now));
    }

    /// Claims the probe of a backend for a request. False where another request has it, or there is
    /// nothing to probe any more.
    pub fn claim_probe(
        &self,
        host: &dyn Host,
        backend: &str,
        model: &str,
        now: SystemTime,
    ) -> bool {
        let claim = |cooldowns: &Cooldowns| match cooldowns.availability(backend, model, now) {
            Availability::Probe => Some(cooldowns.probe(backend, model, now)),
            Availability::Ready | Availability::Cooldown(_) => None,
        };
        let is_claimed = self.0.change(host, now, &claim).is_some();
        if !is_claimed {
            // The view that offered the probe does not know of the other request.
            self.0.reload(host, now);
        }
        is_claimed
    }

    /// Gives back the probe of a request that ended without a response.
    pub fn give_back(&self, host: &dyn Host, backend: &str, model: &str, now: SystemTime) {
        self.0.change(host, now, &|cooldowns| cooldowns.give_back(backend, model, now));
    }

    /// Remembers how an attempt ended. A response tells something only where there was trouble.
    pub fn record(
        &self,
        host: &dyn Host,
        (backend, model): (&str, &str),
        (outcome, evidence): (Outcome, Evidence),
        policy: &Failover,
        now: impl FnOnce() -> SystemTime,
    ) {
        let is_known = || self.0.last().is_none_or(|cooldowns| cooldowns.knows(backend, model));
        if outcome == Outcome::Responded && !is_known() {
            return;
        }
        let now = now();
        let number = random::from_clock(now);
        let changed = self.0.change(host, now, &|cooldowns| {
            cooldowns.record(backend, model, (outcome, evidence), now, policy, number)
        });
        let Some((before, after)) = changed else {
            return;
        };
        let until = |cooldowns: &Cooldowns| match cooldowns.availability(backend, model, now) {
            Availability::Cooldown(until) => Some(until),
            Availability::Ready | Availability::Probe => None,
        };
        match (until(&before), until(&after)) {
            (None, Some(until)) => {
                host.add(Counter::Cooldowns { backend }, 1);
                if is_due(host, "cooldown", backend, model, now) {
                    let wait = until.duration_since(now).unwrap_or_default();
                    host.log(&LogEntry::Cooldown { backend, model, wait, outcome });
                }
            }
            (_, None)
                if !before.is_empty()
                    && outcome == Outcome::Responded
                    && is_due(host, "recovered", backend, model, now) =>
            {
                host.log(&LogEntry::Recovered { backend, model });
            }
            _ => {}
        }
        let models = after.models_in_cooldown(backend, now);
        host.set(Gauge::ModelsInCooldown { backend }, models as u64);
    }
}

/// Whether such a line about a backend and a model is due. A provisioned deployment at its limit throttles
/// for milliseconds, many times a second.
fn is_due(host: &dyn Host, what: &str, backend: &str, model: &str, now: SystemTime) -> bool {
    may_log(host, &format!("aoai-filter/logged/{what}/{backend}/{model}"), now)
}
