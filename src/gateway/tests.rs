mod affinity;
mod pools;

use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;

/// What comes back for a request: where it goes, or why it does not.
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
    Answered(Reason),
}
use Outcome::{Answered, Sent, SentWith};

const KEY: &str = "k-team";

fn config() -> Config {
    let digest = |key: &str| Digest::of(key.as_bytes());
    let document = format!(
        r#"{{
        "identity": {{"managed_identity": {{"cluster": "azure_identity"}}}},
        "subscriptions": [
            {{"id": "team", "keys": ["{}", "{}"], "models": ["gpt-4o", "alias"], "operations": ["*"]}},
            {{"id": "all", "keys": ["{}"], "models": ["*"]}},
            {{"id": "mini", "keys": ["{}"], "models": ["mini"], "operations": ["resources"]}},
            {{"id": "off", "keys": ["{}"], "models": ["*"], "state": "suspended"}},
            {{"id": "early", "keys": ["{}"], "models": ["*"], "not_before": "2026-01-01T00:00:00Z"}},
            {{"id": "late", "keys": ["{}"], "models": ["*"], "expires_at": "2025-01-01T00:00:00Z"}}
        ],
        "backends": [
            {{"name": "eastus", "endpoint": "https://contoso-eastus.openai.azure.com"}},
            {{"name": "sweden", "endpoint": "https://contoso-sweden.openai.azure.com"}}
        ],
        "models": [
            {{"name": "gpt-4o", "backends": [{{"backend": "eastus"}}]}},
            {{"name": "alias", "backends": [{{"backend": "eastus", "deployment": "gpt-4o-2024-11-20"}}]}},
            {{"name": "mini", "backends": [{{"backend": "sweden", "priority": 1}}]}},
            {{"name": "secret", "backends": [{{"backend": "sweden"}}]}}
        ]}}"#,
        digest(KEY),
        digest("k-team-2"),
        digest("k-all"),
        digest("k-mini"),
        digest("k-off"),
        digest("k-early"),
        digest("k-late"),
    );
    Config::from_json(document.as_bytes()).expect("a valid configuration")
}

/// June 2025.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_750_000_000)
}

struct Call<'a> {
    method: &'a str,
    path: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: &'a str,
}

/// Sends a call through the gateway in pieces of a size; what leaves, as backend, path and body.
fn send(config: &Config, call: &Call<'_>, size: usize) -> Result<(String, String, String), Answer> {
    let pairs: Vec<(String, Vec<u8>)> = [(":method", call.method), (":path", call.path)]
        .iter()
        .chain(call.headers)
        .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
        .collect();
    let head = Head::read(&pairs);
    let left = |dispatch: Dispatch, body: String| {
        let path = dispatch.path.unwrap_or_else(|| call.path.into());
        (dispatch.backend.name.clone(), String::from_utf8_lossy(&path).into_owned(), body)
    };
    let mut reading = match admit(config, &Health::default(), &head, call.body.is_empty(), now())? {
        Step::Send(dispatch) => return Ok(left(dispatch, call.body.to_owned())),
        Step::Read(reading) => reading,
    };
    let mut pieces = call.body.as_bytes().chunks(size).peekable();
    let mut come = 0;
    while let Some(piece) = pieces.next() {
        come += piece.len();
        match reading.read(config, &Health::default(), piece, pieces.peek().is_none(), now())? {
            BodyStep::Read(still) => reading = still,
            BodyStep::Send { dispatch, splice, mut watch } => {
                let mut body = call.body.get(..come).expect("ASCII").to_owned();
                if let Some(splice) = &splice {
                    body.replace_range(splice.at.clone(), &splice.with);
                }
                while let Some(piece) = pieces.next() {
                    watch.read(piece, pieces.peek().is_none())?;
                    body.push_str(std::str::from_utf8(piece).expect("ASCII"));
                }
                if let Some(length) = dispatch.content_length {
                    assert_eq!(length, body.len() as u64);
                }
                return Ok(left(dispatch, body));
            }
        }
    }
    panic!("the body ended and nothing came of it");
}

