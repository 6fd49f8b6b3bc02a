//! Requests that wait for a token: what wakes them up, what becomes of their bodies, and where they go when
//! the token comes.

use aoai_filter::identity::CalloutResponse;
use std::rc::Rc;

use crate::host::{token, Call, Process, Reaction, Request, Worker};
use crate::regions::*;

fn failure(status: u16) -> CalloutResponse {
    CalloutResponse::Response { status, retry_after: None, body: Vec::new() }
}

/// A process with one worker whose first fetch is under way.
fn starting() -> (Rc<Process>, Rc<Worker>) {
    let process = Process::new();
    let worker = Worker::new(&process, &document());
    worker.tick();
    assert_eq!(worker.callout().as_deref(), Some("imds"));
    (process, worker)
}

#[test]
fn a_crowd_at_a_cold_start_is_served_from_one_fetch() {
    let (process, worker) = starting();
    let other = Worker::new(&process, &document());
    other.tick();
    assert_eq!(process.callouts.borrow().len(), 1);
    let all = |worker: &Rc<Worker>| [0; 10].map(|_| worker.call(&by_url("m")));
    let (here, there) = (all(&worker), all(&other));
    assert_eq!(process.asked(), "");
    worker.answer(&token("h.p.s", 3600));
    assert!(here.iter().all(|call| call.told() == "200 aa 1"));
    assert!(there.iter().all(|call| call.told().is_empty()));
    // Nothing tells the other worker but its next look.
    other.pass(millis(5));
    assert!(there.iter().all(|call| call.told() == "200 aa 1"));
    assert_eq!(process.callouts.borrow().len(), 0);
    for arrived in process.arrived() {
        assert_eq!(seen(&arrived)[2], "h.p.s");
    }
    assert_eq!(
        process.counter("aoai_entra_token_fetches_total.identity.default.result.success"),
        1
    );
    assert_eq!(process.gauge("aoai_entra_token_remaining_seconds.identity.default"), Some(3599));
    assert_eq!((worker.requests.len(), other.requests.len()), (0, 0));
}

#[test]
fn without_a_token_requests_get_a_local_reply_and_go_nowhere() {
    let failures = [
        failure(404),
        failure(410),
        failure(429),
        failure(500),
        failure(503),
        CalloutResponse::NoResponse("the connection was reset"),
        CalloutResponse::Response { status: 200, retry_after: None, body: b"<html>".to_vec() },
    ];
    for failed in failures {
        let (process, worker) = starting();
        let call = worker.call(&by_url("m"));
        worker.answer(&failed);
        assert_eq!(call.told(), "", "the next fetch may be in time");
        worker.pass(millis(1999));
        assert_eq!(
            (call.told().as_str(), worker.callout().is_some()),
            ("", true),
            "the second fetch"
        );
        worker.pass(millis(1));
        assert_eq!(call.told(), "503 token_unavailable", "{failed:?}");
        assert_eq!(call.response_header("retry-after").as_deref(), Some("1"));
        assert_eq!(call.response_header("x-should-retry"), None);
        assert_eq!(process.asked(), "");
        assert_eq!(
            process.counter("aoai_requests_total.outcome.token_unavailable.backend.none"),
            1
        );
        assert_eq!(process.logged("no token for Azure").len(), 1);
        worker.answer(&failed);
        assert_eq!(
            process.logged("no token for Azure").len(),
            0,
            "one line for one kind of failure"
        );
        assert_eq!(
            worker.ask(&by_url("m")),
            "503 token_unavailable",
            "the third fetch is too late"
        );
        worker.pass(seconds(3));
        worker.answer(&token("h.p.s", 3600));
        assert_eq!(process.logged("gives tokens again after 2 failed fetches").len(), 1);
        assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
    }
}

