//! A backend that is misconfigured fails no caller: the request moves on, the operator learns what to correct,
//! and the caller learns nothing of the operator's resources.

use std::rc::Rc;

use serde_json::json;

use crate::host::{token, Call, Process, Reaction, Response, Worker};
use crate::regions::*;

const ROLE: &[u8] = br#"{"error":{"code":"PermissionDenied","message":"The principal `11111111-0000-4000-8000-000000000011` lacks the required data action `Microsoft.CognitiveServices/accounts/OpenAI/deployments/chat/completions/action` to perform `POST /openai/deployments/{deployment-id}/chat/completions` operation."}}"#;
const REJECTED: &[u8] = br#"{"statusCode":401,"message":"Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or have expired."}"#;
const DEPLOYMENT: &[u8] = br#"{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}"#;

/// The responses that tell of an operator's mistake: what it is, and whether it concerns one model.
const MISTAKES: [(&str, u16, &[u8], bool); 9] = [
    ("role_missing", 401, ROLE, true),
    ("token_rejected", 401, REJECTED, false),
    ("regional_endpoint", 400, br#"{"error":{"code":"x","message":"Resource Id is badly formed: NA"}}"#, false),
    ("unknown_subdomain", 404, br#"{"error":{"code":"404","message":"Subdomain does not map to a resource"}}"#, false),
    ("network_denied", 403, br#"{"error":{"code":"403","message":"Public access is disabled. Please configure private endpoint."}}"#, false),
    ("wrong_tenant", 400, br#"{"error":{"code":"x","message":"Tenant provided in token does not match resource token"}}"#, false),
    ("key_authentication_disabled", 403, br#"{"error":{"code":"AuthenticationTypeDisabled","message":"Key based authentication is disabled for this resource."}}"#, false),
    ("azure_key_rejected", 401, br#"{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint."}}"#, false),
    ("deployment_not_found", 404, DEPLOYMENT, true),
];

/// A response as Azure sends it, with headers that tell of the operator's resources.
fn response(status: u16, body: &[u8]) -> Response {
    Response::new(status)
        .header("content-type", "application/json")
        .header("content-length", &body.len().to_string())
        .header("www-authenticate", "Bearer authorization_uri=\"https://login/tenant\"")
        .header("apim-request-id", "r-1")
        .piece(body)
}

fn role() -> Response {
    response(401, ROLE)
}

fn everywhere(process: &Rc<Process>, response: &Response) {
    for region in REGIONS {
        process.script(region, [response.clone()]);
    }
}

/// The caller has got the local reply, whole, and nothing of Azure's.
fn assert_shows_nothing(call: &Rc<Call>, slug: &str) {
    let response = call.response();
    let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(body["error"]["type"], "backend_misconfigured");
    assert!(response.is_complete);
    let length = call.response_header("content-length");
    assert_eq!(length, Some(response.body.len().to_string()));
    assert_eq!(call.response_header("content-type").as_deref(), Some("application/json"));
    assert_eq!(call.response_header("x-aoai-diagnosis").as_deref(), Some(slug));
    assert_eq!(call.response_header("www-authenticate"), None);
    assert_eq!(call.response_header("apim-request-id").as_deref(), Some("r-1"));
    let shown = format!("{:?} {}", response.headers, String::from_utf8_lossy(&response.body));
    for word in ["11111111", "tenant\\", "contoso", "Microsoft."] {
        assert!(!shown.contains(word), "{shown}");
    }
}

#[test]
fn a_request_moves_on_from_a_misconfigured_backend_which_is_in_cooldown_then() {
    for (slug, status, body, is_of_model) in MISTAKES {
        for request in [by_url("m"), by_body("m")] {
            let (process, worker) = started();
            process.script("aa", [response(status, body)]);
            let call = worker.call(&request);
            assert_eq!(
                (call.told().as_str(), call.response().body),
                ("200 bb 2", b"served by bb".to_vec()),
                "{slug}"
            );
            assert_eq!(worker.ask(&request), "200 bb 1", "{slug}");
            let other = if is_of_model { "200 aa 1" } else { "200 bb 1" };
            assert_eq!(worker.ask(&by_url("n")), other, "{slug}");
            let concerned = if is_of_model { "m" } else { "*" };
            let gauge = format!("aoai_misconfigured.backend.aa.diagnosis.{slug}.model.{concerned}");
            assert_eq!(process.gauge(&gauge), Some(1));
            let gauge = format!("aoai_in_cooldown.backend.aa.model.{concerned}");
            assert_eq!(process.gauge(&gauge), Some(1));
            assert_eq!(process.counter("aoai_attempts_total.backend.aa.result.misconfigured"), 1);
            assert_eq!(
                process.counter(&format!("aoai_diagnoses_total.backend.aa.diagnosis.{slug}")),
                1
            );
            let lines = process.logged("backend aa");
            assert_eq!(lines.len(), 1, "one line says what to correct: {lines:?}");
            assert!(lines[0].contains(slug) && lines[0].contains(" About: resource contoso-aa"));
        }
    }
}

#[test]
fn a_response_is_recognised_however_it_is_cut() {
    for cut in [0, 1, 40, ROLE.len() - 1] {
        let (process, worker) = started();
        let cut = Response::new(401).piece(&ROLE[..cut]).piece(&ROLE[cut..]);
        process.script("aa", [cut.clone(), cut.trailers()]);
        assert_eq!(worker.ask(&by_url("m")), "200 bb 2");
        process.advance(seconds(44));
        assert_eq!(worker.ask(&by_url("m")), "200 bb 2");
    }
}

#[test]
fn one_request_probes_a_misconfigured_backend_after_pauses_that_grow() {
    let (process, worker) = started();
    for wait in [40, 80, 160] {
        process.script("aa", [role()]);
        assert_eq!(worker.ask(&by_url("m")), "200 bb 2");
        process.advance(seconds(wait) - millis(1));
        assert_eq!(worker.ask(&by_url("m")), "200 bb 1", "{wait} s have not passed");
        process.advance(seconds(wait) / 10 + millis(1));
    }
    process.script("aa", [Reaction::hang()]);
    let probe = worker.call(&by_url("m"));
    assert_eq!(probe.routed_to(), "aa>bb>cc");
    assert_eq!(worker.ask(&by_url("m")), "200 bb 1", "one at a time");
    process.logged("");
    probe.respond(Response::new(200));
    assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
    let gauge = "aoai_misconfigured.backend.aa.diagnosis.role_missing.model.m";
    assert_eq!(process.gauge(gauge), Some(0));
    assert_eq!(process.logged("backend aa"), ["backend aa serves model m again"]);
    assert_eq!(process.counter("aoai_cooldowns_total.backend.aa"), 3);
}

#[test]
fn where_every_backend_is_misconfigured_the_caller_is_told_no_more_than_that() {
    for (slug, status, body, _) in MISTAKES {
        let (process, worker) = started();
        everywhere(&process, &response(status, body));
        let call = worker.call(&by_url("m"));
        assert_eq!(call.told(), format!("502 cc 3 backend_misconfigured {slug}"));
        assert_shows_nothing(&call, slug);
        assert_eq!(call.response_header("x-should-retry").as_deref(), Some("false"));
        // Nobody is asked for a second, and then one.
        let call = worker.call(&by_url("m"));
        assert_eq!(call.told(), format!("502 backend_misconfigured {slug}"));
        assert_eq!(process.asked(), "aa bb cc");
        process.advance(seconds(1));
        assert_eq!(worker.ask(&by_url("m")), "200 aa 1");
        assert_eq!(worker.ask(&by_url("m")), "200 aa 1", "{slug}: it is well again");
        let name = "aoai_requests_total.outcome.backend_misconfigured.backend.none";
        assert_eq!(process.counter(name), 2);
    }
}

#[test]
fn a_model_on_one_misconfigured_backend_is_told_the_same() {
    for (slug, status, body, is_of_model) in MISTAKES {
        let (process, worker) = started();
        for cut in [0, 9] {
            let response = Response::new(status)
                .header("content-type", "application/json")
                .header("www-authenticate", "Bearer tenant")
                .header("apim-request-id", "r-1");
            process.script("aa", [response.piece(&body[..cut]).piece(&body[cut..])]);
            let call = worker.call(&by_url("single"));
            assert_eq!(call.told(), format!("502 aa backend_misconfigured {slug}"));
            assert_shows_nothing(&call, slug);
        }
        let concerned = if is_of_model { "single" } else { "*" };
        let gauge = format!("aoai_misconfigured.backend.aa.diagnosis.{slug}.model.{concerned}");
        assert_eq!(process.gauge(&gauge), Some(1));
        let name = "aoai_requests_total.outcome.backend_misconfigured.backend.none";
        assert_eq!(process.counter(name), 2);
        assert_eq!(process.counter("aoai_requests_total.outcome.forwarded.backend.aa"), 0);
        assert_eq!(
            process.counted("aoai_attempts_total"),
            [format!(
                "aoai_attempts_total.backend.aa.result.misconfigured.status.{status}.model.single 2"
            )]
        );
        // It is always asked, as there is no other.
        process.advance(millis(2));
        assert_eq!(worker.ask(&by_url("single")), "200 aa");
        assert_eq!(process.gauge(&gauge), Some(0));
    }
}

#[test]
fn a_model_on_one_backend_that_another_worker_found_misconfigured_is_seen_to_recover() {
    let (process, worker) = started();
    let other = Worker::ready(&process, &document());
    process.script("aa", [role()]);
    worker.ask(&by_url("single"));
    other.tick();
    process.advance(millis(2));
    assert_eq!(other.ask(&by_url("single")), "200 aa");
    let gauge = "aoai_misconfigured.backend.aa.diagnosis.role_missing.model.single";
    assert_eq!(process.gauge(gauge), Some(0));
}

#[test]
fn a_request_that_was_throttled_or_failed_elsewhere_is_told_that() {
    let misconfigured = || Reaction::from(role());
    for (first, second, told) in [
        (Reaction::throttled("7000"), misconfigured(), "429 cc 3 all_backends_throttled"),
        (misconfigured(), Reaction::throttled("7000"), "429 cc 3 all_backends_throttled"),
        (Response::new(500).into(), misconfigured(), "503 cc 3 backend_failed"),
        (Reaction::reset(), misconfigured(), "503 cc 3 backend_failed"),
        (misconfigured(), misconfigured(), "502 cc 3 backend_misconfigured role_missing"),
    ] {
        let (process, worker) = started();
        process.script("aa", [first]);
        process.script("bb", [second]);
        process.script("cc", [misconfigured()]);
        let call = worker.call(&by_url("m"));
        assert_eq!(call.told(), told);
        if told.starts_with("429") {
            let wait: u64 = call.response_header("retry-after-ms").unwrap().parse().unwrap();
            assert!((7000..=7700).contains(&wait), "the time of the one that will serve: {wait}");
        }
    }
}

#[test]
fn a_request_that_others_are_not_asked_for_is_told_why() {
    let (process, worker) = started();
    for region in ["aa", "bb"] {
        process.script(region, [Reaction::throttled("90000")]);
    }
    assert_eq!(worker.ask(&by_url("m")), "200 cc 3");
    process.script("cc", [role()]);
    let call = worker.call(&by_url("m"));
    assert_eq!(call.told(), "429 cc 1 all_backends_throttled");
    assert_eq!(call.response_header("x-should-retry"), None);
    let wait: u64 = call.response_header("retry-after").unwrap().parse().unwrap();
    assert!((90..=99).contains(&wait), "the time of those that will serve: {wait}");
}

#[test]
fn a_caller_may_retry_where_a_backend_is_left() {
    let mut document = document();
    document["backends"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "dd", "endpoint": endpoint("dd")}));
    document["models"][0]["backends"]
        .as_array_mut()
        .unwrap()
        .push(json!({"backend": "dd", "priority": 9}));
    let process = Process::new();
    let worker = Worker::ready(&process, &document);
    everywhere(&process, &role());
    let call = worker.call(&by_url("m"));
    assert_eq!(call.told(), "502 cc 3 backend_misconfigured role_missing");
    assert_eq!(call.response_header("x-should-retry"), None);
    assert_eq!(call.response_header("retry-after").as_deref(), Some("1"));
    assert_eq!(worker.ask(&by_url("m")), "200 dd 1");
}

#[test]
fn a_stored_resource_that_lacks_a_right_puts_no_model_in_cooldown() {
    let (process, worker) = started();
    everywhere(&process, &role());
    let told = worker.ask(&by_body("m").path("/openai/v1/responses"));
    assert!(
        told.starts_with("502") && told.ends_with("backend_misconfigured role_missing"),
        "{told}"
    );
    assert_eq!(process.counted("cooldowns_total"), Vec::<String>::new());
}

#[test]
fn the_log_has_a_line_a_minute_for_each_backend_and_diagnosis() {
    let (process, worker) = started();
    let other = Worker::ready(&process, &document());
    for _ in 0..2 {
        for worker in [&worker, &other] {
            for body in [ROLE, REJECTED] {
                process.script("aa", [response(401, body)]);
                assert!(worker.ask(&by_url("single")).starts_with("502"));
            }
        }
        let lines = process.logged("responded 401");
        assert_eq!(lines.len(), 2, "{lines:?}");
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
    process.script("aa", [response(401, REJECTED)]);
    assert_eq!(worker.ask(&by_url("m")), "200 bb 2");
    let [line] = process.logged("token_rejected").try_into().unwrap();
    let whose = "principal o-1, application a-1, tenant t-1, audience https://other";
    assert!(line.ends_with(whose), "{line}");
}

#[test]
fn a_rejected_token_is_fetched_anew_unless_it_is_new() {
    let (process, worker) = started();
    let reject = || {
        process.script("aa", [response(401, REJECTED)]);
        assert!(worker.ask(&by_url("single")).starts_with("502"));
    };
    reject();
    assert_eq!(process.fetches_soon.get(), 0);
    process.advance(seconds(60));
    process.script("aa", [role()]);
    assert!(worker.ask(&by_url("single")).starts_with("502"));
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
    worker.ask(&by_url("single"));
    assert_eq!(seen_token(&process), "h.new.s");
}

fn seen_token(process: &Process) -> String {
    seen(&process.arrived()[0])[2].clone()
}

#[test]
fn the_backend_of_a_later_attempt_is_the_one_that_is_diagnosed() {
    let (process, worker) = started();
    process.script("aa", [Reaction::throttled(LONG)]);
    process.script("bb", [role()]);
    assert_eq!(worker.ask(&by_url("m")), "200 cc 3");
    let counted = process.counted("aoai_diagnoses_total");
    assert_eq!(counted, ["aoai_diagnoses_total.backend.bb.diagnosis.role_missing 1"]);
}

#[test]
fn one_subscription_cannot_have_a_model_taken_for_misconfigured_by_others() {
    let mut document = document();
    let other = json!({"id": "other", "keys": [digest("k-other")], "models": ["*"]});
    document["subscriptions"].as_array_mut().unwrap().push(other);
    let process = Process::new();
    let worker = Worker::ready(&process, &document);
    // What this caller does needs a right that the role lacks everywhere.
    everywhere(&process, &role());
    assert!(worker.ask(&by_url("m")).starts_with("502"));
    let mut request = by_url("m");
    request.headers.retain(|(name, _)| name != "api-key");
    assert_eq!(worker.ask(&request.header("api-key", "k-other")), "200 aa 1");
}
