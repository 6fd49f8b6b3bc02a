//! A request's way through the gateway stage, from its head to the end of its response.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::body_check::{Asked, BodyCheck};
use super::context::Context;
use super::forwarded::{Forwarded, Upstream};
use super::measure::Counter;
use super::metering::Meter;
use super::pool_request::{LastAttempt, Met, PoolRequest, Registration};
use super::refused::{Body, Refused};
use super::request_buffer::BufferedBody;
use super::step::{Changes, Message, Step, Then};
use super::tokens::Bearer;
use crate::access::key;
use crate::base::clock::is_over;
use crate::base::header::{self, ATTEMPTS, BACKEND, CLUSTER, SUBPROTOCOLS};
use crate::config::{Affinity, Config, Model, Streams, Subscription};
use crate::identity::IdentityError;
use crate::reply::{models, Reason, Reply};
use crate::request::body::edit::ModelInBody;
use crate::request::body::{BodyError, BodyReader};
use crate::request::head::Head;
use crate::request::operation::{Listing, ModelSource, Operation, TokenUse};
use crate::request::path::{without_keys, ModelInUrl, Query, Target, WrittenPath};
use crate::request::RequestError;
use crate::routing::cooldown::Claim;
use crate::routing::plan::AttemptPlan;
use crate::routing::route::Destination;
use crate::routing::selection::{Asker, BackendStates};
use crate::routing::RoutingError;

/// After so long without a body it is checked whether Envoy holds it back.
const BODY_CHECK: Duration = Duration::from_secs(1);

/// How often a request looks for a token: one that another worker has fetched comes without an event.
const TOKEN_POLL: Duration = Duration::from_millis(5);

/// The reply where there is no gateway. Envoy uses no filter whose configuration was refused, so no caller
/// should see it.
pub fn unconfigured() -> Reply {
    Reason::TokenUnavailable.because(
        "This gateway has no valid configuration. The operator of this gateway finds the reason in its log.",
    )
}

/// A compressed response tells its usage to nobody on its way.
const ACCEPT_ENCODING: &str = "accept-encoding";

/// Nor does a session with compressed frames (RFC 7692).
const EXTENSIONS: &str = "sec-websocket-extensions";

/// A request that finds one probe after the other claimed goes on in the end.
const MOST_CLAIMS: usize = 8;

/// A request.
#[derive(Debug, Default)]
pub struct RequestFlow {
    /// How far it has come.
    pub state: State,
    meter: Meter,
}

/// How far a request has come.
#[derive(Debug, Default)]
pub enum State {
    /// Nothing is known of it.
    #[default]
    New,
    /// Its body has not named the model yet.
    AwaitingModel(AwaitingModel),
    /// There is no token for it yet.
    AwaitingToken(AwaitingToken),
    /// It is refused, and its body is still coming.
    Refused(Refused),
    /// It has been forwarded.
    Forwarded(Forwarded),
    /// It has got a local reply after it had been forwarded, and the reply's head has not come by.
    Replied,
    /// What comes of it is passed on as it is.
    Ended,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its head has come, and is all there is where it has `ended`.
    Head {
        /// Whether there is no body.
        ended: bool,
    },
    /// A piece of its body has come.
    Body {
        /// How many bytes the host holds, this piece included.
        size: usize,
        /// Whether this is the last piece.
        ended: bool,
    },
    /// Its trailers have come.
    Trailers,
    /// It has waited for as long as it wanted to, or there may be a token.
    WakeUp,
    /// The head of its response has come.
    ResponseHead {
        /// Whether there is no body.
        ended: bool,
    },
    /// A piece of its response's body has come.
    ResponseBody {
        /// How many bytes the host holds, this piece included.
        size: usize,
        /// Whether this is the last piece.
        ended: bool,
    },
    /// Its response's trailers have come.
    ResponseTrailers,
    /// It is over, in whatever way.
    End,
}

/// A request whose body has not named the model yet.
#[derive(Debug)]
pub struct AwaitingModel {
    reader: BodyReader,
    admitted: Admitted,
    requirement: ModelRequirement,
    /// Those of its headers by which a model may have an affinity.
    affinities: Vec<(String, Vec<u8>)>,
    /// How much of the body is held and was read.
    held: usize,
    check_at: SystemTime,
}

