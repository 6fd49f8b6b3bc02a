//! The managed identity of an App Service, a function app or a container app.
//!
//! Source: Microsoft Learn, "How to use managed identities for App Service and Azure Functions",
//! section "REST endpoint reference". The header `X-IDENTITY-HEADER` that the endpoint requires is a secret
//! of the platform's: Envoy takes it from the environment and adds it, and this module never sees it.

use std::time::SystemTime;

use super::exchange::{managed_path, success, CalloutResponse, Request};
use super::failure::Failure;
use super::token::Token;
use crate::config::IdentitySelector;

const API_VERSION: &str = "2019-08-01";

/// The request for a token for an audience.
pub fn request(
    cluster: &str,
    authority: &str,
    path: &str,
    selector: &IdentitySelector,
    audience: &str,
) -> Request {
    let names = ["client_id", "principal_id", "mi_res_id"];
    let path = managed_path(path, API_VERSION, audience, selector, names);
    Request {
        cluster: cluster.to_owned(),
        headers: vec![
            (":method", "GET".to_owned()),
            (":path", path),
            (":authority", authority.to_owned()),
        ],
        body: None,
    }
}

/// Reads the response.
pub fn read(response: &CalloutResponse, now: SystemTime, random: u64) -> Result<Token, Failure> {
    // What official clients try again (azure-core's retry policy), and 404 while an app starts.
    let body = success(response, |status, _| matches!(status, 404 | 408 | 429))?;
    Token::read(body, now, random).map_err(Failure::from)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn each_identity_has_its_parameter() {
        let rows = [
            (IdentitySelector::SystemAssigned, ""),
            (IdentitySelector::ClientId("3f0c".to_owned()), "&client_id=3f0c"),
            (IdentitySelector::ObjectId("3f0c".to_owned()), "&principal_id=3f0c"),
            (IdentitySelector::ResourceId("/x y".to_owned()), "&mi_res_id=%2Fx%20y"),
        ];
        for (selector, parameter) in rows {
            let path = format!(
                "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fa%2Eb{parameter}"
            );
            let expected = Request {
                cluster: "identity".to_owned(),
                headers: vec![
                    (":method", "GET".to_owned()),
                    (":path", path),
                    (":authority", "localhost:42356".to_owned()),
                ],
                body: None,
            };
            let found =
                request("identity", "localhost:42356", "/msi/token", &selector, "https://a.b");
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn errors_are_classified() {
        let not_found = r#"{"statusCode":400,"message":"No User Assigned or Delegated Managed Identity found"}"#;
        let rows = [
            (400, not_found, true, "400: No User Assigned or Delegated Managed Identity found"),
            (401, "", true, "no explanation"),
            (403, "{}", true, "no explanation"),
            (404, "", false, "no explanation"),
            (429, "slow down", false, "no explanation"),
            (500, r#"{"statusCode":500,"message":"a\nb"}"#, false, "500: a b"),
        ];
        for (status, body, permanent, detail) in rows {
            let response = CalloutResponse::Response {
                status,
                retry_after: None,
                body: body.as_bytes().to_vec(),
            };
            let failure = read(&response, UNIX_EPOCH, 0).unwrap_err();
            assert_eq!((failure.is_permanent(), failure.detail()), (permanent, detail), "{status}");
        }
    }
}
