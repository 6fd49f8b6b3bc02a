//! Whom and what a diagnosis is about, for the log and for `aoai doctor`.

use std::fmt;

use super::{Diagnosis, Said};
use crate::identity::claims::Claims;

/// An answer of a backend that was recognised, with what is known of its circumstances. Its `Display` is
/// one line that says what is wrong, about whom, and what to do; it holds no secret, whatever the backend
/// has said.
#[derive(Debug)]
pub struct Concern<'a> {
    /// What the answer tells of.
    pub diagnosis: &'static Diagnosis,
    /// The answer's status.
    pub status: u16,
    /// What the answer says.
    pub said: &'a Said,
    /// The backend's name.
    pub backend: &'a str,
    /// The resource's host, as requests name it.
    pub resource: &'a str,
    /// The audience that the token was asked for.
    pub audience: &'a str,
    /// What the token says of itself, where it can be read.
    pub claims: Option<&'a Claims>,
}

impl fmt::Display for Concern<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { diagnosis, status, backend, resource, .. } = self;
        write!(f, "backend {backend} answers {status}, {}: {}. ", diagnosis.slug, diagnosis.wrong)?;
        f.write_str(diagnosis.mend)?;
        write!(f, " Concerned: resource {resource}")?;
        for (what, who) in self.facts() {
            if let Some(who) = who {
                write!(f, ", {what} {who}")?;
            }
        }
        Ok(())
    }
}

impl<'a> Concern<'a> {
    /// What the line says after the resource, in this order.
    fn facts(&self) -> [(&'static str, Option<&'a str>); 6] {
        let claims = self.claims;
        let principal = claims.and_then(|claims| claims.principal.as_deref());
        [
            ("data action", self.said.after("data action `")),
            ("principal", self.said.after("principal `").or(principal)),
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