/// What an operation requires of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModelRequirement {
    /// It must name a model, which decides where it goes.
    Required,
    /// It may name a model, which must then be served where the subscription's resources are.
    Optional,
}

/// What is known of a request by its head.
#[derive(Debug)]
struct Admitted {
    subscription: Arc<Subscription>,
    is_stateful: bool,
    refuses_data_sources: bool,
    /// Whether a stream is asked to tell its usage.
    asks_for_usage: bool,
    path: WrittenPath,
    content_length: Option<u64>,
    buffered: BufferedBody,
}

/// A request that waits for a token.
#[derive(Debug)]
pub struct AwaitingToken {
    routed: Routed,
    body: HeldBody,
    deadline: SystemTime,
}

/// A request whose destination is known.
#[derive(Debug)]
struct Routed {
    subscription: Arc<Subscription>,
    destination: Destination,
    path: WrittenPath,
    /// Where its body names the model, if it does.
    model: Option<ModelInBody>,
    content_length: Option<u64>,
    /// Reads on, where the body can still be refused.
    rest: Option<BodyCheck>,
    buffered: BufferedBody,
}

/// What the host holds of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HeldBody {
    size: usize,
    /// Whether that is all of it.
    ended: bool,
}

impl HeldBody {
    /// Whether it is all of a request's body, of which the head says this length.
    fn is_whole(self, content_length: Option<u64>) -> bool {
        self.ended || content_length == Some(self.size as u64)
    }
}

/// The state after an event and what becomes of the message, or the reply that the caller gets instead.
type Transition = Result<(State, Then), Reply>;

impl RequestFlow {
    /// The state after an event, and what becomes of the message at hand.
    pub fn on(self, event: Event, ctx: &Context<'_>) -> (Self, Step) {
        ctx.meter.replace(self.meter);
        let (state, step) = self.state.on(event, ctx);
        (Self { state, meter: ctx.meter.take() }, step)
    }
}

impl State {
    fn on(self, event: Event, ctx: &Context<'_>) -> (Self, Step) {
        let mut changes = Changes::default();
        let message = match event {
            Event::ResponseHead { .. } | Event::ResponseBody { .. } | Event::ResponseTrailers => {
                Message::Response
            }
            Event::WakeUp if matches!(self, Self::Forwarded(_)) => Message::Response,
            _ => Message::Request,
        };
        let was_forwarded = matches!(self, Self::Forwarded(_));
        let was_counted = matches!(&self, Self::Forwarded(state) if state.is_counted());
        match self.advance(event, ctx, &mut changes) {
            Ok((next, then)) => (next, Step { message, changes, then }),
            Err(reply) => {
                let reason = reply.reason;
                ctx.meter.borrow_mut().reason = Some(reason);
                if !was_counted {
                    ctx.count(|host, labels| host.add(Counter::Replied { reason, labels }, 1));
                }
                let next = if was_forwarded { Self::Replied } else { Self::Ended };
                (next, Step { message, changes, then: Then::Reply(reply.into()) })
            }
        }
    }

