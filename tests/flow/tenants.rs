//! What one subscription's requests do to those of others: nothing.

use std::rc::Rc;

use serde_json::json;

use crate::host::{Process, Reaction, Request, Response, Worker};
use crate::regions::{by_body, by_url, digest, document, millis, seconds, KEY, REGIONS};

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
    with_key(by_url("m"), key)
}

fn with_key(mut request: Request, key: &str) -> Request {
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
    assert_eq!(worker.ask(&of(OTHER_KEY)), "503 all_backends_failed");
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

/// Envoy replies 507 then, whatever the backend has responded.
#[test]
fn an_attempt_whose_retry_envoy_cannot_make_is_told_and_learned_like_others() {
    for (trouble, told, result, callers) in [
        (
            Reaction::reset(),
            "503 aa 1 backend_failed",
            "failed",
            &[KEY, OTHER_KEY, KEY, OTHER_KEY][..],
        ),
        (
            Reaction::status(500),
            "503 aa 1 backend_failed",
            "failed",
            &[KEY, OTHER_KEY, KEY, OTHER_KEY],
        ),
        (Reaction::throttled("600000"), "429 aa 1 all_backends_throttled", "throttled", &[KEY]),
    ] {
        let (process, worker) = shared();
        process.connections_fail.set(true);
        process.retries_overflow.set(true);
        for key in callers {
            process.script("aa", [trouble.clone().early()]);
            let call = worker.begin(&of(key), false);
            call.piece(b"{", false);
            assert_eq!(call.told(), told);
            assert_eq!(call.response_header("content-type").as_deref(), Some("application/json"));
            assert!(call.response_header("retry-after").is_some());
        }
        let attempts = format!("aoai_attempts_total.backend.aa.result.{result}");
        assert_eq!(process.counter(&attempts), callers.len() as u64);
        assert_eq!(worker.ask(&of(KEY)), "200 bb 1", "{told}");
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
    process.advance(seconds(45));
    assert_eq!(worker.ask(&of(OTHER_KEY)), "200 aa 1");
}

#[test]
fn a_request_that_is_throttled_everywhere_with_a_time_binds_its_own_subscription_alone() {
    let (process, worker) = shared();
    // As a huge max_tokens is, while there is room for others.
    everywhere(&process, &Response::new(429).header("retry-after", "20"));
    assert_eq!(worker.ask(&of(KEY)), "429 cc 3");
    assert_eq!(worker.ask(&of(KEY)), "429 all_backends_throttled");
    process.asked();
    process.advance(millis(2));
    assert_eq!(worker.ask(&of(OTHER_KEY)), "200 aa 1", "nothing binds this one");
    assert_eq!(worker.ask(&of(KEY)), "200 aa 1", "and what it was served is known to all");
}

#[test]
fn what_two_subscriptions_were_told_binds_all() {
    let (process, worker) = shared();
    for (key, told) in [(KEY, "429 cc 3"), (OTHER_KEY, "429 cc 3")] {
        everywhere(&process, &Response::new(429).header("retry-after", "20"));
        assert_eq!(worker.ask(&of(key)), told);
    }
    assert_eq!(process.asked(), "aa bb cc aa bb cc");
    for key in [KEY, OTHER_KEY] {
        assert_eq!(worker.ask(&of(key)), "429 all_backends_throttled");
    }
    assert_eq!(process.asked(), "");
}

#[test]
fn while_all_are_in_cooldown_a_trickle_asks_and_a_good_response_ends_the_cooldown() {
    let (process, worker) = shared();
    for key in [KEY, OTHER_KEY] {
        everywhere(&process, &Response::new(429).header("retry-after", "90"));
        worker.ask(&of(key));
    }
    process.asked();
    let mut told = Vec::new();
    for region in REGIONS {
        process.script(region, vec![Response::new(429).header("retry-after", "90"); 2]);
    }
    for _ in 0..30 {
        process.advance(millis(100));
        told.push(worker.ask(&of(OTHER_KEY)));
    }
    // Two seconds after the first one, in which each was asked once a second.
    assert_eq!(process.asked(), "aa bb cc aa bb cc aa");
    assert_eq!(told.last().unwrap(), "200 aa 1");
    assert_eq!(told.iter().filter(|told| *told == "429 all_backends_throttled").count(), 23);
    assert_eq!(worker.ask(&of(KEY)), "200 aa 1");
    assert_eq!(process.logged("serves model m again").len(), 1);
}

#[test]
fn uploads_that_stall_keep_nobody_from_probing() {
    let (process, worker) = shared();
    for key in [KEY, OTHER_KEY] {
        everywhere(&process, &Response::new(429).header("retry-after", "2"));
        worker.ask(&of(key));
    }
    process.advance(seconds(3));
    let stalled: Vec<_> = (0..4).map(|_| worker.begin(&of(KEY), false)).collect();
    assert_eq!(stalled[0].first_backend(), "aa");
    // One that is complete need not wait for those; one that is not has to, but for no longer than a second.
    assert_eq!(worker.ask(&with_key(by_body("m"), OTHER_KEY)), "200 aa 1");
    assert_eq!(worker.ask(&of(OTHER_KEY)), "200 aa 1");
    for call in stalled {
        call.leave();
    }
    let (process, worker) = shared();
    for key in [KEY, OTHER_KEY] {
        everywhere(&process, &Response::new(429).header("retry-after", "2"));
        worker.ask(&of(key));
    }
    process.advance(seconds(3));
    let _stalled: Vec<_> = (0..4).map(|_| worker.begin(&of(KEY), false)).collect();
    process.advance(seconds(1));
    assert_eq!(worker.ask(&of(OTHER_KEY)), "200 aa 1");
}

#[test]
fn a_probe_that_is_abandoned_is_given_back_as_ready() {
    for whole in [false, true] {
        let (process, worker) = shared();
        process.script("aa", [Reaction::throttled("2000"), Reaction::hang()]);
        assert_eq!(worker.ask(&of(KEY)), "200 bb 2");
        process.advance(seconds(3));
        let probe = if whole { worker.call(&of(KEY)) } else { worker.begin(&of(KEY), false) };
        assert_eq!(probe.first_backend(), "aa");
        assert_eq!(worker.ask(&of(OTHER_KEY)), "200 bb 1");
        probe.leave();
        if !whole {
            process.script("aa", [Response::new(200)]);
        }
        assert_eq!(worker.ask(&of(OTHER_KEY)), "200 aa 1", "{whole}");
    }
}

#[test]
fn one_callers_invalid_requests_keep_no_failing_backend_in_use() {
    let (process, worker) = shared();
    for _ in 0..3 {
        process.script("aa", [Response::new(400), Response::new(500)]);
        assert_eq!(worker.ask(&of(KEY)), "400 aa 1");
        assert_eq!(worker.ask(&of(OTHER_KEY)), "200 bb 2");
    }
    assert_eq!(worker.ask(&of(OTHER_KEY)), "200 bb 1", "three failures in a row");
}

#[test]
fn one_callers_invalid_requests_probe_no_backend_for_long() {
    let (process, worker) = shared();
    process.script("aa", [Reaction::throttled("2000"), Reaction::status(400)]);
    assert_eq!(worker.ask(&of(KEY)), "200 bb 2");
    process.advance(seconds(3));
    assert_eq!(worker.ask(&of(KEY)), "400 aa 1");
    assert_eq!(worker.ask(&of(OTHER_KEY)), "200 aa 1", "the next one may probe at once");
}

#[test]
fn a_backend_that_accepts_and_never_responds_is_learned() {
    for details in ["stream_idle_timeout", "upstream_response_timeout"] {
        let (process, worker) = shared();
        for key in [KEY, OTHER_KEY, KEY, OTHER_KEY] {
            process.script("aa", [Reaction::hang()]);
            let call = worker.call(&of(key));
            call.envoy_replies(504, details);
            assert_eq!(call.told(), "504 aa 1 backend_timeout", "{details}");
            assert_eq!(call.response_header("content-type").as_deref(), Some("application/json"));
        }
        assert_eq!(worker.ask(&of(KEY)), "200 bb 1", "{details}");
        assert_eq!(process.counter("aoai_attempts_total.backend.aa.result.failed"), 4);
        // Whose request was not complete has not been waited for by the backend.
        let (process, worker) = shared();
        for key in [KEY, OTHER_KEY, KEY, OTHER_KEY] {
            process.script("aa", [Reaction::hang()]);
            let call = worker.begin(&of(key), false);
            call.envoy_replies(408, "stream_idle_timeout");
            assert_eq!(call.told(), "408 aa 1");
        }
        assert_eq!(worker.ask(&of(KEY)), "200 aa 1");
    }
}

/// At most once a minute: where all requests for a model meet it, they do so many times a second.
#[test]
fn a_cluster_that_envoy_does_not_have_is_logged_by_its_name() {
    for (model, cluster) in [("single", "aoai_aa"), ("m", "aoai/aa>bb")] {
        let (process, worker) = shared();
        for _ in 0..2 {
            process.script("aa", [Reaction::hang()]);
            let call = worker.call(&by_url(model));
            call.envoy_replies(503, "cluster_not_found");
            assert_eq!(call.told(), "500 unknown_backend", "{model}");
        }
        let lines = process.logged("Envoy has no cluster");
        let [line] = lines.as_slice() else { panic!("{model}: {lines:?}") };
        assert!(line.contains(cluster), "{line}");
    }
}

#[test]
fn what_envoy_says_of_a_single_backend_is_said_in_our_words() {
    for (status, details, told) in [
        (503, "no_healthy_upstream", "503 aa backend_failed"),
        (
            503,
            "upstream_reset_before_response_started{connection_failure}",
            "503 aa backend_failed",
        ),
        (503, "upstream_reset_before_response_started{overflow}", "503 aa backend_failed"),
        (503, "cluster_not_found", "500 unknown_backend"),
        (504, "upstream_response_timeout", "504 aa backend_timeout"),
        (504, "stream_idle_timeout", "504 aa backend_timeout"),
        (408, "stream_idle_timeout", "408"),
        (413, "request_payload_too_large", "413"),
    ] {
        let (process, worker) = shared();
        process.script("aa", [Reaction::hang()]);
        let call = worker.call(&by_url("single"));
        call.envoy_replies(status, details);
        assert_eq!(call.told(), told, "{details}");
        assert!(call.response().is_complete);
        if told.contains(' ') {
            let body: serde_json::Value = serde_json::from_slice(&call.response().body).unwrap();
            assert!(told.ends_with(body["error"]["type"].as_str().unwrap()));
            let length = call.response().body.len().to_string();
            assert_eq!(call.response_header("content-length"), Some(length));
            let reason = call.response_header("x-aoai-reason").unwrap();
            let outcome = format!("aoai_requests_total.outcome.{reason}.backend.none 1");
            assert_eq!(process.requests_counted(), [outcome]);
        }
    }
}

#[test]
fn a_circuit_breakers_limit_is_not_the_backends_failure() {
    let (process, worker) = shared();
    for key in [KEY, OTHER_KEY, KEY, OTHER_KEY, KEY] {
        process.script("aa", [Reaction::hang()]);
        let call = worker.call(&of(key));
        call.envoy_replies(503, "upstream_reset_before_response_started{overflow}");
        assert_eq!(call.told(), "503 aa 1 backend_failed");
        assert_eq!(call.response_header("retry-after").as_deref(), Some("1"));
    }
    assert_eq!(worker.ask(&of(KEY)), "200 aa 1");
}

#[test]
fn every_request_has_one_outcome() {
    let (process, worker) = shared();
    let outcomes = || process.requests_counted();
    worker.ask(&of(KEY));
    for region in REGIONS {
        process.script(region, [Reaction::reset()]);
    }
    worker.ask(&of(KEY));
    worker.ask(&by_url("unknown"));
    process.script("aa", [Reaction::hang()]);
    worker.call(&of(KEY)).leave();
    worker.begin(&by_body("m"), false).leave();
    let name = |rest: &str| format!("aoai_requests_total.outcome.{rest} 1");
    assert_eq!(
        outcomes(),
        [
            name("abandoned.backend.aa"),
            name("abandoned.backend.none"),
            name("backend_failed.backend.none"),
            name("forwarded.backend.aa"),
            name("unknown_model.backend.none"),
        ]
    );
}

#[test]
fn a_cooldown_is_counted_once_for_each_time_it_begins() {
    let (process, worker) = shared();
    for key in [KEY, OTHER_KEY, KEY, OTHER_KEY] {
        everywhere(&process, &Response::new(500));
        worker.ask(&of(key));
    }
    let counted =
        || REGIONS.map(|region| process.counter(&format!("aoai_cooldowns_total.backend.{region}")));
    assert_eq!(counted(), [1, 1, 1]);
    // A probe that fails begins another one.
    process.advance(seconds(45));
    everywhere(&process, &Response::new(429));
    worker.ask(&of(KEY));
    assert_eq!(counted(), [2, 1, 1]);
}
