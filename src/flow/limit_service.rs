//! Limits that all proxies share, kept by envoyproxy/ratelimit. Envoy's filter of rate limits stands behind the
//! gateway stage: it asks the service by what the gateway stage has left as filter state, and charges it at the end.

use std::time::Duration;

use super::envoy_reply;
use super::host::{Headers, Host};
use super::limits::headers;
use super::measure::LogField;
use super::step::Changes;
use crate::access::limits::{bucket, Remaining, QUOTA, REQUESTS, TOKENS};
use crate::config::{Rates, Subscription};
use crate::reply::Reply;

/// The headers in which Envoy's filter tells what the service has said.
/// Source: `enable_x_ratelimit_headers: DRAFT_VERSION_03` in Envoy's API reference, and draft 03 of "RateLimit Header
/// Fields for HTTP".
const TOLD: [&str; 3] = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];

/// The limits that bind a request, which the service keeps.
#[derive(Debug)]
pub struct SharedLimits {
    rates: Rates,
}

/// What the service has said about the limit that is nearest to its end.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    /// Its name.
    name: String,
    /// How much may be used in its period.
    limit: u32,
    /// How much of that is left.
    remaining: u64,
    /// Until the next period.
    reset: Duration,
}

impl SharedLimits {
    /// Has the service asked about a request for this model, or for none, and charged for it. `None` where nothing
    /// limits it.
    pub fn ask(
        host: &dyn Host,
        subscription: &Subscription,
        model: Option<&str>,
        uses_tokens: bool,
    ) -> Option<Self> {
        let has_quota = subscription.limits.quota.is_some() && uses_tokens;
        let bound = subscription.limits.of(model);
        let (mut rates, own) = bound.unwrap_or_default();
        if !uses_tokens {
            rates.tokens_per_minute = None;
        }
        if rates == Rates::default() && !has_quota {
            return None;
        }
        let bucket = bucket(&subscription.id, own);
        if rates.requests_per_minute.is_some() {
            host.note(LogField::RequestLimit(&bucket));
        }
        if rates.tokens_per_minute.is_some() {
            host.note(LogField::TokenLimit(&bucket));
        }
        if has_quota {
            host.note(LogField::Quota(&subscription.id));
        }
        if uses_tokens {
            // Envoy warns where there is nothing at the end.
            host.note(LogField::Tokens(0));
        }
        Some(Self { rates })
    }

    /// Takes what the service has said with a response, and writes it as the gateway's own headers. Whether it has
    /// said anything: otherwise nothing has limited the request.
    ///
    /// # Errors
    /// The reply in place of Envoy's own: there was no room, or the service did not respond.
    pub fn take(&self, host: &dyn Host, changes: &mut Changes) -> Result<bool, Reply> {
        let response = host.response_headers();
        let told = Told::read(&response);
        let remaining = told.as_ref().map(Told::remaining).unwrap_or_default();
        let headers = headers(self.rates, remaining);
        let is_refused = |(name, value): &(String, Vec<u8>)| {
            name == ":status" && matches!(value.as_slice(), b"429" | b"503")
        };
        if response.iter().any(is_refused) {
            let details = host.response_code_details().unwrap_or_default();
            if let Some(reply) = self.refusal(&details, told.as_ref()) {
                return Err(reply.with_limits(headers));
            }
        }
        for name in TOLD.iter().filter(|name| response.iter().any(|(known, _)| known == *name)) {
            changes.remove(name);
        }
        for (name, value) in headers {
            changes.set(name, value);
        }
        Ok(told.is_some())
    }

    /// The local reply in place of one of Envoy's filter.
    fn refusal(&self, details: &[u8], told: Option<&Told>) -> Option<Reply> {
        if details == envoy_reply::RATE_LIMITER_ERROR {
            return Some(Reply::limits_unavailable());
        }
        if details != envoy_reply::RATE_LIMITED {
            return None;
        }
        Some(match told {
            Some(Told { name, limit, reset, .. }) if name == QUOTA => {
                Reply::quota_exhausted(*limit, *reset)
            }
            Some(Told { name, limit, reset, .. }) if name == REQUESTS => {
                Reply::request_limit_reached(*limit, *reset)
            }
            Some(Told { limit, reset, .. }) => Reply::token_limit_reached(*limit, *reset),
            None => Reply::limits_unavailable(),
        })
    }
}

impl Told {
    fn read(headers: &Headers) -> Option<Self> {
        let [limit, remaining, reset] = TOLD.map(|wanted| {
            let (_, value) = headers.iter().find(|(name, _)| name == wanted)?;
            std::str::from_utf8(value).ok()
        });
        // Such as `10, 600;w=60;name="requests", 10;w=86400;name="quota"`: the first of these is not that of which
        // least is left, but has its number in front.
        let (limit, all) = limit?.split_once(',')?;
        let found = all.split(',').find_map(|one| {
            let mut parts = one.split(';').map(str::trim);
            let is_it = parts.next() == Some(limit.trim());
            let name = parts.find_map(|part| part.strip_prefix("name="))?;
            is_it.then(|| name.trim_matches('"').to_owned())
        });
        Some(Self {
            name: found?,
            limit: limit.trim().parse().ok()?,
            remaining: remaining?.trim().parse().ok()?,
            reset: Duration::from_secs(reset?.trim().parse().ok()?),
        })
    }

    fn remaining(&self) -> Remaining {
        let mut remaining = Remaining::default();
        match self.name.as_str() {
            REQUESTS => remaining.requests = Some(self.remaining),
            TOKENS => remaining.tokens = Some(self.remaining),
            _ => {}
        }
        remaining
    }
}