    fn advance(self, event: Event, ctx: &Context<'_>, changes: &mut Changes) -> Transition {
        match (self, event) {
            (Self::New, Event::Head { ended }) => head(ctx, changes, ended),
            (Self::AwaitingModel(state), Event::Body { size, ended }) => {
                let body = Body { held: size, ended, length: state.admitted.content_length };
                let next = state.read(ctx, changes, size, ended);
                next.or_else(|reply| refuse(ctx, changes, reply, body))
            }
            (Self::AwaitingToken(state), Event::Body { size, ended }) => {
                let body = Body { held: size, ended, length: state.routed.content_length };
                let next = state.read(ctx, changes, size, ended);
                next.or_else(|reply| refuse(ctx, changes, reply, body))
            }
            (Self::Refused(state), Event::Body { size, ended }) => {
                refused(state.discard(changes, size, ended))
            }
            (Self::Forwarded(state), Event::Body { size, ended }) => {
                forwarded(state.read(ctx, changes, size, ended))
            }
            (flow, Event::Trailers) => {
                let names = ctx.host.request_trailers().into_iter().map(|(name, _)| name);
                changes.removed_trailers.extend(names.filter(|name| header::is_internal(name)));
                match flow {
                    Self::AwaitingModel(state) => {
                        let held = state.held;
                        state.read(ctx, changes, held, true)
                    }
                    Self::AwaitingToken(state) => {
                        let held = state.body.size;
                        state.read(ctx, changes, held, true)
                    }
                    Self::Refused(state) => refused(state.discard(changes, 0, true)),
                    Self::Forwarded(state) => forwarded(state.read(ctx, changes, 0, true)),
                    flow @ (Self::New | Self::Replied | Self::Ended) => {
                        Ok((flow, Then::Pause(None)))
                    }
                }
            }
            (Self::AwaitingModel(state), Event::WakeUp) => state.wake_up(ctx),
            (Self::AwaitingToken(state), Event::WakeUp) => {
                let HeldBody { size: held, ended } = state.body;
                let body = Body { held, ended, length: state.routed.content_length };
                let next = state.wake_up(ctx, changes);
                next.or_else(|reply| refuse(ctx, changes, reply, body))
            }
            (Self::Refused(state), Event::WakeUp) => refused(state.wake_up(ctx)),
            (Self::Forwarded(state), Event::WakeUp) => forwarded(Ok(state.wake_up(ctx))),
            (Self::Forwarded(state), Event::ResponseHead { ended }) => {
                forwarded(state.response(ctx, changes, ended))
            }
            (Self::Forwarded(state), Event::ResponseBody { size, ended }) => {
                forwarded(Ok(state.response_body(ctx, changes, Some(size), ended)))
            }
            (Self::Forwarded(state), Event::ResponseTrailers) => {
                forwarded(Ok(state.response_body(ctx, changes, None, true)))
            }
            (Self::Replied, Event::ResponseHead { .. }) => {
                // The route has added them: a backend had been chosen.
                changes.remove(BACKEND);
                changes.remove(ATTEMPTS);
                Ok((Self::Ended, Then::Continue))
            }
            (flow, Event::End) => {
                flow.end(ctx);
                Ok((Self::Ended, Then::Continue))
            }
            // A request that waits has got a reply of Envoy's own, and waits no longer.
            (
                _,
                Event::ResponseHead { .. } | Event::ResponseBody { .. } | Event::ResponseTrailers,
            ) => Ok((Self::Ended, Then::Continue)),
            // A body without a head, or one of a request that has ended.
            (flow, Event::Head { .. } | Event::Body { .. } | Event::WakeUp) => {
                Ok((flow, Then::Pause(None)))
            }
        }
    }
}

impl State {
    /// Counts what a request has used, and one that ended without a response.
    fn end(self, ctx: &Context<'_>) {
        match self {
            Self::AwaitingModel(_) | Self::AwaitingToken(_) | Self::Refused(_) => {
                ctx.count(|host, labels| host.add(Counter::Abandoned { backend: None, labels }, 1));
            }
            Self::Forwarded(state) => state.end(ctx),
            Self::New | Self::Replied | Self::Ended => {}
        }
        ctx.meter.borrow_mut().settle(ctx.host, &ctx.gateway.series, || ctx.now());
    }
}

/// Refuses a request that has not been forwarded, once it has been received as far as it is worth it.
fn refuse(ctx: &Context<'_>, changes: &mut Changes, reply: Reply, body: Body) -> Transition {
    refused(Refused::begin(ctx, changes, reply, body))
}

fn refused(next: Result<(Refused, Then), Reply>) -> Transition {
    next.map(|(state, then)| (State::Refused(state), then))
}

fn forwarded(next: Result<(Forwarded, Then), Reply>) -> Transition {
    next.map(|(state, then)| (State::Forwarded(state), then))
}

