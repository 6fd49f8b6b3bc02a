//! The two state machines, of a request and of an attempt, without a host.
//!
//! ```text
//! request  head ─ key ─ operation ─┬─ model in the URL ──────────────┬─ destination ─ token ─ forwarded ─ response
//!                                  └─ AwaitingModel: body, in pieces ┘              └ AwaitingToken
//!          refused before it was forwarded ─ Refused: body, discarded in pieces ─ reply
//! attempt  head ─ backend of this attempt ─ sent ─ response: its status, and whether a retry is worth it
//! ```
//! A flow takes an [`Event`](request::Event) and returns its next state and a [`step::Step`]: go on with
//! changes, wait, or reply. Whatever it needs to know it asks of its [`host::Host`], and whatever it wants
//! told it tells that: Envoy in the module, memory in the tests.

pub mod attempt;
pub mod body_check;
pub mod caller;
pub mod context;
pub mod cooldowns;
pub mod envoy_reply;
pub mod failed_holds;
pub mod forwarded;
pub mod gateway;
pub mod host;
pub mod inspection;
pub mod limit_service;
pub mod limits;
pub mod measure;
pub mod metering;
pub mod pending;
pub mod pool_request;
pub mod refused;
pub mod request;
pub mod request_buffer;
pub mod step;
pub mod store;
pub mod tokens;
pub mod verdict;
