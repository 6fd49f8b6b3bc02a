//! `--identity-endpoint`: identity endpoints at another address than their own.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::network::Place;

/// The address of all identity endpoints, by `--identity-endpoint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IdentityEndpoint(pub(super) Place);

impl FromStr for IdentityEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let text = text.strip_suffix('/').unwrap_or(text);
        let (address, tls) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(address), _) => (address, false),
            (_, Some(address)) => (address, true),
            _ => return Err(EndpointError::Form),
        };
        let address: SocketAddr = address.parse().map_err(|_| EndpointError::Form)?;
        let is_link_local = matches!(address.ip(), IpAddr::V4(four) if four.is_link_local());
        if !tls && !address.ip().is_loopback() && !is_link_local {
            return Err(EndpointError::TokenInClearText { address });
        }
        Ok(Self(Place { address, tls }))
    }
}

/// Why an `--identity-endpoint` cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EndpointError {
    #[error("expected http://IP:PORT or https://IP:PORT, such as http://127.0.0.1:8000")]
    Form,
    #[error(
        "{address} is neither on this machine nor link-local, and without TLS the token would come \
         from there in clear text: expected an address such as 127.0.0.1:8000, or https://{address}"
    )]
    TokenInClearText { address: SocketAddr },
    #[error("--identity-endpoint: the endpoint of identity {name} does not use TLS; use http://")]
    NoTls { name: String },
    #[error(
        "--identity-endpoint: identity {name} sends a client assertion or client secret, which would go \
         to {address} in clear text: expected an address of this machine, or https://{address}"
    )]
    SecretInClearText { name: String, address: SocketAddr },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_tokens_come_only_from_near_addresses() {
        let at = |address: &str, tls| {
            Ok(IdentityEndpoint(Place { address: address.parse().unwrap(), tls }))
        };
        for (text, expected) in [
            ("http://127.0.0.1:8000", at("127.0.0.1:8000", false)),
            ("http://[::1]:8000/", at("[::1]:8000", false)),
            ("http://169.254.169.254:80", at("169.254.169.254:80", false)),
            ("https://10.0.0.1:443", at("10.0.0.1:443", true)),
            (
                "http://10.0.0.1:80",
                Err(EndpointError::TokenInClearText { address: "10.0.0.1:80".parse().unwrap() }),
            ),
            ("http://127.0.0.1", Err(EndpointError::Form)),
            ("http://localhost:80", Err(EndpointError::Form)),
            ("http://127.0.0.1:80/metadata", Err(EndpointError::Form)),
            ("127.0.0.1:80", Err(EndpointError::Form)),
            ("", Err(EndpointError::Form)),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }
}