fn head(ctx: &Context<'_>, changes: &mut Changes, ended: bool) -> Transition {
    let pairs = ctx.host.request_headers();
    let head = Head::read(&pairs);
    admit(ctx, changes, &head, ended).or_else(|reply| {
        // What follows a head that asks for another protocol has no end.
        let ended = ended || head.value("upgrade").is_some();
        refuse(ctx, changes, reply, Body { held: 0, ended, length: head.content_length })
    })
}

/// Admits a request by its head.
fn admit(ctx: &Context<'_>, changes: &mut Changes, head: &Head<'_>, ended: bool) -> Transition {
    for name in &head.remove {
        changes.remove(name);
    }
    if let Some(subprotocols) = &head.subprotocols {
        changes.set(SUBPROTOCOLS, subprotocols.as_slice());
    }
    let target = Target::parse(head.path);
    if target.is_err() {
        // Before any reply: Envoy's access log shows the path.
        if let Some(path) = without_keys(head.path) {
            changes.set(":path", path);
        }
    }
    let query = target.as_ref().map(Target::query).unwrap_or_default();
    let subscription = key::subscription(&ctx.gateway.config, head, query, ctx.now());
    let target = match (target, &subscription) {
        (Ok(target), _) => target,
        (Err(error), Ok(_)) => return Err(RequestError::from(error).into()),
        (Err(_), Err(error)) => return Err(error.clone().into()),
    };
    let operation = Operation::find(head.method, target.segments(), target.query());
    let model = operation.and_then(|operation| operation.model.in_url());
    let path = target.write(model);
    if path.bytes() != head.path {
        changes.set(":path", path.bytes());
    }
    let subscription = subscription?;
    ctx.meter.borrow_mut().caller.subscription = Some(Arc::clone(subscription));
    let operation = operation.ok_or_else(|| RequestError::unknown(target.segments()))?;
    subscription.check_operation(operation.class)?;
    ctx.meter.borrow_mut().operation = Some(operation.name);
    if let Some(listing) = operation.listing {
        return list_models(ctx, subscription, listing, &target);
    }
    ctx.meter.borrow_mut().begin(operation.tokens, ctx.now());
    make_readable(changes, head, operation.tokens);
    let is_exact = ctx.gateway.config.metering.streams == Streams::Exact;
    let admitted = Admitted {
        asks_for_usage: is_exact && operation.tokens == TokenUse::TextsIfAsked,
        refuses_data_sources: operation.takes_data_sources && !subscription.may_use_data_sources(),
        subscription: Arc::clone(subscription),
        is_stateful: operation.is_stateful,
        path,
        content_length: head.content_length,
        buffered: BufferedBody::new(ctx.buffer, subscription),
    };
    let body = HeldBody { size: 0, ended };
    let name = match operation.model {
        ModelSource::Segment(at) => target.segments().get(at).cloned().unwrap_or_default(),
        ModelSource::Query => Cow::Owned(model_parameter(target.query())?),
        ModelSource::Body if ended => return Err(RequestError::from(BodyError::NoModel).into()),
        ModelSource::Body => {
            return await_model(ctx, head, admitted, ModelRequirement::Required);
        }
        ModelSource::BodyIfAny if !ended => {
            return await_model(ctx, head, admitted, ModelRequirement::Optional);
        }
        ModelSource::BodyIfAny | ModelSource::Nowhere => {
            return admitted.into_default(None).forward(ctx, changes, body);
        }
    };
    let model = admitted.subscription.model(&ctx.gateway.config, &name)?;
    let value = model.affinity.as_ref().and_then(Affinity::header);
    let value = value.and_then(|name| head.value(name));
    ctx.meter.borrow_mut().caller.model = Some(Arc::clone(model));
    let check = match ended {
        true => None,
        false => BodyCheck::of_url(head, admitted.refuses_data_sources, admitted.asks_for_usage)?,
    };
    let routed = admitted.route(ctx, model, value, body, None, check)?;
    routed.forward(ctx, changes, body)
}

