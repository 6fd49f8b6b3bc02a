//! The documents and requests of most tests: a model on three backends, each with a name of its own for the
//! deployment.

use std::rc::Rc;
use std::time::Duration;

use aoai_filter::base::digest::Digest;
use serde_json::{json, Value};

use crate::host::{value, Arrived, Process, Request, Worker};

pub(crate) const KEY: &str = "k-team";
pub(crate) const CHAT: &str = "/openai/v1/chat/completions";
pub(crate) const REGIONS: [&str; 3] = ["aa", "bb", "cc"];

/// A cooldown that outlasts every test.
pub(crate) const LONG: &str = "600000";

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn digest(key: &str) -> String {
    Digest::of(key.as_bytes()).to_string()
}

/// `m` and `n` are on aa, then bb, then cc; `single` is on aa alone.
pub(crate) fn document() -> Value {
    let pool = |name: &str| {
        let placements = REGIONS.iter().zip(0..).map(|(region, priority)| {
            json!({"backend": region, "priority": priority, "deployment": format!("{name}-in-{region}")})
        });
        json!({"name": name, "backends": placements.collect::<Vec<_>>()})
    };
    json!({
        "identity": {"managed_identity": {"cluster": "imds"}},
        "token_wait": "2s",
        // Bodies arrive as they were sent.
        "metering": {"streams": "reported"},
        "failover": {"cooldown": "40s", "longest_cooldown": "60m", "retry_within": "4s"},
        "subscriptions": [{"id": "team", "keys": [digest(KEY)], "models": ["*"], "operations": ["*"]}],
        "backends": REGIONS.map(|name| json!({"name": name, "endpoint": endpoint(name)})),
        "models": [
            pool("m"),
            pool("n"),
            {"name": "single", "backends": [{"backend": "aa", "deployment": "single-in-aa"}]},
        ],
    })
}

/// The same, where bb and cc have another identity than aa.
pub(crate) fn two_identities() -> Value {
    let mut document = document();
    document["identities"] = json!({"others": {"managed_identity": {"cluster": "others"}}});
    for backend in [1, 2] {
        document["backends"][backend]["identity"] = json!("others");
    }
    document
}

pub(crate) fn endpoint(name: &str) -> String {
    format!("https://contoso-{name}.openai.azure.com")
}

/// A process with one worker that has its token.
pub(crate) fn started() -> (Rc<Process>, Rc<Worker>) {
    let process = Process::new();
    let worker = Worker::ready(&process, &document());
    (process, worker)
}

/// A request whose URL names the model.
pub(crate) fn by_url(model: &str) -> Request {
    let path = format!("/openai/deployments/{model}/chat/completions?api-version=2024-10-21");
    Request::new("POST", &path).header("api-key", KEY).body(r#"{"messages":[]}"#)
}

/// A request whose body does.
pub(crate) fn by_body(model: &str) -> Request {
    let body = format!(r#"{{"model":"{model}","messages":[]}}"#);
    Request::new("POST", CHAT).header("api-key", KEY).body(body).content_length()
}

/// A header of a request that has arrived.
pub(crate) fn header(arrived: &Arrived, name: &str) -> String {
    value(&arrived.headers, name).unwrap_or_default()
}

/// Backend, path, token and body of a request that has arrived.
pub(crate) fn seen(arrived: &Arrived) -> [String; 4] {
    let Arrived { backend, headers, body, .. } = arrived;
    assert_eq!(header(arrived, ":authority"), format!("contoso-{backend}.openai.azure.com"));
    let own = headers.iter().find(|(name, _)| name.starts_with("x-aoai-") || name == "api-key");
    assert_eq!(own, None, "nothing of the gateway's own and nothing of the key");
    for (name, _) in headers {
        assert_eq!(headers.iter().filter(|(other, _)| other == name).count(), 1, "{name}");
    }
    if let (Some(length), true) = (value(headers, "content-length"), arrived.complete) {
        assert_eq!(length, body.len().to_string());
    }
    let token = header(arrived, "authorization");
    let token = token.strip_prefix("Bearer ").unwrap().to_owned();
    let body = String::from_utf8_lossy(body).into_owned();
    [backend.clone(), header(arrived, ":path"), token, body]
}
