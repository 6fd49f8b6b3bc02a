//! What becomes of a request by its head and its body, before it goes anywhere.

use aoai_filter::base::header::is_internal;
use proptest::prelude::*;
use serde_json::{json, Value};

use crate::host::{value, Call, Process, Request, Worker};
use crate::regions::{digest, endpoint, KEY};

/// What comes of a request: where it goes, or why it does not.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Sent {
        backend: &'static str,
        path: &'static str,
    },
    /// The same, and the body that leaves.
    SentWith {
        backend: &'static str,
        path: &'static str,
        body: &'static str,
    },
    /// A local reply with this reason.
    Replied(&'static str),
}
use Outcome::{Replied, Sent, SentWith};

fn document() -> Value {
    let of = |id: &str, key: &str, more: Value| {
        let mut subscription = json!({"id": id, "keys": [digest(key)], "models": ["*"]});
        subscription.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        subscription
    };
    let backends =
        ["eastus", "sweden"].map(|name| json!({"name": name, "endpoint": endpoint(name)}));
    json!({
        "identity": {"managed_identity": {"cluster": "imds"}},
        // Bodies arrive as they were sent.
        "metering": {"streams": "reported"},
        "subscriptions": [
            {"id": "team", "keys": [digest(KEY), digest("k-team-2")], "models": ["gpt-4o", "alias"],
             "operations": ["*"]},
            of("all", "k-all", json!({})),
            of("mini", "k-mini", json!({"models": ["mini"], "operations": ["resources"]})),
            of("off", "k-off", json!({"state": "suspended"})),
            of("early", "k-early", json!({"not_before": "2026-01-01T00:00:00Z"})),
            of("late", "k-late", json!({"expires_at": "2025-01-01T00:00:00Z"})),
        ],
        "backends": backends,
        "models": [
            {"name": "gpt-4o", "backends": [{"backend": "eastus"}]},
            {"name": "alias", "backends": [{"backend": "eastus", "deployment": "gpt-4o-2024-11-20"}]},
            {"name": "mini", "backends": [{"backend": "sweden", "priority": 1}]},
            {"name": "secret", "backends": [{"backend": "sweden"}]},
        ],
    })
}

/// Sends a request in pieces of several sizes. Whatever becomes of it, no key and no header of the gateway's
/// own is left in its head, which an access log shows.
fn check(name: &str, request: &Request, expected: &Outcome) {
    for size in [1, 3, 10_000] {
        let process = Process::new();
        let worker = Worker::ready(&process, &document());
        let call = worker.call_in_pieces(request, size);
        let name = format!("{name}, in pieces of {size}");
        let arrived = process.arrived();
        let (backend, path, body) = match expected {
            Sent { backend, path } => (backend, path, request.body.as_slice()),
            SentWith { backend, path, body } => (backend, path, body.as_bytes()),
            Replied(reason) => {
                assert_eq!(
                    call.response_header("x-aoai-reason").as_deref(),
                    Some(*reason),
                    "{name}"
                );
                assert!(!arrived.iter().any(|one| one.complete), "{name}: nothing arrives whole");
                assert_no_key(&call, &name);
                let counted = format!("aoai_requests_total.outcome.{reason}.backend.none");
                assert_eq!(process.counter(&counted), 1, "{name}");
                continue;
            }
        };
        assert_eq!(call.told(), format!("200 {backend}"), "{name}");
        let [arrived] = arrived.as_slice() else { panic!("{name}: {arrived:?}") };
        assert!(arrived.complete, "{name}");
        assert_eq!(arrived.backend, *backend, "{name}");
        assert_eq!(value(&arrived.headers, ":path").as_deref(), Some(*path), "{name}");
        assert_eq!(String::from_utf8_lossy(&arrived.body), String::from_utf8_lossy(body), "{name}");
        assert_eq!(
            value(&arrived.headers, "authorization").as_deref(),
            Some("Bearer h.imds.1"),
            "{name}"
        );
        let host = format!("contoso-{backend}.openai.azure.com");
        assert_eq!(value(&arrived.headers, ":authority"), Some(host), "{name}");
        if let Some(length) = value(&arrived.headers, "content-length") {
            assert_eq!(length, arrived.body.len().to_string(), "{name}");
        }
        assert_no_key(&call, &name);
        let counted = format!("aoai_requests_total.outcome.forwarded.backend.{backend}");
        assert_eq!(process.requests_counted(), [counted + " 1"], "{name}");
    }
}

