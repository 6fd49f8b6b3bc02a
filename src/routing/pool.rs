//! Pools: the Envoy clusters that a model's requests go to, and the order in which each tries the
//! model's backends.
//!
//! A model on several backends has a pool for each ordered pair of them: the first attempt, the
//! second, and then the best of the rest. Envoy's own retries follow a pool's order, so its name is that
//! order.

use crate::config::{Model, Placement, POOL_PREFIX};

/// The cluster that tries these backends in this order: `aoai/eastus>sweden`.
pub fn pool_name<'a>(backends: impl IntoIterator<Item = &'a str>) -> String {
    let mut name = String::from(POOL_PREFIX);
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

    /// The order that tries `first`, then `second`, and then the rest by priority, up to
    /// [`MOST_ATTEMPTS`]. Both are placements of this model.
    pub fn order<'m>(&'m self, first: &'m Placement, second: &'m Placement) -> Order<'m> {
        let rest =
            self.placements.iter().filter(|one| !is_same(one, first) && !is_same(one, second));
        [first, second].into_iter().chain(rest).take(MOST_ATTEMPTS).collect()
    }

    /// Each order in which the model's backends may be tried: one for each ordered pair of them. A
    /// model on one backend has one order and needs no pool.
    pub fn orders(&self) -> Vec<Order<'_>> {
        if let [only] = self.placements.as_slice() {
            return vec![vec![only]];
        }
        let others = |first| self.placements.iter().filter(move |second| !is_same(first, second));
        self.placements
            .iter()
            .flat_map(|first| others(first).map(move |second| self.order(first, second)))
            .collect()
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
                "keys": [crate::base::digest::Digest::of(b"key").to_string()],
            }],
            "backends": backends,
            "models": [{"name": "m", "backends": placements}],
        });
        Config::from_json(document.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_pool_for_each_ordered_pair_of_backends() {
        for (placements, expected) in [
            (&[("east", 0)][..], &["to_east"][..]),
            (&[("east", 1), ("west", 0)], &["aoai/west>east", "aoai/east>west"]),
            (
                &[("aa", 1), ("bb", 0), ("cc", 0)],
                &[
                    "aoai/bb>cc>aa",
                    "aoai/bb>aa>cc",
                    "aoai/cc>bb>aa",
                    "aoai/cc>aa>bb",
                    "aoai/aa>bb>cc",
                    "aoai/aa>cc>bb",
                ],
            ),
            (
                &[("aa", 0), ("bb", 0), ("cc", 1), ("dd", 0)],
                &[
                    "aoai/aa>bb>dd",
                    "aoai/aa>dd>bb",
                    "aoai/aa>cc>bb",
                    "aoai/bb>aa>dd",
                    "aoai/bb>dd>aa",
                    "aoai/bb>cc>aa",
                    "aoai/dd>aa>bb",
                    "aoai/dd>bb>aa",
                    "aoai/dd>cc>aa",
                    "aoai/cc>aa>bb",
                    "aoai/cc>bb>aa",
                    "aoai/cc>dd>aa",
                ],
            ),
        ] {
            let config = config(placements);
            let model = &config.models["m"];
            let found: Vec<_> = model.orders().iter().map(|order| model.cluster(order)).collect();
            assert_eq!(found, expected);
        }
    }
}
