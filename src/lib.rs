//! One key and one address in front of Azure OpenAI, inside Envoy.
//!
//! The core is everything but `host`: it takes values and the time, returns values, and never names
//! the SDK, so that all of it is tested natively. Read it in the order of a request's way:
//!
//! | layer | room | |
//! | --- | --- | --- |
//! | 1 | [`base`] | leaves that know nothing of Azure or Envoy |
//! | 2 | [`config`] | the configuration document, read into a [`config::Config`] that cannot be invalid |
//! | 3 | [`request`] | what came: head, path, operation, body |
//! | 4 | [`access`] | who may call: key, subscription, scope |
//! | 4 | [`routing`] | where to: selection, cooldowns, pools, the plan of attempts |
//! | 4 | [`identity`] | how the proxy signs in: the token for Azure |
//! | 4 | [`response`] | what came back: diagnosis |
//! | 5 | [`reply`] | every error of these rooms as a local reply: the one table |
//! | 6 | [`flow`] | the state machines of a request and of an attempt, without a host |
//! | 7 | [`telemetry`] | names of metrics, and lines of the log |
//! | 8 | `host` | the edge: Envoy's callbacks become events of a flow, its steps calls of Envoy |
//! | 8 | `bin/aoai` | the command-line tool |
//!
//! A room imports from those of lower layers only, and those of layer 4 not from each other;
//! `tests/architecture.rs` enforces it.

pub mod access;
pub mod base;
pub mod config;
pub mod flow;
pub mod identity;
pub mod reply;
pub mod request;
pub mod response;
pub mod routing;
pub mod telemetry;

#[cfg(target_arch = "wasm32")]
mod host;
