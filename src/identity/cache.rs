//! What all workers know about one token: a value of which each event makes the next one.
//!
//! The workers of a proxy share a [`Slot`] and nothing else. A worker that finds a fetch due claims
//! it, by compare-and-swap; whoever loses finds it claimed. So there is one fetch at a time whatever
//! the number of workers, and a claim whose worker has died runs out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::IdentityError;
use super::failure::Failure;
use super::token::Token;
use crate::base::random::jitter;

/// The first wait after a failure; doubled with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait after transient failures.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How long to wait after a refusal. It stays the same until an operator corrects something, and then the
/// proxy should recover by itself.
const REFUSED_WAIT: Duration = Duration::from_secs(60);

/// The longest `retry-after` of an endpoint that is followed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(10 * 60);

/// A token is not fetched anew sooner than this, however often it is rejected: a role or an audience
/// that is wrong stays wrong.
const RENEW_INTERVAL: Duration = Duration::from_secs(60);

/// A token, the worker that fetches the next one, and the outcome of the last attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub(super) token: Option<Token>,
    pub(super) fetch: Fetch,
    /// Failures in a row.
    pub(super) failures: u32,
    /// What the last fetch failed of.
    pub(super) failure: Option<Failure>,
    /// When this was written. A time before it is a clock that was set back, and then no other time
    /// in here means anything.
    pub(super) written: SystemTime,
}

/// Workers read their clocks one after the other.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fetch {
    /// The next one starts then.
    Due(SystemTime),
    /// One is under way.
    Claimed { claim: u64, until: SystemTime },
}

/// What a request finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness<'s> {
    /// A token.
    Ready(&'s Token),
    /// None yet; the next attempt is under way or starts at this time.
    Pending(SystemTime),
    /// None, and the endpoint refuses to issue one; the next attempt starts at this time.
    Refused(&'s Failure, SystemTime),
}

impl Slot {
    /// Nothing is known, and a fetch is due.
    pub fn new() -> Self {
        Self {
            token: None,
            fetch: Fetch::Due(UNIX_EPOCH),
            failures: 0,
            failure: None,
            written: UNIX_EPOCH,
        }
    }

    /// When to look at the slot again: a time in the past means that a fetch is due.
    pub fn due(&self) -> SystemTime {
        match self.fetch {
            Fetch::Due(at) | Fetch::Claimed { until: at, .. } => at,
        }
    }

    /// The slot for a worker that lets others claim first: a fetch is due so much later.
    pub fn after_others(&self, later: Duration) -> Self {
        let fetch = match self.fetch {
            Fetch::Due(at) => Fetch::Due(at + later),
            Fetch::Claimed { claim, until } => Fetch::Claimed { claim, until: until + later },
        };
        Self { fetch, ..self.clone() }
    }

    /// The slot with the fetch claimed, if one is due. `claim` is the claimant's own number, and the
    /// claim lasts as long as the fetch may take.
    pub fn claim(&self, claim: u64, now: SystemTime, lasts: Duration) -> Option<Self> {
        let is_due = self.due() <= now || now + CLOCK_TOLERANCE < self.written;
        is_due.then(|| Self {
            fetch: Fetch::Claimed { claim, until: now + lasts },
            written: now,
            ..self.clone()
        })
    }

    /// The slot after the fetch of this claim has ended. Where another worker has taken over the claim,
    /// a token is still kept, and a failure is ignored.
    pub fn settle(
        &self,
        claim: u64,
        outcome: Result<Token, Failure>,
        now: SystemTime,
        random: u64,
    ) -> Self {
        match outcome {
            Ok(token) => Self {
                fetch: Fetch::Due(token.refresh_at),
                token: Some(token),
                failures: 0,
                failure: None,
                written: now,
            },
            Err(_) if !self.is_claimed_by(claim) => self.clone(),
            Err(failure) => Self {
                token: self.token.clone(),
                fetch: Fetch::Due(now + wait(&failure, self.failures, random)),
                failures: self.failures.saturating_add(1),
                failure: Some(failure),
                written: now,
            },
        }
    }

    /// The slot after a claimant has gone that will not see the end of its fetch: it is due again.
    pub fn release(&self, claim: u64, now: SystemTime) -> Self {
        let fetch = if self.is_claimed_by(claim) { Fetch::Due(now) } else { self.fetch };
        Self { fetch, ..self.clone() }
    }

    /// The slot with a fetch due at once, because a backend has rejected the token. `None` where that
    /// would be useless or too often: while the token is new, or fetches fail.
    pub fn renew(&self, now: SystemTime) -> Option<Self> {
        let age = now.duration_since(self.written).unwrap_or_default();
        let is_due_later = matches!(self.fetch, Fetch::Due(at) if at > now);
        let is_worth_it = is_due_later && self.failures == 0 && age >= RENEW_INTERVAL;
        is_worth_it.then(|| Self { fetch: Fetch::Due(now), ..self.clone() })
    }

    /// What a request finds at this time.
    pub fn readiness(&self, now: SystemTime) -> Readiness<'_> {
        match (&self.token, &self.failure) {
            (Some(token), _) if token.is_usable(now) => Readiness::Ready(token),
            (_, Some(failure)) if failure.is_permanent() => Readiness::Refused(failure, self.due()),
            _ => Readiness::Pending(match self.fetch {
                Fetch::Due(at) => at,
                Fetch::Claimed { .. } => now,
            }),
        }
    }

    /// The failure of the last fetch, if it failed.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// How many fetches in a row have failed.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether a fetch is under way.
    pub fn is_claimed(&self) -> bool {
        matches!(self.fetch, Fetch::Claimed { .. })
    }

    fn is_claimed_by(&self, mine: u64) -> bool {
        matches!(self.fetch, Fetch::Claimed { claim, .. } if claim == mine)
    }
}

