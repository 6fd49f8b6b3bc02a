//! Envoy's own replies to requests that were forwarded, by its words for them in
//! `%RESPONSE_CODE_DETAILS%` (Envoy, "Response Code Details").

use memchr::memmem;

use crate::reply::Reply;
use crate::routing::RoutingError;

/// The local reply in place of one of Envoy's own, where that means that a backend has failed.
/// `failed` is what the caller is told where no response came.
pub fn in_our_words(details: &[u8], status: u16, failed: impl FnOnce() -> Reply) -> Option<Reply> {
    let has = |word: &[u8]| memmem::find(details, word).is_some();
    match details {
        _ if details.starts_with(b"upstream_reset_before_response_started") && has(b"overflow") => {
            Some(Reply::circuit_breaker())
        }
        b"no_healthy_upstream" | RETRY_OVERFLOW => Some(failed()),
        _ if details.starts_with(b"upstream_reset_before_response_started") => Some(failed()),
        b"cluster_not_found" => Some(RoutingError::UnknownBackend.into()),
        _ if is_timeout(details, status) => Some(Reply::timeout()),
        _ => None,
    }
}

/// Whether a reply of Envoy's own means that the backend of the last attempt has failed: it is not the reply
/// to a caller's broken request or upload, or to a circuit breaker's limit.
pub fn is_failure(details: &[u8], status: impl FnOnce() -> Option<u16>) -> bool {
    if details.is_empty() || details == RETRY_OVERFLOW {
        return true;
    }
    let is_reset =
        details.starts_with(b"upstream_") && memmem::find(details, b"overflow").is_none();
    is_reset || details == STREAM_IDLE && is_timeout(details, status().unwrap_or_default())
}

/// Envoy's words for a backend that takes too long: the idle timeout is the caller's where the request was
/// not complete, and then its status is 408.
fn is_timeout(details: &[u8], status: u16) -> bool {
    const TIMEOUTS: [&[u8]; 4] = [
        STREAM_IDLE,
        b"upstream_response_timeout",
        b"upstream_per_try_timeout",
        b"upstream_per_try_idle_timeout",
    ];
    status == 504 && TIMEOUTS.contains(&details)
}

/// Envoy's word for its `507`: an attempt had ended, and more of the request's body came than it keeps before the
/// next one began.
pub const RETRY_OVERFLOW: &[u8] = b"request_payload_exceeded_retry_buffer_limit";

/// Envoy's word for a request for which the service of limits says that there is no room.
pub const RATE_LIMITED: &[u8] = b"request_rate_limited";

/// And for one where the service does not respond.
pub const RATE_LIMITER_ERROR: &[u8] = b"rate_limiter_error";

const STREAM_IDLE: &[u8] = b"stream_idle_timeout";

/// Envoy's word for a response that is a backend's.
pub const VIA_UPSTREAM: &[u8] = b"via_upstream";
