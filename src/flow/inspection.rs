//! Inspecting a backend's response that may tell of a mistake: what the caller, the metrics and the log
//! learn of it. A small response's head is held until its body has come with it, and never for long.

use std::time::{Duration, SystemTime};

use super::context::Context;
use super::host::pairs;
use super::measure::{Counter, LogEntry};
use super::step::{Changes, Then};
use super::store::may_log;
use crate::base::claims::Claims;
use crate::base::clock::is_over;
use crate::base::error_body::ErrorBody;
use crate::base::header::DIAGNOSIS;
use crate::config::Backend;
use crate::response::diagnosis::{
    may_have_status, may_tell, Diagnosis, Finding, LONGEST_BODY, TOKEN_REJECTED,
};

/// For how long a response's head waits for its body at most: it comes with it, but from a backend in
/// trouble.
const LONGEST_HOLD: Duration = Duration::from_millis(500);

/// A response that is inspected.
#[derive(Debug)]
pub struct Inspection {
    backend: String,
    status: u16,
    /// What has come of its body so far, unless that is too long.
    text: Option<Vec<u8>>,
    /// How much of that has gone on.
    forwarded: usize,
    phase: Phase,
}

/// How far a response that is inspected has gone on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its head is held until this time, and nothing of its body has come.
    HoldingHead(SystemTime),
    /// Its head and the beginning of its body are held until this time.
    HoldingBody(SystemTime),
    /// Its head has gone on; nothing can be written there any more.
    Forwarding,
    /// Its head and some of its body that was held have gone on by the clock. Envoys without the
    /// correction of envoyproxy/envoy#46841 lose the next piece then, unless that is held too and let go
    /// by the clock.
    Releasing,
}

impl Inspection {
    /// Begins to inspect the response at hand, if it may tell of a mistake, and says what becomes of its
    /// head.
    pub fn begin(ctx: &Context<'_>, backend: &str, status: u16) -> Option<(Self, Then)> {
        if !may_have_status(status) {
            return None;
        }
        if !may_tell(status, pairs(&ctx.host.response_headers())) {
            return None;
        }
        let is_held = ctx.gateway.failed_holds.may_hold();
        let until = ctx.now() + LONGEST_HOLD;
        let phase = if is_held { Phase::HoldingHead(until) } else { Phase::Forwarding };
        let (backend, text) = (backend.to_owned(), Some(Vec::new()));
        let then = if is_held { Then::Pause(Some(until)) } else { Then::Continue };
        Some((Self { backend, status, text, forwarded: 0, phase }, then))
    }

    /// Takes what there is of the body: all that has come and not gone on, or nothing more at its
    /// trailers. The inspection goes on where it is returned.
    pub fn read(
        mut self,
        ctx: &Context<'_>,
        changes: &mut Changes,
        size: Option<usize>,
        ended: bool,
    ) -> (Option<Self>, Then) {
        if let Some(size) = size {
            self.take(ctx, size);
        }
        let is_long = self.text.is_none();
        if ended {
            self.diagnose(ctx, changes);
        }
        match self.phase {
            Phase::Releasing if size.is_some() => {
                let now = ctx.now();
                (Some(self), Then::Pause(Some(now)))
            }
            _ if ended || is_long => (None, Then::Continue),
            Phase::Forwarding | Phase::Releasing => {
                self.forwarded = self.length();
                (Some(self), Then::Continue)
            }
            Phase::HoldingHead(until) | Phase::HoldingBody(until) => {
                self.phase = Phase::HoldingBody(until);
                (Some(self), Then::Pause(Some(until)))
            }
        }
    }

    /// Lets the response go on whose body does not come, if it is time.
    pub fn wake_up(mut self, ctx: &Context<'_>) -> (Self, Then) {
        match self.phase {
            Phase::HoldingHead(until) | Phase::HoldingBody(until)
                if !is_over(until, LONGEST_HOLD, ctx.now()) =>
            {
                return (self, Then::Pause(Some(until)));
            }
            Phase::HoldingHead(_) => {
                if ctx.host.response_is_complete() {
                    ctx.gateway.failed_holds.add();
                }
                self.phase = Phase::Forwarding;
            }
            Phase::HoldingBody(_) | Phase::Releasing => self.phase = Phase::Releasing,
            // Nothing is held: the request has waited for something else before.
            Phase::Forwarding => return (self, Then::Pause(None)),
        }
        self.forwarded = self.length();
        (self, Then::Continue)
    }

    /// Reads what has come.
    fn take(&mut self, ctx: &Context<'_>, size: usize) {
        if matches!(self.phase, Phase::HoldingHead(_) | Phase::HoldingBody(_)) {
            ctx.gateway.failed_holds.forget();
        }
        self.text = self.text.take().and_then(|mut text| {
            text.truncate(self.forwarded);
            let is_short = text.len() + size <= LONGEST_BODY;
            is_short.then(|| {
                text.extend_from_slice(&ctx.host.response_body(size));
                text
            })
        });
    }

    fn length(&self) -> usize {
        self.text.as_ref().map_or(0, Vec::len)
    }

    fn diagnose(&self, ctx: &Context<'_>, changes: &mut Changes) {
        let Some(text) = &self.text else {
            return;
        };
        let error = ErrorBody::read(text);
        let found = Diagnosis::of_response(self.status, &error).filter(|one| one.is_mistake);
        let Some(diagnosis) = found else {
            return;
        };
        if matches!(self.phase, Phase::HoldingHead(_) | Phase::HoldingBody(_)) {
            changes.set(DIAGNOSIS, diagnosis.slug);
        }
        ctx.host.add(Counter::Diagnosis { backend: &self.backend, diagnosis }, 1);
        let is_it = |one: &&std::sync::Arc<Backend>| one.name == self.backend;
        let Some(backend) = ctx.gateway.config.backends.iter().find(is_it) else {
            return;
        };
        let key = format!("aoai-filter/logged/diagnosis/{}/{}", backend.name, diagnosis.slug);
        if may_log(ctx.host, &key, ctx.now()) {
            self.log(ctx, backend, diagnosis, &error);
        }
        let is_rejected = diagnosis.slug == TOKEN_REJECTED;
        let tokens = ctx.gateway.tokens_for(backend).ok();
        if is_rejected && tokens.is_some_and(|tokens| tokens.reject(ctx.host, ctx.now())) {
            ctx.host.fetch_soon();
        }
    }

    fn log(
        &self,
        ctx: &Context<'_>,
        backend: &Backend,
        diagnosis: &'static Diagnosis,
        error: &ErrorBody,
    ) {
        let Ok(tokens) = ctx.gateway.tokens_for(backend) else {
            return;
        };
        let bearer = tokens.usable(ctx.now());
        let claims = bearer
            .as_ref()
            .and_then(|bearer| bearer.value.expose().strip_prefix("Bearer "))
            .and_then(Claims::of);
        ctx.host.log(&LogEntry::Finding(&Finding {
            diagnosis,
            status: self.status,
            error,
            backend: &backend.name,
            resource: backend.endpoint.authority(),
            audience: &tokens.credential.audience,
            claims: claims.as_ref(),
        }));
    }
}
