//! A request that was forwarded, to the end of its response.

use std::sync::Arc;
use std::time::SystemTime;

use super::body_check::BodyCheck;
use super::context::Context;
use super::envoy_reply;
use super::inspection::{Found, Inspected, Inspection};
use super::measure::{AttemptResult, Counter, LogEntry};
use super::pool_request::Registration;
use super::step::{Changes, Then};
use super::store;
use super::verdict::Verdict;
use crate::base::header::{self, BACKEND, DIAGNOSIS};
use crate::config::{Model, Subscription};
use crate::reply::{Reason, Reply};
use crate::request::body::edit::BodyEdit;
use crate::routing::cooldown::{Evidence, Outcome};
use crate::routing::selection::Asker;

/// Where it is stored when the log last had that limits were not checked.
const UNCHECKED_LOG: &str = "aoai-filter/limits-unchecked";

/// Where it is stored when the log last had that a cluster is missing.
const NO_CLUSTER_LOG: &str = "aoai-filter/no-cluster";

/// A request that was forwarded.
#[derive(Debug)]
pub struct Forwarded {
    backend: String,
    cluster: String,
    upstream: Upstream,
    rest: Option<BodyCheck>,
    response: Response,
    /// Whether its outcome is in the metrics.
    is_counted: bool,
    /// The status of a single backend's response, until that is in the metrics of attempts. Those of pools are
    /// counted by the backend stage.
    uncounted: Option<u16>,
}

/// To what a request was forwarded.
#[derive(Debug)]
pub enum Upstream {
    /// A pool.
    Pool(Registration),
    /// One backend.
    Single {
        /// The subscription that the request is of.
        subscription: Arc<Subscription>,
        /// The model that it names, where it goes to one.
        model: Option<Arc<Model>>,
        /// When it was forwarded.
        began: SystemTime,
    },
}

/// How a response goes on.
#[derive(Debug)]
enum Response {
    /// As it comes.
    Passing,
    /// Inspected; it is this backend's.
    Inspecting(Inspection, String),
    /// With another body in its place, as long as that has not been written.
    Replacing(Option<String>),
}

impl Forwarded {
    /// A request that goes on to `upstream`, by this cluster and to this backend at first. `rest` reads on in its
    /// body.
    pub fn new(
        backend: String,
        cluster: String,
        upstream: Upstream,
        rest: Option<BodyCheck>,
    ) -> Self {
        let response = Response::Passing;
        Self { backend, cluster, upstream, rest, response, is_counted: false, uncounted: None }
    }

    /// Whether its outcome is in the metrics.
    pub fn is_counted(&self) -> bool {
        self.is_counted
    }

    /// The exchange is over: counts a request that ended without a response, and tells the meter who was asked.
    pub fn end(self, ctx: &Context<'_>) {
        if !self.is_counted {
            let backend = Some(self.backend.as_str());
            ctx.count(|host, labels| host.add(Counter::Abandoned { backend, labels }, 1));
        }
        if ctx.meter.borrow().backend.is_none() {
            self.note_backend(ctx);
        }
    }

    /// Tells the meter which backend has responded, or was asked last.
    fn note_backend(&self, ctx: &Context<'_>) {
        let mut meter = ctx.meter.borrow_mut();
        match &self.upstream {
            Upstream::Pool(pool) => {
                let request = pool.request.borrow();
                meter.backend = request.asked.clone();
                meter.attempts = Some(request.attempts);
            }
            Upstream::Single { .. } => meter.backend = Some(self.backend.clone()),
        }
    }

    /// Reads the next piece of the body as it passes. None is held: Envoy would put it behind what its router
    /// keeps for a retry, show this filter all of that, and send all of it again (envoyproxy/envoy#45470).
    ///
    /// # Errors
    /// The reply to a body that is to be refused.
    pub fn read(
        mut self,
        ctx: &Context<'_>,
        changes: &mut Changes,
        size: usize,
        ended: bool,
    ) -> Result<(Self, Then), Reply> {
        if let Some(rest) = &mut self.rest {
            let piece = ctx.host.request_body(0, size);
            rest.read(&piece, ended)?;
            changes.body = rest.rewrite(&piece, ended);
        }
        ctx.meter.borrow_mut().send(size, ended);
        Ok((self, Then::Continue))
    }