#[test]
fn a_refusal_ends_the_wait_and_is_not_asked_for_again() {
    let (process, worker) = starting();
    let other = Worker::new(&process, &document());
    let calls =
        [worker.call(&by_url("m")), worker.call(&by_body("single")), other.call(&by_url("m"))];
    let body = br#"{"error":"invalid_request","error_description":"Identity not found"}"#;
    worker.answer(&CalloutResponse::Response {
        status: 400,
        retry_after: None,
        body: body.to_vec(),
    });
    other.pass(millis(5));
    for call in calls {
        assert_eq!(call.told(), "503 token_refused");
        assert_eq!(call.response_header("x-should-retry").as_deref(), Some("false"));
        assert_eq!(call.response_header("retry-after"), None);
    }
    worker.pass(seconds(59));
    assert_eq!(worker.ask(&by_url("m")), "503 token_refused");
    assert_eq!((worker.callout(), process.asked()), (None, String::new()));
    let [line] = process.logged("no token for Azure").try_into().unwrap();
    assert!(
        line.contains("identity_not_found: ") && line.ends_with("(identity default)"),
        "{line}"
    );
    worker.pass(seconds(17));
    worker.answer(&token("h.p.s", 3600));
    assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
}

#[test]
fn a_token_serves_until_it_expires_and_is_refreshed_before() {
    let (process, worker) = starting();
    worker.answer(&token("h.p.one", 600));
    worker.pass(seconds(300));
    assert_eq!(worker.callout().as_deref(), Some("imds"));
    worker.answer(&failure(500));
    worker.pass(millis(299_999));
    assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
    worker.pass(millis(1));
    let call = worker.call(&by_url("m"));
    worker.pass(seconds(2));
    assert_eq!(call.told(), "503 token_unavailable");
    assert_eq!(seen(&process.arrived()[0])[2], "h.p.one");
}

#[test]
fn a_clock_that_is_set_back_makes_no_request_wait_for_longer() {
    let (process, worker) = starting();
    let call = worker.call(&by_url("m"));
    process.set_back(seconds(3600));
    worker.pass(millis(1999));
    assert_eq!(call.told(), "");
    worker.pass(millis(1));
    assert_eq!(call.told(), "503 token_unavailable");
    // Nor does it miss a token that another worker fetches.
    let (process, worker) = starting();
    let other = Worker::new(&process, &document());
    let call = other.call(&by_url("m"));
    process.set_back(seconds(3600));
    worker.answer(&token("h.p.s", 3600));
    other.pass(millis(5));
    assert_eq!(call.told(), "200 aa 1");
}

#[test]
fn callers_that_leave_while_they_wait_leave_nothing_behind() {
    let (process, worker) = starting();
    let [leaves, stays] = [0; 2].map(|_| worker.call(&by_url("m")));
    leaves.leave();
    worker.answer(&token("h.p.s", 3600));
    assert_eq!((leaves.told().as_str(), stays.told().as_str()), ("", "200 aa 1"));
    assert_eq!((process.asked().as_str(), worker.requests.len()), ("aa", 0));
}

/// A request whose body has come in part when its token comes.
fn partly(worker: &Rc<Worker>, request: &Request, pieces: &[&[u8]]) -> Rc<Call> {
    let call = worker.begin(request, false);
    for piece in pieces {
        call.piece(piece, false);
    }
    call
}

