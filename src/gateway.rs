//! A request's way through the gateway stage, from its head to where it goes.
//!
//! ```text
//! head ─ key ─ operation ─┬─ model in the URL ─────────────────────┬─ scope ─ placement ─ Dispatch
//!                         └─ model in the body: Reading, piece by piece ─┘
//! ```
//! Everything here takes values and returns values; who calls decides what to do with them. A step
//! that fails returns the [`Answer`] for the caller.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use crate::answer::{Answer, Reason};
use crate::body::{BodyError, ModelReader};
use crate::config::{Backend, Config, Model, ModelScope, Placement, Subscription};
use crate::head::Head;
use crate::key::{self, is_key};
use crate::operation::{Class, ModelSource, Operation};
use crate::target::{write_path, Keep, Parameter, Query, Target};

/// Names of the query parameters in which realtime names its model, v1 and dated.
const MODEL_PARAMETERS: [&str; 2] = ["model", "deployment"];

/// What a request needs next.
#[derive(Debug)]
pub enum Step {
    /// Its body, until that names the model.
    Read(Reading),
    /// A token, and then it goes.
    Send(Dispatch),
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    /// To whom.
    pub backend: Arc<Backend>,
    /// Its path and query, if they are not the ones that it came with.
    pub path: Option<Vec<u8>>,
    /// Its `content-length`, if that changes.
    pub content_length: Option<u64>,
}

/// A request whose body has not named the model yet.
#[derive(Debug)]
pub struct Reading {
    reader: ModelReader,
    subscription: Arc<Subscription>,
    path: Option<Vec<u8>>,
    content_length: Option<u64>,
    need: Need,
}

/// What an operation asks of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// It must name a model, which decides where it goes.
    Required,
    /// It may name a model, which must then be served where the subscription's resources are.
    Optional,
}

/// What a piece of a body leads to.
#[derive(Debug)]
pub enum BodyStep {
    /// More of it must come.
    Read(Reading),
    /// The request can go, once it has a token.
    Send {
        /// Where it goes.
        dispatch: Dispatch,
        /// What is to be changed in the part of the body that has come.
        splice: Option<Splice>,
        /// Who reads the rest.
        watch: Watch,
    },
}

/// A replacement of some of the body's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splice {
    /// Which bytes, counted from the body's first.
    pub at: Range<usize>,
    /// What stands there instead.
    pub with: String,
}

/// Watches the rest of a body whose model is known, so that no second one follows.
#[derive(Debug)]
pub struct Watch(ModelReader);

/// Admits a request by its head.
///
/// `ended` says that there is no body.
pub fn admit(
    config: &Config,
    head: &Head<'_>,
    ended: bool,
    now: SystemTime,
) -> Result<Step, Answer> {
    let target = Target::parse(head.path);
    let query = target.as_ref().map(Target::query).unwrap_or_default();
    let subscription = key::subscription(config, head, query, now)?;
    let target = target?;
    let operation = Operation::find(head.method, target.segments())
        .ok_or_else(|| Reason::UnknownOperation.because(OUTSIDE))?;
    subscription.check_operation(operation.class)?;

    let request = Request { head, target: &target };
    let need = match operation.model {
        ModelSource::Segment(at) => {
            let name = target.segments().get(at).map(Cow::as_ref).unwrap_or_default();
            let placement = subscription.model(config, name)?.choose().ok_or_else(unserved)?;
            return Ok(Step::Send(request.to(placement, Rename::Segment(at))));
        }
        ModelSource::Query => {
            let name = model_parameter(target.query())?;
            let placement = subscription.model(config, &name)?.choose().ok_or_else(unserved)?;
            return Ok(Step::Send(request.to(placement, Rename::Parameter)));
        }
        ModelSource::Nowhere => None,
        ModelSource::Body => Some(Need::Required),
        ModelSource::BodyIfAny => Some(Need::Optional),
    };
    match need {
        Some(Need::Required) if ended => Err(BodyError::NoModel.into()),
        Some(need) if !ended => Ok(Step::Read(Reading {
            reader: head.body_format()?.reader(),
            subscription: Arc::clone(subscription),
            path: request.path(None),
            content_length: head.content_length,
            need,
        })),
        _ => Ok(Step::Send(Dispatch {
            backend: Arc::clone(&subscription.home),
            path: request.path(None),
            content_length: None,
        })),
    }
}

impl Reading {
    /// Reads the next piece of the body; `ended` says that it is the last.
    pub fn read(mut self, config: &Config, piece: &[u8], ended: bool) -> Result<BodyStep, Answer> {
        self.reader.push(piece)?;
        if ended {
            self.reader.finish()?;
        }
        let Some(field) = self.reader.model() else {
            return match self.need {
                _ if !ended => Ok(BodyStep::Read(self)),
                Need::Required => Err(BodyError::NoModel.into()),
                Need::Optional => Ok(self.send_home()),
            };
        };
        let model = self.subscription.model(config, &field.name)?;
        let placement = match self.need {
            Need::Required => model.choose(),
            Need::Optional => model.on(&self.subscription.home),
        };
        let placement = placement.ok_or_else(unserved)?;
        let splice = (placement.deployment != field.name).then(|| Splice {
            at: field.at.clone(),
            with: self.reader.spell(&placement.deployment),
        });
        let content_length = match (&splice, self.content_length) {
            (Some(splice), Some(length)) => Some(splice.length_of(length)),
            _ => None,
        };
        Ok(BodyStep::Send {
            dispatch: Dispatch {
                backend: Arc::clone(&placement.backend),
                path: self.path,
                content_length,
            },
            splice,
            watch: Watch(self.reader),
        })
    }

