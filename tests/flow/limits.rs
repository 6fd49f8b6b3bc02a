//! The limits of subscriptions: who is admitted, what is charged, and what callers are told.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{json, Value};

use crate::host::{Call, Process, Reaction, Request, Response, Worker};
use crate::regions::{by_body, by_url, digest, document, millis, seconds, KEY, LONG};

const FILES: &str = "/openai/v1/files";
const OTHER_KEY: &str = "k-other";

/// A document with the subscription's limits.
fn limited(limits: Value) -> Value {
    let mut document = document();
    document["subscriptions"][0]["limits"] = limits;
    document
}

fn started(limits: Value) -> (Rc<Process>, Rc<Worker>) {
    let process = Process::new();
    let worker = Worker::ready(&process, &limited(limits));
    (process, worker)
}

/// A response that has used so many tokens.
fn used(tokens: u64) -> Response {
    let usage = json!({"prompt_tokens": tokens - 1, "completion_tokens": 1});
    let body = json!({"choices": [], "usage": usage}).to_string();
    Response::new(200).piece(body.as_bytes())
}

/// A request that is expected to use so many tokens.
fn expected(tokens: usize) -> Request {
    let mut request = by_url("m");
    request.body.resize(tokens * 4, b' ');
    request.content_length()
}

fn limits(call: &Call) -> Vec<String> {
    let names = ["limit-requests", "remaining-requests", "limit-tokens", "remaining-tokens"];
    let values = names.map(|name| call.response_header(&format!("x-aoai-{name}")));
    values.into_iter().flatten().collect()
}

fn milliseconds(call: &Call) -> u64 {
    call.response_header("retry-after-ms").map_or(0, |wait| wait.parse().unwrap())
}

#[test]
fn requests_beyond_the_limit_wait_for_room_and_are_told_how_long() {
    let (process, worker) = started(json!({"requests_per_minute": 3}));
    let other = Worker::ready(&process, &limited(json!({"requests_per_minute": 3})));
    for (worker, left) in [(&worker, "2"), (&other, "1"), (&worker, "0")] {
        let call = worker.call(&by_url("m"));
        assert_eq!(
            (call.told().as_str(), limits(&call)),
            ("200 aa 1", vec!["3".into(), left.into()])
        );
    }
    process.asked();
    for request in [by_url("m"), by_body("m"), Request::new("GET", FILES).header("api-key", KEY)] {
        let call = other.call(&request);
        assert_eq!(call.told(), "429 request_limit_reached");
        assert_eq!((milliseconds(&call), limits(&call)), (20_000, vec!["3".into(), "0".into()]));
        assert_eq!(call.response_header("retry-after").as_deref(), Some("20"));
    }
    assert_eq!(process.asked(), "", "none has arrived");
    process.advance(millis(19_999));
    assert_eq!(worker.ask(&by_url("m")), "429 request_limit_reached");
    process.advance(millis(1));
    assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
    assert_eq!(worker.ask(&by_url("m")), "429 request_limit_reached");
}

#[test]
fn tokens_are_charged_as_they_were_used() {
    let (process, worker) = started(json!({"tokens_per_minute": 600}));
    process.script("aa", [used(550)]);
    let call = worker.call(&expected(10));
    assert_eq!(
        (call.told().as_str(), limits(&call)),
        ("200 aa 1", vec!["600".into(), "590".into()])
    );
    process.script("aa", [used(80)]);
    let call = worker.call(&expected(50));
    assert_eq!((call.told().as_str(), limits(&call)), ("200 aa 1", vec!["600".into(), "0".into()]));
    // 30 are owed, and 10 come in each second.
    let call = worker.call(&expected(10));
    assert_eq!((call.told().as_str(), milliseconds(&call)), ("429 token_limit_reached", 4000));
    process.advance(millis(3999));
    assert_eq!(worker.ask(&expected(10)), "429 token_limit_reached");
    process.advance(millis(1));
    process.script("aa", [used(10)]);
    assert_eq!(worker.ask(&expected(10)), "200 aa 1");
}

#[test]
fn a_thousand_requests_at_once_do_not_pass_before_the_first_has_told_what_it_used() {
    let (process, worker) = started(json!({"tokens_per_minute": 1000}));
    process.script("aa", [0; 33].map(|_| Reaction::hang()));
    let calls: Vec<_> = (0..1000).map(|_| worker.call(&expected(30))).collect();
    let count = |told: &str| calls.iter().filter(|call| call.told() == told).count();
    assert_eq!((count(""), count("429 token_limit_reached")), (33, 1000 - 33));
    // What was reserved for those that leave before anything was used is there for others.
    calls.iter().for_each(|call| call.leave());
    process.script("aa", [used(10)]);
    assert_eq!(worker.ask(&expected(10)), "200 aa 1");
}

