//! Entra ID's token endpoint, for applications that prove themselves by a federated token (AKS workload
//! identity) or by a client secret.
//!
//! Source: Microsoft Learn, "OAuth 2.0 client credentials flow on the Microsoft identity platform", and
//! RFC 7521, 4.2, for the assertion.

use std::time::SystemTime;

use percent_encoding::{utf8_percent_encode, NON_ALPHANUMERIC};

use super::claims::{is_jwt, Claims};
use super::secret::Secret;
use super::token::Token;
use super::{success, Failure, Reply, Request};
use crate::config::{Application, Proof};

/// How many bytes a proof may have: an assertion is a token itself, and a secret is far shorter.
pub const LONGEST_PROOF: usize = 16 * 1024;

/// The request for the proof, to a listener of Envoy's own that serves nothing else.
pub fn proof_request(cluster: &str) -> Request {
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

/// Reads what came back for it. Every failure passes: the file changes without the proxy's doing.
pub fn read_proof(proof: Proof, reply: &Reply, now: SystemTime) -> Result<Secret, Failure> {
    let name = match proof {
        Proof::FederatedToken => "the projected service account token",
        Proof::ClientSecret => "the client secret",
    };
    let useless = |what: &str| Failure::useless(format!("{name} {what}"));
    let body = match reply {
        Reply::Answer { status: 200, body, .. } => body,
        Reply::Answer { status, .. } => {
            return Err(useless(&format!("is not served: its listener answers {status}")));
        }
        Reply::Nothing(why) => return Err(useless(&format!("is not served: {why}"))),
    };
    // Editors end files with a line break.
    let text = std::str::from_utf8(body.trim_ascii()).unwrap_or_default();
    if text.is_empty() {
        return Err(useless("is empty, or no text"));
    }
    if text.len() > LONGEST_PROOF || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(useless("has more than one word, or is far too long"));
    }
    if proof == Proof::FederatedToken {
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
pub fn request(application: &Application, audience: &str, proof: &Secret) -> Request {
    let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let (kind, name) = match application.proof {
        Proof::FederatedToken => (
            "&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer",
            "client_assertion",
        ),
        Proof::ClientSecret => ("", "client_secret"),
    };
    let body = format!(
        "client_id={}&scope={}%2F.default&grant_type=client_credentials{kind}&{name}={}",
        application.client_id,
        encoded(audience),
        encoded(proof.expose()),
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

/// Reads what came back.
pub fn read(reply: &Reply, now: SystemTime, dice: u64) -> Result<Token, Failure> {
    let body = success(reply, |status, said| {
        // An expired assertion (AADSTS700024) is replaced by kubelet.
        matches!(status, 408 | 429)
            || said.code == "temporarily_unavailable"
            || said.message.starts_with("AADSTS700024:")
    })?;
    Token::read(body, now, dice).map_err(Failure::from)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn application(proof: Proof) -> Application {
        Application {
            cluster: "entra".to_owned(),
            authority: "login.microsoftonline.com".to_owned(),
            tenant: "contoso.onmicrosoft.com".to_owned(),
            client_id: "3f0c".to_owned(),
            proof,
            proof_cluster: "proof".to_owned(),
            proof_file: None,
        }
    }

    fn reply(status: u16, body: &str) -> Reply {
        Reply::Answer { status, retry_after: None, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn each_proof_is_sent_as_its_flow_wants_it() {
        let rows = [
            (
                Proof::FederatedToken,
                "e30.e30.s-_",
                "&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
                 &client_assertion=e30%2Ee30%2Es%2D%5F",
            ),
            (Proof::ClientSecret, "a+b&c=~d", "&client_secret=a%2Bb%26c%3D%7Ed"),
        ];
        for (proof, text, end) in rows {
            let request =
                request(&application(proof), "https://a.b", &Secret::new(text.to_owned()));
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
    fn a_proof_that_cannot_work_is_not_sent() {
        // {"exp":9}
        const EXPIRES_AT_9: &str = "e30.eyJleHAiOjl9.c2ln";
        let later = NOW + Duration::from_secs(9);
        let of = |what: &str| Err(format!("the projected service account token {what}"));
        let secret = |what: &str| Err(format!("the client secret {what}"));
        let long = "x".repeat(LONGEST_PROOF + 1);
        let rows = [
            (Proof::FederatedToken, reply(200, EXPIRES_AT_9), NOW, Ok(EXPIRES_AT_9)),
            (Proof::FederatedToken, reply(200, "e30.e30.s\n"), NOW, Ok("e30.e30.s")),
            (Proof::ClientSecret, reply(200, "s3~cret\r\n"), NOW, Ok("s3~cret")),
            (
                Proof::FederatedToken,
                reply(200, EXPIRES_AT_9),
                later,
                of("has expired, and its file has not been replaced"),
            ),
            (Proof::FederatedToken, reply(200, "word"), NOW, of("is not a JSON Web Token")),
            (Proof::FederatedToken, reply(200, ""), NOW, of("is empty, or no text")),
            (
                Proof::FederatedToken,
                reply(404, EXPIRES_AT_9),
                NOW,
                of("is not served: its listener answers 404"),
            ),
            (Proof::FederatedToken, Reply::Nothing("why"), NOW, of("is not served: why")),
            (Proof::ClientSecret, reply(200, " \n"), NOW, secret("is empty, or no text")),
            (
                Proof::ClientSecret,
                reply(200, "two words"),
                NOW,
                secret("has more than one word, or is far too long"),
            ),
            (
                Proof::ClientSecret,
                reply(200, &long),
                NOW,
                secret("has more than one word, or is far too long"),
            ),
        ];
        for (proof, reply, now, expected) in rows {
            let found = read_proof(proof, &reply, now);
            let found = found.as_ref().map(Secret::expose).map_err(|failure| {
                assert!(!failure.is_permanent());
                failure.detail().to_owned()
            });
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn errors_are_told_apart() {
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
            let failure = read(&reply(status, &body), NOW, 0).unwrap_err();
            assert_eq!(failure.is_permanent(), permanent, "{status} {body}");
            assert_eq!(failure.status(), Some(status));
        }
    }
}
