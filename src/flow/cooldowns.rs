//! The cooldowns that all workers share, as one worker uses them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use super::host::Host;
use super::measure::{Counter, Gauge, LogEntry};
use super::store::{LogBudget, View};
use crate::base::random;
use crate::config::{Config, Failover};
use crate::routing::cooldown::{Availability, Cause, Claim, Cooldowns, Evidence, Outcome};

/// Where they are in the store. Names of backends mean the same to all configurations of a proxy.
pub const KEY: &str = "aoai-filter/cooldowns";

/// For so long a worker may not know what another one has learned.
const MAX_AGE: Duration = Duration::from_millis(1);

/// The cooldowns, shared.
#[derive(Debug)]
pub struct SharedCooldowns {
    view: View<Cooldowns>,
    /// The backends of which this worker has left lines out of the log, and when a line sums them up.
    unlogged: RefCell<BTreeMap<String, SystemTime>>,
}

impl SharedCooldowns {
    /// Those of the process.
    pub fn new(host: &dyn Host) -> Self {
        let view = View::new(host, KEY.to_owned(), MAX_AGE);
        let cooldowns = Self { view, unlogged: RefCell::default() };
        show(host, &Cooldowns::default(), &cooldowns.get(host, host.now()));
        cooldowns
    }

    /// What is known now.
    pub fn get(&self, host: &dyn Host, now: SystemTime) -> Rc<Cooldowns> {
        self.view.get(host, now)
    }

    /// Learns what other workers have learned, and sums up what was left out of the log.
    pub fn tick(&self, host: &dyn Host, now: SystemTime) {
        self.get(host, now);
        self.unlogged.borrow_mut().retain(|backend, due| {
            if now < *due {
                return true;
            }
            let unlogged = LogBudget::sum_up(host, &budget(backend), now);
            self.log_unlogged(host, backend, unlogged, now);
            false
        });
    }

    /// Forgets what is over and concerns nothing of this configuration.
    pub fn forget(&self, host: &dyn Host, config: &Config, now: SystemTime) {
        let changed = self.view.change(host, now, &|cooldowns| cooldowns.forget(config, now));
        if let Some((before, after)) = changed {
            show(host, &before, &after);
        }
    }

    /// Claims what a request needs to be sent to a backend. False where another request has it, or there
    /// is nothing to claim any more.
    pub fn claim(
        &self,
        host: &dyn Host,
        (backend, model): (&str, &str),
        claim: Claim,
        is_whole: bool,
        now: SystemTime,
    ) -> bool {
        let claim = |cooldowns: &Cooldowns| cooldowns.claim(backend, model, claim, is_whole, now);
        let is_claimed = self.view.change(host, now, &claim).is_some();
        if !is_claimed {
            // The view that offered it does not know of the other request.
            self.view.reload(host, now);
        }
        is_claimed
    }

    /// The backend has got the whole of the request that probes it.
    pub fn complete_probe(&self, host: &dyn Host, backend: &str, model: &str, now: SystemTime) {
        self.view.change(host, now, &|cooldowns| cooldowns.complete_probe(backend, model, now));
    }

    /// Gives back the probe of a request that has told nothing of the backend.
    pub fn give_back(&self, host: &dyn Host, backend: &str, model: &str, now: SystemTime) {
        self.view.change(host, now, &|cooldowns| cooldowns.give_back(backend, model, now));
    }

    /// Remembers how an attempt ended. That it was served tells something only where there was trouble.
    pub fn record(
        &self,
        host: &dyn Host,
        (backend, model): (&str, &str),
        outcome: Outcome,
        evidence: impl FnOnce() -> Evidence,
        policy: &Failover,
        now: impl FnOnce() -> SystemTime,
    ) {
        let is_known = || self.view.last().is_none_or(|cooldowns| cooldowns.knows(backend, model));
        match outcome {
            Outcome::Inconclusive => return,
            Outcome::Served if !is_known() => return,
            _ => {}
        }
        let (now, evidence) = (now(), evidence());
        let number = random::from_clock(now);
        let changed = self.view.change(host, now, &|cooldowns| {
            cooldowns.record((backend, model), outcome, evidence, now, policy, number)
        });
        if let Some((before, after)) = changed {
            self.report(host, (backend, model), outcome, (&before, &after), now);
        }
    }

    /// Counts, shows and logs what has changed.
    fn report(
        &self,
        host: &dyn Host,
        (backend, model): (&str, &str),
        outcome: Outcome,
        (before, after): (&Cooldowns, &Cooldowns),
        now: SystemTime,
    ) {
        let concerned = [Some(model), None];
        let is_new = |model: &Option<&str>| {
            outcome != Outcome::Served
                && before.since(backend, *model) != after.since(backend, *model)
        };
        let mut new = concerned.into_iter().filter(is_new).peekable();
        let is_new = new.peek().is_some();
        for model in new {
            host.add(Counter::Cooldowns { backend, model }, 1);
        }
        // What to correct is said in a line of its own.
        if is_new && !matches!(outcome, Outcome::Misconfigured(_)) {
            let availability = after.availability(backend, model, true, now);
            let wait = match availability {
                Availability::Cooldown(until) => until.duration_since(now).unwrap_or_default(),
                Availability::Ready | Availability::Probe => Duration::ZERO,
            };
            self.log(host, backend, &LogEntry::Cooldown { backend, model, wait, outcome }, now);
        }
        let was_in_cooldown =
            || concerned.iter().any(|model| before.since(backend, *model).is_some());
        if outcome == Outcome::Served && was_in_cooldown() {
            self.log(host, backend, &LogEntry::Recovered { backend, model }, now);
        }
        show(host, before, after);
    }

    /// Logs a change of a backend's state, unless there were many of late: then a line sums them up.
    fn log(&self, host: &dyn Host, backend: &str, entry: &LogEntry<'_>, now: SystemTime) {
        match LogBudget::spend(host, &budget(backend), now) {
            Ok(unlogged) => {
                self.log_unlogged(host, backend, unlogged, now);
                host.log(entry);
            }
            Err(due) => {
                self.unlogged.borrow_mut().entry(backend.to_owned()).or_insert(due);
            }
        }
    }

    fn log_unlogged(&self, host: &dyn Host, backend: &str, changes: u64, now: SystemTime) {
        if changes > 0 {
            let models = self.get(host, now).models_in_cooldown(backend, now);
            host.log(&LogEntry::Unlogged { backend, changes, models });
        }
    }
}

/// Shows which cooldowns and misconfigurations are there now and were not before, and which are no longer.
fn show(host: &dyn Host, before: &Cooldowns, after: &Cooldowns) {
    for (from, to, value) in [(after, before, 1), (before, after, 0)] {
        for (backend, model, cause) in from.unended() {
            let of_pair = |one: &(&str, Option<&str>, &Cause)| (one.0, one.1) == (backend, model);
            if !to.unended().any(|one| of_pair(&one)) {
                host.set(Gauge::InCooldown { backend, model }, value);
            }
            if let Cause::Misconfigured(diagnosis) = cause {
                if !to.unended().any(|one| of_pair(&one) && one.2 == cause) {
                    host.set(Gauge::Misconfigured { backend, diagnosis, model }, value);
                }
            }
        }
    }
}

/// Where it is stored how many lines there were about a backend. A provisioned deployment at its limit
/// throttles for milliseconds, many times a second.
fn budget(backend: &str) -> String {
    format!("aoai-filter/log-budget/{backend}")
}
