//! A model on several backends survives any of them: which is tried, which is in cooldown for how long, and
//! what is never tried twice.

use std::rc::Rc;

use serde_json::json;

use crate::host::{Process, Reaction, Request, Response, Worker};
use crate::regions::*;

const BUSY: u16 = 503;

fn throttled() -> Reaction {
    Reaction::throttled(LONG)
}

fn busy() -> Reaction {
    Response::new(BUSY).header("x-from", "azure").piece(b"busy").into()
}

/// The cooldown of aa, as callers are told when the others are in cooldown for longer, in milliseconds.
fn cooldown_of_aa(process: &Process, worker: &Rc<Worker>, model: &str) -> u64 {
    process.script("bb", [throttled()]);
    process.script("cc", [throttled()]);
    assert!(worker.ask(&by_url(model)).starts_with("429 cc"));
    let call = worker.call(&by_url(model));
    assert_eq!(call.told(), "429 all_backends_throttled");
    call.response_header("retry-after-ms").unwrap().parse().unwrap()
}

#[test]
fn a_throttled_backend_is_in_cooldown_for_as_long_as_it_says() {
    let rows: &[(&[(&str, &str)], u64)] = &[
        (&[("retry-after-ms", "61500")], 61_500),
        (&[("x-ms-retry-after-ms", "62500")], 62_500),
        (&[("retry-after", "90"), ("retry-after-ms", "63500")], 63_500),
        (&[("retry-after", "60")], 60_000),
        (&[("retry-after", "60.5")], 60_500),
        (&[("x-ratelimit-reset-requests", "64400ms")], 64_400),
        (&[("x-ratelimit-reset-tokens", "65.5")], 65_500),
        (&[], 40_000),
        (&[("retry-after", "-1")], 40_000),
    ];
    for (headers, wait) in rows {
        let (process, worker) = started();
        let response = headers
            .iter()
            .fold(Response::new(429), |response, (name, value)| response.header(name, value));
        process.script("aa", [response]);
        assert_eq!(worker.ask(&by_url("m")), "200 bb 2", "{headers:?}");
        let [first, second] = process.arrived().try_into().unwrap();
        assert_eq!(
            seen(&first)[..2],
            ["aa", "/openai/deployments/m-in-aa/chat/completions?api-version=2024-10-21"]
        );
        assert_eq!(
            seen(&second)[..2],
            ["bb", "/openai/deployments/m-in-bb/chat/completions?api-version=2024-10-21"]
        );
        assert_eq!(first.body, second.body);
        assert_eq!(worker.ask(&by_url("m")), "200 bb 1", "{headers:?}");
        assert_eq!(worker.ask(&by_url("n")), "200 aa 1", "another model is not concerned");
        let told = cooldown_of_aa(&process, &worker, "m");
        // Up to a tenth more, and no longer than official clients wait.
        assert!((*wait..=wait * 11 / 10).contains(&told), "{headers:?}: {told}");
    }
}

#[test]
fn callers_are_told_of_no_longer_wait_than_they_obey() {
    let (process, worker) = started();
    for region in REGIONS {
        process.script(region, [Response::new(429).header("retry-after", "3599")]);
    }
    assert_eq!(worker.ask(&by_url("m")), "429 cc 3");
    let call = worker.call(&by_url("m"));
    assert_eq!(call.told(), "429 all_backends_throttled");
    assert_eq!(call.response_header("retry-after").as_deref(), Some("120"));
    assert_eq!(call.response_header("retry-after-ms").as_deref(), Some("120000"));
    assert_eq!(process.asked(), "aa bb cc");
}

