//! Reads the document as a whole, in the order in which its parts refer to each other.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::backend::backends;
use super::credential::credentials;
use super::envoy_gateway::envoy_gateway;
use super::failover::failover;
use super::istio::istio;
use super::limits;
use super::listener::listener;
use super::metering::metering;
use super::model::models;
use super::reader::Reader;
use super::subscription::{subscriptions, Served};
use super::time;
use super::types::Config;
use super::version::version;
use crate::base::json::Node;

const DEFAULT_TOKEN_WAIT: Duration = Duration::from_secs(5);

/// Clients and proxies give up before; a request that waits longer only holds memory.
const TOKEN_WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(5 * 60);

const FIELDS: [&str; 14] = [
    "cloud",
    "identity",
    "identities",
    "audience",
    "token_wait",
    "listener",
    "failover",
    "metering",
    "limits",
    "subscriptions",
    "backends",
    "models",
    "istio",
    "envoy_gateway",
];

/// Reads a configuration. `None` comes with a recorded problem, and so may anything else.
pub(super) fn config(reader: &mut Reader, node: &Node) -> Option<Config> {
    let object = reader.object(node, &FIELDS)?;
    let credentials = credentials(reader, object);
    let token_wait =
        reader.optional(object, "token_wait", |r, node| time::duration(r, node, TOKEN_WAIT));
    let listener = reader.optional(object, "listener", listener);
    let failover = reader.optional(object, "failover", failover);
    let metering = reader.optional(object, "metering", metering);
    let limit_store = reader.optional(object, "limits", limits::store).unwrap_or_default();
    let istio = reader.optional(object, "istio", istio);
    let envoy_gateway = reader.optional(object, "envoy_gateway", envoy_gateway);
    let backends = reader
        .required(object, "backends", "the Azure OpenAI resources", |r, node| {
            backends(r, node, &credentials)
        })
        .unwrap_or_default();
    let models = reader
        .required(object, "models", "the models that callers may use", |r, node| {
            models(r, node, &backends)
        })
        .unwrap_or_default();
    let subscriptions =
        reader.required(object, "subscriptions", "the callers and their keys", |reader, node| {
            let served = Served { backends: &backends, models: &models, store: &limit_store };
            subscriptions(reader, node, &served)
        });
    let mut by_name = BTreeMap::new();
    let mut affinities = Vec::new();
    for model in models.all.into_iter().filter_map(|known| known.model) {
        if let Some(affinity) = model.affinity.as_ref().filter(|_| model.is_pooled()) {
            if !affinities.contains(affinity) {
                affinities.push(affinity.clone());
            }
        }
        by_name.insert(model.name.clone(), model);
    }
    Some(Config {
        version: version(node),
        credentials: credentials.all.into_iter().collect::<Option<_>>()?,
        token_wait: token_wait.unwrap_or(DEFAULT_TOKEN_WAIT),
        listener: listener.unwrap_or_default(),
        failover: failover.unwrap_or_default(),
        metering: metering.unwrap_or_default(),
        limit_store,
        subscriptions: subscriptions?,
        backends: backends.all.into_iter().flatten().collect(),
        models: by_name,
        affinities,
        istio,
        envoy_gateway,
    })
}
