//! What the bodies of one subscription take of the worker's buffer is bounded, and leaves room for others.

use std::rc::Rc;

use serde_json::json;

use crate::host::{Call, Process, Request, Worker};
use crate::regions::{digest, document, seconds, CHAT};

const LIMIT: usize = 64 << 10;
const BUFFER: usize = 6 * LIMIT;
const KEYS: [&str; 4] = ["k-a", "k-b", "k-c", "k-d"];

fn buffered(is_signed_in: bool) -> Rc<Worker> {
    let mut document = document();
    document["listener"] = json!({"body_limit": "64KiB", "request_buffer": "384KiB"});
    document["subscriptions"] = KEYS
        .map(|key| json!({"id": format!("of-{key}"), "keys": [digest(key)], "models": ["*"]}))
        .into();
    let process = Process::new();
    if is_signed_in {
        Worker::ready(&process, &document)
    } else {
        Worker::new(&process, &document)
    }
}

fn post(key: &str, path: &str, body: impl AsRef<[u8]>) -> Request {
    Request::new("POST", path).header("api-key", key).body(body)
}

/// Begins a request whose body of so many bytes has not named its model yet.
fn hold(worker: &Rc<Worker>, key: &str, size: usize) -> Rc<Call> {
    let call = worker.begin(&post(key, CHAT, ""), false);
    call.piece(&without_model(size), false);
    call
}

fn without_model(size: usize) -> Vec<u8> {
    let mut body = br#"{"messages":""#.to_vec();
    body.resize(size, b'x');
    body
}

/// How many bodies of a subscription are held until one is refused.
fn held(worker: &Rc<Worker>, key: &str, calls: &mut Vec<Rc<Call>>) -> usize {
    let before = calls.len();
    loop {
        let call = hold(worker, key, LIMIT);
        worker.pass(seconds(2));
        match call.told().as_str() {
            "" => calls.push(call),
            told => {
                assert_eq!(told, "503 request_buffer_full");
                assert_eq!(call.response_header("retry-after").as_deref(), Some("1"));
                return calls.len() - before;
            }
        }
    }
}

#[test]
fn a_subscription_may_buffer_as_much_as_it_leaves_free() {
    let worker = buffered(true);
    let mut calls = Vec::new();
    assert_eq!(held(&worker, KEYS[0], &mut calls), 3, "half of it, alone");
    assert_eq!(held(&worker, KEYS[1], &mut calls), 1, "of the other half half");
    assert_eq!(worker.buffer.used(), 4 * LIMIT as u64);
    // Smaller ones find room, and other requests need none.
    assert_eq!(hold(&worker, KEYS[2], LIMIT / 2).told(), "");
    let named = format!(r#"{{"model":"m","messages":"{}"}}"#, "x".repeat(LIMIT));
    for key in KEYS {
        assert_eq!(worker.ask(&post(key, CHAT, &named)), "200 aa 1", "{key}");
        let path = "/openai/deployments/m/embeddings?api-version=2024-10-21";
        assert_eq!(worker.ask(&post(key, path, &named)), "200 aa 1", "{key}");
    }
}

#[test]
fn a_body_that_grows_beyond_the_buffer_is_refused_and_never_arrives() {
    let worker = buffered(true);
    let call = worker.begin(&post(KEYS[0], CHAT, ""), false);
    let body = without_model(LIMIT / 2);
    call.piece(&body, false);
    for _ in 0..5 {
        call.piece(&vec![b'x'; LIMIT / 2], false);
    }
    assert_eq!((call.told().as_str(), worker.buffer.used()), ("", BUFFER as u64 / 2));
    call.piece(b"x", false);
    assert_eq!(worker.buffer.used(), 0, "what is refused is not held");
    call.piece(br#"","model":"m"}"#, true);
    assert_eq!(call.told(), "503 request_buffer_full");
    assert_eq!(worker.process.arrived(), []);
}

#[test]
fn the_buffer_is_given_back_however_a_request_ends() {
    let worker = buffered(true);
    let mut calls: Vec<_> = (0..3).map(|_| hold(&worker, KEYS[0], LIMIT)).collect();
    assert_eq!(worker.buffer.used(), 3 * LIMIT as u64);
    // It is forwarded.
    calls.remove(0).piece(br#"","model":"m"}"#, true);
    assert_eq!(worker.buffer.used(), 2 * LIMIT as u64);
    // It is refused.
    calls.remove(0).piece(br#"","model":"unknown"}"#, true);
    assert_eq!(worker.buffer.used(), LIMIT as u64);
    // Its caller leaves.
    calls.remove(0).leave();
    assert_eq!(worker.buffer.used(), 0);
}

#[test]
fn bodies_that_wait_for_a_token_are_buffered_too() {
    let worker = buffered(false);
    let named = format!(r#"{{"model":"m","messages":"{}"}}"#, "x".repeat(LIMIT - 27));
    let send = |key: &str| worker.call(&post(key, CHAT, &named));
    let calls: Vec<_> = (0..4).map(|_| send(KEYS[0])).collect();
    let told: Vec<_> = calls.iter().map(|call| call.told()).collect();
    assert_eq!(told, ["", "", "", "503 request_buffer_full"]);
    let other = send(KEYS[1]);
    worker.sign_in();
    for call in calls.iter().take(3).chain([&other]) {
        assert_eq!(call.told(), "200 aa 1");
    }
    assert_eq!(worker.buffer.used(), 0);
}

#[test]
fn what_is_buffered_counts_across_configurations() {
    let worker = buffered(true);
    let mut calls = Vec::new();
    assert_eq!(held(&worker, KEYS[0], &mut calls), 3);
    let mut document = document();
    document["listener"] = json!({"body_limit": "64KiB", "request_buffer": "256KiB"});
    document["subscriptions"] =
        json!([{"id": "of-k-a", "keys": [digest(KEYS[0])], "models": ["*"]}]);
    worker.replace_configuration(&document);
    assert_eq!(held(&worker, KEYS[0], &mut calls), 0);
}