impl<'s> Readiness<'s> {
    /// What becomes of a request that waits until `deadline` at the longest: a token to go with, or
    /// `None` to wait on.
    ///
    /// # Errors
    /// There is none, and there will be none in time.
    pub fn admit(
        self,
        now: SystemTime,
        deadline: SystemTime,
    ) -> Result<Option<&'s Token>, IdentityError> {
        match self {
            Self::Ready(token) => Ok(Some(token)),
            Self::Refused(failure, _) => Err(IdentityError::Refused { status: failure.status() }),
            Self::Pending(at) if now < deadline && at < deadline => Ok(None),
            Self::Pending(at) => {
                let wait = at.duration_since(now).unwrap_or_default().max(FIRST_WAIT);
                Err(IdentityError::Unavailable { wait })
            }
        }
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

/// How long to wait after a failure, when so many came before it: doubled each time, and up to a
/// quarter more, so that proxies do not retry at the same time.
fn wait(failure: &Failure, before: u32, random: u64) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(before.min(10)));
    let wait = match failure {
        Failure::Permanent { .. } => REFUSED_WAIT,
        // IMDS is being updated and back within 70 s (Microsoft, "IMDS error handling").
        Failure::Transient { status: Some(410), .. } => doubled.min(Duration::from_secs(10)),
        Failure::Transient { retry_after, .. } => {
            doubled.min(LONGEST_WAIT).max(retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER))
        }
    };
    wait + jitter(wait, 4, random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::secret::Secret;

    const CLAIM: u64 = 7;
    const FETCH: Duration = Duration::from_secs(6);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
    }

    fn token(name: &str, refresh: u64, expires: u64) -> Token {
        Token {
            secret: Secret::new(name.to_owned()),
            refresh_at: at(refresh),
            expires_at: at(expires),
        }
    }

    fn transient(status: u16) -> Failure {
        Failure::Transient { status: Some(status), detail: String::new(), retry_after: None }
    }

    fn refused() -> Failure {
        Failure::Permanent { status: 400, detail: "invalid_request".to_owned() }
    }

    /// Claims the fetch that is due, and settles it at once.
    fn fetched(slot: &Slot, now: u64, outcome: Result<Token, Failure>) -> Slot {
        let claimed = slot.claim(CLAIM, at(now), FETCH).expect("a fetch is due");
        claimed.settle(CLAIM, outcome, at(now), 0)
    }

    #[test]
    fn the_first_fetch_is_due_at_once_and_one_worker_gets_it() {
        let slot = Slot::new();
        let claimed = slot.claim(CLAIM, at(0), FETCH).expect("due");
        assert_eq!(claimed.claim(8, at(0), FETCH), None);
        assert_eq!(claimed.claim(8, at(5), FETCH), None);
    }

    #[test]
    fn a_claim_whose_worker_died_runs_out() {
        let claimed = Slot::new().claim(CLAIM, at(0), FETCH).expect("due");
        let again = claimed.claim(8, at(6), FETCH).expect("the claim has run out");
        let late = again.settle(CLAIM, Err(transient(500)), at(7), 0);
        assert_eq!(late, again, "the first worker's failure no longer counts");
        let late = again.settle(CLAIM, Ok(token("t", 100, 200)), at(7), 0);
        assert!(matches!(late.readiness(at(7)), Readiness::Ready(_)), "its token does");
    }

    #[test]
    fn a_worker_that_goes_away_leaves_its_fetch_to_the_others() {
        let claimed = Slot::new().claim(CLAIM, at(0), FETCH).expect("due");
        assert_eq!(claimed.release(8, at(1)), claimed, "another claim is not released");
        assert!(claimed.release(CLAIM, at(1)).claim(8, at(1), FETCH).is_some());
    }

    #[test]
    fn a_worker_that_lets_others_go_first_claims_what_they_do_not() {
        let later = Duration::from_secs(6);
        let slot = fetched(&Slot::new(), 0, Err(transient(503)));
        assert!(slot.claim(8, at(1), FETCH).is_some());
        assert_eq!(slot.after_others(later).claim(8, at(6), FETCH), None);
        assert!(slot.after_others(later).claim(8, at(7), FETCH).is_some());
        let claimed = slot.claim(CLAIM, at(1), FETCH).expect("due").after_others(later);
        assert_eq!(claimed.claim(8, at(12), FETCH), None);
        assert!(claimed.claim(8, at(13), FETCH).is_some(), "a claim that has run out");
    }

    #[test]
    fn a_clock_that_is_set_back_makes_a_fetch_due() {
        let hour_ago = at(0) - Duration::from_secs(3600);
        let failed = fetched(&Slot::new(), 0, Err(transient(500)));
        let served = fetched(&Slot::new(), 0, Ok(token("t", 100, 200)));
        for slot in [failed, served] {
            assert_eq!(slot.claim(8, at(0) - Duration::from_secs(4), FETCH), None);
            let claimed = slot.claim(8, hour_ago, FETCH).expect("due by the new clock");
            assert_eq!(claimed.claim(9, hour_ago, FETCH), None, "and only once");
        }
    }

    #[test]
    fn a_token_is_used_until_it_expires_and_refreshed_before() {
        let slot = fetched(&Slot::new(), 0, Ok(token("old", 100, 200)));
        assert_eq!(slot.claim(8, at(99), FETCH), None, "not due yet");
        let claimed = slot.claim(CLAIM, at(100), FETCH).expect("due");
        assert_eq!(claimed.readiness(at(100)), Readiness::Ready(&token("old", 100, 200)));
        let slot = claimed.settle(CLAIM, Ok(token("new", 300, 400)), at(101), 0);
        assert_eq!(slot.readiness(at(101)), Readiness::Ready(&token("new", 300, 400)));
    }

    #[test]
    fn the_old_token_serves_while_refreshes_fail_until_it_really_expires() {
        for failure in [transient(500), refused()] {
            let slot = fetched(&Slot::new(), 0, Ok(token("old", 100, 200)));
            let slot = fetched(&slot, 100, Err(failure));
            assert_eq!(slot.readiness(at(199)), Readiness::Ready(&token("old", 100, 200)));
            assert!(!matches!(slot.readiness(at(200)), Readiness::Ready(_)));
        }
    }

    #[test]
    fn waits_double_up_to_a_cap_and_a_success_resets_them() {
        let mut slot = Slot::new();
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..8 {
            slot = fetched(&slot, now, Err(transient(404)));
            let wait = slot.due().duration_since(at(now)).unwrap_or_default().as_secs();
            waits.push(wait);
            now += wait;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        slot = fetched(&slot, now, Ok(token("t", now + 10, now + 20)));
        assert_eq!(slot.failures(), 0);
        slot = fetched(&slot, now + 10, Err(transient(404)));
        assert_eq!(slot.due(), at(now + 11));
    }

    #[test]
    fn each_failure_has_its_wait() {
        let retry_after = |seconds| Failure::Transient {
            status: Some(429),
            detail: String::new(),
            retry_after: Some(Duration::from_secs(seconds)),
        };
        let silence = Failure::Transient { status: None, detail: String::new(), retry_after: None };
        let rows = [
            ("server error", transient(500), 0, 1),
            ("no response", silence, 0, 1),
            ("throttled with retry-after", retry_after(30), 0, 30),
            ("a retry-after shorter than the backoff", retry_after(1), 3, 8),
            ("an absurd retry-after", retry_after(86_400), 0, 600),
            ("being updated", transient(410), 0, 1),
            ("being updated for a while", transient(410), 6, 10),
            ("refused", refused(), 0, 60),
            ("refused again", refused(), 9, 60),
        ];
        for (name, failure, before, expected) in rows {
            let longest = Duration::from_secs(expected) * 5 / 4;
            assert_eq!(wait(&failure, before, 0), Duration::from_secs(expected), "{name}");
            let most = (0..1000).map(|random| wait(&failure, before, random)).max();
            assert!(most.is_some_and(|most| most <= longest), "{name}: {most:?}");
        }
    }

    #[test]
    fn a_refusal_is_permanent_and_ends_with_a_later_success() {
        let slot = fetched(&Slot::new(), 0, Err(refused()));
        assert_eq!(slot.readiness(at(1)), Readiness::Refused(&refused(), at(60)));
        let slot = fetched(&slot, 60, Err(transient(500)));
        assert!(matches!(slot.readiness(at(60)), Readiness::Pending(_)));
        let slot = fetched(&slot, 70, Ok(token("t", 100, 200)));
        assert!(matches!(slot.readiness(at(70)), Readiness::Ready(_)));
    }

    #[test]
    fn a_rejected_token_is_fetched_anew_at_most_once_an_interval() {
        let slot = fetched(&Slot::new(), 0, Ok(token("old", 1000, 2000)));
        assert_eq!(slot.renew(at(59)), None, "it is new");
        let renewed = slot.renew(at(60)).expect("it is old enough");
        assert_eq!(renewed.renew(at(61)), None, "it is due already");
        assert!(matches!(renewed.readiness(at(60)), Readiness::Ready(_)), "and serves meanwhile");
        let slot = fetched(&renewed, 60, Ok(token("new", 1060, 2060)));
        assert_eq!(slot.renew(at(119)), None);
        assert!(slot.renew(at(120)).is_some());
        let slot = fetched(&renewed, 60, Err(transient(503)));
        assert_eq!(slot.renew(at(200)), None, "fetches fail");
        let claimed = renewed.claim(CLAIM, at(60), FETCH).expect("due");
        assert_eq!(claimed.renew(at(130)), None, "under way");
    }

    #[test]
    fn a_request_learns_when_the_next_attempt_starts() {
        let slot = Slot::new().claim(CLAIM, at(0), FETCH).expect("due");
        assert_eq!(slot.readiness(at(3)), Readiness::Pending(at(3)), "under way");
        let slot = slot.settle(CLAIM, Err(transient(503)), at(4), 0);
        assert_eq!(slot.readiness(at(4)), Readiness::Pending(at(5)));
    }

    #[test]
    fn a_request_waits_only_while_waiting_can_help() {
        let due = |seconds| Slot { fetch: Fetch::Due(at(seconds)), ..Slot::new() };
        let admitted = |slot: &Slot, now, deadline| {
            let admitted = slot.readiness(at(now)).admit(at(now), at(deadline));
            admitted.map(|token| token.is_some())
        };
        let unavailable =
            |seconds| Err(IdentityError::Unavailable { wait: Duration::from_secs(seconds) });
        let refused = Slot { failure: Some(refused()), ..due(60) };
        let ready = fetched(&Slot::new(), 0, Ok(token("t", 100, 200)));
        let rows = [
            ("a token", &ready, 0, 0, Ok(true)),
            ("an attempt before the deadline", &due(3), 0, 5, Ok(false)),
            ("the deadline is over", &due(3), 5, 5, unavailable(1)),
            ("the next attempt is too late", &due(30), 0, 5, unavailable(30)),
            ("refused", &refused, 0, 5, Err(IdentityError::Refused { status: Some(400) })),
        ];
        for (name, slot, now, deadline, expected) in rows {
            assert_eq!(admitted(slot, now, deadline), expected, "{name}");
        }
    }
}
