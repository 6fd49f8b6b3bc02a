//! Which of a model's backends a request is sent to, and in which order the others follow.

use std::time::{Duration, SystemTime};

use super::affinity::Selection;
use super::cooldown::{Availability, Cause, Claim, Cooldowns};
use super::pool::Order;
use super::RoutingError;
use crate::base::digest::Digest;
use crate::base::rendezvous::distance;
use crate::config::{Model, Placement};

/// Official clients follow a wait up to here, and give up on a longer one (openai-python).
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// Whether there is a token for a backend. What is better comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SignIn {
    /// There is one.
    Ready,
    /// There may be one soon.
    Pending,
    /// The identity endpoint refuses one.
    Refused,
}

/// What is known of backends at a time.
#[derive(Debug, Clone, Copy)]
pub struct BackendStates<'a> {
    /// Which are in cooldown.
    pub cooldowns: &'a Cooldowns,
    /// By the credential's position, whether there is a token; where it has none, there is.
    pub sign_in: &'a [SignIn],
}

/// Of whom a request is, and how much of it has come.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The subscription's id.
    pub subscription: &'a str,
    /// Whether the proxy has all of the request.
    pub is_whole: bool,
}

impl Asker<'_> {
    /// The number by which evidence names the subscription.
    pub fn number(&self) -> u64 {
        Digest::of(self.subscription.as_bytes()).leading()
    }
}

impl BackendStates<'_> {
    /// Whether a placement's backend can be signed in to.
    pub fn sign_in(&self, placement: &Placement) -> SignIn {
        self.sign_in.get(placement.backend.credential).copied().unwrap_or(SignIn::Ready)
    }

    /// Whether a request for this model may move on to a placement's backend now.
    pub fn may_be_next(
        &self,
        model: &Model,
        placement: &Placement,
        asker: Asker<'_>,
        now: SystemTime,
    ) -> bool {
        let (backend, model) = (&placement.backend.name, &model.name);
        let may_be_asked = match self.cooldowns.availability(backend, model, asker.is_whole, now) {
            Availability::Ready | Availability::Probe => true,
            Availability::Cooldown(_) => !self.cooldowns.binds(backend, model, asker.number(), now),
        };
        may_be_asked && self.sign_in(placement) == SignIn::Ready
    }
}

/// Which backends a request tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<'m> {
    /// In this order, of which there is a first: one of [`Model::orders`].
    pub order: Order<'m>,
    /// What it has to claim of the first.
    pub claim: Option<Claim>,
}

