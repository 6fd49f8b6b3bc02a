//! The models that a subscription may use are listed from the configuration: no backend is asked, and no token
//! is needed.

use std::rc::Rc;

use serde_json::{json, Value};

use crate::host::{Process, Request, Worker};
use crate::regions::{digest, document};

const SOME: &str = "k-some";
const ALL: &str = "k-all";
const RESOURCES: &str = "k-resources";

/// A worker without a token.
fn started() -> (Rc<Process>, Rc<Worker>) {
    let mut document = document();
    document["subscriptions"] = json!([
        {"id": "some", "keys": [digest(SOME)], "models": ["single", "m"]},
        {"id": "all", "keys": [digest(ALL)], "models": ["*"], "operations": ["*"]},
        {"id": "resources", "keys": [digest(RESOURCES)], "models": ["*"], "operations": ["resources"]},
    ]);
    let process = Process::new();
    let worker = Worker::new(&process, &document);
    (process, worker)
}

fn get(path: &str, key: &str) -> Request {
    Request::new("GET", path).header("api-key", key)
}

/// What the caller is told, and the body.
fn ask(worker: &Rc<Worker>, request: &Request) -> (String, Value) {
    let call = worker.call(request);
    assert_eq!(call.response_header("content-type").as_deref(), Some("application/json"));
    assert!(call.response().is_complete);
    (call.told(), serde_json::from_slice(&call.response().body).unwrap())
}

/// As OpenAI describes a model.
fn v1(id: &str) -> Value {
    json!({"id": id, "object": "model", "created": 0, "owned_by": "azure-openai"})
}

/// As Azure does.
fn dated(id: &str) -> Value {
    json!({"id": id, "object": "model", "status": "succeeded", "capabilities": {"inference": true}})
}

#[test]
fn a_subscriptions_own_models_are_listed_in_the_form_of_the_path() {
    let (process, worker) = started();
    let list = |models: Vec<Value>| json!({"object": "list", "data": models});
    for (path, key, expected) in [
        ("/openai/v1/models", SOME, list(vec![v1("m"), v1("single")])),
        ("/openai/v1/models?limit=1", ALL, list(vec![v1("m"), v1("n"), v1("single")])),
        ("/openai/models?api-version=2024-10-21", SOME, list(vec![dated("m"), dated("single")])),
        ("/OpenAI//Models/", ALL, list(vec![dated("m"), dated("n"), dated("single")])),
        ("/openai/v1/models/m", SOME, v1("m")),
        ("/openai/models/single?api-version=2024-10-21", ALL, dated("single")),
    ] {
        assert_eq!(ask(&worker, &get(path, key)), ("200".to_owned(), expected), "{path}");
    }
    assert_eq!(process.arrived(), []);
    assert_eq!(
        process.requests_counted(),
        ["aoai_requests_total.outcome.models_listed.backend.none 6"]
    );
}

#[test]
fn a_model_that_a_subscription_may_not_use_is_not_shown() {
    let (process, worker) = started();
    for (path, key, told) in [
        ("/openai/v1/models/n", SOME, "403 model_not_allowed"),
        ("/openai/models/n", SOME, "403 model_not_allowed"),
        ("/openai/v1/models/none", ALL, "404 unknown_model"),
        ("/openai/v1/models/M", ALL, "404 unknown_model"),
        ("/openai/v1/models", "k-nobody", "401 unknown_key"),
        ("/openai/v1/models", RESOURCES, "403 operation_not_allowed"),
    ] {
        assert_eq!(ask(&worker, &get(path, key)).0, told, "{path}");
    }
    assert_eq!(process.arrived(), []);
    assert_eq!(process.counter("aoai_requests_total.outcome.models_listed.backend.none"), 0);
}

#[test]
fn other_methods_go_to_the_subscriptions_default_backend() {
    let (process, worker) = started();
    worker.sign_in();
    let request = |method| Request::new(method, "/openai/v1/models/m").header("api-key", ALL);
    for method in ["HEAD", "DELETE"] {
        assert!(worker.ask(&request(method)).starts_with("200"), "{method}");
        assert_eq!(process.asked().split(' ').count(), 1, "{method}");
    }
    let forbidden = Request::new("DELETE", "/openai/v1/models/m").header("api-key", SOME);
    assert_eq!(worker.ask(&forbidden), "403 operation_not_allowed");
}
