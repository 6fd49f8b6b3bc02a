//! One request: Envoy's callbacks, turned into steps of the gateway.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, BufferType, MapType};

use super::worker::{now, Worker};
use crate::answer::Answer;
use crate::config::Backend;
use crate::gateway::{self, BodyStep, Dispatch, Reading, Splice, Step, Watch};
use crate::head::{self, Head};
use crate::target;

/// After so long without a body it is looked into whether Envoy holds it back.
pub(super) const BODY_CHECK: Duration = Duration::from_secs(1);

/// A request's context.
pub(super) struct Stream {
    id: u32,
    /// `None` where the configuration was refused, and then nothing passes.
    worker: Option<Rc<Worker>>,
    /// Shared with the waiting room.
    stage: Rc<RefCell<Stage>>,
}

/// How far a request has come.
pub(super) enum Stage {
    /// Nothing is known of it.
    New,
    /// Its model is awaited in its body.
    Body {
        reading: Reading,
        /// How much of the body Envoy holds and we have read.
        held: usize,
        check_at: SystemTime,
    },
    /// A token is awaited.
    Token {
        dispatch: Dispatch,
        watch: Option<Watch>,
        /// As above.
        held: usize,
        deadline: SystemTime,
    },
    /// It has gone on.
    Forwarded { backend: Arc<Backend>, watch: Option<Watch> },
    /// The filter has answered it: nothing more happens.
    Answered,
}

impl Stream {
    pub(super) fn new(id: u32, worker: Option<Rc<Worker>>) -> Self {
        Self { id, worker, stage: Rc::new(RefCell::new(Stage::New)) }
    }

    fn admit(&self, worker: &Worker, ended: bool) -> Action {
        let pairs = hostcalls::get_map_bytes(MapType::HttpRequestHeaders).unwrap_or_default();
        let head = Head::read(&pairs);
        for name in &head.remove {
            let _ = hostcalls::remove_map_value(MapType::HttpRequestHeaders, name);
        }
        // Before anything is answered: Envoy's access log shows the path.
        if let Some(path) = target::without_keys(head.path) {
            let _ =
                hostcalls::set_map_value_bytes(MapType::HttpRequestHeaders, ":path", Some(&path));
        }
        let now = now();
        match gateway::admit(&worker.config, &head, ended, now) {
            Ok(Step::Send(dispatch)) => self.send(worker, dispatch, None, 0, now),
            Ok(Step::Read(reading)) => {
                self.stage.replace(Stage::Body { reading, held: 0, check_at: now + BODY_CHECK });
                self.wait(worker, BODY_CHECK);
                Action::Pause
            }
            Err(answer) => self.answer(worker, &answer),
        }
    }

    /// Reads the next piece of the body, of which `size` bytes are there to see.
    fn read(&self, worker: &Worker, size: usize, ended: bool) -> Action {
        match self.stage.replace(Stage::Answered) {
            Stage::Body { reading, held, check_at } => {
                match reading.read(&worker.config, &body(held, size), ended) {
                    Ok(BodyStep::Read(reading)) => {
                        self.stage.replace(Stage::Body { reading, held: size, check_at });
                        Action::Pause
                    }
                    Ok(BodyStep::Send { dispatch, splice, watch }) => {
                        let held = splice.map_or(size, |splice| apply(&splice, size));
                        self.send(worker, dispatch, Some(watch), held, now())
                    }
                    Err(answer) => self.answer(worker, &answer),
                }
            }
            Stage::Token { dispatch, mut watch, held, deadline } => {
                let read = watch.as_mut().map(|watch| watch.read(&body(held, size), ended));
                match read.unwrap_or(Ok(())) {
                    Ok(()) => {
                        self.stage.replace(Stage::Token { dispatch, watch, held: size, deadline });
                        Action::Pause
                    }
                    Err(answer) => self.answer(worker, &answer),
                }
            }
            Stage::Forwarded { backend, mut watch } => {
                let read = watch.as_mut().map(|watch| watch.read(&body(0, size), ended));
                match read.unwrap_or(Ok(())) {
                    Ok(()) => {
                        self.stage.replace(Stage::Forwarded { backend, watch });
                        Action::Continue
                    }
                    Err(answer) => self.answer(worker, &answer),
                }
            }
            // A body without a head, or one that nobody wants any more.
            Stage::New | Stage::Answered => Action::Pause,
        }
    }

