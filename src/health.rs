//! What the workers remember of backends that throttle or fail: a value that moves through time.
//!
//! Only trouble is remembered, so that a proxy whose backends are all well remembers nothing. What
//! counts is the pair of backend and model: Azure's limits are a deployment's own.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::{Config, Failover};

/// How long a probe's answer is waited for. Azure refuses a throttled request at once, so one that it
/// has not refused by then has been taken, and so may others be.
const PROBE: Duration = Duration::from_secs(3);

/// Changes with the format of the bytes.
const VERSION: &str = "1";

/// The trouble that is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    troubles: Vec<Trouble>,
    /// By the credential's position; nothing where all have their token. It is not remembered.
    sign_in: Vec<SignIn>,
}

/// Whether backends can be signed in to with a credential. What is better comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SignIn {
    /// It has a token.
    Ready,
    /// It may have one soon.
    Coming,
    /// Somebody has to mend something first.
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Trouble {
    backend: String,
    model: String,
    /// 429s in a row.
    throttled: u32,
    /// 5xx and failed connections in a row.
    failed: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Has failed, but not often enough to be left alone.
    Suspect,
    /// Is left alone until then; from then on one request may try.
    Cooling(SystemTime),
    /// That one is under way; the others follow at this time, unless it is refused.
    Probed(SystemTime),
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer that shows a backend at work, be it a client's error.
    Answered,
    /// With a 429, and the time that it asks for.
    Throttled(Option<Duration>),
    /// With a 5xx, or without an answer.
    Failed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answered => "answered",
            Self::Throttled(Some(_)) => "it asks for a pause",
            Self::Throttled(None) => "it is throttled and does not say for how long",
            Self::Failed => "it fails",
        })
    }
}

/// Whether a backend may be asked for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// It may.
    Ready,
    /// By one request, which must say so first: see [`Health::probe`].
    Probe,
    /// Not before this time.
    Cooling(SystemTime),
}

impl Health {
    /// The same, where this is known of the credentials, by position.
    pub fn with_sign_in(self, sign_in: Vec<SignIn>) -> Self {
        Self { sign_in, ..self }
    }

    /// Whether a backend with this credential can be signed in to.
    pub fn sign_in(&self, credential: usize) -> SignIn {
        self.sign_in.get(credential).copied().unwrap_or(SignIn::Ready)
    }

    /// Whether nothing is remembered.
    pub fn is_well(&self) -> bool {
        self.troubles.is_empty()
    }

    /// Whether a backend may be asked for a model now.
    pub fn availability(&self, backend: &str, model: &str, now: SystemTime) -> Availability {
        match self.find(backend, model).map(|trouble| trouble.state) {
            None | Some(State::Suspect) => Availability::Ready,
            Some(State::Probed(until)) if now >= until => Availability::Ready,
            Some(State::Cooling(until)) if now >= until => Availability::Probe,
            Some(State::Cooling(until) | State::Probed(until)) => Availability::Cooling(until),
        }
    }

    /// The memory while one request tries whether a backend is well again.
    pub fn probe(&self, backend: &str, model: &str, now: SystemTime) -> Self {
        let mut health = self.clone();
        for trouble in &mut health.troubles {
            if trouble.is(backend, model) {
                trouble.state = State::Probed(now + PROBE);
            }
        }
        health
    }

    /// The memory after a request went away that was to try whether a backend is well: another one may,
    /// at once. `None` where that was not so.
    pub fn give_back(&self, backend: &str, model: &str, now: SystemTime) -> Option<Self> {
        let mut health = self.clone();
        let is_probed = |trouble: &&mut Trouble| {
            trouble.is(backend, model) && matches!(trouble.state, State::Probed(_))
        };
        health.troubles.iter_mut().find(is_probed)?.state = State::Cooling(now);
        Some(health)
    }

