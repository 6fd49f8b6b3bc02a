//! Identity: how the proxy gets a token for Azure. The requests, the meaning of responses, and when to
//! fetch again. Each kind of identity has a file that builds its request and reads its response; [`cache`]
//! decides over time. What leaves this room is a token, or an [`IdentityError`]; whoever calls sends the
//! requests and measures the time.

pub mod app_service;
pub mod cache;
mod date;
pub mod entra;
mod error;
pub mod exchange;
pub mod failure;
pub mod fetch;
pub mod managed_identity;
pub mod shared;
pub mod token;

pub use error::IdentityError;
pub use exchange::{CalloutResponse, Request};
pub use failure::Failure;