#[test]
fn a_body_that_comes_around_its_token_arrives_whole_and_once() {
    for (model, trouble, told) in [
        ("single", None, "200 aa"),
        ("m", None, "200 aa 1"),
        ("m", Some(Reaction::throttled(LONG)), "200 bb 2"),
    ] {
        for (name, request) in
            [("url", by_url(model)), ("body", by_body(model)), ("last", last(model))]
        {
            for ready in [0, 1, 2, 3] {
                let (process, worker) = starting();
                let pieces: Vec<&[u8]> =
                    request.body.chunks(request.body.len().div_ceil(4)).collect();
                process.script("aa", trouble.clone());
                let call = partly(&worker, &request, &pieces[..ready]);
                worker.answer(&token("h.p.s", 3600));
                worker.pass(millis(20));
                if ready > 0 {
                    assert_eq!(process.arrived(), [], "it goes on with its next piece");
                }
                for (index, piece) in pieces.iter().enumerate().skip(ready) {
                    call.piece(piece, index + 1 == pieces.len());
                    worker.pass(millis(20));
                }
                assert_eq!(call.told(), told, "{name} {ready}");
                for arrived in process.arrived() {
                    let [backend, _, _, body] = seen(&arrived);
                    let deployment = format!(r#""model":"{model}-in-{backend}""#);
                    let sent = String::from_utf8(request.body.clone()).unwrap();
                    let expected = sent.replace(&format!(r#""model":"{model}""#), &deployment);
                    assert_eq!(body, expected, "{name} {ready}");
                }
            }
        }
    }
}

/// A request whose body names the model at its end.
fn last(model: &str) -> Request {
    let body = format!(r#"{{"messages":["hello"],"model":"{model}"}}"#);
    Request::new("POST", CHAT).header("api-key", KEY).body(body)
}

#[test]
fn a_body_that_has_come_whole_goes_on_with_the_token() {
    let (process, worker) = starting();
    let calls = [by_url("m"), by_body("single")].map(|request| worker.call_in_pieces(&request, 5));
    let with_trailers = partly(&worker, &by_body("m"), &[br#"{"model":"m","messages":[]}"#]);
    with_trailers.trailers(&[("x-last", "word")]);
    worker.answer(&token("h.p.s", 3600));
    assert_eq!(calls.map(|call| call.told()), ["200 aa 1", "200 aa"]);
    assert_eq!(with_trailers.told(), "200 aa 1");
    let bodies =
        process.arrived().iter().map(|arrived| seen(arrived)[3].clone()).collect::<Vec<_>>();
    let body = |name| format!(r#"{{"model":"{name}","messages":[]}}"#);
    assert_eq!(bodies, [r#"{"messages":[]}"#.to_owned(), body("single-in-aa"), body("m-in-aa")]);
}

#[test]
fn a_body_that_stalls_when_its_token_has_come_is_told_to_come_again() {
    let (process, worker) = starting();
    let call = partly(&worker, &by_url("m"), &[b"{"]);
    worker.answer(&token("h.p.s", 3600));
    worker.pass(millis(1999));
    assert_eq!(call.told(), "");
    worker.pass(millis(1001));
    assert_eq!(call.told(), "503 token_unavailable");
    assert_eq!(call.response_header("retry-after").as_deref(), Some("1"));
    assert_eq!(process.asked(), "");
    assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
}

#[test]
fn a_second_model_is_refused_while_the_request_waits() {
    let (process, worker) = starting();
    let call = partly(&worker, &by_body("m"), &[br#"{"model":"m","#]);
    call.piece(br#""model":"n"}"#, true);
    assert_eq!(call.told(), "400 missing_model");
    worker.answer(&token("h.p.s", 3600));
    assert_eq!(process.asked(), "");
}

/// A worker with its token, and another one of the same process that cannot know of it.
fn early_and_late() -> (Rc<Process>, Rc<Worker>, Rc<Worker>) {
    let process = Process::new();
    let early = Worker::ready(&process, &document());
    let mut document = document();
    document["identity"]["managed_identity"]["client_id"] =
        "3f0c0000-0000-0000-0000-00000000000a".into();
    let late = Worker::new(&process, &document);
    late.tick();
    (process, early, late)
}

fn crowd(worker: &Rc<Worker>) -> Vec<Rc<Call>> {
    [by_url("m"), by_body("m")]
        .iter()
        .cycle()
        .take(20)
        .map(|request| worker.call(request))
        .collect()
}

fn told(crowd: &[Rc<Call>]) -> Vec<String> {
    let mut told: Vec<_> = crowd.iter().map(|call| call.told()).collect();
    told.sort();
    told
}

#[test]
fn a_crowd_that_has_waited_goes_to_no_backend_in_cooldown() {
    let (process, early, late) = early_and_late();
    let crowd = crowd(&late);
    process.script("aa", [Reaction::throttled(LONG)]);
    assert_eq!(early.ask(&by_url("m")), "200 bb 2");
    process.advance(millis(1));
    late.answer(&token("h.p.s", 3600));
    assert_eq!(told(&crowd), ["200 bb 1"; 20]);
    assert_eq!(process.asked().matches("aa").count(), 1);
}

#[test]
fn one_of_a_crowd_that_has_waited_probes() {
    let (process, early, late) = early_and_late();
    process.script("aa", [Reaction::throttled("300"), Reaction::hang()]);
    assert_eq!(early.ask(&by_url("m")), "200 bb 2");
    process.advance(millis(400));
    let crowd = crowd(&late);
    late.answer(&token("h.p.s", 3600));
    assert_eq!(told(&crowd)[..1], [""], "the probe");
    assert_eq!(told(&crowd)[1..], ["200 bb 1"; 19]);
    let probe = crowd.iter().find(|call| call.told().is_empty()).unwrap();
    probe.respond(crate::host::Response::new(200));
    assert_eq!(probe.told(), "200 aa 1");
    assert_eq!(late.ask(&by_url("m")), "200 aa 1");
}

#[test]
fn a_crowd_that_has_waited_is_told_when_all_are_in_cooldown() {
    let (process, early, late) = early_and_late();
    let crowd = crowd(&late);
    for (region, wait) in REGIONS.iter().zip([LONG, "60000", LONG]) {
        process.script(region, [Reaction::throttled(wait)]);
    }
    assert_eq!(early.ask(&by_url("m")), "429 cc 3");
    process.advance(millis(1));
    late.answer(&token("h.p.s", 3600));
    assert_eq!(told(&crowd), ["429 all_backends_throttled"; 20]);
    let wait: u64 = crowd[0].response_header("retry-after-ms").unwrap().parse().unwrap();
    assert!((59_999..66_000).contains(&wait), "{wait}");
    assert_eq!(process.asked(), "aa bb cc");
}

#[test]
fn choosing_again_takes_no_other_requests_turn() {
    let mut document = document();
    for placement in document["models"][0]["backends"].as_array_mut().unwrap() {
        placement["priority"] = 0.into();
    }
    let process = Process::new();
    let worker = Worker::new(&process, &document);
    worker.tick();
    // Some look again many times, as their bodies come.
    for round in 0..30 {
        let call = worker.begin(&by_url("m"), false);
        for _ in 0..round % 4 {
            call.piece(b"{", false);
        }
        call.piece(b"}", true);
    }
    worker.answer(&token("h.p.s", 3600));
    let asked = process.asked();
    assert_eq!(REGIONS.map(|region| asked.matches(region).count()), [10, 10, 10]);
}

#[test]
fn a_request_that_waits_goes_to_whichever_identity_has_its_token_first() {
    let process = Process::new();
    let worker = Worker::new(&process, &two_identities());
    worker.tick();
    let call = worker.call(&by_url("m"));
    assert_eq!(call.told(), "");
    assert_eq!(worker.callout().as_deref(), Some("imds"));
    let slow = process.callouts.borrow_mut().remove(0);
    assert_eq!(worker.callout().as_deref(), Some("others"));
    worker.answer(&token("h.others.s", 3600));
    assert_eq!(call.told(), "200 bb 1");
    assert_eq!(seen(&process.arrived()[0])[2], "h.others.s");
    process.callouts.borrow_mut().push(slow);
    worker.answer(&token("h.imds.s", 3600));
    assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
}

#[test]
fn a_request_whose_backend_changes_waits_for_that_ones_token() {
    let (process, early, _) = early_and_late();
    let late = Worker::new(&process, &two_identities_of_its_own());
    late.tick();
    let calls = [by_url("m"), by_body("m")].map(|request| late.call(&request));
    process.script("aa", [Reaction::throttled(LONG)]);
    assert_eq!(early.ask(&by_url("m")), "200 bb 2");
    process.advance(millis(1));
    assert_eq!(late.callout().as_deref(), Some("own"));
    late.answer(&token("h.own.s", 3600));
    late.pass(millis(10));
    assert_eq!(calls.each_ref().map(|call| call.told()), ["", ""]);
    assert_eq!(process.asked(), "aa bb");
    assert_eq!(late.callout().as_deref(), Some("others"));
    late.answer(&token("h.others.s", 3600));
    assert!(calls.iter().all(|call| call.told() == "200 bb 1"));
    for arrived in process.arrived() {
        assert_eq!(seen(&arrived)[2], "h.others.s");
    }
}

fn two_identities_of_its_own() -> serde_json::Value {
    let mut document = two_identities();
    document["identity"]["managed_identity"]["cluster"] = "own".into();
    document
}
