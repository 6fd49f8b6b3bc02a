//! Why a request is sent to no backend.

use std::time::Duration;

use thiserror::Error;

/// Why a request is sent to no backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RoutingError {
    /// Every backend of the model is in cooldown.
    #[error("every backend of the model is in cooldown")]
    AllInCooldown {
        /// Until the first cooldown ends.
        wait: Duration,
    },
    /// The model is not on the one backend that can serve the request.
    #[error("the model has no deployment where the subscription's stored resources are")]
    NotOnDefaultBackend,
    /// A pool's endpoint is not a backend of the model, or has no metadata with a backend's name.
    #[error("the pool has an endpoint that is no backend of the model")]
    UnknownBackend,
    /// A backend failed without a response, and no other one may be tried.
    #[error("the backend failed, and there is no other one to try")]
    NoBackendLeft,
}