    /// The memory after an attempt, or `None` where it stays what it is.
    ///
    /// `dice` is any number; it lengthens a cooldown by up to a tenth, so that proxies do not probe in
    /// step.
    pub fn record(
        &self,
        backend: &str,
        model: &str,
        outcome: Outcome,
        now: SystemTime,
        policy: &Failover,
        dice: u64,
    ) -> Option<Self> {
        let known = self.find(backend, model);
        // Whoever was on the way when the cooldown began has nothing new to say.
        let is_cooling = known
            .is_some_and(|trouble| matches!(trouble.state, State::Cooling(until) if now < until));
        match outcome {
            Outcome::Answered if known.is_none() => return None,
            Outcome::Answered | Outcome::Failed if is_cooling => return None,
            Outcome::Answered => return Some(self.without(backend, model)),
            Outcome::Throttled(_) | Outcome::Failed => {}
        }
        let fresh = Trouble {
            backend: backend.to_owned(),
            model: model.to_owned(),
            throttled: 0,
            failed: 0,
            state: State::Suspect,
        };
        let mut trouble = known.cloned().unwrap_or(fresh);
        let wait = match outcome {
            Outcome::Throttled(hint) => {
                trouble.throttled = trouble.throttled.saturating_add(u32::from(!is_cooling));
                let longest = policy.longest_cooldown;
                Some(hint.unwrap_or_else(|| policy.doubled(trouble.throttled)).min(longest))
            }
            _ => {
                trouble.failed = trouble.failed.saturating_add(1);
                let over = (trouble.failed + 1).saturating_sub(policy.failures_in_a_row);
                // Who fails behind a cooldown has tried, be the probe given back or not.
                let was_probe = trouble.state != State::Suspect;
                (over > 0 || was_probe).then(|| policy.doubled(over.max(1)))
            }
        };
        if let Some(wait) = wait {
            let parts = u32::try_from(dice % 1000).unwrap_or_default();
            let until = now + wait + wait / 10 * parts / 1000;
            trouble.state = match trouble.state {
                State::Cooling(longer) if longer >= until => State::Cooling(longer),
                _ => State::Cooling(until),
            };
        }
        let mut health = self.without(backend, model);
        health.troubles.push(trouble);
        (health != *self).then_some(health)
    }

    /// The memory without what is over and concerns no pool of this configuration, or `None` where it
    /// stays what it is. What is left alone is remembered all the same: the configuration after this
    /// one may have it again, and another one of the same proxy may have it now.
    pub fn forget(&self, config: &Config, now: SystemTime) -> Option<Self> {
        let mut health = self.clone();
        health.troubles.retain(|Trouble { backend, model, state, .. }| {
            let model = config.models.get(model).filter(|model| model.is_pooled());
            state.is_left_alone(now) || model.is_some_and(|model| model.on(backend).is_some())
        });
        (health != *self).then_some(health)
    }

    /// How many pairs are left alone now, for a backend.
    pub fn cooling(&self, backend: &str, now: SystemTime) -> usize {
        let is_cooling =
            |trouble: &&Trouble| trouble.backend == backend && trouble.state.is_left_alone(now);
        self.troubles.iter().filter(is_cooling).count()
    }

    fn find(&self, backend: &str, model: &str) -> Option<&Trouble> {
        self.troubles.iter().find(|trouble| trouble.is(backend, model))
    }

    fn without(&self, backend: &str, model: &str) -> Self {
        let others = self.troubles.iter().filter(|trouble| !trouble.is(backend, model));
        Self { troubles: others.cloned().collect(), sign_in: Vec::new() }
    }
}

impl State {
    fn is_left_alone(self, now: SystemTime) -> bool {
        matches!(self, Self::Cooling(until) | Self::Probed(until) if now < until)
    }
}

impl Trouble {
    fn is(&self, backend: &str, model: &str) -> bool {
        self.backend == backend && self.model == model
    }
}

impl Failover {
    /// The cooldown of the `n`th trouble in a row, from 1.
    fn doubled(&self, n: u32) -> Duration {
        let factor = 2_u32.saturating_pow(n.saturating_sub(1).min(16));
        self.cooldown.saturating_mul(factor).min(self.longest_cooldown)
    }
}

