//! Responses of identity endpoints, and client credentials.

use std::time::Duration;

use aoai_filter::base::claims::{is_jwt, Claims};
use aoai_filter::config::ClientCredential;
use aoai_filter::identity::cache::{Readiness, Slot};
use aoai_filter::identity::token::Token;
use aoai_filter::identity::{app_service, entra, managed_identity, CalloutResponse, Failure};
use base64::prelude::{Engine, BASE64_URL_SAFE_NO_PAD};
use proptest::prelude::*;

use crate::errors::ERRORS;
use crate::mutation::{like, text_like};
use crate::{budget, is_line, now};

const LONGEST_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
const RESPONSES: &[&str] = &[
    r#"{"access_token":"eyJ0.eyJh.c2ln","client_id":"3f0c","expires_in":"3599","expires_on":"1800003600","ext_expires_in":"3599","not_before":"1800000000","resource":"https://cognitiveservices.azure.com","token_type":"Bearer"}"#,
    r#"{"access_token":"eyJ0.eyJh.c2ln","expires_in":86400,"refresh_in":43200,"token_type":"bearer"}"#,
    r#"{"access_token":"eyJ0.eyJh.c2ln","expires_on":"1/15/2027 9:00:00 AM +00:00","token_type":"Bearer"}"#,
    r#"{"access_token":"eyJ0.eyJh.c2ln","expires_on":"2027-01-15T09:00:00.0000000Z"}"#,
    r#"{"token_type":"Bearer","expires_in":3599,"ext_expires_in":3599,"access_token":"eyJ0.eyJh.c2ln"}"#,
];
const DATES: &[&str] = &[
    "1800003600",
    "2027-01-15T08:00:00Z",
    "2027-01-15T08:00:00.1234567+01:30",
    "1/15/2027 9:00:00 AM +00:00",
    "01/15/2027 09:00:00 -08:00",
    "1/15/2027 12:59:59 PM",
];
const CLAIMS: &[&str] = &[
    r#"{"aud":"https://cognitiveservices.azure.com","iss":"https://sts.windows.net/t/","tid":"t","oid":"o","appid":"a","xms_mirid":"/subscriptions/s","exp":1800003600}"#,
    r#"{"aud":["api://AzureADTokenExchange"],"sub":"system:serviceaccount:gateway:envoy","exp":1800003600}"#,
];

type Read = fn(&CalloutResponse, std::time::SystemTime, u64) -> Result<Token, Failure>;

fn reply(body: BoxedStrategy<Vec<u8>>) -> impl Strategy<Value = CalloutResponse> {
    let status = prop_oneof![
        4 => Just(200_u16),
        2 => prop::sample::select(&[400_u16, 401, 404, 408, 410, 429, 500, 503][..]),
        1 => any::<u16>(),
    ];
    let retry_after = prop::option::of(text_like(&["60", "-1", "Tue, 15 Jan 2027 08:00:20 GMT"]));
    prop_oneof![
        20 => (status, retry_after, body)
            .prop_map(|(status, retry_after, body)| CalloutResponse::Response { status, retry_after, body }),
        1 => Just(CalloutResponse::NoResponse("timeout")),
    ]
}

fn check(read: Read, reply: &CalloutResponse, random: u64) -> Result<(), TestCaseError> {
    let outcome = read(reply, now(), random);
    match &outcome {
        Ok(token) => {
            let succeeded = matches!(reply, CalloutResponse::Response { status: 200, .. });
            let secret = token.secret.expose();
            prop_assert!(
                succeeded
                    && !secret.is_empty()
                    && secret.bytes().all(|byte| byte.is_ascii_graphic())
            );
            prop_assert!(token.refresh_at < token.expires_at && token.expires_at > now());
            prop_assert!(token.refresh_at >= now() && token.expires_at <= now() + LONGEST_LIFE);
        }
        Err(failure) => {
            prop_assert!(is_line(failure.detail()) && failure.detail().chars().count() <= 200);
            let is_clients = failure.status().is_some_and(|status| (400..500).contains(&status));
            prop_assert!(!failure.is_permanent() || is_clients);
        }
    }
    let claimed = Slot::new().claim(1, now(), Duration::from_secs(3)).expect("due");
    let slot = claimed.settle(1, outcome.clone(), now(), random);
    prop_assert!(slot.due() >= now(), "never a burst");
    prop_assert!(outcome.is_ok() || slot.due() > now());
    prop_assert!(slot.due() <= now() + LONGEST_LIFE);
    let is_ready = matches!(slot.readiness(now()), Readiness::Ready(_));
    prop_assert_eq!(is_ready, outcome.is_ok(), "no token, no request");
    let stored = slot.to_bytes();
    let again = Slot::from_bytes(&stored).expect("what is stored can be read");
    prop_assert_eq!(again.to_bytes(), stored);
    Ok(())
}

proptest! {
    #![proptest_config(budget())]

    #[test]
    fn token_answers(
        reply in prop_oneof![3 => reply(like(RESPONSES)), 1 => reply(like(ERRORS))],
        random in any::<u64>(),
    ) {
        for read in [managed_identity::read as Read, app_service::read, entra::read] {
            check(read, &reply, random)?;
        }
    }

    #[test]
    fn dates(date in text_like(DATES)) {
        let body = serde_json::json!({"access_token": "a.b.c", "expires_on": date}).to_string();
        let reply = CalloutResponse::Response { status: 200, retry_after: None, body: body.into_bytes() };
        check(app_service::read, &reply, 0)?;
    }

    #[test]
    fn claims(claims in like(CLAIMS), token in text_like(&["e30.e30.c2ln", "a.b.c.d.e"])) {
        let made = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(&claims));
        for token in [made, token] {
            let Some(found) = Claims::of(&token) else {
                continue;
            };
            prop_assert_eq!(token.split('.').count(), 3);
            let texts = [found.audience, found.issuer, found.subject, found.tenant, found.principal,
                found.application, found.resource_id];
            for text in texts.into_iter().flatten() {
                prop_assert!(is_line(&text) && text.chars().count() <= 200);
            }
        }
    }

    #[test]
    fn client_credentials(reply in reply(like(&["eyJ0.MARKED-MARKED.c2ln\n", "a8Q~MARKED-MARKED", " \r\n"]))) {
        for kind in [ClientCredential::Assertion, ClientCredential::Secret] {
            match entra::read_client_credential(kind, &reply, now()) {
                Ok(credential) => {
                    let text = credential.expose();
                    prop_assert!(!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()));
                    prop_assert!(kind == ClientCredential::Secret || is_jwt(text));
                    let is_served = matches!(reply, CalloutResponse::Response { status: 200, .. });
                    prop_assert!(is_served);
                }
                Err(failure) => {
                    prop_assert!(is_line(failure.detail()) && !failure.is_permanent());
                    prop_assert!(!failure.to_string().contains("MARKED"), "no secret shows");
                }
            }
        }
    }
}
