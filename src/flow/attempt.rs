//! One attempt at one of a pool's backends: the backend stage.
//!
//! It has no configuration: what it does, the request says. The first attempt leaves as the gateway stage
//! wrote it; a later one is written anew for its backend.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use super::gateway::note_that_modules_differ;
use super::host::{pairs, Host};
use super::inspection::{Inspected, Inspection};
use super::measure::{Counter, Labels};
use super::pool_request::{LastAttempt, PoolReference, PoolRequest, PoolRequests};
use super::step::{Changes, Message, Step, Then};
use super::store;
use super::tokens::bearer_value;
use crate::base::header::RETRY;
use crate::config::Placement;
use crate::identity::cache::{Readiness, Slot};
use crate::identity::IdentityError;
use crate::reply::Reply;
use crate::request::body::edit::{BodyEdit, BodyEditor, Piece};
use crate::response::diagnosis::Diagnosis;
use crate::routing::cooldown::{Availability, Claim, Cooldowns, Outcome};
use crate::routing::plan::{Attempt, DetachedPlan};
use crate::routing::{retry_after, RoutingError};

/// How far an attempt has come.
#[derive(Debug)]
pub enum AttemptFlow {
    /// Nothing is known of it.
    New(Rc<PoolRequests>),
    /// It is on its way to its backend, and there is no response.
    Sent(Sent),
    /// Its response's head has come, and is inspected.
    Inspecting(Sent, Inspection),
    /// Its response has begun, or it has got a local reply.
    Ended,
}

/// What happens to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptEvent {
    /// The request's head is about to be sent, and is all there is where it has `ended`.
    Head {
        /// Whether there is no body.
        ended: bool,
    },
    /// A piece of its body is.
    Body {
        /// How many bytes the host holds, this piece included.
        size: usize,
        /// Whether this is the last piece.
        ended: bool,
    },
    /// Its trailers are.
    Trailers,
    /// The head of the response has come, and is all there is where it has `ended`.
    ResponseHead {
        /// Whether there is no body.
        ended: bool,
    },
    /// A piece of the response's body has come.
    ResponseBody {
        /// How many bytes the host holds, this piece included.
        size: usize,
        /// Whether this is the last piece.
        ended: bool,
    },
    /// The response's trailers have come.
    ResponseTrailers,
    /// The response's head has been held for as long as it was to be.
    WakeUp,
    /// The attempt is over.
    End,
}

/// An attempt on its way.
#[derive(Debug)]
pub struct Sent {
    backend: String,
    request: Request,
    editor: Option<BodyEditor>,
}

/// Of which request it is.
#[derive(Debug)]
enum Request {
    /// Of one of this module's, which was found by this.
    Shared(Rc<RefCell<PoolRequest>>, PoolReference),
    /// Of another module's, by what that left.
    Detached { plan: DetachedPlan, number: usize, began: SystemTime },
    /// Of another module's, which did not know of this one: it leaves as that wrote it.
    Foreign,
}

