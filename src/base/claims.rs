//! The claims of a token, for messages to an operator. No decision depends on them: only the audience of
//! a token can verify it.
//!
//! Source of the names: Microsoft Learn, "Access token claims reference".

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::prelude::{Engine, BASE64_URL_SAFE_NO_PAD};

use super::json::Node;
use super::text::printable;

/// The claims of a JSON Web Token that identify its owner. The texts are short and printable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// `aud`: its audience.
    pub audience: Option<String>,
    /// `iss`: its issuer.
    pub issuer: Option<String>,
    /// `sub`: its subject; of a projected token, the service account.
    pub subject: Option<String>,
    /// `tid`: the tenant.
    pub tenant: Option<String>,
    /// `oid`: the object id of the principal, to which roles are assigned.
    pub principal: Option<String>,
    /// `appid`, or `azp` in newer tokens: the application, which is the client id.
    pub application: Option<String>,
    /// `xms_mirid`: the ARM resource id of a managed identity.
    pub resource_id: Option<String>,
    /// `exp`: when it expires.
    pub expires_at: Option<SystemTime>,
}

impl Claims {
    /// Reads the claims of a signed token (RFC 7519 and 7515, compact form). `None` where they cannot
    /// be read, as those of an encrypted one.
    pub fn of(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (_, claims, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next())
        else {
            return None;
        };
        let claims = BASE64_URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
        let claims = Node::from_json(&claims).ok()?;
        claims.as_object()?;
        let text = |name| claims.field(name).and_then(Node::as_str).map(printable);
        let audience = match claims.field("aud") {
            // A projected token may have several.
            Some(Node::Array(all)) => all.first().and_then(Node::as_str).map(printable),
            _ => text("aud"),
        };
        let seconds = claims.field("exp").and_then(Node::as_u64);
        Some(Self {
            audience,
            issuer: text("iss"),
            subject: text("sub"),
            tenant: text("tid"),
            principal: text("oid"),
            application: text("appid").or_else(|| text("azp")),
            resource_id: text("xms_mirid"),
            expires_at: seconds
                .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds))),
        })
    }
}

/// Whether a text has the form of a JSON Web Token: three parts if signed, five if encrypted, of the
/// characters of base64url (RFC 7515, 3.1; RFC 7516, 3.1).
pub fn is_jwt(text: &str) -> bool {
    let parts = text.split('.').count();
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=');
    matches!(parts, 3 | 5)
        && !text.starts_with('.')
        && text.bytes().all(|byte| byte == b'.' || is_inner(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims.as_bytes()))
    }

    #[test]
    fn the_claims_of_every_kind_of_token_are_read() {
        let some = |text: &str| Some(text.to_owned());
        let rows = [
            (
                r#"{"aud":"https://a","iss":"https://i","sub":"s","tid":"t","oid":"o","appid":"a","xms_mirid":"/x","exp":9}"#,
                Claims {
                    audience: some("https://a"),
                    issuer: some("https://i"),
                    subject: some("s"),
                    tenant: some("t"),
                    principal: some("o"),
                    application: some("a"),
                    resource_id: some("/x"),
                    expires_at: Some(UNIX_EPOCH + Duration::from_secs(9)),
                },
            ),
            (r#"{"azp":"b"}"#, Claims { application: some("b"), ..Claims::default() }),
            (r#"{"aud":["x","y"]}"#, Claims { audience: some("x"), ..Claims::default() }),
            (r#"{"aud":[],"oid":1,"exp":"9"}"#, Claims::default()),
            (r#"{"exp":18446744073709551615}"#, Claims::default()),
            (
                "{\"sub\":\"a\\nb\\u001b[0m\"}",
                Claims { subject: some("a b [0m"), ..Claims::default() },
            ),
        ];
        for (claims, expected) in rows {
            assert_eq!(Claims::of(&token(claims)), Some(expected), "{claims}");
        }
    }

    #[test]
    fn a_text_that_is_not_a_signed_token_has_no_claims() {
        let five = format!("{}.d.e", token("{}"));
        for text in ["", "e30", "e30.e30", "e30.!!.e30", "e30.e30!.x", "a.bm8.c", "a.W10.c", &five]
        {
            assert_eq!(Claims::of(text), None, "{text}");
        }
    }

    #[test]
    fn a_token_has_three_parts_or_five() {
        let rows = [
            ("e30.e30.c2ln", true),
            ("e30.e30.", true),
            ("a.b.c.d.e", true),
            ("a..c.d.e", true),
            ("a-_.b=.c", true),
            ("", false),
            ("a", false),
            ("a.b", false),
            ("a.b.c.d", false),
            (".b.c", false),
            ("a.b.c d", false),
            ("a.b.c\r\nx: y", false),
            ("a.b.ç", false),
        ];
        for (text, expected) in rows {
            assert_eq!(is_jwt(text), expected, "{text}");
        }
    }
}
