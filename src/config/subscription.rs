//! Reads the consumers: their keys, and what each may do.

use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;

use super::backend::Backends;
use super::limits::limits;
use super::model::{add_new, Models};
use super::names::Names;
use super::problem::{quoted, shape};
use super::reader::{Object, Reader};
use super::time;
use super::types::{Backend, LimitStore, ModelScope, OperationScope, Subscription};
use crate::base::digest::{Digest, DigestError};
use crate::base::json::Node;
use crate::base::rendezvous::affinity;

/// What a subscription's `id` has to be. It is a label of metrics.
const ID: &str = "1 to 64 of A-Z, a-z, 0-9, - and _, starting with a letter or digit";

const FIELDS: [&str; 8] =
    ["id", "keys", "models", "operations", "limits", "state", "not_before", "expires_at"];

const OPERATIONS: [&str; 2] = ["inference", "resources"];

const KEYS: &str = "one or two digests of keys, made with: aoai key digest";
const MODELS: &str = "the models that it may use, or [\"*\"] for all";

/// Where a digest stands: the positions of its subscription and within that one's keys.
type Place = (usize, usize);

/// What subscriptions are read against.
pub(super) struct Served<'a> {
    /// The document's backends.
    pub(super) backends: &'a Backends,
    /// The document's models.
    pub(super) models: &'a Models,
    /// Where it keeps counters.
    pub(super) store: &'a LimitStore,
}

/// What an id is read against.
struct Ids<'a> {
    names: &'a mut Names,
    keys: &'a BTreeMap<Digest, Place>,
}

impl Ids<'_> {
    /// Reads an id, and shows nothing of what is none: it may well be the key.
    fn read(self, reader: &mut Reader, node: &Node, index: usize) -> Option<String> {
        let Some(id) = node.as_str() else {
            return reader.text(node, is_id, ID);
        };
        self.names.declare(reader, id, index);
        if !is_id(id) {
            reader.problem(format!("found {}; expected {ID}", shape(id)));
            return None;
        }
        if let Some((subscription, key)) = self.keys.get(&Digest::of(id.as_bytes())) {
            reader.problem(format!(
                "found the key of subscriptions[{subscription}].keys[{key}]; expected {ID}"
            ));
            return None;
        }
        Some(id.to_owned())
    }
}

/// Reads `subscriptions` into the map from the digests of their keys.
pub(super) fn subscriptions(
    reader: &mut Reader,
    node: &Node,
    served: &Served<'_>,
) -> Option<BTreeMap<Digest, Arc<Subscription>>> {
    let mut ids = Names::new("subscriptions", "id").hidden();
    let mut places = BTreeMap::new();
    let mut by_digest = BTreeMap::new();
    reader.items(node, "subscription", |reader, index, node| {
        let Some(object) = reader.object(node, &FIELDS) else {
            return;
        };
        let keys = reader
            .required(object, "keys", KEYS, |reader, node| keys(reader, node, index, &mut places));
        let ids = Ids { names: &mut ids, keys: &places };
        let subscription = subscription(reader, object, index, served, ids);
        let Some(subscription) = subscription.map(Arc::new) else {
            return;
        };
        let keys = keys.unwrap_or_default();
        by_digest.extend(keys.into_iter().map(|digest| (digest, Arc::clone(&subscription))));
    })?;
    Some(by_digest)
}

fn subscription(
    reader: &mut Reader,
    object: Object<'_>,
    index: usize,
    served: &Served<'_>,
    ids: Ids<'_>,
) -> Option<Subscription> {
    let id = reader.required(object, "id", ID, |reader, node| ids.read(reader, node, index));
    let scope = reader
        .required(object, "models", MODELS, |reader, node| models(reader, node, served.models));
    let operations = reader.optional(object, "operations", operations);
    let limits = reader.optional(object, "limits", |reader, node| {
        limits(reader, node, served.models, served.store)
    });
    let state = reader.optional(object, "state", |reader, node| {
        reader.text(node, |text| matches!(text, "active" | "suspended"), "active or suspended")
    });
    let not_before = reader.optional(object, "not_before", time::instant);
    let expires_at = reader.optional(object, "expires_at", time::instant);
    if not_before.zip(expires_at).is_some_and(|(begin, end)| begin >= end) {
        reader.at_field("expires_at", |reader| {
            reader.problem("not after not_before; expected a later time, or it is never valid");
        });
    }
    let (models, served_by) = scope?;
    let id = id?;
    Some(Subscription {
        default_backend: default_backend(&id, &served_by, served.backends)?,
        id,
        models,
        // The default.
        operations: operations.unwrap_or(OperationScope { inference: true, resources: false }),
        limits: limits.unwrap_or_default(),
        suspended: state.as_deref() == Some("suspended"),
        not_before,
        expires_at,
    })
}

