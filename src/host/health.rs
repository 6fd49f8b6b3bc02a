//! The memory of trouble that all workers share.

use std::time::SystemTime;

use log::{info, warn};

use super::metrics::Metrics;
use super::shared;
use super::worker::dice;
use crate::config::{Config, Failover};
use crate::health::{Availability, Health, Outcome};

/// Where the memory is in the store that all workers share. Names of backends mean the same to all
/// configurations of a proxy.
const KEY: &str = "aoai-filter/health";

/// Puts an empty memory where none is.
pub(super) fn prepare() {
    shared::prepare(KEY, &Health::default().to_bytes());
}

/// Forgets what is over and concerns none of this configuration's pools.
pub(super) fn forget(config: &Config, now: SystemTime) {
    change(&|health| health.forget(config, now));
}

/// What is remembered now.
pub(super) fn load() -> Health {
    shared::load(KEY)
}

/// Says that this request tries whether a backend is well again. False where another one has said so
/// first, or there is nothing to try any more.
pub(super) fn probe(backend: &str, model: &str, now: SystemTime) -> bool {
    let claim = |health: &Health| match health.availability(backend, model, now) {
        Availability::Probe => Some(health.probe(backend, model, now)),
        Availability::Ready | Availability::Cooling(_) => None,
    };
    change(&claim).is_some()
}

/// Says that an attempt went away which was to try whether a backend is well again.
pub(super) fn give_back(backend: &str, model: &str, now: SystemTime) {
    change(&|health| health.give_back(backend, model, now));
}

/// Remembers how an attempt ended.
pub(super) fn record(
    backend: &str,
    model: &str,
    outcome: Outcome,
    now: SystemTime,
    policy: &Failover,
    metrics: &Metrics,
) {
    metrics.count_attempt(backend, outcome);
    let dice = dice(now);
    let Some((before, after)) =
        change(&|health| health.record(backend, model, outcome, now, policy, dice))
    else {
        return;
    };
    let cools = |health: &Health| match health.availability(backend, model, now) {
        Availability::Cooling(until) => Some(until),
        Availability::Ready | Availability::Probe => None,
    };
    match (cools(&before), cools(&after)) {
        (None, Some(until)) => {
            metrics.count_cooldown(backend);
            if may_log("rests", backend, model, now) {
                let pause = until.duration_since(now).unwrap_or_default();
                let (seconds, millis) = (pause.as_secs(), pause.subsec_millis());
                warn!("backend {backend} is left alone for {model} for {seconds}.{millis:03} s: {outcome}");
            }
        }
        (_, None)
            if !before.is_well()
                && outcome == Outcome::Answered
                && may_log("serves", backend, model, now) =>
        {
            info!("backend {backend} serves {model} again");
        }
        _ => {}
    }
    metrics.set_cooling(backend, after.cooling(backend, now));
}

/// Whether such a line about a backend and a model is worth it. A provisioned deployment that is full asks
/// for pauses of milliseconds, many times a second.
fn may_log(what: &str, backend: &str, model: &str, now: SystemTime) -> bool {
    shared::may_log(&format!("aoai-filter/{what}/{backend}/{model}"), now)
}

fn change(change: &dyn Fn(&Health) -> Option<Health>) -> Option<(Health, Health)> {
    shared::change(KEY, change)
}
