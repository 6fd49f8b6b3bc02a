//! Responses that tell of a mistake: named in a header, counted and logged, and in all else what the backend
//! has sent, as soon as it has sent it.

use std::rc::Rc;

use proptest::prelude::*;

use crate::host::{Call, Process, Reaction, Request, Response, Worker};
use crate::regions::*;

/// A caller's mistake, which is passed on.
const PATH: &[u8] = br#"{"error":{"code":"404","message":"Resource not found"}}                                      "#;
const ROLE: &[u8] = br#"{"error":{"code":"PermissionDenied","message":"Principal does not have access to API/Operation."}}"#;
const LONGEST_BODY: usize = 4 * 1024;

fn diagnoses(process: &Process) -> Vec<String> {
    process.counted("aoai_diagnoses_total")
}

/// Of both kinds of requests, to a single backend and to a pool: what the caller is told in front of the rest.
fn kinds() -> [(Request, &'static str); 2] {
    [(by_url("single"), "aa"), (by_url("m"), "aa 1")]
}

fn wrong_path(cut: usize) -> Response {
    Response::new(404).piece(&PATH[..cut]).piece(&PATH[cut..])
}

#[test]
fn a_response_that_is_not_the_operators_mistake_is_passed_on_as_it_is() {
    let rows: &[(&str, u16, &[u8], Option<&str>)] = &[
        ("path", 404, PATH, Some("unknown_path")),
        (
            "content filter",
            400,
            br#"{"error":{"code":"content_filter","message":"The response was filtered"}}"#,
            None,
        ),
        (
            "a mistake of the caller's",
            400,
            br#"{"error":{"message":"'messages' is a required property"}}"#,
            None,
        ),
        ("no JSON", 403, b"<html>Forbidden</html>", None),
        ("no text", 404, b"\xff\x00", None),
        ("a list", 404, b"[]", None),
        ("cut", 400, br#"{"error":"#, None),
        ("another status", 422, ROLE, None),
        ("a success", 200, ROLE, None),
    ];
    for (name, status, body, slug) in rows {
        for (request, from) in kinds() {
            let (process, worker) = started();
            let whole = Response::new(*status).header("x-other", "1").piece(body);
            let in_bytes =
                body.iter().fold(Response::new(*status), |response, byte| response.piece(&[*byte]));
            let with_length = whole.clone().header("content-length", &body.len().to_string());
            for response in [whole, in_bytes.trailers(), with_length] {
                process.script("aa", [response]);
                let call = worker.call(&request);
                let slug = slug.map(|slug| format!(" {slug}")).unwrap_or_default();
                assert_eq!(call.told(), format!("{status} {from}{slug}"), "{name}");
                assert!(call.response().is_complete && call.response().body == *body, "{name}");
            }
            let counted =
                slug.map(|slug| format!("aoai_diagnoses_total.backend.aa.diagnosis.{slug} 3"));
            assert_eq!(diagnoses(&process), Vec::from_iter(counted), "{name}");
            assert_eq!(process.counted("cooldowns_total"), Vec::<String>::new(), "{name}");
        }
    }
}

#[test]
fn the_head_of_another_response_goes_on_before_its_body() {
    let rows: [(&str, Response); 9] = [
        ("a success", Response::new(200)),
        ("a redirection", Response::new(302)),
        ("a conflict", Response::new(409)),
        ("throttling", Response::new(429)),
        ("an error of the backend's", Response::new(500)),
        ("events", Response::new(400).header("content-type", "text/event-stream")),
        ("compressed", Response::new(404).header("content-encoding", "gzip")),
        ("long", Response::new(404).header("content-length", "4097")),
        ("a length that is none", Response::new(404).header("content-length", "x")),
    ];
    for (name, response) in rows {
        let (process, worker) = started();
        process.script("aa", [response.clone().open()]);
        let call = worker.call(&by_url("single"));
        assert!(call.told().ends_with(" aa"), "{name}: {}", call.told());
        call.response_piece(&PATH[..9], false);
        assert_eq!(call.response().body, &PATH[..9], "{name}");
        call.response_piece(&PATH[9..], true);
        assert!(call.response().is_complete && call.response().body == PATH, "{name}");
        assert_eq!(diagnoses(&process), Vec::<String>::new(), "{name}");
        assert_eq!(worker.requests.len(), 0);
    }
}

#[test]
fn a_response_without_a_body_goes_on_at_once() {
    for status in [400, 401, 403, 404] {
        for (request, from) in kinds() {
            let (process, worker) = started();
            process.script("aa", [Reaction::status(status)]);
            assert_eq!(worker.ask(&request), format!("{status} {from}"));
        }
    }
}

#[test]
fn a_long_response_without_a_length_goes_on_before_its_end() {
    let (process, worker) = started();
    process.script("aa", [Response::new(404).piece(PATH).open()]);
    let call = worker.call(&by_url("m"));
    call.response_piece(&vec![b' '; LONGEST_BODY - PATH.len()], false);
    assert_eq!(call.told(), "");
    call.response_piece(b" ", false);
    assert_eq!((call.told().as_str(), call.response().body.len()), ("404 aa 1", LONGEST_BODY + 1));
    worker.pass(seconds(1));
    call.response_piece(b".", true);
    assert!(call.response().is_complete && call.response().body.ends_with(b" ."));
    assert_eq!(diagnoses(&process), Vec::<String>::new());
    // One that is just not too long.
    process.script(
        "aa",
        [Response::new(404).piece(PATH).piece(&vec![b' '; LONGEST_BODY - PATH.len()])],
    );
    assert_eq!(worker.ask(&by_url("m")), "404 aa 1 unknown_path");
}

#[test]
fn a_response_whose_body_is_late_is_held_for_half_a_second() {
    for (request, from) in kinds() {
        for first in [0, 20] {
            let (process, worker) = started();
            let response = Response::new(404).open();
            process
                .script("aa", [if first > 0 { response.piece(&PATH[..first]) } else { response }]);
            let call = worker.call(&request);
            worker.pass(millis(499));
            assert_eq!(call.told(), "");
            worker.pass(millis(1));
            assert_eq!(
                (call.told(), call.response().body),
                (format!("404 {from}"), PATH[..first].to_vec())
            );
            // It goes on piece by piece then, and loses none.
            for at in (first..PATH.len()).step_by(30) {
                let end = PATH.len().min(at + 30);
                call.response_piece(&PATH[at..end], end == PATH.len());
                worker.pass(millis(1));
                assert_eq!(call.response().body, &PATH[..end], "{first}");
            }
            assert!(call.response().is_complete);
            assert_eq!(
                diagnoses(&process),
                ["aoai_diagnoses_total.backend.aa.diagnosis.unknown_path 1"]
            );
            assert_eq!(worker.requests.len(), 0);
        }
    }
}

#[test]
fn a_held_response_ends_with_its_trailers_or_in_any_other_way() {
    let ends: [fn(&Rc<Call>, &Rc<Worker>); 4] = [
        |call, _| call.response_trailers(),
        |call, _| call.response_piece(b"", true),
        |call, worker| {
            worker.pass(millis(500));
            call.response_trailers();
            worker.pass(millis(1));
        },
        |call, worker| {
            worker.pass(millis(500));
            call.response_piece(b"", true);
            worker.pass(millis(1));
        },
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let (process, worker) = started();
        process.script("aa", [Response::new(404).piece(PATH).open()]);
        let call = worker.call(&by_url("m"));
        assert_eq!(call.told(), "");
        end(&call, &worker);
        let diagnosis = if number < 2 { " unknown_path" } else { "" };
        assert_eq!(call.told(), format!("404 aa 1{diagnosis}"));
        assert!(call.response().is_complete && call.response().body == PATH);
        assert_eq!(
            diagnoses(&process),
            ["aoai_diagnoses_total.backend.aa.diagnosis.unknown_path 1"]
        );
    }
}

#[test]
fn a_clock_that_is_set_back_holds_no_response_for_longer() {
    for first in [0, 20] {
        let (process, worker) = started();
        let response = Response::new(404).open();
        process.script("aa", [if first > 0 { response.piece(&PATH[..first]) } else { response }]);
        let call = worker.call(&by_url("m"));
        process.set_back(seconds(3600));
        worker.pass(seconds(1));
        assert_eq!(call.told(), "404 aa 1");
    }
}

#[test]
fn a_caller_that_leaves_while_its_response_is_held_leaves_nothing() {
    for (request, from) in kinds() {
        let (process, worker) = started();
        process.script("aa", [wrong_path(10).open()]);
        let call = worker.call(&request);
        call.leave();
        worker.pass(seconds(1));
        assert_eq!((call.told().as_str(), worker.requests.len()), ("", 0));
        process.script("aa", [wrong_path(10)]);
        assert_eq!(worker.ask(&request), format!("404 {from} unknown_path"));
    }
}

#[test]
fn only_the_gateway_writes_the_header() {
    for (request, from) in kinds() {
        for (body, slug) in [(&b"{}"[..], ""), (PATH, " unknown_path")] {
            let (process, worker) = started();
            let response = Response::new(404)
                .header("x-aoai-diagnosis", "forged")
                .header("x-aoai-reason", "forged")
                .piece(body);
            process.script("aa", [response]);
            let told = worker.ask(&request.clone().header("x-aoai-diagnosis", "of the caller"));
            assert_eq!(told, format!("404 {from}{slug}"));
        }
    }
}

#[test]
fn an_envoy_that_keeps_bodies_back_is_noticed_and_then_nothing_is_held() {
    for (request, from) in kinds() {
        let (process, worker) = started();
        // All of the response is there, and nothing of its body is shown while its head is held.
        for _ in 0..3 {
            process.script("aa", [Response::new(404).open()]);
            let call = worker.call(&request);
            call.response_has_come_unseen();
            worker.pass(millis(499));
            assert_eq!(call.told(), "");
            worker.pass(millis(1));
            assert_eq!(call.told(), format!("404 {from}"));
            call.response_piece(PATH, true);
        }
        process.script("aa", [Response::new(404).open()]);
        let call = worker.call(&request);
        assert_eq!(call.told(), format!("404 {from}"), "at once");
        worker.pass(seconds(2));
        call.response_piece(PATH, true);
        assert!(call.response().is_complete && call.response().body == PATH);
        assert_eq!(
            diagnoses(&process),
            ["aoai_diagnoses_total.backend.aa.diagnosis.unknown_path 4"]
        );
    }
}

#[test]
fn late_bodies_are_no_failed_holds() {
    let (process, worker) = started();
    for _ in 0..5 {
        process.script("aa", [Response::new(404).open()]);
        let call = worker.call(&by_url("m"));
        worker.pass(millis(500));
        assert_eq!(call.told(), "404 aa 1");
        call.response_piece(PATH, true);
    }
    process.script("aa", [wrong_path(10)]);
    assert_eq!(worker.ask(&by_url("m")), "404 aa 1 unknown_path");
    // Two failed holds and a success in between are nothing.
    for _ in 0..5 {
        for _ in 0..2 {
            process.script("aa", [Response::new(404).open()]);
            let call = worker.call(&by_url("m"));
            call.response_has_come_unseen();
            worker.pass(millis(500));
            call.response_piece(PATH, true);
        }
        process.script("aa", [wrong_path(10)]);
        assert_eq!(worker.ask(&by_url("m")), "404 aa 1 unknown_path");
    }
}

/// A request that has waited for its body is looked at once more, whatever it does by then.
#[test]
fn a_response_that_is_not_held_is_not_resumed() {
    let (process, worker) = started();
    for _ in 0..3 {
        process.script("aa", [Response::new(404).open()]);
        let call = worker.call(&by_url("single"));
        call.response_has_come_unseen();
        worker.pass(millis(500));
        call.response_piece(PATH, true);
    }
    process.script("aa", [Response::new(404).open()]);
    let call = worker.begin(&by_body("single"), false);
    call.piece(&by_body("single").body, true);
    assert_eq!(call.told(), "404 aa");
    worker.pass(seconds(2));
    call.response_piece(PATH, true);
    assert!(call.response().is_complete && call.response().body == PATH);
}

#[test]
fn a_request_that_turns_out_wrong_while_its_response_is_held_gets_one_response() {
    for model in ["single", "m"] {
        let (process, worker) = started();
        process.script("aa", [Reaction::from(Response::new(404).piece(&PATH[..9]).open()).early()]);
        let call = worker.begin(&by_body(model), false);
        call.piece(format!(r#"{{"model":"{model}","#).as_bytes(), false);
        assert_eq!(call.told(), "");
        call.piece(br#""model":"x"}"#, true);
        assert_eq!(call.told(), "400 missing_model");
        worker.pass(seconds(1));
        assert_eq!((call.told().as_str(), worker.requests.len()), ("400 missing_model", 0));
    }
}

#[test]
fn envoys_own_responses_name_the_backend_and_are_no_mistakes() {
    let (process, worker) = started();
    process.script("aa", [Reaction::reset()]);
    assert_eq!(worker.ask(&by_url("single")), "503 aa backend_failed");
    assert_eq!(
        process.counted("aoai_attempts_total"),
        ["aoai_attempts_total.backend.aa.result.failed.status.none.model.single 1"]
    );
    process.script("aa", [Response::new(503)]);
    assert_eq!(worker.ask(&by_url("single")), "503 aa");
    assert_eq!(diagnoses(&process), Vec::<String>::new());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

    /// However a response is cut and however long its pieces take, it arrives as it is, and is counted once.
    #[test]
    fn any_cut_of_a_response_arrives_as_it_is(
        cuts in prop::collection::vec((0..=PATH.len(), 0_u64..700), 0..6),
        pooled in any::<bool>(),
        has_trailers in any::<bool>(),
        named_by_body in any::<bool>(),
    ) {
        let (process, worker) = started();
        process.script("aa", [Response::new(404).open()]);
        let model = if pooled { "m" } else { "single" };
        let call = worker.call_in_pieces(&if named_by_body { by_body(model) } else { by_url(model) }, 9);
        let mut cuts = cuts;
        cuts.sort_unstable();
        let mut start = 0;
        let mut waited = 0;
        for (end, wait) in cuts {
            worker.pass(millis(wait));
            waited += wait;
            call.response_piece(&PATH[start..end], false);
            start = end;
        }
        call.response_piece(&PATH[start..], !has_trailers);
        if has_trailers {
            call.response_trailers();
        }
        worker.pass(millis(1));
        prop_assert!(call.response().is_complete);
        prop_assert_eq!(call.response().body, PATH);
        prop_assert_eq!(call.told().ends_with(" unknown_path"), waited < 500);
        prop_assert_eq!(diagnoses(&process), ["aoai_diagnoses_total.backend.aa.diagnosis.unknown_path 1"]);
        prop_assert_eq!(worker.requests.len(), 0);
    }
}

#[test]
fn attempts_at_a_single_backend_are_counted_by_model_and_status() {
    let (process, worker) = started();
    let unknown_path =
        Response::new(404).piece(br#"{"error":{"code":"404","message":"Resource not found"}}"#);
    process.script(
        "aa",
        [
            Response::new(200),
            Response::new(200),
            Response::new(429),
            Response::new(400).piece(b"{}"),
            unknown_path,
            Response::new(500),
        ],
    );
    for _ in 0..6 {
        worker.ask(&by_url("single"));
    }
    let expected = [
        "failed.status.500",
        "responded.status.200",
        "responded.status.400",
        "responded.status.404",
        "throttled.status.429",
    ];
    let counts = [1, 2, 1, 1, 1];
    let lines = expected.iter().zip(counts).map(|(labels, count)| {
        format!("aoai_attempts_total.backend.aa.result.{labels}.model.single {count}")
    });
    assert_eq!(process.counted("aoai_attempts_total"), lines.collect::<Vec<_>>());
}
