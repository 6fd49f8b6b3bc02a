//! Routing: which backends may serve a request, which of them is tried first, and which next.
//! What leaves this room is a [`route::Destination`] and, for a pool, the [`plan::AttemptPlan`] from
//! which each attempt is made, or a [`RoutingError`].

pub mod affinity;
pub mod cooldown;
mod error;
pub mod plan;
pub mod pool;
pub mod retry_after;
pub mod route;
pub mod selection;

pub use error::RoutingError;