/// Has the response of an operation that uses tokens come so that it can be read.
fn make_readable(changes: &mut Changes, head: &Head<'_>, tokens: TokenUse) {
    let has = |name: &str| head.value(name).is_some_and(|value| value != b"identity");
    match tokens {
        TokenUse::None => {}
        TokenUse::Session if has(EXTENSIONS) => changes.remove(EXTENSIONS),
        TokenUse::Session => {}
        _ if has(ACCEPT_ENCODING) => changes.set(ACCEPT_ENCODING, "identity"),
        _ => {}
    }
}

/// Answers with models that the subscription may use.
fn list_models(
    ctx: &Context<'_>,
    subscription: &Subscription,
    Listing { form, model }: Listing,
    target: &Target<'_>,
) -> Transition {
    let config = &ctx.gateway.config;
    let response = match model {
        None => models::list(form, &subscription.model_names(config)),
        Some(at) => {
            let name = target.segments().get(at).map_or("", Cow::as_ref);
            models::one(form, &subscription.model(config, name)?.name)
        }
    };
    ctx.count(|host, labels| host.add(Counter::ModelsListed { labels }, 1));
    Ok((State::Ended, Then::Reply(response)))
}

impl ModelSource {
    fn in_url(self) -> Option<ModelInUrl> {
        match self {
            Self::Segment(at) => Some(ModelInUrl::Segment(at)),
            Self::Query => Some(ModelInUrl::Parameter),
            Self::Body | Self::BodyIfAny | Self::Nowhere => None,
        }
    }
}

/// The value of the one parameter that names a model.
fn model_parameter(query: Query<'_>) -> Result<String, RequestError> {
    let mut named = query.parameters().filter(|parameter| parameter.is_like_model());
    let found = named.next().ok_or(RequestError::NoModelInQuery)?;
    if named.next().is_some() {
        return Err(RequestError::TwoModelsInQuery);
    }
    if !found.is_model() {
        return Err(RequestError::NearModelInQuery);
    }
    Ok(String::from_utf8_lossy(&found.value()).into_owned())
}

fn await_model(
    ctx: &Context<'_>,
    head: &Head<'_>,
    admitted: Admitted,
    requirement: ModelRequirement,
) -> Transition {
    let config = &ctx.gateway.config;
    let fields = config.affinities.iter().filter_map(Affinity::field);
    let check_at = ctx.now() + BODY_CHECK;
    let mut reader = head.body_format().map_err(RequestError::from)?.reader(fields);
    if admitted.refuses_data_sources {
        reader = reader.refusing_data_sources();
    }
    if admitted.asks_for_usage {
        reader = reader.asking_for_usage();
    }
    let state = AwaitingModel {
        reader,
        admitted,
        requirement,
        affinities: affinity_headers(config, head),
        held: 0,
        check_at,
    };
    Ok((State::AwaitingModel(state), Then::Pause(Some(check_at))))
}

/// The headers by which any model has an affinity, as far as this request has them.
fn affinity_headers(config: &Config, head: &Head<'_>) -> Vec<(String, Vec<u8>)> {
    let names = config.affinities.iter().filter_map(Affinity::header);
    names.filter_map(|name| Some((name.to_owned(), head.value(name)?.to_owned()))).collect()
}

