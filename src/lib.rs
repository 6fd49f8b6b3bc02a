//! One key and one address in front of Azure OpenAI, inside Envoy.

pub mod answer;
pub mod body;
pub mod config;
pub mod digest;
pub mod gateway;
pub mod head;
pub mod key;
pub mod operation;
pub mod placement;
pub mod target;
