//! Reads how tokens are counted.

use super::reader::Reader;
use super::types::{Metering, Streams};
use crate::base::json::Node;

/// Reads `metering`.
pub(super) fn metering(reader: &mut Reader, node: &Node) -> Option<Metering> {
    let object = reader.object(node, &["streams"])?;
    let streams = reader.optional(object, "streams", |reader, node| {
        reader.text(node, |text| matches!(text, "exact" | "reported"), "exact or reported")
    });
    let streams = match streams.as_deref() {
        Some("reported") => Streams::Reported,
        _ => Streams::Exact,
    };
    Some(Metering { streams })
}
