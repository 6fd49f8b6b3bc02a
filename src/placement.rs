//! Which backend serves a request for a model.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::config::{Model, Placement};
use crate::health::{Availability, Health, SignIn};
use crate::pool::{Order, MOST_ATTEMPTS};
use crate::rendezvous::distance;

/// How many requests a model has been chosen for. Each model counts its own: a common count would
/// fall into step with callers who ask for models in turn.
#[derive(Debug, Default)]
pub struct Turns(AtomicU64);

impl Turns {
    /// The next request's turn.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Two models are the same however often they were asked for.
impl PartialEq for Turns {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Turns {}

/// By what a request gets one of several backends that might serve it alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// By its turn among the model's requests.
    Turn(u64),
    /// By a name that it shares with others, who prefer the same backend.
    Drawn(String),
}

/// Which backends a request may try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<'m> {
    /// In this order, of which there is a first: see [`Model::orders`].
    pub order: Order<'m>,
    /// Whether it is the one that tries whether the first is well again.
    pub probes: bool,
}

impl Model {
    /// The backends for a request, of those that can be signed in to: one of the lowest priority number
    /// with any that may be asked, and then the others that may be asked.
    ///
    /// Within the priority, in any run of as many turns as the weights add up to, each placement has
    /// exactly its weight; and the next turn goes to one that is to be probed. A name is drawn to the same
    /// placement as long as that may be asked, and names to each by its weight.
    ///
    /// # Errors
    /// All of them are left alone, and the first one no longer at this time.
    pub fn choose(
        &self,
        pick: &Pick,
        health: &Health,
        now: SystemTime,
    ) -> Result<Choice<'_>, SystemTime> {
        let sign_in = |placement: &Placement| health.sign_in(placement.backend.credential);
        let mut open: Vec<Candidate<'_>> = Vec::with_capacity(self.placements.len());
        let mut soonest: Option<SystemTime> = None;
        for placement in &self.placements {
            match health.availability(&placement.backend.name, &self.name, now) {
                Availability::Ready => open.push(Candidate { placement, probes: false }),
                Availability::Probe => open.push(Candidate { placement, probes: true }),
                // What cannot be signed in to will not be there then.
                Availability::Cooling(_) if sign_in(placement) == SignIn::Refused => {}
                Availability::Cooling(until) => {
                    soonest = Some(soonest.map_or(until, |known| known.min(until)));
                }
            }
        }
        let best = open.iter().map(|one| sign_in(one.placement)).min();
        if let (Some(SignIn::Refused) | None, Some(soonest)) = (best, soonest) {
            return Err(soonest);
        }
        open.retain(|one| Some(sign_in(one.placement)) == best);
        let lowest = open.first().map(|one| one.placement.priority);
        let is_lowest = |one: &&Candidate<'_>| Some(one.placement.priority) == lowest;
        let end = open.iter().take_while(is_lowest).count();
        let tier = open.get(..end).unwrap_or_default();
        let chosen = match pick {
            Pick::Turn(turn) => {
                tier.iter().find(|one| one.probes).or_else(|| by_weight(tier, *turn))
            }
            Pick::Drawn(name) => tier.iter().min_by_key(|Candidate { placement, .. }| {
                distance(name, &placement.backend.name, placement.weight)
            }),
        };
        let &Candidate { placement: first, probes } = chosen.ok_or(now)?;
        let others = open
            .iter()
            .map(|one| one.placement)
            .filter(|other| other.backend.name != first.backend.name);
        let order = std::iter::once(first).chain(others.take(MOST_ATTEMPTS - 1)).collect();
        Ok(Choice { order, probes })
    }

    /// The placement on this backend, where the model has one.
    pub fn on(&self, backend: &str) -> Option<&Placement> {
        self.placements.iter().find(|placement| placement.backend.name == backend)
    }
}

