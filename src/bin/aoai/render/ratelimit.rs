//! Limits that all proxies share: the configuration of envoyproxy/ratelimit, and what asks it in Envoy.
//!
//! Source of the shapes: the README of envoyproxy/ratelimit, and Envoy's v3 API reference.

use std::collections::BTreeMap;

use aoai_filter::access::limits::{bucket, QUOTA, REQUESTS, TOKENS};
use aoai_filter::config::{Config, LimitStore, OnStoreError, Period, Problem, SharedStore};
use aoai_filter::telemetry::access_log;

use super::filter::OFF;
use super::sign_in::SignIn;
use super::yaml::scalar;

/// The domain of the limits in the service.
const DOMAIN: &str = "aoai";

/// How long a request waits for the service.
const TIMEOUT: &str = "0.25s";

/// The service, where the document has its limits there.
pub(super) fn store(config: &Config) -> Option<&SharedStore> {
    match &config.limit_store {
        LimitStore::Local => None,
        LimitStore::Shared(store) => Some(store),
    }
}

/// The problem of a document whose service of limits has the cluster of something else.
pub(super) fn problem(config: &Config, sign_ins: &[SignIn<'_>]) -> Option<Problem> {
    let cluster = &store(config)?.cluster;
    let is_taken = sign_ins.iter().any(|one| one.cluster == cluster)
        || config.backends.iter().any(|backend| backend.cluster == *cluster);
    is_taken.then(|| {
        let text = format!(
            "{cluster:?} is also the cluster of an identity or a backend; expected another cluster"
        );
        Problem::new("limits.cluster".to_owned(), text)
    })
}

/// A limit of the service: its name and its counter.
type Key = (&'static str, String);

/// The service's configuration.
pub(super) fn service(config: &Config) -> String {
    // Several keys of one subscription are one subscription.
    let mut limits: BTreeMap<Key, (&str, u32)> = BTreeMap::new();
    for subscription in config.subscriptions.values() {
        let id = &subscription.id;
        let own = &subscription.limits;
        let models = own.models.keys().map(|model| Some(model.as_str()));
        for (rates, model) in models.chain([None]).filter_map(|model| own.of(model)) {
            let bucket = bucket(id, model);
            for (name, rate) in
                [(REQUESTS, rates.requests_per_minute), (TOKENS, rates.tokens_per_minute)]
            {
                limits.extend(rate.map(|rate| ((name, bucket.clone()), ("minute", rate))));
            }
        }
        if let Some(quota) = own.quota {
            limits.insert((QUOTA, id.clone()), (unit(quota.period), quota.tokens));
        }
    }
    let mut text = format!(
        "\
# The limits of subscriptions for envoyproxy/ratelimit, rendered by `aoai render ratelimit` from the gateway's
# document. The service reads it from its RUNTIME_ROOT/config, and follows changes.
domain: {DOMAIN}
descriptors:{}
",
        if limits.is_empty() { " []" } else { "" }
    );
    for ((name, bucket), (unit, amount)) in limits {
        text += &format!(
            "\
- key: {name}
  value: {}
  rate_limit: {{name: {name}, unit: {unit}, requests_per_unit: {amount}}}
",
            scalar(&bucket)
        );
    }
    text
}

fn unit(period: Period) -> &'static str {
    match period {
        Period::Hour => "hour",
        Period::Day => "day",
        Period::Week => "week",
        Period::Month => "month",
        Period::Year => "year",
    }
}

/// The name of Envoy's filter, which a virtual host configures by it.
pub(super) const FILTER: &str = "aoai-limits";

/// Envoy's filter, behind that of the gateway stage; off by default, where a virtual host enables it.
pub(super) fn filter(config: &Config, is_off: bool) -> String {
    let Some(store) = store(config) else {
        return String::new();
    };
    let off = if is_off { OFF } else { "" };
    let (cluster, deny) = (scalar(&store.cluster), store.on_error == OnStoreError::Deny);
    format!(
        "\
# Asks the service of limits by what the filter before has left, and charges it at the end.
- name: {FILTER}
{off}  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
    domain: {DOMAIN}
    timeout: {TIMEOUT}
    failure_mode_deny: {deny}
    status_on_error: {{code: ServiceUnavailable}}
    enable_x_ratelimit_headers: DRAFT_VERSION_03
    rate_limit_service:
      transport_api_version: V3
      grpc_service: {{envoy_grpc: {{cluster_name: {cluster}}}}}
"
    )
}

/// What the filter asks and charges, by its name, as the virtual host has it.
pub(super) fn per_host(config: &Config) -> String {
    if store(config).is_none() {
        return String::new();
    }
    let mut text = format!(
        "\
{FILTER}:
  \"@type\": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute
  rate_limits:
  # Before the request: whether tokens are left, and one request more.
"
    );
    let asked = [
        (QUOTA, access_log::QUOTA, "{number: 0}"),
        (TOKENS, access_log::TOKEN_LIMIT, "{number: 0}"),
        (REQUESTS, access_log::REQUEST_LIMIT, "{number: 1}"),
    ];
    for (key, state, hits) in asked {
        text += &format!(
            "  \
  - actions:
    - &{key}
      extension:
        name: envoy.rate_limit_descriptors.expr
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor
          descriptor_key: {key}
          text: \"filter_state['wasm.{state}']\"
    hits_addend: {hits}
"
        );
    }
    text += "  # After the response: the tokens that it has used.\n";
    for key in [QUOTA, TOKENS] {
        text += &format!(
            "  \
  - actions: [*{key}]
    hits_addend: {{format: \"%FILTER_STATE(wasm.{}:PLAIN)%\"}}
    apply_on_stream_done: true
",
            access_log::TOKENS
        );
    }
    text
}
