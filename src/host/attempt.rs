//! One attempt at one backend: Envoy's upstream callbacks, turned into steps of the backend stage.

use std::rc::Rc;
use std::time::SystemTime;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, MapType};

use super::metrics::Metrics;
use super::tokens::{Bearer, Tokens};
use super::worker::{now, set_header};
use super::{health, progress, stream};
use crate::answer::{Answer, Reason};
use crate::attempt::{self, Pass, Recipe, Splicer};
use crate::config::Config;
use crate::head::OWN_PREFIX;
use crate::health::Outcome;
use crate::progress::{Last, Progress};

/// Where the endpoint of an attempt says which backend it is.
const BACKEND: [&str; 5] = ["xds", "upstream_host_metadata", "filter_metadata", "aoai", "backend"];

/// By this header on an answer the route knows that Envoy may go on to the next backend.
pub(super) const RETRY: &str = "x-aoai-retry";

/// What all attempts of a worker share.
pub(super) struct Backends {
    config: Config,
    metrics: Metrics,
    /// By the credential's position.
    tokens: Vec<Tokens>,
}

impl Backends {
    pub(super) fn new(config: Config) -> Self {
        Self { metrics: Metrics::define(&config), tokens: Tokens::of(&config), config }
    }

    /// What an attempt is signed in with, if it is not what the gateway stage has put there.
    fn bearer(
        &self,
        recipe: &Recipe,
        backend: &str,
        credential: usize,
        now: SystemTime,
    ) -> Result<Option<Rc<Bearer>>, Answer> {
        match self.tokens.get(credential) {
            Some(tokens) if recipe.signs_in_anew(&self.config, backend) => tokens.newest(now),
            _ => Ok(None),
        }
    }
}

/// An attempt's context.
pub(super) struct Attempt {
    shared: Option<Rc<Backends>>,
    stage: Stage,
}

enum Stage {
    New,
    /// It is on its way to this backend.
    Sent {
        backend: String,
        recipe: Recipe,
        splicer: Option<Splicer>,
        progress: Progress,
    },
    /// Its answer has begun, or the filter has given one.
    Over,
}

impl Attempt {
    pub(super) fn new(shared: Option<Rc<Backends>>) -> Self {
        Self { shared, stage: Stage::New }
    }

    fn begin(&mut self, shared: &Backends) -> Result<(), Answer> {
        let unknown = || Reason::UnknownBackend.because(NO_METADATA);
        let recipe = progress::recipe().ok_or_else(unknown)?;
        let backend = hostcalls::get_property(BACKEND.to_vec()).ok().flatten();
        let backend = backend.and_then(|name| String::from_utf8(name).ok()).ok_or_else(unknown)?;
        let now = now();

        // Whoever was tried before has not answered: an answer would have been written down.
        let mut progress = progress::load();
        if let Last::Tried(earlier) = &progress.last {
            let failed = Outcome::Failed;
            let policy = &shared.config.failover;
            health::record(earlier, &recipe.model, failed, now, policy, &shared.metrics);
        }
        let (number, waited) = (progress::attempts(), progress.waited(now));
        let attempt = recipe.attempt(&shared.config, &backend, number, waited)?;
        let bearer = shared.bearer(&recipe, &backend, attempt.credential, now)?;
        progress.last = Last::Tried(backend.clone());
        progress::store(&progress);

        set_header(":authority", attempt.authority.as_bytes());
        set_header(":path", &attempt.path);
        if let Some(bearer) = bearer {
            set_header("authorization", bearer.value.as_bytes());
        }
        if let Some(length) = attempt.content_length {
            set_header("content-length", length.to_string().as_bytes());
        }
        let splicer = attempt.splice.map(Splicer::new);
        self.stage = Stage::Sent { backend, recipe, splicer, progress };
        Ok(())
    }

    /// The backend has the whole request now.
    fn sent(&mut self) {
        if let Stage::Sent { progress: progress @ Progress { whole_since: None, .. }, .. } =
            &mut self.stage
        {
            progress.whole_since = Some(now());
            progress::store(progress);
        }
    }

    fn end(&mut self, shared: &Backends) {
        let Stage::Sent { backend, recipe, mut progress, .. } =
            std::mem::replace(&mut self.stage, Stage::Over)
        else {
            return;
        };
        let pairs = hostcalls::get_map_bytes(MapType::HttpResponseHeaders).unwrap_or_default();
        let headers = pairs.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let status = headers.clone().find(|(name, _)| *name == ":status");
        let status = status.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok());
        let now = now();
        let policy = &shared.config.failover;
        let outcome = attempt::outcome(status.unwrap_or_default(), headers, now);
        progress.last = Last::Answered(backend.clone());
        progress::store(&progress);
        health::record(&backend, &recipe.model, outcome, now, policy, &shared.metrics);
        // What a backend calls by one of the filter's own names decides nothing and tells nobody.
        for (name, _) in pairs.iter().filter(|(name, _)| name.starts_with(OWN_PREFIX)) {
            let _ = hostcalls::remove_map_value(MapType::HttpResponseHeaders, name);
        }
        let is_trouble = outcome != Outcome::Answered;
        if is_trouble && recipe.may_move_on(progress::attempts(), policy, progress.waited(now)) {
            let response = MapType::HttpResponseHeaders;
            let _ = hostcalls::set_map_value_bytes(response, RETRY, Some(b"1"));
        }
    }
}

impl Context for Attempt {
    fn on_done(&mut self) -> bool {
        // No answer: who comes next tells whether the backend failed or the caller has left.
        if let Stage::Sent { backend, recipe, .. } = &self.stage {
            health::give_back(backend, &recipe.model, now());
        }
        true
    }
}

impl HttpContext for Attempt {
    fn on_http_request_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        let Some(shared) = self.shared.clone() else {
            let _ = hostcalls::send_http_response(503, Vec::new(), None);
            return Action::Pause;
        };
        match self.begin(&shared) {
            Ok(()) => {
                if end_of_stream {
                    self.sent();
                }
                Action::Continue
            }
            Err(answer) => {
                self.stage = Stage::Over;
                let last = Last::Answered(String::new());
                progress::store(&Progress { last, ..Progress::default() });
                shared.metrics.count_answered(answer.reason);
                stream::send(&answer);
                Action::Pause
            }
        }
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        self.sent();
        Action::Continue
    }

    fn on_http_request_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        if end_of_stream {
            self.sent();
        }
        let Stage::Sent { splicer: Some(splicer), .. } = &mut self.stage else {
            return Action::Continue;
        };
        match splicer.pass(body_size) {
            Pass::AsIs => Action::Continue,
            Pass::Wait => Action::Pause,
            Pass::Spliced(splice) => {
                stream::apply(&splice, body_size);
                Action::Continue
            }
        }
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        if let Some(shared) = self.shared.clone() {
            self.end(&shared);
        }
        Action::Continue
    }
}

const NO_METADATA: &str = "This gateway's pool does not fit its configuration: an endpoint lacks the \
    metadata {aoai: {backend: NAME}}, or a request came to the pool by another way than the gateway stage.";
