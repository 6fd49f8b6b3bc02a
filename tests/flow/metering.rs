//! What requests use: read from responses as they pass, estimated where these do not tell, and counted once.

use std::rc::Rc;

use serde_json::{json, Value};

use crate::host::{value, Call, Process, Reaction, Request, Response, Worker};
use crate::regions::{by_body, by_url, digest, document, millis, CHAT, KEY, LONG, REGIONS};

const CHUNK: &str = r#"{"choices":[{"index":0,"delta":{"content":"usage"}}],"usage":null}"#;
const USED: &str = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":5}}}"#;
const ALL_OF_USED: &str = "input 9, cached_input 4, output 12, reasoning 5 reported";
const EMBEDDINGS: &str = "/openai/deployments/m/embeddings?api-version=2024-10-21";

/// A worker with its token, where streams are exact, as by default.
fn started() -> (Rc<Process>, Rc<Worker>) {
    started_with(json!({}))
}

fn started_with(metering: Value) -> (Rc<Process>, Rc<Worker>) {
    let mut document = document();
    document["metering"] = metering;
    let process = Process::new();
    let worker = Worker::ready(&process, &document);
    (process, worker)
}

fn event(data: &str) -> String {
    format!("data: {data}\n\n")
}

/// A stream of two chunks, and of a usage where it is asked for.
fn stream(tells: bool) -> Response {
    let used = if tells { event(USED) } else { String::new() };
    let pieces = [event(CHUNK), event(CHUNK), used, event("[DONE]")];
    pieces.iter().fold(Response::new(200), |response, piece| response.piece(piece.as_bytes()))
}

fn seen_by_caller(call: &Rc<Call>) -> String {
    String::from_utf8(call.response().body).unwrap()
}

fn without_usage() -> String {
    event(CHUNK) + &event(CHUNK) + &event("[DONE]")
}

/// What was counted, by backend, with subscription and model.
fn tokens(process: &Process) -> Vec<String> {
    let mut of: Vec<(String, String)> = Vec::new();
    for kind in ["input", "cached_input", "output", "reasoning"] {
        for counted in process.counted(&format!(".type.{kind}.source.")) {
            let (name, count) = counted.rsplit_once(' ').unwrap();
            let name = name.strip_prefix("aoai_tokens_total.backend.").unwrap();
            let (backend, rest) = name.split_once(".type.").unwrap();
            let (_, rest) = rest.split_once(".source.").unwrap();
            let (source, whose) = rest.split_once(".subscription.").unwrap();
            let key = format!("{backend} {} {source}", whose.replace(".model.", " "));
            match of.iter_mut().find(|(known, _)| *known == key) {
                Some((_, counts)) => *counts += &format!(", {kind} {count}"),
                None => of.push((key, format!("{kind} {count}"))),
            }
        }
    }
    let line = |(key, counts): (String, String)| {
        let (whose, source) = key.rsplit_once(' ').unwrap();
        format!("{whose}: {counts} {source}")
    };
    of.into_iter().map(line).collect()
}

