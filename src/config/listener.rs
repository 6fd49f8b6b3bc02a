//! Reads where callers reach the gateway: for the bootstrap that the tool renders.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use super::problem::quoted;
use super::reader::Reader;
use super::types::{Listener, TlsFiles};
use super::value::path;
use crate::base::json::Node;

const PORT: RangeInclusive<u32> = 1..=65535;

const DEFAULT_PORT: u16 = 10_000;

const KIB: u32 = 1 << 10;

const MIB: u32 = 1 << 20;

const DEFAULT_BODY_LIMIT: u32 = 10 * MIB;

/// Below, ordinary prompts are refused; above, a few requests fill the memory.
const BODY_LIMIT: RangeInclusive<u32> = 64 * KIB..=1024 * MIB;

impl Default for Listener {
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: DEFAULT_PORT,
            tls: None,
            body_limit: DEFAULT_BODY_LIMIT,
        }
    }
}

/// Reads `listener`.
pub(super) fn listener(reader: &mut Reader, node: &Node) -> Option<Listener> {
    let object = reader.object(node, &["address", "port", "tls", "body_limit"])?;
    let default = Listener::default();
    let address = reader.optional(object, "address", address);
    let port = reader
        .optional(object, "port", |reader, node| u16::try_from(reader.integer(node, PORT)?).ok());
    let tls = reader.optional(object, "tls", tls);
    let body_limit = reader.optional(object, "body_limit", size);
    Some(Listener {
        address: address.unwrap_or(default.address),
        port: port.unwrap_or(default.port),
        tls,
        body_limit: body_limit.unwrap_or(default.body_limit),
    })
}

fn address(reader: &mut Reader, node: &Node) -> Option<IpAddr> {
    let text = reader.string(node)?;
    let address = text.parse().ok();
    if address.is_none() {
        let found = quoted(text);
        reader.problem(format!(
            "found {found}; expected an IP address: 127.0.0.1 for this machine alone, 0.0.0.0 or \
             \"::\" for all of its addresses"
        ));
    }
    address
}

fn tls(reader: &mut Reader, node: &Node) -> Option<TlsFiles> {
    let object = reader.object(node, &["certificate", "key"])?;
    let certificate =
        reader.required(object, "certificate", "the path of its chain, a PEM file", path);
    let key = reader.required(object, "key", "the path of its private key, a PEM file", path);
    Some(TlsFiles { certificate: certificate?, key: key? })
}

/// Reads a number of bytes, such as `10MiB`.
fn size(reader: &mut Reader, node: &Node) -> Option<u32> {
    const EXPECTED: &str = "expected a size from 64KiB to 1024MiB, such as 10MiB";
    if matches!(node, Node::Unsigned(_) | Node::Negative(_) | Node::Float(_)) {
        reader.problem(format!("found a number without a unit; {EXPECTED}"));
        return None;
    }
    let text = reader.string(node)?;
    let size = parse_size(text).filter(|size| BODY_LIMIT.contains(size));
    if size.is_none() {
        let found = quoted(text);
        reader.problem(format!("found {found}; {EXPECTED}"));
    }
    size
}

fn parse_size(text: &str) -> Option<u32> {
    let (number, unit) = match (text.strip_suffix("KiB"), text.strip_suffix("MiB")) {
        (Some(number), _) => (number, KIB),
        (_, Some(number)) => (number, MIB),
        _ => return None,
    };
    // Parsing alone would take a sign as well.
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse::<u32>().ok().filter(|_| digits)?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_one_number_and_a_unit() {
        for (text, expected) in [
            ("64KiB", Some(65_536)),
            ("10MiB", Some(10_485_760)),
            ("0MiB", Some(0)),
            ("4095MiB", Some(4_293_918_720)),
            ("4096MiB", None),
            ("99999999999MiB", None),
            ("10", None),
            ("MiB", None),
            ("", None),
            ("+1MiB", None),
            ("-1MiB", None),
            ("1.5MiB", None),
            ("1 MiB", None),
            ("1MB", None),
            ("1mib", None),
            ("1GiB", None),
        ] {
            assert_eq!(parse_size(text), expected, "{text}");
        }
    }
}