    /// Takes the head of the response, which is all of it where it has `ended`.
    ///
    /// # Errors
    /// The reply in place of a response without a body.
    pub fn response(
        mut self,
        ctx: &Context<'_>,
        changes: &mut Changes,
        ended: bool,
    ) -> Result<(Self, Then), Reply> {
        let is_admitted = ctx.meter.borrow().tell_limits(ctx.host, changes);
        let verdict = match (is_admitted, &self.upstream) {
            (Err(reply), _) => Verdict::Replace(reply),
            (Ok(is_checked), upstream) => {
                if !is_checked {
                    report_unchecked(ctx);
                }
                self.note_backend(ctx);
                match upstream {
                    Upstream::Single { .. } => {
                        let (status, verdict) = self.single_response(ctx, changes);
                        self.uncounted = status;
                        verdict
                    }
                    Upstream::Pool(pool) => {
                        Verdict::of_pool(ctx, changes, &mut pool.request.borrow_mut())
                    }
                }
            }
        };
        if matches!(&verdict, Verdict::Replace(reply) if reply.reason == Reason::UnknownBackend)
            && store::may_log(ctx.host, NO_CLUSTER_LOG, ctx.now())
        {
            ctx.host.log(&LogEntry::NoCluster { cluster: &self.cluster });
        }
        self.meter_response(ctx, changes, &verdict);
        let then = match verdict {
            Verdict::Pass => Then::Continue,
            Verdict::Inspect(..) if ended => Then::Continue,
            Verdict::Inspect(backend, status) => {
                let holds = &ctx.gateway.failed_holds;
                match Inspection::begin(ctx.host, holds, status, || ctx.now()) {
                    Some((inspection, then)) => {
                        self.response = Response::Inspecting(inspection, backend);
                        then
                    }
                    None => Then::Continue,
                }
            }
            // There is no body in whose place another one could be written.
            Verdict::Replace(reply) if ended => return Err(reply),
            Verdict::Replace(reply) => {
                self.count_reply(ctx, &reply);
                let body = reply.body();
                replace_head(ctx, changes, &reply, body.len());
                self.response = Response::Replacing(Some(body));
                Then::Continue
            }
        };
        let is_held = matches!(&self.response, Response::Inspecting(one, _) if one.is_held());
        if !is_held {
            self.count_forwarded(ctx);
        }
        Ok((self, then))
    }

    /// Tells the meter whether the response is that of a backend that serves the request. Where some of a stream will
    /// be taken out, its length is not what its head says, should it say one.
    fn meter_response(&self, ctx: &Context<'_>, changes: &mut Changes, verdict: &Verdict) {
        let is_served = match (verdict, &self.upstream) {
            (Verdict::Inspect(_, status), _) => *status < 400,
            (Verdict::Pass, Upstream::Pool(pool)) => pool.request.borrow().is_served(),
            (Verdict::Pass, Upstream::Single { .. }) | (Verdict::Replace(_), _) => false,
        };
        let takes_out = self.rest.as_ref().is_some_and(BodyCheck::is_asked_for_gateway);
        if takes_out && is_served {
            changes.remove("content-length");
        }
        ctx.meter.borrow_mut().respond(is_served, takes_out);
    }

    /// Counts that the request has got a local reply in place of a response, unless it is counted.
    fn count_reply(&mut self, ctx: &Context<'_>, reply: &Reply) {
        let reason = reply.reason;
        let mut meter = ctx.meter.borrow_mut();
        (meter.reason, meter.diagnosis) = (Some(reason), reply.diagnosis.clone());
        drop(meter);
        if !std::mem::replace(&mut self.is_counted, true) {
            ctx.count(|host, labels| host.add(Counter::Replied { reason, labels }, 1));
        }
    }

