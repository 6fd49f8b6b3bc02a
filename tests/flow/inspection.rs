//! Responses that tell of a mistake: named in a header, counted and logged, and in all else what the backend
//! has sent, as soon as it has sent it.

use std::rc::Rc;

use proptest::prelude::*;

use crate::host::{token, Call, Process, Reaction, Request, Response, Worker};
use crate::regions::*;

const ROLE: &[u8] = br#"{"error":{"code":"PermissionDenied","message":"Principal does not have access to API/Operation."}}"#;
const REJECTED: &[u8] = br#"{"statusCode":401,"message":"Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or have expired."}"#;
const LONGEST_BODY: usize = 4 * 1024;

fn diagnoses(process: &Process) -> Vec<String> {
    process.counted("aoai_diagnoses_total")
}

/// Of both kinds of requests, to a single backend and to a pool: what the caller is told in front of the rest.
fn kinds() -> [(Request, &'static str); 2] {
    [(by_url("single"), "aa"), (by_url("m"), "aa 1")]
}

fn role(cut: usize) -> Response {
    Response::new(401).piece(&ROLE[..cut]).piece(&ROLE[cut..])
}

#[test]
fn a_response_is_diagnosed_and_otherwise_unchanged() {
    let rows: &[(&str, u16, &[u8], Option<&str>)] = &[
        ("role", 401, ROLE, Some("role_missing")),
        ("token", 401, REJECTED, Some("token_rejected")),
        ("regional", 400, br#"{"error":{"code":"x","message":"Resource Id is badly formed: NA"}}"#, Some("regional_endpoint")),
        ("subdomain", 404, br#"{"error":{"code":"404","message":"Subdomain does not map to a resource"}}"#, Some("unknown_subdomain")),
        ("network", 403, br#"{"error":{"code":"403","message":"Public access is disabled. Please configure private endpoint."}}"#, Some("network_denied")),
        ("tenant", 400, br#"{"error":{"code":"x","message":"Tenant provided in token does not match resource token"}}"#, Some("wrong_tenant")),
        ("key", 403, br#"{"error":{"code":"AuthenticationTypeDisabled","message":"Key based authentication is disabled for this resource."}}"#, Some("key_authentication_disabled")),
        ("deployment", 404, br#"{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}"#, Some("deployment_not_found")),
        ("content filter", 400, br#"{"error":{"code":"content_filter","message":"The response was filtered"}}"#, None),
        ("a mistake of the caller's", 400, br#"{"error":{"message":"'messages' is a required property"}}"#, None),
        ("no JSON", 403, b"<html>Forbidden</html>", None),
        ("no text", 404, b"\xff\x00", None),
        ("a list", 404, b"[]", None),
        ("cut", 400, br#"{"error":"#, None),
        ("another status", 422, ROLE, None),
        ("a success", 200, ROLE, None),
        ("throttling", 429, ROLE, None),
        ("an error of the backend's", 500, ROLE, None),
    ];
    for (name, status, body, slug) in rows {
        for (request, from) in kinds() {
            let (process, worker) = started();
            // No other backend is left to go on to.
            for region in &REGIONS[1..] {
                process.script(region, [Reaction::throttled(LONG)]);
            }
            process.script("aa", [Reaction::throttled("1")]);
            worker.ask(&by_url("m"));
            process.advance(millis(2));
            let whole = Response::new(*status).header("x-other", "1").piece(body);
            let in_bytes =
                body.iter().fold(Response::new(*status), |response, byte| response.piece(&[*byte]));
            let with_length = whole.clone().header("content-length", &body.len().to_string());
            let rows = [whole, in_bytes.trailers(), with_length];
            for response in &rows {
                process.script("aa", [response.clone()]);
                let call = worker.call(&request);
                let slug = slug.map(|slug| format!(" {slug}")).unwrap_or_default();
                if *status < 429 || from == "aa" {
                    assert_eq!(call.told(), format!("{status} {from}{slug}"), "{name}");
                    assert!(call.response().is_complete && call.response().body == *body, "{name}");
                }
            }
            match slug {
                Some(slug) => assert_eq!(
                    diagnoses(&process),
                    [format!("aoai_diagnoses_total.backend.aa.diagnosis.{slug} 3")]
                ),
                None => assert_eq!(diagnoses(&process), Vec::<String>::new(), "{name}"),
            }
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
        ("compressed", Response::new(401).header("content-encoding", "gzip")),
        ("long", Response::new(401).header("content-length", "4097")),
        ("a length that is none", Response::new(401).header("content-length", "x")),
    ];
    for (name, response) in rows {
        let (process, worker) = started();
        process.script("aa", [response.clone().open()]);
        let call = worker.call(&by_url("single"));
        assert!(call.told().ends_with(" aa"), "{name}: {}", call.told());
        call.response_piece(&ROLE[..9], false);
        assert_eq!(call.response().body, &ROLE[..9], "{name}");
        call.response_piece(&ROLE[9..], true);
        assert!(call.response().is_complete && call.response().body == ROLE, "{name}");
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
    process.script("aa", [Response::new(401).piece(ROLE).open()]);
    let call = worker.call(&by_url("m"));
    call.response_piece(&vec![b' '; LONGEST_BODY - ROLE.len()], false);
    assert_eq!(call.told(), "");
    call.response_piece(b" ", false);
    assert_eq!((call.told().as_str(), call.response().body.len()), ("401 aa 1", LONGEST_BODY + 1));
    call.response_piece(b".", true);
    assert!(call.response().is_complete && call.response().body.ends_with(b" ."));
    assert_eq!(diagnoses(&process), Vec::<String>::new());
    // One that is just not too long.
    process.script(
        "aa",
        [Response::new(401).piece(ROLE).piece(&vec![b' '; LONGEST_BODY - ROLE.len()])],
    );
    assert_eq!(worker.ask(&by_url("m")), "401 aa 1 role_missing");
}

#[test]
fn a_response_whose_body_is_late_is_held_for_half_a_second() {
    for (request, from) in kinds() {
        for first in [0, 20] {
            let (process, worker) = started();
            let response = Response::new(401).open();
            process
                .script("aa", [if first > 0 { response.piece(&ROLE[..first]) } else { response }]);
            let call = worker.call(&request);
            worker.pass(millis(499));
            assert_eq!(call.told(), "");
            worker.pass(millis(1));
            assert_eq!(
                (call.told(), call.response().body),
                (format!("401 {from}"), ROLE[..first].to_vec())
            );
            // It goes on piece by piece then, and loses none.
            for at in (first..ROLE.len()).step_by(30) {
                let end = ROLE.len().min(at + 30);
                call.response_piece(&ROLE[at..end], end == ROLE.len());
                worker.pass(millis(1));
                assert_eq!(call.response().body, &ROLE[..end], "{first}");
            }
            assert!(call.response().is_complete);
            assert_eq!(
                diagnoses(&process),
                ["aoai_diagnoses_total.backend.aa.diagnosis.role_missing 1"]
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
        process.script("aa", [Response::new(401).piece(ROLE).open()]);
        let call = worker.call(&by_url("m"));
        assert_eq!(call.told(), "");
        end(&call, &worker);
        let diagnosis = if number < 2 { " role_missing" } else { "" };
        assert_eq!(call.told(), format!("401 aa 1{diagnosis}"));
        assert!(call.response().is_complete && call.response().body == ROLE);
        assert_eq!(
            diagnoses(&process),
            ["aoai_diagnoses_total.backend.aa.diagnosis.role_missing 1"]
        );
    }
}

#[test]
fn a_clock_that_is_set_back_holds_no_response_for_longer() {
    for first in [0, 20] {
        let (process, worker) = started();
        let response = Response::new(401).open();
        process.script("aa", [if first > 0 { response.piece(&ROLE[..first]) } else { response }]);
        let call = worker.call(&by_url("m"));
        process.set_back(seconds(3600));
        worker.pass(seconds(1));
        assert_eq!(call.told(), "401 aa 1");
    }
}

#[test]
fn a_caller_that_leaves_while_its_response_is_held_leaves_nothing() {
    for (request, from) in kinds() {
        let (process, worker) = started();
        process.script("aa", [role(10).open()]);
        let call = worker.call(&request);
        call.leave();
        worker.pass(seconds(1));
        assert_eq!((call.told().as_str(), worker.requests.len()), ("", 0));
        process.script("aa", [role(10)]);
        assert_eq!(worker.ask(&request), format!("401 {from} role_missing"));
    }
}

#[test]
fn only_the_gateway_writes_the_header() {
    for (request, from) in kinds() {
        for (body, slug) in [(&b"{}"[..], ""), (ROLE, " role_missing")] {
            let (process, worker) = started();
            let response = Response::new(401)
                .header("x-aoai-diagnosis", "forged")
                .header("x-aoai-reason", "forged")
                .piece(body);
            process.script("aa", [response]);
            let told = worker.ask(&request.clone().header("x-aoai-diagnosis", "of the caller"));
            assert_eq!(told, format!("401 {from}{slug}"));
        }
    }
}

#[test]
fn an_envoy_that_keeps_bodies_back_is_noticed_and_then_nothing_is_held() {
    for (request, from) in kinds() {
        let (process, worker) = started();
        // All of the response is there, and nothing of its body is shown while its head is held.
        for _ in 0..3 {
            process.script("aa", [Response::new(401).open()]);
            let call = worker.call(&request);
            call.response_has_come_unseen();
            worker.pass(millis(499));
            assert_eq!(call.told(), "");
            worker.pass(millis(1));
            assert_eq!(call.told(), format!("401 {from}"));
            call.response_piece(ROLE, true);
        }
        process.script("aa", [Response::new(401).open()]);
        let call = worker.call(&request);
        assert_eq!(call.told(), format!("401 {from}"), "at once");
        worker.pass(seconds(2));
        call.response_piece(ROLE, true);
        assert!(call.response().is_complete && call.response().body == ROLE);
        assert_eq!(
            diagnoses(&process),
            ["aoai_diagnoses_total.backend.aa.diagnosis.role_missing 4"]
        );
    }
}

#[test]
fn late_bodies_are_no_failed_holds() {
    let (process, worker) = started();
    for _ in 0..5 {
        process.script("aa", [Response::new(401).open()]);
        let call = worker.call(&by_url("m"));
        worker.pass(millis(500));
        assert_eq!(call.told(), "401 aa 1");
        call.response_piece(ROLE, true);
    }
    process.script("aa", [role(10)]);
    assert_eq!(worker.ask(&by_url("m")), "401 aa 1 role_missing");
    // Two failed holds and a success in between are nothing.
    for _ in 0..5 {
        for _ in 0..2 {
            process.script("aa", [Response::new(401).open()]);
            let call = worker.call(&by_url("m"));
            call.response_has_come_unseen();
            worker.pass(millis(500));
            call.response_piece(ROLE, true);
        }
        process.script("aa", [role(10)]);
        assert_eq!(worker.ask(&by_url("m")), "401 aa 1 role_missing");
    }
}

/// A request that has waited for its body is looked at once more, whatever it does by then.
#[test]
fn a_response_that_is_not_held_is_not_resumed() {
    let (process, worker) = started();
    for _ in 0..3 {
        process.script("aa", [Response::new(401).open()]);
        let call = worker.call(&by_url("single"));
        call.response_has_come_unseen();
        worker.pass(millis(500));
        call.response_piece(ROLE, true);
    }
    process.script("aa", [Response::new(401).open()]);
    let call = worker.begin(&by_body("single"), false);
    call.piece(&by_body("single").body, true);
    assert_eq!(call.told(), "401 aa");
    worker.pass(seconds(2));
    call.response_piece(ROLE, true);
    assert!(call.response().is_complete && call.response().body == ROLE);
}

#[test]
fn a_request_that_turns_out_wrong_while_its_response_is_held_gets_one_response() {
    for model in ["single", "m"] {
        let (process, worker) = started();
        process.script("aa", [Reaction::from(Response::new(401).piece(&ROLE[..9]).open()).early()]);
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
fn the_log_has_a_line_a_minute_for_each_backend_and_diagnosis() {
    let (process, worker) = started();
    let other = Worker::ready(&process, &document());
    for round in 0..2 {
        for worker in [&worker, &other] {
            for region in ["aa", "bb"] {
                for body in [ROLE, REJECTED] {
                    process.script(region, [Response::new(401).piece(body)]);
                    if region == "bb" {
                        process.script("aa", [Response::new(500)]);
                    }
                    let told = worker.ask(&by_url(if region == "aa" { "m" } else { "n" }));
                    assert!(told.starts_with("401"), "{round} {told}");
                    // A failure is forgotten, so that aa is asked again.
                    worker.ask(&by_url("n"));
                }
            }
        }
        let lines = process.logged("responded 401");
        assert_eq!(lines.len(), 4, "{lines:?}");
        let line = &lines[0];
        for part in [
            "backend aa responded 401, role_missing: ",
            "Assign the role Cognitive Services OpenAI User",
            "resource contoso-aa.openai.azure.com",
            "audience https://cognitiveservices.azure.com",
        ] {
            assert!(line.contains(part), "{line}");
        }
        assert!(!lines.concat().contains("h.imds") && !lines.concat().contains(KEY));
        process.advance(seconds(60));
    }
    assert_eq!(process.counter("aoai_diagnoses_total.backend.aa.diagnosis.role_missing"), 4);
}

#[test]
fn a_line_says_whose_token_it_was() {
    // {"aud":"https://other","oid":"o-1","appid":"a-1","tid":"t-1"}
    const JWT: &str =
        "h.eyJhdWQiOiJodHRwczovL290aGVyIiwib2lkIjoiby0xIiwiYXBwaWQiOiJhLTEiLCJ0aWQiOiJ0LTEifQ.s";
    let process = Process::new();
    let worker = Worker::new(&process, &document());
    worker.tick();
    worker.answer(&token(JWT, 3600));
    worker.tick();
    process.script("aa", [Response::new(401).piece(REJECTED)]);
    assert_eq!(worker.ask(&by_url("m")), "401 aa 1 token_rejected");
    let [line] = process.logged("token_rejected").try_into().unwrap();
    let whose = "principal o-1, application a-1, tenant t-1, audience https://other";
    assert!(line.ends_with(whose), "{line}");
}

#[test]
fn a_rejected_token_is_fetched_anew_unless_it_is_new() {
    let (process, worker) = started();
    let reject = || {
        process.script("aa", [Response::new(401).piece(REJECTED)]);
        assert_eq!(worker.ask(&by_url("m")), "401 aa 1 token_rejected");
    };
    reject();
    assert_eq!(process.fetches_soon.get(), 0);
    process.advance(seconds(60));
    process.script("aa", [role(10)]);
    assert_eq!(worker.ask(&by_url("m")), "401 aa 1 role_missing");
    assert_eq!(process.fetches_soon.get(), 0, "another mistake");
    reject();
    reject();
    assert_eq!(process.fetches_soon.get(), 1);
    worker.tick();
    assert_eq!(worker.callout().as_deref(), Some("imds"));
    reject();
    worker.answer(&token("h.new.s", 3600));
    worker.tick();
    reject();
    assert_eq!(process.fetches_soon.get(), 1);
    process.asked();
    worker.ask(&by_url("m"));
    assert_eq!(seen(&process.arrived()[0])[2], "h.new.s");
}

#[test]
fn the_backend_of_a_later_attempt_is_the_one_that_is_diagnosed() {
    let (process, worker) = started();
    process.script("aa", [Reaction::throttled(LONG)]);
    process.script("bb", [role(10)]);
    assert_eq!(worker.ask(&by_url("m")), "401 bb 2 role_missing");
    assert_eq!(diagnoses(&process), ["aoai_diagnoses_total.backend.bb.diagnosis.role_missing 1"]);
}

#[test]
fn envoys_own_responses_name_the_backend_and_are_no_mistakes() {
    let (process, worker) = started();
    process.script("aa", [Reaction::reset()]);
    assert_eq!(worker.ask(&by_url("single")), "503 aa");
    process.script("aa", [Response::new(503)]);
    assert_eq!(worker.ask(&by_url("single")), "503 aa");
    assert_eq!(diagnoses(&process), Vec::<String>::new());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

    /// However a response is cut and however long its pieces take, it arrives as it is, and is counted once.
    #[test]
    fn any_cut_of_a_response_arrives_as_it_is(
        cuts in prop::collection::vec((0..=ROLE.len(), 0_u64..700), 0..6),
        pooled in any::<bool>(),
        has_trailers in any::<bool>(),
        named_by_body in any::<bool>(),
    ) {
        let (process, worker) = started();
        process.script("aa", [Response::new(401).open()]);
        let model = if pooled { "m" } else { "single" };
        let call = worker.call_in_pieces(&if named_by_body { by_body(model) } else { by_url(model) }, 9);
        let mut cuts = cuts;
        cuts.sort_unstable();
        let mut start = 0;
        let mut waited = 0;
        for (end, wait) in cuts {
            worker.pass(millis(wait));
            waited += wait;
            call.response_piece(&ROLE[start..end], false);
            start = end;
        }
        call.response_piece(&ROLE[start..], !has_trailers);
        if has_trailers {
            call.response_trailers();
        }
        worker.pass(millis(1));
        prop_assert!(call.response().is_complete);
        prop_assert_eq!(call.response().body, ROLE);
        prop_assert_eq!(call.told().ends_with(" role_missing"), waited < 500);
        prop_assert_eq!(diagnoses(&process), ["aoai_diagnoses_total.backend.aa.diagnosis.role_missing 1"]);
        prop_assert_eq!(worker.requests.len(), 0);
    }
}
