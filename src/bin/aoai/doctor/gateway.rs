//! The gateway itself: whether callers reach it, which document it has, and whether Envoy has all of the document's
//! clusters.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use aoai_filter::config::Config;
use aoai_filter::identity::Request;

use super::address::Address;
use super::context::Context;
use super::http::{self, Response};
use super::network::{self, Place};
use super::report::{Step, Verdict};
use super::tls;
use crate::render::pools::pools;

/// The metric that has a document's version.
const TAKEN: &str = "aoai_document_taken_timestamp_seconds";

/// The metric that Envoy has of each cluster.
const CLUSTER: &str = "envoy_cluster_membership_total{";

/// As much of the metrics as is read: those of thousands of clusters.
const LONGEST_METRICS: u64 = 256 * 1024 * 1024;

/// As many names of clusters as a line shows.
const SHOWN: usize = 5;

/// Examines what the options say where to find.
pub(super) fn examine(config: &Config, context: &Context<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(gateway) = &context.options.gateway {
        steps.extend(call(gateway, context));
    }
    match &context.options.metrics {
        Some(metrics) => steps.extend(read_metrics(metrics, config, context)),
        None if context.options.gateway.is_some() => {
            let text = "skipped: --metrics says where Envoy's metrics are, which have its version";
            steps.push(Step::new(Verdict::Skip, "gateway", "document", text));
        }
        None => {}
    }
    steps
}

/// A request without a key: the gateway itself replies to it, and no backend is asked.
fn call(gateway: &Address, context: &Context<'_>) -> Vec<Step> {
    let (mut steps, response) = get(gateway, "/openai/v1/models", http::LONGEST_BODY, context);
    steps.push(match response {
        Ok(response) => {
            let (verdict, text) = judge(&response, &gateway.host);
            Step::new(verdict, "gateway", "reply", text).with("status", response.status)
        }
        Err(step) => step.named("reply"),
    });
    steps
}

/// The verdict on a response to a request without a key.
fn judge(response: &Response, host: &str) -> (Verdict, String) {
    let reason = serde_json::from_slice::<serde_json::Value>(&response.body).ok();
    let reason = reason.and_then(|body| Some(body.get("error")?.get("type")?.as_str()?.to_owned()));
    match (response.status, reason.as_deref()) {
        (401, Some("missing_key")) => {
            (Verdict::Ok, "responds, and asks for a subscription key".to_owned())
        }
        (404, _) => (
            Verdict::Fail,
            format!(
                "responds with 404, and not as the gateway does: Envoy has no virtual host for {host}, or its \
                 routes are not the gateway's"
            ),
        ),
        (500, _) => (
            Verdict::Fail,
            "responds with 500, and not as the gateway does: the filter has not started. Envoy's log has the reason \
             (aoai explain < log)"
                .to_owned(),
        ),
        (status, _) => (
            Verdict::Fail,
            format!(
                "responds with {status} to a request without a key, and not as the gateway does: another service may \
                 respond in its place, or in front of it"
            ),
        ),
    }
}

/// The version of the document that Envoy has, and its clusters, by its metrics.
fn read_metrics(at: &Address, config: &Config, context: &Context<'_>) -> Vec<Step> {
    let path = if at.path == "/" { "/metrics" } else { &at.path };
    let (mut steps, response) = get(at, path, LONGEST_METRICS, context);
    let step = |what: &str, (verdict, text)| Step::new(verdict, "gateway", what, text);
    match response {
        Ok(Response { status: 200, body, .. }) => {
            let metrics = String::from_utf8_lossy(&body);
            let document = step("document", judge_document(&metrics, &config.version));
            steps.push(document.with("version", config.version.as_str()));
            steps.push(step("clusters", judge_clusters(&metrics, config)));
        }
        Ok(Response { status, .. }) => {
            let text = format!("{path} responds with {status}, and has no metrics: see --metrics");
            steps.push(step("document", (Verdict::Fail, text)));
        }
        Err(step) => steps.push(step.named("document")),
    }
    steps
}

/// The verdict on which document Envoy has taken last.
fn judge_document(metrics: &str, version: &str) -> (Verdict, String) {
    let taken = metrics.lines().filter_map(document_taken);
    let mut taken: Vec<(u64, &str)> = taken.collect();
    taken.sort_unstable();
    let at = |seconds: u64| {
        let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        time.map_or_else(String::new, |time| humantime::format_rfc3339_seconds(time).to_string())
    };
    let ours = taken.iter().find(|(_, one)| *one == version);
    match (taken.last(), ours) {
        (None, _) => (
            Verdict::Fail,
            format!("the metrics lack {TAKEN}: the gateway has taken no document yet, or is another version's"),
        ),
        (Some((last, _)), Some((since, _))) if since == last => {
            (Verdict::Ok, format!("has this document, version {version}, since {}", at(*since)))
        }
        (Some((since, other)), ours) => {
            let before = match ours {
                Some((before, _)) => format!("it had this one from {} on", at(*before)),
                None => "it has not taken this one: see its log, or render and deploy it".to_owned(),
            };
            let text = format!(
                "has another document, version {other}, since {}; this one is version {version}, and {before}",
                at(*since)
            );
            (Verdict::Fail, text)
        }
    }
}

