//! `--resolve`: another address for a backend or a cluster of the document.

use std::net::SocketAddr;
use std::str::FromStr;

use super::destinations::Destinations;
use super::sign_in::To;

/// A backend, or a cluster of an identity, and its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolve {
    name: String,
    pub(crate) address: SocketAddr,
    /// Whether the connection uses TLS. The certificate must be valid for the host name in the document.
    pub(crate) tls: bool,
}

impl FromStr for Resolve {
    type Err = ResolveError;

    fn from_str(text: &str) -> Result<Self, ResolveError> {
        // Names of clusters may contain an equals sign; addresses do not.
        let (name, place) = text.rsplit_once('=').ok_or(ResolveError::Form)?;
        let (address, tls) = match place.strip_prefix("https://") {
            Some(address) => (address, true),
            None => (place, false),
        };
        let address: SocketAddr = address.parse().map_err(|_| ResolveError::Form)?;
        if !tls && !address.ip().is_loopback() {
            return Err(ResolveError::NotLoopback { address });
        }
        Ok(Self { name: name.to_owned(), address, tls })
    }
}

/// The address of a backend or a cluster, where `--resolve` sets one.
pub(crate) fn resolved<'r>(all: &'r [Resolve], name: &str) -> Option<&'r Resolve> {
    all.iter().find(|one| one.name == name)
}

/// Checks that each `--resolve` names exactly one backend or cluster, and none twice.
pub(crate) fn check(all: &[Resolve], destinations: &Destinations<'_>) -> Result<(), ResolveError> {
    for (index, one) in all.iter().enumerate() {
        let name = one.name.clone();
        let is_backend = destinations.backends.iter().any(|known| known.name == name);
        let sign_in =
            destinations.sign_ins.iter().find(|known| known.cluster == name).map(|known| known.to);
        let is_limits = destinations.stores.iter().any(|store| store.cluster == name);
        match sign_in {
            None if is_limits && !is_backend => {}
            None if !is_backend => return Err(ResolveError::Unknown { name }),
            Some(_) if is_backend => return Err(ResolveError::Ambiguous { name }),
            Some(To::File(_)) => return Err(ResolveError::File { name }),
            Some(To::Metadata | To::AppService(_)) if one.tls => {
                return Err(ResolveError::NoTls { name });
            }
            _ => {}
        }
        if all.iter().take(index).any(|other| other.name == name) {
            return Err(ResolveError::Twice { name });
        }
    }
    Ok(())
}

/// Why a `--resolve` cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("expected NAME=IP:PORT, such as eastus=127.0.0.1:18001, or NAME=https://IP:PORT")]
    Form,
    #[error(
        "{address} is not on this machine, and without TLS the proxy's token would be sent there in \
         clear text: expected an address such as 127.0.0.1:18001, or https://{address}"
    )]
    NotLoopback { address: SocketAddr },
    #[error("--resolve {name}: the document has neither a backend nor a cluster of an identity with this name")]
    Unknown { name: String },
    #[error(
        "--resolve {name}: both a backend and a cluster of an identity have this name; rename one"
    )]
    Ambiguous { name: String },
    #[error("--resolve {name}: given twice; keep one")]
    Twice { name: String },
    #[error(
        "--resolve {name}: Envoy itself serves this cluster, from a file that the document names"
    )]
    File { name: String },
    #[error("--resolve {name}: this endpoint does not use TLS; remove https://")]
    NoTls { name: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_only_addresses_of_this_machine_are_accepted() {
        let at = |name: &str, address: &str, tls| {
            Ok(Resolve { name: name.to_owned(), address: address.parse().unwrap(), tls })
        };
        let not =
            |address: &str| Err(ResolveError::NotLoopback { address: address.parse().unwrap() });
        for (text, expected) in [
            ("eastus=127.0.0.1:18001", at("eastus", "127.0.0.1:18001", false)),
            ("eastus=[::1]:18001", at("eastus", "[::1]:18001", false)),
            ("eastus=10.0.0.1:18001", not("10.0.0.1:18001")),
            ("eastus=0.0.0.0:18001", not("0.0.0.0:18001")),
            ("eastus=https://10.0.0.1:443", at("eastus", "10.0.0.1:443", true)),
            ("a=b=127.0.0.1:1", at("a=b", "127.0.0.1:1", false)),
            ("eastus=http://127.0.0.1:1", Err(ResolveError::Form)),
            ("eastus=https://10.0.0.1:443/", Err(ResolveError::Form)),
            ("eastus=127.0.0.1", Err(ResolveError::Form)),
            ("eastus=localhost:18001", Err(ResolveError::Form)),
            ("127.0.0.1:18001", Err(ResolveError::Form)),
            ("", Err(ResolveError::Form)),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }
}
