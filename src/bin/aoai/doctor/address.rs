//! `--gateway` and `--metrics`: where the gateway itself is.

use std::str::FromStr;

use ureq::http::Uri;

/// An address of the gateway, by an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Whether it has TLS.
    pub(super) tls: bool,
    /// As a header of requests has it.
    pub(super) authority: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: String,
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected http://HOST:PORT or https://HOST";
        let uri: Uri = text.parse().map_err(|_| EXPECTED)?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(EXPECTED),
        };
        let authority =
            uri.authority().filter(|one| !one.as_str().contains('@')).ok_or(EXPECTED)?;
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let path = uri.path().to_owned();
        Ok(Self { tls, authority: authority.to_string(), host, port, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_url() {
        for (text, tls, authority, host, port, path) in [
            ("https://ai.example.com", true, "ai.example.com", "ai.example.com", 443, "/"),
            (
                "http://127.0.0.1:9090/metrics",
                false,
                "127.0.0.1:9090",
                "127.0.0.1",
                9090,
                "/metrics",
            ),
            ("http://[::1]/", false, "[::1]", "::1", 80, "/"),
        ] {
            let (authority, host, path) = (authority.to_owned(), host.to_owned(), path.to_owned());
            let expected = Address { tls, authority, host, port, path };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "ai.example.com", "ftp://a", "http://", "https://user@a", "/metrics"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