/// When a document was taken, and its version, by a line of the metrics: `…{version="1a2b"} 1767225600`, or without
/// `stats_tags`, `…_version_1a2b{} 1767225600`.
fn document_taken(line: &str) -> Option<(u64, &str)> {
    let (_, rest) = line.split_once(TAKEN).filter(|_| !line.starts_with('#'))?;
    let (_, rest) = rest.split_once("version")?;
    let version = rest.trim_start_matches(['=', '"', '_']);
    let end = version.find(|c: char| !c.is_ascii_hexdigit())?;
    let (version, rest) = version.split_at_checked(end)?;
    Some((rest.rsplit(' ').next()?.parse().ok()?, version))
}

/// The verdict on whether Envoy has the clusters of all backends and pools.
fn judge_clusters(metrics: &str, config: &Config) -> (Verdict, String) {
    let has: BTreeSet<&str> = metrics.lines().filter_map(cluster).collect();
    if has.is_empty() {
        let text = "skipped: the metrics have no clusters (Istio leaves them out by default)";
        return (Verdict::Skip, text.to_owned());
    }
    let pools = pools(config).into_iter().map(|pool| pool.name);
    let needed: Vec<_> =
        config.backends.iter().map(|backend| backend.cluster.clone()).chain(pools).collect();
    let missing: Vec<_> = needed.iter().filter(|name| !has.contains(name.as_str())).collect();
    let shown: Vec<_> = missing.iter().take(SHOWN).map(|name| name.as_str()).collect();
    match missing.len() {
        0 => (Verdict::Ok, format!("has all {} clusters of backends and pools", needed.len())),
        count => {
            let and = if count > SHOWN { ", …" } else { "" };
            let text = format!(
                "lacks {count} of {} clusters of backends and pools: {}{and}. Render the document again, and deploy \
                 all of it",
                needed.len(),
                shown.join(", ")
            );
            (Verdict::Fail, text)
        }
    }
}

/// The name of the cluster that a line of the metrics is about.
fn cluster(line: &str) -> Option<&str> {
    let (_, name) = line.strip_prefix(CLUSTER)?.split_once("envoy_cluster_name=\"")?;
    Some(name.split_once('"')?.0)
}

/// A request, and the steps to where it goes. Where it cannot be made or has no response, the step that says so.
fn get(
    at: &Address,
    path: &str,
    longest: u64,
    context: &Context<'_>,
) -> (Vec<Step>, Result<Response, Step>) {
    const SUBJECT: &str = "gateway";
    let timeout = context.options.timeout;
    let skipped = || Err(Step::new(Verdict::Skip, SUBJECT, "", "skipped: a previous step failed"));
    let (dns, address) = network::look_up(SUBJECT, &at.host, at.port, timeout);
    let mut steps = vec![dns];
    let Some(address) = address else {
        return (steps, skipped());
    };
    if at.tls {
        let roots = &context.root_certificates;
        let step = tls::handshake(SUBJECT, &at.host, address, roots, timeout);
        let is_failed = step.verdict == Verdict::Fail;
        steps.push(step);
        if is_failed {
            return (steps, skipped());
        }
    }
    let request = Request {
        cluster: String::new(),
        headers: vec![
            (":method", "GET".to_owned()),
            (":path", path.to_owned()),
            (":authority", at.authority.clone()),
        ],
        body: None,
    };
    let place = Place { address, tls: at.tls };
    let response = http::send(&request, None, place, longest, &context.root_certificates, timeout);
    let response = response.map_err(|error| {
        let text = format!("{address} {}", error.with_file(&context.options.ca));
        Step::new(Verdict::Fail, SUBJECT, "", text)
    });
    (steps, response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_the_one_that_was_taken_last() {
        use Verdict::{Fail, Ok};
        let tagged = |version, at| {
            format!("aoai_document_taken_timestamp_seconds{{version=\"{version}\"}} {at}\n")
        };
        let ours = tagged("a1b2", 1_767_225_600);
        let oldest = format!(
            "envoy_cluster_wasmcustom_{}",
            ours.replace('{', "{envoy_cluster_name=\"aoai/a>b\",")
        );
        let untagged =
            "wasmcustom_aoai_document_taken_timestamp_seconds_version_a1b2{} 1767225600\n"
                .to_owned();
        let since = "has this document, version a1b2, since 2026-01-01T00:00:00Z";
        for (metrics, verdict, text) in [
            (ours.clone(), Ok, since),
            (oldest, Ok, since),
            (untagged, Ok, since),
            (tagged("ffff", 1_767_225_599) + &ours, Ok, since),
            (tagged("ffff", 1_767_225_660) + &ours, Fail, "has another document, version ffff, since 2026-01-01T00:01:00Z; this one is version a1b2, and it had this one from 2026-01-01T00:00:00Z on"),
            (tagged("ffff", 1_767_225_600), Fail, "has another document, version ffff, since 2026-01-01T00:00:00Z; this one is version a1b2, and it has not taken this one: see its log, or render and deploy it"),
            (format!("# TYPE {TAKEN} gauge\n"), Fail, "the metrics lack aoai_document_taken_timestamp_seconds: the gateway has taken no document yet, or is another version's"),
        ] {
            assert_eq!(judge_document(&metrics, "a1b2"), (verdict, text.to_owned()), "{metrics}");
        }
    }
}
