//! On Your Data: a chat completion with data sources needs the grant `resources`, wherever its model is named.

use std::rc::Rc;
use std::time::Duration;

use serde_json::json;

use crate::host::{Process, Request, Worker};
use crate::regions::{by_url, digest, document, CHAT, KEY};

const GRANTED: &str = "k-granted";
const SOURCES: &str =
    r#"{"messages":[{"role":"user","content":"hi"}],"data_sources":[{"type":"azure_search"}]}"#;
const NONE: &str = r#"{"messages":[{"content":"data_sources"}],"model":"Whatever","Model":1}"#;
const EMBEDDINGS: &str = "/openai/deployments/m/embeddings?api-version=2024-10-21";
const EXTENSIONS: &str =
    "/openai/deployments/m/extensions/chat/completions?api-version=2023-12-01-preview";

/// A worker with its token, and two subscriptions: one has plain inference, the other all grants.
fn started() -> (Rc<Process>, Rc<Worker>) {
    let mut document = document();
    document["subscriptions"] = json!([
        {"id": "plain", "keys": [digest(KEY)], "models": ["*"]},
        {"id": "granted", "keys": [digest(GRANTED)], "models": ["*"], "operations": ["*"]},
    ]);
    let process = Process::new();
    let worker = Worker::ready(&process, &document);
    (process, worker)
}

/// The same body from the subscription that has the grant.
fn granted(request: &Request) -> Request {
    let mut request = request.clone();
    request.headers.retain(|(name, _)| name != "api-key");
    request.header("api-key", GRANTED)
}

/// Sends a request in pieces of several sizes. The body must arrive as it is.
fn assert_passes(name: &str, request: &Request) {
    for size in [1, 7, usize::MAX] {
        let (process, worker) = started();
        let call = worker.call_in_pieces(request, size);
        assert!(call.told().starts_with("200 aa"), "{name}, in pieces of {size}: {}", call.told());
        let [arrived] = &process.arrived()[..] else { panic!("{name}: one request") };
        assert!(arrived.complete && arrived.body == request.body, "{name}, in pieces of {size}");
    }
}

/// Sends a request in pieces of several sizes, of which the last is marked as such or not. The body must not
/// arrive whole.
fn assert_refused(name: &str, request: &Request, told: &str) {
    for size in [1, 7, usize::MAX] {
        let (process, worker) = started();
        let call = worker.call_in_pieces(request, size);
        assert_eq!(call.told(), told, "{name}, in pieces of {size}");
        assert!(!process.arrived().iter().any(|one| one.complete), "{name}, in pieces of {size}");
        let (process, worker) = started();
        let request = request.clone().content_length();
        let call = worker.begin(&request, false);
        request.body.chunks(size).for_each(|piece| call.piece(piece, false));
        // A body whose end is not marked is received for a while.
        worker.pass(Duration::from_secs(10));
        assert_eq!(call.told(), told, "{name}, in pieces of {size}, with a length");
        for arrived in process.arrived() {
            assert!(arrived.body.len() < request.body.len(), "{name}, in pieces of {size}");
        }
        call.leave();
    }
}

