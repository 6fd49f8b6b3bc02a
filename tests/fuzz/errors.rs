//! What backends answer: errors, and hints at how long to leave them alone.

use std::time::Duration;

use aoai_filter::config::Failover;
use aoai_filter::diagnosis::{may_tell, Concern, Diagnosis, Said};
use aoai_filter::health::{Availability, Health, Outcome};
use aoai_filter::hint;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::mutation::like;
use crate::{budget, is_line, now};

pub(crate) const ERRORS: &[&str] = &[
    r#"{"error":{"code":"Request is badly formated","message":"Resource Id is badly formed: NA"}}"#,
    r#"{"statusCode":401,"message":"Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or have expired."}"#,
    r#"{"error":{"code":"PermissionDenied","message":"The principal `11111111-0000-4000-8000-000000000011` lacks the required data action `Microsoft.CognitiveServices/accounts/OpenAI/deployments/chat/completions/action` to perform `POST /openai/deployments/{deployment-id}/chat/completions` operation."}}"#,
    r#"{"error":{"code":"404","message":"Resource not found"}}"#,
    r#"{"error":{"code":429,"message":"Requests have exceeded token rate limit. Please retry after 7 seconds."}}"#,
    r#"{"error":"invalid_client","error_description":"AADSTS700213: No matching federated identity record found","error_codes":[700213]}"#,
    "openai.NotFoundError: Error code: 404 - {'error': {'code': 'DeploymentNotFound'}}",
];
const HINTS: &[&str] = &[
    "7",
    "0.25",
    "-1",
    "86400",
    "1500",
    "6m0s",
    "1h2m3.5s",
    "1800000060",
    "Tue, 15 Jan 2027 08:00:20 GMT",
];
const HINT_HEADERS: &[&str] = &[
    "retry-after-ms",
    "x-ms-retry-after-ms",
    "retry-after",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-rate-limit-reset-requests",
    "x-rate-limit-reset-tokens",
    "date",
];

proptest! {
    #![proptest_config(budget())]

    #[test]
    fn error_bodies(body in like(ERRORS), status in prop::sample::select(&[200, 400, 401, 403, 404, 429, 500][..])) {
        let said = Said::read(&body);
        prop_assert!(said.code.len() + said.message.len() <= body.len() * 3 + 20, "no more than there is");
        let found = Diagnosis::of_answer(status, &said);
        prop_assert!(found.is_none() || (400..500).contains(&status));
        prop_assert!(found.is_none() || Diagnosis::of_text(&said).is_some());
        let _ = Diagnosis::of_refusal(&said);
        if let Some(diagnosis) = found {
            let (backend, resource) = ("eastus", "contoso-eastus.openai.azure.com");
            let audience = "https://cognitiveservices.azure.com";
            let line = Concern { diagnosis, status, said: &said, backend, resource, audience, claims: None }
                .to_string();
            prop_assert!(is_line(&line) && line.len() < 2000, "{}", line);
        }
    }

    #[test]
    fn heads_of_errors(
        status in any::<u16>(), length in like(&["161", "4097"]), coding in like(&["identity", "gzip"]),
    ) {
        let headers = [("content-length", length.as_slice()), ("content-encoding", coding.as_slice())];
        let tells = may_tell(status, headers.into_iter());
        prop_assert!(!tells || (coding == b"identity" && (400..=404).contains(&status)));
    }

    #[test]
    fn throttle_hints(
        headers in vec((prop::sample::select(HINT_HEADERS), like(HINTS)), 0..4),
        longest in 1_u64..3600,
        dice in any::<u64>(),
    ) {
        let pairs = headers.iter().map(|(name, value)| (*name, value.as_slice()));
        let hint = hint::read(pairs, now());
        prop_assert!(hint.is_none_or(|hint| !hint.is_zero()));
        let longest = Duration::from_secs(longest);
        let policy = Failover {
            cooldown: Duration::from_secs(1),
            longest_cooldown: longest,
            failures_in_a_row: 3,
            retry_within: Duration::from_secs(10),
        };
        let health = Health::default().record("b", "m", Outcome::Throttled(hint), now(), &policy, dice);
        let health = health.expect("a 429 is remembered");
        match health.availability("b", "m", now()) {
            Availability::Cooling(until) => prop_assert!(until <= now() + longest + longest / 10),
            other => prop_assert_eq!(other, Availability::Probe, "a hint of less than the clock shows"),
        }
    }
}
