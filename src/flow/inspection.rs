//! Inspecting a backend's response that may tell of a mistake: what the metrics and the log learn of it. A
//! small response's head is held until its body has come with it, and never for long.

use std::time::{Duration, SystemTime};

use super::failed_holds::FailedHolds;
use super::gateway::Gateway;
use super::host::{pairs, Host};
use super::measure::{Counter, LogEntry};
use super::step::Then;
use super::store::may_log;
use crate::base::claims::Claims;
use crate::base::clock::is_over;
use crate::base::error_body::ErrorBody;
use crate::config::Backend;
use crate::response::diagnosis::{
    may_have_status, may_tell, Diagnosis, Finding, Mistake, LONGEST_BODY, TOKEN_REJECTED,
};
use crate::routing::cooldown::Misconfiguration;

/// For how long a response's head waits for its body at most: it comes with it, but from a backend in
/// trouble.
const LONGEST_HOLD: Duration = Duration::from_millis(500);

/// A response that is inspected.
#[derive(Debug)]
pub struct Inspection {
    status: u16,
    /// What has come of its body so far, unless that is too long.
    text: Option<Vec<u8>>,
    /// How much of that has gone on.
    forwarded: usize,
    phase: Phase,
}

/// What has become of an inspection by an event.
#[derive(Debug)]
pub struct Inspected {
    /// The inspection, where it goes on.
    pub next: Option<Inspection>,
    /// What becomes of the response.
    pub then: Then,
    /// What the response tells of, where that is known now.
    pub found: Option<Found>,
}

/// A response that was recognised.
#[derive(Debug)]
pub struct Found {
    /// As what.
    pub diagnosis: &'static Diagnosis,
    /// Its error.
    pub error: ErrorBody,
    /// Its status.
    pub status: u16,
    /// How many bytes of its body are held with its head, where it is held.
    pub held: Option<usize>,
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
    pub fn begin(
        host: &dyn Host,
        holds: &FailedHolds,
        status: u16,
        now: impl FnOnce() -> SystemTime,
    ) -> Option<(Self, Then)> {
        if !may_have_status(status) {
            return None;
        }
        if !may_tell(status, pairs(&host.response_headers())) {
            return None;
        }
        let (phase, then) = match holds.may_hold() {
            true => {
                let until = now() + LONGEST_HOLD;
                (Phase::HoldingHead(until), Then::Pause(Some(until)))
            }
            false => (Phase::Forwarding, Then::Continue),
        };
        Some((Self { status, text: Some(Vec::new()), forwarded: 0, phase }, then))
    }

    /// Takes what there is of the body: all that has come and not gone on, or nothing more at its
    /// trailers.
    pub fn read(
        mut self,
        host: &dyn Host,
        holds: &FailedHolds,
        now: impl FnOnce() -> SystemTime,
        size: Option<usize>,
        ended: bool,
    ) -> Inspected {
        if let Some(size) = size {
            self.take(host, holds, size);
        }
        let is_long = self.text.is_none();
        let found = ended.then(|| self.diagnose()).flatten();
        let (next, then) = match self.phase {
            Phase::Releasing if size.is_some() => (Some(self), Then::Pause(Some(now()))),
            _ if ended || is_long => (None, Then::Continue),
            Phase::Forwarding | Phase::Releasing => {
                self.forwarded = self.length();
                (Some(self), Then::Continue)
            }
            Phase::HoldingHead(until) | Phase::HoldingBody(until) => {
                self.phase = Phase::HoldingBody(until);
                (Some(self), Then::Pause(Some(until)))
            }
        };
        Inspected { next, then, found }
    }

    /// Lets the response go on whose body does not come, if it is time.
    pub fn wake_up(
        mut self,
        host: &dyn Host,
        holds: &FailedHolds,
        now: SystemTime,
    ) -> (Self, Then) {
        match self.phase {
            Phase::HoldingHead(until) | Phase::HoldingBody(until)
                if !is_over(until, LONGEST_HOLD, now) =>
            {
                return (self, Then::Pause(Some(until)));
            }
            Phase::HoldingHead(_) => {
                if host.response_is_complete() {
                    holds.add();
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

    /// Whether the response's head is held.
    pub fn is_held(&self) -> bool {
        matches!(self.phase, Phase::HoldingHead(_) | Phase::HoldingBody(_))
    }

    /// Reads what has come.
    fn take(&mut self, host: &dyn Host, holds: &FailedHolds, size: usize) {
        if self.is_held() {
            holds.forget();
        }
        self.text = self.text.take().and_then(|mut text| {
            text.truncate(self.forwarded);
            let is_short = text.len() + size <= LONGEST_BODY;
            is_short.then(|| {
                text.extend_from_slice(&host.response_body(size));
                text
            })
        });
    }

    fn length(&self) -> usize {
        self.text.as_ref().map_or(0, Vec::len)
    }

    fn diagnose(&self) -> Option<Found> {
        let error = ErrorBody::read(self.text.as_ref()?);
        let diagnosis = Diagnosis::of_response(self.status, &error)?;
        let held = self.is_held().then(|| self.length());
        let is_mistake = diagnosis.mistake != Mistake::Nobodys;
        is_mistake.then_some(Found { diagnosis, error, status: self.status, held })
    }
}

impl Found {
    /// Whether an operator has to correct something.
    pub fn is_operators(&self) -> bool {
        self.diagnosis.mistake.is_operators()
    }

    /// What it tells of the backend.
    pub fn misconfiguration(&self) -> Misconfiguration {
        let is_of_model = self.diagnosis.mistake == Mistake::Model;
        Misconfiguration { diagnosis: self.diagnosis.slug, is_of_model }
    }

    /// Counts and logs it; a token that was rejected is not used again.
    pub fn report(&self, host: &dyn Host, gateway: &Gateway, backend: &str, now: SystemTime) {
        let diagnosis = self.diagnosis;
        host.add(Counter::Diagnosis { backend, diagnosis }, 1);
        let Some(backend) = gateway.config.backends.iter().find(|one| one.name == backend) else {
            return;
        };
        let key = format!("aoai-filter/logged/diagnosis/{}/{}", backend.name, diagnosis.slug);
        if may_log(host, &key, now) {
            self.log(host, gateway, backend, now);
        }
        let tokens = gateway.tokens_for(backend).ok();
        let is_rejected = diagnosis.slug == TOKEN_REJECTED;
        if is_rejected && tokens.is_some_and(|tokens| tokens.reject(host, now)) {
            host.fetch_soon();
        }
    }

    fn log(&self, host: &dyn Host, gateway: &Gateway, backend: &Backend, now: SystemTime) {
        let Ok(tokens) = gateway.tokens_for(backend) else {
            return;
        };
        let bearer = tokens.usable(now);
        let claims = bearer
            .as_ref()
            .and_then(|bearer| bearer.value.expose().strip_prefix("Bearer "))
            .and_then(Claims::of);
        host.log(&LogEntry::Finding(&Finding {
            diagnosis: self.diagnosis,
            status: self.status,
            error: &self.error,
            backend: &backend.name,
            resource: backend.endpoint.authority(),
            audience: &tokens.credential.audience,
            claims: claims.as_ref(),
        }));
    }
}
