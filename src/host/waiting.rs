//! Streams that wait for something no callback of their own will tell: a token, or a body that never
//! comes, be it a request's or an answer's.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use proxy_wasm::hostcalls;
use proxy_wasm::types::MapType;

use super::diagnosis::LONGEST_HOLD;
use super::stream::{Stage, BODY_CHECK};
use super::tokens::{Bearer, Look};
use super::worker::Worker;
use crate::answer::{Answer, Reason};
use crate::clock::is_over;
use crate::health::Health;

/// How often waiting streams are looked after: another worker's token comes without a sound.
const TOKEN_POLL: Duration = Duration::from_millis(5);

/// How often streams are looked after whose body is awaited.
const BODY_POLL: Duration = Duration::from_millis(250);

/// The streams of a worker that wait.
#[derive(Default)]
pub(super) struct WaitingRoom(RefCell<Vec<Waiter>>);

#[derive(Clone)]
struct Waiter {
    stream: u32,
    stage: Rc<RefCell<Stage>>,
}

/// What is to be done for a waiter.
enum Turn {
    Wait,
    Leave,
    Forward(Rc<Bearer>),
    Answer(Answer),
    Release,
}

/// What there is of tokens and backends: one look at each serves all that wait.
struct Looks<'w> {
    worker: &'w Worker,
    now: SystemTime,
    found: Vec<OnceCell<Look>>,
    health: OnceCell<Health>,
}

impl<'w> Looks<'w> {
    fn new(worker: &'w Worker, now: SystemTime) -> Self {
        let found = worker.tokens.iter().map(|_| OnceCell::new()).collect();
        Self { worker, now, found, health: OnceCell::new() }
    }

    /// At the backends.
    fn health(&self) -> &Health {
        self.health.get_or_init(|| self.worker.health(self.now))
    }

    /// At the token of the credential at this position.
    fn at(&self, position: usize) -> Option<&Look> {
        let tokens = self.worker.tokens.get(position)?;
        Some(self.found.get(position)?.get_or_init(|| tokens.look(self.now)))
    }
}

impl WaitingRoom {
    pub(super) fn enter(&self, stream: u32, stage: &Rc<RefCell<Stage>>) {
        let mut waiters = self.0.borrow_mut();
        if !waiters.iter().any(|waiter| waiter.stream == stream) {
            waiters.push(Waiter { stream, stage: Rc::clone(stage) });
        }
    }

    pub(super) fn leave(&self, stream: u32) {
        self.0.borrow_mut().retain(|waiter| waiter.stream != stream);
    }

    /// When to look after them again, if there is anybody.
    pub(super) fn poll(&self) -> Option<Duration> {
        let waiters = self.0.borrow();
        let is_token = |waiter: &Waiter| matches!(&*waiter.stage.borrow(), Stage::Token { .. });
        match waiters.iter().any(is_token) {
            true => Some(TOKEN_POLL),
            false if waiters.is_empty() => None,
            false => Some(BODY_POLL),
        }
    }

    /// Serves everybody who can be served. The root is the effective context before and after.
    pub(super) fn serve(&self, worker: &Worker, now: SystemTime) {
        let waiters = self.0.borrow().clone();
        if waiters.is_empty() {
            return;
        }
        let looks = Looks::new(worker, now);
        let mut gone = Vec::new();
        for waiter in &waiters {
            let stays = match waiter.turn(worker, &looks, now) {
                Turn::Wait => true,
                Turn::Leave => false,
                // A stream that Envoy no longer has: acting now would act on somebody else.
                _ if hostcalls::set_effective_context(waiter.stream).is_err() => false,
                Turn::Forward(bearer) => {
                    waiter.forward(worker, &bearer, now);
                    false
                }
                Turn::Release => {
                    if let Stage::Forwarded { held: Some(held), .. } =
                        &mut *waiter.stage.borrow_mut()
                    {
                        held.release(worker);
                    }
                    let _ = hostcalls::resume_http_response();
                    false
                }
                Turn::Answer(answer) => {
                    waiter.stage.replace(Stage::Answered);
                    worker.answer(&answer);
                    false
                }
            };
            if !stays {
                gone.push(waiter.stream);
            }
        }
        // In the order of `waiters`, so that one pass takes all of them out.
        let mut gone = gone.into_iter().peekable();
        self.0.borrow_mut().retain(|waiter| gone.next_if_eq(&waiter.stream).is_none());
        let _ = hostcalls::set_effective_context(worker.root);
    }
}

