//! Values that all workers of a process share, and this worker's view of them.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::host::Host;
use super::measure::LogEntry;
use crate::base::codec::{Reader, Writer};
use crate::identity::cache::Slot;
use crate::routing::cooldown::Cooldowns;

/// Other workers may write between a read and a write of ours.
const ATTEMPTS: usize = 16;

/// The same line is not logged again sooner than this.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A value in the form in which the store has it.
pub trait Value: Default {
    /// Reads it; what cannot be read is as good as nothing.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
    /// Writes it.
    fn to_bytes(&self) -> Vec<u8>;
}

impl Value for Cooldowns {
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

/// A time to the millisecond; the epoch where there is none.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(u64);

impl Stamp {
    /// The stamp of a time.
    pub fn of(time: SystemTime) -> Self {
        let millis = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Self(u64::try_from(millis).unwrap_or_default())
    }

    /// The time.
    pub fn time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0)
    }

    /// Whether it is less than this ago. A stamp from the future is of a clock that was set back.
    pub fn is_within(self, past: Duration, now: SystemTime) -> bool {
        let age = Self::of(now).0.checked_sub(self.0);
        age.is_some_and(|age| u128::from(age) < past.as_millis())
    }
}

impl Value for Stamp {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(u64::from_le_bytes(bytes.try_into().ok()?)))
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }
}

/// What is stored under a key.
pub fn load<V: Value>(host: &dyn Host, key: &str) -> V {
    host.shared(key).value.and_then(|bytes| V::from_bytes(&bytes)).unwrap_or_default()
}

/// Puts a value where none is: only what is there can be compared and swapped. Envoy configures the
/// module on its main thread before any worker has it, so nothing is overwritten.
pub fn prepare<V: Value>(host: &dyn Host, key: &str) {
    if host.shared(key).value.is_none() {
        host.set_shared(key, &V::default().to_bytes(), None);
    }
}

/// Changes what is stored under a key, as if no other worker did meanwhile: what it was and what it is
/// then, or `None` where it stays as it is. `change` may be asked more than once.
pub fn change<V: Value>(
    host: &dyn Host,
    key: &str,
    change: &dyn Fn(&V) -> Option<V>,
) -> Option<(V, V)> {
    for _ in 0..ATTEMPTS {
        let stored = host.shared(key);
        let before = stored.value.and_then(|bytes| V::from_bytes(&bytes)).unwrap_or_default();
        let after = change(&before)?;
        if host.set_shared(key, &after.to_bytes(), stored.version) {
            return Some((before, after));
        }
    }
    host.log(&LogEntry::StoreFailed);
    None
}

/// Whether a line of the log is due: no worker has logged it for a while, as far as this key tells. Then
/// this worker is taken to log it.
pub fn may_log(host: &dyn Host, key: &str, now: SystemTime) -> bool {
    prepare::<Stamp>(host, key);
    let due = |last: &Stamp| (!last.is_within(LOG_INTERVAL, now)).then(|| Stamp::of(now));
    change(host, key, &due).is_some()
}

/// How many lines about one thing the log gets in [`LOG_INTERVAL`].
const LOG_LINES: u64 = 10;

/// The lines about one thing that were logged of late, and those that were not.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct LogBudget {
    since: Stamp,
    logged: u64,
    unlogged: u64,
}

impl LogBudget {
    /// Takes what a line costs: how many were left out before it, or when a line sums up those that are.
    ///
    /// # Errors
    /// The line is left out.
    pub fn spend(host: &dyn Host, key: &str, now: SystemTime) -> Result<u64, SystemTime> {
        prepare::<Self>(host, key);
        let spend = |known: &Self| {
            Some(match known.since.is_within(LOG_INTERVAL, now) {
                true if known.logged < LOG_LINES => Self { logged: known.logged + 1, ..*known },
                true => Self { unlogged: known.unlogged.saturating_add(1), ..*known },
                false => Self { since: Stamp::of(now), logged: 1, unlogged: 0 },
            })
        };
        match change(host, key, &spend) {
            Some((before, after)) if before.since != after.since => Ok(before.unlogged),
            Some((before, after)) if before.unlogged != after.unlogged => {
                Err(after.since.time() + LOG_INTERVAL)
            }
            _ => Ok(0),
        }
    }

    /// How many lines were left out, once the time in which they were too many is over; they are counted no
    /// longer.
    pub fn sum_up(host: &dyn Host, key: &str, now: SystemTime) -> u64 {
        let sum_up = |known: &Self| {
            let is_due = known.unlogged > 0 && !known.since.is_within(LOG_INTERVAL, now);
            is_due.then_some(Self { unlogged: 0, ..*known })
        };
        let changed = change(host, key, &sum_up);
        changed.map_or(0, |(before, _)| before.unlogged)
    }
}

impl Value for LogBudget {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (since, logged, unlogged) = (reader.number()?, reader.number()?, reader.number()?);
        Some(Self { since: Stamp(since), logged, unlogged })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.number(self.since.0).number(self.logged).number(self.unlogged);
        writer.finish()
    }
}

/// This worker's view of a shared value, read anew at most once in a while: a read costs as much as a
/// dozen headers.
#[derive(Debug)]
pub struct View<V> {
    key: String,
    max_age: Duration,
    known: RefCell<Option<(SystemTime, Rc<V>)>>,
}

impl<V: Value> View<V> {
    /// A view of what is stored under a key, never older than this.
    pub fn new(host: &dyn Host, key: String, max_age: Duration) -> Self {
        prepare::<V>(host, &key);
        Self { key, max_age, known: RefCell::new(None) }
    }

    /// The value.
    pub fn get(&self, host: &dyn Host, now: SystemTime) -> Rc<V> {
        if let Some((read_at, value)) = &*self.known.borrow() {
            if *read_at <= now && now < *read_at + self.max_age {
                return Rc::clone(value);
            }
        }
        self.reload(host, now)
    }

    /// The value, read now.
    pub fn reload(&self, host: &dyn Host, now: SystemTime) -> Rc<V> {
        self.keep(load(host, &self.key), now)
    }

    /// The value as it was when it was last read, however long ago.
    pub fn last(&self) -> Option<Rc<V>> {
        self.known.borrow().as_ref().map(|(_, value)| Rc::clone(value))
    }

    /// As [`change`]; the view is as new as the change.
    pub fn change(
        &self,
        host: &dyn Host,
        now: SystemTime,
        change: &dyn Fn(&V) -> Option<V>,
    ) -> Option<(V, Rc<V>)> {
        let (before, after) = self::change(host, &self.key, change)?;
        Some((before, self.keep(after, now)))
    }

    fn keep(&self, value: V, now: SystemTime) -> Rc<V> {
        let value = Rc::new(value);
        *self.known.borrow_mut() = Some((now, Rc::clone(&value)));
        value
    }
}