impl AwaitingModel {
    /// Reads the next piece of the body, after which the host holds so many bytes.
    fn read(
        mut self,
        ctx: &Context<'_>,
        changes: &mut Changes,
        size: usize,
        ended: bool,
    ) -> Transition {
        self.reader.push(&ctx.host.request_body(self.held, size)).map_err(RequestError::from)?;
        let is_complete = ended || self.admitted.content_length == Some(size as u64);
        if is_complete {
            self.reader.finish().map_err(RequestError::from)?;
        }
        self.held = size;
        let body = HeldBody { size, ended };
        if !is_complete && self.reader.is_undecided() {
            return self.await_more(ctx);
        }
        let Some(field) = self.reader.model().cloned() else {
            return match self.requirement {
                _ if !is_complete => self.await_more(ctx),
                ModelRequirement::Required => Err(RequestError::from(BodyError::NoModel).into()),
                ModelRequirement::Optional => {
                    let rest = BodyCheck::new(self.reader, size, self.admitted.content_length);
                    self.admitted.into_default(Some(rest)).forward(ctx, changes, body)
                }
            };
        };
        let subscription = &self.admitted.subscription;
        let model = subscription.model(&ctx.gateway.config, &field.name)?;
        ctx.meter.borrow_mut().caller.model = Some(Arc::clone(model));
        if self.requirement == ModelRequirement::Optional
            && model.on(&subscription.default_backend.name).is_none()
        {
            return Err(RoutingError::NotOnDefaultBackend.into());
        }
        let value = match &model.affinity {
            Some(Affinity::Body(name)) if model.is_pooled() && !self.admitted.is_stateful => {
                match self.reader.text(name) {
                    None if !is_complete => {
                        return self.await_more(ctx);
                    }
                    text => text.map(|text| text.as_bytes().to_vec()),
                }
            }
            Some(Affinity::Header(name)) => {
                let header = self.affinities.iter().find(|(header, _)| header == name);
                header.map(|(_, value)| value.clone())
            }
            _ => None,
        };
        let place = ModelInBody { at: field.at, syntax: self.reader.syntax() };
        let rest = BodyCheck::new(self.reader, size, self.admitted.content_length);
        let value = value.as_deref();
        let routed = self.admitted.route(ctx, model, value, body, Some(place), Some(rest))?;
        routed.forward(ctx, changes, body)
    }

    /// Waits for the next piece of the body, with those that have come.
    fn await_more(mut self, ctx: &Context<'_>) -> Transition {
        self.admitted.buffered.buffer(self.held, ctx.gateway.config.listener.request_buffer)?;
        Ok((State::AwaitingModel(self), Then::Pause(None)))
    }

    /// Checks whether Envoy holds the body back. Where some of it was seen, the caller is waited for.
    fn wake_up(mut self, ctx: &Context<'_>) -> Transition {
        if self.held > 0 {
            return Ok((State::AwaitingModel(self), Then::Pause(None)));
        }
        let now = ctx.now();
        if is_over(self.check_at, BODY_CHECK, now) {
            let pairs = ctx.host.request_headers();
            let head: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
            if ctx.host.received_request_bytes().is_some_and(|received| received > head as u64) {
                return Err(Reply::body_not_delivered());
            }
            self.check_at = now + BODY_CHECK;
        }
        let check_at = self.check_at;
        Ok((State::AwaitingModel(self), Then::Pause(Some(check_at))))
    }
}

impl Admitted {
    /// To the backend that keeps what the subscription has stored.
    fn into_default(self, rest: Option<BodyCheck>) -> Routed {
        Routed {
            destination: Destination::Default(Arc::clone(&self.subscription.default_backend)),
            subscription: self.subscription,
            path: self.path,
            model: None,
            content_length: self.content_length,
            rest,
            buffered: self.buffered,
        }
    }

    /// To a backend of a model, wherever the request names that.
    fn route(
        self,
        ctx: &Context<'_>,
        model: &Arc<Model>,
        affinity: Option<&[u8]>,
        body: HeldBody,
        place: Option<ModelInBody>,
        rest: Option<BodyCheck>,
    ) -> Result<Routed, Reply> {
        let now = ctx.now();
        let states = ctx.gateway.states(ctx.host, now);
        let Self { subscription, is_stateful, path, content_length, buffered, .. } = self;
        let asker =
            Asker { subscription: &subscription.id, is_whole: body.is_whole(content_length) };
        let destination = Destination::of(
            &subscription,
            model,
            is_stateful,
            affinity,
            asker,
            &states.get(),
            now,
        )?;
        Ok(Routed { subscription, destination, path, model: place, content_length, rest, buffered })
    }
}

impl AwaitingToken {
    /// Reads the next piece of the body, and looks for the token.
    fn read(
        mut self,
        ctx: &Context<'_>,
        changes: &mut Changes,
        size: usize,
        ended: bool,
    ) -> Transition {
        if let Some(rest) = &mut self.routed.rest {
            rest.read(&ctx.host.request_body(self.body.size, size), ended)?;
        }
        self.body = HeldBody { size, ended };
        if self.routed.rest.as_ref().is_some_and(BodyCheck::is_undecided) {
            self.routed.buffered.buffer(size, ctx.gateway.config.listener.request_buffer)?;
            let wake_up = Then::Pause(Some(ctx.now() + TOKEN_POLL));
            return Ok((State::AwaitingToken(self), wake_up));
        }
        self.try_forward(ctx, changes)
    }

