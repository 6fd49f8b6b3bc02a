//! Documents, as JSON and as the message that Envoy makes of them.

use aoai_filter::config::{Config, Endpoint};
use proptest::prelude::*;
use serde_json::Value;

use crate::budget;
use crate::mutation::{like, text_like};

const DOCUMENT: &str = r#"{"identity":{"managed_identity":{"cluster":"imds","client_id":"3f0c0000-0000-0000-0000-00000000000a"}},"audience":"https://cognitiveservices.azure.com","token_wait":"5s","listener":{"address":"127.0.0.1","port":8443,"body_limit":"512KiB"},"failover":{"cooldown":"2s","longest_cooldown":"90s","failures_in_a_row":5,"retry_within":"1500ms"},"subscriptions":[{"id":"search","keys":["sha256:1111111111111111111111111111111111111111111111111111111111111111"],"models":["gpt-4o"],"operations":["inference"],"state":"active","not_before":"2026-01-01T00:00:00Z","expires_at":"2027-01-01T00:00:00Z"}],"backends":[{"name":"eastus","endpoint":"https://contoso-eastus.openai.azure.com","cluster":"a|b"},{"name":"sweden","endpoint":"https://contoso-sweden.openai.azure.com"}],"models":[{"name":"gpt-4o","backends":[{"backend":"eastus","deployment":"d","priority":0,"weight":3},{"backend":"sweden","priority":1}]}]}"#;
const ENDPOINTS: &[&str] = &[
    "https://contoso-eastus.openai.azure.com",
    "https://eastus.api.cognitive.microsoft.com/",
    "https://contoso.services.ai.azure.com:443",
    "https://[::1]:8443",
    "https://user@contoso.openai.azure.us/path?query#fragment",
];

/// A `google.protobuf.Struct` on the wire.
fn structure(value: &Value) -> Vec<u8> {
    let fields = value.as_object().into_iter().flatten();
    fields
        .flat_map(|(name, value)| {
            bytes(1, &[bytes(1, name.as_bytes()), bytes(2, &one(value))].concat())
        })
        .collect()
}

fn one(value: &Value) -> Vec<u8> {
    match value {
        Value::Null => vec![0x08, 0],
        Value::Number(number) => {
            [&[0x11][..], &number.as_f64().unwrap_or_default().to_le_bytes()].concat()
        }
        Value::String(text) => bytes(3, text.as_bytes()),
        Value::Bool(truth) => vec![0x20, u8::from(*truth)],
        Value::Object(_) => bytes(5, &structure(value)),
        Value::Array(items) => {
            bytes(6, &items.iter().flat_map(|item| bytes(1, &one(item))).collect::<Vec<_>>())
        }
    }
}

fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
    let mut found = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        found.push(length as u8 | 0x80);
        length >>= 7;
    }
    found.push(length as u8);
    found.extend_from_slice(content);
    found
}

fn problems_are_lines(
    read: Result<Config, aoai_filter::config::Problems>,
) -> Result<(), TestCaseError> {
    if let Err(problems) = read {
        prop_assert!(problems.count() > 0);
        prop_assert_eq!(problems.to_string().lines().count(), problems.count());
    }
    Ok(())
}

proptest! {
    #![proptest_config(budget())]

    #[test]
    fn documents(document in like(&[DOCUMENT])) {
        problems_are_lines(Config::from_json(&document))?;
        problems_are_lines(Config::from_plugin(&document))?;
    }

    #[test]
    fn messages(message in like(&[&structure(&serde_json::from_str(DOCUMENT).unwrap())])) {
        problems_are_lines(Config::from_plugin(&message))?;
    }

    #[test]
    fn both_forms_mean_the_same(document in like(&[DOCUMENT])) {
        let Ok(value) = serde_json::from_slice::<Value>(&document) else {
            return Ok(());
        };
        if value.as_object().is_none_or(serde_json::Map::is_empty) {
            return Ok(());
        }
        // Of a repeated field of JSON, one is left here.
        let json = Config::from_json(value.to_string().as_bytes());
        let message = Config::from_plugin(&structure(&value));
        prop_assert_eq!(
            json.map_err(|problems| problems.to_string()),
            message.map_err(|problems| problems.to_string())
        );
    }

    #[test]
    fn endpoints(text in text_like(ENDPOINTS)) {
        for read in [Endpoint::parse(&text), Endpoint::parse_custom_domain(&text)] {
            match read {
                Ok(endpoint) => {
                    let again = Endpoint::parse_custom_domain(&format!("https://{}", endpoint.authority()));
                    prop_assert_eq!(again.as_ref().map(Endpoint::authority), Ok(endpoint.authority()));
                    prop_assert!(endpoint.authority().bytes().all(|byte| byte.is_ascii_graphic()));
                    prop_assert!(endpoint.port() > 0 && !endpoint.host().is_empty());
                }
                Err(error) => prop_assert!(!error.to_string().contains('\n')),
            }
        }
    }
}
