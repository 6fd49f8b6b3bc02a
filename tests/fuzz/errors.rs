//! Responses of backends: errors, and the time after which to retry.

use std::time::Duration;

use aoai_filter::base::error_body::ErrorBody;
use aoai_filter::config::Failover;
use aoai_filter::response::diagnosis::{may_tell, Diagnosis, Finding};
use aoai_filter::routing::cooldown::{Availability, Cooldowns, Evidence, Outcome};
use aoai_filter::routing::retry_after;
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
const RETRY_AFTER: &[&str] = &[
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
const HEADERS: &[&str] = &[
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
        let error = ErrorBody::read(&body);
        prop_assert!(error.code.len() + error.message.len() <= body.len() * 3 + 20, "no more than there is");
        let found = Diagnosis::of_response(status, &error);
        prop_assert!(found.is_none() || (400..500).contains(&status));
        prop_assert!(found.is_none() || Diagnosis::of_text(&error).is_some());
        let _ = Diagnosis::of_refusal(&error);
        if let Some(diagnosis) = found {
            let (backend, resource) = ("eastus", "contoso-eastus.openai.azure.com");
            let audience = "https://cognitiveservices.azure.com";
            let line = Finding { diagnosis, status, error: &error, backend, resource, audience, claims: None }
                .to_string();
            prop_assert!(is_line(&line) && line.len() < 2000, "{}", line);
        }
    }

    #[test]
    fn heads_of_errors(
        status in any::<u16>(), length in like(&["161", "4097"]), coding in like(&["identity", "gzip"]),
    ) {
        let headers = [("content-length", length.as_slice()), ("content-encoding", coding.as_slice())];
        let is_candidate = may_tell(status, headers.into_iter());
        prop_assert!(!is_candidate || (coding == b"identity" && (400..=404).contains(&status)));
    }

    #[test]
    fn throttled_for(
        headers in vec((prop::sample::select(HEADERS), like(RETRY_AFTER)), 0..4),
        longest in 1_u64..3600,
        random in any::<u64>(),
    ) {
        let pairs = headers.iter().map(|(name, value)| (*name, value.as_slice()));
        let wait = retry_after::read(pairs, now());
        prop_assert!(wait.is_none_or(|wait| !wait.is_zero()));
        let longest = Duration::from_secs(longest);
        let policy = Failover {
            cooldown: Duration::from_secs(1),
            longest_cooldown: longest,
            failures_in_a_row: 3,
            retry_within: Duration::from_secs(10),
        };
        let evidence = Evidence { subscription: 1, is_confirmed: true, began: now() };
        let outcome = Outcome::Throttled(wait);
        let cooldowns = Cooldowns::default().record(("b", "m"), outcome, evidence, now(), &policy, random);
        let cooldowns = cooldowns.expect("a 429 is remembered");
        match cooldowns.availability("b", "m", true, now()) {
            Availability::Cooldown(until) => prop_assert!(until <= now() + longest + longest / 10),
            other => prop_assert_eq!(other, Availability::Probe, "less than the clock shows"),
        }
    }
}
