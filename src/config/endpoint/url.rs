//! The form of an endpoint's URL.

use super::super::problem::shape;
use super::error::EndpointError;
use super::host::{is_domain, HTTPS_PORT};

/// A URL in parts that are not yet known to be right.
pub(super) struct Url<'a> {
    scheme: Option<&'a str>,
    /// An `@` anywhere: a password may hold what ends an authority.
    has_user: bool,
    /// The text in the place of the host, as it is written.
    pub(super) host: &'a str,
    port: Option<&'a str>,
    /// What follows the authority, with the character that it starts with.
    rest: &'a str,
}

impl<'a> Url<'a> {
    /// Takes a text apart; any text has parts.
    pub(super) fn split(text: &'a str) -> Self {
        let (scheme, text) = match text.split_once("://") {
            Some((scheme, text)) if !scheme.contains(['/', '?', '#', '@']) => (Some(scheme), text),
            _ => (None, text),
        };
        let end = text.find(['/', '?', '#']).unwrap_or(text.len());
        let (authority, rest) = text.split_at_checked(end).unwrap_or((text, ""));
        let has_user = text.contains('@');
        let authority = authority.rsplit_once('@').map_or(authority, |(_, authority)| authority);
        // The colons within an IPv6 address are no port's.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        Self { scheme, has_user, host, port, rest }
    }

    /// Refuses what an endpoint's URL has too much or too little of.
    pub(super) fn refuse_form(&self, host: &str) -> Result<(), EndpointError> {
        if self.has_user {
            return Err(EndpointError::UserInfo);
        }
        let host = host.to_owned();
        match self.scheme {
            Some(scheme) if scheme.eq_ignore_ascii_case("https") => {}
            Some(scheme) => {
                return Err(EndpointError::NotHttps { scheme: scheme.to_owned(), host });
            }
            None if is_domain(&host) => return Err(EndpointError::MissingScheme { host }),
            // It may be a key or a token that slipped into this field.
            None => return Err(EndpointError::NotUrl { found: shape(&host) }),
        }
        match self.rest.chars().next() {
            _ if self.rest.contains('?') => Err(EndpointError::Query { host }),
            _ if self.rest.contains('#') => Err(EndpointError::Fragment { host }),
            Some(_) if self.rest != "/" => {
                Err(EndpointError::Path { path: self.rest.to_owned(), host })
            }
            _ => Ok(()),
        }
    }

    /// The port, which is 443 where none is given.
    pub(super) fn port(&self, host: &str) -> Result<u16, EndpointError> {
        let Some(text) = self.port else {
            return Ok(HTTPS_PORT);
        };
        let number = text.parse().ok().filter(|number| *number != 0);
        // `parse` takes a sign, a port has none.
        number
            .filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(|| EndpointError::BadPort { host: host.to_owned(), port: text.to_owned() })
    }
}