impl Health {
    /// The memory as bytes, for the store that all workers share: a line for each trouble.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = VERSION.to_owned();
        for Trouble { backend, model, throttled, failed, state } in &self.troubles {
            let (kind, at) = match state {
                State::Suspect => ("suspect", UNIX_EPOCH),
                State::Cooling(until) => ("cooling", *until),
                State::Probed(until) => ("probed", *until),
            };
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            text.push_str(&format!("\n{backend} {model} {throttled} {failed} {kind} {at}"));
        }
        text.into_bytes()
    }

    /// Reads such bytes; what another version wrote is no memory.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.split('\n');
        if lines.next()? != VERSION {
            return None;
        }
        let troubles = lines.map(read_trouble).collect::<Option<_>>()?;
        Some(Self { troubles, sign_in: Vec::new() })
    }
}

/// Neither a backend's name nor a model's has a space ([`crate::config::Config`]).
fn read_trouble(line: &str) -> Option<Trouble> {
    let mut fields = line.split(' ');
    let mut next = || fields.next();
    let (backend, model) = (next()?.to_owned(), next()?.to_owned());
    let (throttled, failed) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let (kind, at) = (next()?, next()?);
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(at.parse().ok()?))?;
    let state = match kind {
        "suspect" => State::Suspect,
        "cooling" => State::Cooling(at),
        "probed" => State::Probed(at),
        _ => return None,
    };
    Some(Trouble { backend, model, throttled, failed, state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Availability::{Cooling, Probe, Ready};
    use Outcome::{Answered, Failed, Throttled};

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

    fn hint(seconds: u64) -> Outcome {
        Throttled(Some(Duration::from_secs(seconds)))
    }

    /// Plays attempts on one backend, each with its time.
    fn played(attempts: &[(u64, Outcome)]) -> Health {
        attempts.iter().fold(Health::default(), |health, &(now, outcome)| {
            let after = health.record("eastus", "m", outcome, at(now), &policy(), 0);
            let health = after.unwrap_or(health);
            assert_eq!(Health::from_bytes(&health.to_bytes()).as_ref(), Some(&health));
            health
        })
    }

    fn cooled(until: u64) -> Availability {
        Cooling(at(until))
    }

    #[test]
    fn trouble_cools_a_backend_and_says_for_how_long() {
        let rows: &[(&str, &[(u64, Outcome)], u64, Availability)] = &[
            ("nothing", &[], 0, Ready),
            ("an answer", &[(0, Answered)], 0, Ready),
            ("a hint is followed", &[(0, hint(7))], 6, cooled(7)),
            ("and then one may try", &[(0, hint(7))], 7, Probe),
            ("an absurd hint has a cap", &[(0, hint(86_400))], 0, cooled(120)),
            ("no hint: the default", &[(0, Throttled(None))], 0, cooled(10)),
            ("which doubles", &[(0, Throttled(None)), (10, Throttled(None))], 10, cooled(30)),
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
                cooled(390),
            ),
            ("an answer forgets it", &[(0, Throttled(None)), (10, Answered)], 10, Ready),
            (
                "and the doubling",
                &[(0, Throttled(None)), (10, Answered), (20, Throttled(None))],
                20,
                cooled(30),
            ),
            (
                "late answers of a burst do not double",
                &[(0, Throttled(None)), (1, Throttled(None)), (2, Throttled(None))],
                2,
                cooled(12),
            ),
            (
                "an answer from before it does not end it",
                &[(0, hint(60)), (1, Answered)],
                1,
                cooled(60),
            ),
            (
                "failures of a burst are one",
                &[(0, Failed), (1, Failed), (2, Failed), (3, Failed), (4, Failed), (5, Failed)],
                5,
                cooled(12),
            ),
            ("nor shorten", &[(0, hint(60)), (1, hint(2))], 2, cooled(60)),
            ("one failure is nothing yet", &[(0, Failed)], 0, Ready),
            ("two neither", &[(0, Failed), (1, Failed)], 1, Ready),
            ("three in a row are", &[(0, Failed), (1, Failed), (2, Failed)], 2, cooled(12)),
            ("in a row", &[(0, Failed), (1, Failed), (2, Answered), (3, Failed)], 3, Ready),
            (
                "a fourth one doubles",
                &[(0, Failed), (1, Failed), (2, Failed), (12, Failed)],
                12,
                cooled(32),
            ),
        ];
        for (name, attempts, now, expected) in rows {
            let found = played(attempts).availability("eastus", "m", at(*now));
            assert_eq!(found, *expected, "{name}");
        }
    }

    #[test]
    fn one_request_tries_whether_a_backend_is_well_again() {
        let health = played(&[(0, hint(7))]);
        assert_eq!(health.availability("eastus", "m", at(7)), Probe);
        let probed = health.probe("eastus", "m", at(7));
        assert_eq!(probed.availability("eastus", "m", at(7)), cooled(10));
        let after = |outcome| probed.record("eastus", "m", outcome, at(8), &policy(), 0);
        assert_eq!(after(Answered), Some(Health::default()));
        let availability =
            |outcome| after(outcome).map(|health| health.availability("eastus", "m", at(8)));
        assert_eq!(availability(hint(3)), Some(cooled(11)));
        assert_eq!(availability(Failed), Some(cooled(18)));
        assert_eq!(probed.availability("eastus", "m", at(10)), Ready, "it was not refused");
        let given = probed.give_back("eastus", "m", at(8)).unwrap();
        assert_eq!(given.availability("eastus", "m", at(8)), Probe, "it was given up");
        let failed = given.record("eastus", "m", Failed, at(8), &policy(), 0).unwrap();
        assert_eq!(failed.availability("eastus", "m", at(8)), cooled(18), "or rather had failed");
        assert_eq!(health.give_back("eastus", "m", at(3)), None, "there was no probe");
    }

    #[test]
    fn a_pair_of_backend_and_model_is_on_its_own() {
        let health = played(&[(0, hint(7))]);
        assert_eq!(health.availability("eastus", "other", at(1)), Ready);
        assert_eq!(health.availability("sweden", "m", at(1)), Ready);
        assert_eq!((health.cooling("eastus", at(1)), health.cooling("sweden", at(1))), (1, 0));
        assert_eq!(health.cooling("eastus", at(7)), 0);
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
            crate::digest::Digest::of(b"key")
        );
        let config = Config::from_json(document.as_bytes()).unwrap();
        let forgotten = |backend, model, outcome, seconds| {
            let health = Health::default().record(backend, model, outcome, at(0), &policy(), 0);
            health.unwrap().forget(&config, at(seconds)) == Some(Health::default())
        };
        let rows = [
            ("a pool's", "eastus", "m", hint(7), 9, false),
            ("a model that is gone", "eastus", "other", hint(7), 9, true),
            ("which is left alone still", "eastus", "other", hint(7), 5, false),
            ("and had failed once", "eastus", "other", Failed, 0, true),
            ("a backend that is gone", "spare", "m", hint(7), 9, true),
            ("a backend of other models", "france", "m", hint(7), 9, true),
            ("a model that has no pool", "eastus", "single", hint(7), 9, true),
        ];
        for (name, backend, model, outcome, seconds, expected) in rows {
            assert_eq!(forgotten(backend, model, outcome, seconds), expected, "{name}");
        }
        let both = Health::default().record("spare", "m", Failed, at(0), &policy(), 0).unwrap();
        let both = both.record("eastus", "m", hint(7), at(0), &policy(), 0).unwrap();
        let kept = both.forget(&config, at(9)).unwrap();
        assert_eq!(kept.availability("eastus", "m", at(9)), Probe, "only the others are forgotten");
        assert_eq!(kept.forget(&config, at(9)), None);
    }

    #[test]
    fn cooldowns_spread_over_a_tenth() {
        let until = |dice| {
            let health = Health::default().record("eastus", "m", hint(100), at(0), &policy(), dice);
            health.map(|health| health.availability("eastus", "m", at(0)))
        };
        assert_eq!(until(0), Some(cooled(100)));
        assert_eq!(until(500), Some(cooled(105)));
    }

    #[test]
    fn what_is_no_memory_of_this_version_is_none() {
        let rows: &[&[u8]] = &[
            b"",
            b"2",
            b"1\n",
            b"1\na b 1 1 cooling",
            b"1\na b 1 1 odd 1",
            b"1\na b x 1 cooling 1",
            b"\xff",
        ];
        for row in rows {
            assert_eq!(Health::from_bytes(row), None, "{row:?}");
        }
    }
}
