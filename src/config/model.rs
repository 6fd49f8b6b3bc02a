//! Reads the models, and the backends that serve them.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::affinity::affinity;
use super::backend::Backends;
use super::names::Names;
use super::problem::quoted;
use super::reader::Reader;
use super::types::{Model, Placement};
use crate::base::json::Node;
use crate::base::round_robin::RoundRobin;

/// As many levels as Envoy has for a cluster's endpoints.
const PRIORITY: RangeInclusive<u32> = 0..=127;

const WEIGHT: RangeInclusive<u32> = 1..=1000;

/// What a model's `name` has to be: what fits in the path and in the body of a request.
const NAME: &str =
    "1 to 128 of A-Z, a-z, 0-9 and ._:/@+-, and no empty, . or .. part between slashes";

/// What a deployment's name has to be: it becomes one segment of a path on Azure.
const DEPLOYMENT: &str = "1 to 64 of A-Z, a-z, 0-9 and ._-, but not . or ..";

/// The document's models, right or wrong, by position and by name.
pub(super) struct Models {
    /// By position in the document.
    pub(super) all: Vec<KnownModel>,
    /// The names that subscriptions may refer to.
    pub(super) names: Names,
    /// The positions of the backends that serve any of them.
    pub(super) served_by: Vec<usize>,
}

impl Default for Models {
    fn default() -> Self {
        Self { all: Vec::new(), names: Names::new("models", "name"), served_by: Vec::new() }
    }
}

/// What subscriptions need of a model.
pub(super) struct KnownModel {
    /// `None` where a problem is recorded.
    pub(super) model: Option<Arc<Model>>,
    /// The positions of the backends that serve it, whether all else is right or not.
    pub(super) served_by: Vec<usize>,
}

/// Reads `models`.
pub(super) fn models(reader: &mut Reader, node: &Node, backends: &Backends) -> Option<Models> {
    let Models { mut all, mut names, mut served_by } = Models::default();
    reader.items(node, "model", |reader, index, node| {
        let model = model(reader, node, index, backends, &mut names);
        add_new(&mut served_by, &model.served_by);
        all.push(model);
    })?;
    Some(Models { all, names, served_by })
}

/// Adds the positions that are not there yet. There are as many as backends, which are few.
pub(super) fn add_new(positions: &mut Vec<usize>, more: &[usize]) {
    for position in more {
        if !positions.contains(position) {
            positions.push(*position);
        }
    }
}

fn model(
    reader: &mut Reader,
    node: &Node,
    index: usize,
    backends: &Backends,
    names: &mut Names,
) -> KnownModel {
    let mut served_by = Vec::new();
    let model = reader.object(node, &["name", "affinity", "backends"]).and_then(|object| {
        let name = reader.required(object, "name", NAME, |reader, node| {
            if let Some(name) = node.as_str() {
                names.declare(reader, name, index);
            }
            reader.text(node, is_name, NAME)
        });
        let affinity = reader.optional(object, "affinity", affinity);
        let placements =
            reader.required(object, "backends", "the backends that serve it", |reader, node| {
                placements(reader, node, backends, name.as_deref(), &mut served_by)
            });
        let (name, placements) = (name?, placements?);
        Some(Arc::new(Model { name, affinity, placements, round_robin: RoundRobin::default() }))
    });
    KnownModel { model, served_by }
}

fn placements(
    reader: &mut Reader,
    node: &Node,
    backends: &Backends,
    model: Option<&str>,
    served_by: &mut Vec<usize>,
) -> Option<Vec<Placement>> {
    let mut seen: Vec<(usize, usize)> = Vec::new();
    let mut placements: Vec<Placement> = Vec::new();
    reader.items(node, "backend", |reader, index, node| {
        let Some(placement) = placement(reader, node, backends, model) else {
            return;
        };
        let (position, placement) = placement;
        served_by.push(position);
        match seen.iter().find(|(other, _)| *other == position) {
            Some((_, first)) => reader.problem(format!(
                "the same backend as backends[{first}] of this model; expected each at most once"
            )),
            None => seen.push((position, index)),
        }
        if let Some(placement) = placement {
            // Behind those of the same priority: their order is the document's.
            let at = placements.partition_point(|other| other.priority <= placement.priority);
            placements.insert(at, placement);
        }
    })?;
    Some(placements)
}

/// A placement, `None` where a problem is recorded, and its backend's position.
fn placement(
    reader: &mut Reader,
    node: &Node,
    backends: &Backends,
    model: Option<&str>,
) -> Option<(usize, Option<Placement>)> {
    let object = reader.object(node, &["backend", "deployment", "priority", "weight"])?;
    let position = reader.required(object, "backend", "the name of a backend", |reader, node| {
        let name = reader.string(node)?;
        backends.names.resolve(reader, name)
    });
    let deployment = if object.field("deployment").is_some() {
        reader.optional(object, "deployment", |r, node| r.text(node, is_deployment, DEPLOYMENT))
    } else {
        model.and_then(|model| deployment_of(reader, model))
    };
    let priority = reader.optional(object, "priority", |r, node| r.integer(node, PRIORITY));
    let weight = reader.optional(object, "weight", |r, node| r.integer(node, WEIGHT));
    let position = position?;
    let backend = backends.all.get(position).cloned().flatten();
    let placement = backend.zip(deployment).map(|(backend, deployment)| Placement {
        backend,
        deployment,
        priority: priority.unwrap_or(0),
        weight: weight.unwrap_or(1),
    });
    Some((position, placement))
}

/// The deployment of a placement that names none: the model's name, if Azure allows it.
fn deployment_of(reader: &mut Reader, model: &str) -> Option<String> {
    if is_deployment(model) {
        return Some(model.to_owned());
    }
    let model = quoted(model);
    reader.at_field("deployment", |reader| {
        reader.problem(format!(
            "missing, and the model's name {model} cannot be a deployment's; expected {DEPLOYMENT}"
        ));
    });
    None
}

fn is_name(name: &str) -> bool {
    let is_right = |b: u8| b.is_ascii_alphanumeric() || b"._:/@+-".contains(&b);
    name.len() <= 128
        && name.bytes().all(is_right)
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn is_deployment(name: &str) -> bool {
    let is_right = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=64).contains(&name.len()) && name.bytes().all(is_right) && !matches!(name, "." | "..")
}
