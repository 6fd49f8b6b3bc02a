//! Managed identity through the Instance Metadata Service, and what speaks its protocol.
//!
//! Source: Microsoft Learn, "How to use managed identities for Azure resources on an Azure VM to
//! acquire an access token", sections "Get a token using HTTP" and "Error handling".

use std::time::SystemTime;

use super::exchange::{managed_path, success, CalloutResponse, Request};
use super::failure::Failure;
use super::token::Token;
use crate::config::IdentitySelector;

const API_VERSION: &str = "2018-02-01";

/// The link-local address of IMDS, whatever the cluster really reaches.
const HOST: &str = "169.254.169.254";

/// The request for a token for an audience.
pub fn request(cluster: &str, selector: &IdentitySelector, audience: &str) -> Request {
    let path = "/metadata/identity/oauth2/token";
    let names = ["client_id", "object_id", "msi_res_id"];
    let path = managed_path(path, API_VERSION, audience, selector, names);
    Request {
        cluster: cluster.to_owned(),
        headers: vec![
            (":method", "GET".to_owned()),
            (":path", path),
            (":authority", HOST.to_owned()),
            ("metadata", "true".to_owned()),
        ],
        body: None,
    }
}

/// Reads the response.
pub fn read(response: &CalloutResponse, now: SystemTime, random: u64) -> Result<Token, Failure> {
    // "Error handling": 404, 410, 429 and 5xx pass; other 4xx are mistakes in the request or in the
    // configuration of the machine. 408 is a timeout under another name.
    let body = success(response, |status, _| matches!(status, 404 | 408 | 410 | 429))?;
    Token::read(body, now, random).map_err(Failure::from)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const AUDIENCE: &str = "https://cognitiveservices.azure.com";
    const NOW: SystemTime = UNIX_EPOCH;

    fn response(status: u16, body: &str) -> CalloutResponse {
        CalloutResponse::Response { status, retry_after: None, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn each_identity_has_its_parameter() {
        let rows = [
            (IdentitySelector::SystemAssigned, ""),
            (IdentitySelector::ClientId("3f0c-1".to_owned()), "&client_id=3f0c%2D1"),
            (IdentitySelector::ObjectId("3f0c".to_owned()), "&object_id=3f0c"),
            (
                IdentitySelector::ResourceId("/subscriptions/s/x y".to_owned()),
                "&msi_res_id=%2Fsubscriptions%2Fs%2Fx%20y",
            ),
        ];
        for (selector, parameter) in rows {
            let path = format!(
                "/metadata/identity/oauth2/token?api-version=2018-02-01\
                 &resource=https%3A%2F%2Fcognitiveservices%2Eazure%2Ecom{parameter}"
            );
            let expected = Request {
                cluster: "azure_identity".to_owned(),
                headers: vec![
                    (":method", "GET".to_owned()),
                    (":path", path),
                    (":authority", "169.254.169.254".to_owned()),
                    ("metadata", "true".to_owned()),
                ],
                body: None,
            };
            assert_eq!(request("azure_identity", &selector, AUDIENCE), expected);
        }
    }

    #[test]
    fn errors_are_classified_as_in_the_documentation() {
        let identity_not_found =
            r#"{"error":"invalid_request","error_description":"Identity not found"}"#;
        let rows = [
            (400, identity_not_found, true, "invalid_request: Identity not found"),
            (400, r#"{"error":"invalid_resource"}"#, true, "invalid_resource"),
            (401, "", true, "no explanation"),
            (403, "<html>", true, "no explanation"),
            (405, "{}", true, "no explanation"),
            (404, "", false, "no explanation"),
            (408, "", false, "no explanation"),
            (410, "", false, "no explanation"),
            (429, "", false, "no explanation"),
            (500, r#"{"error":"unknown","error_description":"a\nb"}"#, false, "unknown: a b"),
            (502, "", false, "no explanation"),
            (503, "upstream connect error", false, "no explanation"),
            (302, "", false, "no explanation"),
            (200, "", false, "the response is not a JSON object"),
        ];
        for (status, body, permanent, detail) in rows {
            let failure = read(&response(status, body), NOW, 0).unwrap_err();
            assert_eq!(failure.is_permanent(), permanent, "{status}");
            let (Failure::Permanent { detail: found, .. }
            | Failure::Transient { detail: found, .. }) = failure;
            assert_eq!(found, detail, "{status}");
        }
    }

    #[test]
    fn retry_after_is_read() {
        let rows = [("30", Some(30)), (" 5 ", Some(5)), ("soon", None), ("-1", None)];
        for (text, seconds) in rows {
            let response = CalloutResponse::Response {
                status: 429,
                retry_after: Some(text.to_owned()),
                body: Vec::new(),
            };
            let Err(Failure::Transient { retry_after, .. }) = read(&response, NOW, 0) else {
                panic!("a 429 passes");
            };
            assert_eq!(retry_after, seconds.map(Duration::from_secs), "{text}");
        }
    }
}
