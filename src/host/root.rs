//! The root context: takes the configuration, and turns ticks and callouts into events.

use std::rc::Rc;

use log::{error, info};
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{BufferType, ContextType, LogLevel};

use super::attempt::{self, AttemptContext};
use super::envoy::Envoy;
use super::request::RequestContext;
use super::worker::Worker;
use super::{callout, metrics};
use crate::base::random;
use crate::config::Config;
use crate::flow::gateway::Gateway;
use crate::flow::host::Host;
use crate::flow::pool_request::PoolRequests;
use crate::flow::request_buffer::RequestBuffer;

thread_local! {
    /// Both stages of all configurations are in one VM, and so have one memory.
    static REQUESTS: Rc<PoolRequests> = Rc::default();
    static BUFFER: Rc<RequestBuffer> = Rc::default();
}

pub(super) struct Root {
    id: u32,
    stage: Option<Stage>,
}

/// What a filter does, by its `root_id`.
enum Stage {
    /// `gateway`: once for each request.
    Gateway(Rc<Worker>),
    /// `backend`: once for each attempt at a pool's backend.
    Backend(Rc<PoolRequests>),
}

impl Root {
    pub(super) fn new(id: u32) -> Self {
        Self { id, stage: None }
    }

    fn configure(&self) -> Result<Stage, String> {
        let requests = REQUESTS.with(Rc::clone);
        requests.identify(random::from_clock(Envoy::new().now()));
        let root_id = hostcalls::get_property(vec!["plugin_root_id"]).ok().flatten();
        match root_id.as_deref() {
            Some(b"gateway") => {
                let document =
                    hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX);
                let document = document.ok().flatten().unwrap_or_default();
                let config = Config::from_plugin(&document).map_err(|found| found.to_string())?;
                metrics::define(&config);
                let gateway = Gateway::new(config, &Envoy::new());
                let buffer = BUFFER.with(Rc::clone);
                Ok(Stage::Gateway(Rc::new(Worker::new(self.id, gateway, requests, buffer))))
            }
            Some(b"backend") => Ok(Stage::Backend(requests)),
            _ => Err("root_id: expected \"gateway\" or \"backend\"".to_owned()),
        }
    }

    fn worker(&self) -> Option<&Rc<Worker>> {
        match &self.stage {
            Some(Stage::Gateway(worker)) => Some(worker),
            Some(Stage::Backend(_)) | None => None,
        }
    }
}

impl Context for Root {
    fn on_done(&mut self) -> bool {
        if let Some(worker) = self.worker() {
            let envoy = Envoy::new();
            worker.gateway.release(&envoy, envoy.now());
        }
        true
    }

    fn on_http_call_response(&mut self, callout: u32, headers: usize, body: usize, _: usize) {
        let Some(worker) = self.worker() else {
            return;
        };
        let envoy = Envoy::new();
        let response = callout::receive(headers, body);
        let now = envoy.now();
        worker.gateway.settle(&envoy, callout, &response, now);
        worker.wake_up(None);
        worker.ticker.tick_within(Default::default());
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        follow_log_level();
        match self.configure() {
            Ok(stage) => {
                if let Stage::Gateway(worker) = &stage {
                    let config = &worker.gateway.config;
                    info!(
                        "configured: {} subscription keys, {} models, {} backends, version {}",
                        config.subscriptions.len(),
                        config.models.len(),
                        config.backends.len(),
                        config.version,
                    );
                    // Callouts are not allowed from here; the first tick makes the first fetch.
                    worker.ticker.tick_within(Default::default());
                    attempt::tick_by(&worker.ticker);
                }
                self.stage = Some(stage);
                true
            }
            Err(problems) => {
                error!("the configuration is refused:\n{problems}");
                false
            }
        }
    }

    fn on_tick(&mut self) {
        let Some(worker) = self.worker() else {
            return;
        };
        let envoy = Envoy::new();
        let now = envoy.now();
        let due = worker.gateway.tick(&envoy, now);
        worker.wake_up(Some(now));
        let attempt = attempt::wake_up(&worker.ticker, now);
        let next = [worker.pending.next(), attempt, Some(due)].into_iter().flatten().min();
        worker.ticker.tick_at(next.unwrap_or(due), now);
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(match &self.stage {
            Some(Stage::Gateway(worker)) => {
                Box::new(RequestContext::new(id, Some(Rc::clone(worker))))
            }
            Some(Stage::Backend(requests)) => {
                Box::new(AttemptContext::new(id, Rc::clone(requests)))
            }
            None => Box::new(RequestContext::new(id, None)),
        })
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

/// Formats no line that Envoy would drop.
fn follow_log_level() {
    proxy_wasm::set_log_level(hostcalls::get_log_level().unwrap_or(LogLevel::Info));
}
