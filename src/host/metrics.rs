//! Metrics, defined in Envoy when they are first used or when a configuration is taken.

use std::cell::RefCell;
use std::collections::HashMap;

use proxy_wasm::hostcalls;
use proxy_wasm::types::MetricType;

use crate::config::Config;
use crate::flow::measure::{Counter, Gauge, Histogram};

/// Envoy's numbers of the metrics of this module, by their names.
#[derive(Default)]
struct Metrics {
    numbers: HashMap<String, u32>,
    /// The name that is looked up, so that counting allocates nothing.
    name: String,
}

thread_local! {
    static METRICS: RefCell<Metrics> = RefCell::default();
}

/// Defines the metrics of a configuration that are shown from the beginning.
pub(super) fn define(config: &Config) {
    Counter::each(config, |counter| {
        number(MetricType::Counter, |name| counter.write_name(name));
    });
    Gauge::each(config, |gauge| {
        number(MetricType::Gauge, |name| gauge.write_name(name));
    });
}

pub(super) fn add(counter: Counter<'_>, by: u64) {
    let number = number(MetricType::Counter, |name| counter.write_name(name));
    if let (Some(number), Ok(by)) = (number, i64::try_from(by)) {
        let _ = hostcalls::increment_metric(number, by);
    }
}

pub(super) fn set(gauge: Gauge<'_>, value: u64) {
    if let Some(number) = number(MetricType::Gauge, |name| gauge.write_name(name)) {
        let _ = hostcalls::record_metric(number, value);
    }
}

pub(super) fn record(histogram: Histogram<'_>, value: u64) {
    if let Some(number) = number(MetricType::Histogram, |name| histogram.write_name(name)) {
        let _ = hostcalls::record_metric(number, value);
    }
}

fn number(kind: MetricType, write_name: impl FnOnce(&mut String)) -> Option<u32> {
    METRICS.with_borrow_mut(|Metrics { numbers, name }| {
        name.clear();
        write_name(name);
        if let Some(number) = numbers.get(name.as_str()) {
            return Some(*number);
        }
        let number = hostcalls::define_metric(kind, name).ok()?;
        numbers.insert(name.clone(), number);
        Some(number)
    })
}
