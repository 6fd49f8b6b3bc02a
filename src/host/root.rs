//! The root context: takes the configuration, and looks after everything that is not one request.

use std::rc::Rc;

use log::{error, info};
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{BufferType, ContextType, LogLevel};

use super::attempt::{Attempt, Backends};
use super::callout;
use super::diagnosis;
use super::health;
use super::stream::Stream;
use super::worker::{now, Worker};
use crate::config::Config;

pub(super) struct Root {
    id: u32,
    stage: Option<Stage>,
}

/// What a filter does, by its `root_id`.
enum Stage {
    /// `gateway`: once for each request.
    Gateway(Rc<Worker>),
    /// `backend`: once for each attempt of a pool.
    Backend(Rc<Backends>),
}

impl Root {
    pub(super) fn new(id: u32) -> Self {
        Self { id, stage: None }
    }

    fn configure(&self) -> Result<Stage, String> {
        let root_id = hostcalls::get_property(vec!["plugin_root_id"]).ok().flatten();
        let document = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX);
        let document = document.ok().flatten().unwrap_or_default();
        let config = || Config::from_plugin(&document).map_err(|problems| problems.to_string());
        match root_id.as_deref() {
            Some(b"gateway") => Ok(Stage::Gateway(Rc::new(Worker::new(self.id, config()?)))),
            Some(b"backend") => Ok(Stage::Backend(Rc::new(Backends::new(config()?)))),
            _ => Err("root_id: found another one; expected \"gateway\" or \"backend\"".to_owned()),
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
            let now = now();
            worker.tokens.iter().for_each(|tokens| tokens.release(now));
        }
        true
    }

    fn on_http_call_response(&mut self, callout: u32, headers: usize, body: usize, _: usize) {
        let Some(worker) = self.worker() else {
            return;
        };
        let reply = callout::receive(headers, body);
        let now = now();
        let _ = worker.tokens.iter().any(|one| one.settle(callout, &reply, now, &worker.metrics));
        worker.waiting.serve(worker, now);
        worker.tick_within(worker.waiting.poll().unwrap_or_default());
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        follow_log_level();
        match self.configure() {
            Ok(stage) => {
                if let Stage::Gateway(worker) = &stage {
                    info!(
                        "configured: {} subscription keys, {} models, {} backends",
                        worker.config.subscriptions.len(),
                        worker.config.models.len(),
                        worker.config.backends.len(),
                    );
                    diagnosis::prepare(&worker.config);
                    // Callouts are not allowed from here; the first tick makes the first fetch.
                    worker.tick_within(Default::default());
                }
                health::prepare();
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
        let now = now();
        let due = worker.tick(now);
        worker.waiting.serve(worker, now);
        let poll = worker.waiting.poll().map_or(due, |wait| due.min(now + wait));
        worker.tick_at(poll, now);
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(match &self.stage {
            Some(Stage::Gateway(worker)) => Box::new(Stream::new(id, Some(Rc::clone(worker)))),
            Some(Stage::Backend(backends)) => Box::new(Attempt::new(Some(Rc::clone(backends)))),
            None => Box::new(Stream::new(id, None)),
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
