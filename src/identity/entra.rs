//! Entra ID's token endpoint, for applications with a client assertion (a federated token, as in AKS
//! workload identity) or a client secret.
//!
//! Source: Microsoft Learn, "OAuth 2.0 client credentials flow on the Microsoft identity platform", and
//! RFC 7521, 4.2, for the client assertion.

use std::time::SystemTime;

use percent_encoding::{utf8_percent_encode, NON_ALPHANUMERIC};

use super::exchange::{success, CalloutResponse, Request};
use super::failure::Failure;
use super::token::Token;
use crate::base::claims::{is_jwt, Claims};
use crate::base::secret::Secret;
use crate::config::{Application, ClientCredential};

/// How many bytes a client credential may have: an assertion is a token itself, and a secret is far
/// shorter.
pub const LONGEST_CLIENT_CREDENTIAL: usize = 16 * 1024;

/// The request for the client credential, to an internal listener of Envoy that serves nothing else.
pub fn client_credential_request(cluster: &str) -> Request {
    Request {
        cluster: cluster.to_owned(),
        headers: vec![
            (":method", "GET".to_owned()),
            (":path", "/".to_owned()),
            (":authority", "localhost".to_owned()),
        ],
        body: None,
    }
}

/// Reads the response to it. Every failure is transient: the file is replaced from outside the proxy.
pub fn read_client_credential(
    kind: ClientCredential,
    response: &CalloutResponse,
    now: SystemTime,
) -> Result<Secret, Failure> {
    let name = match kind {
        ClientCredential::Assertion => "the projected service account token",
        ClientCredential::Secret => "the client secret",
    };
    let useless = |what: &str| Failure::unusable(format!("{name} {what}"));
    let body = match response {
        CalloutResponse::Response { status: 200, body, .. } => body,
        CalloutResponse::Response { status, .. } => {
            return Err(useless(&format!("is not served: its listener responds with {status}")));
        }
        CalloutResponse::NoResponse(why) => return Err(useless(&format!("is not served: {why}"))),
    };
    // Editors end files with a line break.
    let text = std::str::from_utf8(body.trim_ascii()).unwrap_or_default();
    if text.is_empty() {
        return Err(useless("is empty, or no text"));
    }
    if text.len() > LONGEST_CLIENT_CREDENTIAL || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(useless("has more than one word, or is far too long"));
    }
    if kind == ClientCredential::Assertion {
        if !is_jwt(text) {
            return Err(useless("is not a JSON Web Token"));
        }
        let expires_at = Claims::of(text).and_then(|claims| claims.expires_at);
        if expires_at.is_some_and(|at| at <= now) {
            return Err(useless("has expired, and its file has not been replaced"));
        }
    }
    Ok(Secret::new(text.to_owned()))
}

/// The request for a token for an audience.
pub fn request(application: &Application, audience: &str, credential: &Secret) -> Request {
    let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let (kind, name) = match application.credential {
        ClientCredential::Assertion => (
            "&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer",
            "client_assertion",
        ),
        ClientCredential::Secret => ("", "client_secret"),
    };
    let body = format!(
        "client_id={}&scope={}%2F.default&grant_type=client_credentials{kind}&{name}={}",
        application.client_id,
        encoded(audience),
        encoded(credential.expose()),
    );
    Request {
        cluster: application.cluster.clone(),
        headers: vec![
            (":method", "POST".to_owned()),
            (":path", format!("/{}/oauth2/v2.0/token", application.tenant)),
            (":authority", application.authority.clone()),
            ("content-type", "application/x-www-form-urlencoded".to_owned()),
            ("accept", "application/json".to_owned()),
        ],
        body: Some(Secret::new(body)),
    }
}

