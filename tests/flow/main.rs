//! The two flows from end to end, with Envoy in memory: what each caller is told, and what each backend
//! gets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails this way; clippy knows helpers of tests only within cfg(test)"
)]

mod admission;
mod affinity;
mod attempts;
mod data_sources;
mod failover;
mod host;
mod inspection;
mod limits;
mod metering;
mod misconfigured;
mod models;
mod refused_bodies;
mod regions;
mod replacement;
mod request_buffer;
mod tenants;
mod waiting;
