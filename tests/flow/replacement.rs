//! What the two stages share of a request, and what becomes of that while a configuration or a module is
//! replaced.

use std::rc::Rc;

use aoai_filter::flow::attempt::{AttemptEvent, AttemptFlow};
use aoai_filter::flow::context::Context;
use aoai_filter::flow::cooldowns::KEY as KEY_OF_COOLDOWNS;
use aoai_filter::flow::pool_request::{PoolReference, PoolRequests};
use aoai_filter::flow::request::{unconfigured, Event, RequestFlow, State};
use aoai_filter::flow::step::Then;
use aoai_filter::routing::cooldown::Cooldowns;
use proptest::prelude::*;
use serde_json::json;

use crate::host::{value, AtHand, Memory, Process, Reaction, Request, Response, Worker};
use crate::regions::*;

fn throttled() -> Reaction {
    Reaction::throttled(LONG)
}

#[test]
fn a_request_is_found_by_its_number_until_it_ends() {
    let (process, worker) = started();
    process.script("aa", [0; 3].map(|_| Reaction::hang()));
    let [one, other, leaves] =
        [by_url("m"), by_body("n"), by_url("n")].map(|request| worker.call(&request));
    assert_eq!(worker.requests.len(), 3);
    let references = [&one, &other].map(|call| call.reference().unwrap());
    assert_ne!(references[0], references[1]);
    assert!(references.iter().all(|reference| reference.first == "aa" && reference.plan.is_none()));
    leaves.leave();
    assert_eq!(worker.requests.len(), 2);
    for call in [&other, &one] {
        call.respond(Response::new(429));
        assert_eq!(call.told(), "200 bb 2");
    }
    assert!(worker.requests.is_empty());
    assert!(references.iter().all(|reference| worker.requests.find(reference).is_none()));
    let paths: Vec<_> = process.arrived().iter().map(|arrived| seen(arrived)[1].clone()).collect();
    let to = |deployment| {
        format!("/openai/deployments/{deployment}/chat/completions?api-version=2024-10-21")
    };
    assert_eq!(paths, [&to("m-in-aa"), CHAT, &to("n-in-aa"), CHAT, &to("m-in-bb")]);
}

#[test]
fn a_request_under_way_keeps_its_configuration() {
    for request in [by_url("m"), by_body("m")] {
        let (process, worker) = started();
        process.script("aa", [Reaction::hang()]);
        process.script("bb", [Reaction::reset()]);
        let call = worker.call(&request);
        let mut other = document();
        other["identity"]["managed_identity"]["cluster"] = json!("other");
        other["models"].as_array_mut().unwrap().remove(0);
        worker.replace_configuration(&other);
        worker.sign_in();
        assert_eq!(worker.ask(&request), "404 unknown_model");
        assert_eq!(worker.ask(&by_url("n")), "200 aa 1");
        assert_eq!(worker.requests.len(), 1, "both configurations' requests are in one memory");
        call.respond(Response::new(429));
        assert_eq!(call.told(), "200 cc 3");
        let arrived = process.arrived();
        let tokens: Vec<_> = arrived.iter().map(|arrived| seen(arrived)[2].clone()).collect();
        assert_eq!(tokens, ["h.imds.1", "h.other.2", "h.imds.1", "h.imds.1"]);
        assert!(seen(&arrived[3]).concat().contains("m-in-cc"));
        assert_eq!(worker.requests.len(), 0);
    }
}

#[test]
fn a_request_that_waits_keeps_its_configuration() {
    let process = Process::new();
    let mut patient = document();
    patient["token_wait"] = json!("5m");
    let worker = Worker::new(&process, &patient);
    worker.tick();
    let call = worker.begin(&by_url("m"), false);
    worker.replace_configuration(&document());
    // Nobody hears the response of its fetch: it is made again, and its token found where all share it.
    process.callouts.take();
    process.advance(seconds(4));
    worker.sign_in();
    worker.pass(millis(5));
    call.piece(b"{}", true);
    assert_eq!(call.told(), "200 aa 1");
}

