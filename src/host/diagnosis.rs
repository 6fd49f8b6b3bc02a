//! Answers of backends that tell of a mistake: what the caller, the metrics and the log learn of them.

use std::cell::{Cell, RefCell};
use std::time::{Duration, SystemTime};

use log::warn;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType, MetricType};

use super::shared;
use super::stream::set_response_header;
use super::worker::Worker;
use crate::config::{Backend, Config};
use crate::diagnosis::{
    may_have_status, may_tell, Concern, Diagnosis, Said, BACKENDS, LONGEST_BODY, TOKEN_REJECTED,
};
use crate::identity::claims::Claims;
use crate::metrics;

/// The header that names what was found.
const HEADER: &str = "x-aoai-diagnosis";

/// How long an answer's head waits for its body at most: it comes with it, but from a backend in trouble.
pub(super) const LONGEST_HOLD: Duration = Duration::from_millis(500);

/// After so many answers that Envoy had whole, and showed nothing of while their head was held, none is
/// held any more: it will not, because `allow_on_headers_stop_iteration` is not set.
const FRUITLESS: u8 = 3;

/// An answer that is looked into.
pub(super) struct Held {
    backend: String,
    status: u16,
    /// What has come of its body so far.
    text: Vec<u8>,
    /// How much of that has gone on.
    gone: usize,
    /// Whether its head has gone on: nothing can be written there any more.
    is_head_gone: bool,
    /// Whether some of its body was held.
    is_body_held: bool,
    /// Whether its body has turned out to be too long.
    is_long: bool,
    /// Until when it is held, if it is.
    pub(super) until: Option<SystemTime>,
}

/// What a worker has learned about answers that tell of mistakes.
#[derive(Default)]
pub(super) struct Diagnoses {
    fruitless: Cell<u8>,
    counters: RefCell<Vec<(String, u32)>>,
}

impl Held {
    /// Begins to look into the answer that the effective stream receives from a backend, if it may tell
    /// of a mistake.
    pub(super) fn of(backend: &str, worker: &Worker, now: SystemTime) -> Option<Self> {
        let status = hostcalls::get_property(vec!["response", "code"]).ok()??;
        let status = u16::try_from(i64::from_le_bytes(status.try_into().ok()?)).ok()?;
        if !may_have_status(status) {
            return None;
        }
        let pairs = hostcalls::get_map_bytes(MapType::HttpResponseHeaders).ok()?;
        let headers = pairs.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let is_held = worker.diagnoses.fruitless.get() < FRUITLESS;
        may_tell(status, headers).then(|| Self {
            backend: backend.to_owned(),
            status,
            text: Vec::new(),
            gone: 0,
            is_head_gone: !is_held,
            is_body_held: false,
            is_long: false,
            until: is_held.then(|| now + LONGEST_HOLD),
        })
    }

    /// Takes what the effective stream has of the body: all that has come and not gone on; nothing more
    /// at its trailers.
    pub(super) fn read(
        &mut self,
        worker: &Worker,
        stream: u32,
        size: Option<usize>,
        ended: bool,
        now: SystemTime,
    ) -> Look {
        if let Some(size) = size {
            self.take(size);
            if !self.is_head_gone {
                worker.diagnoses.fruitless.set(0);
            }
        }
        if ended && !self.is_long {
            worker.diagnose(self, stream, now);
        }
        // Envoys without the mending of envoyproxy/envoy#46841 (1.36.4 is one) lose the next piece of a
        // body of which some was held and let go by the clock, unless that piece is held too.
        if self.is_head_gone && self.is_body_held && size.is_some() {
            self.until = Some(now);
            return Look::Hold;
        }
        if ended || self.is_long {
            return Look::Done;
        }
        if self.is_head_gone {
            self.gone = self.text.len();
            return Look::Pass;
        }
        self.is_body_held = true;
        Look::Hold
    }