    fn wake_up(mut self, ctx: &Context<'_>, changes: &mut Changes) -> Transition {
        let now = ctx.now();
        // A clock that is set back makes no request wait for longer.
        self.deadline = self.deadline.min(now + ctx.gateway.config.token_wait);
        if self.body.size == 0 || self.body.ended {
            return self.try_forward(ctx, changes);
        }
        // Where Envoy holds some of a body and the request goes on from here, Envoys without the
        // correction of envoyproxy/envoy#46841 lose the body's next piece. From that piece's own event it
        // goes on whole.
        let backend = self.routed.destination.backend()?;
        match ctx.gateway.admit(backend, ctx.host, now, self.deadline)? {
            Some(_) if now >= self.deadline => Err(IdentityError::Stalled.into()),
            _ => Ok((State::AwaitingToken(self), Then::Pause(Some(now + TOKEN_POLL)))),
        }
    }

    /// Chooses by what is known of backends now, and forwards the request if there is a token.
    fn try_forward(mut self, ctx: &Context<'_>, changes: &mut Changes) -> Transition {
        let states = ctx.gateway.states(ctx.host, ctx.now());
        let chosen = self.routed.choose_again(&states.get(), self.body, ctx.now());
        self.routed.forward_until(ctx, changes, self.body, self.deadline, chosen)
    }
}

impl Routed {
    fn forward(self, ctx: &Context<'_>, changes: &mut Changes, body: HeldBody) -> Transition {
        let deadline = ctx.now() + ctx.gateway.config.token_wait;
        let length = self.content_length.unwrap_or(body.size as u64);
        let store = &ctx.gateway.config.limit_store;
        ctx.meter.borrow_mut().admit(ctx.host, store, length, || ctx.now())?;
        self.forward_until(ctx, changes, body, deadline, Ok(()))
    }

    /// Forwards the request if there is a token, or has it wait for one. `chosen` tells whether its
    /// destination was chosen by what is known of backends now; that all are in cooldown is told when there
    /// is a token.
    fn forward_until(
        mut self,
        ctx: &Context<'_>,
        changes: &mut Changes,
        body: HeldBody,
        deadline: SystemTime,
        mut chosen: Result<(), RoutingError>,
    ) -> Transition {
        let now = ctx.now();
        for _ in 0..MOST_CLAIMS {
            let backend = self.destination.backend()?;
            let Some(bearer) = ctx.gateway.admit(backend, ctx.host, now, deadline)? else {
                self.buffered.buffer(body.size, ctx.gateway.config.listener.request_buffer)?;
                let state = AwaitingToken { routed: self, body, deadline };
                let wake_up = Then::Pause(Some(now + TOKEN_POLL));
                return Ok((State::AwaitingToken(state), wake_up));
            };
            chosen?;
            // Another request may have claimed the probe since this one chose its backend.
            let claim = self.destination.claim();
            let is_claimed = claim.is_none_or(|(claim, model)| {
                let pair = (backend.name.as_str(), model.name.as_str());
                let is_whole = body.is_whole(self.content_length);
                ctx.gateway.cooldowns.claim(ctx.host, pair, claim, is_whole, now)
            });
            if is_claimed {
                let claim = claim.map(|(claim, _)| claim);
                return self.send(ctx, changes, &bearer, claim, body);
            }
            let states = ctx.gateway.states(ctx.host, now);
            chosen = self.choose_again(&states.get(), body, now);
        }
        chosen?;
        let backend = self.destination.backend()?;
        match ctx.gateway.admit(backend, ctx.host, now, deadline)? {
            Some(bearer) => self.send(ctx, changes, &bearer, None, body),
            None => Err(IdentityError::Unavailable { wait: TOKEN_POLL }.into()),
        }
    }

