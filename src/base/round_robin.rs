//! Turns, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts turns. Two counters are equal however far they have counted, so that a configuration that holds
/// one can be compared.
#[derive(Debug, Default)]
pub struct RoundRobin(AtomicU64);

impl RoundRobin {
    /// The next turn.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl PartialEq for RoundRobin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for RoundRobin {}
