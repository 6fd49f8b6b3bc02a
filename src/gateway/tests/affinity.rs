//! Requests that have something in common prefer the same backend.

use std::collections::BTreeSet;

use super::*;
use crate::config::Failover;
use crate::health::Outcome;

const BACKENDS: [&str; 3] = ["aa", "bb", "cc"];

/// Models on three backends alike, each with another affinity.
fn config() -> Config {
    let digest = |key: &str| Digest::of(key.as_bytes());
    let backends = BACKENDS.map(|name| {
        format!(r#"{{"name": "{name}", "endpoint": "https://contoso-{name}.openai.azure.com"}}"#)
    });
    let placements = BACKENDS.map(|name| format!(r#"{{"backend": "{name}"}}"#)).join(",");
    let model = |name: &str, affinity: &str| {
        format!(r#"{{"name": "{name}", {affinity} "backends": [{placements}]}}"#)
    };
    let document = format!(
        r#"{{
        "identity": {{"managed_identity": {{"cluster": "azure_identity"}}}},
        "subscriptions": [
            {{"id": "team", "keys": ["{}"], "models": ["*"]}},
            {{"id": "other", "keys": ["{}"], "models": ["*"]}}
        ],
        "backends": [{}],
        "models": [{}, {}, {}, {}, {{"name": "single", "affinity": {{"body": "user"}}, "backends": [{{"backend": "aa"}}]}}]
        }}"#,
        digest(KEY),
        digest("k-other"),
        backends.join(","),
        model("plain", ""),
        model("by-key", r#""affinity": {"body": "prompt_cache_key"},"#),
        model("by-user", r#""affinity": {"body": "user"},"#),
        model("by-header", r#""affinity": {"header": "x-session"},"#),
    );
    Config::from_json(document.as_bytes()).expect("a valid configuration")
}

/// What a v1 chat request's body leads to, and how many of its bytes had to come.
fn read(
    config: &Config,
    health: &Health,
    key: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (Dispatch, usize) {
    let pairs: Vec<(String, Vec<u8>)> =
        [(":method", "POST"), (":path", "/openai/v1/chat/completions"), ("api-key", key)]
            .iter()
            .chain(headers)
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect();
    let Ok(Step::Read(mut reading)) = admit(config, health, &Head::read(&pairs), false, now())
    else {
        panic!("the model is in the body");
    };
    for (at, byte) in body.bytes().enumerate() {
        let ended = at + 1 == body.len();
        match reading.read(config, health, &[byte], ended, now()).expect(body) {
            BodyStep::Read(still) => reading = still,
            BodyStep::Send { dispatch, splice, .. } => {
                assert_eq!(splice, None, "a pool's attempts do that");
                return (dispatch, at + 1);
            }
        }
    }
    panic!("the body ended and nothing came of it");
}

fn backend(config: &Config, key: &str, headers: &[(&str, &str)], body: &str) -> String {
    read(config, &Health::default(), key, headers, body).0.backend.name.clone()
}

/// How many backends so many equal requests go to.
fn spread(config: &Config, headers: &[(&str, &str)], body: &str) -> usize {
    let backends: BTreeSet<_> = (0..6).map(|_| backend(config, KEY, headers, body)).collect();
    backends.len()
}

#[test]
fn equal_values_prefer_one_backend_and_others_are_spread() {
    let config = config();
    // The header, and what is behind the model's field; whether the value counts.
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
        ("a text too long", "by-user", &[], &format!(r#","user":"{}""#, "u".repeat(600)), false),
        ("the header", "by-header", &[("x-session", "s")], r#","user":"u""#, true),
        ("no header", "by-header", &[("x-other", "s")], r#","user":"u""#, false),
        ("an empty header", "by-header", &[("x-session", "")], "", false),
        ("a header too long", "by-header", &[("x-session", &"s".repeat(513))], "", false),
        ("a long header", "by-header", &[("x-session", &"s".repeat(512))], "", true),
    ];
    for (name, model, headers, behind, counts) in rows {
        let body = format!(r#"{{"model":"{model}"{behind}}}"#);
        assert_eq!(spread(&config, headers, &body), if *counts { 1 } else { 3 }, "{name}");
        let before = format!(r#"{{{}"model":"{model}"}}"#, behind.replacen(',', "", 1) + ",");
        if !behind.is_empty() {
            let (first, second) = (&before, &body);
            assert_eq!(spread(&config, headers, first), if *counts { 1 } else { 3 }, "{name}");
            if *counts {
                let found = [first, second].map(|body| backend(&config, KEY, headers, body));
                assert_eq!(found[0], found[1], "{name}, on either side of the model");
            }
        }
    }
    let body = |index| format!(r#"{{"model":"by-user","user":"user-{index}"}}"#);
    let backends: BTreeSet<_> =
        (0..30).map(|index| backend(&config, KEY, &[], &body(index))).collect();
    assert_eq!(backends.len(), 3);
}

#[test]
fn a_value_draws_each_subscription_elsewhere() {
    let config = config();
    let alike = (0..300)
        .filter(|index| {
            let body = format!(r#"{{"model":"by-user","user":"user-{index}"}}"#);
            backend(&config, KEY, &[], &body) == backend(&config, "k-other", &[], &body)
        })
        .count();
    assert!((70..130).contains(&alike), "{alike}");
}

#[test]
fn a_body_is_read_until_it_is_known_what_draws_it() {
    let config = config();
    let plain = Health::default();
    let length = |body: &str| read(&config, &plain, KEY, &[], body).1;
    let until = |body: &str, end: &str| body.find(end).expect(end) + end.len();
    let rows = [
        (r#"{"model":"by-user","user":"u","n":1}"#, r#""u""#),
        (r#"{"user":"u","n":1,"model":"by-user","x":1}"#, r#""by-user""#),
        (r#"{"model":"by-user","n":1,"x":2}"#, r#"2}"#),
        (r#"{"model":"by-user","user":7,"x":2}"#, r#""user":7"#),
        (r#"{"model":"by-header","user":"u","n":1}"#, r#""by-header""#),
        (r#"{"model":"plain","user":"u","n":1}"#, r#""plain""#),
    ];
    for (body, end) in rows {
        assert_eq!(length(body), until(body, end), "{body}");
    }
    let long = format!(r#"{{"model":"by-user","user":"{}"}}"#, "u".repeat(9000));
    assert!(length(&long) < 600, "a text that is too long is not waited for");
    let pairs = [(":method", "POST"), (":path", "/openai/v1/embeddings"), ("api-key", KEY)]
        .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
    let Ok(Step::Read(reading)) = admit(&config, &plain, &Head::read(&pairs), false, now()) else {
        panic!("the model is in the body");
    };
    let start = br#"{"model":"single","#;
    let step = reading.read(&config, &plain, start, false, now());
    assert!(matches!(step, Ok(BodyStep::Send { .. })), "one backend: nothing to prefer");
}

#[test]
fn a_url_that_names_the_model_is_not_held_for_a_body() {
    let config = config();
    let admitted = |model: &str| {
        let path = format!("/openai/deployments/{model}/chat/completions");
        let pairs = [
            (":method", "POST"),
            (":path", path.as_str()),
            ("api-key", KEY),
            ("x-session", "s"),
            ("x-session", "t"),
        ]
        .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
        match admit(&config, &Health::default(), &Head::read(&pairs), false, now()) {
            Ok(Step::Send(dispatch)) => dispatch.backend.name.clone(),
            other => panic!("{other:?}"),
        }
    };
    let backends = |model: &str| (0..6).map(|_| admitted(model)).collect::<BTreeSet<_>>();
    assert_eq!(backends("by-user").len(), 3);
    let body = r#"{"model":"by-header"}"#;
    let drawn = backend(&config, KEY, &[("x-session", "s")], body);
    assert_eq!(backends("by-header"), BTreeSet::from([drawn]), "the same by URL and by body");
}

#[test]
fn who_is_drawn_to_a_backend_leaves_it_while_it_cools_and_comes_back() {
    let config = config();
    let body = r#"{"model":"by-user","user":"u"}"#;
    let preferred = backend(&config, KEY, &[], body);
    let pause = Outcome::Throttled(Some(Duration::from_secs(5)));
    let cooling = |name: &str, seconds: u64| {
        let now = now() - Duration::from_secs(seconds);
        Health::default().record(name, "by-user", pause, now, &Failover::default(), 0).expect("new")
    };
    let dispatched = |health: &Health| read(&config, health, KEY, &[], body).0;
    let instead = dispatched(&cooling(&preferred, 0)).backend.name.clone();
    assert_ne!(instead, preferred);
    for _ in 0..4 {
        assert_eq!(dispatched(&cooling(&preferred, 0)).backend.name, instead, "one again");
    }
    let probe = dispatched(&cooling(&preferred, 6));
    assert_eq!((&probe.backend.name, probe.probes()), (&preferred, Some("by-user")));
    for other in BACKENDS.iter().filter(|name| **name != preferred) {
        for seconds in [0, 6] {
            let dispatch = dispatched(&cooling(other, seconds));
            assert_eq!((&dispatch.backend.name, dispatch.probes()), (&preferred, None), "{other}");
        }
    }
    let mut waiting = dispatched(&Health::default());
    waiting.choose_again(&config, &cooling(&preferred, 0), now()).expect("two are well");
    assert_eq!(waiting.backend.name, instead);
    waiting.choose_again(&config, &Health::default(), now()).expect("all are well");
    assert_eq!(waiting.backend.name, preferred);
}