/// Reads the response.
pub fn read(response: &CalloutResponse, now: SystemTime, random: u64) -> Result<Token, Failure> {
    let body = success(response, |status, error| {
        // An expired assertion (AADSTS700024) is replaced by kubelet.
        matches!(status, 408 | 429)
            || error.code == "temporarily_unavailable"
            || error.message.starts_with("AADSTS700024:")
    })?;
    Token::read(body, now, random).map_err(Failure::from)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn application(credential: ClientCredential) -> Application {
        Application {
            cluster: "entra".to_owned(),
            authority: "login.microsoftonline.com".to_owned(),
            tenant: "contoso.onmicrosoft.com".to_owned(),
            client_id: "3f0c".to_owned(),
            credential,
            credential_cluster: "credential".to_owned(),
            credential_file: None,
        }
    }

    fn response(status: u16, body: &str) -> CalloutResponse {
        CalloutResponse::Response { status, retry_after: None, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn a_client_credential_is_sent_in_the_parameters_of_its_kind() {
        let rows = [
            (
                ClientCredential::Assertion,
                "e30.e30.s-_",
                "&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
                 &client_assertion=e30%2Ee30%2Es%2D%5F",
            ),
            (ClientCredential::Secret, "a+b&c=~d", "&client_secret=a%2Bb%26c%3D%7Ed"),
        ];
        for (kind, text, end) in rows {
            let request = request(&application(kind), "https://a.b", &Secret::new(text.to_owned()));
            assert_eq!(request.cluster, "entra");
            assert_eq!(
                request.headers,
                [
                    (":method", "POST".to_owned()),
                    (":path", "/contoso.onmicrosoft.com/oauth2/v2.0/token".to_owned()),
                    (":authority", "login.microsoftonline.com".to_owned()),
                    ("content-type", "application/x-www-form-urlencoded".to_owned()),
                    ("accept", "application/json".to_owned()),
                ]
            );
            let body = format!(
                "client_id=3f0c&scope=https%3A%2F%2Fa%2Eb%2F.default&grant_type=client_credentials{end}"
            );
            assert_eq!(request.body.as_ref().map(Secret::expose), Some(body.as_str()));
            assert!(!format!("{request:?}").contains(text));
        }
    }

    #[test]
    fn a_client_credential_that_cannot_be_valid_is_not_sent() {
        // {"exp":9}
        const EXPIRES_AT_9: &str = "e30.eyJleHAiOjl9.c2ln";
        let later = NOW + Duration::from_secs(9);
        let of = |what: &str| Err(format!("the projected service account token {what}"));
        let secret = |what: &str| Err(format!("the client secret {what}"));
        let long = "x".repeat(LONGEST_CLIENT_CREDENTIAL + 1);
        let rows = [
            (ClientCredential::Assertion, response(200, EXPIRES_AT_9), NOW, Ok(EXPIRES_AT_9)),
            (ClientCredential::Assertion, response(200, "e30.e30.s\n"), NOW, Ok("e30.e30.s")),
            (ClientCredential::Secret, response(200, "s3~cret\r\n"), NOW, Ok("s3~cret")),
            (
                ClientCredential::Assertion,
                response(200, EXPIRES_AT_9),
                later,
                of("has expired, and its file has not been replaced"),
            ),
            (
                ClientCredential::Assertion,
                response(200, "word"),
                NOW,
                of("is not a JSON Web Token"),
            ),
            (ClientCredential::Assertion, response(200, ""), NOW, of("is empty, or no text")),
            (
                ClientCredential::Assertion,
                response(404, EXPIRES_AT_9),
                NOW,
                of("is not served: its listener responds with 404"),
            ),
            (
                ClientCredential::Assertion,
                CalloutResponse::NoResponse("why"),
                NOW,
                of("is not served: why"),
            ),
            (ClientCredential::Secret, response(200, " \n"), NOW, secret("is empty, or no text")),
            (
                ClientCredential::Secret,
                response(200, "two words"),
                NOW,
                secret("has more than one word, or is far too long"),
            ),
            (
                ClientCredential::Secret,
                response(200, &long),
                NOW,
                secret("has more than one word, or is far too long"),
            ),
        ];
        for (kind, response, now, expected) in rows {
            let found = read_client_credential(kind, &response, now);
            let found = found.as_ref().map(Secret::expose).map_err(|failure| {
                assert!(!failure.is_permanent());
                failure.detail().to_owned()
            });
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn errors_are_classified() {
        let entra = |error: &str, text: &str| {
            format!(r#"{{"error":"{error}","error_description":"{text}","error_codes":[1]}}"#)
        };
        let rows = [
            (401, entra("invalid_client", "AADSTS7000215: Invalid"), true),
            (400, entra("invalid_client", "AADSTS700213: No matching"), true),
            (401, entra("invalid_client", "AADSTS700024: Client assertion"), false),
            (400, entra("temporarily_unavailable", "AADSTS90033: A transient"), false),
            (429, "Too many requests".to_owned(), false),
            (503, String::new(), false),
            (404, String::new(), true),
        ];
        for (status, body, permanent) in rows {
            let failure = read(&response(status, &body), NOW, 0).unwrap_err();
            assert_eq!(failure.is_permanent(), permanent, "{status} {body}");
            assert_eq!(failure.status(), Some(status));
        }
    }
}