    fn send_home(self) -> BodyStep {
        BodyStep::Send {
            dispatch: Dispatch {
                backend: Arc::clone(&self.subscription.home),
                path: self.path,
                content_length: None,
            },
            splice: None,
            watch: Watch(self.reader),
        }
    }
}

impl Watch {
    /// Reads the next piece of the body; `ended` says that it is the last. After an error the body
    /// must not be completed towards the backend.
    pub fn read(&mut self, piece: &[u8], ended: bool) -> Result<(), Answer> {
        self.0.push(piece)?;
        if ended {
            self.0.finish()?;
        }
        Ok(())
    }
}

impl Splice {
    /// How long a body of this length becomes.
    fn length_of(&self, length: u64) -> u64 {
        (length + self.with.len() as u64).saturating_sub(self.at.len() as u64)
    }
}

impl Subscription {
    fn check_operation(&self, class: Class) -> Result<(), Answer> {
        let (granted, name) = match class {
            Class::Inference => (self.operations.inference, "inference"),
            Class::Resources => (self.operations.resources, "resources"),
        };
        if granted {
            return Ok(());
        }
        Err(Reason::OperationNotAllowed.because(format!(
            "Subscription {} is not granted this operation. It belongs to \"{name}\": ask whoever runs \
             this gateway to add that to the subscription's operations.",
            self.id,
        )))
    }

    /// The model of this name, if there is one and this subscription may ask for it.
    fn model<'c>(&self, config: &'c Config, name: &str) -> Result<&'c Model, Answer> {
        let model = config.models.get(name).ok_or_else(|| {
            Reason::UnknownModel.because(format!(
                "This gateway has no model of that name. {}",
                self.allowed_models(config)
            ))
        })?;
        if self.may_use(name) {
            return Ok(model);
        }
        Err(Reason::ModelNotAllowed.because(format!(
            "Subscription {} may not use this model. {}",
            self.id,
            self.allowed_models(config)
        )))
    }

    fn may_use(&self, model: &str) -> bool {
        match &self.models {
            ModelScope::All => true,
            ModelScope::Only(names) => {
                names.binary_search_by(|name| name.as_str().cmp(model)).is_ok()
            }
        }
    }

    fn allowed_models(&self, config: &Config) -> String {
        /// More would be no help.
        const SHOWN: usize = 10;
        let names: Vec<&str> = match &self.models {
            ModelScope::All => config.models.keys().map(String::as_str).collect(),
            ModelScope::Only(names) => names.iter().map(String::as_str).collect(),
        };
        let shown: Vec<&str> = names.iter().take(SHOWN).copied().collect();
        let more = if names.len() > SHOWN { ", …" } else { "" };
        format!("Subscription {} may use: {}{more}.", self.id, shown.join(", "))
    }
}

/// The parts of a request that its path and query are written from.
struct Request<'r> {
    head: &'r Head<'r>,
    target: &'r Target<'r>,
}

/// Where a deployment's name takes the place of the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rename {
    Segment(usize),
    Parameter,
}

impl Request<'_> {
    fn to(&self, placement: &Placement, rename: Rename) -> Dispatch {
        Dispatch {
            backend: Arc::clone(&placement.backend),
            path: self.path(Some((rename, &placement.deployment))),
            content_length: None,
        }
    }

    /// The path and query as they leave: without keys and with the deployment's name; `None` where
    /// that is what came.
    fn path(&self, deployment: Option<(Rename, &str)>) -> Option<Vec<u8>> {
        let segments =
            self.target.segments().iter().enumerate().map(|(index, segment)| match deployment {
                Some((Rename::Segment(at), name)) if at == index => name,
                _ => segment.as_ref(),
            });
        let path = write_path(segments, self.target.query(), |parameter| match deployment {
            _ if is_key(parameter) => Keep::Drop,
            Some((Rename::Parameter, name))
                if is_model(parameter) && parameter.raw_value() != name.as_bytes() =>
            {
                Keep::WithValue(name)
            }
            _ => Keep::AsIs,
        });
        (path != self.head.path).then_some(path)
    }
}

fn is_model(parameter: Parameter<'_>) -> bool {
    MODEL_PARAMETERS.iter().any(|name| parameter.is_named(name))
}

/// The value of the one parameter that names a model.
fn model_parameter(query: Query<'_>) -> Result<String, Answer> {
    let mut named = query.parameters().filter(|&parameter| is_model(parameter));
    let found = named.next().ok_or_else(|| {
        Reason::MissingModel.because("Name the model in the query: model=… (v1) or deployment=….")
    })?;
    if named.next().is_some() {
        return Err(Reason::MissingModel.because(
            "The query names a model more than once. Name it once, as model=… or deployment=….",
        ));
    }
    Ok(String::from_utf8_lossy(&found.value()).into_owned())
}

/// A configuration's models all have placements; this is for an optional model in a body, whose
/// request has to stay where the subscription's resources are.
fn unserved() -> Answer {
    Reason::UnknownModel.because(
        "This model has no deployment on the Azure resource that keeps this subscription's assistants \
         and threads. Ask for a model that has one.",
    )
}

const OUTSIDE: &str = "This gateway serves the Azure OpenAI data plane: paths that begin with \
    /openai/deployments/{model}/, /openai/v1/ or /openai/. Check the client's endpoint or base URL.";

#[cfg(test)]
mod tests;
