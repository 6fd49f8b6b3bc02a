//! Why a request is sent to no backend.

use std::time::Duration;

use thiserror::Error;

/// Why a request is sent to no backend.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RoutingError {
    /// Every backend of the model is in cooldown, and at least one of them throttles.
    #[error("every backend of the model is in cooldown")]
    AllThrottled {
        /// Until the first cooldown ends.
        wait: Duration,
    },
    /// Every backend of the model is in cooldown after failures.
    #[error("every backend of the model has failed")]
    AllFailed {
        /// Until the first cooldown ends.
        wait: Duration,
    },
    /// Every backend of the model is misconfigured.
    #[error("every backend of the model is misconfigured")]
    AllMisconfigured {
        /// What is wrong with the first of them: the diagnosis's name.
        diagnosis: String,
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
