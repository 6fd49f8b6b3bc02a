//! Which backend serves a request for a model.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::{Backend, Model, Placement};

/// How many requests a model has been chosen for. Each model counts its own: a common count would
/// fall into step with callers who ask for models in turn.
#[derive(Debug, Default)]
pub struct Turns(AtomicU64);

/// Two models are the same however often they were asked for.
impl PartialEq for Turns {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Turns {}

impl Model {
    /// The placement for the next request: the lowest priority number, by weight within it. In any run
    /// of as many requests as the tier's weights add up to, each placement has exactly its weight.
    pub fn choose(&self) -> Option<&Placement> {
        self.placement(self.turns.0.fetch_add(1, Ordering::Relaxed))
    }

    fn placement(&self, turn: u64) -> Option<&Placement> {
        let first = self.placements.first()?;
        let tier = || {
            let priority = first.priority;
            self.placements.iter().filter(move |placement| placement.priority == priority)
        };
        let total: u64 = tier().map(|placement| u64::from(placement.weight)).sum();
        let mut ticket = spread(turn, total);
        for placement in tier() {
            match ticket.checked_sub(u64::from(placement.weight)) {
                Some(rest) => ticket = rest,
                None => return Some(placement),
            }
        }
        Some(first)
    }

    /// The placement on this backend, where the model has one.
    pub fn on(&self, backend: &Backend) -> Option<&Placement> {
        self.placements.iter().find(|placement| placement.backend.name == backend.name)
    }
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

    use super::*;
    use crate::config::Endpoint;

    fn model(rows: &[(&str, u32, u32)]) -> Model {
        let placements = rows.iter().map(|&(name, priority, weight)| Placement {
            backend: Arc::new(Backend {
                name: name.to_owned(),
                endpoint: Endpoint::parse(&format!("https://contoso-{name}.openai.azure.com"))
                    .unwrap(),
                cluster: format!("aoai_{name}"),
            }),
            deployment: "m".to_owned(),
            priority,
            weight,
        });
        Model { name: "m".to_owned(), placements: placements.collect(), turns: Turns::default() }
    }

    fn chosen(model: &Model, turns: std::ops::Range<u64>) -> Vec<&str> {
        turns
            .filter_map(|turn| model.placement(turn))
            .map(|placement| placement.backend.name.as_str())
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
    fn a_higher_priority_number_is_left_alone() {
        let model = model(&[("aa", 1, 1), ("bb", 1, 1), ("cc", 2, 1000)]);
        assert!(!chosen(&model, 0..100).contains(&"cc"));
    }
}
