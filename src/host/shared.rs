//! The store that all workers share.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::error;
use proxy_wasm::hostcalls;

use crate::health::Health;
use crate::identity::cache::Slot;

/// Other workers may write between a read and a write of ours.
const ATTEMPTS: usize = 16;

/// The same line is not logged again sooner than this.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A value in the form in which the store has it.
pub(super) trait Value: Default {
    /// Reads it; what cannot be read is as good as nothing.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
    fn to_bytes(&self) -> Vec<u8>;
}

impl Value for Health {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::from_bytes(bytes)
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.to_bytes()
    }
}

impl Value for Slot {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::from_bytes(bytes)
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.to_bytes()
    }
}

/// What is stored under a key.
pub(super) fn load<V: Value>(key: &str) -> V {
    let (bytes, _) = hostcalls::get_shared_data(key).unwrap_or_default();
    bytes.and_then(|bytes| V::from_bytes(&bytes)).unwrap_or_default()
}

/// Puts a value where none is: only what is there can be compared and swapped. Envoy configures the
/// module on its main thread before any worker has it, so nobody is overwritten.
pub(super) fn prepare(key: &str, value: &[u8]) {
    if matches!(hostcalls::get_shared_data(key), Ok((None, _))) {
        let _ = hostcalls::set_shared_data(key, Some(value), None);
    }
}

/// Changes what is stored under a key, as if nobody else did meanwhile: what it was and what it is then,
/// or `None` where it stays as it is. `change` may be asked more than once.
pub(super) fn change<V: Value>(key: &str, change: &dyn Fn(&V) -> Option<V>) -> Option<(V, V)> {
    let mut changed = None;
    let is_changed = swap(key, &mut |bytes| {
        let before = bytes.and_then(V::from_bytes).unwrap_or_default();
        let after = change(&before)?;
        let bytes = after.to_bytes();
        changed = Some((before, after));
        Some(bytes)
    });
    changed.filter(|_| is_changed)
}

/// The same of bytes; whether they have changed.
fn swap(key: &str, change: &mut dyn FnMut(Option<&[u8]>) -> Option<Vec<u8>>) -> bool {
    for _ in 0..ATTEMPTS {
        let (before, version) = hostcalls::get_shared_data(key).unwrap_or_default();
        let Some(after) = change(before.as_deref()) else {
            return false;
        };
        if hostcalls::set_shared_data(key, Some(&after), version).is_ok() {
            return true;
        }
    }
    error!("the data that all workers share cannot be written");
    false
}

/// Whether a line of the log is worth it: nobody has logged it for a while, as far as this key tells.
/// Then this worker has, for the others to know.
pub(super) fn may_log(key: &str, now: SystemTime) -> bool {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    swap(key, &mut |before| {
        let before = before.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
        // A time that is to come is a clock that was set back.
        let is_recent = before.is_some_and(|before| {
            now.checked_sub(before).is_some_and(|age| u128::from(age) < LOG_INTERVAL.as_millis())
        });
        (!is_recent).then(|| now.to_le_bytes().to_vec())
    })
}
