//! Reads where callers reach the gateway: for the bootstrap that the tool renders.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use super::problem::quoted;
use super::reader::Reader;
use super::size::{size, written, KIB, MIB};
use super::types::{AccessLog, Listener, Monitoring, TlsFiles};
use super::value::path;
use crate::base::json::Node;

const PORT: RangeInclusive<u32> = 1..=65535;

const DEFAULT_PORT: u16 = 10_000;

/// Prometheus' own, by custom.
const DEFAULT_MONITORING_PORT: u16 = 9090;

const DEFAULT_BODY_LIMIT: u32 = 10 << 20;

/// Below, ordinary prompts are refused; above, a few requests fill the memory.
const BODY_LIMIT: RangeInclusive<u64> = 64 * KIB..=1024 * MIB;

/// Below, one body of the smallest limit finds no room.
const REQUEST_BUFFER: RangeInclusive<u64> = 128 * KIB..=1024 * 1024 * MIB;

const DEFAULT_REQUEST_BUFFER: u64 = 128 * MIB;

const MAX_CONNECTIONS: RangeInclusive<u32> = 1..=1_000_000;

const DEFAULT_MAX_CONNECTIONS: u32 = 10_000;

/// Below, Envoy itself has no room for a large configuration.
const HEAP_LIMIT: RangeInclusive<u64> = 128 * MIB..=1024 * 1024 * MIB;

const DEFAULT_HEAP_LIMIT: u64 = 1024 * MIB;

impl Default for Listener {
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: DEFAULT_PORT,
            tls: None,
            body_limit: DEFAULT_BODY_LIMIT,
            request_buffer: DEFAULT_REQUEST_BUFFER,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            heap_limit: DEFAULT_HEAP_LIMIT,
            monitoring: None,
            access_log: AccessLog::default(),
        }
    }
}

/// Reads `listener`.
pub(super) fn listener(reader: &mut Reader, node: &Node) -> Option<Listener> {
    let object = reader.object(
        node,
        &[
            "address",
            "port",
            "tls",
            "body_limit",
            "request_buffer",
            "max_connections",
            "heap_limit",
            "monitoring",
            "access_log",
        ],
    )?;
    let default = Listener::default();
    let address = reader.optional(object, "address", address);
    let port = reader.optional(object, "port", port).unwrap_or(default.port);
    let tls = reader.optional(object, "tls", tls);
    let body_limit = reader.optional(object, "body_limit", |reader, node| {
        u32::try_from(size(reader, node, BODY_LIMIT)?).ok()
    });
    let body_limit = body_limit.unwrap_or(default.body_limit);
    let least = 2 * u64::from(body_limit);
    let request_buffer = reader.optional(object, "request_buffer", |reader, node| {
        let found = size(reader, node, REQUEST_BUFFER)?;
        if found < least {
            let (found, least) = (written(found), written(least));
            reader.problem(format!(
                "found {found}; expected at least {least}, twice body_limit: a subscription may use as much \
                 as it leaves free"
            ));
        }
        Some(found)
    });
    let max_connections = reader
        .optional(object, "max_connections", |reader, node| reader.integer(node, MAX_CONNECTIONS));
    let heap_limit =
        reader.optional(object, "heap_limit", |reader, node| size(reader, node, HEAP_LIMIT));
    let monitoring =
        reader.optional(object, "monitoring", |reader, node| monitoring(reader, node, port));
    let access_log = reader.optional(object, "access_log", access_log);
    Some(Listener {
        address: address.unwrap_or(default.address),
        port,
        tls,
        body_limit,
        request_buffer: request_buffer.unwrap_or(default.request_buffer.max(least)),
        max_connections: max_connections.unwrap_or(default.max_connections),
        heap_limit: heap_limit.unwrap_or(default.heap_limit),
        monitoring,
        access_log: access_log.unwrap_or(default.access_log),
    })
}

fn access_log(reader: &mut Reader, node: &Node) -> Option<AccessLog> {
    let text = reader.text(node, |text| matches!(text, "json" | "none"), "json or none")?;
    Some(if text == "none" { AccessLog::None } else { AccessLog::Json })
}

/// Reads where metrics and readiness are shown, beside the listener's own port.
fn monitoring(reader: &mut Reader, node: &Node, taken: u16) -> Option<Monitoring> {
    let object = reader.object(node, &["address", "port"])?;
    let address = reader.optional(object, "address", address);
    let port = reader.optional(object, "port", |reader, node| {
        let found = port(reader, node)?;
        if found == taken {
            reader
                .problem(format!("found {found}; expected another port than that of the listener"));
        }
        Some(found)
    });
    Some(Monitoring {
        address: address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        port: port.unwrap_or(DEFAULT_MONITORING_PORT),
    })
}

/// Reads the number of a port.
pub(super) fn port(reader: &mut Reader, node: &Node) -> Option<u16> {
    u16::try_from(reader.integer(node, PORT)?).ok()
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