#[test]
fn when_all_are_throttled_the_last_response_is_passed_on_and_then_the_soonest_time_is_told() {
    let (process, worker) = started();
    process.script("aa", [throttled()]);
    process.script("bb", [Reaction::throttled("700")]);
    process.script("cc", [Response::new(429).header("retry-after", "600").piece(b"the last")]);
    let call = worker.call(&by_url("m"));
    assert_eq!((call.told().as_str(), call.response().body), ("429 cc 3", b"the last".to_vec()));
    // With the soonest time of the three, up to a tenth later.
    assert_eq!(call.response_header("retry-after").as_deref(), Some("1"));
    let wait: u64 = call.response_header("retry-after-ms").unwrap().parse().unwrap();
    assert!((700..=770).contains(&wait), "{wait}");
    assert_eq!(call.response_header("x-aoai-retry"), None);
    for passed in [0, 300] {
        process.advance(millis(passed));
        let call = worker.call(&by_url("m"));
        assert_eq!(call.told(), "429 all_backends_throttled");
        let wait: u64 = call.response_header("retry-after-ms").unwrap().parse().unwrap();
        assert!((700 - passed..=770 - passed).contains(&wait), "{wait}");
        assert_eq!(call.response_header("retry-after").as_deref(), Some("1"));
    }
    assert_eq!(process.asked(), "aa bb cc");
    process.advance(millis(500));
    assert_eq!(worker.ask(&by_url("m")), "200 bb 1", "the first that may be asked again is");
    assert_eq!(
        process.counter("aoai_requests_total.outcome.all_backends_throttled.backend.none"),
        2
    );
}

#[test]
fn workers_share_what_they_learn() {
    let (process, worker) = started();
    let other = Worker::ready(&process, &document());
    assert_eq!(other.ask(&by_url("m")), "200 aa 1");
    process.advance(millis(1));
    process.script("aa", [throttled()]);
    assert_eq!(worker.ask(&by_url("m")), "200 bb 2");
    process.advance(millis(1));
    assert_eq!(other.ask(&by_url("m")), "200 bb 1");
    assert_eq!(process.asked(), "aa aa bb bb");
}

#[test]
fn a_worker_whose_clock_is_set_back_learns_what_others_learn() {
    let (process, worker) = started();
    let other = Worker::ready(&process, &document());
    assert_eq!(other.ask(&by_url("m")), "200 aa 1");
    process.set_back(seconds(3600));
    process.script("aa", [throttled()]);
    assert_eq!(worker.ask(&by_url("m")), "200 bb 2");
    assert_eq!(other.ask(&by_url("m")), "200 bb 1");
}

#[test]
fn the_third_serves_what_the_first_two_cannot() {
    let troubles: [(&str, fn() -> Reaction); 4] = [
        ("503", busy),
        ("500", || Response::new(500).piece(b"oops").into()),
        ("reset", Reaction::reset),
        ("throttled", throttled),
    ];
    for (first, one) in troubles {
        for (second, other) in troubles {
            for request in [by_url("m"), by_body("m")] {
                let (process, worker) = started();
                process.script("aa", [one()]);
                process.script("bb", [other()]);
                let call = worker.call(&request);
                assert_eq!(call.told(), "200 cc 3", "{first}, {second}");
                assert_eq!(call.response().body, b"served by cc");
                assert_eq!(process.counter("aoai_retries_total"), 2);
                assert_eq!(process.asked(), "aa bb cc");
                assert_eq!(worker.requests.len(), 0);
            }
        }
    }
}

#[test]
fn the_last_response_is_passed_on_when_all_fail() {
    let (process, worker) = started();
    for region in REGIONS {
        process.script(region, [busy()]);
    }
    let call = worker.call(&by_url("m"));
    assert_eq!((call.told().as_str(), call.response().body), ("503 cc 3", b"busy".to_vec()));
    assert_eq!(call.response_header("x-from").as_deref(), Some("azure"));
    assert_eq!(process.asked(), "aa bb cc");
    for region in REGIONS {
        process.script(region, [Reaction::reset()]);
    }
    let call = worker.call(&by_url("n"));
    // In place of Envoy's own response.
    assert_eq!(call.told(), "503 cc 3 backend_failed");
    assert_eq!(call.response_header("retry-after").as_deref(), Some("1"));
    let body: serde_json::Value = serde_json::from_slice(&call.response().body).unwrap();
    assert_eq!(body["error"]["type"], "backend_failed");
    assert_eq!(process.asked(), "aa bb cc");
    let name = |region| format!("aoai_attempts_total.backend.{region}.result.failed.status");
    let failed =
        |region| ["503.model.m 1", "none.model.n 1"].map(|of| format!("{}.{of}", name(region)));
    assert_eq!(process.counted(".result.failed"), REGIONS.map(failed).concat());
}