    fn choose_again(
        &mut self,
        states: &BackendStates<'_>,
        body: HeldBody,
        now: SystemTime,
    ) -> Result<(), RoutingError> {
        let is_whole = body.is_whole(self.content_length);
        let asker = Asker { subscription: &self.subscription.id, is_whole };
        self.destination.choose_again(states, asker, now)
    }

    /// Writes what the request leaves with. A pool's request leaves as its first attempt.
    fn send(
        self,
        ctx: &Context<'_>,
        changes: &mut Changes,
        bearer: &Bearer,
        claim: Option<Claim>,
        body: HeldBody,
    ) -> Transition {
        let Self { subscription, destination, path, mut model, content_length, mut rest, .. } =
            self;
        let backend = Arc::clone(destination.backend()?);
        let mut renamed = None;
        if let Some(deployment) = destination.deployment()? {
            if let Cow::Owned(path) = path.with_deployment(deployment) {
                changes.set(":path", path);
            }
            let edit = model.as_ref().map(|model| model.edit(deployment));
            renamed = edit.filter(|_| rest.as_ref().is_some_and(|rest| !rest.names(deployment)));
        }
        let is_whole = body.is_whole(content_length);
        ctx.meter.borrow_mut().send(body.size, is_whole);
        let is_renamed = renamed.is_some();
        let rename = renamed.clone();
        let Asked { body, growth, before_model } = match &mut rest {
            Some(rest) => rest.forward(ctx.host, (body.size, is_whole), model.as_ref(), renamed),
            None => Asked { body: renamed, ..Asked::default() },
        };
        changes.body = body;
        if let Some(model) = &mut model {
            model.at = model.at.start + before_model..model.at.end + before_model;
        }
        let length = content_length.map(|length| length.saturating_add(growth as u64));
        let sent = length.map(|length| rename.map_or(length, |edit| edit.length_of(length)));
        if let (Some(sent), true) = (sent, sent != content_length) {
            changes.set("content-length", sent.to_string());
        }
        changes.set(":authority", backend.endpoint.authority());
        changes.set("authorization", bearer.value.expose());
        let cluster = destination.cluster().into_owned();
        changes.set(CLUSTER, cluster.as_bytes());
        let name = backend.name.clone();
        let upstream = match destination {
            Destination::Pool(pool) => {
                let plan = AttemptPlan {
                    model: pool.model,
                    order: pool.order,
                    path,
                    body: model,
                    content_length: length,
                };
                let plan = if is_renamed { plan.forwarded() } else { plan };
                Upstream::Pool(register(ctx, changes, plan, subscription, claim)?)
            }
            Destination::Default(_) => {
                Upstream::Single { subscription, model: None, began: ctx.now() }
            }
            Destination::Single { model, .. } => {
                Upstream::Single { subscription, model: Some(model), began: ctx.now() }
            }
        };
        let state = Forwarded::new(name, cluster, upstream, rest);
        Ok((State::Forwarded(state), Then::Continue))
    }
}

/// Leaves a request where the attempts find it.
fn register(
    ctx: &Context<'_>,
    changes: &mut Changes,
    plan: AttemptPlan,
    subscription: Arc<Subscription>,
    claim: Option<Claim>,
) -> Result<Registration, RoutingError> {
    let gateway = ctx.gateway;
    // Never empty.
    let first = plan.order.first().ok_or(RoutingError::UnknownBackend)?.name.clone();
    let request = PoolRequest {
        gateway: Rc::clone(gateway),
        plan,
        claim,
        attempts: 0,
        began: ctx.now(),
        last: LastAttempt::None,
        asked: None,
        whole_since: None,
        connection_failed: false,
        subscription,
        failed: Vec::new(),
        met: Met::default(),
    };
    let detached = match gateway.modules_differ(ctx.host, ctx.now()) {
        true => Some(request.detached()?),
        false => None,
    };
    let reference = ctx.requests.reference(ctx.id, first, detached);
    changes.pool_reference = Some(reference.to_bytes());
    Ok(ctx.requests.register(ctx.id, request))
}