#[test]
fn a_configuration_forgets_cooldowns_that_concern_none_of_its_pools_and_no_running_ones() {
    let (process, worker) = started();
    process.script("aa", [throttled(), Reaction::throttled("1")]);
    process.script("bb", [throttled()]);
    assert_eq!(worker.ask(&by_url("m")), "200 cc 3");
    process.advance(millis(1));
    worker.replace_configuration(&document());
    assert_eq!(worker.ask(&by_url("m")), "200 cc 1");
    let known = || Cooldowns::from_bytes(&process.stored(KEY_OF_COOLDOWNS).unwrap()).unwrap();
    let mut without = document();
    without["models"].as_array_mut().unwrap().remove(0);
    worker.replace_configuration(&without);
    assert!(known().knows("aa", "m"), "a running one");
    process.advance(seconds(660));
    worker.replace_configuration(&document());
    assert!(known().knows("aa", "m"), "it is to be probed");
    worker.replace_configuration(&without);
    assert!(known().is_empty());
}

#[test]
fn a_request_of_another_module_is_not_taken_for_one_with_the_same_number() {
    let (process, worker) = started();
    let other = Worker::ready(&process, &document());
    process.script("aa", [Reaction::hang(), throttled()]);
    let of_other = other.call(&by_url("n"));
    worker.use_backend_stage_of(&other);
    assert_eq!(worker.ask(&by_url("m")), "429 aa 1");
    of_other.respond(Response::new(429));
    assert_eq!(of_other.told(), "200 bb 2");
    assert_eq!((process.asked().as_str(), process.counter("aoai_retries_total")), ("aa aa bb", 1));
}

/// A worker whose backend stage is another module's, by now known to be.
fn replaced() -> (Rc<Process>, Rc<Worker>) {
    let process = Process::new();
    let worker = Worker::ready(&process, &two_identities());
    worker.replace_backend_stage();
    assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
    process.advance(millis(50));
    process.asked();
    (process, worker)
}

#[test]
fn the_first_attempt_passes_a_backend_stage_of_another_module_as_it_is() {
    for (trouble, told, asked) in [
        (Reaction::status(200), "200 aa 1", "aa"),
        (throttled(), "429 aa 1", "aa"),
        (Reaction::status(503), "503 aa 1", "aa"),
        // Envoy goes on by itself, and what the second attempt has to be is not known.
        (Reaction::reset(), "503 bb 2", "aa"),
    ] {
        for request in [by_url("m"), by_body("m")] {
            let (process, worker) = started();
            worker.replace_backend_stage();
            process.script("aa", [trouble.clone()]);
            let call = worker.call(&request);
            assert_eq!(call.told(), told);
            let arrived = process.arrived();
            assert!(seen(&arrived[0]).concat().contains("m-in-aa"));
            assert_eq!((process.asked().as_str(), worker.requests.len()), (asked, 0));
            assert_eq!(call.reference().unwrap().plan, None);
        }
    }
}