fn asking(fields: &str) -> String {
    format!(r#"{{"messages":[]{fields},"model":"m"}}"#)
}

#[test]
fn a_stream_is_asked_for_its_usage_and_its_caller_does_not_see_it() {
    for (name, request) in [
        ("by URL", by_url("m").body(r#"{"stream":true,"messages":[]}"#)),
        ("by body", by_body("m").body(asking(r#","stream":true"#))),
        (
            "an explicit false",
            by_url("m").body(r#"{"stream":true,"stream_options":{"include_usage":false}}"#),
        ),
        (
            "a null before the model",
            by_body("m").body(asking(r#","stream_options":null,"stream":true"#)),
        ),
        ("on one backend", by_url("single").body(r#"{"stream":true,"messages":[]}"#)),
    ] {
        for size in [1, 7, usize::MAX] {
            let (process, worker) = started();
            process.script("aa", [stream(true)]);
            let call = worker.call_in_pieces(&request.clone().content_length(), size);
            assert!(call.told().starts_with("200 aa"), "{name}, {size}: {}", call.told());
            assert_eq!(seen_by_caller(&call), without_usage(), "{name}, {size}");
            let [arrived] = &process.arrived()[..] else { panic!("{name}") };
            let body: Value = serde_json::from_slice(&arrived.body).unwrap();
            assert_eq!(body["stream_options"], json!({"include_usage": true}), "{name}, {size}");
            let length = value(&arrived.headers, "content-length").unwrap();
            assert_eq!(length, arrived.body.len().to_string(), "{name}, {size}");
            let model = if name == "on one backend" { "single" } else { "m" };
            let expected = format!("aa team {model}: {ALL_OF_USED}");
            assert_eq!(tokens(&process), [expected], "{name}, {size}");
        }
    }
}

#[test]
fn a_stream_of_which_some_is_taken_out_has_no_length() {
    for (fields, length) in [
        (r#","stream":true"#, None),
        (r#","stream":true,"stream_options":{"include_usage":true}"#, Some("9")),
    ] {
        let (process, worker) = started();
        process.script("aa", [stream(true).header("content-length", "9")]);
        let call = worker.call(&by_body("m").body(asking(fields)));
        assert_eq!(call.response_header("content-length").as_deref(), length);
    }
}

#[test]
fn a_caller_that_asks_for_usage_gets_it() {
    let (process, worker) = started();
    process.script("aa", [stream(true)]);
    let sent = asking(r#","stream":true,"stream_options":{"include_usage":true}"#);
    let call = worker.call(&by_body("m").body(sent));
    assert_eq!(
        seen_by_caller(&call),
        event(CHUNK) + &event(CHUNK) + &event(USED) + &event("[DONE]")
    );
    assert_eq!(tokens(&process), [format!("aa team m: {ALL_OF_USED}")]);
}

#[test]
fn where_streams_are_reported_nothing_is_asked_or_taken_out() {
    let (process, worker) = started_with(json!({"streams": "reported"}));
    for told in [true, false] {
        process.script("aa", [stream(told)]);
        let request = by_url("m").body(r#"{"stream":true,"messages":[]}"#).content_length();
        let call = worker.call(&request);
        assert_eq!(seen_by_caller(&call).contains("prompt_tokens"), told);
        assert_eq!(process.arrived().last().unwrap().body, request.body);
    }
    let [reported, estimated] = tokens(&process).try_into().unwrap();
    assert_eq!(reported, "aa team m: input 8, output 2 estimated");
    assert_eq!(estimated, format!("aa team m: {ALL_OF_USED}"));
}

#[test]
fn requests_that_stream_nothing_or_cannot_be_asked_arrive_as_they_were_sent() {
    for request in [
        by_url("m").body(r#"{"messages":[]}"#),
        by_url("m")
            .path("/openai/deployments/m/chat/completions?api-version=2024-02-01")
            .body(r#"{"stream":true}"#),
        by_url("m").path(EMBEDDINGS).body(r#"{"input":"x"}"#),
        by_url("m").header("content-encoding", "gzip").body([0x1f, 0x8b, 0]),
        by_url("m").body(r#"{"stream":true,"data_sources":[]}"#),
        by_url("m").body("no JSON"),
    ] {
        let (process, worker) = started();
        let call = worker.call_in_pieces(&request.clone().content_length(), 4);
        assert!(call.told().starts_with("200 aa"));
        let [arrived] = &process.arrived()[..] else { panic!("one request") };
        let text = String::from_utf8_lossy(&arrived.body).into_owned();
        assert_eq!(text.trim_end_matches(' '), String::from_utf8_lossy(&request.body));
        let is_compressed = request.body.starts_with(&[0x1f]);
        assert!(
            !is_compressed || arrived.body == request.body,
            "no white space behind what is no JSON"
        );
    }
}

#[test]
fn a_request_that_moves_on_is_asked_on_every_backend_and_charged_to_the_one_that_serves_it() {
    for size in [1, 5, 23, usize::MAX] {
        let (process, worker) = started();
        process.script("aa", [Reaction::throttled(LONG)]);
        process.script("bb", [Reaction::reset()]);
        process.script("cc", [stream(true)]);
        let sent = asking(r#","stream_options":{"x":[1],"include_usage":null},"stream":true"#);
        let call = worker.call_in_pieces(&by_body("m").body(sent).content_length(), size);
        assert_eq!(call.told(), "200 cc 3", "{size}");
        assert_eq!(seen_by_caller(&call), without_usage(), "{size}");
        for (arrived, region) in process.arrived().iter().zip(REGIONS) {
            let text = String::from_utf8_lossy(&arrived.body);
            let body: Value =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!(body["model"], format!("m-in-{region}"), "{size}");
            assert_eq!(body["stream_options"], json!({"x": [1], "include_usage": true}), "{size}");
            let length = value(&arrived.headers, "content-length").unwrap();
            assert_eq!(length, arrived.body.len().to_string(), "{size}");
        }
        assert_eq!(tokens(&process), [format!("cc team m: {ALL_OF_USED}")], "{size}");
        assert_eq!([call.noted("backend"), call.noted("attempts")], ["cc", "3"]);
    }
}

/// While modules are replaced, the backend stage of the next attempt may be another module's.
#[test]
fn a_response_to_another_modules_attempt_is_metered_as_others_are() {
    for is_first in [true, false] {
        let (process, worker) = started();
        let request = by_url("m").body(r#"{"stream":true,"messages":[]}"#);
        let region = if is_first { "aa" } else { "bb" };
        process.script("aa", (!is_first).then(Reaction::hang));
        process.script(region, [stream(true)]);
        if is_first {
            worker.replace_backend_stage();
        }
        let call = worker.call(&request);
        if !is_first {
            worker.replace_backend_stage();
            call.respond(Response::new(429).header("retry-after-ms", LONG));
        }
        assert_eq!(call.told(), format!("200 {region} {}", if is_first { 1 } else { 2 }));
        assert_eq!(seen_by_caller(&call), without_usage());
        assert_eq!(tokens(&process), [format!("{region} team m: {ALL_OF_USED}")]);
        assert_eq!(call.noted("backend"), region);
        assert_eq!(call.response_header("retry-after-ms"), None);
    }
}

#[test]
fn a_response_of_json_tells_its_usage_wherever_that_stands() {
    let content = "\"usage\":{\"prompt_tokens\":99}".repeat(500);
    let used = r#""usage":{"prompt_tokens":3,"completion_tokens":4}"#;
    for body in [
        json!({"choices": [{"message": {"content": content}}]}).to_string().replacen(
            '{',
            &format!("{{{used},"),
            1,
        ),
        json!({"choices": [{"message": {"content": content}}]}).to_string().replacen(
            "}]}",
            &format!("}}],{used}}}"),
            1,
        ),
    ] {
        for size in [1, 100, usize::MAX] {
            let (process, worker) = started();
            let pieces = body.as_bytes().chunks(size);
            process.script("aa", [pieces.fold(Response::new(200), Response::piece)]);
            let call = worker.call(&by_url("m"));
            assert_eq!(seen_by_caller(&call), body, "{size}");
            assert_eq!(tokens(&process), ["aa team m: input 3, output 4 reported"], "{size}");
        }
    }
}

#[test]
fn what_does_not_tell_its_usage_is_estimated() {
    let body = r#"{"input":"0123456789012345678901234567890"}"#;
    let (process, worker) = started();
    process.script("aa", [Response::new(200).piece(br#"{"data":[]}"#)]);
    worker.call(&by_url("m").path(EMBEDDINGS).body(body));
    assert_eq!(tokens(&process), ["aa team m: input 11 estimated"], "an embedding has no output");

    let (process, worker) = started();
    process.script("aa", [Response::new(200).piece(&[b'{', b'}', b' ', b' '].repeat(10))]);
    worker.call(&by_url("m").body(r#"{"messages":[]}     "#));
    assert_eq!(tokens(&process), ["aa team m: input 5, output 10 estimated"]);
}

#[test]
fn a_caller_that_leaves_is_charged_for_what_has_come() {
    let (process, worker) = started();
    let chunk = event(CHUNK);
    let half = Response::new(200).piece(chunk.as_bytes()).piece(chunk.as_bytes()).open();
    process.script("aa", [half]);
    let call = worker.call(&by_url("m").body(r#"{"stream":true,"messages":[]}"#));
    assert_eq!(tokens(&process), Vec::<String>::new(), "nothing before the end");
    call.leave();
    assert_eq!(tokens(&process), ["aa team m: input 8, output 2 estimated"]);

    let (process, worker) = started();
    process.script("aa", [Reaction::hang()]);
    let call = worker.call(&by_url("m").body(r#"{"messages":["who leaves before the response"]}"#));
    call.leave();
    assert_eq!(tokens(&process), ["aa team m: input 12 estimated"], "Azure is at work on it");

    let (process, worker) = started();
    let call = worker.begin(&by_url("m"), false);
    call.piece(br#"{"messages":["#, false);
    call.leave();
    assert_eq!(tokens(&process), Vec::<String>::new(), "an incomplete request costs nothing");
}

#[test]
fn errors_and_local_replies_use_no_tokens() {
    for reaction in [
        Reaction::status(400),
        Response::new(500).piece(br#"{"usage":{"prompt_tokens":1}}"#).into(),
        Reaction::reset(),
        Reaction::throttled(LONG),
    ] {
        let (process, worker) = started();
        for region in REGIONS {
            process.script(region, [reaction.clone()]);
        }
        worker.call(&by_url("m"));
        worker.call(&by_url("unknown"));
        assert_eq!(tokens(&process), Vec::<String>::new());
    }
}

#[test]
fn each_response_of_a_realtime_session_is_counted() {
    let (process, worker) = started();
    let done = |input: u64| {
        let text = json!({"type": "response.done", "response": {"usage": {
            "input_tokens": input, "output_tokens": 1}}});
        let text = text.to_string();
        [&[0x81, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    };
    let frames = [done(5), vec![0x89, 0], done(7)].concat();
    let session = frames.chunks(3).fold(Response::new(101), Response::piece);
    process.script("aa", [session]);
    let request = Request::new("GET", "/openai/v1/realtime?model=m").header("api-key", KEY);
    let request = request.header("sec-websocket-extensions", "permessage-deflate");
    let call = worker.call(&request);
    assert_eq!(call.response().body, frames);
    assert_eq!(tokens(&process), ["aa team m: input 12, output 2 reported"]);
    assert_eq!(value(&process.arrived()[0].headers, "sec-websocket-extensions"), None);
}

#[test]
fn responses_that_are_metered_come_uncompressed() {
    let (process, worker) = started();
    let with = |request: Request| request.header("accept-encoding", "gzip, br");
    worker.call(&with(by_url("m")));
    worker.call(&with(Request::new("GET", "/openai/v1/files").header("api-key", KEY)));
    let encodings: Vec<_> =
        process.arrived().iter().map(|one| value(&one.headers, "accept-encoding")).collect();
    assert_eq!(encodings, [Some("identity".to_owned()), Some("gzip, br".to_owned())]);
}

#[test]
fn an_access_log_finds_what_is_known_of_a_request() {
    let (process, worker) = started();
    process.script("aa", [stream(true)]);
    let call = worker.call(&by_url("m").body(r#"{"stream":true}"#));
    let names = [
        "subscription",
        "model",
        "operation",
        "backend",
        "attempts",
        "reason",
        "diagnosis",
        "tokens",
        "input_tokens",
        "output_tokens",
    ];
    assert_eq!(
        names.map(|name| call.noted(name)),
        ["team", "m", "chat/completions", "aa", "1", "", "", "21", "9", "12"]
    );
    let call = worker.call(&by_url("unknown"));
    assert_eq!(
        names.map(|name| call.noted(name)),
        ["team", "", "chat/completions", "", "", "unknown_model", "", "", "", ""]
    );
    let call = worker.call(&Request::new("GET", CHAT));
    assert_eq!(
        names.map(|name| call.noted(name)),
        ["", "", "", "", "", "missing_key", "", "", "", ""]
    );
}

#[test]
fn times_are_recorded_by_model_and_backend() {
    let (process, worker) = started();
    let chunk = event(CHUNK);
    process.script("aa", [Response::new(200).open()]);
    let call = worker.call(&by_url("m").body(r#"{"stream":true}"#));
    process.advance(millis(30));
    call.response_piece(chunk.as_bytes(), false);
    process.advance(millis(70));
    call.response_piece(event("[DONE]").as_bytes(), true);
    let recorded = |name: &str| process.histograms.borrow().get(name).cloned().unwrap_or_default();
    assert_eq!(recorded("aoai_time_to_first_token_ms.backend.aa.model.m"), [30]);
    assert_eq!(recorded("aoai_request_duration_ms.backend.aa.model.m"), [100]);
}

#[test]
fn beyond_a_number_of_pairs_requests_are_counted_together() {
    let mut document = document();
    let subscriptions = (0..2100).map(|number| {
        json!({"id": format!("s{number}"), "keys": [digest(&format!("k{number}"))], "models": ["*"]})
    });
    document["subscriptions"] = subscriptions.collect::<Vec<_>>().into();
    let process = Process::new();
    let workers = [(); 2].map(|()| Worker::ready(&process, &document));
    for number in 0..2100 {
        let path = "/openai/deployments/m/embeddings?api-version=2024-10-21";
        let request = Request::new("POST", path).header("api-key", format!("k{number}")).body("{}");
        assert_eq!(workers[number % 2].ask(&request), "200 aa 1");
    }
    let counted = process.counted("aoai_requests_total.outcome.forwarded");
    assert_eq!(counted.len(), 2001);
    assert_eq!(
        process.counter(
            "aoai_requests_total.outcome.forwarded.backend.aa.subscription.other.model.other"
        ),
        100
    );
    // Those that have series of their own keep them.
    let path = "/openai/deployments/m/embeddings?api-version=2024-10-21";
    let first = Request::new("POST", path).header("api-key", "k0").body("{}");
    workers[1].ask(&first);
    assert_eq!(
        process.counter("aoai_requests_total.outcome.forwarded.backend.aa.subscription.s0.model.m"),
        2
    );
}
