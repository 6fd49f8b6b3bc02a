//! What a root context and the requests of its worker share.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::SystemTime;

use proxy_wasm::hostcalls;
use proxy_wasm::types::Action;

use super::envoy::Envoy;
use super::perform;
use super::ticker::Ticker;
use crate::flow::context::Context;
use crate::flow::gateway::Gateway;
use crate::flow::pending::Pending;
use crate::flow::pool_request::PoolRequests;
use crate::flow::request::{Event, RequestFlow};
use crate::flow::request_buffer::RequestBuffer;
use crate::flow::step::{Message, Then};

/// A request's flow, shared with those that wait.
pub(super) type SharedFlow = Rc<RefCell<RequestFlow>>;

/// One worker's gateway in Envoy.
pub(super) struct Worker {
    pub(super) gateway: Rc<Gateway>,
    requests: Rc<PoolRequests>,
    buffer: Rc<RequestBuffer>,
    pub(super) pending: Pending<SharedFlow>,
    pub(super) ticker: Rc<Ticker>,
}

impl Worker {
    pub(super) fn new(
        root: u32,
        gateway: Gateway,
        requests: Rc<PoolRequests>,
        buffer: Rc<RequestBuffer>,
    ) -> Self {
        let (gateway, pending) = (Rc::new(gateway), Pending::default());
        Self { gateway, requests, buffer, pending, ticker: Rc::new(Ticker::new(root)) }
    }

    /// Has a request's flow take an event, and does what it says.
    pub(super) fn advance(self: &Rc<Self>, id: u32, flow: &SharedFlow, event: Event) -> Action {
        let envoy = Envoy::of(&self.ticker, id);
        let context = Context::new(id, &self.gateway, &self.requests, &self.buffer, &envoy);
        let (next, step) = flow.take().on(event, &context);
        flow.replace(next);
        perform::change(step.message, &step.changes);
        match (step.then, event) {
            (Then::Continue, Event::WakeUp) => {
                let _ = match step.message {
                    Message::Request => hostcalls::resume_http_request(),
                    Message::Response => hostcalls::resume_http_response(),
                };
                Action::Continue
            }
            (Then::Continue, _) => Action::Continue,
            (Then::Pause(until), _) => {
                if let Some(until) = until {
                    self.pending.add(id, until, Rc::clone(flow));
                    if event != Event::WakeUp {
                        self.ticker
                            .tick_from(id, until.duration_since(context.now()).unwrap_or_default());
                    }
                }
                Action::Pause
            }
            (Then::Reply(reply), _) => {
                perform::reply(&reply);
                Action::Pause
            }
        }
    }

    /// A request is over. Nothing more can be done with it, so its flow's step is not performed.
    pub(super) fn end(&self, id: u32, flow: &SharedFlow) {
        let envoy = Envoy::of(&self.ticker, id);
        let context = Context::new(id, &self.gateway, &self.requests, &self.buffer, &envoy);
        let _ = flow.take().on(Event::End, &context);
    }

    /// Wakes up those that wait and are due, or all. The root is the effective context before and after.
    pub(super) fn wake_up(self: &Rc<Self>, due: Option<SystemTime>) {
        let woken = self.pending.take(due);
        for (id, flow) in &woken {
            // Of a request that Envoy no longer has, nothing is done: it would be done to another.
            if hostcalls::set_effective_context(*id).is_ok() {
                self.advance(*id, flow, Event::WakeUp);
            }
        }
        if !woken.is_empty() {
            self.ticker.make_root_effective();
        }
    }
}
