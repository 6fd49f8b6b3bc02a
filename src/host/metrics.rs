//! Metrics of one worker, defined when its configuration is.

use proxy_wasm::hostcalls;
use proxy_wasm::types::MetricType;

use crate::answer::Reason;
use crate::config::Config;
use crate::health;
use crate::metrics::{self, AttemptResult, FetchResult, Outcome};

/// Handles of all metrics, so that counting looks nothing up in Envoy.
pub(super) struct Metrics {
    forwarded: Vec<(String, u32)>,
    answered: Vec<(Reason, u32)>,
    /// By the credential's position.
    fetches: Vec<((usize, FetchResult), u32)>,
    remaining_seconds: Vec<(usize, u32)>,
    attempts: Vec<((String, AttemptResult), u32)>,
    cooldowns: Vec<(String, u32)>,
    cooling: Vec<(String, u32)>,
    retries: Option<u32>,
}

impl Metrics {
    pub(super) fn define(config: &Config) -> Self {
        let backends = || config.backends.iter().map(|backend| backend.name.as_str());
        let credentials = || config.credentials.iter().map(|one| one.name.as_str()).enumerate();
        let each = |define: &dyn Fn(&str) -> Option<u32>| {
            backends().filter_map(|name| Some((name.to_owned(), define(name)?))).collect()
        };
        let attempt = |name: &str, result| {
            Some(((name.to_owned(), result), counter(&metrics::attempts(name, result))?))
        };
        Self {
            forwarded: each(&|name| counter(&metrics::requests(Outcome::Forwarded(name)))),
            attempts: backends()
                .flat_map(|name| AttemptResult::ALL.map(|result| attempt(name, result)))
                .flatten()
                .collect(),
            cooldowns: each(&|name| counter(&metrics::cooldowns(name))),
            cooling: each(&|name| {
                hostcalls::define_metric(MetricType::Gauge, &metrics::cooling(name)).ok()
            }),
            retries: counter(&metrics::retries()),
            answered: Reason::ALL
                .into_iter()
                .filter_map(|reason| {
                    Some((reason, counter(&metrics::requests(Outcome::Answered(reason)))?))
                })
                .collect(),
            fetches: credentials()
                .flat_map(|one| FetchResult::ALL.map(|result| (one, result)))
                .filter_map(|((position, name), result)| {
                    Some(((position, result), counter(&metrics::token_fetches(name, result))?))
                })
                .collect(),
            remaining_seconds: credentials()
                .filter_map(|(position, name)| {
                    let name = metrics::token_remaining_seconds(name);
                    let id = hostcalls::define_metric(MetricType::Gauge, &name).ok()?;
                    Some((position, id))
                })
                .collect(),
        }
    }

    pub(super) fn count_forwarded(&self, backend: &str) {
        increment(by_name(&self.forwarded, backend));
    }

    pub(super) fn count_answered(&self, reason: Reason) {
        increment(find(&self.answered, reason));
    }

    pub(super) fn count_fetch(&self, credential: usize, result: FetchResult) {
        increment(find(&self.fetches, (credential, result)));
    }

    pub(super) fn count_attempt(&self, backend: &str, outcome: health::Outcome) {
        let result = AttemptResult::from(outcome);
        let is_it =
            |row: &&((String, AttemptResult), u32)| row.0 .0 == backend && row.0 .1 == result;
        increment(self.attempts.iter().find(is_it).map(|(_, id)| *id));
    }

    pub(super) fn count_retries(&self, retries: u64) {
        if let (Some(id), Ok(retries)) = (self.retries, i64::try_from(retries)) {
            let _ = hostcalls::increment_metric(id, retries);
        }
    }

    pub(super) fn count_cooldown(&self, backend: &str) {
        increment(by_name(&self.cooldowns, backend));
    }

    pub(super) fn set_cooling(&self, backend: &str, models: usize) {
        if let Some(id) = by_name(&self.cooling, backend) {
            let _ = hostcalls::record_metric(id, models as u64);
        }
    }

    pub(super) fn set_remaining_seconds(&self, credential: usize, seconds: u64) {
        if let Some(id) = find(&self.remaining_seconds, credential) {
            let _ = hostcalls::record_metric(id, seconds);
        }
    }
}

fn counter(name: &str) -> Option<u32> {
    hostcalls::define_metric(MetricType::Counter, name).ok()
}

fn increment(id: Option<u32>) {
    if let Some(id) = id {
        let _ = hostcalls::increment_metric(id, 1);
    }
}

fn by_name(rows: &[(String, u32)], name: &str) -> Option<u32> {
    rows.iter().find(|(row, _)| row == name).map(|(_, id)| *id)
}

fn find<K: Copy + PartialEq>(rows: &[(K, u32)], key: K) -> Option<u32> {
    rows.iter().find(|(row, _)| *row == key).map(|(_, id)| *id)
}
