//! Requests that have something in common prefer the same backend.

use std::collections::BTreeSet;
use std::rc::Rc;

use serde_json::json;

use crate::host::{Process, Reaction, Request, Response, Worker};
use crate::regions::{digest, endpoint, millis, seconds, seen, CHAT, KEY, LONG, REGIONS};

/// Models on three backends alike, each with another affinity.
fn document() -> serde_json::Value {
    let on =
        |regions: &[&str]| regions.iter().map(|name| json!({"backend": name})).collect::<Vec<_>>();
    let model = |name: &str, affinity: serde_json::Value| match affinity.is_null() {
        true => json!({"name": name, "backends": on(&REGIONS)}),
        false => json!({"name": name, "backends": on(&REGIONS), "affinity": affinity}),
    };
    json!({
        "identity": {"managed_identity": {"cluster": "imds"}},
        "subscriptions": [
            {"id": "team", "keys": [digest(KEY)], "models": ["*"]},
            {"id": "other", "keys": [digest("k-other")], "models": ["*"]},
        ],
        "backends": REGIONS.map(|name| json!({"name": name, "endpoint": endpoint(name)})),
        "models": [
            model("plain", json!(null)),
            model("by-key", json!({"body": "prompt_cache_key"})),
            model("by-user", json!({"body": "user"})),
            model("by-header", json!({"header": "x-session"})),
            {"name": "single", "affinity": {"body": "user"}, "backends": on(&["aa"])},
        ],
    })
}

fn started() -> (Rc<Process>, Rc<Worker>) {
    let process = Process::new();
    let worker = Worker::ready(&process, &document());
    (process, worker)
}

fn request(key: &str, headers: &[(&str, &str)], body: &str) -> Request {
    let request = Request::new("POST", CHAT).header("api-key", key).body(body);
    headers.iter().fold(request, |request, (name, value)| request.header(name, value))
}

/// The backend that a request goes to first.
fn first(worker: &Rc<Worker>, request: &Request) -> String {
    let call = worker.call(request);
    assert!(call.told().starts_with("200 "), "{}", call.told());
    call.first_backend()
}

/// The backends that so many equal requests go to first.
fn backends(worker: &Rc<Worker>, request: &Request) -> BTreeSet<String> {
    (0..6).map(|_| first(worker, request)).collect()
}

