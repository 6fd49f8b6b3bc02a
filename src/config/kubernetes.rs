//! Readers of what the sections for Kubernetes have in common: names, hosts, the module.

use super::problem::quoted;
use super::reader::Reader;
use super::types::ModuleSource;
use super::value;
use crate::base::json::Node;

/// What the rendered resources are called.
pub(super) const DEFAULT_NAME: &str = "aoai";

/// As long as leaves room for what is appended.
const LONGEST_NAME: usize = 40;

/// The form of names of Kubernetes' objects and of values of its labels.
const NAME: &str =
    "a name of Kubernetes: 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends";

/// Where the module comes from.
pub(super) const MODULE: &str =
    "where the proxies get the module from: the path of a file in their container, or \
                      oci://REGISTRY/REPOSITORY@sha256:DIGEST";

/// Records the problem of a field that is required where others are as they are.
pub(super) fn missing(reader: &mut Reader, field: &str, expected: &str) {
    reader.at_field(field, |reader| reader.problem(format!("missing; expected {expected}")));
}

/// Reads the name of an object, or of what is named like one.
pub(super) fn name(reader: &mut Reader, node: &Node) -> Option<String> {
    reader.text(node, is_name, NAME)
}

/// Reads the name of the rendered resources, to which some append a word.
pub(super) fn resource_name(reader: &mut Reader, node: &Node) -> Option<String> {
    let is_right = |text: &str| is_name(text) && text.len() <= LONGEST_NAME;
    reader.text(node, is_right, "1 to 40 of a-z, 0-9 and -, with a letter or digit at both ends")
}

fn is_name(text: &str) -> bool {
    value::is_name(text) && !text.contains('_')
}

/// Reads the hosts that callers use.
pub(super) fn hosts(reader: &mut Reader, node: &Node) -> Option<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    reader.items(node, "host", |reader, _, node| {
        let host = reader.text(node, is_host, "a host name without a port, such as ai.example.com");
        match host.map(|host| host.to_ascii_lowercase()) {
            Some(host) if found.contains(&host) => reader.problem("given twice; keep one"),
            host => found.extend(host),
        }
    })?;
    Some(found)
}

/// Whether a text is a host name as a virtual host has it: Envoy adds the ports.
pub fn is_host(text: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b".-".contains(&b);
    !text.is_empty() && text.len() <= 253 && text.bytes().all(is_inner)
}

/// Reads where the module comes from. A tag may become another module at any time: an image is named by its
/// digest.
pub(super) fn module(reader: &mut Reader, node: &Node) -> Option<ModuleSource> {
    let text = reader.string(node)?;
    let is_plain = |text: &str| !text.contains(|c: char| c.is_whitespace() || c.is_control());
    if text.starts_with('/') && is_plain(text) {
        return Some(ModuleSource::File(text.to_owned()));
    }
    let digest = text.strip_prefix("oci://").and_then(|image| image.split_once("@sha256:"));
    if let Some((repository, digest)) = digest {
        let is_digest =
            digest.len() == 64 && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_digest && !repository.is_empty() && is_plain(repository) {
            return Some(ModuleSource::Image(text.to_owned()));
        }
    }
    let found = quoted(text);
    reader.problem(format!("found {found}; expected {MODULE}"));
    None
}
