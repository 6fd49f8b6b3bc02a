//! Leaves: they know neither Azure nor Envoy, and import nothing of this crate but each other.

pub mod claims;
pub mod clock;
pub mod codec;
pub mod digest;
pub mod error_body;
pub mod estimate;
pub mod header;
pub mod json;
pub mod random;
pub mod rendezvous;
pub mod round_robin;
pub mod secret;
pub mod text;
