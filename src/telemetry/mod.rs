//! What operators see: names of metrics, fields of access logs, and lines of the log.

pub mod access_log;
pub mod log;
pub mod metrics;
