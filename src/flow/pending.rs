//! Requests that wait for something no event of their own will tell: a token, or a body that never comes,
//! be it a request's or a response's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::base::clock::is_over;

/// No request waits for longer than this before it looks again.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The requests of a worker that wait, each with what is needed to wake it up.
#[derive(Debug)]
pub struct Pending<W>(RefCell<BTreeMap<u32, (SystemTime, W)>>);

impl<W> Default for Pending<W> {
    fn default() -> Self {
        Self(RefCell::new(BTreeMap::new()))
    }
}

impl<W: Clone> Pending<W> {
    /// A request waits until this time at the longest.
    pub fn add(&self, id: u32, at: SystemTime, waker: W) {
        self.0.borrow_mut().insert(id, (at, waker));
    }

    /// A request waits no longer.
    pub fn remove(&self, id: u32) {
        self.0.borrow_mut().remove(&id);
    }

    /// Takes out those whose time has come, or all of them. A time that is further off than any was made
    /// before the clock was set back.
    pub fn take(&self, due: Option<SystemTime>) -> Vec<(u32, W)> {
        let mut taken = Vec::new();
        self.0.borrow_mut().retain(|id, (at, waker)| {
            let waits_on = due.is_some_and(|now| !is_over(*at, LONGEST_WAIT, now));
            if !waits_on {
                taken.push((*id, waker.clone()));
            }
            waits_on
        });
        taken
    }

    /// When the first of them is due.
    pub fn next(&self) -> Option<SystemTime> {
        self.0.borrow().values().map(|(at, _)| *at).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1000) + Duration::from_millis(millis)
    }

    #[test]
    fn requests_are_woken_up_when_they_are_due_or_all_at_once() {
        let pending = Pending::default();
        for (id, due) in [(1, 5), (2, 3), (3, 9), (4, 3)] {
            pending.add(id, at(due), ());
        }
        pending.add(1, at(6), ());
        pending.remove(4);
        assert_eq!(pending.next(), Some(at(3)));
        assert_eq!(pending.take(Some(at(2))), []);
        assert_eq!(pending.take(Some(at(6))), [(1, ()), (2, ())]);
        assert_eq!(pending.take(None), [(3, ())]);
        assert_eq!(pending.next(), None);
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_no_request_waiting() {
        let pending = Pending::default();
        pending.add(1, at(1000), ());
        assert_eq!(pending.take(Some(at(0))), []);
        assert_eq!(pending.take(Some(at(0) - Duration::from_millis(1))), [(1, ())]);
    }
}