fn check(name: &str, call: &Call<'_>, expected: Outcome) {
    let config = config();
    for size in [1, 3, 10_000] {
        let found = send(&config, call, size);
        let found = found.map_err(|answer| answer.reason);
        let wanted = match &expected {
            Sent { backend, path } => Ok(((*backend).into(), (*path).into(), call.body.into())),
            SentWith { backend, path, body } => {
                Ok(((*backend).into(), (*path).into(), (*body).into()))
            }
            Answered(reason) => Err(*reason),
        };
        assert_eq!(found, wanted, "{name}, in pieces of {size}");
    }
}

#[test]
fn a_request_with_the_model_in_its_url() {
    let same = |backend, path| (path, Sent { backend, path });
    let to = |path, backend, left| (path, Sent { backend, path: left });
    let not = |path, reason| (path, Answered(reason));
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
        not("/openai/deployments/secret/chat/completions", Reason::ModelNotAllowed),
        not("/openai/deployments/other/chat/completions", Reason::UnknownModel),
        not("/openai/deployments/GPT-4o/chat/completions", Reason::UnknownModel),
        not("/openai/deployments/gpt-4o/../secret/chat/completions", Reason::UnknownOperation),
        not("/openai/deployments/gpt-4o%2f..%2fsecret/embeddings", Reason::UnknownOperation),
        not("/metadata/identity/oauth2/token", Reason::UnknownOperation),
        not("/", Reason::UnknownOperation),
    ];
    for (path, expected) in rows {
        let call = Call { method: "POST", path, headers: &[("api-key", KEY)], body: "{}" };
        check(path, &call, expected);
    }
}

