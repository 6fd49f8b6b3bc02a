//! Heads of requests: paths, queries, keys, and what leaves the gateway for them.

use std::borrow::Cow;

use aoai_filter::config::Config;
use aoai_filter::gateway::{admit, Step};
use aoai_filter::head::Head;
use aoai_filter::health::Health;
use aoai_filter::key::is_key;
use aoai_filter::target::{without_keys, write_renamed, Query, Target};
use proptest::prelude::*;

use crate::mutation::{like, text_like};
use crate::{budget, now};

pub(crate) const KEY: &str = "aoai_the-key";

const PATHS: &[&str] = &[
    "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
    "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21&api-key=aoai_the-key",
    "/openai/v1/responses/resp_1?include[]=a&subscription%2Dkey=aoai_the-key&x=a+b%20c",
    "/openai/v1/realtime?model=gpt-4o&api-key=aoai_the-key",
    "/openai/realtime?api-version=2024-10-01-preview&deployment=gp%74-4o",
    "/openai//v1/./chat/%63ompletions",
];

fn names_a_key(query: Query<'_>) -> bool {
    query.parameters().any(is_key)
}

/// The query of a path that may be nothing else.
fn names_a_key_somewhere(path: &[u8]) -> bool {
    let start = path.iter().position(|byte| *byte == b'?');
    let mut whole = b"/".to_vec();
    whole.extend_from_slice(start.map(|start| &path[start..]).unwrap_or_default());
    Target::parse(&whole).is_ok_and(|target| names_a_key(target.query()))
}

/// What stands between the `&` of a query.
fn raw_query(path: &[u8]) -> Vec<&[u8]> {
    let start = path.iter().position(|byte| *byte == b'?');
    let query = start.map(|start| path[start + 1..].split(|byte| *byte == b'&'));
    query.into_iter().flatten().collect()
}

fn segments<'t>(target: &'t Target<'_>) -> Vec<&'t str> {
    target.segments().iter().map(Cow::as_ref).collect()
}

pub(crate) fn config() -> Config {
    let digest = aoai_filter::digest::Digest::of(KEY.as_bytes());
    let document = serde_json::json!({
        "identity": {"managed_identity": {"cluster": "imds"}},
        "subscriptions": [
            {"id": "a", "keys": [digest.to_string()], "models": ["*"], "operations": ["*"]}],
        "backends": [
            {"name": "one", "endpoint": "https://contoso-one.openai.azure.com"},
            {"name": "two", "endpoint": "https://contoso-two.openai.azure.com"}],
        "models": [
            {"name": "gpt-4o", "backends": [{"backend": "one", "deployment": "deployed"}]},
            {"name": "pooled", "backends": [{"backend": "one"}, {"backend": "two"}]}],
    });
    Config::from_json(document.to_string().as_bytes()).unwrap()
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

        let written = write_renamed(&target, None);
        let again = Target::parse(&written).expect("what is written can be read");
        prop_assert_eq!(segments(&again), segments(&target));
        prop_assert!(!names_a_key(again.query()));
        let both = target.query().parameters().zip(parts);
        let kept: Vec<&[u8]> = both.filter(|(one, _)| !is_key(*one)).map(|(_, raw)| raw).collect();
        prop_assert_eq!(raw_query(&written), kept, "the others keep their bytes");
        prop_assert_eq!(write_renamed(&again, None), written, "twice is once");
    }

    #[test]
    fn keys_leave_every_path(path in like(PATHS)) {
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
        let mut pairs = vec![
            (":method".to_owned(), method.as_bytes().to_vec()),
            (":path".to_owned(), path),
            ("authorization".to_owned(), authorization),
            ("content-length".to_owned(), length),
            ("content-type".to_owned(), kind.into_bytes()),
            ("x-aoai-cluster".to_owned(), b"azure_identity".to_vec()),
        ];
        pairs.extend(key.map(|key| ("api-key".to_owned(), key)));
        let head = Head::read(&pairs);
        prop_assert!(head.remove.contains(&"x-aoai-cluster"));
        let config = config();
        match admit(&config, &Health::default(), &head, ended, now()) {
            Ok(Step::Send(dispatch)) => {
                prop_assert!(head.keys.contains(&KEY.as_bytes()) || names_a_key_somewhere(head.path));
                let written = dispatch.path.as_deref().unwrap_or(head.path);
                prop_assert!(!names_a_key_somewhere(written), "no key leaves");
                prop_assert!(Target::parse(written).is_ok());
            }
            Ok(Step::Read(_)) => prop_assert!(!ended),
            Err(answer) => prop_assert!(!answer.body().contains(KEY)),
        }
    }
}
