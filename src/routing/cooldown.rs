//! Cooldowns of backends that throttle or fail: a value of which each event makes the next one.
//!
//! Only throttling and failures are remembered, so that a proxy whose backends all respond remembers
//! nothing. What counts is the pair of backend and model: Azure's limits are a deployment's own.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::base::random::jitter;
use crate::config::{Config, Failover};

/// For how long a probe's response is waited for. Azure refuses a throttled request at once, so one that
/// it has not refused by then was accepted, and others may be.
const PROBE: Duration = Duration::from_secs(3);

/// Changes with the format of the bytes.
const VERSION: &str = "3";

/// A 429 that says to retry after so long is about the one request, which is larger than the deployment's
/// whole quota: others may succeed at once (recorded with `retry-after: 86400`).
const OVERSIZED: Duration = Duration::from_secs(60 * 60);

/// The backends that throttled or failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cooldowns {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    backend: String,
    model: String,
    /// 429s in a row.
    throttled: u32,
    /// 5xx and failed connections in a row.
    failed: u32,
    /// Such failures that do not count yet, because they may be their caller's doing.
    unconfirmed: Option<Unconfirmed>,
    state: State,
}

/// Failures of requests that failed everywhere, all of one subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unconfirmed {
    subscription: u64,
    count: u32,
}

/// What makes a failure the backend's and not its request's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// Another backend has served the same request, or the outcome speaks for itself.
    Confirmed,
    /// The request failed at every backend that it tried; it is of the subscription with this number.
    /// Failures of several subscriptions confirm each other.
    Alone(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Has failed, but not often enough for a cooldown.
    Counting,
    /// Is in cooldown until then; from then on one request may probe.
    Cooldown(SystemTime),
    /// A probe is under way; the others follow at this time, unless it is refused.
    Probing(SystemTime),
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With a response that shows a backend at work, be it a client's error, or a 429 about one request
    /// that is larger than the deployment's quota.
    Responded,
    /// With a 429, and the time after which to retry, if it contains one.
    Throttled(Option<Duration>),
    /// With a 5xx, or without a response.
    Failed,
}

impl Outcome {
    /// The outcome of a response with this status; `retry_after` is read where it is throttled.
    pub fn of_status(status: u16, retry_after: impl FnOnce() -> Option<Duration>) -> Self {
        match status {
            429 => match retry_after() {
                Some(wait) if wait >= OVERSIZED => Self::Responded,
                wait => Self::Throttled(wait),
            },
            500.. => Self::Failed,
            // A client's mistakes, a content filter's refusals and missing rights will be the same
            // elsewhere or the caller's own affair.
            _ => Self::Responded,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Responded => f.write_str("responded"),
            Self::Throttled(Some(wait)) => {
                let (seconds, millis) = (wait.as_secs(), wait.subsec_millis());
                write!(f, "throttled (retry after {seconds}.{millis:03} s)")
            }
            Self::Throttled(None) => f.write_str("throttled (no retry-after)"),
            Self::Failed => f.write_str("failed"),
        }
    }
}

/// Whether a backend may be tried for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// It may.
    Ready,
    /// By one request, which must claim the probe first: see [`Cooldowns::probe`].
    Probe,
    /// Not before this time.
    Cooldown(SystemTime),
}

impl Cooldowns {
    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether anything is remembered of a backend and a model.
    pub fn knows(&self, backend: &str, model: &str) -> bool {
        self.find(backend, model).is_some()
    }

    /// Whether a backend may be tried for a model now.
    pub fn availability(&self, backend: &str, model: &str, now: SystemTime) -> Availability {
        match self.find(backend, model).map(|entry| entry.state) {
            None | Some(State::Counting) => Availability::Ready,
            Some(State::Probing(until)) if now >= until => Availability::Ready,
            Some(State::Cooldown(until)) if now >= until => Availability::Probe,
            Some(State::Cooldown(until) | State::Probing(until)) => Availability::Cooldown(until),
        }
    }