#[test]
fn what_was_not_forwarded_or_not_served_is_given_back() {
    let process = Process::new();
    let document = limited(json!({"requests_per_minute": 2, "tokens_per_minute": 600}));
    let worker = Worker::new(&process, &document);
    let waits = worker.call(&expected(100));
    assert_eq!(waits.told(), "", "there is no token");
    waits.leave();
    worker.sign_in();
    for region in ["aa", "bb", "cc"] {
        process.script(region, [Reaction::throttled(LONG)]);
    }
    let call = worker.call(&expected(100));
    assert_eq!(limits(&call), ["2", "1", "600", "500"]);
    assert_eq!(call.told(), "429 cc 3");
    let call = worker.call(&by_url("single"));
    assert_eq!(limits(&call)[1], "0", "what was forwarded is a request");
    assert!(limits(&call)[3].parse::<u64>().unwrap() > 590, "but has used no tokens");
}

#[test]
fn requests_that_use_no_tokens_are_bound_by_limits_of_requests_alone() {
    let (process, worker) = started(json!({"requests_per_minute": 4, "tokens_per_minute": 100}));
    process.script("aa", [used(500)]);
    assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
    assert_eq!(worker.ask(&by_url("m")), "429 token_limit_reached");
    let files = || Request::new("GET", FILES).header("api-key", KEY);
    for left in ["2", "1", "0"] {
        let call = worker.call(&files());
        assert!(call.told().starts_with("200"), "{}", call.told());
        assert_eq!(limits(&call)[1], left);
    }
    assert_eq!(worker.ask(&files()), "429 request_limit_reached");
    assert_eq!(worker.ask(&Request::new("GET", "/openai/v1/models").header("api-key", KEY)), "200");
}

#[test]
fn a_model_has_limits_of_its_own_where_they_differ() {
    let (_, worker) = started(json!({
        "requests_per_minute": 2, "tokens_per_minute": 5000,
        "models": {"n": {"requests_per_minute": 1}},
    }));
    let call = worker.call(&by_body("n"));
    assert_eq!(limits(&call)[..3], ["1", "0", "5000"]);
    assert_eq!(worker.ask(&by_url("n")), "429 request_limit_reached");
    for model in ["m", "single"] {
        assert!(worker.ask(&by_url(model)).starts_with("200"), "{model}");
    }
    assert_eq!(worker.ask(&by_url("m")), "429 request_limit_reached");
}

#[test]
fn one_subscriptions_limits_are_not_anothers() {
    let mut document = limited(json!({"requests_per_minute": 1}));
    let other = json!({"id": "other", "keys": [digest(OTHER_KEY)], "models": ["*"]});
    document["subscriptions"].as_array_mut().unwrap().push(other);
    let process = Process::new();
    let worker = Worker::ready(&process, &document);
    for told in ["200 aa 1", "429 request_limit_reached"] {
        assert_eq!(worker.ask(&by_url("m")), told);
    }
    let request = Request::new("POST", "/openai/deployments/m/embeddings?api-version=2024-10-21");
    for _ in 0..5 {
        let call = worker.call(&request.clone().header("api-key", OTHER_KEY));
        assert_eq!((call.told().as_str(), limits(&call).len()), ("200 aa 1", 0));
    }
}

#[test]
fn a_new_document_forgets_nothing_that_was_used() {
    let (_, worker) = started(json!({"requests_per_minute": 2}));
    assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
    worker.replace_configuration(&limited(json!({"requests_per_minute": 3})));
    worker.sign_in();
    let call = worker.call(&by_url("m"));
    assert_eq!(limits(&call), ["3", "1"]);
}

#[test]
fn a_realtime_session_is_charged_as_it_goes() {
    let (process, worker) = started(json!({"tokens_per_minute": 100}));
    process.script("aa", [Response::new(101).open()]);
    let session = Request::new("GET", "/openai/v1/realtime?model=m").header("api-key", KEY);
    let call = worker.call(&session);
    assert_eq!(call.told(), "101 aa 1");
    let event = json!({"type": "response.done", "response": {
        "usage": {"input_tokens": 200, "output_tokens": 50}}});
    let text = event.to_string();
    let mut frame = vec![0x81, 126];
    frame.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
    frame.extend(text.as_bytes());
    call.response_piece(&frame, false);
    let refused = worker.call(&session);
    assert_eq!(refused.told(), "429 token_limit_reached");
    assert_eq!(milliseconds(&refused), 90_600, "150 are owed, and one is wanted");
    call.leave();
    assert_eq!(milliseconds(&worker.call(&session)), 90_600, "and not charged again");
}

