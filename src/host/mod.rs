//! The edge between Envoy and the core: the only code that knows proxy_wasm.
//!
//! ```text
//! root     one for each worker and configuration: ticks, fetches tokens, serves who waits
//! stream   one for each request, in the gateway stage
//! attempt  one for each attempt, in the backend stage
//! worker   what a root and its streams share
//! progress what the stages leave beside a request for each other
//! ```

mod attempt;
mod callout;
mod diagnosis;
mod health;
mod metrics;
mod progress;
mod root;
mod shared;
mod stream;
mod tokens;
mod waiting;
mod worker;

use proxy_wasm::types::LogLevel;

use root::Root;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|id| Box::new(Root::new(id)));
}}