    fn take(&mut self, size: usize) {
        self.text.truncate(self.gone);
        self.is_long |= self.text.len() + size > LONGEST_BODY;
        if !self.is_long {
            let piece = hostcalls::get_buffer(BufferType::HttpResponseBody, 0, size);
            self.text.extend_from_slice(&piece.ok().flatten().unwrap_or_default());
        }
    }

    /// Lets the effective stream's answer go, the rest of whose body does not come.
    pub(super) fn release(&mut self, worker: &Worker) {
        if !self.is_head_gone && !self.is_body_held && is_whole() {
            let fruitless = &worker.diagnoses.fruitless;
            fruitless.set(fruitless.get().saturating_add(1));
        }
        self.until = None;
        self.gone = self.text.len();
        self.is_head_gone = true;
    }
}

/// Whether Envoy has all of the answer that the effective stream receives: it knows then how long that
/// took. What is late is late by the backend's doing, until then.
fn is_whole() -> bool {
    let took = hostcalls::get_property(vec!["response", "backend_latency"]);
    took.is_ok_and(|took| took.is_some_and(|took| !took.is_empty()))
}

/// What becomes of an answer that is looked into.
pub(super) enum Look {
    /// It is held until more has come.
    Hold,
    /// It goes on, and is looked into further.
    Pass,
    /// It goes on.
    Done,
}

/// Makes room for the times of what is logged.
pub(super) fn prepare(config: &Config) {
    for backend in &config.backends {
        for row in BACKENDS.iter().filter(|row| row.is_mistake) {
            shared::prepare(&key(&backend.name, row), b"");
        }
    }
}

impl Worker {
    fn diagnose(&self, held: &Held, stream: u32, now: SystemTime) {
        let said = Said::read(&held.text);
        let Some(diagnosis) = Diagnosis::of_answer(held.status, &said).filter(|one| one.is_mistake)
        else {
            return;
        };
        if !held.is_head_gone {
            set_response_header(HEADER, diagnosis.slug);
        }
        self.diagnoses.count(&metrics::diagnoses(&held.backend, diagnosis));
        let backend = self.config.backends.iter().find(|backend| backend.name == held.backend);
        let Some(backend) = backend else {
            return;
        };
        if shared::may_log(&key(&backend.name, diagnosis), now) {
            self.tell(backend, diagnosis, held.status, &said, now);
        }
        let tokens = self.tokens.get(backend.credential);
        if diagnosis.slug == TOKEN_REJECTED && tokens.is_some_and(|tokens| tokens.reject(now)) {
            self.tick_from(stream, Duration::ZERO);
        }
    }

    fn tell(
        &self,
        backend: &Backend,
        diagnosis: &'static Diagnosis,
        status: u16,
        said: &Said,
        now: SystemTime,
    ) {
        let Some(tokens) = self.tokens.get(backend.credential) else {
            return;
        };
        let bearer = tokens.usable(now);
        let claims = bearer
            .as_ref()
            .and_then(|bearer| bearer.value.strip_prefix("Bearer "))
            .and_then(Claims::of);
        let concern = Concern {
            diagnosis,
            status,
            said,
            backend: &backend.name,
            resource: backend.endpoint.authority(),
            audience: &tokens.credential.audience,
            claims: claims.as_ref(),
        };
        warn!("{concern}");
    }
}

impl Diagnoses {
    fn count(&self, name: &str) {
        let mut counters = self.counters.borrow_mut();
        let known = counters.iter().find(|(known, _)| known == name).map(|(_, id)| *id);
        let id = known.or_else(|| {
            let id = hostcalls::define_metric(MetricType::Counter, name).ok()?;
            counters.push((name.to_owned(), id));
            Some(id)
        });
        if let Some(id) = id {
            let _ = hostcalls::increment_metric(id, 1);
        }
    }
}

/// Where it is stored when a backend's diagnosis was logged last, in milliseconds since 1970.
fn key(backend: &str, diagnosis: &Diagnosis) -> String {
    format!("aoai-filter/diagnosis/{backend}/{}", diagnosis.slug)
}