/// The backend that a subscription prefers most, by rendezvous hashing: the same one on every proxy.
fn default_backend(id: &str, served_by: &[usize], backends: &Backends) -> Option<Arc<Backend>> {
    let backends = served_by.iter().filter_map(|position| backends.all.get(*position)?.as_ref());
    backends.max_by_key(|backend| affinity(id, &backend.name)).cloned()
}

fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        && id.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
}

fn keys(
    reader: &mut Reader,
    node: &Node,
    subscription: usize,
    places: &mut BTreeMap<Digest, Place>,
) -> Option<Vec<Digest>> {
    let mut digests = Vec::new();
    reader.items(node, "key", |reader, index, node| {
        let Some(digest) = key(reader, node) else {
            return;
        };
        match places.entry(digest) {
            Entry::Vacant(entry) => {
                entry.insert((subscription, index));
                digests.push(digest);
            }
            Entry::Occupied(entry) => {
                let (subscription, index) = entry.get();
                reader.problem(format!(
                    "same as subscriptions[{subscription}].keys[{index}]; expected a key of its own"
                ));
            }
        }
    })?;
    let count = node.as_array().map_or(0, <[Node]>::len);
    if count > 2 {
        reader.problem(format!(
            "found {count} keys; expected one or two, the primary and the secondary"
        ));
    }
    Some(digests)
}

/// Reads a digest. Any other text is not shown: it may be the key.
fn key(reader: &mut Reader, node: &Node) -> Option<Digest> {
    let Some(text) = node.as_str() else {
        let kind = node.kind();
        reader.problem(format!("found {kind}; expected a digest, sha256: and 64 hex digits"));
        return None;
    };
    let error = match text.parse() {
        Ok(digest) => return Some(digest),
        Err(error) => error,
    };
    let found = shape(text);
    reader.problem(match error {
        DigestError::OfEmpty => format!("{error}; expected the digest of a key"),
        DigestError::MissingPrefix => format!(
            "found {found} that is not a digest: {error}; if it is the key itself, put its digest \
             here, made with: aoai key digest"
        ),
        _ => format!(
            "found {found} that is not a digest: {error}; expected what this prints: aoai key digest"
        ),
    });
    None
}

/// Reads a scope, and finds the positions of the backends that serve it.
fn models(reader: &mut Reader, node: &Node, known: &Models) -> Option<(ModelScope, Vec<usize>)> {
    let names = match granted(reader, node, "model")? {
        Granted::Names(names) => names,
        Granted::All => return Some((ModelScope::All, known.served_by.clone())),
    };
    let mut served_by = Vec::new();
    let mut only: Vec<String> = Vec::new();
    for (index, name) in names {
        let position = reader.at_index(index, |reader| known.names.resolve(reader, name));
        if let Some(model) = position.and_then(|position| known.all.get(position)) {
            add_new(&mut served_by, &model.served_by);
            let at = only.partition_point(|other| other.as_str() < name);
            only.insert(at, name.to_owned());
        }
    }
    Some((ModelScope::Only(only), served_by))
}

fn operations(reader: &mut Reader, node: &Node) -> Option<OperationScope> {
    let names = match granted(reader, node, "operation")? {
        Granted::Names(names) => names,
        Granted::All => return Some(OperationScope { inference: true, resources: true }),
    };
    let mut scope = OperationScope { inference: false, resources: false };
    for (index, name) in names {
        match name {
            "inference" => scope.inference = true,
            "resources" => scope.resources = true,
            _ => reader.at_index(index, |reader| {
                let right = reader.nearest(name, OPERATIONS.into_iter());
                let name = quoted(name);
                reader.problem(format!("{name} is not a kind of operation; {right}"));
            }),
        }
    }
    Some(scope)
}

/// What a list grants.
enum Granted<'n> {
    /// `["*"]`.
    All,
    /// Different names, each with its index.
    Names(Vec<(usize, &'n str)>),
}

fn granted<'n>(reader: &mut Reader, node: &'n Node, what: &str) -> Option<Granted<'n>> {
    let mut names = Vec::new();
    let mut seen = BTreeMap::new();
    let mut star = false;
    reader.items(node, what, |reader, index, item| {
        let Some(name) = reader.string(item) else {
            return;
        };
        if let Some(first) = seen.insert(name.to_owned(), index) {
            reader.problem(format!("same as [{first}] of this list; expected each once"));
        } else if name == "*" {
            star = true;
        } else {
            names.push((index, name));
        }
    })?;
    if !star {
        return Some(Granted::Names(names));
    }
    if !names.is_empty() {
        reader.problem(format!(
            "found \"*\" beside names; expected [\"*\"] alone, which is every {what}"
        ));
    }
    Some(Granted::All)
}