fn assert_no_key(call: &Call, name: &str) {
    let names =
        ["api-key", "ocp-apim-subscription-key", "x-api-key", "x-aoai-cluster", "x-aoai-other"];
    for header in names {
        assert_eq!(call.request_header(header), None, "{name}");
    }
    let path = call.request_header(":path").unwrap_or_default().to_ascii_lowercase();
    assert!(!path.contains("api-key=") && !path.contains("key=k"), "{name}: {path}");
}

fn post(path: &str) -> Request {
    Request::new("POST", path)
}

#[test]
fn a_request_with_the_model_in_its_url() {
    let same = |backend, path| (path, Sent { backend, path });
    let to = |path, backend, left| (path, Sent { backend, path: left });
    let not = |path, reason| (path, Replied(reason));
    let rows = [
        same("eastus", "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"),
        same("eastus", "/openai/deployments/gpt-4o/chat/completions?x=%41&&y#=+"),
        to(
            "/openai/deployments/alias/embeddings?api-version=1",
            "eastus",
            "/openai/deployments/gpt-4o-2024-11-20/embeddings?api-version=1",
        ),
        to(
            "//openai/deployments//gpt%2D4o/chat/completions/",
            "eastus",
            "/openai/deployments/gpt-4o/chat/completions",
        ),
        to(
            "/openai/deployments/gpt-4o/chat/completions?a=1&api-key=k&subscription-key=&b=2",
            "eastus",
            "/openai/deployments/gpt-4o/chat/completions?a=1&b=2",
        ),
        not("/openai/deployments/secret/chat/completions", "model_not_allowed"),
        not("/openai/deployments/other/chat/completions", "unknown_model"),
        not("/openai/deployments/GPT-4o/chat/completions", "unknown_model"),
        not("/openai/deployments/gpt-4o/../secret/chat/completions", "unknown_operation"),
        not("/openai/deployments/gpt-4o%2f..%2fsecret/embeddings", "unknown_operation"),
        not("/openai/deployments/gpt-4o/%zz?api-key=k-team", "unknown_operation"),
        not("/metadata/identity/oauth2/token", "unknown_operation"),
        not("/", "unknown_operation"),
    ];
    for (path, expected) in rows {
        check(path, &post(path).header("api-key", KEY).body("{}"), &expected);
    }
}

#[test]
fn a_realtime_session_names_its_model_in_the_query() {
    let to = |path, left| (path, Sent { backend: "eastus", path: left });
    let not = |path, reason| (path, Replied(reason));
    let rows = [
        to("/openai/v1/realtime?model=gpt-4o", "/openai/v1/realtime?model=gpt-4o"),
        to(
            "/openai/v1/realtime?model=alias&x=1",
            "/openai/v1/realtime?model=gpt-4o-2024-11-20&x=1",
        ),
        to(
            "/openai/realtime?api-version=1&deployment=alias&api-key=k",
            "/openai/realtime?api-version=1&deployment=gpt-4o-2024-11-20",
        ),
        not("/openai/v1/realtime", "missing_model"),
        not("/openai/v1/realtime?model=gpt-4o&model=secret", "missing_model"),
        not("/openai/v1/realtime?model=gpt-4o&deployment=secret", "missing_model"),
        not("/openai/v1/realtime?model=gpt-4o&%6dodel=secret", "missing_model"),
        not("/openai/v1/realtime?model=gpt-4o&%20model=secret", "missing_model"),
        not("/openai/v1/realtime?model%20=secret&model=gpt-4o", "missing_model"),
        not("/openai/v1/realtime?model=gpt-4o&model[]=secret", "missing_model"),
        not("/openai/v1/realtime?model=gpt-4o&deployment[0]=secret", "missing_model"),
        not("/openai/v1/realtime?model=gpt-4o&MODEL=secret", "missing_model"),
        not("/openai/v1/realtime?+model=gpt-4o", "missing_model"),
        not("/openai/v1/realtime?deployment%5b%5d=gpt-4o", "missing_model"),
        not("/openai/v1/realtime?model=secret", "model_not_allowed"),
        not("/openai/v1/realtime?model=", "unknown_model"),
    ];
    for (path, expected) in rows {
        check(path, &Request::new("GET", path).header("api-key", KEY), &expected);
    }
}

