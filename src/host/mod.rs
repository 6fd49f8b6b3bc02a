//! The edge between Envoy and the flows: the only code that knows proxy_wasm. It turns callbacks into
//! events and steps into calls, and decides nothing.
//!
//! ```text
//! root     one for each worker and configuration: ticks, callouts
//! worker   what a root and its requests share
//! request  one for each request, in the gateway stage
//! attempt  one for each attempt, in the backend stage
//! ticker   when Envoy ticks a root
//! envoy    Envoy, as flows see it
//! ```

mod attempt;
mod callout;
mod envoy;
mod metrics;
mod perform;
mod request;
mod root;
mod ticker;
mod worker;

use proxy_wasm::types::LogLevel;

use root::Root;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|id| Box::new(Root::new(id)));
}}
