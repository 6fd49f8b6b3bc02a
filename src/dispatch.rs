//! Where a request goes: which backend, or which pool of them, and what changes on the way.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::answer::{Answer, Reason};
use crate::attempt::Recipe;
use crate::config::{Backend, Config, Model, Placement, Subscription};
use crate::health::Health;
use crate::placement::{Choice, Pick};
use crate::rendezvous::affinity;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    /// To whom, first.
    pub backend: Arc<Backend>,
    /// By which Envoy cluster: the backend's own, or a pool that goes on to others.
    pub cluster: String,
    /// For the backend stage of a pool: how to make each attempt.
    pub recipe: Option<Recipe>,
    /// Its path and query, if they are not the ones that it came with.
    pub path: Option<Vec<u8>>,
    /// Its `content-length`, if that changes.
    pub content_length: Option<u64>,
    /// Whether it tries whether the backend is well again.
    probes: bool,
    /// By what a pool chooses for it.
    pick: Option<Pick>,
}

impl Dispatch {
    /// To where the subscription's resources are.
    pub(crate) fn home(subscription: &Subscription, path: Option<Vec<u8>>) -> Self {
        Self {
            backend: Arc::clone(&subscription.home),
            cluster: subscription.home.cluster.clone(),
            recipe: None,
            path,
            content_length: None,
            probes: false,
            pick: None,
        }
    }

    /// The model for which this request tries whether the backend is well again, if it does.
    pub fn probes(&self) -> Option<&str> {
        self.recipe.as_ref().filter(|_| self.probes).map(|recipe| recipe.model.as_str())
    }

    /// Chooses again among the backends of a pool: what was chosen before may be left alone by now,
    /// or another request may try whether it is well again.
    ///
    /// # Errors
    /// All of them are left alone.
    pub fn choose_again(
        &mut self,
        config: &Config,
        health: &Health,
        now: SystemTime,
    ) -> Result<(), Answer> {
        let (Some(recipe), Some(pick)) = (&mut self.recipe, &self.pick) else {
            return Ok(());
        };
        let model = config.models.get(&recipe.model).ok_or_else(unserved)?;
        let Choice { order, probes } = choose(model, pick, health, now)?;
        let first = order.first().ok_or_else(unserved)?;
        self.backend = Arc::clone(&first.backend);
        self.cluster = model.cluster(&order);
        self.probes = probes;
        recipe.tries = order.len() as u64;
        Ok(())
    }
}

/// Where a request for a model goes.
pub(crate) struct Route<'m> {
    model: &'m Model,
    choice: Choice<'m>,
    /// By what a pool chooses. None where it goes to one backend and nowhere else, and nobody remembers
    /// how that was.
    pick: Option<Pick>,
}

impl<'m> Route<'m> {
    /// By what a pool chooses, or without it to the one backend of the model to which the subscription is
    /// drawn most.
    pub(crate) fn find(
        subscription: &Subscription,
        model: &'m Model,
        pick: Option<Pick>,
        health: &Health,
        now: SystemTime,
    ) -> Result<Self, Answer> {
        let choice = if let Some(pick) = &pick {
            choose(model, pick, health, now)?
        } else {
            // The subscription's home is the backend it is drawn to most, so that this is the same one
            // where the model is there.
            let drawn =
                |placement: &&Placement| affinity(&subscription.id, &placement.backend.name);
            let home = model.placements.iter().max_by_key(drawn);
            Choice { order: home.into_iter().collect(), probes: false }
        };
        Ok(Self { model, choice, pick })
    }

    pub(crate) fn first(&self) -> Result<&'m Placement, Answer> {
        // A configuration's models all have placements.
        self.choice.order.first().copied().ok_or_else(unserved)
    }

    /// Whether the backend stage makes the attempts.
    pub(crate) fn is_pooled(&self) -> bool {
        self.pick.is_some()
    }

    /// How many backends a pool tries.
    pub(crate) fn tries(&self) -> u64 {
        self.choice.order.len() as u64
    }

    pub(crate) fn dispatch(
        self,
        path: Option<Vec<u8>>,
        content_length: Option<u64>,
        recipe: impl FnOnce() -> Recipe,
    ) -> Result<Dispatch, Answer> {
        let first = self.first()?;
        Ok(Dispatch {
            backend: Arc::clone(&first.backend),
            cluster: if self.is_pooled() {
                self.model.cluster(&self.choice.order)
            } else {
                first.backend.cluster.clone()
            },
            recipe: self.is_pooled().then(recipe),
            path,
            content_length,
            probes: self.choice.probes,
            pick: self.pick,
        })
    }
}

/// By what a pool chooses for a request, unless that stays at one backend. A value may draw it to one, and
/// does so by a name of the subscription's own: nobody can aim at where another's requests are.
pub(crate) fn pick(
    subscription: &Subscription,
    model: &Model,
    stays: bool,
    value: Option<&[u8]>,
) -> Option<Pick> {
    let value = value.filter(|value| (1..=LONGEST_AFFINITY).contains(&value.len()));
    (model.is_pooled() && !stays).then(|| match value {
        Some(value) => {
            Pick::Drawn([&subscription.id, "\n", &*String::from_utf8_lossy(value)].concat())
        }
        None => Pick::Turn(model.turns.next()),
    })
}

fn choose<'m>(
    model: &'m Model,
    pick: &Pick,
    health: &Health,
    now: SystemTime,
) -> Result<Choice<'m>, Answer> {
    model.choose(pick, health, now).map_err(|until| {
        let wait = until.duration_since(now).unwrap_or_default();
        Reason::AllBackendsThrottled
            .because("Every backend of this model asks for a pause. Try again after it.")
            .retry_after(wait.min(LONGEST_PAUSE))
    })
}

/// A configuration's models all have placements; this is for an optional model in a body, whose
/// request has to stay where the subscription's resources are.
pub(crate) fn unserved() -> Answer {
    Reason::UnknownModel.because(
        "This model has no deployment on the Azure resource that keeps this subscription's assistants \
         and threads. Ask for a model that has one.",
    )
}

/// Official clients follow a pause up to here, and give up on a longer one (openai-python).
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// A longer value draws a request nowhere; keys of caches are far shorter.
const LONGEST_AFFINITY: usize = 512;
