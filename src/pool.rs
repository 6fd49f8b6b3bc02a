//! Pools: the Envoy clusters that a model's requests go to, and the order in which each tries the
//! model's backends.
//!
//! A model on several backends has a pool for each order in which they may be tried. Envoy's own retries
//! walk along a pool, so its name says what it does.

use crate::config::{Model, Placement};

/// What every pool's name begins with, and no other cluster's.
pub const PREFIX: &str = "aoai/";

/// The cluster that tries these backends in this order: `aoai/eastus>sweden`.
pub fn pool_name<'a>(backends: impl IntoIterator<Item = &'a str>) -> String {
    let mut name = String::from(PREFIX);
    for (index, backend) in backends.into_iter().enumerate() {
        if index > 0 {
            name.push('>');
        }
        name.push_str(backend);
    }
    name
}

/// A request tries no more backends than this: its caller is waiting.
pub const MOST_ATTEMPTS: usize = 3;

/// Some of a model's placements, in the order in which they are tried.
pub type Order<'m> = Vec<&'m Placement>;

impl Model {
    /// Whether it has several backends, so that a pool tries one after the other.
    pub fn is_pooled(&self) -> bool {
        self.placements.len() > 1
    }

    /// Each order in which the model's backends may be tried: any of them first, and then some of the
    /// others by priority. Which others depends on who is left alone at the time. A model on one
    /// backend has one order and needs no pool.
    pub fn orders(&self) -> Vec<Order<'_>> {
        let mut orders = Vec::new();
        for first in &self.placements {
            let mut begun = vec![vec![first]];
            for other in self.placements.iter().filter(|other| !is_same(first, other)) {
                let longer: Vec<_> = begun
                    .iter()
                    .filter(|order| order.len() < MOST_ATTEMPTS)
                    .map(|order| [order.as_slice(), &[other]].concat())
                    .collect();
                begun.extend(longer);
            }
            // The longest first: what happens when all is well is read first.
            begun.sort_by_key(|order| std::cmp::Reverse(order.len()));
            orders.append(&mut begun);
        }
        orders
    }

    /// The cluster for a request that may try these placements: the pool, or the backend's own cluster
    /// where the model has no other.
    pub fn cluster(&self, order: &[&Placement]) -> String {
        match order {
            [only] if !self.is_pooled() => only.backend.cluster.clone(),
            order => pool_name(order.iter().map(|placement| placement.backend.name.as_str())),
        }
    }
}

/// A model has a backend at most once.
fn is_same(one: &Placement, other: &Placement) -> bool {
    one.backend.name == other.backend.name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// A model on these backends, each with its priority.
    fn config(placements: &[(&str, u32)]) -> Config {
        let backends: Vec<_> = placements
            .iter()
            .map(|(name, _)| {
                let endpoint = format!("https://contoso-{name}.openai.azure.com");
                serde_json::json!({"name": name, "endpoint": endpoint, "cluster": format!("to_{name}")})
            })
            .collect();
        let placements: Vec<_> = placements
            .iter()
            .map(|(name, priority)| serde_json::json!({"backend": name, "priority": priority}))
            .collect();
        let document = serde_json::json!({
            "identity": {"managed_identity": {"cluster": "imds"}},
            "subscriptions": [{
                "id": "a", "models": ["*"],
                "keys": [crate::digest::Digest::of(b"key").to_string()],
            }],
            "backends": backends,
            "models": [{"name": "m", "backends": placements}],
        });
        Config::from_json(document.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_pool_for_each_order_in_which_backends_may_be_tried() {
        for (placements, expected) in [
            (&[("east", 0)][..], &["to_east"][..]),
            (
                &[("east", 1), ("west", 0)],
                &["aoai/west>east", "aoai/west", "aoai/east>west", "aoai/east"],
            ),
            (
                &[("aa", 0), ("bb", 0), ("cc", 1)],
                &[
                    "aoai/aa>bb>cc",
                    "aoai/aa>bb",
                    "aoai/aa>cc",
                    "aoai/aa",
                    "aoai/bb>aa>cc",
                    "aoai/bb>aa",
                    "aoai/bb>cc",
                    "aoai/bb",
                    "aoai/cc>aa>bb",
                    "aoai/cc>aa",
                    "aoai/cc>bb",
                    "aoai/cc",
                ],
            ),
        ] {
            let config = config(placements);
            let model = &config.models["m"];
            let found: Vec<_> = model.orders().iter().map(|order| model.cluster(order)).collect();
            assert_eq!(found, expected);
        }
        let many = config(&[("aa", 0), ("bb", 0), ("cc", 1), ("dd", 1), ("ee", 1)]);
        let orders = many.models["m"].orders();
        assert_eq!(orders.len(), 5 * (1 + 4 + 6));
        assert!(orders.iter().all(|order| order.len() <= MOST_ATTEMPTS));
    }
}
