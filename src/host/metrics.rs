//! Metrics of one worker, defined when its configuration is.

use proxy_wasm::hostcalls;
use proxy_wasm::types::MetricType;

use crate::answer::Reason;
use crate::config::Config;
use crate::metrics::{self, FetchResult, Outcome};

/// Handles of all metrics, so that counting looks nothing up in Envoy.
pub(super) struct Metrics {
    forwarded: Vec<(String, u32)>,
    answered: Vec<(Reason, u32)>,
    fetches: Vec<(FetchResult, u32)>,
    remaining_seconds: Option<u32>,
}

impl Metrics {
    pub(super) fn define(config: &Config) -> Self {
        let backends = config.backends.iter().map(|backend| backend.name.as_str());
        Self {
            forwarded: backends
                .filter_map(|name| {
                    let id = counter(&metrics::requests(Outcome::Forwarded(name)))?;
                    Some((name.to_owned(), id))
                })
                .collect(),
            answered: Reason::ALL
                .into_iter()
                .filter_map(|reason| {
                    Some((reason, counter(&metrics::requests(Outcome::Answered(reason)))?))
                })
                .collect(),
            fetches: FetchResult::ALL
                .into_iter()
                .filter_map(|result| Some((result, counter(&metrics::token_fetches(result))?)))
                .collect(),
            remaining_seconds: hostcalls::define_metric(
                MetricType::Gauge,
                &metrics::token_remaining_seconds(),
            )
            .ok(),
        }
    }

    pub(super) fn count_forwarded(&self, backend: &str) {
        let found = self.forwarded.iter().find(|(name, _)| name == backend);
        increment(found.map(|(_, id)| *id));
    }

    pub(super) fn count_answered(&self, reason: Reason) {
        increment(find(&self.answered, reason));
    }

    pub(super) fn count_fetch(&self, result: FetchResult) {
        increment(find(&self.fetches, result));
    }

    pub(super) fn set_remaining_seconds(&self, seconds: u64) {
        if let Some(id) = self.remaining_seconds {
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

fn find<K: Copy + PartialEq>(rows: &[(K, u32)], key: K) -> Option<u32> {
    rows.iter().find(|(row, _)| *row == key).map(|(_, id)| *id)
}
