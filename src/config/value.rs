//! Values that several sections have: names, clusters, paths.

use super::problem::shape;
use super::reader::Reader;
use crate::base::json::Node;

/// What the name of every pool's cluster begins with, and of no other cluster.
pub const POOL_PREFIX: &str = "aoai/";

/// What the default name of a backend's cluster begins with, and no identity's cluster.
pub const BACKEND_CLUSTER_PREFIX: &str = "aoai_";

/// The form of the name of a backend or an identity. Names are labels of metrics and parts of cluster
/// names, so they contain no separator of those (`.`, `/`, `>`).
pub(super) const NAME: &str = "1 to 63 of a-z, 0-9, - and _, with a letter or digit at both ends";

pub(super) fn is_name(name: &str) -> bool {
    let is_inner = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| is_inner(&byte) || matches!(byte, b'-' | b'_'))
        && name.as_bytes().first().is_some_and(is_inner)
        && name.as_bytes().last().is_some_and(is_inner)
}

/// Whether an Envoy cluster other than a pool may have this name.
fn is_cluster(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(POOL_PREFIX)
        && !name.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// Reads the name of an identity's cluster: none that the route leads callers' requests to.
pub(super) fn identity_cluster(reader: &mut Reader, node: &Node) -> Option<String> {
    reader.text(
        node,
        |name| is_cluster(name) && !name.starts_with(BACKEND_CLUSTER_PREFIX),
        "the name of an Envoy cluster, without spaces, and not beginning with aoai_ or aoai/, because \
         the route leads requests of callers to such clusters",
    )
}

/// Reads the name of a backend's cluster.
pub(super) fn cluster(reader: &mut Reader, node: &Node) -> Option<String> {
    reader.text(
        node,
        is_cluster,
        "the name of an Envoy cluster, without spaces, and not beginning with aoai/, which is reserved for pools",
    )
}

/// A path on the proxy's machine. It may be the file's content by mistake: it is never shown.
pub(super) fn path(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = reader.string(node)?;
    if !text.is_empty() && !text.contains(|c: char| c.is_control()) {
        return Some(text.to_owned());
    }
    let shape = shape(text);
    reader.problem(format!("found {shape} that is not a path; expected the path of a file"));
    None
}