    /// The memory after one request has claimed the probe of a backend.
    pub fn probe(&self, backend: &str, model: &str, now: SystemTime) -> Self {
        let mut cooldowns = self.clone();
        for entry in &mut cooldowns.entries {
            if entry.is(backend, model) {
                entry.state = State::Probing(now + PROBE);
            }
        }
        cooldowns
    }

    /// The memory after a request ended that had claimed a probe and got no response: another one may
    /// probe, at once. `None` where that was not so.
    pub fn give_back(&self, backend: &str, model: &str, now: SystemTime) -> Option<Self> {
        let mut cooldowns = self.clone();
        let is_probing = |entry: &&mut Entry| {
            entry.is(backend, model) && matches!(entry.state, State::Probing(_))
        };
        cooldowns.entries.iter_mut().find(is_probing)?.state = State::Cooldown(now);
        Some(cooldowns)
    }

    /// The memory after an attempt, or `None` where it stays what it is.
    ///
    /// `random` is any number; it lengthens a cooldown by up to a tenth, so that proxies do not probe in
    /// step.
    pub fn record(
        &self,
        backend: &str,
        model: &str,
        (outcome, evidence): (Outcome, Evidence),
        now: SystemTime,
        policy: &Failover,
        random: u64,
    ) -> Option<Self> {
        let known = self.find(backend, model);
        // The outcome of a request that was sent before the cooldown began is not evidence.
        let in_cooldown =
            known.is_some_and(|entry| matches!(entry.state, State::Cooldown(until) if now < until));
        match outcome {
            Outcome::Responded if known.is_none() => return None,
            Outcome::Responded | Outcome::Failed if in_cooldown => return None,
            Outcome::Responded => return Some(self.without(backend, model)),
            Outcome::Throttled(_) | Outcome::Failed => {}
        }
        let fresh = Entry {
            backend: backend.to_owned(),
            model: model.to_owned(),
            throttled: 0,
            failed: 0,
            unconfirmed: None,
            state: State::Counting,
        };
        let mut entry = known.cloned().unwrap_or(fresh);
        let failures = match (outcome, evidence) {
            (Outcome::Failed, Evidence::Alone(subscription)) => entry.failure_of(subscription),
            (Outcome::Failed, Evidence::Confirmed) => 1,
            _ => 0,
        };
        let wait = match outcome {
            Outcome::Throttled(retry_after) => {
                entry.throttled = entry.throttled.saturating_add(u32::from(!in_cooldown));
                let longest = policy.longest_cooldown;
                Some(retry_after.unwrap_or_else(|| policy.doubled(entry.throttled)).min(longest))
            }
            // Nothing is known of the backend: another request may probe it.
            _ if failures == 0 => {
                if let State::Probing(_) = entry.state {
                    entry.state = State::Cooldown(now);
                }
                None
            }
            _ => {
                // However many are confirmed at once, they begin the shortest cooldown.
                let most = policy.failures_in_a_row.max(entry.failed.saturating_add(1));
                entry.failed = entry.failed.saturating_add(failures).min(most);
                let over = (entry.failed + 1).saturating_sub(policy.failures_in_a_row);
                // A failure after a cooldown is that of a probe, be it given back or not.
                let was_probe = entry.state != State::Counting;
                (over > 0 || was_probe).then(|| policy.doubled(over.max(1)))
            }
        };
        if let Some(wait) = wait {
            let until = now + wait + jitter(wait, 10, random);
            entry.state = match entry.state {
                State::Cooldown(longer) if longer >= until => State::Cooldown(longer),
                _ => State::Cooldown(until),
            };
        }
        let mut cooldowns = self.without(backend, model);
        cooldowns.entries.push(entry);
        (cooldowns != *self).then_some(cooldowns)
    }

