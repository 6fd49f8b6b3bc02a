//! Reads the Azure OpenAI resources.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cloud::Cloud;
use super::credential::Credentials;
use super::endpoint::Endpoint;
use super::names::Names;
use super::problem::quoted;
use super::reader::Reader;
use super::types::Backend;
use super::value::{cluster, is_name, BACKEND_CLUSTER_PREFIX, NAME};
use crate::base::json::Node;

/// The document's backends, right or wrong, by position and by name.
pub(super) struct Backends {
    /// By position in the document; `None` where a problem is recorded.
    pub(super) all: Vec<Option<Arc<Backend>>>,
    /// The names that others may refer to.
    pub(super) names: Names,
}

impl Default for Backends {
    fn default() -> Self {
        Self { all: Vec::new(), names: Names::new("backends", "name") }
    }
}

/// Reads `backends`.
pub(super) fn backends(
    reader: &mut Reader,
    node: &Node,
    credentials: &Credentials,
) -> Option<Backends> {
    let Backends { mut all, mut names } = Backends::default();
    let mut clusters = BTreeMap::new();
    reader.items(node, "backend", |reader, index, node| {
        let backend = backend(reader, node, index, &mut names, credentials);
        if let Some(backend) = &backend {
            let other = credentials.user_of(&backend.cluster).or_else(|| {
                let first = clusters.insert(backend.cluster.clone(), index)?;
                Some(format!("backends[{first}]"))
            });
            if let Some(other) = other {
                let cluster = quoted(&backend.cluster);
                reader.at_field("cluster", |reader| {
                    reader.problem(format!(
                        "{cluster} is also the cluster of {other}; expected one of its own, \
                         because a cluster reaches one resource"
                    ));
                });
            }
        }
        all.push(backend.map(Arc::new));
    })?;
    Some(Backends { all, names })
}

fn backend(
    reader: &mut Reader,
    node: &Node,
    index: usize,
    names: &mut Names,
    credentials: &Credentials,
) -> Option<Backend> {
    const FIELDS: [&str; 5] = ["name", "endpoint", "cluster", "custom_domain", "identity"];
    let object = reader.object(node, &FIELDS)?;
    let name = reader.required(object, "name", NAME, |reader, node| {
        if let Some(name) = node.as_str() {
            names.declare(reader, name, index);
        }
        reader.text(node, is_name, NAME)
    });
    let custom_domain = reader.optional(object, "custom_domain", Reader::boolean);
    let endpoint = reader.required(
        object,
        "endpoint",
        "the resource's URL, https://NAME.openai.azure.com",
        |reader, node| {
            let text = reader.string(node)?;
            let endpoint = match custom_domain {
                Some(true) => Endpoint::parse_custom_domain(text),
                _ => Endpoint::parse(text),
            };
            endpoint.map_err(|error| reader.problem(error.to_string())).ok()
        },
    );
    let cluster = reader.optional(object, "cluster", cluster);
    let credential = credentials.position(reader, object);
    if let (Some(endpoint), Some(credential)) = (&endpoint, credential) {
        check_cloud(reader, endpoint, credential, credentials);
    }
    let name = name?;
    let cluster = cluster.unwrap_or_else(|| format!("{BACKEND_CLUSTER_PREFIX}{name}"));
    Some(Backend { name, endpoint: endpoint?, position: index, cluster, credential: credential? })
}

/// A resource takes tokens for its own cloud's audience.
fn check_cloud(
    reader: &mut Reader,
    endpoint: &Endpoint,
    credential: usize,
    credentials: &Credentials,
) {
    let Some(Some(credential)) = credentials.all.get(credential) else {
        return;
    };
    let (host, audience) = (endpoint.host(), &credential.audience);
    let clouds = Cloud::of_host(host).zip(Cloud::of_host(audience));
    if let Some((theirs, ours)) = clouds.filter(|(theirs, ours)| theirs != ours) {
        let (host, audience) = (quoted(host), quoted(audience));
        reader.at_field("endpoint", |reader| {
            reader.problem(format!(
                "{host} is in {}, and its token is for {audience}, the audience of {}: it would be \
                 refused with 401; expected cloud: {} for the identity that this backend signs in with",
                theirs.name(),
                ours.name(),
                theirs.word(),
            ));
        });
    }
}