#[test]
fn a_key_among_the_subprotocols_opens_a_session_and_goes_nowhere() {
    const SESSION: &str = "/openai/v1/realtime?model=gpt-4o";
    let offer =
        |offered: &str| Request::new("GET", SESSION).header("sec-websocket-protocol", offered);
    let sent = Sent { backend: "eastus", path: SESSION };
    let key = format!("openai-insecure-api-key.{KEY}");
    let rows = [
        (
            format!("realtime, {key}, openai-beta.realtime-v1"),
            Some("realtime, openai-beta.realtime-v1"),
        ),
        (key.clone(), None),
        (format!("realtime,{}", key.to_ascii_uppercase().replace("K-TEAM", KEY)), Some("realtime")),
    ];
    for (offered, left) in rows {
        check(&offered, &offer(&offered), &sent);
        let process = Process::new();
        let call = Worker::ready(&process, &document()).call(&offer(&offered));
        assert_eq!(call.request_header("sec-websocket-protocol").as_deref(), left, "{offered}");
    }
    let without = offer("realtime,  x").header("api-key", KEY);
    let process = Process::new();
    let call = Worker::ready(&process, &document()).call(&without);
    assert_eq!(call.request_header("sec-websocket-protocol").as_deref(), Some("realtime,  x"));

    let refused = [
        (offer("realtime, openai-insecure-api-key.other"), "unknown_key"),
        (offer("realtime, openai-insecure-api-key."), "missing_key"),
        (offer(&format!("{key}, {key}")), "conflicting_keys"),
        (offer(&key).header("api-key", "k-team-2"), "conflicting_keys"),
    ];
    for (request, reason) in refused {
        check(reason, &request, &Replied(reason));
        let process = Process::new();
        let call = Worker::ready(&process, &document()).call(&request);
        let left = call.request_header("sec-websocket-protocol").unwrap_or_default();
        assert!(!left.contains("insecure"), "{reason}: {left}");
    }
}

#[test]
fn joining_a_realtime_session_is_no_inference() {
    let join = |path: &'static str, key| Request::new("GET", path).header("api-key", key);
    const SESSION: &str = "/openai/v1/realtime?call_id=rtc_1";
    check("granted", &join(SESSION, KEY), &Sent { backend: "eastus", path: SESSION });
    check("not granted", &join(SESSION, "k-all"), &Replied("operation_not_allowed"));
    let renamed = "/openai/v1/realtime?call_id=rtc_1&model=gpt-4o-2024-11-20";
    for (path, expected) in [
        (
            "/openai/v1/realtime?call_id=rtc_1&model=alias",
            Sent { backend: "eastus", path: renamed },
        ),
        ("/openai/v1/realtime?call_id=rtc_1&model=secret", Replied("model_not_allowed")),
        ("/openai/v1/realtime?call_id=rtc_1&+model=secret", Replied("missing_model")),
    ] {
        check(path, &join(path, KEY), &expected);
    }
}