    /// The memory without what is over and concerns no pool of this configuration, or `None` where it
    /// stays what it is. A running cooldown is remembered all the same: the configuration after this one
    /// may have the backend again, and another one of the same proxy may have it now.
    pub fn forget(&self, config: &Config, now: SystemTime) -> Option<Self> {
        let mut cooldowns = self.clone();
        cooldowns.entries.retain(|Entry { backend, model, state, .. }| {
            let model = config.models.get(model).filter(|model| model.placements.len() > 1);
            state.excludes(now) || model.is_some_and(|model| model.on(backend).is_some())
        });
        (cooldowns != *self).then_some(cooldowns)
    }

    /// For how many models a backend is in cooldown now.
    pub fn models_in_cooldown(&self, backend: &str, now: SystemTime) -> usize {
        let excludes = |entry: &&Entry| entry.backend == backend && entry.state.excludes(now);
        self.entries.iter().filter(excludes).count()
    }

    fn find(&self, backend: &str, model: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.is(backend, model))
    }

    fn without(&self, backend: &str, model: &str) -> Self {
        let others = self.entries.iter().filter(|entry| !entry.is(backend, model));
        Self { entries: others.cloned().collect() }
    }
}

impl State {
    /// Whether requests may not go there now.
    fn excludes(self, now: SystemTime) -> bool {
        matches!(self, Self::Cooldown(until) | Self::Probing(until) if now < until)
    }
}

impl Entry {
    /// How many failures count once a request of this subscription has failed everywhere.
    fn failure_of(&mut self, subscription: u64) -> u32 {
        match &mut self.unconfirmed {
            Some(known) if known.subscription == subscription => {
                known.count = known.count.saturating_add(1);
                0
            }
            Some(known) => {
                let failures = known.count.saturating_add(1);
                self.unconfirmed = None;
                failures
            }
            None => {
                self.unconfirmed = Some(Unconfirmed { subscription, count: 1 });
                0
            }
        }
    }

    fn is(&self, backend: &str, model: &str) -> bool {
        self.backend == backend && self.model == model
    }
}

impl Failover {
    /// The cooldown after the `n`th 429 or failure in a row, from 1.
    fn doubled(&self, n: u32) -> Duration {
        let factor = 2_u32.saturating_pow(n.saturating_sub(1).min(16));
        self.cooldown.saturating_mul(factor).min(self.longest_cooldown)
    }
}

impl Cooldowns {
    /// The memory as bytes, for the store that all workers share: a line for each entry.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = VERSION.to_owned();
        for Entry { backend, model, throttled, failed, unconfirmed, state } in &self.entries {
            let (kind, at) = match state {
                State::Counting => ("counting", UNIX_EPOCH),
                State::Cooldown(until) => ("cooldown", *until),
                State::Probing(until) => ("probing", *until),
            };
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let (by, count) = unconfirmed.map_or((0, 0), |one| (one.subscription, one.count));
            text.push_str(&format!(
                "\n{backend} {model} {throttled} {failed} {by} {count} {kind} {at}"
            ));
        }
        text.into_bytes()
    }

    /// Reads such bytes; what another version wrote is no memory.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.split('\n');
        if lines.next()? != VERSION {
            return None;
        }
        Some(Self { entries: lines.map(read_entry).collect::<Option<_>>()? })
    }
}