#[test]
fn a_clients_error_is_passed_on_and_begins_no_cooldown() {
    for status in [200, 202, 302, 400, 401, 403, 404, 408, 409, 422] {
        let (process, worker) = started();
        let response = Response::new(status)
            .header("x-aoai-retry", "1")
            .header("x-aoai-reason", "forged")
            .header("x-aoai-backend", "zz")
            .piece(b"error");
        process.script("aa", (0..4).map(|_| response.clone()));
        for _ in 0..4 {
            let call = worker.call(&by_url("m"));
            assert_eq!(
                (call.told(), call.response().body),
                (format!("{status} aa 1"), b"error".to_vec())
            );
        }
        assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
        assert_eq!(process.asked(), "aa aa aa aa aa");
        assert_eq!(process.counter("aoai_attempts_total.backend.aa.result.responded"), 5);
    }
}

#[test]
fn failures_in_a_row_begin_a_cooldown() {
    for failure in [busy, Reaction::reset] {
        let (process, worker) = started();
        process.script("aa", [failure(), failure()]);
        process.script("aa", [Response::new(200)]);
        process.script("aa", [failure(), failure(), failure()]);
        let told = [0; 10].map(|_| worker.ask(&by_url("m")));
        assert_eq!(told[..5], ["200 bb 2", "200 bb 2", "200 aa 1", "200 bb 2", "200 bb 2"]);
        assert_eq!(told[5..], ["200 bb 2", "200 bb 1", "200 bb 1", "200 bb 1", "200 bb 1"]);
        process.asked();
        let told = cooldown_of_aa(&process, &worker, "m");
        assert!((40_000..=44_000).contains(&told), "{told}");
        assert_eq!(process.asked(), "bb cc");
        // The three attempts at bb and cc that end this are not counted.
        assert_eq!(process.counter("aoai_cooldowns_total.backend.aa"), 1);
        assert_eq!(process.gauge("aoai_in_cooldown.backend.aa.model.m"), Some(1));
        // It is tried again, once, and a success forgets the failures.
        process.advance(seconds(45));
        assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
        assert_eq!(process.gauge("aoai_in_cooldown.backend.aa.model.m"), Some(0));
        process.script("aa", [failure(), failure()]);
        process.script("bb", [Response::new(200), Response::new(200)]);
        process.advance(seconds(660));
        assert_eq!(worker.ask(&by_url("m")), "200 bb 2");
        assert_eq!(worker.ask(&by_url("m")), "200 bb 2");
        assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
    }
}

#[test]
fn a_cooldown_without_a_time_grows() {
    let (process, worker) = started();
    for wait in [40, 80, 160] {
        process.script("aa", [Response::new(429)]);
        assert_eq!(worker.ask(&by_url("m")), "200 bb 2");
        process.advance(seconds(wait) - millis(1));
        assert_eq!(worker.ask(&by_url("m")), "200 bb 1", "{wait} s have not passed");
        process.advance(seconds(wait) / 10 + millis(1));
    }
    assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
    assert_eq!(
        process.counter("aoai_cooldowns_total.backend.aa"),
        3,
        "a probe that fails begins another one"
    );
}

#[test]
fn after_a_cooldown_one_request_probes() {
    let (process, worker) = started();
    let other = Worker::ready(&process, &document());
    process.script("aa", [Reaction::throttled("700"), Reaction::hang()]);
    assert_eq!(worker.ask(&by_url("m")), "200 bb 2");
    process.advance(millis(699));
    assert_eq!(worker.ask(&by_url("m")), "200 bb 1");
    process.advance(millis(71));
    let probe = worker.call(&by_url("m"));
    assert_eq!((probe.told().as_str(), probe.routed_to().as_str()), ("", "aa>bb>cc"));
    // However long the response takes.
    for _ in 0..12 {
        assert_eq!(worker.ask(&by_url("m")), "200 bb 1");
        assert_eq!(other.ask(&by_url("m")), "200 bb 1");
        process.advance(seconds(1));
    }
    probe.respond(Response::new(200));
    assert_eq!(probe.told(), "200 aa 1");
    process.advance(millis(1));
    assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
    assert_eq!(other.ask(&by_url("m")), "200 aa 1");
}

#[test]
fn workers_that_look_at_the_same_time_claim_one_probe() {
    let (process, worker) = started();
    let other = Worker::ready(&process, &document());
    process.script("aa", [Reaction::throttled("700"), Reaction::hang()]);
    assert_eq!(worker.ask(&by_url("m")), "200 bb 2");
    process.advance(seconds(1));
    // Both know that there is a probe to claim.
    worker.look_at_backends();
    other.look_at_backends();
    let probe = worker.call(&by_url("m"));
    assert_eq!((probe.told().as_str(), probe.routed_to().as_str()), ("", "aa>bb>cc"));
    assert_eq!(other.ask(&by_url("m")), "200 bb 1");
    assert_eq!(process.asked(), "aa bb aa bb");
}