/// A placement that may be asked.
struct Candidate<'m> {
    placement: &'m Placement,
    probes: bool,
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
    use crate::config::{Backend, Endpoint, Failover};
    use crate::health::Outcome;

    fn model(rows: &[(&str, u32, u32)]) -> Model {
        let placements = rows.iter().map(|&(name, priority, weight)| Placement {
            backend: Arc::new(Backend {
                name: name.to_owned(),
                endpoint: Endpoint::parse(&format!("https://contoso-{name}.openai.azure.com"))
                    .unwrap(),
                cluster: format!("aoai_{name}"),
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
            turns: Turns::default(),
        }
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn chosen(model: &Model, turns: std::ops::Range<u64>) -> Vec<&str> {
        turns
            .filter_map(|turn| model.choose(&Pick::Turn(turn), &Health::default(), now()).ok())
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
    fn a_backend_that_cannot_be_signed_in_to_is_passed_over() {
        use SignIn::{Coming, Ready, Refused};
        let mut model = model(&[("aa", 0, 1), ("bb", 1, 1), ("cc", 2, 1)]);
        for (credential, placement) in model.placements.iter_mut().enumerate() {
            Arc::get_mut(&mut placement.backend).unwrap().credential = credential;
        }
        let rows = [
            ([Ready, Ready, Ready], "aa>bb>cc"),
            ([Coming, Ready, Ready], "bb>cc"),
            ([Ready, Refused, Coming], "aa"),
            ([Refused, Coming, Refused], "bb"),
            ([Refused, Coming, Coming], "bb>cc"),
            ([Refused, Refused, Refused], "aa>bb>cc"),
        ];
        for (sign_in, expected) in rows {
            let health = Health::default().with_sign_in(sign_in.to_vec());
            assert_eq!(order(&model, &health, 0), Ok(expected.to_owned()), "{sign_in:?}");
        }
        let cooling = |sign_in: [SignIn; 3]| {
            order(&model, &cooling(&[("aa", 9)]).with_sign_in(sign_in.to_vec()), 0)
        };
        assert_eq!(cooling([Ready, Coming, Refused]), Ok("bb".to_owned()), "it waits for a token");
        assert_eq!(cooling([Ready, Refused, Refused]), Err(9), "there is one to wait for");
        assert_eq!(cooling([Refused, Refused, Refused]), Ok("bb>cc".to_owned()), "nothing helps");
    }

    #[test]
    fn a_higher_priority_number_is_left_alone() {
        let model = model(&[("aa", 1, 1), ("bb", 1, 1), ("cc", 2, 1000)]);
        assert!(!chosen(&model, 0..100).contains(&"cc"));
    }

    /// The memory of backends that are left alone for so many seconds.
    fn cooling(rows: &[(&str, u64)]) -> Health {
        rows.iter().fold(Health::default(), |health, &(backend, seconds)| {
            let outcome = Outcome::Throttled(Some(Duration::from_secs(seconds)));
            health.record(backend, "m", outcome, now(), &Failover::default(), 0).unwrap()
        })
    }

    /// The backends that the next request tries, in order; `?` in front of a probe.
    fn order(model: &Model, health: &Health, later: u64) -> Result<String, u64> {
        let time = now() + Duration::from_secs(later);
        match model.choose(&Pick::Turn(model.turns.next()), health, time) {
            Ok(Choice { order, probes }) => {
                let names: Vec<_> = order.iter().map(|one| one.backend.name.as_str()).collect();
                Ok((if probes { "?" } else { "" }).to_owned() + &names.join(">"))
            }
            Err(until) => Err(until.duration_since(time).unwrap_or_default().as_secs()),
        }
    }

    #[test]
    fn what_is_left_alone_is_neither_first_nor_later() {
        let model = model(&[("aa", 0, 1), ("bb", 1, 1), ("cc", 2, 1), ("dd", 3, 1)]);
        let rows: &[(&str, &[(&str, u64)], u64, Result<&str, u64>)] = &[
            ("all well", &[], 0, Ok("aa>bb>cc")),
            ("the first cools", &[("aa", 5)], 0, Ok("bb>cc>dd")),
            ("a later one cools", &[("bb", 5)], 0, Ok("aa>cc>dd")),
            ("two cool", &[("aa", 5), ("cc", 5)], 0, Ok("bb>dd")),
            ("all but one", &[("aa", 5), ("bb", 5), ("cc", 5)], 0, Ok("dd")),
            ("all", &[("aa", 5), ("bb", 9), ("cc", 7), ("dd", 6)], 1, Err(4)),
            ("the first is over", &[("aa", 5)], 5, Ok("?aa>bb>cc")),
            ("a later one is over: no need to try it", &[("bb", 5)], 5, Ok("aa>bb>cc")),
            (
                "a later one is over, and the first cools",
                &[("aa", 9), ("bb", 5)],
                5,
                Ok("?bb>cc>dd"),
            ),
            ("all are over", &[("aa", 5), ("bb", 5), ("cc", 5), ("dd", 5)], 5, Ok("?aa>bb>cc")),
        ];
        for (name, cooled, later, expected) in rows {
            let found = order(&model, &cooling(cooled), *later);
            assert_eq!(found, expected.map(str::to_owned), "{name}");
        }
    }

    #[test]
    fn weights_hold_among_those_that_are_left() {
        let model = model(&[("aa", 0, 3), ("bb", 0, 1), ("cc", 0, 6)]);
        let health = cooling(&[("cc", 60)]);
        let mut count = 0;
        for _ in 0..400 {
            count += usize::from(order(&model, &health, 1).unwrap().starts_with("aa"));
        }
        assert_eq!(count, 300);
    }
}
