//! What a root context and the streams of its worker share.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proxy_wasm::hostcalls;
use proxy_wasm::types::MapType;

use super::attempt::RETRY;
use super::diagnosis::Diagnoses;
use super::health;
use super::metrics::Metrics;
use super::progress;
use super::stream::{self, set_response_header};
use super::tokens::{Bearer, Tokens};
use super::waiting::WaitingRoom;
use crate::answer::{Answer, Reason};
use crate::config::{Backend, Config};
use crate::dispatch::Dispatch;
use crate::health::{Health, Outcome};
use crate::progress::Last;

/// How often a worker looks around when nothing is due: tokens that others fetched, the gauge.
pub(super) const IDLE: Duration = Duration::from_secs(5);

/// A request that finds one probe after the other taken goes on in the end.
const CLAIMS: usize = 8;

/// One worker's gateway.
pub(super) struct Worker {
    pub(super) root: u32,
    pub(super) config: Config,
    /// By the credential's position.
    pub(super) tokens: Vec<Tokens>,
    pub(super) waiting: WaitingRoom,
    pub(super) metrics: Metrics,
    pub(super) diagnoses: Diagnoses,
    /// Whether a model has several backends, of which some may be left alone.
    has_pools: bool,
    /// The tick period that Envoy has been given.
    period: Cell<Duration>,
}

impl Worker {
    pub(super) fn new(root: u32, config: Config) -> Self {
        health::forget(&config, now());
        Self {
            root,
            tokens: Tokens::of(&config),
            waiting: WaitingRoom::default(),
            metrics: Metrics::define(&config),
            diagnoses: Diagnoses::default(),
            has_pools: config.models.values().any(|model| model.is_pooled()),
            config,
            period: Cell::new(Duration::ZERO),
        }
    }

    /// What is known of backends, where anything can be.
    pub(super) fn health(&self, now: SystemTime) -> Health {
        if !self.has_pools {
            return Health::default();
        }
        let health = health::load();
        match self.tokens.as_slice() {
            // A request for the one identity's token waits for it wherever it goes.
            [] | [_] => health,
            all => health.with_sign_in(all.iter().map(|tokens| tokens.sign_in(now)).collect()),
        }
    }

    /// Looks after the tokens that backends are signed in to with. Returns when to look again.
    pub(super) fn tick(&self, now: SystemTime) -> SystemTime {
        let used = self.tokens.iter().filter(|tokens| tokens.is_used);
        used.map(|tokens| tokens.tick(now, &self.metrics)).min().unwrap_or(now + IDLE)
    }

    /// The token for a request to a backend that waits until `deadline` at the longest; `None` to wait
    /// on.
    pub(super) fn admit(
        &self,
        backend: &Backend,
        now: SystemTime,
        deadline: SystemTime,
    ) -> Result<Option<Rc<Bearer>>, Answer> {
        match self.tokens.get(backend.credential) {
            Some(tokens) => tokens.admit(now, deadline),
            // A configuration's backends all have one.
            None => Err(Reason::TokenUnavailable.because("")),
        }
    }

    /// Gives the effective stream's request what it leaves with. Its headers must still be held: the
    /// SDK panics otherwise, and then the request does not leave.
    pub(super) fn forward(
        &self,
        dispatch: &mut Dispatch,
        bearer: &Bearer,
        now: SystemTime,
    ) -> Result<(), Answer> {
        self.claim_probe(dispatch, now)?;
        let backend = &dispatch.backend;
        match &mut dispatch.recipe {
            Some(recipe) => {
                // The token may be the one of a backend that was chosen before.
                if recipe.token_for.is_some() && bearer.credential == backend.credential {
                    recipe.token_for = Some(backend.name.as_str().into());
                }
                progress::leave_recipe(recipe);
            }
            // The route may have a policy for retries. Nobody looks after those outside of a pool, and a
            // second attempt could do a thing twice.
            None => set_header("x-envoy-max-retries", b"0"),
        }
        // In a pool with several identities, the backend stage puts each attempt's own there.
        set_header("authorization", bearer.value.as_bytes());
        set_header("x-aoai-cluster", dispatch.cluster.as_bytes());
        set_header(":authority", backend.endpoint.authority().as_bytes());
        if let Some(path) = &dispatch.path {
            set_header(":path", path);
        }
        if let Some(length) = dispatch.content_length {
            set_header("content-length", length.to_string().as_bytes());
        }
        // The route is chosen by the cluster header. Changing headers clears it in the versions that
        // were measured; this says so.
        let _ = hostcalls::call_foreign_function("clear_route_cache", None);
        self.metrics.count_forwarded(&backend.name);
        Ok(())
    }

