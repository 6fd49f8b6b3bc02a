//! Why a request is not admitted.

use std::time::SystemTime;

use thiserror::Error;

/// Why a request is not admitted. No variant holds anything that the caller sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AccessError {
    /// No key, or only empty ones.
    #[error("no subscription key")]
    MissingKey,
    /// A key that no subscription has.
    #[error("unknown subscription key")]
    UnknownKey,
    /// Two keys that differ.
    #[error("two different subscription keys")]
    ConflictingKeys,
    /// A header that can hold a key came more than once.
    #[error("a repeated key header")]
    RepeatedKey,
    /// The subscription is switched off.
    #[error("subscription {id} is suspended")]
    Suspended {
        /// The subscription's id.
        id: String,
    },
    /// The subscription is not valid yet.
    #[error("subscription {id} is not valid yet")]
    NotYetValid {
        /// The subscription's id.
        id: String,
        /// From when it is valid.
        from: SystemTime,
    },
    /// The subscription is no longer valid.
    #[error("subscription {id} has expired")]
    Expired {
        /// The subscription's id.
        id: String,
        /// Until when it was valid.
        until: SystemTime,
    },
    /// The subscription lacks the grant for this operation.
    #[error("subscription {id} is not granted {grant}")]
    OperationNotGranted {
        /// The subscription's id.
        id: String,
        /// The grant's name in the configuration.
        grant: &'static str,
    },
    /// The configuration has no such model.
    #[error("unknown model; subscription {id} may use {allowed}")]
    UnknownModel {
        /// The subscription's id.
        id: String,
        /// The first of the models that it may use, for a message.
        allowed: String,
    },
    /// The model is not among those that the subscription may use.
    #[error("subscription {id} may not use this model, but {allowed}")]
    ModelNotAllowed {
        /// The subscription's id.
        id: String,
        /// The first of the models that it may use, for a message.
        allowed: String,
    },
}