    /// Lets the request go on if there is a token, or has it wait for one.
    fn send(
        &self,
        worker: &Worker,
        dispatch: Dispatch,
        watch: Option<Watch>,
        held: usize,
        now: SystemTime,
    ) -> Action {
        let deadline = now + worker.config.token_wait;
        match worker.tokens.admit(now, deadline) {
            Ok(Some(bearer)) => {
                worker.forward(&dispatch, &bearer);
                self.stage.replace(Stage::Forwarded { backend: dispatch.backend, watch });
                Action::Continue
            }
            Ok(None) => {
                self.stage.replace(Stage::Token { dispatch, watch, held, deadline });
                self.wait(worker, Duration::ZERO);
                Action::Pause
            }
            Err(answer) => self.answer(worker, &answer),
        }
    }

    /// Has the root look after this stream, the first time after so long.
    fn wait(&self, worker: &Worker, first: Duration) {
        worker.waiting.enter(self.id, &self.stage);
        if hostcalls::set_effective_context(worker.root).is_ok() {
            worker.tick_within(first);
        }
        let _ = hostcalls::set_effective_context(self.id);
    }

    fn answer(&self, worker: &Worker, answer: &Answer) -> Action {
        self.stage.replace(Stage::Answered);
        worker.answer(answer);
        Action::Pause
    }

    /// There is no configuration to decide by. Envoy refuses to use a filter whose configuration was
    /// refused, so nobody should see this.
    fn refuse(&self) -> Action {
        let _ = hostcalls::send_http_response(503, Vec::new(), None);
        Action::Pause
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        match &self.worker {
            Some(worker) => self.admit(worker, end_of_stream),
            None => self.refuse(),
        }
    }

    fn on_http_request_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        match &self.worker {
            Some(worker) => self.read(worker, body_size, end_of_stream),
            None => Action::Pause,
        }
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        let held = match &*self.stage.borrow() {
            Stage::Body { held, .. } | Stage::Token { held, .. } => *held,
            _ => 0,
        };
        for (name, _) in hostcalls::get_map_bytes(MapType::HttpRequestTrailers).unwrap_or_default()
        {
            if head::must_go(&name) {
                let _ = hostcalls::remove_map_value(MapType::HttpRequestTrailers, &name);
            }
        }
        match &self.worker {
            Some(worker) => self.read(worker, held, true),
            None => Action::Pause,
        }
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        let mut stage = self.stage.borrow_mut();
        match &*stage {
            Stage::Forwarded { backend, .. } => {
                let _ = hostcalls::set_map_value_bytes(
                    MapType::HttpResponseHeaders,
                    "x-aoai-backend",
                    Some(backend.name.as_bytes()),
                );
            }
            // Envoy has answered a request that was still waiting, and so it waits no longer.
            _ => *stage = Stage::Answered,
        }
        Action::Continue
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(worker) = &self.worker {
            worker.waiting.leave(self.id);
        }
    }
}

/// The bytes of the request's body from one offset of what Envoy holds to another.
fn body(from: usize, to: usize) -> Vec<u8> {
    if from >= to {
        return Vec::new();
    }
    let bytes = hostcalls::get_buffer(BufferType::HttpRequestBody, from, to - from);
    bytes.ok().flatten().unwrap_or_default()
}

/// Replaces some bytes of the held body, of which there are `size`. Returns how many there are then.
///
/// Envoy replaces at the beginning of a buffer only, so what stands before goes with it.
fn apply(splice: &Splice, size: usize) -> usize {
    let mut start = body(0, splice.at.start);
    start.extend_from_slice(splice.with.as_bytes());
    let _ = hostcalls::set_buffer(BufferType::HttpRequestBody, 0, splice.at.end, &start);
    size - splice.at.end + start.len()
}
