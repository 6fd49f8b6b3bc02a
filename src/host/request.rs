//! One request in the gateway stage: Envoy's callbacks, turned into events.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::perform;
use super::worker::{SharedFlow, Worker};
use crate::flow::request::{unconfigured, Event};

/// A request's context.
pub(super) struct RequestContext {
    id: u32,
    /// `None` where the configuration was refused, and then nothing passes.
    worker: Option<Rc<Worker>>,
    flow: SharedFlow,
}

impl RequestContext {
    pub(super) fn new(id: u32, worker: Option<Rc<Worker>>) -> Self {
        Self { id, worker, flow: Rc::default() }
    }

    fn on(&self, event: Event) -> Action {
        if let Some(worker) = &self.worker {
            return worker.advance(self.id, &self.flow, event);
        }
        if matches!(event, Event::Head { .. }) {
            perform::reply(&unconfigured().into());
        }
        match event {
            Event::ResponseHead { .. } | Event::ResponseBody { .. } | Event::ResponseTrailers => {
                Action::Continue
            }
            _ => Action::Pause,
        }
    }
}

impl Context for RequestContext {}

impl HttpContext for RequestContext {
    fn on_http_request_headers(&mut self, _: usize, ended: bool) -> Action {
        self.on(Event::Head { ended })
    }

    fn on_http_request_body(&mut self, size: usize, ended: bool) -> Action {
        self.on(Event::Body { size, ended })
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        self.on(Event::Trailers)
    }

    fn on_http_response_headers(&mut self, _: usize, ended: bool) -> Action {
        self.on(Event::ResponseHead { ended })
    }

    fn on_http_response_body(&mut self, size: usize, ended: bool) -> Action {
        self.on(Event::ResponseBody { size, ended })
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        self.on(Event::ResponseTrailers)
    }

    fn on_log(&mut self) {
        // Before Envoy writes its access logs.
        if let Some(worker) = &self.worker {
            worker.end(self.id, &self.flow);
        }
    }
}

impl Drop for RequestContext {
    fn drop(&mut self) {
        if let Some(worker) = &self.worker {
            worker.pending.remove(self.id);
        }
    }
}
