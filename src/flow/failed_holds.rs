//! Whether responses can be held: Envoy shows no body while a head is held where
//! `allow_on_headers_stop_iteration` is not set.

use std::cell::Cell;

/// After so many failed holds in a row no response is held any more.
const MOST: u8 = 3;

/// How many holds in a row have failed: Envoy had all of the response and showed nothing of it.
#[derive(Debug, Default)]
pub struct FailedHolds(Cell<u8>);

impl FailedHolds {
    /// Whether responses are held.
    pub fn may_hold(&self) -> bool {
        self.0.get() < MOST
    }

    /// A hold has failed.
    pub fn add(&self) {
        self.0.set(self.0.get().saturating_add(1));
    }

    /// A hold has succeeded.
    pub fn forget(&self) {
        self.0.set(0);
    }
}
