//! What operators see: names of metrics, and lines of the log.

pub mod log;
pub mod metrics;
