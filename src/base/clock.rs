//! Deadlines by a clock that may be set.

use std::time::{Duration, SystemTime};

/// Whether a deadline has come that was once no further off than this. One that is further off now was
/// made before the clock was set back, and counts as over.
pub fn is_over(deadline: SystemTime, most: Duration, now: SystemTime) -> bool {
    now >= deadline || now + most < deadline
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_over_after_the_clock_was_set_back() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let most = Duration::from_secs(2);
        for (now, expected) in
            [(1000, false), (1001, false), (1002, true), (5000, true), (999, true), (1, true)]
        {
            assert_eq!(is_over(at(1002), most, at(now)), expected, "{now}");
        }
    }
}
