//! From the key that a caller presents to its subscription.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use super::AccessError;
use crate::base::digest::Digest;
use crate::config::{Config, Subscription};
use crate::request::head::Head;
use crate::request::path::{Parameter, Query};

/// In bytes; no subscription has a longer key, and it is not hashed.
pub const LONGEST_KEY: usize = 1024;

/// Finds the subscription of a request at a time. The query is looked at only where no header has a
/// key.
pub fn subscription<'c>(
    config: &'c Config,
    head: &Head<'_>,
    query: Query<'_>,
    now: SystemTime,
) -> Result<&'c Arc<Subscription>, AccessError> {
    let key = presented(head, query)?;
    if key.len() > LONGEST_KEY {
        return Err(AccessError::UnknownKey);
    }
    let subscription =
        config.subscriptions.get(&Digest::of(&key)).ok_or(AccessError::UnknownKey)?;
    let id = || subscription.id.clone();
    if subscription.suspended {
        return Err(AccessError::Suspended { id: id() });
    }
    if let Some(from) = subscription.not_before.filter(|&from| now < from) {
        return Err(AccessError::NotYetValid { id: id(), from });
    }
    if let Some(until) = subscription.expires_at.filter(|&until| now >= until) {
        return Err(AccessError::Expired { id: id(), until });
    }
    Ok(subscription)
}

/// The one key that a request presents.
fn presented<'a>(head: &Head<'a>, query: Query<'a>) -> Result<Cow<'a, [u8]>, AccessError> {
    if head.repeated_key {
        return Err(AccessError::RepeatedKey);
    }
    let in_query;
    let keys = if head.keys.is_empty() {
        in_query = query
            .parameters()
            .filter(|parameter| parameter.is_key())
            .map(Parameter::value)
            .filter(|key| !key.is_empty())
            .collect::<Vec<_>>();
        in_query
    } else {
        head.keys.iter().map(|&key| Cow::Borrowed(key)).collect()
    };
    let mut keys = keys.into_iter();
    let key = keys.next().ok_or(AccessError::MissingKey)?;
    if keys.any(|other| other != key) {
        return Err(AccessError::ConflictingKeys);
    }
    Ok(key)
}
