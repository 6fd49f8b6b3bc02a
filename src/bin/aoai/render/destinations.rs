//! Where requests and identities' calls can go: what the clusters are rendered from.

use aoai_filter::config::{Backend, Config, SharedStore};

use super::pools::Pool;
use super::ratelimit;
use super::sign_in::SignIn;

/// All of them, each cluster once.
pub(crate) struct Destinations<'a> {
    pub(crate) sign_ins: Vec<&'a SignIn<'a>>,
    pub(crate) stores: Vec<&'a SharedStore>,
    pub(crate) backends: Vec<&'a Backend>,
    pub(crate) pools: Vec<&'a Pool<'a>>,
}

impl<'a> Destinations<'a> {
    /// Those of a document.
    pub(crate) fn of(
        config: &'a Config,
        sign_ins: &'a [SignIn<'a>],
        pools: &'a [Pool<'a>],
    ) -> Self {
        Self {
            sign_ins: sign_ins.iter().collect(),
            stores: ratelimit::store(config).into_iter().collect(),
            backends: config.backends.iter().map(|one| &**one).collect(),
            pools: pools.iter().collect(),
        }
    }

    /// And those of another document whose clusters this one has not.
    pub(super) fn and(mut self, other: Self) -> Self {
        add_new(&mut self.sign_ins, other.sign_ins, |one| one.cluster);
        add_new(&mut self.stores, other.stores, |one| &one.cluster);
        add_new(&mut self.backends, other.backends, |one| &one.cluster);
        add_new(&mut self.pools, other.pools, |one| &one.name);
        self
    }
}

fn add_new<'a, T>(all: &mut Vec<&'a T>, others: Vec<&'a T>, cluster: impl Fn(&'a T) -> &'a str) {
    for other in others {
        if all.iter().all(|one| cluster(one) != cluster(other)) {
            all.push(other);
        }
    }
}