fn backend(worker: &Rc<Worker>, request: &Request) -> String {
    let found = backends(worker, request);
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

#[test]
fn equal_values_prefer_one_backend_and_others_are_spread() {
    let (process, worker) = started();
    let other_proxy = Worker::ready(&Process::new(), &document());
    let (long, longest) = ("s".repeat(513), "s".repeat(512));
    let long_text = format!(r#","user":"{}""#, "u".repeat(600));
    // Headers, and what is behind the model's field; whether the value counts.
    let rows: &[(&str, &str, &[(&str, &str)], &str, bool)] = &[
        (
            "no affinity",
            "plain",
            &[("x-session", "s")],
            r#","user":"u","prompt_cache_key":"k""#,
            false,
        ),
        ("the key", "by-key", &[], r#","prompt_cache_key":"k""#, true),
        ("another field", "by-key", &[("x-session", "s")], r#","user":"k""#, false),
        ("the user", "by-user", &[], r#","n":1,"user":"k""#, true),
        ("no text", "by-user", &[], r#","user":["k"]"#, false),
        ("an empty text", "by-user", &[], r#","user":"""#, false),
        ("a text too long", "by-user", &[], &long_text, false),
        ("the header", "by-header", &[("x-session", "s")], r#","user":"u""#, true),
        ("no header", "by-header", &[("x-other", "s")], r#","user":"u""#, false),
        ("an empty header", "by-header", &[("x-session", "")], "", false),
        ("a header too long", "by-header", &[("x-session", &long)], "", false),
        ("a long header", "by-header", &[("x-session", &longest)], "", true),
    ];
    for (name, model, headers, behind, counts) in rows {
        let count = if *counts { 1 } else { 3 };
        let body = format!(r#"{{"model":"{model}"{behind}}}"#);
        assert_eq!(backends(&worker, &request(KEY, headers, &body)).len(), count, "{name}");
        if behind.is_empty() {
            continue;
        }
        let before = format!(r#"{{{},"model":"{model}"}}"#, behind.replacen(',', "", 1));
        let requests = [&before, &body].map(|body| request(KEY, headers, body));
        assert_eq!(backends(&worker, &requests[0]).len(), count, "{name}");
        if *counts {
            let found = requests.each_ref().map(|request| backend(&worker, request));
            assert_eq!(found[0], found[1], "{name}, on either side of the model");
            assert_eq!(backend(&other_proxy, &requests[0]), found[0], "{name}, at every proxy");
        }
    }
    let body = |index| format!(r#"{{"model":"by-user","user":"user-{index}"}}"#);
    let found: BTreeSet<_> =
        (0..30).map(|index| backend(&worker, &request(KEY, &[], &body(index)))).collect();
    assert_eq!(found.len(), 3);
    // What a request is drawn by is passed on.
    process.asked();
    worker.ask(&request(KEY, &[("x-session", "s 1")], &body(7)));
    let [arrived] = process.arrived().try_into().unwrap();
    assert_eq!(seen(&arrived)[3], body(7));
    assert_eq!(crate::regions::header(&arrived, "x-session"), "s 1");
}

#[test]
fn a_form_has_no_such_field() {
    let (_, worker) = started();
    let field = |name: &str, value: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let body = field("model", "by-user") + &field("user", "u") + "--b--\r\n";
    let form = [("content-type", "multipart/form-data; boundary=b")];
    let form = request(KEY, &form, &body).path("/openai/v1/audio/transcriptions");
    assert_eq!(backends(&worker, &form).len(), 3);
}

#[test]
fn a_value_draws_each_subscription_elsewhere() {
    let (_, worker) = started();
    let alike = (0..300)
        .filter(|index| {
            let body = format!(r#"{{"model":"by-user","user":"user-{index}"}}"#);
            let [ours, theirs] =
                [KEY, "k-other"].map(|key| first(&worker, &request(key, &[], &body)));
            ours == theirs
        })
        .count();
    assert!((70..130).contains(&alike), "{alike}");
}

#[test]
fn a_backend_that_is_taken_out_moves_its_own_share_alone() {
    let (_, worker) = started();
    let mut smaller = document();
    for model in smaller["models"].as_array_mut().unwrap() {
        model["backends"].as_array_mut().unwrap().retain(|placement| placement["backend"] != "cc");
    }
    let smaller = Worker::ready(&Process::new(), &smaller);
    let mut moved = 0;
    for index in 0..60 {
        let body = format!(r#"{{"model":"by-key","prompt_cache_key":"conversation-{index}"}}"#);
        let request = request(KEY, &[], &body);
        let (before, after) = (backend(&worker, &request), backend(&smaller, &request));
        assert!(before == after || before == "cc");
        moved += usize::from(before == "cc");
    }
    assert!(moved > 5);
}

#[test]
fn a_body_is_held_until_it_is_known_what_draws_it_and_no_longer() {
    let (process, worker) = started();
    // How many bytes have to come until the request goes on.
    let length = |body: &str| {
        process.asked();
        let call = worker.begin(&request(KEY, &[], ""), false);
        for (index, byte) in body.bytes().enumerate() {
            call.piece(&[byte], index + 1 == body.len());
            if !process.arrived().is_empty() {
                call.leave();
                return index + 1;
            }
        }
        panic!("the body ended and nothing came of it");
    };
    let until = |body: &str, end: &str| body.find(end).unwrap() + end.len();
    let rows = [
        (r#"{"model":"by-user","user":"u","n":1}"#, r#""u""#),
        (r#"{"user":"u","n":1,"model":"by-user","x":1}"#, r#""by-user""#),
        (r#"{"model":"by-user","n":1,"x":2}"#, r#"2}"#),
        (r#"{"model":"by-user","user":7,"x":2}"#, r#""user":7"#),
        (r#"{"model":"by-header","user":"u","n":1}"#, r#""by-header""#),
        (r#"{"model":"plain","user":"u","n":1}"#, r#""plain""#),
        (r#"{"model":"single","n":1}"#, r#""single""#),
    ];
    for (body, end) in rows {
        assert_eq!(length(body), until(body, end), "{body}");
    }
    let long = format!(r#"{{"model":"by-user","user":"{}"}}"#, "u".repeat(9000));
    assert!(length(&long) < 600, "a text that is too long is not waited for");
    // A second model behind the field is refused still.
    let body = r#"{"model":"by-user","user":"u","user":"v","model":"plain"}"#;
    assert_eq!(worker.ask(&request(KEY, &[], body)), "400 missing_model");
}

#[test]
fn a_url_that_names_the_model_is_not_held_for_a_body() {
    let (process, worker) = started();
    let backends = |model: &str| {
        let path = format!("/openai/deployments/{model}/chat/completions");
        let begun = |_| {
            let headers = [("x-session", "s"), ("x-session", "t")];
            let call = worker.begin(&request(KEY, &headers, "").path(&path), false);
            assert_eq!(process.asked().len(), 2, "it has gone on");
            call.leave();
            call.first_backend()
        };
        (0..6).map(begun).collect::<BTreeSet<_>>()
    };
    assert_eq!(backends("by-user").len(), 3);
    let drawn = backend(&worker, &request(KEY, &[("x-session", "s")], r#"{"model":"by-header"}"#));
    process.asked();
    assert_eq!(backends("by-header"), BTreeSet::from([drawn]), "the same by URL and by body");
}

#[test]
fn a_request_leaves_the_backend_that_it_prefers_while_that_is_in_cooldown_and_comes_back() {
    for drawn in [
        request(KEY, &[], r#"{"model":"by-user","user":"u"}"#),
        request(KEY, &[("x-session", "s")], r#"{"model":"by-header"}"#),
    ] {
        let (process, worker) = started();
        let preferred = backend(&worker, &drawn);
        process.script(&preferred, [Reaction::throttled("5000")]);
        assert!(worker.ask(&drawn).ends_with(" 2"));
        let instead = backend(&worker, &drawn);
        assert_ne!(instead, preferred);
        process.advance(millis(5501));
        process.script(&preferred, [Reaction::hang()]);
        let probe = worker.call(&drawn);
        assert_eq!((probe.told(), probe.first_backend()), (String::new(), preferred.clone()));
        assert_eq!(backend(&worker, &drawn), instead, "one request probes");
        probe.respond(Response::new(200));
        assert_eq!(backend(&worker, &drawn), preferred);
        // A cooldown of another one is none of its concern, nor is that one's probe.
        for other in REGIONS.iter().filter(|name| **name != preferred) {
            process.script(other, [Reaction::throttled("5000")]);
            let others = (0..100).map(|index| drawn.clone().drawn_by(&format!("other-{index}")));
            others.map(|request| worker.ask(&request)).find(|told| told.ends_with(" 2")).unwrap();
            assert_eq!(backend(&worker, &drawn), preferred, "{other}");
            process.advance(seconds(6));
            assert_eq!(backend(&worker, &drawn), preferred, "{other}");
        }
    }
}

impl Request {
    /// The same request with another value that draws it.
    fn drawn_by(mut self, value: &str) -> Self {
        if let Some((_, session)) = self.headers.iter_mut().find(|(name, _)| name == "x-session") {
            *session = value.into();
        }
        let body = String::from_utf8(self.body.clone()).unwrap();
        self.body(body.replace(r#""u""#, &format!("\"{value}\"")))
    }
}

#[test]
fn a_request_that_waits_follows_its_affinity_when_the_token_comes() {
    let process = Process::new();
    let early = Worker::ready(&process, &document());
    let mut late = document();
    late["identity"]["managed_identity"]["cluster"] = json!("late");
    let late = Worker::new(&process, &late);
    late.tick();
    let drawn = request(KEY, &[], r#"{"model":"by-user","user":"u"}"#);
    let preferred = backend(&early, &drawn);
    let [waits, other] = [0; 2].map(|_| late.call(&drawn));
    process.script(&preferred, [Reaction::throttled(LONG)]);
    early.ask(&drawn);
    let instead = backend(&early, &drawn);
    process.advance(millis(1));
    late.sign_in();
    assert_eq!(
        (waits.told(), other.told()),
        (format!("200 {instead} 1"), format!("200 {instead} 1"))
    );
}
