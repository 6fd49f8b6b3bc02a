//! One attempt in the backend stage: Envoy's upstream callbacks, turned into events.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::envoy::Envoy;
use super::perform;
use crate::flow::attempt::{AttemptEvent, AttemptFlow};
use crate::flow::pool_request::PoolRequests;
use crate::flow::step::Then;

/// An attempt's context.
pub(super) struct AttemptContext(AttemptFlow);

impl AttemptContext {
    pub(super) fn new(requests: Rc<PoolRequests>) -> Self {
        Self(AttemptFlow::New(requests))
    }

    fn on(&mut self, event: AttemptEvent) -> Action {
        let flow = std::mem::replace(&mut self.0, AttemptFlow::Ended);
        let (next, step) = flow.on(event, &Envoy::new());
        self.0 = next;
        perform::change(step.message, &step.changes);
        match step.then {
            Then::Continue => Action::Continue,
            Then::Pause(_) => Action::Pause,
            Then::Reply(reply) => {
                perform::reply(&reply);
                Action::Pause
            }
        }
    }
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

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.on(AttemptEvent::ResponseHead)
    }
}