impl Model {
    /// The backends for a request: one of the lowest priority number with any that may be tried, and then
    /// the others. The second is one that may be tried too, where there is one, or else one that this
    /// request may move on to ([`BackendStates::may_be_next`]).
    ///
    /// Within the priority, in any run of as many turns as the weights add up to, each placement has
    /// exactly its weight; and the next turn goes to one that is to be probed. An affinity selects the same
    /// placement as long as that may be tried, and affinities select each by its weight.
    ///
    /// Where all are in cooldown, those are tried whose cooldown does not bind the request's subscription
    /// ([`Cooldowns::binds`]), and otherwise about one request a second for each of them all the same.
    ///
    /// # Errors
    /// As [`Self::exhausted`] says.
    pub fn choose(
        &self,
        selection: &Selection,
        states: &BackendStates<'_>,
        asker: Asker<'_>,
        now: SystemTime,
    ) -> Result<Choice<'_>, RoutingError> {
        let mut open: Vec<Candidate<'_>> = Vec::with_capacity(self.placements.len());
        let mut excluded: Vec<&Placement> = Vec::new();
        for placement in &self.placements {
            let backend = &placement.backend.name;
            match states.cooldowns.availability(backend, &self.name, asker.is_whole, now) {
                Availability::Ready => open.push(Candidate { placement, claim: None }),
                Availability::Probe => {
                    open.push(Candidate { placement, claim: Some(Claim::Probe) });
                }
                // A backend without a token will not serve then.
                Availability::Cooldown(_) if states.sign_in(placement) == SignIn::Refused => {}
                Availability::Cooldown(_) => excluded.push(placement),
            }
        }
        let best = open.iter().map(|one| states.sign_in(one.placement)).min();
        if matches!(best, Some(SignIn::Refused) | None) && !excluded.is_empty() {
            open = self.in_spite_of_cooldowns(&excluded, states, asker, now);
            if open.is_empty() {
                return Err(self.exhausted(states, asker, now));
            }
        }
        let best = open.iter().map(|one| states.sign_in(one.placement)).min();
        open.retain(|one| Some(states.sign_in(one.placement)) == best);
        let lowest = open.first().map(|one| one.placement.priority);
        let is_lowest = |one: &&Candidate<'_>| Some(one.placement.priority) == lowest;
        let end = open.iter().take_while(is_lowest).count();
        let tier = open.get(..end).unwrap_or_default();
        let chosen = match selection {
            Selection::RoundRobin(turn) => {
                tier.iter().find(|one| one.claim.is_some()).or_else(|| by_weight(tier, *turn))
            }
            Selection::Affinity(name) => {
                tier.iter().min_by_key(|Candidate { placement, .. }| {
                    distance(name, &placement.backend.name, placement.weight)
                })
            }
        };
        let &Candidate { placement: first, claim } =
            chosen.ok_or_else(|| self.exhausted(states, asker, now))?;
        let is_other = |other: &&Placement| other.backend.name != first.backend.name;
        let others = || self.placements.iter().filter(is_other);
        let available = open.iter().map(|one| one.placement).find(is_other);
        // A cooldown of others' does not keep this request from moving on.
        let free = || others().find(|other| states.may_be_next(self, other, asker, now));
        let order = match available.or_else(free).or_else(|| others().next()) {
            Some(second) => self.order(first, second),
            None => vec![first],
        };
        Ok(Choice { order, claim })
    }

    /// Which of these, which are in cooldown, a request may be sent to because no other backend is left.
    fn in_spite_of_cooldowns<'m>(
        &self,
        excluded: &[&'m Placement],
        states: &BackendStates<'_>,
        asker: Asker<'_>,
        now: SystemTime,
    ) -> Vec<Candidate<'m>> {
        let number = asker.number();
        let is_free = |placement: &Placement| {
            !states.cooldowns.binds(&placement.backend.name, &self.name, number, now)
        };
        let free = excluded.iter().filter(|placement| is_free(placement));
        let free: Vec<_> = free.map(|&placement| Candidate { placement, claim: None }).collect();
        if !free.is_empty() {
            return free;
        }
        let may_trickle = |placement: &&&Placement| {
            states.cooldowns.may_trickle(&placement.backend.name, &self.name, now)
        };
        let claim = Some(Claim::Trickle);
        let found = excluded.iter().find(may_trickle);
        found.map(|&placement| Candidate { placement, claim }).into_iter().collect()
    }

    /// Why no backend may be tried: what a caller is told, with the soonest time at which one may.
    pub fn exhausted(
        &self,
        states: &BackendStates<'_>,
        asker: Asker<'_>,
        now: SystemTime,
    ) -> RoutingError {
        let cause = |placement: &Placement| {
            states.cooldowns.cause(&placement.backend.name, &self.name, now)
        };
        let causes: Vec<_> = self.placements.iter().filter_map(cause).collect();
        let wait = self.soonest(states, asker, now);
        if causes.contains(&&Cause::Throttled) {
            return RoutingError::AllThrottled { wait };
        }
        match causes.first() {
            Some(Cause::Misconfigured(diagnosis)) if !causes.contains(&&Cause::Failed) => {
                RoutingError::AllMisconfigured { diagnosis: diagnosis.clone() }
            }
            _ => RoutingError::AllFailed { wait },
        }
    }

    /// Whether there is a backend that may be asked now.
    pub fn has_ready(&self, states: &BackendStates<'_>, asker: Asker<'_>, now: SystemTime) -> bool {
        self.placements.iter().any(|placement| states.may_be_next(self, placement, asker, now))
    }

    /// Until a backend that is not misconfigured may be tried, and no longer than clients wait.
    pub fn soonest(
        &self,
        states: &BackendStates<'_>,
        asker: Asker<'_>,
        now: SystemTime,
    ) -> Duration {
        let wait = |placement: &Placement| {
            let backend = &placement.backend.name;
            if let Some(Cause::Misconfigured(_)) = states.cooldowns.cause(backend, &self.name, now)
            {
                return None;
            }
            match states.cooldowns.availability(backend, &self.name, asker.is_whole, now) {
                // It will not serve then.
                _ if states.sign_in(placement) == SignIn::Refused => None,
                Availability::Ready | Availability::Probe => Some(Duration::ZERO),
                Availability::Cooldown(until) => {
                    Some(until.duration_since(now).unwrap_or_default())
                }
            }
        };
        let soonest = self.placements.iter().filter_map(wait).min();
        soonest.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)
    }

    /// The placement on this backend, where the model has one.
    pub fn on(&self, backend: &str) -> Option<&Placement> {
        self.placements.iter().find(|placement| placement.backend.name == backend)
    }
}

