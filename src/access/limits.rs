//! How much a subscription may use in a minute: a bucket of requests and one of tokens.
//!
//! A bucket holds a minute's worth and is filled again at the limit's rate. So in the long run exactly the limit
//! passes, and in any time of t minutes at most (t + 1) times the limit, and what the requests that run at its end
//! use beyond what was reserved for them. What a request has used beyond its reservation is a debt, for which
//! later requests wait.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::base::codec::{Reader, Writer};
use crate::config::{Limits, Rates};

/// What one request or token is: a rate of one a minute fills as much in a minute as one in a millisecond.
const UNIT: u64 = 60_000;

/// One request is not reserved more than this part of a minute's tokens: others have to find room beside a large
/// one whose size says little about its tokens, such as one with pictures.
const LARGEST_RESERVATION: u64 = 4;

/// Workers read their clocks at times that differ by less. A clock that is further behind was set back.
const SKEW: u64 = 5000;

/// The names of limits in the configuration of the service that keeps them for all proxies: of requests,
pub const REQUESTS: &str = "requests";
/// of tokens,
pub const TOKENS: &str = "tokens";
/// and of the tokens of a longer period.
pub const QUOTA: &str = "quota";

/// The name of the counters of a subscription, or of those that one of its models has for itself.
pub fn bucket(subscription: &str, model: Option<&str>) -> String {
    // No subscription's id has a slash.
    match model {
        Some(model) => format!("{subscription}/{model}"),
        None => subscription.to_owned(),
    }
}

/// The buckets of a subscription, or of one of its models. An empty memory is a full bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Buckets {
    /// What was taken out of the bucket of requests and has not been filled in again, in units.
    requests: u64,
    /// The same for tokens.
    tokens: u64,
    /// Until when they have been filled, in milliseconds since the epoch.
    filled: u64,
}

/// A limit was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitReached {
    /// Which one.
    pub limit: Limit,
    /// Until there is room for such a request, if none comes before it.
    pub wait: Duration,
    /// How much there is room for now.
    pub remaining: Remaining,
}

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Of so many requests a minute.
    Requests(u32),
    /// Of so many tokens a minute.
    Tokens(u32),
}

/// How much there is room for, of what is limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remaining {
    /// Requests.
    pub requests: Option<u64>,
    /// Tokens.
    pub tokens: Option<u64>,
}

impl Limits {
    /// The rates that bind a request for this model, or for none, and the model whose own they are.
    pub fn of<'m>(&self, model: Option<&'m str>) -> Option<(Rates, Option<&'m str>)> {
        let own = model.and_then(|model| Some((*self.models.get(model)?, Some(model))));
        let found = own.unwrap_or((self.all, None));
        (found.0 != Rates::default()).then_some(found)
    }
}

impl Buckets {
    /// The buckets after a request that is expected to use so many tokens, and how many were reserved for it.
    /// `None` is a request that uses no tokens, and so is bound by no limit of them.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn take(
        self,
        rates: Rates,
        tokens: Option<u64>,
        now: SystemTime,
    ) -> Result<(Self, u64), LimitReached> {
        let now = millis(now);
        let filled = self.fill(rates, now);
        let wanted = match (rates.tokens_per_minute, tokens) {
            (Some(rate), Some(tokens)) => tokens.min(u64::from(rate) / LARGEST_RESERVATION).max(1),
            _ => 0,
        };
        let requests = room(rates.requests_per_minute, filled.requests, 1);
        let used = match wanted {
            0 => Ok(filled.tokens),
            _ => room(rates.tokens_per_minute, filled.tokens, wanted),
        };
        let (wait, limit) = match (requests, used) {
            (Ok(requests), Ok(tokens)) => {
                return Ok((Self { requests, tokens, ..filled }, wanted));
            }
            (Err((wait, rate)), Ok(_)) => (wait, Limit::Requests(rate)),
            (Ok(_), Err((wait, rate))) => (wait, Limit::Tokens(rate)),
            (Err((one, rate)), Err((other, _))) if one >= other => (one, Limit::Requests(rate)),
            (Err(_), Err((wait, rate))) => (wait, Limit::Tokens(rate)),
        };
        // Where another worker's clock is ahead, the bucket is filled until then.
        let wait = wait.saturating_add(filled.filled.saturating_sub(now));
        let (wait, remaining) = (Duration::from_millis(wait), filled.remaining(rates));
        Err(LimitReached { limit, wait, remaining })
    }

    /// The buckets after a request has used so many tokens, for which so many were reserved.
    pub fn settle(self, reserved: u64, used: u64) -> Self {
        let tokens = match used.checked_sub(reserved) {
            Some(more) => self.tokens.saturating_add(more.saturating_mul(UNIT)),
            None => self.tokens.saturating_sub((reserved - used).saturating_mul(UNIT)),
        };
        Self { tokens, ..self }
    }

    /// The buckets as if a request, for which so many tokens were reserved, had not come.
    pub fn give_back(self, reserved: u64) -> Self {
        let requests = self.requests.saturating_sub(UNIT);
        Self { requests, ..self }.settle(reserved, 0)
    }

    /// How much there is room for.
    pub fn remaining(self, rates: Rates) -> Remaining {
        let remaining =
            |rate: Option<u32>, used: u64| Some(capacity(rate?).saturating_sub(used) / UNIT);
        Remaining {
            requests: remaining(rates.requests_per_minute, self.requests),
            tokens: remaining(rates.tokens_per_minute, self.tokens),
        }
    }

    fn fill(self, rates: Rates, now: u64) -> Self {
        if now.saturating_add(SKEW) < self.filled {
            // A clock that was set back fills nothing, and counts anew from there.
            return Self { filled: now, ..self };
        }
        let passed = now.saturating_sub(self.filled);
        let left = |rate: Option<u32>, used: u64| {
            used.saturating_sub(passed.saturating_mul(rate.map_or(u64::MAX, u64::from)))
        };
        Self {
            requests: left(rates.requests_per_minute, self.requests),
            tokens: left(rates.tokens_per_minute, self.tokens),
            filled: self.filled.max(now),
        }
    }

    /// The buckets as bytes, for the store that all workers share.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.number(self.requests).number(self.tokens).number(self.filled);
        writer.finish()
    }

    /// Reads such bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (requests, tokens, filled) = (reader.number()?, reader.number()?, reader.number()?);
        reader.is_empty().then_some(Self { requests, tokens, filled })
    }
}