#[test]
fn where_the_counters_cannot_be_changed_no_request_passes() {
    let (process, worker) = started(json!({"requests_per_minute": 3}));
    process.failing_writes.set(100);
    let call = worker.call(&by_url("m"));
    assert_eq!((call.told().as_str(), milliseconds(&call)), ("503 limits_unavailable", 1000));
    assert_eq!(process.asked(), "");
    process.failing_writes.set(2);
    assert_eq!(worker.ask(&by_url("m")), "200 aa 1", "another worker was faster, twice");
}

/// Twenty callers on two workers ask as soon as they are told that there is room, for ten minutes.
#[test]
fn callers_that_come_back_when_told_get_the_limit_and_none_starves() {
    const CALLERS: usize = 20;
    const MINUTES: u64 = 10;
    for (limits, cost) in
        [(json!({"requests_per_minute": 120}), 1), (json!({"tokens_per_minute": 6000}), 50)]
    {
        let limit = limits.as_object().unwrap().values().next().unwrap().as_u64().unwrap();
        let process = Process::new();
        let workers = [0; 2].map(|_| Worker::ready(&process, &limited(limits.clone())));
        let mut due = BTreeMap::new();
        for caller in 0..CALLERS {
            due.insert((0, caller), 0);
        }
        let mut served = [0; CALLERS];
        let mut now = 0;
        while let Some(((at, caller), asked)) = due.pop_first() {
            if at >= MINUTES * 60_000 {
                break;
            }
            process.advance(millis(at - now));
            now = at;
            workers.iter().for_each(|worker| worker.tick());
            process.script("aa", [used(50)]);
            let call = workers[asked % 2].call(&expected(20));
            let next = match call.told().as_str() {
                "200 aa 1" => {
                    served[caller] += 1;
                    1
                }
                told => {
                    assert!(told.starts_with("429"), "{told}");
                    // As official clients do, up to a quarter later.
                    milliseconds(&call) * (100 + (asked as u64 * 7 + caller as u64) % 25) / 100
                }
            };
            // Callers come one after the other.
            due.insert((at + next.max(1), caller), asked + 1);
        }
        let all = served.iter().sum::<u64>() * cost;
        // A minute's worth, and what comes in ten more; at the end one caller may have to come back yet.
        let most = limit * (MINUTES + 1);
        assert!(all <= most && all * 100 >= most * 99, "{all} of {most}");
        let (least, mean) = (*served.iter().min().unwrap(), all / cost / CALLERS as u64);
        assert!(least * 2 >= mean, "{served:?}");
    }
}

#[test]
fn azures_own_limits_reach_the_caller_beside_its_subscriptions() {
    let (process, worker) = started(json!({"requests_per_minute": 3}));
    let names = ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-requests"];
    process.script("aa", [names.iter().fold(used(5), |response, name| response.header(name, "7"))]);
    let call = worker.call(&by_url("m"));
    assert_eq!(names.map(|name| call.response_header(name).unwrap()), ["7", "7"]);
    assert_eq!(limits(&call), ["3", "2"]);
    assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
    assert_eq!(worker.call(&by_url("m")).told(), "200 aa 1");
    process.advance(seconds(60));
    assert_eq!(limits(&worker.call(&by_url("m"))), ["3", "2"]);
}

/// Limits of a service.
fn shared(limits: Value) -> (Rc<Process>, Rc<Worker>) {
    let mut document = limited(limits);
    document["limits"] = json!({"store": "ratelimit"});
    let process = Process::new();
    let worker = Worker::ready(&process, &document);
    (process, worker)
}

/// What Envoy's filter adds to a response, where the service has said this of three limits, the nearest to its end
/// first.
fn told(response: Response, nearest: &str, remaining: u64, reset: u64) -> Response {
    let limits = r#"600;w=60;name="requests", 5000;w=60;name="tokens", 90000;w=86400;name="quota""#;
    response
        .header("x-ratelimit-limit", &format!("{nearest}, {limits}"))
        .header("x-ratelimit-remaining", &remaining.to_string())
        .header("x-ratelimit-reset", &reset.to_string())
}

#[test]
fn envoys_filter_is_told_which_counters_of_the_service_bind_a_request() {
    let (process, worker) = shared(json!({
        "requests_per_minute": 600, "tokens_per_minute": 5000, "quota": {"tokens": 90000, "period": "day"},
        "models": {"n": {"requests_per_minute": 6}},
    }));
    let files = Request::new("GET", FILES).header("api-key", KEY);
    for (request, requests, tokens, quota) in [
        (by_url("m"), "team", "team", "team"),
        (by_body("single"), "team", "team", "team"),
        (by_body("n"), "team/n", "team/n", "team"),
        (files, "team", "", ""),
    ] {
        process.script("aa", [Reaction::hang()]);
        let call = worker.call(&request);
        let noted = ["request_limit", "token_limit", "quota"].map(|name| call.noted(name));
        assert_eq!(noted, [requests, tokens, quota]);
        assert_eq!(call.noted("tokens"), if quota.is_empty() { "" } else { "0" });
        call.respond(used(70));
        assert_eq!(call.noted("tokens"), if quota.is_empty() { "" } else { "70" });
    }
    let (process, worker) = shared(json!({}));
    process.script("aa", [Reaction::hang()]);
    let call = worker.call(&by_url("m"));
    let names = ["request_limit", "token_limit", "quota", "tokens"];
    assert_eq!(names.map(|name| call.noted(name)).concat(), "", "and nothing where nothing does");
}