    /// Has a request that tries whether a backend is well again say so, or go elsewhere: another one may
    /// have said so since it chose.
    fn claim_probe(&self, dispatch: &mut Dispatch, now: SystemTime) -> Result<(), Answer> {
        for _ in 0..CLAIMS {
            let Some(model) = dispatch.probes() else {
                break;
            };
            if health::probe(&dispatch.backend.name, model, now) {
                break;
            }
            dispatch.choose_again(&self.config, &self.health(now), now)?;
        }
        Ok(())
    }

    /// Tells the caller of a pool's answer who gave it and after how many attempts, and remembers a
    /// last attempt that got none. Returns the backend whose answer it is.
    pub(super) fn report(&self, model: &str) -> Option<String> {
        let (backend, has_answered) = match progress::load().last {
            Last::Tried(backend) => {
                // A caller's broken request has an answer of Envoy's own too, and says nothing of it.
                if is_of_upstream() {
                    let (now, policy) = (now(), &self.config.failover);
                    health::record(&backend, model, Outcome::Failed, now, policy, &self.metrics);
                }
                (backend, false)
            }
            Last::Answered(backend) => (backend, true),
            Last::None => return None,
        };
        let _ = hostcalls::remove_map_value(MapType::HttpResponseHeaders, RETRY);
        if !backend.is_empty() {
            set_response_header("x-aoai-backend", &backend);
        }
        // The last one was not made where the backend stage has answered itself.
        let attempts = progress::attempts().saturating_sub(u64::from(backend.is_empty()));
        self.metrics.count_retries(attempts.saturating_sub(1));
        set_response_header("x-aoai-attempts", &attempts.to_string());
        Some(backend).filter(|backend| has_answered && !backend.is_empty())
    }

    /// Answers a request. Nothing more may be done with it.
    pub(super) fn answer(&self, answer: &Answer) {
        self.metrics.count_answered(answer.reason);
        stream::send(answer);
    }

    /// Has the root ticked after this time, or sooner if it was to be. The root must be the effective
    /// context.
    pub(super) fn tick_within(&self, wait: Duration) {
        if self.period.get().is_zero() || wait < self.period.get() {
            self.set_period(wait);
        }
    }

    /// As [`Self::tick_within`], where this stream is the effective context.
    pub(super) fn tick_from(&self, stream: u32, wait: Duration) {
        if hostcalls::set_effective_context(self.root).is_ok() {
            self.tick_within(wait);
        }
        let _ = hostcalls::set_effective_context(stream);
    }

    /// Has the root ticked at this time, or when it is time to look around. The root must be the
    /// effective context.
    pub(super) fn tick_at(&self, at: SystemTime, now: SystemTime) {
        self.set_period(at.duration_since(now).unwrap_or_default().min(IDLE));
    }

    fn set_period(&self, wait: Duration) {
        // Envoy counts in milliseconds, and none of them would stop the ticks.
        let wait = wait.max(Duration::from_millis(1));
        if self.period.replace(wait) != wait {
            let _ = hostcalls::set_tick_period(wait);
        }
    }
}

/// Now, by Envoy's clock.
pub(super) fn now() -> SystemTime {
    hostcalls::get_current_time().unwrap_or(UNIX_EPOCH)
}

/// A number that two workers will not have in common, for claims and jitter: the finalizer of SplitMix64
/// over the clock's nanoseconds.
pub(super) fn dice(now: SystemTime) -> u64 {
    let nanos = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let mut z = nanos as u64;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Whether Envoy's own answer is about the upstream: `upstream_reset_before_response_started{…}`.
fn is_of_upstream() -> bool {
    let details = hostcalls::get_property(vec!["response", "code_details"]).ok().flatten();
    details.is_none_or(|details| details.starts_with(b"upstream_") || details.is_empty())
}

pub(super) fn set_header(name: &str, value: &[u8]) {
    let _ = hostcalls::set_map_value_bytes(MapType::HttpRequestHeaders, name, Some(value));
}