#[test]
fn later_requests_are_retried_by_a_backend_stage_of_another_module() {
    let body = |name: &str| format!(r#"{{"model":"{name}","messages":[]}}"#);
    for request in [by_url("m"), by_body("m"), Request { body: body("m").into(), ..by_body("m") }] {
        for size in [1, usize::MAX] {
            let (process, worker) = replaced();
            process.script("aa", [throttled()]);
            process.script("bb", [Response::new(500)]);
            let call = worker.call_in_pieces(&request, size);
            assert_eq!(call.told(), "200 cc 3");
            assert!(call.reference().unwrap().plan.is_some());
            let sent = String::from_utf8(request.body.clone()).unwrap();
            let path = value(&request.headers, ":path").unwrap();
            for (arrived, region) in process.arrived().iter().zip(REGIONS) {
                let token = if region == "aa" { "h.imds.2" } else { "h.others.2" };
                let deployment = format!("m-in-{region}");
                let path = path.replace("/m/", &format!("/{deployment}/"));
                let sent = sent.replace(r#""m""#, &format!("\"{deployment}\""));
                assert_eq!(seen(arrived), [region, &path, token, &sent]);
            }
            assert_eq!(worker.requests.len(), 0);
        }
    }
}

/// What one backend stage has begun, another one goes on with: Envoy makes each attempt in the cluster as
/// that is then.
#[test]
fn a_request_under_way_is_retried_by_a_backend_stage_that_came_meanwhile() {
    for (trouble, bb, told) in [
        (throttled(), Reaction::status(200), "200 bb 2"),
        (Reaction::status(503), throttled(), "200 cc 3"),
        (Reaction::reset(), Reaction::status(200), "200 bb 2"),
        (Reaction::reset(), Reaction::reset(), "200 cc 3"),
    ] {
        for request in [by_url("m"), by_body("m")] {
            let process = Process::new();
            let worker = Worker::ready(&process, &two_identities());
            process.script("aa", [trouble.clone()]);
            process.script("bb", [bb.clone()]);
            let call = worker.begin(&request, request.body.is_empty());
            call.piece(&request.body[..14], false);
            worker.replace_backend_stage();
            call.piece(&request.body[14..], true);
            assert_eq!(call.told(), told);
            for (arrived, region) in process.arrived().iter().zip(REGIONS) {
                let token = if region == "aa" { "h.imds.2" } else { "h.others.2" };
                assert_eq!((seen(arrived)[0].as_str(), seen(arrived)[2].as_str()), (region, token));
                assert!(seen(arrived).concat().contains(&format!("m-in-{region}")));
            }
            assert_eq!(worker.requests.len(), 0);
        }
    }
}

#[test]
fn what_another_modules_attempts_tell_of_a_backend_is_known_of_that_one() {
    let (process, worker) = replaced();
    process.script("aa", [Reaction::throttled("1000")]);
    process.script("bb", [Response::new(401).header("content-type", "application/json").piece(
        br#"{"error":{"code":"PermissionDenied","message":"Principal does not have access to API/Operation."}}"#,
    )]);
    assert_eq!(worker.ask(&by_url("m")), "502 bb 2 backend_misconfigured role_missing");
    assert_eq!(process.logged("backend bb").len(), 1);
    // Its own response puts a backend in cooldown, and ends that.
    let (process, worker) = started();
    worker.replace_backend_stage();
    process.script("aa", [Reaction::throttled("1000")]);
    assert_eq!(worker.ask(&by_url("m")), "429 aa 1");
    assert_eq!(worker.ask(&by_url("m")), "200 bb 1");
    process.advance(millis(1101));
    process.asked();
    for _ in 0..3 {
        assert_eq!(worker.ask(&by_url("m")), "200 aa 1", "the first of them was a probe");
    }
}

#[test]
fn a_backend_stage_of_another_module_retries_where_that_helps() {
    for (trouble, delay, bb, told) in [
        (429, 0, "ready", "200 bb 2"),
        (503, 0, "ready", "200 bb 2"),
        (404, 0, "ready", "404 aa 1"),
        (503, 4001, "ready", "503 aa 1"),
        (503, 0, "in cooldown", "503 aa 1"),
        (503, 0, "not signed in to", "503 aa 1"),
    ] {
        let (process, worker) = replaced();
        process.script("aa", [Reaction::hang()]);
        let call = worker.call(&by_url("m"));
        match bb {
            "in cooldown" => {
                let other = Worker::ready(&process, &two_identities());
                process.script("aa", [Response::new(500)]);
                process.script("bb", [throttled()]);
                assert_eq!(other.ask(&by_url("m")), "200 cc 3");
            }
            "not signed in to" => process.advance(seconds(3600)),
            _ => process.advance(millis(delay)),
        }
        call.respond(Response::new(trouble));
        assert_eq!(call.told(), told, "{trouble} {delay} {bb}");
    }
}

#[test]
fn the_backend_that_responded_is_diagnosed_behind_a_backend_stage_of_another_module() {
    const ROLE: &[u8] = br#"{"error":{"code":"PermissionDenied","message":"no role"}}"#;
    for (trouble, told) in [(None, "502 aa 1"), (Some(throttled()), "502 bb 2")] {
        let (process, worker) = replaced();
        let region = if trouble.is_some() { "bb" } else { "aa" };
        process.script("aa", trouble);
        process.script(region, [Response::new(401).piece(ROLE)]);
        assert_eq!(worker.ask(&by_url("m")), format!("{told} backend_misconfigured role_missing"));
        let counted = format!("aoai_diagnoses_total.backend.{region}.diagnosis.role_missing 1");
        assert_eq!(process.counted("aoai_diagnoses_total"), [counted]);
    }
}

/// Envoy goes on by itself where there is no response, and from a pool's end to its beginning.
#[test]
fn a_pool_that_begins_again_mixes_up_no_tokens_in_a_backend_stage_of_another_module() {
    let mut document = two_identities();
    document["models"][0]["backends"].as_array_mut().unwrap().pop();
    for request in [by_url("m"), by_body("m")] {
        let process = Process::new();
        let worker = Worker::ready(&process, &document);
        worker.replace_backend_stage();
        assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
        process.advance(millis(50));
        process.asked();
        process.script("aa", [Reaction::reset()]);
        process.script("bb", [Reaction::reset()]);
        assert_eq!(worker.ask(&request), "200 aa 3");
        let arrived = process.arrived();
        assert_eq!(arrived.len(), 3);
        let [first, second, third] = [0, 1, 2].map(|index| seen(&arrived[index]));
        assert_eq!((first[2].as_str(), second[2].as_str()), ("h.imds.2", "h.others.2"));
        assert_eq!(third, first);
    }
}

#[test]
fn a_plan_is_left_for_a_while_after_the_modules_were_last_seen_to_differ() {
    let (process, worker) = replaced();
    let has_plan = || worker.call(&by_url("m")).reference().unwrap().plan.is_some();
    process.advance(seconds(500));
    assert!(has_plan());
    process.advance(seconds(500));
    assert!(has_plan(), "they differ still");
    worker.restore_backend_stage();
    process.advance(seconds(599));
    assert!(has_plan());
    process.advance(seconds(1));
    assert!(!has_plan());
}

#[test]
fn without_a_configuration_the_operator_is_pointed_to_the_log() {
    let reply = unconfigured();
    assert_eq!((reply.reason.status(), reply.reason.name()), (503, "token_unavailable"));
    assert!(reply.message.contains("its log"));
}

#[test]
fn an_attempt_that_knows_no_request_or_no_backend_goes_nowhere() {
    let (process, worker) = started();
    process.script("aa", [Reaction::hang()]);
    let call = worker.call(&by_url("m"));
    let reference = call.reference().unwrap().to_bytes();
    let named = |name: &str| Some(name.to_owned());
    for (name, pool_reference, upstream_backend) in [
        ("nothing", None, named("aa")),
        ("no reference", Some(b"?".to_vec()), named("aa")),
        ("no backend", Some(reference.clone()), None),
        ("another backend", Some(reference), named("zz")),
    ] {
        let at = AtHand { pool_reference, upstream_backend, ..AtHand::default() };
        let memory = Memory::new(&process, 1, at);
        let flow = AttemptFlow::New(Rc::clone(&worker.requests));
        let (flow, step) = flow.on(AttemptEvent::Head { ended: true }, &memory);
        let Then::Reply(reply) = step.then else { panic!("{name}: {step:?}") };
        let reason = ("x-aoai-reason", "unknown_backend".to_owned());
        assert!(reply.headers.contains(&reason), "{name}");
        assert!(matches!(flow, AttemptFlow::Ended), "{name}");
    }
}

fn event() -> impl Strategy<Value = Event> {
    let size = 0_usize..40;
    prop_oneof![
        any::<bool>().prop_map(|ended| Event::Head { ended }),
        (size.clone(), any::<bool>()).prop_map(|(size, ended)| Event::Body { size, ended }),
        Just(Event::Trailers),
        Just(Event::WakeUp),
        any::<bool>().prop_map(|ended| Event::ResponseHead { ended }),
        (size, any::<bool>()).prop_map(|(size, ended)| Event::ResponseBody { size, ended }),
        Just(Event::ResponseTrailers),
        Just(Event::End),
    ]
}

fn attempt_event() -> impl Strategy<Value = AttemptEvent> {
    let size = 0_usize..40;
    prop_oneof![
        any::<bool>().prop_map(|ended| AttemptEvent::Head { ended }),
        (size.clone(), any::<bool>()).prop_map(|(size, ended)| AttemptEvent::Body { size, ended }),
        Just(AttemptEvent::Trailers),
        any::<bool>().prop_map(|ended| AttemptEvent::ResponseHead { ended }),
        (size, any::<bool>()).prop_map(|(size, ended)| AttemptEvent::ResponseBody { size, ended }),
        Just(AttemptEvent::ResponseTrailers),
        Just(AttemptEvent::WakeUp),
        Just(AttemptEvent::End),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2048) })]

    /// Whatever the order of events, nothing panics, a request goes on at most once unless it was held, and
    /// only one that was let in goes on.
    #[test]
    fn no_sequence_of_events_panics_or_lets_a_request_in(
        events in prop::collection::vec(event(), 0..12),
        attempt_events in prop::collection::vec(attempt_event(), 0..6),
        key in prop::sample::select(vec![KEY, "other", ""]),
        by_url in any::<bool>(),
        signed_in in any::<bool>(),
        status in prop::sample::select(vec!["200", "401", "429", "503", ""]),
    ) {
        let process = Process::new();
        let worker = Worker::new(&process, &document());
        if signed_in {
            worker.sign_in();
        }
        let path = if by_url { "/openai/deployments/m/chat/completions" } else { CHAT };
        let memory = Memory::new(&process, 1, AtHand {
            request_headers: Request::new("POST", path).header("api-key", key).headers,
            request_body: br#"{"model":"m","messages":[]}     "#.to_vec(),
            response_headers: vec![(":status".to_owned(), status.as_bytes().to_vec())],
            response_body: b"{}".repeat(20),
            upstream_backend: Some("aa".to_owned()),
            ..AtHand::default()
        });
        let gateway = worker.gateway();
        let mut flow = RequestFlow::default();
        for event in events {
            let context = worker.context(7, &gateway, &memory);
            let was_new = matches!(flow.state, State::New | State::Ended);
            let (next, step) = flow.on(event, &context);
            let is_of_request = matches!(event, Event::Head { .. } | Event::Body { .. } | Event::Trailers);
            if step.then == Then::Continue && is_of_request {
                prop_assert!(key == KEY && signed_in, "{:?}", event);
                prop_assert!(!was_new || matches!(event, Event::Head { .. }), "{:?}", event);
            }
            if let Some(reference) = step.changes.pool_reference {
                memory.at.borrow_mut().pool_reference = Some(reference);
            }
            flow = next;
        }
        let mut attempt = AttemptFlow::New(Rc::clone(&worker.requests));
        for event in attempt_events {
            attempt = attempt.on(event, &memory).0;
        }
        drop(flow);
        prop_assert_eq!(worker.requests.len(), 0);
    }

    #[test]
    fn a_reference_survives_its_way(nonce in any::<u64>(), id in any::<u32>(), first in "[a-z]{0,9}") {
        let requests = PoolRequests::default();
        requests.identify(nonce);
        let reference = requests.reference(id, first, None);
        prop_assert_eq!(PoolReference::from_bytes(&reference.to_bytes()), Some(reference));
    }
}

#[test]
fn contexts_read_the_clock_once() {
    let (process, worker) = started();
    let memory = Memory::new(&process, 1, AtHand::default());
    let gateway = worker.gateway();
    let context: Context<'_> = worker.context(1, &gateway, &memory);
    let now = context.now();
    process.advance(seconds(1));
    assert_eq!(context.now(), now);
}
