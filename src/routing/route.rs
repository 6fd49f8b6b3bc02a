//! Where a request is sent: one backend, or a pool of several.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use super::affinity::Selection;
use super::cooldown::Claim;
use super::pool::pool_name;
use super::selection::{Asker, BackendStates, Choice};
use super::RoutingError;
use crate::base::rendezvous::affinity;
use crate::config::{Backend, Model, Placement, Subscription};

/// Where a request is sent.
#[derive(Debug, Clone)]
pub enum Destination {
    /// To the backend that keeps what the subscription has stored; nothing is renamed.
    Default(Arc<Backend>),
    /// To one backend of a model, and to no other.
    Single {
        /// The model.
        model: Arc<Model>,
        /// The backend.
        backend: Arc<Backend>,
    },
    /// To a pool.
    Pool(PoolDestination),
}

/// A pool, and how it was chosen.
#[derive(Debug, Clone)]
pub struct PoolDestination {
    /// The model.
    pub model: Arc<Model>,
    /// Its backends in the order in which they are tried: never empty.
    pub order: Vec<Arc<Backend>>,
    /// What the request has to claim of the first.
    pub claim: Option<Claim>,
    selection: Selection,
}

impl Destination {
    /// The destination of a request for a model.
    ///
    /// A stateful request goes to the one backend that the subscription's requests prefer most, so that
    /// what it stores is found again there. `value` is that of the model's affinity.
    pub fn of(
        subscription: &Subscription,
        model: &Arc<Model>,
        is_stateful: bool,
        value: Option<&[u8]>,
        asker: Asker<'_>,
        states: &BackendStates<'_>,
        now: SystemTime,
    ) -> Result<Self, RoutingError> {
        if model.is_pooled() && !is_stateful {
            let selection = Selection::of(subscription, model, value);
            return Ok(Self::Pool(PoolDestination::choose(model, selection, states, asker, now)?));
        }
        // The subscription's default backend is the one that it prefers most of all, so that this is the
        // same one where the model is there.
        let preference =
            |placement: &&Placement| affinity(&subscription.id, &placement.backend.name);
        let placement = model.placements.iter().max_by_key(preference);
        let placement = placement.ok_or(RoutingError::UnknownBackend)?;
        Ok(Self::Single { model: Arc::clone(model), backend: Arc::clone(&placement.backend) })
    }

    /// The backend that is tried first.
    pub fn backend(&self) -> Result<&Arc<Backend>, RoutingError> {
        match self {
            Self::Default(backend) | Self::Single { backend, .. } => Ok(backend),
            // Never empty.
            Self::Pool(pool) => pool.order.first().ok_or(RoutingError::UnknownBackend),
        }
    }

    /// The deployment's name there, where the request names a model.
    pub fn deployment(&self) -> Result<Option<&str>, RoutingError> {
        let model = match self {
            Self::Default(_) => return Ok(None),
            Self::Single { model, .. } => model,
            Self::Pool(pool) => &pool.model,
        };
        let placement = model.on(&self.backend()?.name).ok_or(RoutingError::UnknownBackend)?;
        Ok(Some(&placement.deployment))
    }

    /// The Envoy cluster.
    pub fn cluster(&self) -> Cow<'_, str> {
        match self {
            Self::Default(backend) | Self::Single { backend, .. } => {
                Cow::Borrowed(&backend.cluster)
            }
            Self::Pool(pool) => {
                Cow::Owned(pool_name(pool.order.iter().map(|backend| backend.name.as_str())))
            }
        }
    }

    /// Chooses again among the backends of a pool: the first may be in cooldown by now, or another
    /// request may have claimed its probe. It does not advance the round robin.
    pub fn choose_again(
        &mut self,
        states: &BackendStates<'_>,
        asker: Asker<'_>,
        now: SystemTime,
    ) -> Result<(), RoutingError> {
        if let Self::Pool(pool) = self {
            *pool =
                PoolDestination::choose(&pool.model, pool.selection.clone(), states, asker, now)?;
        }
        Ok(())
    }

    /// What the request has to claim of the first backend of a pool, and for which model.
    pub fn claim(&self) -> Option<(Claim, &Arc<Model>)> {
        match self {
            Self::Pool(pool) => pool.claim.map(|claim| (claim, &pool.model)),
            Self::Default(_) | Self::Single { .. } => None,
        }
    }
}

impl PoolDestination {
    fn choose(
        model: &Arc<Model>,
        selection: Selection,
        states: &BackendStates<'_>,
        asker: Asker<'_>,
        now: SystemTime,
    ) -> Result<Self, RoutingError> {
        let Choice { order, claim } = model.choose(&selection, states, asker, now)?;
        let order = order.iter().map(|placement| Arc::clone(&placement.backend)).collect();
        Ok(Self { model: Arc::clone(model), order, claim, selection })
    }
}