#[test]
fn a_chat_with_data_sources_needs_the_grant_wherever_its_model_is_named() {
    let post =
        |path: &str, body: &str| Request::new("POST", path).header("api-key", KEY).body(body);
    let named = SOURCES.replacen('{', r#"{"model":"m-in-aa","#, 1).replace("m-in-aa", "m");
    for (name, request) in [
        ("URL, in a pool", by_url("m").body(SOURCES)),
        ("URL, on one backend", by_url("single").body(SOURCES)),
        ("path in another case", post("/OpenAI/Deployments/m/Chat/Completions", SOURCES)),
        ("body", post(CHAT, &named)),
        ("body, dated", post("/openai/chat/completions?api-version=1", &named)),
        ("body, model last", post(CHAT, &SOURCES.replace("}]}", r#"}],"model":"m"}"#))),
    ] {
        assert_refused(name, &request, "403 operation_not_allowed");
        let (process, worker) = started();
        let call = worker.call(&granted(&request));
        assert!(call.told().starts_with("200 aa"), "{name}: {}", call.told());
        let [arrived] = &process.arrived()[..] else { panic!("{name}: one request") };
        assert!(arrived.complete && arrived.body.windows(12).any(|part| part == b"data_sources"));
    }
    let extensions = by_url("m").path(EXTENSIONS).body(NONE);
    assert_refused("path of its own", &extensions, "403 operation_not_allowed");
}

#[test]
fn the_reply_names_the_grant_and_the_field() {
    let (_, worker) = started();
    let call = worker.call(&by_url("m").body(SOURCES));
    let text = String::from_utf8(call.response().body).unwrap();
    let message = serde_json::from_str::<serde_json::Value>(&text).unwrap()["error"].take();
    assert_eq!(message["type"], "operation_not_allowed");
    for word in ["data_sources", "resources\\\""] {
        assert!(message["message"].to_string().contains(word), "{message}");
    }
}

#[test]
fn a_chat_without_data_sources_passes_whatever_type_its_client_gives_it() {
    assert_passes("no type", &by_url("m").body(NONE));
    for kind in [
        "application/json",
        "application/json; charset=UTF-8",
        "application/json;charset=utf8",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json, application/json",
    ] {
        assert_passes(kind, &by_url("single").header("content-type", kind).body(NONE));
    }
    let plain = by_url("m").header("content-encoding", "identity");
    assert_passes("not encoded", &plain.body(format!(" {NONE}\r\n")));
    let (process, worker) = started();
    assert!(worker.ask(&by_url("m").body("")).starts_with("200 aa"), "no body");
    assert!(process.arrived()[0].complete);
}

#[test]
fn a_chat_body_that_cannot_be_checked_is_refused() {
    let typed = |kind: &str, body: &str| by_url("m").header("content-type", kind).body(body);
    for (name, request) in [
        ("compressed", by_url("m").header("content-encoding", "gzip").body("\u{1f}")),
        ("compressed, it is said", by_url("m").header("content-encoding", "br").body(NONE)),
        ("charset", typed("application/json; charset=utf-16", NONE)),
        ("two types", typed("application/json", NONE).header("content-type", "text/plain")),
        ("form", typed("multipart/form-data; boundary=b", "--b--")),
        ("no JSON", by_url("single").body("data_sources=x")),
        ("cut", by_url("m").body(r#"{"messages":["#)),
        ("comment", by_url("m").body(r#"{"a":1/*"*/,"data_sources":[]/*"*/}"#)),
        ("UTF-16", by_url("m").body("{\0\"\0a\0\"\0}\0")),
    ] {
        assert_refused(name, &request, "400 unreadable_body");
        assert_passes(name, &granted(&request));
    }
}

#[test]
fn bodies_of_other_operations_are_not_read_where_the_url_names_the_model() {
    for body in [SOURCES, "no JSON"] {
        let request = by_url("m").path(EMBEDDINGS).header("content-encoding", "gzip").body(body);
        assert_passes(body, &request);
    }
}

#[test]
fn data_sources_are_seen_while_the_request_waits_for_its_token_and_in_front_of_trailers() {
    let process = Process::new();
    let mut document = document();
    document["subscriptions"][0]["operations"] = json!(["inference"]);
    let worker = Worker::new(&process, &document);
    let call = worker.call(&by_url("m").body(SOURCES));
    assert_eq!(call.told(), "403 operation_not_allowed");
    worker.sign_in();
    assert_eq!(process.arrived(), []);

    let call = worker.begin(&by_url("m"), false);
    call.piece(br#"{"messages":["#, false);
    call.trailers(&[("x", "y")]);
    assert_eq!(call.told(), "400 unreadable_body");
    assert!(!process.arrived().iter().any(|one| one.complete));
}