impl AttemptFlow {
    /// The state after an event, and what becomes of the message at hand.
    pub fn on(self, event: AttemptEvent, host: &dyn Host) -> (Self, Step) {
        let message = match event {
            AttemptEvent::ResponseHead { .. }
            | AttemptEvent::ResponseBody { .. }
            | AttemptEvent::ResponseTrailers
            | AttemptEvent::WakeUp => Message::Response,
            _ => Message::Request,
        };
        let mut changes = Changes::default();
        let (next, then) = match (self, event) {
            (Self::New(requests), AttemptEvent::Head { ended }) => {
                match begin(&requests, host, &mut changes) {
                    Ok(mut sent) => {
                        sent.whole(host, ended);
                        (Self::Sent(sent), Then::Continue)
                    }
                    Err(reply) => (Self::Ended, Then::Reply(reply.into())),
                }
            }
            (Self::Sent(mut sent), AttemptEvent::Body { size, ended }) => {
                sent.whole(host, ended);
                let then = sent.edit(&mut changes, size);
                (Self::Sent(sent), then)
            }
            (Self::Sent(mut sent), AttemptEvent::Trailers) => {
                sent.whole(host, true);
                (Self::Sent(sent), Then::Continue)
            }
            (Self::Sent(sent), AttemptEvent::ResponseHead { ended }) => {
                sent.response(host, &mut changes, ended)
            }
            (Self::Inspecting(sent, inspection), AttemptEvent::ResponseBody { size, ended }) => {
                sent.response_body(host, &mut changes, inspection, Some(size), ended)
            }
            (Self::Inspecting(sent, inspection), AttemptEvent::ResponseTrailers) => {
                sent.response_body(host, &mut changes, inspection, None, true)
            }
            (Self::Inspecting(sent, inspection), AttemptEvent::WakeUp) => {
                sent.wake_up(host, &mut changes, inspection)
            }
            (Self::Sent(sent), AttemptEvent::End) => {
                sent.give_up(host, &mut changes);
                (Self::Ended, Then::Continue)
            }
            (Self::Inspecting(sent, inspection), AttemptEvent::End) => {
                if let (Request::Shared(request, _), true) = (&sent.request, inspection.is_held()) {
                    request.borrow().give_back_probe(host, &sent.backend, || host.now());
                }
                (Self::Ended, Then::Continue)
            }
            // Nothing is held: the response has gone on before.
            (flow, AttemptEvent::WakeUp) => (flow, Then::Pause(None)),
            (flow, _) => (flow, Then::Continue),
        };
        (next, Step { message, changes, then })
    }
}

/// Begins an attempt: finds its request, and writes it for the backend that Envoy has chosen.
fn begin(requests: &PoolRequests, host: &dyn Host, changes: &mut Changes) -> Result<Sent, Reply> {
    let reference = host.pool_reference().and_then(|bytes| PoolReference::from_bytes(&bytes));
    let backend = host.upstream_backend();
    let shared = reference.as_ref().and_then(|reference| requests.find(reference));
    match (reference, backend, shared) {
        (Some(reference), Some(backend), Some(request)) => {
            let begun = next_attempt(&mut request.borrow_mut(), &backend, host, changes);
            request.borrow_mut().last = match &begun {
                Ok(_) => LastAttempt::Pending { backend: backend.clone() },
                // The gateway stage counts it.
                Err(reply) => LastAttempt::Replied(reply.reason),
            };
            let request = Request::Shared(request, reference);
            begun.map(|edit| Sent { backend, request, editor: edit.map(BodyEditor::new) })
        }
        (reference, backend, _) => {
            begin_alone(reference, backend, host, changes).inspect_err(|reply| {
                let (reason, labels) = (reply.reason, Labels::NONE);
                host.add(Counter::Replied { reason, labels }, 1);
            })
        }
    }
}

/// Begins an attempt at a request that is not in this module's memory.
fn begin_alone(
    reference: Option<PoolReference>,
    backend: Option<String>,
    host: &dyn Host,
    changes: &mut Changes,
) -> Result<Sent, Reply> {
    let reference = reference.ok_or(RoutingError::UnknownBackend)?;
    let backend = backend.ok_or(RoutingError::UnknownBackend)?;
    let now = host.now();
    note_that_modules_differ(host, now);
    match reference.plan {
        Some(plan) => detached_attempt(plan, backend, host, changes, now),
        None if reference.first == backend => {
            Ok(Sent { backend, request: Request::Foreign, editor: None })
        }
        None => Err(RoutingError::NoBackendLeft.into()),
    }
}