fn millis(time: SystemTime) -> u64 {
    let millis = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(millis).unwrap_or(u64::MAX)
}

fn capacity(rate: u32) -> u64 {
    u64::from(rate) * UNIT
}

/// What is used when so many more are, or for how many milliseconds this rate leaves no room for them.
fn room(rate: Option<u32>, used: u64, wanted: u64) -> Result<u64, (u64, u32)> {
    let after = used.saturating_add(wanted.saturating_mul(UNIT));
    match rate {
        Some(rate) if after > capacity(rate) => {
            Err(((after - capacity(rate)).div_ceil(rate.into()), rate))
        }
        _ => Ok(after),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_750_000_000) + Duration::from_millis(millis)
    }

    fn rates(requests: u32, tokens: u32) -> Rates {
        let some = |rate| (rate > 0).then_some(rate);
        Rates { requests_per_minute: some(requests), tokens_per_minute: some(tokens) }
    }

    /// Which limit is hit, and for how many milliseconds.
    fn reached(result: Result<(Buckets, u64), LimitReached>) -> (Limit, u64) {
        let reached = result.unwrap_err();
        (reached.limit, u64::try_from(reached.wait.as_millis()).unwrap())
    }

    #[test]
    fn a_minutes_worth_passes_at_once_and_then_as_much_as_is_filled() {
        let rates = rates(60, 0);
        let mut buckets = Buckets::default();
        for _ in 0..60 {
            buckets = buckets.take(rates, None, at(0)).unwrap().0;
        }
        assert_eq!(buckets.remaining(rates), Remaining { requests: Some(0), tokens: None });
        assert_eq!(reached(buckets.take(rates, None, at(0))), (Limit::Requests(60), 1000));
        assert_eq!(reached(buckets.take(rates, None, at(999))), (Limit::Requests(60), 1));
        let buckets = buckets.take(rates, None, at(1000)).unwrap().0;
        assert_eq!(reached(buckets.take(rates, None, at(1000))), (Limit::Requests(60), 1000));
        assert!(buckets.take(rates, None, at(2000)).is_ok());
    }

    #[test]
    fn what_was_used_beyond_what_was_expected_is_waited_for() {
        let rates = rates(0, 600);
        let tokens = |buckets: Buckets| buckets.remaining(rates).tokens.unwrap();
        let (buckets, reserved) = Buckets::default().take(rates, Some(100), at(0)).unwrap();
        assert_eq!((reserved, tokens(buckets)), (100, 500));
        assert_eq!(tokens(buckets.settle(100, 40)), 560);
        assert_eq!(tokens(buckets.give_back(100)), 600);
        let buckets = buckets.settle(100, 1200);
        assert_eq!(tokens(buckets), 0);
        // 600 are owed, and 10 come in each second.
        assert_eq!(reached(buckets.take(rates, Some(10), at(0))), (Limit::Tokens(600), 61_000));
        assert_eq!(reached(buckets.take(rates, Some(10), at(60_000))), (Limit::Tokens(600), 1000));
        assert!(buckets.take(rates, Some(10), at(61_000)).is_ok());
        assert!(buckets.take(rates, None, at(0)).is_ok(), "a request that uses none");
    }

    #[test]
    fn a_request_is_reserved_a_quarter_of_a_minutes_tokens_at_most_and_one_at_least() {
        for (rate, expected, reserved) in
            [(100, 5000, 25), (100, 25, 25), (100, 7, 7), (100, 0, 1), (1, 5000, 1)]
        {
            let rates = rates(0, rate);
            let (buckets, taken) = Buckets::default().take(rates, Some(expected), at(0)).unwrap();
            assert_eq!(taken, reserved);
            let left = u64::from(rate) - reserved;
            assert_eq!(buckets.remaining(rates).tokens, Some(left));
        }
    }

    #[test]
    fn the_limit_that_takes_longer_is_told() {
        let rates = rates(1, 60);
        let (full, _) = Buckets::default().take(rates, Some(1), at(0)).unwrap();
        assert_eq!(reached(full.take(rates, Some(1), at(0))), (Limit::Requests(1), 60_000));
        let owing = full.settle(1, 120);
        assert_eq!(reached(owing.take(rates, Some(1), at(0))), (Limit::Tokens(60), 61_000));
    }

    #[test]
    fn a_clock_that_is_set_back_neither_fills_nor_blocks() {
        let rates = rates(60, 0);
        let mut buckets = Buckets::default();
        for _ in 0..60 {
            buckets = buckets.take(rates, None, at(3_600_000)).unwrap().0;
        }
        assert_eq!(reached(buckets.take(rates, None, at(0))), (Limit::Requests(60), 1000));
        let (buckets, _) =
            Buckets { filled: millis(at(0)), ..buckets }.take(rates, None, at(1000)).unwrap();
        assert_eq!(reached(buckets.take(rates, None, at(1000))), (Limit::Requests(60), 1000));
    }

    #[test]
    fn workers_whose_clocks_differ_a_little_fill_no_more_than_one() {
        let rates = rates(60, 0);
        let mut buckets = Buckets::default();
        let mut passed = 0;
        for tick in 0..=600_010_u64 {
            // One of them is always three milliseconds behind.
            let now = at(tick + 10 - 3 * (tick % 2));
            if let Ok((next, _)) = buckets.take(rates, None, now) {
                (buckets, passed) = (next, passed + 1);
            }
        }
        assert_eq!(passed, 60 + 600);
        let ahead = buckets.take(rates, None, at(600_009)).unwrap_err();
        let behind = buckets.take(rates, None, at(600_006)).unwrap_err();
        assert_eq!(behind.wait - ahead.wait, Duration::from_millis(3));
    }

    #[test]
    fn a_models_own_limits_take_the_place_of_the_others() {
        let limits = Limits {
            all: rates(600, 5000),
            models: BTreeMap::from([("m".to_owned(), rates(10, 5000))]),
            quota: None,
        };
        assert_eq!(limits.of(None), Some((rates(600, 5000), None)));
        assert_eq!(limits.of(Some("other")), Some((rates(600, 5000), None)));
        assert_eq!(limits.of(Some("m")), Some((rates(10, 5000), Some("m"))));
        assert_eq!(Limits::default().of(Some("m")), None);
    }

    proptest! {
        /// Callers that ask as often as they like get the limit in the long run, and no more than a minute's
        /// worth beyond it at any time; and who waits as it was told gets through.
        #[test]
        fn the_rate_is_exact_and_the_time_of_room_is_true(
            rate in 1_u32..5000,
            costs in prop::collection::vec((0_u64..50, 0_u64..100), 1..20),
        ) {
            let rates = rates(0, rate);
            let mut buckets = Buckets::default();
            let (mut now, mut used) = (0_u64, 0_u64);
            for (expected, spent) in costs.iter().cycle().take(3000) {
                let expected = Some(*expected);
                let (next, reserved) = match buckets.take(rates, expected, at(now)) {
                    Ok(taken) => taken,
                    Err(reached) => {
                        let wait = u64::try_from(reached.wait.as_millis()).unwrap();
                        prop_assert!(buckets.take(rates, expected, at(now + wait - 1)).is_err());
                        now += wait;
                        buckets.take(rates, expected, at(now)).expect("there is room as was told")
                    }
                };
                buckets = next.settle(reserved, *spent);
                used += spent;
                let filled = now * u64::from(rate) / UNIT;
                // Beyond the bucket: the one request at hand.
                prop_assert!(used <= filled + u64::from(rate) + 100, "{} {}", used, filled);
            }
            let filled = now * u64::from(rate) / UNIT;
            prop_assert!(used + 1 >= filled, "nothing is lost: {} {}", used, filled);
            prop_assert_eq!(Buckets::from_bytes(&buckets.to_bytes()), Some(buckets));
        }
    }
}
