//! A diagnosis with its circumstances, for the log and for `aoai doctor`.

use std::fmt;

use super::rule::Diagnosis;
use crate::base::claims::Claims;
use crate::base::error_body::ErrorBody;

/// A backend's response that was recognised, with what is known of its circumstances. Its `Display` is one
/// line with the cause, the resource and the principal concerned, and the remedy; it holds no secret,
/// whatever the backend sent.
#[derive(Debug)]
pub struct Finding<'a> {
    /// The diagnosis.
    pub diagnosis: &'static Diagnosis,
    /// The response's status.
    pub status: u16,
    /// The error in its body.
    pub error: &'a ErrorBody,
    /// The backend's name.
    pub backend: &'a str,
    /// The resource's host, as requests name it.
    pub resource: &'a str,
    /// The audience of the token request.
    pub audience: &'a str,
    /// The token's claims, where they can be read.
    pub claims: Option<&'a Claims>,
}

impl fmt::Display for Finding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { diagnosis, status, backend, resource, .. } = self;
        write!(
            f,
            "backend {backend} responded {status}, {}: {}. ",
            diagnosis.slug, diagnosis.cause
        )?;
        f.write_str(diagnosis.remedy)?;
        write!(f, " About: resource {resource}")?;
        for (name, value) in self.facts() {
            if let Some(value) = value {
                write!(f, ", {name} {value}")?;
            }
        }
        Ok(())
    }
}

impl<'a> Finding<'a> {
    /// What follows the resource in the line, in this order.
    fn facts(&self) -> [(&'static str, Option<&'a str>); 6] {
        let claims = self.claims;
        let principal = claims.and_then(|claims| claims.principal.as_deref());
        [
            ("data action", self.error.after("data action `")),
            ("principal", self.error.after("principal `").or(principal)),
            ("application", claims.and_then(|claims| claims.application.as_deref())),
            ("identity", claims.and_then(|claims| claims.resource_id.as_deref())),
            ("tenant", claims.and_then(|claims| claims.tenant.as_deref())),
            (
                "audience",
                Some(claims.and_then(|claims| claims.audience.as_deref()).unwrap_or(self.audience)),
            ),
        ]
    }
}