impl Waiter {
    fn turn(&self, worker: &Worker, looks: &Looks<'_>, now: SystemTime) -> Turn {
        match &mut *self.stage.borrow_mut() {
            Stage::Token { dispatch, held, ended, deadline, .. } => {
                // A clock that is set back makes nobody wait for longer.
                *deadline = (*deadline).min(now + worker.config.token_wait);
                if worker.tokens.len() > 1 {
                    // Another backend's identity may have its token first. That all of them are left
                    // alone is told when there is one.
                    let _ = dispatch.choose_again(&worker.config, looks.health(), now);
                }
                match looks.at(dispatch.backend.credential).map(|look| look.admit(now, *deadline)) {
                    // Where Envoy holds some of a body and the request goes on from here, Envoys
                    // without the mending of envoyproxy/envoy#46841 (1.36.4 is one) lose the body's
                    // next piece. From that piece's own callback it goes on whole.
                    Some(Ok(Some(_))) if *held > 0 && !*ended => match now < *deadline {
                        true => Turn::Wait,
                        false => Turn::Answer(
                            Reason::TokenUnavailable
                                .because(STALLED)
                                .retry_after(Duration::from_secs(1)),
                        ),
                    },
                    Some(Ok(Some(bearer))) => Turn::Forward(bearer),
                    Some(Ok(None)) | None => Turn::Wait,
                    Some(Err(answer)) => Turn::Answer(answer),
                }
            }
            // Who has seen some of the body is waiting for its client, and not for Envoy.
            Stage::Body { held: 0, check_at, .. } if is_over(*check_at, BODY_CHECK, now) => {
                *check_at = now + BODY_CHECK;
                if hostcalls::set_effective_context(self.stream).is_ok() && body_is_held_back() {
                    Turn::Answer(Reason::BodyNotDelivered.because(HELD_BACK))
                } else {
                    Turn::Wait
                }
            }
            Stage::Body { .. } => Turn::Wait,
            Stage::Forwarded { held: Some(held), .. } => match held.until {
                Some(until) if !is_over(until, LONGEST_HOLD, now) => Turn::Wait,
                Some(_) => Turn::Release,
                None => Turn::Leave,
            },
            _ => Turn::Leave,
        }
    }

    /// Lets the request go on, to whom it would choose now.
    fn forward(&self, worker: &Worker, bearer: &Bearer, now: SystemTime) {
        let stage = self.stage.replace(Stage::Answered);
        let Stage::Token { mut dispatch, watch, .. } = stage else {
            return;
        };
        let chosen = dispatch.choose_again(&worker.config, &worker.health(now), now);
        match chosen.and_then(|()| worker.forward(&mut dispatch, bearer, now)) {
            Ok(()) => {
                self.stage.replace(Stage::forwarded(dispatch, watch));
                let _ = hostcalls::resume_http_request();
            }
            Err(answer) => worker.answer(&answer),
        }
    }
}

/// Whether Envoy has received some of the effective stream's body, of which its filter has seen
/// nothing: `request.total_size` counts both, the header map only the head.
fn body_is_held_back() -> bool {
    let total = hostcalls::get_property(vec!["request", "total_size"]).ok().flatten();
    let total = total.and_then(|bytes| bytes.try_into().ok()).map(i64::from_le_bytes);
    let Ok(headers) = hostcalls::get_map_bytes(MapType::HttpRequestHeaders) else {
        return false;
    };
    let head: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    total.and_then(|total| usize::try_from(total).ok()).is_some_and(|total| total > head)
}

const STALLED: &str =
    "This gateway had no token for Azure when the request came, and the rest of its body \
    has not come since then. Try again.";

const HELD_BACK: &str = "This gateway cannot see the request's body, because its Envoy filter lacks \
    allow_on_headers_stop_iteration: true (Envoy 1.36 or later). Name the model in the URL meanwhile: \
    /openai/deployments/{model}/….";
