//! One attempt in the backend stage: Envoy's upstream callbacks, turned into events.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::SystemTime;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::envoy::Envoy;
use super::perform;
use super::ticker::Ticker;
use crate::flow::attempt::{AttemptEvent, AttemptFlow};
use crate::flow::host::Host;
use crate::flow::pending::Pending;
use crate::flow::pool_request::PoolRequests;
use crate::flow::step::Then;

/// An attempt's flow, shared with those that wait.
type SharedFlow = Rc<RefCell<AttemptFlow>>;

thread_local! {
    /// The attempts that hold a response.
    static PENDING: Pending<SharedFlow> = Pending::default();
    /// The ticks that wake them up, and fetch tokens: those of the newest root of the gateway stage. The
    /// backend stage's own has no configuration.
    static TICKER: RefCell<Option<Rc<Ticker>>> = RefCell::default();
}

/// Has attempts use these ticks from now on.
pub(super) fn tick_by(ticker: &Rc<Ticker>) {
    TICKER.set(Some(Rc::clone(ticker)));
}

/// An attempt's context.
pub(super) struct AttemptContext {
    id: u32,
    flow: SharedFlow,
}

impl AttemptContext {
    pub(super) fn new(id: u32, requests: Rc<PoolRequests>) -> Self {
        Self { id, flow: Rc::new(AttemptFlow::New(requests).into()) }
    }

    fn on(&self, event: AttemptEvent) -> Action {
        advance(self.id, &self.flow, event)
    }
}

fn advance(id: u32, flow: &SharedFlow, event: AttemptEvent) -> Action {
    let ticker = TICKER.with_borrow(Clone::clone);
    let envoy = ticker.as_deref().map_or_else(Envoy::new, |ticker| Envoy::of(ticker, id));
    let (next, step) = flow.replace(AttemptFlow::Ended).on(event, &envoy);
    flow.replace(next);
    perform::change(step.message, &step.changes);
    match step.then {
        Then::Continue => {
            if event == AttemptEvent::WakeUp {
                let _ = hostcalls::resume_http_response();
            }
            Action::Continue
        }
        Then::Pause(until) => {
            if let Some(until) = until {
                PENDING.with(|pending| pending.add(id, until, Rc::clone(flow)));
                if let (Some(ticker), true) = (&ticker, event != AttemptEvent::WakeUp) {
                    ticker.tick_from(id, until.duration_since(envoy.now()).unwrap_or_default());
                }
            }
            Action::Pause
        }
        Then::Reply(reply) => {
            perform::reply(&reply);
            Action::Pause
        }
    }
}

/// Wakes up the attempts that are due, and returns when the next one is. The ticked root is the effective
/// context before and after.
pub(super) fn wake_up(ticker: &Ticker, now: SystemTime) -> Option<SystemTime> {
    let woken = PENDING.with(|pending| pending.take(Some(now)));
    for (id, flow) in &woken {
        if hostcalls::set_effective_context(*id).is_ok() {
            advance(*id, flow, AttemptEvent::WakeUp);
            ticker.make_root_effective();
        }
    }
    PENDING.with(Pending::next)
}

impl Context for AttemptContext {
    fn on_done(&mut self) -> bool {
        self.on(AttemptEvent::End);
        true
    }
}

impl HttpContext for AttemptContext {
    fn on_http_request_headers(&mut self, _: usize, ended: bool) -> Action {
        self.on(AttemptEvent::Head { ended })
    }

    fn on_http_request_body(&mut self, size: usize, ended: bool) -> Action {
        self.on(AttemptEvent::Body { size, ended })
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        self.on(AttemptEvent::Trailers)
    }

    fn on_http_response_headers(&mut self, _: usize, ended: bool) -> Action {
        self.on(AttemptEvent::ResponseHead { ended })
    }

    fn on_http_response_body(&mut self, size: usize, ended: bool) -> Action {
        self.on(AttemptEvent::ResponseBody { size, ended })
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        self.on(AttemptEvent::ResponseTrailers)
    }
}

impl Drop for AttemptContext {
    fn drop(&mut self) {
        PENDING.with(|pending| pending.remove(self.id));
    }
}
