//! From the key that a caller presents to its subscription.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;

use crate::config::{Config, Subscription};
use crate::digest::Digest;
use crate::head::Head;
use crate::target::{Parameter, Query};

/// Names of query parameters that hold a key; browsers cannot set headers on a WebSocket.
const PARAMETERS: [&str; 2] = ["subscription-key", "api-key"];

/// In bytes; a longer key is nobody's, and not worth hashing.
pub const LONGEST_KEY: usize = 1024;

/// Why a request has no subscription.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// No key, or only empty ones.
    #[error("no subscription key")]
    Missing,
    /// A key that no subscription has.
    #[error("unknown subscription key")]
    Unknown,
    /// Two keys that differ.
    #[error("two different subscription keys")]
    Conflicting,
    /// A header that can hold a key came more than once.
    #[error("a repeated key header")]
    Repeated,
    /// The subscription is switched off.
    #[error("a suspended subscription")]
    Suspended {
        /// Whose.
        id: String,
    },
    /// The subscription is not valid yet.
    #[error("a subscription that is not valid yet")]
    NotYetValid {
        /// Whose.
        id: String,
        /// From when it is.
        from: SystemTime,
    },
    /// The subscription is no longer valid.
    #[error("an expired subscription")]
    Expired {
        /// Whose.
        id: String,
        /// Until when it was.
        until: SystemTime,
    },
}

/// Whether a query parameter can hold a key, and so must not leave.
pub fn is_key(parameter: Parameter<'_>) -> bool {
    PARAMETERS.iter().any(|name| parameter.is_named(name))
}

/// Finds the subscription of a request at a time. The query is looked at only where no header has a
/// key.
pub fn subscription<'c>(
    config: &'c Config,
    head: &Head<'_>,
    query: Query<'_>,
    now: SystemTime,
) -> Result<&'c Arc<Subscription>, KeyError> {
    let key = presented(head, query)?;
    if key.len() > LONGEST_KEY {
        return Err(KeyError::Unknown);
    }
    let subscription = config.subscriptions.get(&Digest::of(&key)).ok_or(KeyError::Unknown)?;
    let id = || subscription.id.clone();
    if subscription.suspended {
        return Err(KeyError::Suspended { id: id() });
    }
    if let Some(from) = subscription.not_before.filter(|&from| now < from) {
        return Err(KeyError::NotYetValid { id: id(), from });
    }
    if let Some(until) = subscription.expires_at.filter(|&until| now >= until) {
        return Err(KeyError::Expired { id: id(), until });
    }
    Ok(subscription)
}

/// The one key that a request presents.
fn presented<'a>(head: &Head<'a>, query: Query<'a>) -> Result<Cow<'a, [u8]>, KeyError> {
    if head.repeated_key {
        return Err(KeyError::Repeated);
    }
    let in_query;
    let keys = if head.keys.is_empty() {
        in_query = query
            .parameters()
            .filter(|&parameter| is_key(parameter))
            .map(Parameter::value)
            .filter(|key| !key.is_empty())
            .collect::<Vec<_>>();
        in_query
    } else {
        head.keys.iter().map(|&key| Cow::Borrowed(key)).collect()
    };
    let mut keys = keys.into_iter();
    let key = keys.next().ok_or(KeyError::Missing)?;
    if keys.any(|other| other != key) {
        return Err(KeyError::Conflicting);
    }
    Ok(key)
}
