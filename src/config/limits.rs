//! Reads what a subscription may use, and where the counters of that live.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::authority::host_and_port;
use super::model::Models;
use super::problem::quoted;
use super::reader::{Object, Reader};
use super::types::{
    LimitStore, Limits, OnStoreError, Period, Quota, Rates, SharedStore, StoreEndpoint,
};
use super::value::identity_cluster;
use crate::base::json::Node;

/// Zero would be a subscription that is suspended.
const AMOUNT: RangeInclusive<u32> = 1..=u32::MAX;

const STORES: [&str; 2] = ["local", "ratelimit"];

const PERIODS: [(&str, Period); 5] = [
    ("hour", Period::Hour),
    ("day", Period::Day),
    ("week", Period::Week),
    ("month", Period::Month),
    ("year", Period::Year),
];

/// The cluster of the shared counters where the document names none. Routes to backends do not match it.
const DEFAULT_CLUSTER: &str = "aoai-limits";

/// The port of envoyproxy/ratelimit for gRPC.
pub(super) const STORE_PORT: u16 = 8081;

/// Reads `limits`: where counters live.
pub(super) fn store(reader: &mut Reader, node: &Node) -> Option<LimitStore> {
    let object = reader.object(node, &["store", "endpoint", "cluster", "on_error"])?;
    let is_shared = reader.optional(object, "store", |reader, node| {
        let name = reader.string(node)?;
        if !STORES.contains(&name) {
            let right = reader.nearest(name, STORES.into_iter());
            let name = quoted(name);
            reader.problem(format!("{name} is not a store of limits; {right}"));
        }
        // What cannot be read is a problem already, and no reason for others.
        Some(name != "local")
    });
    let endpoint = reader.optional(object, "endpoint", endpoint);
    let cluster = reader.optional(object, "cluster", identity_cluster);
    let on_error = reader.optional(object, "on_error", |reader, node| {
        let text = reader.text(node, |text| matches!(text, "deny" | "allow"), "deny or allow")?;
        Some(if text == "allow" { OnStoreError::Allow } else { OnStoreError::Deny })
    });
    if is_shared.unwrap_or_default() {
        return Some(LimitStore::Shared(SharedStore {
            cluster: cluster.unwrap_or_else(|| DEFAULT_CLUSTER.to_owned()),
            endpoint: endpoint.unwrap_or_else(|| StoreEndpoint {
                authority: format!("localhost:{STORE_PORT}"),
                tls: false,
            }),
            on_error: on_error.unwrap_or(OnStoreError::Deny),
        }));
    }
    for name in ["endpoint", "cluster", "on_error"] {
        if object.field(name).is_some() {
            reader.at_field(name, |reader| {
                reader.problem(
                    "expected only with store: ratelimit; local counters are in the proxy itself",
                );
            });
        }
    }
    Some(LimitStore::Local)
}

/// Reads where the service is. It gets the ids of subscriptions and counts, and no secret.
fn endpoint(reader: &mut Reader, node: &Node) -> Option<StoreEndpoint> {
    let text = reader.string(node)?;
    let plain = text.strip_prefix("http://").map(|authority| (authority, false));
    let secure = || text.strip_prefix("https://").map(|authority| (authority, true));
    let is_authority = |text: &str| {
        text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b))
            && host_and_port(text, STORE_PORT).is_some()
    };
    match plain.or_else(secure) {
        Some((authority, tls)) if is_authority(authority) => {
            Some(StoreEndpoint { authority: authority.to_owned(), tls })
        }
        _ => {
            let found = quoted(text);
            reader.problem(format!(
                "found {found}; expected the URL of the service, http://HOST:PORT or https://HOST:PORT, \
                 without a path"
            ));
            None
        }
    }
}

/// Reads a subscription's `limits`, which `store` keeps.
pub(super) fn limits(
    reader: &mut Reader,
    node: &Node,
    known: &Models,
    store: &LimitStore,
) -> Option<Limits> {
    let names = ["requests_per_minute", "tokens_per_minute", "models", "quota"];
    let object = reader.object(node, &names)?;
    let all = rates(reader, object);
    let models = reader.optional(object, "models", |reader, node| models(reader, node, known, all));
    let quota = reader.optional(object, "quota", quota);
    if quota.is_some() && *store == LimitStore::Local {
        reader.at_field("quota", |reader| {
            reader.problem(
                "a quota outlives the proxy; expected limits.store: ratelimit, whose counters do too",
            );
        });
    }
    Some(Limits { all, models: models.unwrap_or_default(), quota })
}

fn rates(reader: &mut Reader, object: Object<'_>) -> Rates {
    let mut rate =
        |name| reader.optional(object, name, |reader, node| reader.integer(node, AMOUNT));
    Rates {
        requests_per_minute: rate("requests_per_minute"),
        tokens_per_minute: rate("tokens_per_minute"),
    }
}

/// Reads the rates of single models. What one does not have of its own is as large as that of `all`.
fn models(
    reader: &mut Reader,
    node: &Node,
    known: &Models,
    all: Rates,
) -> Option<BTreeMap<String, Rates>> {
    let fields = match node.as_object() {
        Some(fields) => fields,
        None => return reader.wrong_kind(node, "an object: names of models, each with its limits"),
    };
    let mut models = BTreeMap::new();
    for (name, node) in fields {
        reader.at_field(name, |reader| {
            if models.contains_key(name) {
                return reader.problem("given twice; keep one");
            }
            known.names.resolve(reader, name);
            let object = reader.object(node, &["requests_per_minute", "tokens_per_minute"]);
            let own = object.map(|object| rates(reader, object)).unwrap_or_default();
            let rates = Rates {
                requests_per_minute: own.requests_per_minute.or(all.requests_per_minute),
                tokens_per_minute: own.tokens_per_minute.or(all.tokens_per_minute),
            };
            models.insert(name.clone(), rates);
        });
    }
    Some(models)
}

fn quota(reader: &mut Reader, node: &Node) -> Option<Quota> {
    let object = reader.object(node, &["tokens", "period"])?;
    let tokens = reader.required(object, "tokens", "a number of tokens", |reader, node| {
        reader.integer(node, AMOUNT)
    });
    let names = || PERIODS.iter().map(|(name, _)| *name);
    let period =
        reader.required(object, "period", "hour, day, week, month or year", |reader, node| {
            let name = reader.string(node)?;
            let found = PERIODS.iter().find(|(known, _)| *known == name);
            if found.is_none() {
                let right = reader.nearest(name, names());
                let name = quoted(name);
                reader.problem(format!("{name} is not a period; {right}"));
            }
            Some(found?.1)
        });
    Some(Quota { tokens: tokens?, period: period? })
}