/// The next attempt at a request, and what changes in its body.
fn next_attempt(
    request: &mut PoolRequest,
    backend: &str,
    host: &dyn Host,
    changes: &mut Changes,
) -> Result<Option<BodyEdit>, Reply> {
    request.attempts += 1;
    let model = Arc::clone(&request.plan.model);
    let placement = model.on(backend).ok_or(RoutingError::UnknownBackend)?;
    let is_first = request.plan.order.first().is_some_and(|first| first.name == backend);
    if request.attempts == 1 && is_first {
        request.asked = Some(backend.to_owned());
        return Ok(None);
    }
    let now = host.now();
    request.note_failure(host);
    let at = |name: &str| request.plan.order.iter().position(|one| one.name == name);
    let may_be_asked = match &request.last {
        // Envoy goes on by itself where there was no response, and from a pool's end to its beginning,
        // too.
        LastAttempt::Pending { backend: last } => {
            at(last) < at(backend) && may_be_asked(request, placement, host, now)
        }
        // It has been decided then that the next one may be asked; but Envoy skips a backend without an
        // address.
        LastAttempt::Responded { backend: last, .. } => {
            at(last).map(|last| last + 1) == at(backend)
                || is_available(request, placement, host, now)
        }
        LastAttempt::None | LastAttempt::Replied(_) => true,
    };
    if !may_be_asked {
        return Err(request.exhausted(host, now));
    }
    let bearer = request.gateway.tokens_for(&placement.backend)?.newest(host, now)?;
    let bearer = bearer.ok_or(IdentityError::Unavailable { wait: super::tokens::IDLE })?;
    request.asked = Some(backend.to_owned());
    request.began = now;
    let attempt = request.plan.attempt(backend)?;
    let edit = attempt.body.clone();
    write(attempt, changes);
    changes.set("authorization", bearer.value.expose());
    Ok(edit)
}

/// Writes a head for an attempt.
fn write(attempt: Attempt<'_>, changes: &mut Changes) {
    changes.set(":authority", attempt.authority.as_bytes());
    changes.set(":path", attempt.path.into_owned());
    if let Some(length) = attempt.content_length {
        changes.set("content-length", length.to_string());
    }
}

/// An attempt at a request whose gateway stage is of another module.
fn detached_attempt(
    plan: DetachedPlan,
    backend: String,
    host: &dyn Host,
    changes: &mut Changes,
    now: SystemTime,
) -> Result<Sent, Reply> {
    let (number, planned) = plan.attempt(&backend).ok_or(RoutingError::UnknownBackend)?;
    let mut editor = None;
    // The first leaves as it was written, and Envoy may come back to its backend from the pool's end.
    if number > 1 || !is_written_for(&planned.attempt, host) {
        let slot: Slot = store::load(host, &planned.token_key);
        let Readiness::Ready(token) = slot.readiness(now) else {
            return Err(RoutingError::NoBackendLeft.into());
        };
        changes.set("authorization", bearer_value(&token.secret).expose());
        editor = planned.attempt.body.clone().map(BodyEditor::new);
        write(planned.attempt.clone(), changes);
    }
    let request = Request::Detached { plan, number, began: now };
    Ok(Sent { backend, request, editor })
}

/// Whether the head that all attempts share is written for this one.
fn is_written_for(attempt: &Attempt<'_>, host: &dyn Host) -> bool {
    let authority = (":authority", attempt.authority.as_bytes());
    host.request_headers()
        .iter()
        .any(|(name, value)| (name.as_str(), value.as_slice()) == authority)
}

impl Sent {
    /// The backend has the whole request, where it has ended.
    fn whole(&mut self, host: &dyn Host, ended: bool) {
        if let (Request::Shared(request, _), true) = (&self.request, ended) {
            let mut request = request.borrow_mut();
            if request.whole_since.is_none() {
                let now = host.now();
                request.whole_since = Some(now);
                if request.claim == Some(Claim::Probe) && request.attempts == 1 {
                    let (cooldowns, model) = (&request.gateway.cooldowns, &request.plan.model);
                    cooldowns.complete_probe(host, &self.backend, &model.name, now);
                }
            }
        }
    }

