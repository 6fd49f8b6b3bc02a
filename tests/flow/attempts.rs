//! What each attempt carries: path, body and token of its backend, made from the request as it came.

use aoai_filter::identity::CalloutResponse;
use proptest::prelude::*;
use serde_json::json;

use crate::host::{token, Process, Reaction, Request, Response, Worker};
use crate::regions::*;

/// The model's name in what is sent, and in what each backend gets.
fn deployment(text: &str, backend: &str) -> String {
    text.replace("%s", &format!("m-in-{backend}"))
}

#[test]
fn a_body_names_each_backends_own_deployment() {
    let long = "u".repeat(20_000);
    let rows = [
        r#"{"model": "%s","messages":[ {"role":"user","content":"hi \u00e4 世"}]}"#.to_owned(),
        "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}] , \"model\"\n:\t\"%s\" }".to_owned(),
        format!(r#"{{"model":"%s","messages":[],"user":"{long}"}}"#),
        format!(r#"{{"messages":[],"user":"{long}","model":"%s"}}"#),
    ];
    for body in rows {
        for size in [7, 1000, usize::MAX] {
            for has_length in [true, false] {
                let (process, worker) = started();
                process.script("aa", [Reaction::throttled(LONG)]);
                process.script("bb", [Reaction::reset()]);
                let request =
                    Request::new("POST", CHAT).header("api-key", KEY).body(body.replace("%s", "m"));
                let request = if has_length { request.content_length() } else { request };
                assert_eq!(worker.call_in_pieces(&request, size).told(), "200 cc 3");
                let arrived = process.arrived();
                for (arrived, region) in arrived.iter().zip(REGIONS) {
                    let expected =
                        [region, CHAT, "h.imds.1", &deployment(&body, region)].map(str::to_owned);
                    assert_eq!(seen(arrived), expected);
                    assert_eq!(header(arrived, "content-length").is_empty(), !has_length);
                }
            }
        }
    }
}

#[test]
fn a_form_names_each_backends_own_deployment() {
    const PATH: &str = "/openai/v1/audio/transcriptions";
    let form = format!(
        "--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n{}\r\n\
         --xyz\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n%s\r\n\
         --xyz\r\nContent-Disposition: form-data; name=\"language\"\r\n\r\nde\r\n--xyz--\r\n",
        "RIFF\r\n--".repeat(500)
    );
    for size in [11, usize::MAX] {
        let (process, worker) = started();
        process.script("aa", [Reaction::throttled(LONG)]);
        let request = Request::new("POST", PATH)
            .header("api-key", KEY)
            .header("content-type", "multipart/form-data; boundary=xyz")
            .body(form.replace("%s", "m"))
            .content_length();
        assert_eq!(worker.call_in_pieces(&request, size).told(), "200 bb 2");
        for (arrived, region) in process.arrived().iter().zip(REGIONS) {
            assert_eq!(seen(arrived)[1..], [PATH, "h.imds.1", &deployment(&form, region)]);
        }
    }
}

#[test]
fn a_url_names_each_backends_own_deployment() {
    let rows = [
        ("POST", "/openai/deployments/%s/chat/completions?api-version=1", "{}"),
        ("POST", "/openai/deployments/%s/embeddings", "{}"),
        ("GET", "/openai/v1/realtime?x=%41&model=%s", ""),
        ("GET", "/openai/realtime?api-version=1&deployment=%s&y", ""),
    ];
    for (method, path, body) in rows {
        let (process, worker) = started();
        process.script("aa", [Reaction::throttled(LONG)]);
        process.script("bb", [Response::new(500)]);
        let separator = if path.contains('?') { "&" } else { "?" };
        let with_key = format!("{}{separator}api-key={KEY}", path.replace("%s", "m"));
        assert_eq!(worker.ask(&Request::new(method, &with_key).body(body)), "200 cc 3");
        for (arrived, region) in process.arrived().iter().zip(REGIONS) {
            let expected = [region, &deployment(path, region), "h.imds.1", body].map(str::to_owned);
            assert_eq!(seen(arrived), expected);
        }
    }
}

#[test]
fn a_backend_of_the_models_own_name_gets_the_body_as_it_came() {
    for names in [["m", "d", "m"], ["d", "m", "longer-than-that"], ["m", "m", "m"]] {
        let mut document = document();
        for (placement, name) in
            document["models"][0]["backends"].as_array_mut().unwrap().iter_mut().zip(names)
        {
            placement["deployment"] = json!(name);
        }
        for written in ["m", r"\u006d"] {
            let process = Process::new();
            let worker = Worker::ready(&process, &document);
            process.script("aa", [Response::new(429)]);
            process.script("bb", [Response::new(500)]);
            let body = |name: &str| format!(r#"{{"messages":[],"model":"{name}","n":1}}"#);
            let request = Request::new("POST", CHAT)
                .header("api-key", KEY)
                .body(body(written))
                .content_length();
            assert_eq!(worker.ask(&request), "200 cc 3");
            for (index, (arrived, name)) in process.arrived().iter().zip(names).enumerate() {
                // A first backend whose name it is gets it in the caller's own writing.
                let name = if index == 0 && name == "m" { written } else { name };
                assert_eq!(seen(arrived)[3], body(name));
            }
        }
    }
}

#[test]
fn a_retry_before_the_whole_body_is_there_sends_all_of_it() {
    for request in [by_url("m"), by_body("m")] {
        for cut in 0..request.body.len() {
            let (process, worker) = started();
            process.script("aa", [Reaction::throttled(LONG).early()]);
            process.script("bb", [Reaction::reset().early()]);
            let call = worker.begin(&request, false);
            call.piece(&request.body[..cut], false);
            call.piece(&request.body[cut..], true);
            assert_eq!(call.told(), "200 cc 3", "{cut}");
            let arrived = process.arrived();
            let sent = String::from_utf8(request.body.clone()).unwrap();
            assert_eq!(seen(&arrived[2])[3], sent.replace(r#""m""#, r#""m-in-cc""#), "{cut}");
        }
    }
}

#[test]
fn each_attempt_carries_the_token_of_its_own_backend() {
    for request in [by_url("m"), by_body("m")] {
        let process = Process::new();
        let worker = Worker::ready(&process, &two_identities());
        process.script("aa", [Reaction::throttled(LONG)]);
        process.script("bb", [Reaction::reset()]);
        assert_eq!(worker.ask(&request), "200 cc 3");
        let tokens: Vec<_> =
            process.arrived().iter().map(|arrived| seen(arrived)[2].clone()).collect();
        assert_eq!(tokens, ["h.imds.2", "h.others.2", "h.others.2"]);
    }
}

#[test]
fn a_later_attempt_carries_the_newest_token() {
    let process = Process::new();
    let worker = Worker::new(&process, &document());
    worker.tick();
    worker.answer(&token("h.old.s", 600));
    worker.tick();
    process.advance(seconds(300));
    process.script("aa", [Reaction::hang()]);
    let call = worker.call(&by_url("m"));
    // Another worker has it fetched anew.
    let other = Worker::new(&process, &document());
    other.tick();
    other.answer(&token("h.new.s", 3600));
    process.advance(millis(1));
    call.respond(Response::new(429));
    assert_eq!(call.told(), "200 bb 2");
    let tokens: Vec<_> = process.arrived().iter().map(|arrived| seen(arrived)[2].clone()).collect();
    assert_eq!(tokens, ["h.old.s", "h.new.s"]);
}

#[test]
fn a_backend_that_cannot_be_signed_in_to_is_not_gone_on_to() {
    for (trouble, told, then) in [
        (Reaction::throttled(LONG), "429 aa 1", "429 all_backends_throttled"),
        (Response::new(503).into(), "503 aa 1", "200 aa 1"),
        (Reaction::reset(), "503 aa 1 backend_failed", "200 aa 1"),
    ] {
        let process = Process::new();
        let worker = Worker::new(&process, &two_identities());
        worker.tick();
        worker.answer(&token("h.imds.s", 3600));
        let body = br#"{"error":"invalid_request"}"#.to_vec();
        worker.answer(&CalloutResponse::Response { status: 400, retry_after: None, body });
        process.script("aa", [trouble]);
        assert_eq!(worker.ask(&by_url("m")), told);
        assert_eq!(process.asked(), "aa");
        assert_eq!(worker.ask(&by_url("m")), then);
        // A model that is on such backends alone.
        let mut document = two_identities();
        document["models"][0]["backends"].as_array_mut().unwrap().remove(0);
        let worker = Worker::new(&process, &document);
        assert_eq!(worker.ask(&by_url("m")), "503 token_refused");
    }
}

#[test]
fn a_second_model_behind_the_first_is_refused_and_nothing_arrives_whole() {
    for model in ["m", "single"] {
        let (process, worker) = started();
        let body = format!(r#"{{"model":"{model}","messages":[],"model":"{model}"}}"#);
        let request = Request::new("POST", CHAT).header("api-key", KEY).body(body);
        for size in [1, 20, usize::MAX] {
            assert_eq!(worker.call_in_pieces(&request, size).told(), "400 missing_model");
        }
        assert!(!process.arrived().iter().any(|one| one.complete));
        assert_eq!(worker.requests.len(), 0);
    }
}

#[test]
fn clusters_that_do_not_match_the_configuration_are_told_of() {
    let (process, worker) = started();
    let call = worker.begin(&by_url("m"), false);
    assert_eq!(call.routed_to(), "aa>bb>cc");
    call.leave();
    process.renames_backends.set(true);
    assert_eq!(worker.ask(&by_url("m")), "500 0 unknown_backend");
    assert_eq!(process.counter("aoai_requests_total.outcome.unknown_backend.backend.none"), 1);
    assert_eq!(worker.requests.len(), 0);
}

#[derive(Debug, Clone, Copy)]
enum Trouble {
    None,
    Throttled,
    Failed,
    Reset,
}

fn trouble() -> impl Strategy<Value = (Trouble, bool)> {
    let kinds = [Trouble::None, Trouble::Throttled, Trouble::Failed, Trouble::Reset];
    (prop::sample::select(kinds.to_vec()), any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

    /// Whatever the cuts, the troubles and the time of the token: each backend that gets a whole request gets
    /// its own, and the caller gets one response.
    #[test]
    fn any_cut_of_a_body_arrives_as_its_backends_own(
        at_end in any::<bool>(),
        cuts in prop::collection::vec(0_usize..60, 0..6),
        troubles in prop::array::uniform3(trouble()),
        token_after in 0_usize..8,
    ) {
        let text = if at_end {
            r#"{"messages":["hello"],"user":"u","model":"%s"}"#
        } else {
            r#"{"model":"%s","messages":["hello"],"user":"u"}"#
        };
        let body = text.replace("%s", "m");
        let request = Request::new("POST", CHAT).header("api-key", KEY).body(&body).content_length();
        let process = Process::new();
        let worker = Worker::new(&process, &document());
        worker.tick();
        for (region, (trouble, early)) in REGIONS.iter().zip(troubles) {
            let reaction = match trouble {
                Trouble::None => continue,
                Trouble::Throttled => Reaction::throttled(LONG),
                Trouble::Failed => Response::new(500).into(),
                Trouble::Reset => Reaction::reset(),
            };
            process.script(region, [if early { reaction.early() } else { reaction }]);
        }
        let mut ends: Vec<usize> = cuts.iter().map(|cut| (*cut).min(body.len())).collect();
        ends.push(body.len());
        ends.sort_unstable();
        let call = worker.begin(&request, false);
        let mut start = 0;
        for (number, end) in ends.iter().enumerate() {
            if number == token_after {
                worker.answer(&token("h.p.s", 3600));
            }
            call.piece(&body.as_bytes()[start..*end], number + 1 == ends.len());
            worker.pass(millis(7));
            start = *end;
        }
        if token_after >= ends.len() {
            worker.answer(&token("h.p.s", 3600));
        }
        prop_assert!(call.response().is_complete, "{}", call.told());
        prop_assert_eq!(worker.requests.len(), 0);
        let arrived = process.arrived();
        let served = troubles.iter().position(|(trouble, _)| matches!(trouble, Trouble::None));
        if let Some(index) = served {
            prop_assert_eq!(call.told(), format!("200 {} {}", REGIONS[index], index + 1));
            prop_assert!(arrived[index].complete);
        }
        for (one, region) in arrived.iter().zip(REGIONS).filter(|(one, _)| one.complete) {
            prop_assert_eq!(seen(one), [region, CHAT, "h.p.s", &deployment(text, region)]);
        }
    }
}
