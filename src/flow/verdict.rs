//! What becomes of a response, by its head.

use memchr::memmem;

use super::context::Context;
use super::envoy_reply;
use super::host::pairs;
use super::measure::Counter;
use super::pool_request::{LastAttempt, PoolRequest};
use super::step::Changes;
use crate::base::header::{ATTEMPTS, BACKEND, DIAGNOSIS, REASON, RETRY};
use crate::reply::{retry_after_headers, Reply};
use crate::routing::cooldown::Outcome;
use crate::routing::retry_after;

/// What becomes of a response, by its head.
#[derive(Debug)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It goes on, and may tell of a mistake: its backend and its status.
    Inspect(String, u16),
    /// The caller gets a local reply in its place.
    Replace(Reply),
}

impl Verdict {
    /// What becomes of the response that a pool's request has got. Where no backend gave it, Envoy has not added
    /// what callers are told.
    pub fn of_pool(ctx: &Context<'_>, changes: &mut Changes, request: &mut PoolRequest) -> Self {
        let host = ctx.host;
        let retries = |attempts: usize| {
            let retries = attempts.saturating_sub(1);
            if retries > 0 {
                host.add(Counter::Retries, retries as u64);
            }
        };
        let details = match &request.last {
            LastAttempt::None | LastAttempt::Pending { .. } => {
                host.response_code_details().unwrap_or_default()
            }
            // It may have been given up for a retry that could not be made, or that was another module's.
            LastAttempt::Responded { outcome, .. } if outcome.may_move_on() => {
                let details = host.response_code_details().unwrap_or_default();
                let is_by_another = details == envoy_reply::VIA_UPSTREAM
                    && host.response_status().is_some_and(|status| status < 400);
                Some(details)
                    .filter(|details| is_by_another || details == envoy_reply::RETRY_OVERFLOW)
                    .unwrap_or_default()
            }
            LastAttempt::Responded { .. } | LastAttempt::Replied(_) => Vec::new(),
        };
        if envoy_reply::is_failure(&details, || host.response_status()) {
            request.connection_failed |= memmem::find(&details, b"connection_failure").is_some();
            request.note_failure(host);
        }
        if !request.failed.is_empty() {
            request.settle_failures(host, false, ctx.now());
        }
        if details == envoy_reply::VIA_UPSTREAM {
            return response_by_another_module(ctx, request);
        }
        match &request.last {
            LastAttempt::Responded { outcome, diagnosis, .. } if details.is_empty() => {
                retries(request.attempts);
                match (outcome, diagnosis) {
                    (Outcome::Misconfigured(_), _) => {
                        return Self::Replace(request.exhausted(host, ctx.now()));
                    }
                    (Outcome::Throttled(_), _) => {
                        // The last backend's own time is not the model's.
                        let wait = request.soonest(host, ctx.now());
                        for (name, value) in retry_after_headers(wait) {
                            changes.set(name, value);
                        }
                        changes.remove("x-ms-retry-after-ms");
                    }
                    (_, Some(diagnosis)) => {
                        ctx.meter.borrow_mut().diagnosis = Some(diagnosis.slug.to_owned());
                        changes.set(DIAGNOSIS, diagnosis.slug);
                    }
                    (_, None) => {}
                }
                Self::Pass
            }
            LastAttempt::Pending { backend } | LastAttempt::Responded { backend, .. } => {
                retries(request.attempts);
                changes.remove(RETRY);
                changes.set(BACKEND, backend.as_str());
                changes.set(ATTEMPTS, request.attempts.to_string());
                let status = host.response_status().unwrap_or_default();
                let reply = envoy_reply::in_our_words(&details, status, || {
                    request.exhausted(host, ctx.now())
                });
                reply.map_or(Self::Pass, Self::Replace)
            }
            LastAttempt::Replied(reason) => {
                // The last attempt was not made.
                let attempts = request.attempts.saturating_sub(1);
                retries(attempts);
                changes.remove(RETRY);
                match &request.asked {
                    Some(backend) => changes.set(BACKEND, backend.as_str()),
                    None => changes.remove(BACKEND),
                }
                changes.set(ATTEMPTS, attempts.to_string());
                changes.set(REASON, reason.name());
                Self::Pass
            }
            LastAttempt::None => {
                let status = host.response_status().unwrap_or_default();
                let reply = envoy_reply::in_our_words(&details, status, Reply::no_response);
                reply.map_or(Self::Pass, Self::Replace)
            }
        }
    }
}

/// As [`Verdict::of_pool`], where the last attempt was another module's: Envoy has added which backend it was.
/// What a backend stage does not record without a configuration is recorded here, so that a backend that
/// was in cooldown is known to be well again.
fn response_by_another_module(ctx: &Context<'_>, request: &mut PoolRequest) -> Verdict {
    let Some(status) = ctx.host.response_status() else {
        return Verdict::Pass;
    };
    let headers = ctx.host.response_headers();
    let text = |name| {
        let (_, value) = headers.iter().find(|(known, _)| known == name)?;
        std::str::from_utf8(value).ok()
    };
    let Some(backend) = text(BACKEND).map(str::to_owned) else {
        return Verdict::Pass;
    };
    let mut meter = ctx.meter.borrow_mut();
    meter.backend = Some(backend.clone());
    meter.attempts = text(ATTEMPTS).and_then(|attempts| attempts.parse().ok());
    drop(meter);
    let outcome = Outcome::of_status(status, || retry_after::read(pairs(&headers), ctx.now()));
    if outcome == Outcome::Failed {
        request.failed.push(backend.clone());
        request.settle_failures(ctx.host, false, ctx.now());
    } else {
        request.record(ctx.host, &backend, outcome, true, || ctx.now());
    }
    Verdict::Inspect(backend, status)
}
