//! Every parser that Azure or clients feed, with arbitrary bytes and with real inputs that have been cut,
//! spliced and repeated. Each property is more than that nothing panics.
//!
//! `cargo test` tries a thousand inputs each; `make fuzz` FUZZ_CASES of them, by the seed that it
//! prints.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails this way; clippy knows helpers of tests only within cfg(test)"
)]

mod agreement;
mod bodies;
mod configuration;
mod errors;
#[path = "../flow/host.rs"]
#[allow(dead_code, reason = "the tests of the flows use all of it")]
mod host;
mod identity;
mod mutation;
mod readers;
mod requests;
mod shared;
mod usage;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::test_runner::Config;

/// How many inputs each property gets: the environment's number, or a few.
fn budget() -> Config {
    Config {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1000),
        // What fails is printed, and goes into a table of the unit's own tests.
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    }
}

/// Some time.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// Whether a text may be part of a line of a log.
fn is_line(text: &str) -> bool {
    !text.chars().any(char::is_control)
}
