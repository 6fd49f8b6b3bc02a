//! Heads of requests: paths, queries, keys, and what leaves the gateway for them.

use aoai_filter::config::Config;
use aoai_filter::request::head::Head;
use aoai_filter::request::path::{without_keys, Parameter, Query, Target};
use proptest::prelude::*;

use crate::agreement::{self, segments};
use crate::budget;
use crate::host::{Process, Request, Worker};
use crate::mutation::{like, text_like};

pub(crate) const KEY: &str = "aoai_the-key";

const PATHS: &[&str] = &[
    "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
    "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21&api-key=aoai_the-key",
    "/openai/deployments/pooled/chat/completions?subscription-key=aoai_the-key",
    "/openai/v1/responses/resp_1?include[]=a&subscription%2Dkey=aoai_the-key&x=a+b%20c",
    "/openai/v1/realtime?model=gpt-4o&api-key=aoai_the-key",
    "/openai/realtime?api-version=2024-10-01-preview&deployment=gp%74-4o",
    "/openai//v1/./chat/%63ompletions",
];

fn names_a_key(query: Query<'_>) -> bool {
    query.parameters().any(Parameter::is_key)
}

/// The query of a path that may be nothing else.
fn names_a_key_somewhere(path: &[u8]) -> bool {
    let start = path.iter().position(|byte| *byte == b'?');
    let mut whole = b"/".to_vec();
    whole.extend_from_slice(start.map(|start| &path[start..]).unwrap_or_default());
    Target::parse(&whole).is_ok_and(|target| names_a_key(target.query()))
}

/// What is between the `&` of a query.
fn raw_query(path: &[u8]) -> Vec<&[u8]> {
    let start = path.iter().position(|byte| *byte == b'?');
    let query = start.map(|start| path[start + 1..].split(|byte| *byte == b'&'));
    query.into_iter().flatten().collect()
}

pub(crate) fn document() -> serde_json::Value {
    let digest = aoai_filter::base::digest::Digest::of(KEY.as_bytes());
    serde_json::json!({
        "identity": {"managed_identity": {"cluster": "imds"}},
        "subscriptions": [
            {"id": "a", "keys": [digest.to_string()], "models": ["*"], "operations": ["*"]}],
        "backends": [
            {"name": "one", "endpoint": "https://contoso-one.openai.azure.com"},
            {"name": "two", "endpoint": "https://contoso-two.openai.azure.com"}],
        "models": [
            {"name": "gpt-4o", "backends": [{"backend": "one", "deployment": "deployed"}]},
            {"name": "pooled", "backends": [{"backend": "one"}, {"backend": "two"}]}],
    })
}

pub(crate) fn config() -> Config {
    Config::from_json(document().to_string().as_bytes()).unwrap()
}

proptest! {
    #![proptest_config(budget())]

    #[test]
    fn paths_and_queries(path in like(PATHS)) {
        let Ok(target) = Target::parse(&path) else {
            return Ok(());
        };
        for segment in segments(&target) {
            prop_assert!(!segment.is_empty() && segment != "." && segment != "..");
            prop_assert!(!segment.contains(|c: char| c.is_control() || "/\\%?#".contains(c)));
        }
        let parts = raw_query(&path);
        prop_assert_eq!(target.query().parameters().count(), parts.len(), "nothing is lost");

        let written = target.write(None);
        let again = Target::parse(written.bytes()).expect("what is written can be read");
        prop_assert_eq!(segments(&again), segments(&target));
        prop_assert!(!names_a_key(again.query()));
        let both = target.query().parameters().zip(parts);
        let kept: Vec<&[u8]> = both.filter(|(one, _)| !one.is_key()).map(|(_, raw)| raw).collect();
        prop_assert_eq!(raw_query(written.bytes()), kept, "the others keep their bytes");
        prop_assert_eq!(&again.write(None), &written, "twice is once");
    }

    #[test]
    fn urls_that_leave(path in like(PATHS)) {
        agreement::url(&path);
    }

    #[test]
    fn keys_are_removed_from_every_path(path in like(PATHS)) {
        match without_keys(&path) {
            Some(without) => {
                prop_assert!(!names_a_key_somewhere(&without));
                prop_assert_eq!(without_keys(&without), None);
            }
            None => prop_assert!(!names_a_key_somewhere(&path)),
        }
    }

    #[test]
    fn heads(
        path in like(PATHS),
        method in prop::sample::select(&["GET", "POST", "DELETE", ""][..]),
        authorization in like(&["Bearer aoai_the-key", "bearer  aoai_the-key", "Basic x"]),
        key in prop::option::of(like(&[KEY])),
        length in like(&["12", "0"]),
        kind in text_like(&["application/json", "multipart/form-data; boundary=b"]),
        ended in any::<bool>(),
    ) {
        let request = Request::default()
            .header(":method", method)
            .header(":path", path)
            .header("authorization", authorization)
            .header("content-length", length)
            .header("content-type", kind)
            .header("x-aoai-cluster", "azure_identity");
        let request = key.into_iter().fold(request, |request, key| request.header("api-key", key));
        let head = Head::read(&request.headers);
        prop_assert!(head.remove.contains(&"x-aoai-cluster"));
        let process = Process::new();
        let worker = Worker::ready(&process, &document());
        let call = worker.begin(&request, ended);
        let left = call.request_header(":path").unwrap_or_default();
        prop_assert!(!names_a_key_somewhere(left.as_bytes()), "whatever becomes of it: {}", left);
        prop_assert_eq!(call.request_header("api-key"), None);
        prop_assert_eq!(call.request_header("x-aoai-cluster"), None);
        let response = call.response();
        let arrived = process.arrived();
        if let Some(arrived) = arrived.first() {
            prop_assert!(head.keys.contains(&KEY.as_bytes()) || names_a_key_somewhere(head.path));
            let (_, path) = arrived.headers.iter().find(|(name, _)| name == ":path").unwrap();
            prop_assert!(!names_a_key_somewhere(path), "no key leaves");
            prop_assert!(Target::parse(path).is_ok());
            let (_, token) = arrived.headers.iter().find(|(name, _)| name == "authorization").unwrap();
            prop_assert!(token.starts_with(b"Bearer h.imds."));
        } else if response.headers.is_empty() {
            prop_assert!(!ended, "it waits for its body");
        } else {
            let body = String::from_utf8(response.body).unwrap();
            prop_assert!(!body.contains(KEY));
        }
        call.leave();
        prop_assert_eq!(worker.requests.len(), 0);
    }
}
