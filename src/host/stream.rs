//! One request: Envoy's callbacks, turned into steps of the gateway.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, BufferType, MapType};

use super::diagnosis::{Held, Look, LONGEST_HOLD};
use super::worker::{now, Worker};
use crate::answer::Answer;
use crate::config::Backend;
use crate::dispatch::Dispatch;
use crate::gateway::{self, BodyStep, Reading, Splice, Step, Watch};
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
        /// Whether that is all there will be.
        ended: bool,
        deadline: SystemTime,
    },
    /// It has gone on: to this backend, or to a pool for this model.
    Forwarded {
        backend: Arc<Backend>,
        pooled: Option<String>,
        watch: Option<Watch>,
        /// Its answer, while that is looked into.
        held: Option<Held>,
    },
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
        match gateway::admit(&worker.config, &worker.health(now), &head, ended, now) {
            Ok(Step::Send(dispatch)) => {
                self.send(worker, dispatch, None, 0, ended, now + worker.config.token_wait)
            }
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
                let now = now();
                let health = worker.health(now);
                match reading.read(&worker.config, &health, &body(held, size), ended, now) {
                    Ok(BodyStep::Read(reading)) => {
                        self.stage.replace(Stage::Body { reading, held: size, check_at });
                        Action::Pause
                    }
                    Ok(BodyStep::Send { dispatch, splice, watch }) => {
                        let held = splice.map_or(size, |splice| apply(&splice, size));
                        let deadline = now + worker.config.token_wait;
                        self.send(worker, dispatch, Some(watch), held, ended, deadline)
                    }
                    Err(answer) => self.answer(worker, &answer),
                }
            }
            Stage::Token { mut dispatch, mut watch, held, deadline, .. } => {
                let read = watch.as_mut().map(|watch| watch.read(&body(held, size), ended));
                let now = now();
                let chosen = read
                    .unwrap_or(Ok(()))
                    .and_then(|()| dispatch.choose_again(&worker.config, &worker.health(now), now));
                match chosen {
                    Ok(()) => self.send(worker, dispatch, watch, size, ended, deadline),
                    Err(answer) => self.answer(worker, &answer),
                }
            }
            Stage::Forwarded { backend, pooled, mut watch, held } => {
                let read = watch.as_mut().map(|watch| watch.read(&body(0, size), ended));
                match read.unwrap_or(Ok(())) {
                    Ok(()) => {
                        self.stage.replace(Stage::Forwarded { backend, pooled, watch, held });
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
        mut dispatch: Dispatch,
        watch: Option<Watch>,
        held: usize,
        ended: bool,
        deadline: SystemTime,
    ) -> Action {
        let now = now();
        match worker.admit(&dispatch.backend, now, deadline) {
            Ok(Some(bearer)) => match worker.forward(&mut dispatch, &bearer, now) {
                Ok(()) => {
                    self.stage.replace(Stage::forwarded(dispatch, watch));
                    Action::Continue
                }
                Err(answer) => self.answer(worker, &answer),
            },
            Ok(None) => {
                self.stage.replace(Stage::Token { dispatch, watch, held, ended, deadline });
                self.wait(worker, Duration::ZERO);
                Action::Pause
            }
            Err(answer) => self.answer(worker, &answer),
        }
    }

    /// Has the root look after this stream, the first time after so long.
    fn wait(&self, worker: &Worker, first: Duration) {
        worker.waiting.enter(self.id, &self.stage);
        worker.tick_from(self.id, first);
    }

    fn answer(&self, worker: &Worker, answer: &Answer) -> Action {
        self.stage.replace(Stage::Answered);
        worker.answer(answer);
        Action::Pause
    }

    /// Looks into an answer's body, of which `size` bytes are there to see.
    fn look(&self, size: Option<usize>, ended: bool) -> Action {
        let held = match &mut *self.stage.borrow_mut() {
            Stage::Forwarded { held, .. } => held.take(),
            _ => None,
        };
        let (Some(worker), Some(mut looking)) = (&self.worker, held) else {
            return Action::Continue;
        };
        let now = now();
        let look = looking.read(worker, self.id, size, ended, now);
        let is_due = looking.until.is_some_and(|until| until <= now);
        if let (Stage::Forwarded { held, .. }, false) =
            (&mut *self.stage.borrow_mut(), matches!(look, Look::Done))
        {
            *held = Some(looking);
        }
        match look {
            Look::Hold => {
                if is_due {
                    self.wait(worker, Duration::ZERO);
                }
                Action::Pause
            }
            Look::Pass | Look::Done => Action::Continue,
        }
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

    fn on_http_response_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        // Envoy may have answered a request that was still waiting, and then it waits no longer.
        let stage = self.stage.replace(Stage::Answered);
        let (Some(worker), Stage::Forwarded { backend, pooled, watch, .. }) = (&self.worker, stage)
        else {
            return Action::Continue;
        };
        let answered = match &pooled {
            None => {
                remove_own_response_headers();
                set_response_header("x-aoai-backend", &backend.name);
                Some(backend.name.clone())
            }
            Some(model) => worker.report(model),
        };
        let held = answered.filter(|_| !end_of_stream);
        let held = held.and_then(|backend| Held::of(&backend, worker, now()));
        let is_held = held.as_ref().is_some_and(|held| held.until.is_some());
        self.stage.replace(Stage::Forwarded { backend, pooled, watch, held });
        if is_held {
            self.wait(worker, LONGEST_HOLD);
            return Action::Pause;
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        self.look(Some(body_size), end_of_stream)
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        self.look(None, true)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(worker) = &self.worker {
            worker.waiting.leave(self.id);
        }
    }
}

impl Stage {
    pub(super) fn forwarded(dispatch: Dispatch, watch: Option<Watch>) -> Self {
        let pooled = dispatch.recipe.map(|recipe| recipe.model);
        Self::Forwarded { backend: dispatch.backend, pooled, watch, held: None }
    }
}

/// Sends an answer of the filter's own.
pub(super) fn send(answer: &Answer) {
    let headers = answer.headers();
    let headers = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let body = answer.body();
    let status = u32::from(answer.reason.status());
    let _ = hostcalls::send_http_response(status, headers, Some(body.as_bytes()));
}

/// What a backend calls by one of the filter's own names tells nobody. Those of a pool's answers are
/// gone already. They are named, because reading all headers would cost every answer far more.
fn remove_own_response_headers() {
    for name in ["x-aoai-attempts", "x-aoai-diagnosis", "x-aoai-reason", "x-aoai-retry"] {
        let _ = hostcalls::remove_map_value(MapType::HttpResponseHeaders, name);
    }
}

pub(super) fn set_response_header(name: &str, value: &str) {
    let value = Some(value.as_bytes());
    let _ = hostcalls::set_map_value_bytes(MapType::HttpResponseHeaders, name, value);
}

/// The bytes of the request's body from one offset of what Envoy holds to another.
pub(super) fn body(from: usize, to: usize) -> Vec<u8> {
    if from >= to {
        return Vec::new();
    }
    let bytes = hostcalls::get_buffer(BufferType::HttpRequestBody, from, to - from);
    bytes.ok().flatten().unwrap_or_default()
}

/// Replaces some bytes of the held body, of which there are `size`. Returns how many there are then.
///
/// Envoy replaces at the beginning of a buffer only, so what stands before goes with it.
pub(super) fn apply(splice: &Splice, size: usize) -> usize {
    let mut start = body(0, splice.at.start);
    start.extend_from_slice(splice.with.as_bytes());
    let _ = hostcalls::set_buffer(BufferType::HttpRequestBody, 0, splice.at.end, &start);
    size - splice.at.end + start.len()
}