    fn edit(&mut self, changes: &mut Changes, size: usize) -> Then {
        match self.editor.as_mut().map(|editor| editor.next(size)) {
            None | Some(Piece::Unchanged) => Then::Continue,
            Some(Piece::Incomplete) => Then::Pause(None),
            Some(Piece::Edited(edit)) => {
                changes.body = Some(edit);
                Then::Continue
            }
        }
    }

    /// The response's head: one that may tell of a misconfiguration is held until its body tells.
    fn response(self, host: &dyn Host, changes: &mut Changes, ended: bool) -> (AttemptFlow, Then) {
        let status = host.response_status().unwrap_or_default();
        let now = std::cell::LazyCell::new(|| host.now());
        let inspection = match &self.request {
            Request::Shared(request, _) if !ended => {
                let holds = &request.borrow().gateway.failed_attempt_holds;
                Inspection::begin(host, holds, status, || *now)
            }
            _ => None,
        };
        if let Some((inspection, then @ Then::Pause(_))) = inspection {
            return (AttemptFlow::Inspecting(self, inspection), then);
        }
        let outcome =
            Outcome::of_status(status, || retry_after::read(pairs(&host.response_headers()), *now));
        self.settle(host, changes, status, (outcome, None), || *now);
        match inspection {
            Some((inspection, then)) => (AttemptFlow::Inspecting(self, inspection), then),
            None => (AttemptFlow::Ended, Then::Continue),
        }
    }

    fn response_body(
        self,
        host: &dyn Host,
        changes: &mut Changes,
        inspection: Inspection,
        size: Option<usize>,
        ended: bool,
    ) -> (AttemptFlow, Then) {
        let Request::Shared(request, _) = &self.request else {
            return (AttemptFlow::Ended, Then::Continue);
        };
        let was_held = inspection.is_held();
        let gateway = Rc::clone(&request.borrow().gateway);
        let now = std::cell::LazyCell::new(|| host.now());
        let holds = &gateway.failed_attempt_holds;
        let Inspected { next, then, found } = inspection.read(host, holds, || *now, size, ended);
        if let Some(found) = &found {
            found.report(host, &gateway, &self.backend, *now);
        }
        let misconfiguration = found.as_ref().filter(|found| found.is_operators());
        let outcome =
            misconfiguration.map(|found| Outcome::Misconfigured(found.misconfiguration()));
        if was_held && then == Then::Continue {
            let status = host.response_status().unwrap_or_default();
            let outcome = outcome.unwrap_or(Outcome::Inconclusive);
            let diagnosis = found.map(|found| found.diagnosis);
            self.settle(host, changes, status, (outcome, diagnosis), || *now);
        } else if let Some(outcome) = outcome {
            request.borrow().record(host, &self.backend, outcome, false, || *now);
        }
        match next {
            Some(inspection) => (AttemptFlow::Inspecting(self, inspection), then),
            None => (AttemptFlow::Ended, then),
        }
    }

    fn wake_up(
        self,
        host: &dyn Host,
        changes: &mut Changes,
        inspection: Inspection,
    ) -> (AttemptFlow, Then) {
        let Request::Shared(request, _) = &self.request else {
            return (AttemptFlow::Ended, Then::Continue);
        };
        let was_held = inspection.is_held();
        let gateway = Rc::clone(&request.borrow().gateway);
        let now = host.now();
        let (inspection, then) = inspection.wake_up(host, &gateway.failed_attempt_holds, now);
        if was_held && then == Then::Continue {
            let status = host.response_status().unwrap_or_default();
            self.settle(host, changes, status, (Outcome::Inconclusive, None), || now);
        }
        (AttemptFlow::Inspecting(self, inspection), then)
    }