/// Neither a backend's name nor a model's has a space ([`crate::config::Config`]).
fn read_entry(line: &str) -> Option<Entry> {
    let mut fields = line.split(' ');
    let mut next = || fields.next();
    let (backend, model) = (next()?.to_owned(), next()?.to_owned());
    let (throttled, failed) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let (subscription, count) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let unconfirmed = (count > 0).then_some(Unconfirmed { subscription, count });
    let (kind, at) = (next()?, next()?);
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(at.parse().ok()?))?;
    let state = match kind {
        "counting" => State::Counting,
        "cooldown" => State::Cooldown(at),
        "probing" => State::Probing(at),
        _ => return None,
    };
    Some(Entry { backend, model, throttled, failed, unconfirmed, state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Availability::{Cooldown, Probe, Ready};
    use Outcome::{Failed, Responded, Throttled};

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
    }

    fn policy() -> Failover {
        Failover {
            cooldown: Duration::from_secs(10),
            longest_cooldown: Duration::from_secs(120),
            failures_in_a_row: 3,
            retry_within: Duration::from_secs(10),
        }
    }

    fn throttled(seconds: u64) -> Outcome {
        Throttled(Some(Duration::from_secs(seconds)))
    }

    /// Plays attempts on one backend, each with its time.
    fn played(attempts: &[(u64, Outcome)]) -> Cooldowns {
        attempts.iter().fold(Cooldowns::default(), |cooldowns, &(now, outcome)| {
            let after = cooldowns.record(
                "eastus",
                "m",
                (outcome, Evidence::Confirmed),
                at(now),
                &policy(),
                0,
            );
            let cooldowns = after.unwrap_or(cooldowns);
            assert_eq!(Cooldowns::from_bytes(&cooldowns.to_bytes()).as_ref(), Some(&cooldowns));
            cooldowns
        })
    }

    fn cooldown(until: u64) -> Availability {
        Cooldown(at(until))
    }

    #[test]
    fn a_429_or_failures_in_a_row_start_a_cooldown() {
        let rows: &[(&str, &[(u64, Outcome)], u64, Availability)] = &[
            ("nothing", &[], 0, Ready),
            ("a response", &[(0, Responded)], 0, Ready),
            ("retry-after is followed", &[(0, throttled(7))], 6, cooldown(7)),
            ("and then one may try", &[(0, throttled(7))], 7, Probe),
            ("a long retry-after is capped", &[(0, throttled(3599))], 0, cooldown(120)),
            ("no retry-after: the default", &[(0, Throttled(None))], 0, cooldown(10)),
            ("which doubles", &[(0, Throttled(None)), (10, Throttled(None))], 10, cooldown(30)),
            (
                "up to the cap",
                &[
                    (0, Throttled(None)),
                    (10, Throttled(None)),
                    (30, Throttled(None)),
                    (70, Throttled(None)),
                    (150, Throttled(None)),
                    (270, Throttled(None)),
                ],
                270,
                cooldown(390),
            ),
            ("a response ends it", &[(0, Throttled(None)), (10, Responded)], 10, Ready),
            (
                "and the doubling",
                &[(0, Throttled(None)), (10, Responded), (20, Throttled(None))],
                20,
                cooldown(30),
            ),
            (
                "late 429s of a burst do not double",
                &[(0, Throttled(None)), (1, Throttled(None)), (2, Throttled(None))],
                2,
                cooldown(12),
            ),
            (
                "a response to an earlier request does not end it",
                &[(0, throttled(60)), (1, Responded)],
                1,
                cooldown(60),
            ),
            (
                "failures of a burst are one",
                &[(0, Failed), (1, Failed), (2, Failed), (3, Failed), (4, Failed), (5, Failed)],
                5,
                cooldown(12),
            ),
            ("nor shorten", &[(0, throttled(60)), (1, throttled(2))], 2, cooldown(60)),
            ("one failure is nothing yet", &[(0, Failed)], 0, Ready),
            ("two neither", &[(0, Failed), (1, Failed)], 1, Ready),
            ("three in a row are", &[(0, Failed), (1, Failed), (2, Failed)], 2, cooldown(12)),
            ("in a row", &[(0, Failed), (1, Failed), (2, Responded), (3, Failed)], 3, Ready),
            (
                "a fourth one doubles",
                &[(0, Failed), (1, Failed), (2, Failed), (12, Failed)],
                12,
                cooldown(32),
            ),
        ];
        for (name, attempts, now, expected) in rows {
            let found = played(attempts).availability("eastus", "m", at(*now));
            assert_eq!(found, *expected, "{name}");
        }
    }

    #[test]
    fn a_request_that_is_larger_than_the_quota_says_nothing_of_the_backend() {
        let of = |seconds| Outcome::of_status(429, || Some(Duration::from_secs(seconds)));
        assert_eq!(of(3599), throttled(3599));
        assert_eq!((of(3600), of(86_400)), (Responded, Responded));
        assert_eq!(Outcome::of_status(429, || None), Throttled(None));
    }

    #[test]
    fn failures_of_one_subscription_alone_do_not_count() {
        let after = |subscriptions: &[u64]| {
            subscriptions.iter().fold(Cooldowns::default(), |cooldowns, &number| {
                let alone = (Failed, Evidence::Alone(number));
                let next = cooldowns.record("eastus", "m", alone, at(0), &policy(), 0);
                let cooldowns = next.unwrap_or(cooldowns);
                assert_eq!(Cooldowns::from_bytes(&cooldowns.to_bytes()).as_ref(), Some(&cooldowns));
                cooldowns
            })
        };
        let rows: &[(&[u64], Availability)] = &[
            (&[1, 1, 1, 1, 1, 1, 1], Ready),
            (&[1, 2], Ready),
            (&[1, 2, 1], Ready),
            (&[1, 1, 2], cooldown(10)),
            (&[1, 2, 3, 4], cooldown(10)),
            (&[1, 1, 1, 1, 1, 1, 1, 2], cooldown(10)),
        ];
        for (subscriptions, expected) in rows {
            let found = after(subscriptions).availability("eastus", "m", at(0));
            assert_eq!(found, *expected, "{subscriptions:?}");
        }
        let responded = (Responded, Evidence::Confirmed);
        let well = after(&[1, 1]).record("eastus", "m", responded, at(1), &policy(), 0).unwrap();
        assert!(well.is_empty());
    }

    #[test]
    fn a_probe_that_fails_everywhere_is_given_back() {
        let probing = played(&[(0, throttled(7))]).probe("eastus", "m", at(7));
        let alone = (Failed, Evidence::Alone(1));
        let after = probing.record("eastus", "m", alone, at(8), &policy(), 0).unwrap();
        assert_eq!(after.availability("eastus", "m", at(8)), Probe);
    }

    #[test]
    fn one_request_probes_a_backend_after_its_cooldown() {
        let cooldowns = played(&[(0, throttled(7))]);
        assert_eq!(cooldowns.availability("eastus", "m", at(7)), Probe);
        let probed = cooldowns.probe("eastus", "m", at(7));
        assert_eq!(probed.availability("eastus", "m", at(7)), cooldown(10));
        let after = |outcome| {
            probed.record("eastus", "m", (outcome, Evidence::Confirmed), at(8), &policy(), 0)
        };
        assert_eq!(after(Responded), Some(Cooldowns::default()));
        let availability =
            |outcome| after(outcome).map(|cooldowns| cooldowns.availability("eastus", "m", at(8)));
        assert_eq!(availability(throttled(3)), Some(cooldown(11)));
        assert_eq!(availability(Failed), Some(cooldown(18)));
        assert_eq!(probed.availability("eastus", "m", at(10)), Ready, "it was not refused");
        let given = probed.give_back("eastus", "m", at(8)).unwrap();
        assert_eq!(given.availability("eastus", "m", at(8)), Probe, "it was given up");
        let failed = given
            .record("eastus", "m", (Failed, Evidence::Confirmed), at(8), &policy(), 0)
            .unwrap();
        assert_eq!(failed.availability("eastus", "m", at(8)), cooldown(18), "or rather had failed");
        assert_eq!(cooldowns.give_back("eastus", "m", at(3)), None, "there was no probe");
    }

    #[test]
    fn a_pair_of_backend_and_model_is_on_its_own() {
        let cooldowns = played(&[(0, throttled(7))]);
        assert_eq!(cooldowns.availability("eastus", "other", at(1)), Ready);
        assert_eq!(cooldowns.availability("sweden", "m", at(1)), Ready);
        assert_eq!(
            (
                cooldowns.models_in_cooldown("eastus", at(1)),
                cooldowns.models_in_cooldown("sweden", at(1))
            ),
            (1, 0)
        );
        assert_eq!(cooldowns.models_in_cooldown("eastus", at(7)), 0);
    }

    #[test]
    fn what_a_configuration_lacks_is_forgotten_once_it_is_over() {
        let document = format!(
            r#"{{
            "identity": {{"managed_identity": {{"cluster": "imds"}}}},
            "subscriptions": [{{"id": "a", "keys": ["{}"], "models": ["*"]}}],
            "backends": [
                {{"name": "eastus", "endpoint": "https://contoso-eastus.openai.azure.com"}},
                {{"name": "sweden", "endpoint": "https://contoso-sweden.openai.azure.com"}},
                {{"name": "france", "endpoint": "https://contoso-france.openai.azure.com"}}
            ],
            "models": [
                {{"name": "m", "backends": [{{"backend": "eastus"}}, {{"backend": "sweden"}}]}},
                {{"name": "single", "backends": [{{"backend": "eastus"}}]}}
            ]}}"#,
            crate::base::digest::Digest::of(b"key")
        );
        let config = Config::from_json(document.as_bytes()).unwrap();
        let forgotten = |backend, model, outcome, seconds| {
            let cooldowns = Cooldowns::default().record(
                backend,
                model,
                (outcome, Evidence::Confirmed),
                at(0),
                &policy(),
                0,
            );
            cooldowns.unwrap().forget(&config, at(seconds)) == Some(Cooldowns::default())
        };
        let rows = [
            ("a pool's", "eastus", "m", throttled(7), 9, false),
            ("a model that is gone", "eastus", "other", throttled(7), 9, true),
            ("a running cooldown", "eastus", "other", throttled(7), 5, false),
            ("and had failed once", "eastus", "other", Failed, 0, true),
            ("a backend that is gone", "spare", "m", throttled(7), 9, true),
            ("a backend of other models", "france", "m", throttled(7), 9, true),
            ("a model that has no pool", "eastus", "single", throttled(7), 9, true),
        ];
        for (name, backend, model, outcome, seconds, expected) in rows {
            assert_eq!(forgotten(backend, model, outcome, seconds), expected, "{name}");
        }
        let both = Cooldowns::default()
            .record("spare", "m", (Failed, Evidence::Confirmed), at(0), &policy(), 0)
            .unwrap();
        let both = both
            .record("eastus", "m", (throttled(7), Evidence::Confirmed), at(0), &policy(), 0)
            .unwrap();
        let kept = both.forget(&config, at(9)).unwrap();
        assert_eq!(kept.availability("eastus", "m", at(9)), Probe, "only the others are forgotten");
        assert_eq!(kept.forget(&config, at(9)), None);
    }

    #[test]
    fn cooldowns_spread_over_a_tenth() {
        let until = |random| {
            let cooldowns = Cooldowns::default().record(
                "eastus",
                "m",
                (throttled(100), Evidence::Confirmed),
                at(0),
                &policy(),
                random,
            );
            cooldowns.map(|cooldowns| cooldowns.availability("eastus", "m", at(0)))
        };
        assert_eq!(until(0), Some(cooldown(100)));
        assert_eq!(until(500), Some(cooldown(105)));
    }

    #[test]
    fn bytes_of_another_version_are_no_cooldowns() {
        let rows: &[&[u8]] = &[
            b"",
            b"2",
            b"3\n",
            b"3\na b 1 1 0 0 cooldown",
            b"3\na b 1 1 0 0 odd 1",
            b"3\na b x 1 0 0 cooldown 1",
            b"\xff",
        ];
        for row in rows {
            assert_eq!(Cooldowns::from_bytes(row), None, "{row:?}");
        }
    }
}
