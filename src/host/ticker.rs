//! When Envoy ticks a root context.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use proxy_wasm::hostcalls;

use crate::flow::tokens::{IDLE, SHORTEST_TICK};

/// The ticks of one root context.
pub(super) struct Ticker {
    root: u32,
    /// The tick period that Envoy has been given.
    period: Cell<Duration>,
}

impl Ticker {
    pub(super) fn new(root: u32) -> Self {
        Self { root, period: Cell::new(Duration::ZERO) }
    }

    /// Makes the root the effective context.
    pub(super) fn make_root_effective(&self) {
        let _ = hostcalls::set_effective_context(self.root);
    }

    /// Has the root ticked after this time, or sooner if it was to be. The root must be the effective
    /// context.
    pub(super) fn tick_within(&self, wait: Duration) {
        if self.is_sooner(wait) {
            self.set_period(wait);
        }
    }

    /// As [`Self::tick_within`], where this request is the effective context.
    pub(super) fn tick_from(&self, request: u32, wait: Duration) {
        if self.is_sooner(wait) {
            if hostcalls::set_effective_context(self.root).is_ok() {
                self.set_period(wait);
            }
            let _ = hostcalls::set_effective_context(request);
        }
    }

    /// Has the root ticked at this time, or when it is time to look around. The root must be the
    /// effective context.
    pub(super) fn tick_at(&self, at: SystemTime, now: SystemTime) {
        self.set_period(at.duration_since(now).unwrap_or_default().min(IDLE));
    }

    fn is_sooner(&self, wait: Duration) -> bool {
        self.period.get().is_zero() || wait < self.period.get()
    }

    fn set_period(&self, wait: Duration) {
        let wait = wait.max(SHORTEST_TICK);
        if self.period.replace(wait) != wait {
            let _ = hostcalls::set_tick_period(wait);
        }
    }
}