    /// The response is known as far as it can be, and its head is about to go on: to the caller, or to
    /// nobody where the next backend is asked.
    fn settle(
        &self,
        host: &dyn Host,
        changes: &mut Changes,
        status: u16,
        (outcome, diagnosis): (Outcome, Option<&'static Diagnosis>),
        now: impl Fn() -> SystemTime,
    ) {
        // A backend's own header of this name decides nothing.
        changes.remove(RETRY);
        let backend = &self.backend;
        let may_move_on = match &self.request {
            Request::Shared(request, reference) => {
                let mut request = request.borrow_mut();
                let (model, result) = (request.plan.model.name.as_str(), outcome.into());
                host.add(Counter::Attempt { backend, model, result, status: Some(status) }, 1);
                request.learn(host, backend, outcome, &now);
                let backend = backend.clone();
                request.last = LastAttempt::Responded { backend, status, outcome, diagnosis };
                let may_move_on =
                    outcome.may_move_on() && may_move_on(&request, &self.backend, host, now());
                if may_move_on {
                    leave_plan(&request, reference.clone(), changes);
                }
                may_move_on
            }
            Request::Detached { plan, number, began } => {
                outcome.may_move_on() && may_move_on_detached(plan, *number, *began, host, now())
            }
            Request::Foreign => false,
        };
        if may_move_on {
            changes.set(RETRY, "1");
        }
    }

    /// There is no response: the attempt after this one tells whether the backend failed or the caller
    /// has left.
    fn give_up(self, host: &dyn Host, changes: &mut Changes) {
        if let Request::Shared(request, reference) = self.request {
            let mut request = request.borrow_mut();
            request.connection_failed = request.whole_since.is_none() && host.connection_failed();
            leave_plan(&request, reference, changes);
            request.give_back_probe(host, &self.backend, || host.now());
        }
    }
}

/// Leaves what another module needs for the next attempt: Envoy makes it in the pool's cluster as that is
/// then, and it may have been replaced since this attempt began.
fn leave_plan(request: &PoolRequest, mut reference: PoolReference, changes: &mut Changes) {
    if reference.plan.is_none() {
        reference.plan = request.detached().ok();
        changes.pool_reference = Some(reference.to_bytes());
    }
}

/// Whether the backend after this one may be tried: there is one, it may be asked, and it can be sent the
/// whole request.
fn may_move_on(request: &PoolRequest, from: &str, host: &dyn Host, now: SystemTime) -> bool {
    if !request.can_be_sent_again() {
        return false;
    }
    // Envoy skips a backend without an address, so that attempts do not count positions.
    let order = &request.plan.order;
    let next = order.iter().skip_while(|one| one.name != from).nth(1);
    let next = next.and_then(|next| request.plan.model.on(&next.name));
    next.is_some_and(|next| may_be_asked(request, next, host, now))
}

/// Whether a backend may be asked next: it is ready, and it is not too late. The caller has a time limit of its
/// own, and a backend that hung for a minute may still respond to the request.
fn may_be_asked(request: &PoolRequest, next: &Placement, host: &dyn Host, now: SystemTime) -> bool {
    request.waited(now) <= request.gateway.config.failover.retry_within
        && is_available(request, next, host, now)
}

fn is_available(
    request: &PoolRequest,
    placement: &Placement,
    host: &dyn Host,
    now: SystemTime,
) -> bool {
    let states = request.gateway.states(host, now);
    states.get().may_be_next(&request.plan.model, placement, request.asker(), now)
}

fn may_move_on_detached(
    plan: &DetachedPlan,
    number: usize,
    began: SystemTime,
    host: &dyn Host,
    now: SystemTime,
) -> bool {
    let waited = now.duration_since(began).unwrap_or_default();
    plan.attempts.get(number).is_some_and(|next| {
        let cooldowns: Cooldowns = store::load(host, super::cooldowns::KEY);
        let availability = cooldowns.availability(&next.backend, &plan.model, true, now);
        let slot: Slot = store::load(host, &next.token_key);
        waited <= plan.retry_within
            && !matches!(availability, Availability::Cooldown(_))
            && matches!(slot.readiness(now), Readiness::Ready(_))
    })
}
