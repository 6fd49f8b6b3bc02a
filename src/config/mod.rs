//! The configuration document, parsed once into a model that cannot be invalid.
//!
//! [`Config::from_plugin`] reads what Envoy hands the module; the command-line tool reads YAML of the
//! same shape through [`Config::from_node`]. Either every problem of the document comes back, or a
//! [`Config`] in which every name resolves.

mod affinity;
mod authority;
mod backend;
mod cloud;
mod credential;
mod document;
mod endpoint;
mod envoy_gateway;
mod failover;
mod identity;
mod istio;
mod kubernetes;
mod limits;
mod listener;
mod metering;
mod model;
mod names;
mod problem;
mod protobuf;
mod reader;
mod size;
mod spelling;
mod subscription;
mod time;
mod types;
mod value;
mod version;

#[cfg(test)]
mod tests;

pub use authority::host_and_port;
pub use cloud::Cloud;
pub use endpoint::{Endpoint, EndpointError};
pub use kubernetes::is_host;
pub use problem::{push_field, push_index, Problem, Problems};
pub use types::*;
pub use value::{BACKEND_CLUSTER_PREFIX, POOL_PREFIX};

pub use crate::base::json::{Node, NodeError};

impl Config {
    /// Reads a configuration as Envoy hands it to a plugin: JSON, from a
    /// `google.protobuf.StringValue`, or a `google.protobuf.Struct` in its wire format.
    ///
    /// # Errors
    /// As [`Config::from_json`].
    pub fn from_plugin(bytes: &[u8]) -> Result<Self, Problems> {
        match protobuf::read_struct(bytes) {
            Some(node) if !bytes.is_empty() => Self::from_node(&node),
            _ => Self::from_json(bytes),
        }
    }

    /// Reads a configuration from JSON.
    ///
    /// # Errors
    /// Every [`Problem`] of the document at once, or the one place where it is not JSON.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Problems> {
        if bytes.trim_ascii().is_empty() {
            return Err(Problem::new("", "empty; expected the configuration as JSON").into());
        }
        let node = Node::from_json(bytes).map_err(|error| {
            Problem::of_syntax(error.line, error.column, &format!("not JSON: {}", error.what))
        })?;
        Self::from_node(&node)
    }

    /// Reads a configuration from a tree, whatever syntax it had.
    ///
    /// # Errors
    /// Every [`Problem`] of the document at once.
    pub fn from_node(node: &Node) -> Result<Self, Problems> {
        let mut reader = reader::Reader::default();
        let config = document::config(&mut reader, node);
        reader.finish(config)
    }
}