#[test]
fn a_model_of_what_is_stored_is_bound_too() {
    let rows = [
        ("/openai/v1/fine_tuning/jobs", r#"{"model":"gpt-4o"}"#, None),
        ("/openai/fine_tuning/jobs", r#"{"model":"secret"}"#, Some("model_not_allowed")),
        ("/openai/v1/videos", r#"{"prompt":"p"}"#, None),
        ("/openai/v1/videos", r#"{"model":"secret"}"#, Some("model_not_allowed")),
        ("/openai/v1/video/generations/jobs", r#"{"model":"x"}"#, Some("unknown_model")),
        ("/openai/v1/realtime/calls/c/accept", r#"{"model":"secret"}"#, Some("model_not_allowed")),
        ("/openai/v1/moderations", r#"{"model":"secret"}"#, Some("model_not_allowed")),
        ("/openai/v1/moderations", r#"{"input":"i"}"#, Some("missing_model")),
        ("/openai/v1/responses/compact", r#"{"model":"secret"}"#, Some("model_not_allowed")),
        ("/openai/v1/responses/input_tokens", r#"{"model":"secret"}"#, Some("model_not_allowed")),
        ("/openai/responses/input_tokens", r#"{"model":"gpt-4o"}"#, None),
    ];
    for (path, body, reason) in rows {
        let expected = reason.map_or(Sent { backend: "eastus", path }, Replied);
        check(&format!("{path} {body}"), &post(path).header("api-key", KEY).body(body), &expected);
    }
}

#[test]
fn foundrys_other_doors_have_the_model_in_the_body() {
    const RENAMED: &str = r#"{"model":"gpt-4o-2024-11-20","messages":[]}"#;
    for path in [
        "/models/chat/completions?api-version=2024-05-01-preview",
        "/models/embeddings?api-version=2024-05-01-preview",
        "/anthropic/v1/messages",
        "/anthropic/v1/messages/count_tokens",
    ] {
        let renamed = SentWith { backend: "eastus", path, body: RENAMED };
        for (body, expected) in [
            (r#"{"model":"gpt-4o"}"#, Sent { backend: "eastus", path }),
            (r#"{"model":"alias","messages":[]}"#, renamed),
            (r#"{"model":"secret"}"#, Replied("model_not_allowed")),
            (r#"{"messages":[]}"#, Replied("missing_model")),
        ] {
            let request = post(path).header("x-api-key", KEY).body(body);
            check(&format!("{path} {body}"), &request, &expected);
        }
    }
    // What is stored, and what is not known yet, is granted by the same word as elsewhere.
    for path in ["/anthropic/v1/messages/batches", "/anthropic/v1/files"] {
        let request = |key| post(path).header("x-api-key", key).body("{}");
        check(path, &request(KEY), &Sent { backend: "eastus", path });
        check(path, &request("k-all"), &Replied("operation_not_allowed"));
    }
    const SOURCES: &str = r#"{"model":"gpt-4o","data_sources":[]}"#;
    let sources = post("/models/chat/completions").header("api-key", "k-all").body(SOURCES);
    check("data sources", &sources, &Replied("operation_not_allowed"));
}

#[test]
fn a_base_url_that_lacks_its_beginning_gets_told_what_to_write() {
    for (path, written) in [
        ("/v1/chat/completions", "/openai/v1/"),
        ("/chat/completions", "/openai/v1/"),
        ("/deployments/gpt-4o/chat/completions", "azure_endpoint"),
        ("/v1/messages", "/anthropic."),
        ("/elsewhere", "/models/embeddings"),
    ] {
        let request = post(path).header("api-key", KEY).body("{}");
        check(path, &request, &Replied("unknown_operation"));
        let process = Process::new();
        let call = Worker::ready(&process, &document()).call(&request);
        let reply = String::from_utf8(call.response().body).unwrap();
        assert!(reply.contains(written), "{path}: {reply}");
    }
}

#[test]
fn a_request_with_the_model_in_its_body() {
    const CHAT: &str = "/openai/v1/chat/completions";
    let as_is = || Sent { backend: "eastus", path: CHAT };
    let with = |body| SentWith { backend: "eastus", path: CHAT, body };
    let long = format!(r#"{{"model":"gpt-4o","x":"{}","model":"secret"}}"#, "y".repeat(9000));
    let rows = [
        ("first", r#"{"model":"gpt-4o","messages":[]}"#, as_is()),
        ("last", r#"{"messages":[],"model":"gpt-4o"}"#, as_is()),
        (
            "another name at the backend",
            r#"{"a":1, "model" : "alias" ,"b":2}"#,
            with(r#"{"a":1, "model" : "gpt-4o-2024-11-20" ,"b":2}"#),
        ),
        (
            "escaped, and another name",
            r#"{"mod\u0065l":"\u0061lias"}"#,
            with(r#"{"mod\u0065l":"gpt-4o-2024-11-20"}"#),
        ),
        // It is the same model, however another parser reads an escaped name.
        ("escaped", r#"{"model":"\u0067pt-4o"}"#, as_is()),
        ("forbidden", r#"{"model":"secret"}"#, Replied("model_not_allowed")),
        ("unknown", r#"{"model":"other"}"#, Replied("unknown_model")),
        ("none", r#"{"messages":[]}"#, Replied("missing_model")),
        ("two", r#"{"model":"gpt-4o","model":"secret"}"#, Replied("missing_model")),
        ("two, the second long after the first", &long, Replied("missing_model")),
        ("no JSON", "model=gpt-4o", Replied("missing_model")),
        ("cut behind the model", r#"{"model":"gpt-4o","x":"#, Replied("missing_model")),
        ("empty", "", Replied("missing_model")),
    ];
    for (name, body, expected) in rows {
        let request = post(CHAT).header("authorization", "Bearer k-team").body(body);
        check(name, &request.clone().content_length(), &expected);
        check(name, &request, &expected);
    }
}

#[test]
fn a_body_that_ends_with_trailers_is_as_whole_as_any() {
    let rows = [
        (r#"{"messages":[],"model":"alias"}"#, "200 eastus"),
        (r#"{"model":"alias","messages":[]}"#, "200 eastus"),
        (r#"{"messages":[]}"#, "400 missing_model"),
        (r#"{"model":"alias","messages":"#, "400 missing_model"),
    ];
    for (body, told) in rows {
        let process = Process::new();
        let worker = Worker::ready(&process, &document());
        let call = worker.begin(&post("/openai/v1/chat/completions").header("api-key", KEY), false);
        call.piece(body.as_bytes(), false);
        call.trailers(&[
            ("x-last", "word"),
            ("api-key", "k"),
            ("x-aoai-cluster", "c"),
            ("authorization", "k"),
        ]);
        assert_eq!(call.told(), told, "{body}");
        let complete: Vec<_> = process.arrived().into_iter().filter(|one| one.complete).collect();
        if told.starts_with("200") {
            let expected = body.replace("alias", "gpt-4o-2024-11-20");
            assert_eq!(String::from_utf8_lossy(&complete[0].body), expected);
            assert_eq!(complete[0].trailers, [("x-last".to_owned(), b"word".to_vec())]);
        } else {
            assert_eq!(complete, []);
        }
    }
}

#[test]
fn a_form_names_its_model_in_a_field() {
    const PATH: &str = "/openai/v1/audio/transcriptions";
    const FORM: &str = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nRIFF\r\n\
                        --b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nalias\r\n--b--\r\n";
    const LEFT: &str = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nRIFF\r\n\
                        --b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngpt-4o-2024-11-20\r\n--b--\r\n";
    let form = ("content-type", "multipart/form-data; boundary=b");
    let json = ("content-type", "application/json");
    let rows: [(&str, &[(&str, &str)], Outcome); 6] = [
        ("a form", &[form], SentWith { backend: "eastus", path: PATH, body: LEFT }),
        ("a form that says it is JSON", &[], Replied("missing_model")),
        ("no boundary", &[("content-type", "multipart/form-data")], Replied("missing_model")),
        ("compressed", &[form, ("content-encoding", "gzip")], Replied("missing_model")),
        ("two content types", &[form, json], Replied("missing_model")),
        ("another format", &[("content-type", "multipart/mixed")], Replied("missing_model")),
    ];
    for (name, headers, expected) in rows {
        let request = post(PATH).header("api-key", KEY).body(FORM);
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        check(name, &request, &expected);
    }
}

#[test]
fn what_names_no_model_goes_to_the_subscriptions_default_backend() {
    let default = |backend, path| Sent { backend, path };
    let rows = [
        ("HEAD", "/openai/v1/models", KEY, "", default("eastus", "/openai/v1/models")),
        ("HEAD", "/openai/v1/models", "k-all", "", default("eastus", "/openai/v1/models")),
        ("GET", "/openai/v1/files", "k-mini", "", default("sweden", "/openai/v1/files")),
        ("POST", "/openai/v1/files", KEY, "{}", default("eastus", "/openai/v1/files")),
        ("POST", "/openai/threads/runs", "k-mini", "{}", default("sweden", "/openai/threads/runs")),
        ("POST", "/openai/assistants/a", KEY, "", default("eastus", "/openai/assistants/a")),
        ("GET", "/openai/v1/files", "k-all", "", Replied("operation_not_allowed")),
        ("GET", "/openai/v1/new", "k-all", "", Replied("operation_not_allowed")),
        ("HEAD", "/openai/v1/models", "k-mini", "", Replied("operation_not_allowed")),
        (
            "POST",
            "/openai/deployments/mini/embeddings",
            "k-mini",
            "{}",
            Replied("operation_not_allowed"),
        ),
    ];
    for (method, path, key, body, expected) in rows {
        let request = Request::new(method, path).header("api-key", key).body(body);
        check(&format!("{method} {path} {key}"), &request, &expected);
    }
    let run = |body| post("/openai/threads/t/runs").header("api-key", KEY).body(body);
    let sent = |body| SentWith { backend: "eastus", path: "/openai/threads/t/runs", body };
    check("its own model", &run(r#"{"model":"alias"}"#), &sent(r#"{"model":"gpt-4o-2024-11-20"}"#));
    check("another's", &run(r#"{"model":"secret"}"#), &Replied("model_not_allowed"));
    check("two models", &run(r#"{"model":"alias","model":"secret"}"#), &Replied("missing_model"));
}

#[test]
fn a_model_elsewhere_is_no_reason_to_leave_the_default_backend() {
    let mut found = Vec::new();
    for number in 0..8 {
        let mut document = document();
        document["subscriptions"] = json!([{
            "id": format!("both-{number}"), "keys": [digest("k-both")], "models": ["*"], "operations": ["*"],
        }]);
        let worker = Worker::ready(&Process::new(), &document);
        let files =
            worker.ask(&Request::new("GET", "/openai/v1/files").header("api-key", "k-both"));
        let run =
            post("/openai/threads/runs").header("api-key", "k-both").body(r#"{"model":"mini"}"#);
        assert_eq!(
            worker.ask(&run),
            if files == "200 sweden" { "200 sweden" } else { "404 unknown_model" },
            "mini is in Sweden only"
        );
        found.push(files);
    }
    assert!(found.contains(&"200 eastus".to_owned()) && found.contains(&"200 sweden".to_owned()));
}

#[test]
fn the_key_decides_before_anything_else() {
    let digest = digest("k-all");
    let long = "k".repeat(65_536);
    let rows: &[(&str, &str, &[(&str, &str)], &str)] = &[
        ("none", "/openai/v1/models", &[], "missing_key"),
        ("empty", "/openai/v1/models", &[("api-key", "")], "missing_key"),
        ("basic", "/openai/v1/models", &[("authorization", "Basic azprMQ==")], "missing_key"),
        ("unknown", "/openai/v1/models", &[("api-key", "other")], "unknown_key"),
        ("its digest", "/", &[("api-key", &digest)], "unknown_key"),
        ("too long", "/", &[("api-key", &long)], "unknown_key"),
        ("in the query", "/openai/v1/models?api-key=other", &[], "unknown_key"),
        (
            "two",
            "/",
            &[("api-key", "k-all"), ("authorization", "Bearer k-team")],
            "conflicting_keys",
        ),
        ("twice", "/", &[("api-key", "k-all"), ("api-key", "k-all")], "conflicting_keys"),
        ("two in the query", "/?api-key=k-all&subscription-key=k-team", &[], "conflicting_keys"),
        ("suspended", "/", &[("api-key", "k-off")], "inactive_subscription"),
        ("not valid yet", "/", &[("api-key", "k-early")], "inactive_subscription"),
        ("expired", "/", &[("api-key", "k-late")], "inactive_subscription"),
        ("a path that is none", "/..", &[("api-key", "other")], "unknown_key"),
        ("a path that is none, with a key", "/..?a&api-key=other&b", &[], "missing_key"),
    ];
    for (name, path, headers, reason) in rows {
        let request = Request::new("GET", path).header("x-aoai-cluster", "azure_identity");
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        check(name, &request, &Replied(reason));
    }
}

#[test]
fn a_key_counts_wherever_it_may_stand() {
    let rows: &[(&str, &str, &[(&str, &str)])] = &[
        ("api-key", "", &[("api-key", "k-all")]),
        ("API Management's", "", &[("ocp-apim-subscription-key", "k-all")]),
        ("Anthropic's", "", &[("x-api-key", "k-all")]),
        ("bearer", "", &[("authorization", "Bearer k-all")]),
        ("the same twice", "", &[("authorization", "Bearer k-all"), ("api-key", "k-all")]),
        ("query", "?api-key=k-all", &[]),
        ("query, encoded", "?subscription%2Dkey=k%2dall", &[]),
        ("query twice the same", "?API-Key=k-all&subscription-key=k-all", &[]),
        ("a header before the query", "?api-key=other", &[("api-key", "k-all")]),
        ("an empty header and the query", "?api-key=k-all", &[("api-key", "")]),
        ("the second key", "", &[("api-key", "k-team-2")]),
        ("headers of the gateway's own", "", &[("api-key", KEY), ("x-aoai-other", "1")]),
    ];
    for (name, query, headers) in rows {
        let request = Request::new("HEAD", &format!("/openai/v1/models{query}"));
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        check(name, &request, &Sent { backend: "eastus", path: "/openai/v1/models" });
    }
}

#[test]
fn a_local_reply_says_what_the_caller_may_use_and_repeats_nothing_of_the_request() {
    let worker = Worker::ready(&Process::new(), &document());
    let path = format!("/openai/deployments/{KEY}/embeddings?x={KEY}");
    let call = worker.call(&post(&path).header("api-key", KEY).body("{}"));
    let body: Value = serde_json::from_slice(&call.response().body).unwrap();
    assert_eq!(
        body,
        json!({"error": {
            "code": "DeploymentNotFound",
            "type": "unknown_model",
            "message": "This gateway has no model of that name. Subscription team may use: alias, gpt-4o.",
            "param": null,
        }})
    );
}

#[test]
fn a_caller_gives_the_router_no_orders() {
    let names = [
        "x-envoy-retry-on",
        "x-envoy-max-retries",
        "x-envoy-upstream-rq-timeout-ms",
        "x-aoai-retry",
    ];
    let request = Request::new("HEAD", "/openai/v1/models").header("api-key", KEY);
    let request = names.iter().fold(request, |request, name| request.header(name, "1"));
    let call = Worker::ready(&Process::new(), &document()).call(&request.header("x-other", "1"));
    assert_eq!(call.told(), "200 eastus");
    assert_eq!(names.map(|name| call.request_header(name)), [None, None, None, None]);
    assert_eq!(call.request_header("x-other").as_deref(), Some("1"));
}

#[test]
fn an_envoy_that_holds_bodies_back_is_told_of() {
    let process = Process::new();
    let worker = Worker::ready(&process, &document());
    let request = post("/openai/v1/chat/completions").header("api-key", KEY);
    // The caller has sent nothing behind the head; then something that Envoy does not show.
    let call = worker.begin(&request, false);
    worker.pass(std::time::Duration::from_secs(30));
    assert_eq!(call.told(), "");
    call.receives(1);
    worker.pass(std::time::Duration::from_secs(1));
    assert_eq!(call.told(), "500 body_not_delivered");
    // Where some of the body was seen, the caller is waited for.
    let call = worker.begin(&request, false);
    call.piece(b"{", false);
    call.receives(10);
    worker.pass(std::time::Duration::from_secs(30));
    assert_eq!(call.told(), "");
    call.piece(br#""model":"gpt-4o"}"#, true);
    assert_eq!(call.told(), "200 eastus");
    // A clock that is set back makes no request wait for longer.
    let call = worker.begin(&request, false);
    call.receives(1);
    process.set_back(std::time::Duration::from_secs(3600));
    worker.pass(std::time::Duration::from_secs(1));
    assert_eq!(call.told(), "500 body_not_delivered");
}

/// Pieces of paths and queries that have a meaning somewhere, and any bytes.
fn odd_path() -> impl Strategy<Value = Vec<u8>> {
    const WORDS: &[&[u8]] = &[
        b"/",
        b"//",
        b"openai",
        b"deployments",
        b"gpt-4o",
        b"secret",
        b"v1",
        b"realtime",
        b"chat",
        b"completions",
        b"models",
        b"..",
        b".",
        b"%2e",
        b"%2F",
        b"%25",
        b"%",
        b"\\",
        b"?",
        b"&",
        b"=",
        b"api-key",
        b"API%2Dkey",
        b"subscription-key",
        b"k-team",
        b"k%2Dteam",
        b"model",
        b"deployment",
        b"+",
        b"#",
        b";",
        b"\0",
        b"\xff",
        b" ",
    ];
    let word = prop_oneof![
        8 => prop::sample::select(WORDS).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(word, 0..14).prop_map(|words| words.concat())
}

/// A path that often gets through.
fn likely_path() -> impl Strategy<Value = Vec<u8>> {
    let start = prop::sample::select(vec![
        "/openai/deployments/gpt-4o/chat/completions?",
        "/openai/deployments/alias/embeddings?a=b&",
        "/openai/v1/realtime?model=alias&",
        "/openai/v1/models?",
        "/openai/v1/files/",
        "/OpenAI//Deployments/gpt%2D4o/Embeddings?",
    ]);
    (start, odd_path()).prop_map(|(start, rest)| [start.as_bytes(), &rest].concat())
}

/// Decodes until nothing changes, as the most generous reader would.
fn wholly_decoded(bytes: &[u8]) -> Vec<u8> {
    let decoded: Vec<u8> = percent_encoding::percent_decode(bytes).collect();
    if decoded == bytes {
        decoded
    } else {
        wholly_decoded(&decoded)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2048) })]

    #[test]
    fn no_bytes_make_it_panic_and_no_key_or_unauthorised_model_gets_through(
        path in prop_oneof![odd_path(), likely_path()],
        method in prop::sample::select(vec!["GET", "POST", "DELETE", ""]),
        bearer in any::<bool>(),
        odd in prop::collection::vec((prop::sample::select(vec![
            "api-key", "x-aoai-cluster", "content-type", "content-encoding", "content-length", "x-other",
        ]), any::<Vec<u8>>()), 0..3),
    ) {
        let process = Process::new();
        let worker = Worker::ready(&process, &document());
        let mut request = Request::default().header(":method", method).header(":path", &path);
        for (name, value) in odd {
            request = request.header(name, value);
        }
        if bearer {
            request = request.header("authorization", "Bearer k-team");
        }
        let call = worker.begin(&request, true);
        prop_assert!(call.told().len() >= 3, "every request is served or gets a reply");
        for (name, _) in &request.headers {
            let is_own = is_internal(name) && name != "authorization";
            prop_assert!(!is_own || call.request_header(name).is_none(), "{}", name);
        }
        for arrived in process.arrived() {
            let (_, left) = arrived.headers.iter().find(|(name, _)| name == ":path").unwrap();
            let (left_path, left_query) = match left.iter().position(|&byte| byte == b'?') {
                Some(at) => (&left[..at], &left[at + 1..]),
                None => (&left[..], &b""[..]),
            };
            for parameter in left_query.split(|&byte| byte == b'&') {
                let name = parameter.split(|&byte| byte == b'=').next().unwrap_or_default();
                let name: Vec<u8> = percent_encoding::percent_decode(name).collect();
                prop_assert!(!name.eq_ignore_ascii_case(b"api-key"));
                prop_assert!(!name.eq_ignore_ascii_case(b"subscription-key"));
            }
            // However often somebody decodes the path, it has the segments that were authorised.
            let segments =
                |path: &[u8]| path.split(|&byte| byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
            let decoded = wholly_decoded(left_path);
            prop_assert_eq!(segments(&decoded).len(), segments(left_path).len());
            prop_assert!(!segments(&decoded).iter().any(|segment| segment == b"." || segment == b".."));
            let lower = decoded.to_ascii_lowercase();
            if let Some(rest) = lower.strip_prefix(b"/openai/deployments/") {
                let deployment = rest.split(|&byte| byte == b'/').next().unwrap_or_default();
                prop_assert!(deployment == b"gpt-4o" || deployment == b"gpt-4o-2024-11-20");
            }
        }
    }
}
