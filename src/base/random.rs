//! Random numbers, which are parameters everywhere else, and what is made of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A number that two workers will not have in common, for claims and jitter: the finalizer of SplitMix64
/// over the clock's nanoseconds.
pub fn from_clock(now: SystemTime) -> u64 {
    let nanos = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let mut z = nanos as u64;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Up to one `part`th of a duration, in steps of a thousandth of that.
pub fn jitter(of: Duration, part: u32, random: u64) -> Duration {
    let thousandths = u32::try_from(random % 1000).unwrap_or_default();
    of / part.max(1) * thousandths / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_less_than_its_part() {
        let of = Duration::from_secs(100);
        assert_eq!(jitter(of, 10, 0), Duration::ZERO);
        assert_eq!(jitter(of, 10, 500), Duration::from_secs(5));
        assert!((0..2000).all(|random| jitter(of, 10, random) < Duration::from_secs(10)));
    }
}