/// A placement that may be tried.
struct Candidate<'m> {
    placement: &'m Placement,
    claim: Option<Claim>,
}

/// One of these by its weight.
fn by_weight<'t, 'm>(tier: &'t [Candidate<'m>], turn: u64) -> Option<&'t Candidate<'m>> {
    let weight = |one: &Candidate<'_>| u64::from(one.placement.weight);
    let mut ticket = spread(turn, tier.iter().map(weight).sum());
    tier.iter().find(|one| match ticket.checked_sub(weight(one)) {
        Some(rest) => {
            ticket = rest;
            false
        }
        None => true,
    })
}

/// Walks through `0..total` in steps of about the golden section, so that a heavy placement's turns
/// are spread out and still every number comes once a round.
fn spread(turn: u64, total: u64) -> u64 {
    if total < 2 {
        return 0;
    }
    // Weights are bounded by the configuration, so that none of this can overflow.
    let mut step = total.saturating_mul(618) / 1000;
    while gcd(step.max(1), total) != 1 {
        step += 1;
    }
    (turn % total).wrapping_mul(step.max(1)) % total
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        gcd(b, a % b)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::base::round_robin::RoundRobin;
    use crate::config::{Backend, Endpoint, Failover};
    use crate::routing::cooldown::{Evidence, Outcome};

    fn model(rows: &[(&str, u32, u32)]) -> Model {
        let placements = rows.iter().map(|&(name, priority, weight)| Placement {
            backend: Arc::new(Backend {
                name: name.to_owned(),
                endpoint: Endpoint::parse(&format!("https://contoso-{name}.openai.azure.com"))
                    .unwrap(),
                cluster: format!("aoai_{name}"),
                position: 0,
                credential: 0,
            }),
            deployment: "m".to_owned(),
            priority,
            weight,
        });
        Model {
            name: "m".to_owned(),
            affinity: None,
            placements: placements.collect(),
            round_robin: RoundRobin::default(),
        }
    }

    const ASKER: Asker<'_> = Asker { subscription: "a", is_whole: true };

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn chosen(model: &Model, turns: std::ops::Range<u64>) -> Vec<&str> {
        turns
            .filter_map(|turn| {
                let states = BackendStates { cooldowns: &Cooldowns::default(), sign_in: &[] };
                model.choose(&Selection::RoundRobin(turn), &states, ASKER, now()).ok()
            })
            .map(|choice| choice.order[0].backend.name.as_str())
            .collect()
    }

    #[test]
    fn weights_are_exact_in_every_round() {
        let rows: &[&[u32]] =
            &[&[1], &[3, 1], &[1, 1], &[1, 1, 1], &[7, 2, 1], &[1000, 999, 1], &[6, 6]];
        let names = ["aa", "bb", "cc"];
        for weights in rows {
            let rows: Vec<_> =
                names.iter().zip(*weights).map(|(name, weight)| (*name, 0, *weight)).collect();
            let model = model(&rows);
            let total = u64::from(weights.iter().sum::<u32>());
            for from in [0, 1, total, u64::MAX / total * total - total] {
                let chosen = chosen(&model, from..from + total);
                for (name, _, weight) in &rows {
                    let count = chosen.iter().filter(|chosen| *chosen == name).count();
                    assert_eq!(count, *weight as usize, "{weights:?} from {from}");
                }
            }
        }
    }

    #[test]
    fn a_heavy_placement_does_not_take_all_its_turns_at_once() {
        let model = model(&[("aa", 0, 2), ("bb", 0, 2)]);
        let chosen = chosen(&model, 0..4);
        assert!(chosen.windows(3).all(|three| three.iter().any(|c| *c != three[0])), "{chosen:?}");
    }

    #[test]
    fn a_backend_without_a_token_is_not_selected() {
        use SignIn::{Pending, Ready, Refused};
        let mut model = model(&[("aa", 0, 1), ("bb", 1, 1), ("cc", 2, 1)]);
        for (credential, placement) in model.placements.iter_mut().enumerate() {
            Arc::get_mut(&mut placement.backend).unwrap().credential = credential;
        }
        let rows = [
            ([Ready, Ready, Ready], "aa>bb>cc"),
            ([Pending, Ready, Ready], "bb>cc>aa"),
            ([Ready, Refused, Pending], "aa>bb>cc"),
            ([Refused, Pending, Refused], "bb>aa>cc"),
            ([Refused, Pending, Pending], "bb>cc>aa"),
            ([Refused, Refused, Refused], "aa>bb>cc"),
        ];
        for (sign_in, expected) in rows {
            let states = BackendStates { cooldowns: &Cooldowns::default(), sign_in: &sign_in };
            assert_eq!(order(&model, &states, 0), Ok(expected.to_owned()), "{sign_in:?}");
        }
        let throttled = |sign_in: [SignIn; 3]| {
            let cooldowns = in_cooldown(&[("aa", 9)]);
            order(&model, &BackendStates { cooldowns: &cooldowns, sign_in: &sign_in }, 0)
        };
        assert_eq!(throttled([Ready, Pending, Refused]), Ok("bb>aa>cc".to_owned()), "it waits");
        assert_eq!(throttled([Ready, Refused, Refused]), Err(9), "there is one to wait for");
        assert_eq!(throttled([Refused, Refused, Refused]), Ok("bb>cc>aa".to_owned()));
    }

    #[test]
    fn a_higher_priority_number_is_not_used() {
        let model = model(&[("aa", 1, 1), ("bb", 1, 1), ("cc", 2, 1000)]);
        assert!(!chosen(&model, 0..100).contains(&"cc"));
    }

    /// Cooldowns of backends for so many seconds.
    fn in_cooldown(rows: &[(&str, u64)]) -> Cooldowns {
        rows.iter().fold(Cooldowns::default(), |cooldowns, &(backend, seconds)| {
            let outcome = Outcome::Throttled(Some(Duration::from_secs(seconds)));
            let evidence =
                Evidence { subscription: ASKER.number(), is_confirmed: true, began: now() };
            let policy = Failover::default();
            cooldowns.record((backend, "m"), outcome, evidence, now(), &policy, 0).unwrap()
        })
    }

    /// The backends that the next request tries, in order; `?` in front of a probe, `!` where the first is
    /// in cooldown.
    fn order(model: &Model, states: &BackendStates<'_>, later: u64) -> Result<String, u64> {
        let time = now() + Duration::from_secs(later);
        match model.choose(&Selection::RoundRobin(model.round_robin.next()), states, ASKER, time) {
            Ok(Choice { order, claim }) => {
                let names: Vec<_> = order.iter().map(|one| one.backend.name.as_str()).collect();
                let claim = match claim {
                    None => "",
                    Some(Claim::Probe) => "?",
                    Some(Claim::Trickle) => "!",
                };
                Ok(claim.to_owned() + &names.join(">"))
            }
            Err(RoutingError::AllThrottled { wait }) => Err(wait.as_secs()),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_backend_in_cooldown_is_neither_first_nor_second_where_another_is_ready() {
        let model = model(&[("aa", 0, 1), ("bb", 1, 1), ("cc", 2, 1), ("dd", 3, 1)]);
        let rows: &[(&str, &[(&str, u64)], u64, Result<&str, u64>)] = &[
            ("all well", &[], 0, Ok("aa>bb>cc")),
            ("the first is in cooldown", &[("aa", 5)], 0, Ok("bb>cc>aa")),
            ("a later one is in cooldown", &[("bb", 5)], 0, Ok("aa>cc>bb")),
            ("two are in cooldown", &[("aa", 5), ("cc", 5)], 0, Ok("bb>dd>aa")),
            ("all but one", &[("aa", 5), ("bb", 5), ("cc", 5)], 0, Ok("dd>aa>bb")),
            ("all", &[("aa", 5), ("bb", 9), ("cc", 7), ("dd", 6)], 0, Err(5)),
            (
                "all, for a second",
                &[("aa", 5), ("bb", 9), ("cc", 7), ("dd", 6)],
                1,
                Ok("!aa>bb>cc"),
            ),
            ("the first is over", &[("aa", 5)], 5, Ok("?aa>bb>cc")),
            ("a later one is over: no need to try it", &[("bb", 5)], 5, Ok("aa>bb>cc")),
            (
                "a later cooldown is over, and the first is in cooldown",
                &[("aa", 9), ("bb", 5)],
                5,
                Ok("?bb>cc>aa"),
            ),
            ("all are over", &[("aa", 5), ("bb", 5), ("cc", 5), ("dd", 5)], 5, Ok("?aa>bb>cc")),
        ];
        for (name, in_seconds, later, expected) in rows {
            let cooldowns = in_cooldown(in_seconds);
            let found =
                order(&model, &BackendStates { cooldowns: &cooldowns, sign_in: &[] }, *later);
            assert_eq!(found, expected.map(str::to_owned), "{name}");
        }
    }

    #[test]
    fn the_second_is_one_whose_cooldown_binds_others_where_none_is_ready() {
        let model = model(&[("aa", 0, 1), ("bb", 1, 1), ("cc", 2, 1)]);
        let outcome = Outcome::Throttled(Some(Duration::from_secs(9)));
        let evidence = Evidence {
            subscription: Asker { subscription: "b", is_whole: true }.number(),
            is_confirmed: false,
            began: now(),
        };
        let policy = Failover::default();
        let cooldowns = in_cooldown(&[("aa", 9)])
            .record(("cc", "m"), outcome, evidence, now(), &policy, 0)
            .unwrap();
        let states = BackendStates { cooldowns: &cooldowns, sign_in: &[] };
        assert_eq!(order(&model, &states, 0), Ok("bb>cc>aa".to_owned()));
    }

    #[test]
    fn weights_hold_among_those_that_are_left() {
        let model = model(&[("aa", 0, 3), ("bb", 0, 1), ("cc", 0, 6)]);
        let cooldowns = in_cooldown(&[("cc", 60)]);
        let states = BackendStates { cooldowns: &cooldowns, sign_in: &[] };
        let mut count = 0;
        for _ in 0..400 {
            count += usize::from(order(&model, &states, 1).unwrap().starts_with("aa"));
        }
        assert_eq!(count, 300);
    }
}