    /// Counts that the request has got a response, unless it is counted.
    fn count_forwarded(&mut self, ctx: &Context<'_>) {
        let replied = match &self.upstream {
            // Of the backend stage's own.
            Upstream::Pool(pool) => pool.request.borrow().reply(),
            Upstream::Single { .. } => None,
        };
        if std::mem::replace(&mut self.is_counted, true) {
            return;
        }
        if let Some(status) = self.uncounted.take() {
            let result = Outcome::of_status(status, || None).into();
            self.count_attempt(ctx, result, Some(status));
        }
        if let Some(reason) = replied {
            ctx.meter.borrow_mut().reason = replied;
            ctx.count(|host, labels| host.add(Counter::Replied { reason, labels }, 1));
        } else {
            ctx.count(|host, labels| {
                host.add(Counter::Forwarded { backend: &self.backend, labels }, 1)
            });
        }
    }

    /// A response of a single backend, and its status if it is the backend's. Envoy adds that one's name to its
    /// responses.
    fn single_response(&self, ctx: &Context<'_>, changes: &mut Changes) -> (Option<u16>, Verdict) {
        let Some(status) = ctx.host.response_status() else {
            return (None, Verdict::Pass);
        };
        if status >= 500 {
            let details = ctx.host.response_code_details().unwrap_or_default();
            if !details.is_empty() && details != envoy_reply::VIA_UPSTREAM {
                if envoy_reply::is_failure(&details, || Some(status)) {
                    self.count_attempt(ctx, AttemptResult::Failed, None);
                }
                changes.set(BACKEND, self.backend.as_str());
                let reply = envoy_reply::in_our_words(&details, status, Reply::no_response);
                return (None, reply.map_or(Verdict::Pass, Verdict::Replace));
            }
        }
        if status < 400 {
            self.record(ctx, Outcome::Served);
        }
        (Some(status), Verdict::Inspect(self.backend.clone(), status))
    }

    /// Counts an attempt at a single backend.
    fn count_attempt(&self, ctx: &Context<'_>, result: AttemptResult, status: Option<u16>) {
        if let Upstream::Single { model, .. } = &self.upstream {
            let (backend, model) = (self.backend.as_str(), model.as_ref());
            let model = model.map_or("none", |model| model.name.as_str());
            ctx.host.add(Counter::Attempt { backend, model, result, status }, 1);
        }
    }

    /// Remembers what a response of a single backend tells of it: where it goes no request goes
    /// elsewhere, but other models have the backend too, and an operator sees it.
    fn record(&self, ctx: &Context<'_>, outcome: Outcome) {
        let Upstream::Single { subscription, model, began } = &self.upstream else {
            return;
        };
        // Where the model has other backends, this is a request to store something, and what it lacks
        // others may not need.
        let is_free = model.as_ref().is_none_or(|model| model.is_pooled());
        if is_free && !matches!(outcome, Outcome::Misconfigured(found) if !found.is_of_model) {
            return;
        }
        let model = model.as_ref().map_or("", |model| model.name.as_str());
        let asker = Asker { subscription: &subscription.id, is_whole: true };
        let evidence =
            || Evidence { subscription: asker.number(), is_confirmed: true, began: *began };
        let (cooldowns, config) = (&ctx.gateway.cooldowns, &ctx.gateway.config);
        let pair = (self.backend.as_str(), model);
        cooldowns.record(ctx.host, pair, outcome, evidence, &config.failover, || ctx.now());
    }

    /// Takes the next piece of the response's body, or its trailers, where there is no `size`.
    pub fn response_body(
        mut self,
        ctx: &Context<'_>,
        changes: &mut Changes,
        size: Option<usize>,
        ended: bool,
    ) -> (Self, Then) {
        let then = match std::mem::replace(&mut self.response, Response::Passing) {
            Response::Passing => {
                if let Some(size) = size {
                    changes.body = read_usage(ctx, size, ended);
                }
                Then::Continue
            }
            Response::Replacing(body) => {
                if let Some(size) = size {
                    let with = body.unwrap_or_default();
                    changes.body = Some(BodyEdit { at: 0..size, with: with.into_bytes() });
                    self.response = Response::Replacing(None);
                }
                Then::Continue
            }
            Response::Inspecting(inspection, backend) => {
                let holds = &ctx.gateway.failed_holds;
                let Inspected { next, then, found } =
                    inspection.read(ctx.host, holds, || ctx.now(), size, ended);
                if let Some(found) = &found {
                    self.take(ctx, changes, (found, &backend), size);
                }
                if let Some(inspection) = next {
                    self.response = Response::Inspecting(inspection, backend);
                }
                then
            }
        };
        if then == Then::Continue {
            self.count_forwarded(ctx);
        }
        (self, then)
    }

