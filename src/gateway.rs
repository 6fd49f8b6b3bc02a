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
use crate::attempt::{BodyPlace, Recipe};
use crate::body::{BodyError, ModelReader};
use crate::config::{Affinity, Config, Model, ModelScope, Subscription};
use crate::dispatch::{pick, unserved, Dispatch, Route};
use crate::head::Head;
use crate::health::Health;
use crate::key;
use crate::operation::{Class, ModelSource, Operation};
use crate::target::{is_model, write_renamed, Query, Rename, Target};

/// What a request needs next.
#[derive(Debug)]
pub enum Step {
    /// Its body, until that names the model.
    Read(Reading),
    /// A token, and then it goes.
    Send(Dispatch),
}

/// A request whose body has not named the model yet.
#[derive(Debug)]
pub struct Reading {
    reader: ModelReader,
    subscription: Arc<Subscription>,
    /// Path and query without keys, and whether that is not what came.
    written: Vec<u8>,
    is_other_path: bool,
    content_length: Option<u64>,
    /// Those of its headers that may draw it to a backend.
    headers: Vec<(String, Vec<u8>)>,
    stays: bool,
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
    health: &Health,
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

    let named = |name: &str, rename| {
        let model = subscription.model(config, name)?;
        let header = model.affinity.as_ref().and_then(Affinity::header);
        let value = header.and_then(|name| head.value(name));
        let pick = pick(subscription, model, operation.stays, value);
        let route = Route::find(subscription, model, pick, health, now)?;
        let (deployment, tries) = (&route.first()?.deployment, route.tries());
        // In a pool, every attempt does this for its own backend.
        let path = write_renamed(&target, (!route.is_pooled()).then_some((rename, deployment)));
        let other_path = (path != head.path).then(|| path.clone());
        let recipe = || Recipe {
            model: model.name.clone(),
            tries,
            token_for: (config.credentials.len() > 1).then(Box::default),
            rename: Some(rename),
            body: None,
            path,
        };
        Ok(Step::Send(route.dispatch(other_path, None, recipe)?))
    };
    let need = match operation.model {
        ModelSource::Segment(at) => {
            let name = target.segments().get(at).map(Cow::as_ref).unwrap_or_default();
            return named(name, Rename::Segment(at));
        }
        ModelSource::Query => {
            return named(&model_parameter(target.query())?, Rename::Parameter);
        }
        ModelSource::Nowhere => None,
        ModelSource::Body => Some(Need::Required),
        ModelSource::BodyIfAny => Some(Need::Optional),
    };
    let written = write_renamed(&target, None);
    let is_other_path = written != head.path;
    let fields = config.affinities.iter().filter_map(Affinity::field);
    match need {
        Some(Need::Required) if ended => Err(BodyError::NoModel.into()),
        Some(need) if !ended => Ok(Step::Read(Reading {
            reader: head.body_format()?.reader(fields),
            subscription: Arc::clone(subscription),
            written,
            is_other_path,
            content_length: head.content_length,
            headers: drawing_headers(config, head),
            stays: operation.stays,
            need,
        })),
        _ => Ok(Step::Send(Dispatch::home(subscription, is_other_path.then_some(written)))),
    }
}

/// The headers by which any model's requests are drawn to a backend, as far as this one has them.
fn drawing_headers(config: &Config, head: &Head<'_>) -> Vec<(String, Vec<u8>)> {
    let names = config.affinities.iter().filter_map(Affinity::header);
    names.filter_map(|name| Some((name.to_owned(), head.value(name)?.to_owned()))).collect()
}

impl Affinity {
    fn header(&self) -> Option<&str> {
        match self {
            Self::Header(name) => Some(name),
            Self::Body(_) => None,
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::Body(name) => Some(name),
            Self::Header(_) => None,
        }
    }
}

impl Reading {
    /// Reads the next piece of the body; `ended` says that it is the last.
    pub fn read(
        mut self,
        config: &Config,
        health: &Health,
        piece: &[u8],
        ended: bool,
        now: SystemTime,
    ) -> Result<BodyStep, Answer> {
        self.reader.push(piece)?;
        if ended {
            self.reader.finish()?;
        }
        let Some(field) = self.reader.model() else {
            return match self.need {
                _ if !ended => Ok(BodyStep::Read(self)),
                Need::Required => Err(BodyError::NoModel.into()),
                Need::Optional => {
                    let path = self.is_other_path.then_some(self.written);
                    Ok(BodyStep::Send {
                        dispatch: Dispatch::home(&self.subscription, path),
                        splice: None,
                        watch: Watch(self.reader),
                    })
                }
            };
        };
        let model = self.subscription.model(config, &field.name)?;
        if self.need == Need::Optional && model.on(&self.subscription.home.name).is_none() {
            return Err(unserved());
        }
        let value = match &model.affinity {
            Some(Affinity::Body(name)) if model.is_pooled() && !self.stays => {
                match self.reader.text(name) {
                    None if !ended => return Ok(BodyStep::Read(self)),
                    text => text.map(str::as_bytes),
                }
            }
            Some(Affinity::Header(name)) => {
                let header = self.headers.iter().find(|(header, _)| header == name);
                header.map(|(_, value)| value.as_slice())
            }
            _ => None,
        };
        let pick = pick(&self.subscription, model, self.stays, value);
        let route = Route::find(&self.subscription, model, pick, health, now)?;
        let (deployment, tries) = (&route.first()?.deployment, route.tries());
        // In a pool, every attempt does this for its own backend.
        let splice = (!route.is_pooled() && *deployment != field.name)
            .then(|| Splice { at: field.at.clone(), with: self.reader.spell(deployment) });
        let content_length = match (&splice, self.content_length) {
            (Some(splice), Some(length)) => Some(splice.length_of(length)),
            _ => None,
        };
        let recipe = || Recipe {
            model: model.name.clone(),
            tries,
            token_for: (config.credentials.len() > 1).then(Box::default),
            rename: None,
            body: Some(BodyPlace {
                at: field.at.clone(),
                quoted: matches!(self.reader, ModelReader::Json(_)),
                content_length: self.content_length,
            }),
            path: self.written.clone(),
        };
        let path = self.is_other_path.then(|| self.written.clone());
        Ok(BodyStep::Send {
            dispatch: route.dispatch(path, content_length, recipe)?,
            splice,
            watch: Watch(self.reader),
        })
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
    pub(crate) fn length_of(&self, length: u64) -> u64 {
        length.saturating_sub(self.at.len() as u64).saturating_add(self.with.len() as u64)
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

const OUTSIDE: &str = "This gateway serves the Azure OpenAI data plane: paths that begin with \
    /openai/deployments/{model}/, /openai/v1/ or /openai/. Check the client's endpoint or base URL.";

#[cfg(test)]
mod tests;
