//! What one subscription's requests do to those of others: nothing.

use std::rc::Rc;

use serde_json::json;

use crate::host::{Process, Reaction, Request, Response, Worker};
use crate::regions::{by_url, digest, document, KEY, REGIONS};

const OTHER_KEY: &str = "k-other";

/// A worker that two subscriptions use.
fn shared() -> (Rc<Process>, Rc<Worker>) {
    let mut document = document();
    let other = json!({"id": "other", "keys": [digest(OTHER_KEY)], "models": ["*"]});
    document["subscriptions"].as_array_mut().unwrap().push(other);
    let process = Process::new();
    let worker = Worker::ready(&process, &document);
    (process, worker)
}

/// A request for the model m of either subscription.
fn of(key: &str) -> Request {
    let mut request = by_url("m");
    for (name, value) in &mut request.headers {
        if name == "api-key" {
            *value = key.as_bytes().to_vec();
        }
    }
    request
}

fn everywhere(process: &Rc<Process>, response: &Response) {
    for region in REGIONS {
        process.script(region, [response.clone()]);
    }
}

#[test]
fn a_request_that_is_larger_than_the_quota_puts_no_backend_in_cooldown() {
    for seconds in ["3600", "86400"] {
        let (process, worker) = shared();
        for _ in 0..5 {
            process.script("aa", [Response::new(429).header("retry-after", seconds)]);
            let call = worker.call(&of(KEY));
            assert_eq!(call.told(), "429 aa 1", "it would be larger elsewhere, too");
            assert_eq!(call.response_header("retry-after").as_deref(), Some(seconds));
        }
        assert_eq!(worker.ask(&of(OTHER_KEY)), "200 aa 1");
    }
}

#[test]
fn a_request_that_is_throttled_everywhere_without_a_time_puts_one_backend_in_cooldown() {
    let (process, worker) = shared();
    everywhere(&process, &Response::new(429));
    assert_eq!(worker.ask(&of(KEY)), "429 cc 3");
    assert_eq!(worker.ask(&of(OTHER_KEY)), "200 bb 1");
    assert_eq!(process.counter("aoai_cooldowns_total.backend.aa"), 1);
    assert_eq!(process.counter("aoai_cooldowns_total.backend.bb"), 0);
    assert_eq!(process.counter("aoai_cooldowns_total.backend.cc"), 0);
}

#[test]
fn requests_that_fail_everywhere_put_no_backend_in_cooldown() {
    for trouble in [Reaction::status(500), Reaction::reset()] {
        let (process, worker) = shared();
        for _ in 0..10 {
            for region in REGIONS {
                process.script(region, [trouble.clone()]);
            }
            assert!(worker.ask(&of(KEY)).starts_with("50"));
        }
        assert_eq!(process.counter("aoai_attempts_total.backend.aa.result.failed"), 10);
        assert_eq!(worker.ask(&of(OTHER_KEY)), "200 aa 1");
    }
}

#[test]
fn failures_that_several_subscriptions_meet_are_the_backends() {
    let (process, worker) = shared();
    for key in [KEY, OTHER_KEY, KEY, OTHER_KEY] {
        everywhere(&process, &Response::new(500));
        assert_eq!(worker.ask(&of(key)), "500 cc 3");
    }
    assert_eq!(worker.ask(&of(OTHER_KEY)), "429 all_backends_throttled");
}

#[test]
fn a_failure_counts_where_another_backend_has_served_the_request() {
    for (trouble, elsewhere, told) in [
        (Reaction::status(500), 200, "200 bb 1"),
        (Reaction::reset(), 200, "200 bb 1"),
        // What the other one refuses may be what the first one failed of.
        (Reaction::status(500), 400, "200 aa 1"),
    ] {
        let (process, worker) = shared();
        for _ in 0..3 {
            process.script("aa", [trouble.clone()]);
            process.script("bb", [Response::new(elsewhere)]);
            assert_eq!(worker.ask(&of(KEY)), format!("{elsewhere} bb 2"));
        }
        assert_eq!(worker.ask(&of(OTHER_KEY)), told, "{elsewhere}");
    }
}

#[test]
fn a_stalled_upload_is_not_the_backends_failure() {
    for (connections_fail, told) in [(false, "200 aa 1"), (true, "200 bb 1")] {
        let (process, worker) = shared();
        process.connections_fail.set(connections_fail);
        for _ in 0..4 {
            process.script("aa", [Reaction::reset().early()]);
            let call = worker.begin(&of(KEY), false);
            call.piece(b"{", false);
            call.piece(b"}", true);
            assert!(call.told().starts_with("200 bb"), "{}", call.told());
        }
        assert_eq!(
            worker.ask(&of(OTHER_KEY)),
            told,
            "a connection that failed: {connections_fail}"
        );
    }
}

#[test]
fn many_failures_of_one_subscription_make_no_long_cooldown_of_anothers_first() {
    let (process, worker) = shared();
    for key in [KEY; 20].into_iter().chain([OTHER_KEY]) {
        everywhere(&process, &Response::new(500));
        assert_eq!(worker.ask(&of(key)), "500 cc 3");
    }
    // As long as the first cooldown, and not the longest.
    process.advance(std::time::Duration::from_secs(45));
    assert_eq!(worker.ask(&of(OTHER_KEY)), "200 aa 1");
}
