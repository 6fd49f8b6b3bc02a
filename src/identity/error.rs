//! Why there is no token for a request.

use std::time::Duration;

use thiserror::Error;

/// Why there is no token for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// The identity endpoint does not respond as it should; a retry may succeed.
    #[error("no token at the moment")]
    Unavailable {
        /// Until the next attempt to get one.
        wait: Duration,
    },
    /// The identity endpoint refuses one.
    #[error("the identity endpoint refuses a token")]
    Refused {
        /// The status of its response, if there was one.
        status: Option<u16>,
    },
    /// A token is there, but the rest of a request's body, with which it would be sent, is not.
    #[error("the request's body has not come in time")]
    Stalled,
}
