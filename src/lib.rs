//! One key and one address in front of Azure OpenAI, inside Envoy.
//!
//! The core is everything but `host`: it takes values and the time, returns values, and never names
//! the SDK, so that all of it is tested natively. A request's way through it, in order:
//!
//! | module | |
//! | --- | --- |
//! | [`head`] | the header map, read once |
//! | [`target`] | path and query, split and decoded once |
//! | [`key`] | the key, and whose it is |
//! | [`operation`] | which operation of the data plane, and where it names its model |
//! | [`body`] | the model in a body, while that arrives |
//! | [`placement`], [`rendezvous`] | which backends may serve the model, and who is drawn to one |
//! | [`health`], [`hint`] | which backends are left alone, and for how long |
//! | [`pool`] | which cluster tries it first, and then others |
//! | [`dispatch`] | where it goes, chosen by all of these |
//! | [`gateway`] | the way itself, which puts these together |
//! | [`attempt`], [`progress`] | the backend stage: one attempt at one of a pool's backends, and how far they have come |
//! | [`identity`] | the token that the request leaves with |
//! | [`answer`] | what the caller gets where the way ends early |
//! | [`diagnosis`] | what a backend's answer tells of a mistake |
//!
//! `host` is the edge: it turns Envoy's callbacks into calls of the core and the core's answers into
//! calls of Envoy. Nothing imports it.

pub mod answer;
pub mod attempt;
pub mod body;
pub mod clock;
pub mod config;
pub mod diagnosis;
pub mod digest;
pub mod dispatch;
pub mod gateway;
pub mod head;
pub mod health;
pub mod hint;
pub mod identity;
pub mod key;
pub mod metrics;
pub mod operation;
pub mod placement;
pub mod pool;
pub mod progress;
pub mod rendezvous;
pub mod target;

#[cfg(target_arch = "wasm32")]
mod host;