    /// Takes what a single backend's response tells: of a mistake of the operator's the caller learns no more
    /// than that it is one.
    fn take(
        &mut self,
        ctx: &Context<'_>,
        changes: &mut Changes,
        (found, backend): (&Found, &str),
        size: Option<usize>,
    ) {
        found.report(ctx.host, ctx.gateway, backend, ctx.now());
        if found.is_operators() {
            if let Some(status) = self.uncounted.take() {
                self.count_attempt(ctx, AttemptResult::Misconfigured, Some(status));
            }
            self.record(ctx, Outcome::Misconfigured(found.misconfiguration()));
        }
        match (found.held, size) {
            (Some(held), Some(_)) if found.is_operators() => {
                let reply = Reply::misconfigured(found.diagnosis.slug);
                self.count_reply(ctx, &reply);
                let with = reply.body();
                replace_head(ctx, changes, &reply, with.len());
                changes.body = Some(BodyEdit { at: 0..held, with: with.into_bytes() });
            }
            (Some(_), _) => {
                ctx.meter.borrow_mut().diagnosis = Some(found.diagnosis.slug.to_owned());
                changes.set(DIAGNOSIS, found.diagnosis.slug);
            }
            (None, _) => {}
        }
    }

    /// Takes that the response has been held for long enough.
    pub fn wake_up(mut self, ctx: &Context<'_>) -> (Self, Then) {
        let then = match std::mem::replace(&mut self.response, Response::Passing) {
            Response::Inspecting(inspection, backend) => {
                let holds = &ctx.gateway.failed_holds;
                let (inspection, then) = inspection.wake_up(ctx.host, holds, ctx.now());
                self.response = Response::Inspecting(inspection, backend);
                then
            }
            response => {
                self.response = response;
                Then::Pause(None)
            }
        };
        if then == Then::Continue {
            self.count_forwarded(ctx);
        }
        (self, then)
    }
}

/// A request has passed by the service of limits: it does not respond, and the document allows that, or it does not
/// know the subscription's limits.
fn report_unchecked(ctx: &Context<'_>) {
    ctx.count(|host, labels| host.add(Counter::LimitsUnchecked { labels }, 1));
    let meter = ctx.meter.borrow();
    let subscription = meter.caller.subscription.as_ref().map_or("", |one| one.id.as_str());
    if store::may_log(ctx.host, UNCHECKED_LOG, ctx.now()) {
        ctx.host.log(&LogEntry::LimitsUnchecked { subscription });
    }
}

/// Reads the usage of a piece of a response's body. What goes on in its place, where that is not the piece.
fn read_usage(ctx: &Context<'_>, size: usize, ended: bool) -> Option<BodyEdit> {
    let mut meter = ctx.meter.borrow_mut();
    if !meter.reads() {
        return None;
    }
    let piece = ctx.host.response_body(size);
    let changed = meter.read(ctx.host, || ctx.now(), &piece, ended);
    changed.map(|with| BodyEdit { at: 0..size, with })
}

/// Writes a local reply's head over that of the response at hand, of which nothing is shown but what tells
/// operators of it. `length` is that of the reply's body.
fn replace_head(ctx: &Context<'_>, changes: &mut Changes, reply: &Reply, length: usize) {
    for (name, _) in ctx.host.response_headers() {
        let is_kept = name.starts_with(':')
            || header::is_internal(&name)
            || matches!(name.as_str(), "date" | "server" | "apim-request-id" | "x-request-id");
        if !is_kept {
            changes.remove(&name);
        }
    }
    changes.set(":status", reply.reason.status().to_string());
    for (name, value) in reply.headers() {
        changes.set(name, value);
    }
    changes.set("content-length", length.to_string());
}
