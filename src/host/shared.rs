//! The store that all workers share.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::error;
use proxy_wasm::hostcalls;

/// Other workers may write between a read and a write of ours.
const ATTEMPTS: usize = 16;

/// The same line is not logged again sooner than this.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// What is stored under a key.
pub(super) fn load(key: &str) -> Option<Vec<u8>> {
    hostcalls::get_shared_data(key).unwrap_or_default().0
}

/// Puts a value where none is: only what is there can be compared and swapped. Envoy configures the
/// module on its main thread before any worker has it, so nobody is overwritten.
pub(super) fn prepare(key: &str, value: &[u8]) {
    if matches!(hostcalls::get_shared_data(key), Ok((None, _))) {
        let _ = hostcalls::set_shared_data(key, Some(value), None);
    }
}

/// Changes what is stored under a key, as if nobody else did meanwhile; whether it has changed.
/// `change` may be asked more than once, and leaves the value as it is by returning nothing.
pub(super) fn change(key: &str, change: &mut dyn FnMut(Option<&[u8]>) -> Option<Vec<u8>>) -> bool {
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
    change(key, &mut |before| {
        let before = before.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
        // A time that is to come is a clock that was set back.
        let is_recent = before.is_some_and(|before| {
            now.checked_sub(before).is_some_and(|age| u128::from(age) < LOG_INTERVAL.as_millis())
        });
        (!is_recent).then(|| now.to_le_bytes().to_vec())
    })
}