#[test]
fn a_realtime_session_names_its_model_in_the_query() {
    let to = |path, left| (path, Sent { backend: "eastus", path: left });
    let not = |path, reason| (path, Answered(reason));
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
        not("/openai/v1/realtime", Reason::MissingModel),
        not("/openai/v1/realtime?model=gpt-4o&model=secret", Reason::MissingModel),
        not("/openai/v1/realtime?model=gpt-4o&deployment=secret", Reason::MissingModel),
        not("/openai/v1/realtime?model=gpt-4o&%6dodel=secret", Reason::MissingModel),
        not("/openai/v1/realtime?model=secret", Reason::ModelNotAllowed),
        not("/openai/v1/realtime?model=", Reason::UnknownModel),
    ];
    for (path, expected) in rows {
        let call = Call { method: "GET", path, headers: &[("api-key", KEY)], body: "" };
        check(path, &call, expected);
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
        // What another parser makes of an escaped name is its own affair: it is the same model.
        ("escaped", r#"{"model":"\u0067pt-4o"}"#, as_is()),
        ("forbidden", r#"{"model":"secret"}"#, Answered(Reason::ModelNotAllowed)),
        ("unknown", r#"{"model":"other"}"#, Answered(Reason::UnknownModel)),
        ("none", r#"{"messages":[]}"#, Answered(Reason::MissingModel)),
        ("two", r#"{"model":"gpt-4o","model":"secret"}"#, Answered(Reason::MissingModel)),
        ("two, the second long after the first", &long, Answered(Reason::MissingModel)),
        ("no JSON", "model=gpt-4o", Answered(Reason::MissingModel)),
        ("cut behind the model", r#"{"model":"gpt-4o","x":"#, Answered(Reason::MissingModel)),
        ("empty", "", Answered(Reason::MissingModel)),
    ];
    for (name, body, expected) in rows {
        let length = body.len().to_string();
        let headers = [("authorization", "Bearer k-team"), ("content-length", length.as_str())];
        check(name, &Call { method: "POST", path: CHAT, headers: &headers, body }, expected);
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
    let sent = || SentWith { backend: "eastus", path: PATH, body: LEFT };
    let rows: [(&str, &[(&str, &str)], Outcome); 4] = [
        ("a form", &[form], sent()),
        ("a form that says it is JSON", &[], Answered(Reason::MissingModel)),
        ("no boundary", &[("content-type", "multipart/form-data")], Answered(Reason::MissingModel)),
        ("compressed", &[form, ("content-encoding", "gzip")], Answered(Reason::MissingModel)),
    ];
    for (name, headers, expected) in rows {
        let headers = [&[("api-key", KEY)], headers].concat();
        check(name, &Call { method: "POST", path: PATH, headers: &headers, body: FORM }, expected);
    }
}

#[test]
fn what_names_no_model_goes_where_the_subscription_is_at_home() {
    let home = |backend, path| Sent { backend, path };
    let rows = [
        ("GET", "/openai/v1/models", KEY, "", home("eastus", "/openai/v1/models")),
        ("GET", "/openai/v1/models", "k-all", "", home("eastus", "/openai/v1/models")),
        ("GET", "/openai/v1/files", "k-mini", "", home("sweden", "/openai/v1/files")),
        ("POST", "/openai/v1/files", KEY, "{}", home("eastus", "/openai/v1/files")),
        ("POST", "/openai/threads/runs", "k-mini", "{}", home("sweden", "/openai/threads/runs")),
        ("POST", "/openai/assistants/a", KEY, "", home("eastus", "/openai/assistants/a")),
        ("GET", "/openai/v1/files", "k-all", "", Answered(Reason::OperationNotAllowed)),
        ("GET", "/openai/v1/new", "k-all", "", Answered(Reason::OperationNotAllowed)),
        ("GET", "/openai/v1/models", "k-mini", "", Answered(Reason::OperationNotAllowed)),
        (
            "POST",
            "/openai/deployments/mini/embeddings",
            "k-mini",
            "{}",
            Answered(Reason::OperationNotAllowed),
        ),
    ];
    for (method, path, key, body, expected) in rows {
        let call = Call { method, path, headers: &[("api-key", key)], body };
        check(&format!("{method} {path} {key}"), &call, expected);
    }
    let run = |body| Call {
        method: "POST",
        path: "/openai/threads/t/runs",
        headers: &[("api-key", KEY)],
        body,
    };
    let sent = |body| SentWith { backend: "eastus", path: "/openai/threads/t/runs", body };
    check("its own model", &run(r#"{"model":"alias"}"#), sent(r#"{"model":"gpt-4o-2024-11-20"}"#));
    check("another's", &run(r#"{"model":"secret"}"#), Answered(Reason::ModelNotAllowed));
}

#[test]
fn a_model_elsewhere_is_no_reason_to_leave_home() {
    let config = config();
    let call = Call {
        method: "POST",
        path: "/openai/threads/runs",
        headers: &[("api-key", "k-both")],
        body: r#"{"model":"mini"}"#,
    };
    let subscription = Arc::new(Subscription {
        id: "both".to_owned(),
        models: ModelScope::All,
        operations: crate::config::OperationScope { inference: true, resources: true },
        suspended: false,
        not_before: None,
        expires_at: None,
        home: Arc::clone(&config.backends[0]),
    });
    let mut config = config;
    config.subscriptions.insert(Digest::of(b"k-both"), subscription);
    let answer = send(&config, &call, 100).expect_err("mini is in Sweden only");
    assert_eq!(answer.reason, Reason::UnknownModel);
}

#[test]
fn the_key_decides_before_anything_else() {
    let rows: &[(&str, &str, &[(&str, &str)], Reason)] = &[
        ("none", "/openai/v1/models", &[], Reason::MissingKey),
        ("empty", "/openai/v1/models", &[("api-key", "")], Reason::MissingKey),
        ("basic", "/openai/v1/models", &[("authorization", "Basic azprMQ==")], Reason::MissingKey),
        ("unknown", "/openai/v1/models", &[("api-key", "other")], Reason::UnknownKey),
        ("its digest", "/", &[("api-key", &Digest::of(b"k-all").to_string())], Reason::UnknownKey),
        ("too long", "/", &[("api-key", &"k".repeat(65_536))], Reason::UnknownKey),
        ("in the query", "/openai/v1/models?api-key=other", &[], Reason::UnknownKey),
        (
            "two",
            "/",
            &[("api-key", "k-all"), ("authorization", "Bearer k-team")],
            Reason::ConflictingKeys,
        ),
        ("twice", "/", &[("api-key", "k-all"), ("api-key", "k-all")], Reason::ConflictingKeys),
        (
            "two in the query",
            "/?api-key=k-all&subscription-key=k-team",
            &[],
            Reason::ConflictingKeys,
        ),
        ("suspended", "/", &[("api-key", "k-off")], Reason::InactiveSubscription),
        ("not valid yet", "/", &[("api-key", "k-early")], Reason::InactiveSubscription),
        ("expired", "/", &[("api-key", "k-late")], Reason::InactiveSubscription),
        ("a path that is none", "/..", &[("api-key", "other")], Reason::UnknownKey),
    ];
    for (name, path, headers, reason) in rows {
        check(name, &Call { method: "GET", path, headers, body: "" }, Answered(*reason));
    }
}

#[test]
fn a_key_counts_wherever_it_may_stand() {
    let rows: &[(&str, &str, &[(&str, &str)])] = &[
        ("api-key", "", &[("api-key", "k-all")]),
        ("API Management's", "", &[("ocp-apim-subscription-key", "k-all")]),
        ("bearer", "", &[("authorization", "Bearer k-all")]),
        ("the same twice", "", &[("authorization", "Bearer k-all"), ("api-key", "k-all")]),
        ("query", "?api-key=k-all", &[]),
        ("query, encoded", "?subscription%2Dkey=k%2dall", &[]),
        ("query twice the same", "?API-Key=k-all&subscription-key=k-all", &[]),
        ("a header before the query", "?api-key=other", &[("api-key", "k-all")]),
        ("an empty header and the query", "?api-key=k-all", &[("api-key", "")]),
    ];
    for (name, query, headers) in rows {
        let path = format!("/openai/v1/models{query}");
        let call = Call { method: "GET", path: &path, headers, body: "" };
        check(name, &call, Sent { backend: "eastus", path: "/openai/v1/models" });
    }
    let secondary = Call {
        method: "GET",
        path: "/openai/v1/models",
        headers: &[("api-key", "k-team-2")],
        body: "",
    };
    check("secondary", &secondary, Sent { backend: "eastus", path: "/openai/v1/models" });
}

#[test]
fn an_answer_says_what_the_caller_may_use_and_repeats_nothing_of_the_request() {
    let config = config();
    let path = format!("/openai/deployments/{KEY}/embeddings?x={KEY}");
    let headers = [("api-key", KEY)];
    let call = Call { method: "POST", path: &path, headers: &headers, body: "{}" };
    let answer = send(&config, &call, 100).expect_err("no such model");
    assert_eq!(
        answer.message,
        "This gateway has no model of that name. Subscription team may use: alias, gpt-4o."
    );
}

/// Pieces of paths and queries that have a meaning somewhere, and any bytes.
fn odd_path() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&'static [u8]> = vec![
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
        8 => prop::sample::select(words).prop_map(<[u8]>::to_vec),
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
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_bytes_make_it_panic_and_no_key_or_unauthorised_model_gets_through(
        path in prop_oneof![odd_path(), likely_path()],
        method in prop::sample::select(vec!["GET", "POST", "DELETE", ""]),
        bearer in any::<bool>(),
        odd in prop::collection::vec((prop::sample::select(vec![
            "api-key", "x-aoai-cluster", "content-type", "content-encoding", "content-length", "x-other",
        ]), any::<Vec<u8>>()), 0..3),
    ) {
        let config = config();
        let mut pairs = vec![
            (":method".to_owned(), method.as_bytes().to_vec()),
            (":path".to_owned(), path.clone()),
        ];
        pairs.extend(odd.into_iter().map(|(name, value)| (name.to_owned(), value)));
        if bearer {
            pairs.push(("authorization".to_owned(), b"Bearer k-team".to_vec()));
        }
        let head = Head::read(&pairs);
        for (name, _) in &pairs {
            let must_go = name.starts_with("x-aoai-") || name == "api-key";
            prop_assert!(!must_go || head.remove.contains(&name.as_str()));
        }
        if let Ok(Step::Send(dispatch)) = admit(&config, &Health::default(), &head, true, now()) {
            let left = dispatch.path.unwrap_or(path);
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
            let segments = |path: &[u8]| path.split(|&byte| byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
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
