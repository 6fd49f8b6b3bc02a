//! The pools of a configuration.

use std::collections::HashSet;

use aoai_filter::config::Config;
use aoai_filter::routing::pool::Order;

/// A pool: a cluster that tries some backends in their order.
pub(crate) struct Pool<'c> {
    pub(crate) name: String,
    pub(super) order: Order<'c>,
}

/// The pools of all models that have several backends. Models share those of the same name.
pub(crate) fn pools(config: &Config) -> Vec<Pool<'_>> {
    let mut names = HashSet::new();
    let models = config.models.values().filter(|model| model.is_pooled());
    models
        .flat_map(|model| model.orders().into_iter().map(|order| (model.cluster(&order), order)))
        .filter(|(name, _)| names.insert(name.clone()))
        .map(|(name, order)| Pool { name, order })
        .collect()
}
