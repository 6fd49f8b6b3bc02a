//! One key and one address in front of Azure OpenAI, inside Envoy.

pub mod config;
pub mod digest;
pub mod placement;