#[test]
fn a_probe_that_fails_begins_another_cooldown() {
    for (failure, wait) in
        [(Reaction::throttled("300"), 300), (busy(), 40_000), (Reaction::reset(), 40_000)]
    {
        let (process, worker) = started();
        process.script("aa", [Reaction::throttled("300"), failure]);
        assert_eq!(worker.ask(&by_url("m")), "200 bb 2");
        process.advance(millis(330));
        assert_eq!(worker.ask(&by_url("m")), "200 bb 2", "the probe");
        process.advance(millis(wait - 1));
        assert_eq!(worker.ask(&by_url("m")), "200 bb 1");
        process.advance(millis(wait / 10 + 1));
        assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
    }
}

#[test]
fn a_probe_that_is_given_up_leaves_room_for_another() {
    let (process, worker) = started();
    let other = Worker::ready(&process, &document());
    process.script("aa", [Reaction::throttled("300"), Reaction::hang(), Reaction::hang()]);
    assert_eq!(worker.ask(&by_url("m")), "200 bb 2");
    process.advance(millis(330));
    // Its caller leaves.
    let probe = worker.call(&by_url("m"));
    assert_eq!((probe.told().as_str(), probe.routed_to().as_str()), ("", "aa>bb>cc"));
    probe.leave();
    // Its body is refused.
    process.advance(millis(1));
    let probe = other.begin(&Request::new("POST", CHAT).header("api-key", KEY), false);
    probe.piece(br#"{"model":"m","#, false);
    assert_eq!(probe.routed_to(), "aa>bb>cc");
    probe.piece(br#""model":"n"}"#, true);
    assert_eq!(probe.told(), "400 missing_model");
    process.advance(millis(1));
    assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
    assert_eq!(process.asked(), "aa bb aa aa aa");
    assert_eq!((worker.requests.len(), other.requests.len()), (0, 0));
}

#[test]
fn a_request_that_is_given_up_gives_back_no_other_requests_probe() {
    let (process, worker) = started();
    process.script("aa", [Reaction::hang(), Reaction::throttled("300"), Reaction::hang()]);
    let slow = worker.call(&by_url("m"));
    assert_eq!(worker.ask(&by_url("m")), "200 bb 2");
    process.advance(millis(330));
    let probe = worker.call(&by_url("m"));
    assert_eq!((probe.told().as_str(), probe.routed_to().as_str()), ("", "aa>bb>cc"));
    slow.leave();
    assert_eq!(worker.ask(&by_url("m")), "200 bb 1");
    probe.leave();
    assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
}

#[test]
fn a_response_from_before_the_cooldown_does_not_end_it() {
    for status in [200, 400] {
        let (process, worker) = started();
        process.script("aa", [Reaction::hang(), throttled()]);
        let slow = worker.call(&by_url("m"));
        assert_eq!(worker.ask(&by_url("m")), "200 bb 2");
        slow.respond(Response::new(status));
        assert_eq!(slow.told(), format!("{status} aa 1"));
        assert_eq!(worker.ask(&by_url("m")), "200 bb 1");
    }
}

#[test]
fn many_failures_at_once_are_one_reason_for_a_cooldown() {
    for response in [Response::new(503), Response::new(429)] {
        let (process, worker) = started();
        process.script("aa", [0; 16].map(|_| Reaction::hang()));
        let calls = [0; 16].map(|_| worker.call(&by_url("m")));
        for call in &calls {
            call.respond(response.clone());
            assert_eq!(call.told(), "200 bb 2");
        }
        let told = cooldown_of_aa(&process, &worker, "m");
        assert!((40_000..=44_000).contains(&told), "{told}");
    }
}

#[test]
fn a_storm_reaches_throttled_backends_only_before_that_is_known() {
    let process = Process::new();
    let workers = [0; 2].map(|_| Worker::ready(&process, &document()));
    process.script("aa", [0; 50].map(|_| Reaction::hang()));
    let early: Vec<_> =
        workers.iter().cycle().take(50).map(|worker| worker.call(&by_body("m"))).collect();
    process.script("bb", [throttled(), throttled()]);
    early[0].respond(Response::new(429).header("retry-after-ms", LONG));
    assert_eq!(early[0].told(), "200 cc 3");
    process.advance(millis(1));
    process.asked();
    for worker in workers.iter().cycle().take(50) {
        assert_eq!(worker.ask(&by_body("m")), "200 cc 1");
    }
    assert_eq!(process.asked().matches("aa").count() + process.asked().matches("bb").count(), 0);
    for call in &early[1..] {
        call.respond(Response::new(429).header("retry-after-ms", LONG));
        // bb is known to be in cooldown: the response goes to the caller.
        assert_eq!(call.told(), "429 aa 1");
    }
}

#[test]
fn a_pool_of_what_is_left_is_not_begun_again() {
    let (process, worker) = started();
    process.script("aa", [throttled()]);
    process.script("bb", [throttled()]);
    assert_eq!(worker.ask(&by_url("m")), "200 cc 3");
    process.script("cc", [Reaction::reset(), busy(), Reaction::reset()]);
    assert_eq!(process.asked(), "aa bb cc");
    // Envoy goes on by itself where there is no response.
    let call = worker.call(&by_url("m"));
    assert_eq!(call.told(), "503 cc 1 backend_failed");
    assert_eq!(call.response_header("x-aoai-retry"), None);
    assert_eq!(worker.ask(&by_url("m")), "503 cc 1");
    assert_eq!(worker.ask(&by_url("m")), "503 cc 1 backend_failed", "the third in a row");
    // Only one subscription has met these failures: they may be its own doing.
    assert_eq!(worker.ask(&by_url("m")), "200 cc 1");
    assert_eq!(process.asked(), "cc cc cc cc");
    assert_eq!(process.counter("aoai_attempts_total.backend.cc.result.failed"), 3);
    assert_eq!(process.counter("aoai_requests_total.outcome.backend_failed.backend.none"), 2);
}

#[test]
fn a_pool_is_not_begun_again_at_its_end() {
    let mut document = document();
    document["models"][0]["backends"].as_array_mut().unwrap().pop();
    for (first, second, told) in [
        (Reaction::reset(), Reaction::reset(), "503 bb 2 backend_failed"),
        (busy(), Reaction::reset(), "503 bb 2 backend_failed"),
        (Reaction::reset(), busy(), "503 bb 2"),
        (busy(), busy(), "503 bb 2"),
    ] {
        let process = Process::new();
        let worker = Worker::ready(&process, &document);
        process.script("aa", [first]);
        process.script("bb", [second]);
        assert_eq!(worker.ask(&by_url("m")), told);
        assert_eq!(process.asked(), "aa bb");
        assert_eq!(process.counter("aoai_retries_total"), 1);
        assert_eq!(worker.requests.len(), 0);
    }
}

#[test]
fn no_attempt_goes_to_a_backend_in_cooldown() {
    for (trouble, told, asked) in [
        (throttled(), "429 aa 1", "aa"),
        (busy(), "503 aa 1", "aa"),
        (Reaction::reset(), "503 aa 1 backend_failed", "aa"),
    ] {
        let (process, worker) = started();
        process.script("aa", [Reaction::hang()]);
        let slow = worker.call(&by_url("m"));
        // Its pool goes on to bb, and bb is throttled meanwhile.
        process.script("aa", [busy()]);
        process.script("bb", [throttled()]);
        assert_eq!(worker.ask(&by_url("m")), "200 cc 3");
        process.asked();
        process.script("aa", [trouble]);
        let other = worker.begin(&by_url("m"), false);
        assert_eq!(other.routed_to(), "aa>cc>bb", "what may be asked comes second");
        other.leave();
        match told {
            "503 aa 1 backend_failed" => slow.reset(),
            "429 aa 1" => slow.respond(Response::new(429)),
            _ => slow.respond(Response::new(503)),
        }
        assert_eq!(slow.told(), told);
        assert_eq!(process.asked(), asked, "the one that left");
    }
}

/// The first response is gone by then: the second backend has a better one, or at least another.
#[test]
fn a_retry_that_has_been_decided_takes_place_though_its_backend_is_throttled_meanwhile() {
    for (second, told, asked) in
        [(Reaction::status(200), "200 bb 2", "bb"), (throttled(), "200 cc 3", "bb cc")]
    {
        let (process, worker) = started();
        process.script("aa", [Reaction::hang()]);
        let slow = worker.call(&by_url("m"));
        let (other, meanwhile) = (Rc::clone(&worker), Rc::clone(&process));
        *process.before_retry.borrow_mut() = Some(Box::new(move || {
            meanwhile.script("bb", [throttled()]);
            assert_eq!(other.ask(&by_url("m")), "200 cc 2");
            assert_eq!(meanwhile.asked(), "aa bb cc");
            meanwhile.script("bb", [second]);
        }));
        slow.respond(Response::new(429).header("retry-after-ms", LONG));
        assert_eq!(slow.told(), told);
        assert_eq!(process.asked(), asked);
    }
}

#[test]
fn no_attempt_starts_after_the_deadline_of_all() {
    for (trouble, told) in [
        (busy as fn() -> Reaction, "503 bb 2"),
        (Reaction::reset, "503 bb 2 backend_failed"),
        (throttled, "429 bb 2"),
    ] {
        let (process, worker) = started();
        process.script("aa", [trouble().after(seconds(1))]);
        process.script("bb", [trouble().after(millis(3001))]);
        assert_eq!(worker.ask(&by_url("m")), told);
        assert_eq!(process.asked(), "aa bb");
        process.script("aa", [trouble().after(seconds(1))]);
        process.script("bb", [trouble().after(seconds(3))]);
        assert_eq!(worker.ask(&by_url("n")), "200 cc 3", "in time");
    }
}

#[test]
fn a_late_failure_is_passed_on() {
    let (process, worker) = started();
    process.script("aa", [busy().after(millis(4001)), Reaction::reset().after(millis(4001))]);
    assert_eq!(worker.ask(&by_url("m")), "503 aa 1");
    assert_eq!(worker.ask(&by_url("m")), "503 aa 1 backend_failed");
    assert_eq!(process.asked(), "aa aa");
    // With a deadline of nothing, there is one attempt unless the failure takes no time at all.
    let mut document = document();
    document["failover"]["retry_within"] = json!("0s");
    let worker = Worker::ready(&process, &document);
    process.script("aa", [busy().after(millis(1))]);
    assert_eq!(worker.ask(&by_url("n")), "503 aa 1");
}

#[test]
fn a_clock_that_is_set_back_leaves_time_for_another_attempt() {
    let (process, worker) = started();
    process.script("aa", [Reaction::hang()]);
    let call = worker.call(&by_url("m"));
    process.set_back(seconds(3600));
    call.respond(Response::new(503));
    assert_eq!(call.told(), "200 bb 2");
}

/// Envoy would reply 507 when more comes than it keeps, in place of the response that it has given up.
#[test]
fn an_early_response_to_a_body_that_envoy_cannot_send_again_is_the_callers() {
    let mut document = document();
    document["listener"] = json!({"body_limit": "64KiB"});
    for (length, told) in [(64 << 10, "200 bb 2"), ((64 << 10) + 1, "429 aa 1")] {
        let process = Process::new();
        let worker = Worker::ready(&process, &document);
        process.script("aa", [Reaction::throttled(LONG).early()]);
        let call = worker.begin(&by_url("m").header("content-length", length.to_string()), false);
        call.piece(&vec![b' '; length - 1], false);
        call.piece(b" ", true);
        assert_eq!(call.told(), told, "{length}");
        assert_eq!(worker.ask(&by_url("m")), "200 bb 1", "it is learned all the same");
    }
}

#[test]
fn the_deadline_begins_with_the_requests_last_byte() {
    let (process, worker) = started();
    process.script("aa", [busy().early()]);
    process.script("bb", [busy()]);
    let call = worker.begin(&by_body("m"), false);
    call.piece(br#"{"model":"m","#, false);
    assert_eq!(process.arrived().len(), 2, "the second attempt waits for the rest");
    process.advance(seconds(60));
    call.piece(br#""messages":[]}"#, true);
    assert_eq!(call.told(), "200 cc 3");
    assert_eq!(seen(&process.arrived()[2])[3], r#"{"model":"m-in-cc","messages":[]}"#);
    // The time that a caller takes to send it is no slow failure either.
    process.script("aa", [throttled()]);
    let call = worker.begin(&by_body("n"), false);
    call.piece(br#"{"model":"n","#, false);
    process.advance(seconds(60));
    call.piece(br#""messages":[]}"#, true);
    assert_eq!(call.told(), "200 bb 2");
}

#[test]
fn what_may_be_stored_stays_on_one_backend_and_is_not_retried() {
    let response = || by_body("m").path("/openai/v1/responses");
    let files = || Request::new("GET", "/openai/v1/files").header("api-key", KEY);
    let (_, worker) = started();
    let default = worker.ask(&files()).replace("200 ", "");
    assert_eq!(worker.ask(&response()), format!("200 {default}"));
    for trouble in [busy as fn() -> Reaction, Reaction::reset, throttled] {
        for request in [response(), files()] {
            let (process, worker) = started();
            for region in REGIONS {
                process.script(region, [trouble(), trouble(), trouble(), trouble()]);
            }
            for _ in 0..4 {
                let told = worker.ask(&request.clone().header("x-aoai-retry", "1"));
                let told = told.trim_end_matches(" backend_failed");
                assert!(
                    ["429", "503"]
                        .map(|status| format!("{status} {default}"))
                        .contains(&told.to_owned()),
                    "{told}"
                );
            }
            assert_eq!(process.asked().split(' ').count(), 4);
            assert_eq!(
                process.counted("aoai_cooldowns_total"),
                Vec::<String>::new(),
                "and nothing is remembered"
            );
            assert_eq!(worker.ask(&request), format!("200 {default}"));
        }
    }
}

#[test]
fn weights_are_kept() {
    let mut document = document();
    document["models"][0]["backends"] = json!([{"backend": "aa", "weight": 3}, {"backend": "bb"}, {"backend": "cc", "priority": 1}]);
    let process = Process::new();
    let worker = Worker::ready(&process, &document);
    for _ in 0..400 {
        worker.ask(&by_url("m"));
    }
    let asked = process.asked();
    assert_eq!((asked.matches("aa").count(), asked.matches("bb").count()), (300, 100));
}

#[test]
fn the_log_has_a_line_for_each_change_of_state_and_does_not_grow_with_short_cooldowns() {
    let (process, worker) = started();
    for _ in 0..20 {
        process.script("aa", [Reaction::throttled("1")]);
        assert_eq!(worker.ask(&by_url("m")), "200 bb 2");
        process.advance(millis(2));
        assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
    }
    assert_eq!(process.counter("aoai_cooldowns_total.backend.aa"), 20);
    let pair = [
        "backend aa is in cooldown for model m for 0.001 s: throttled (retry after 0.001 s)",
        "backend aa serves model m again",
    ];
    assert_eq!(process.logged("backend"), pair.repeat(5));
    worker.pass(seconds(60));
    assert_eq!(
        process.logged("backend"),
        ["backend aa: 30 more changes of state in a minute; it is in cooldown for 0 models now"]
    );
    worker.pass(seconds(120));
    assert_eq!(process.logged("backend"), Vec::<String>::new());
    process.script("aa", [busy(), busy(), busy()]);
    for _ in 0..4 {
        worker.ask(&by_url("m"));
    }
    let [line] = process.logged("backend").try_into().unwrap();
    assert!(
        line.starts_with("backend aa is in cooldown for model m for 4")
            && line.ends_with("s: failed"),
        "{line}"
    );
}

#[test]
fn a_write_that_another_worker_was_quicker_than_is_made_again() {
    let (process, worker) = started();
    process.script("aa", [throttled(), throttled()]);
    process.failing_writes.set(15);
    assert_eq!(worker.ask(&by_url("m")), "200 bb 2");
    assert_eq!(worker.ask(&by_url("m")), "200 bb 1");
    assert_eq!(process.logged("cannot be written"), Vec::<String>::new());
    process.failing_writes.set(16);
    assert_eq!(worker.ask(&by_url("n")), "200 bb 2", "requests are served all the same");
    assert_eq!(process.logged("cannot be written").len(), 1);
}

#[test]
fn a_backend_without_an_address_costs_no_attempt() {
    for (name, reaction) in
        [("429", throttled as fn() -> Reaction), ("503", busy), ("reset", Reaction::reset)]
    {
        let (process, worker) = started();
        process.unresolved.replace(Some("aa".to_owned()));
        process.script("bb", [reaction()]);
        assert_eq!(worker.ask(&by_url("m")), "200 cc 2", "{name}");
        assert_eq!(process.asked(), "bb cc", "{name}");
    }
}