#[test]
fn what_the_service_has_said_reaches_the_caller_in_the_gateways_own_headers() {
    for (nearest, remaining) in
        [("600", ["599", "-"]), ("5000", ["-", "599"]), ("90000", ["-", "-"])]
    {
        let limits = json!({
            "requests_per_minute": 600, "tokens_per_minute": 5000,
            "quota": {"tokens": 90000, "period": "day"},
        });
        let (process, worker) = shared(limits);
        process
            .script("aa", [told(used(5).header("x-ratelimit-limit-tokens", "7"), nearest, 599, 9)]);
        let call = worker.call(&by_url("m"));
        assert_eq!(call.told(), "200 aa 1");
        let header = |name: &str| call.response_header(name).unwrap_or_else(|| "-".to_owned());
        assert_eq!(["x-aoai-remaining-requests", "x-aoai-remaining-tokens"].map(header), remaining);
        let limits = ["x-aoai-limit-requests", "x-aoai-limit-tokens", "x-ratelimit-limit-tokens"];
        assert_eq!(limits.map(header), ["600", "5000", "7"]);
        let envoys = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];
        assert_eq!(envoys.map(header), ["-", "-", "-"]);
    }
}

#[test]
fn a_refusal_of_the_service_is_told_in_the_gateways_words() {
    const LIMITED: &str = "request_rate_limited";
    for (response, details, expected, seconds) in [
        (told(Response::new(429), "600", 0, 9), LIMITED, "429 request_limit_reached", "9"),
        (told(Response::new(429), "5000", 0, 9), LIMITED, "429 token_limit_reached", "9"),
        (told(Response::new(429), "90000", 0, 7777), LIMITED, "403 quota_exhausted", "7777"),
        // As one that is configured otherwise would.
        (Response::new(429), LIMITED, "503 limits_unavailable", "1"),
        (
            Response::new(429).header("x-ratelimit-limit", "what"),
            LIMITED,
            "503 limits_unavailable",
            "1",
        ),
        (Response::new(503), "rate_limiter_error", "503 limits_unavailable", "1"),
    ] {
        for request in [by_url("m"), by_url("single")] {
            for body in [false, true] {
                let (process, worker) = shared(json!({"requests_per_minute": 600}));
                process.script("aa", [Reaction::hang()]);
                let call = worker.call(&request);
                let sent = response.clone();
                call.envoy_sends(
                    if body { sent.piece(b"Envoy's own text") } else { sent },
                    details,
                );
                assert_eq!(call.told(), expected);
                assert_eq!(call.response_header("retry-after").as_deref(), Some(seconds));
                assert_eq!(call.response_header("x-ratelimit-limit"), None);
                let (_, reason) = expected.split_once(' ').unwrap();
                let outcome = format!("aoai_requests_total.outcome.{reason}.backend.none 1");
                assert_eq!(process.requests_counted(), [outcome]);
                assert_eq!(process.counted("aoai_tokens_total"), [""; 0], "it has used nothing");
            }
        }
    }
    // Azure's own 429 is none of the service.
    let (process, worker) = shared(json!({"requests_per_minute": 600}));
    process.script("aa", [told(Response::new(429), "600", 5, 9)]);
    let call = worker.call(&by_url("single"));
    assert_eq!(call.told(), "429 aa");
    assert_eq!(call.response_header("x-aoai-remaining-requests").as_deref(), Some("5"));
}

#[test]
fn requests_that_the_service_has_not_checked_are_counted_and_logged_once_a_minute() {
    let (process, worker) = shared(json!({"requests_per_minute": 600}));
    for _ in 0..3 {
        let call = worker.call(&by_url("m"));
        assert_eq!((call.told().as_str(), limits(&call)), ("200 aa 1", vec!["600".to_owned()]));
    }
    let counted = "aoai_limits_unchecked_total.subscription.team.model.m 3";
    assert_eq!(process.counted("unchecked"), [counted]);
    assert_eq!(process.logged("limits of subscription team were not checked").len(), 1);
    process.script("aa", [told(used(5), "600", 9, 9)]);
    assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
    assert_eq!(process.counted("unchecked"), [counted]);
}
