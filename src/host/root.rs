//! The root context: takes the configuration, and looks after everything that is not one request.

use std::rc::Rc;

use log::{error, info};
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{BufferType, ContextType, LogLevel};

use super::callout;
use super::stream::Stream;
use super::worker::{now, Worker};
use crate::config::Config;

/// The stage of a filter whose `root_id` this is.
const GATEWAY: &[u8] = b"gateway";

pub(super) struct Root {
    id: u32,
    worker: Option<Rc<Worker>>,
}

impl Root {
    pub(super) fn new(id: u32) -> Self {
        Self { id, worker: None }
    }

    fn configure(&self) -> Result<Config, String> {
        let root_id = hostcalls::get_property(vec!["plugin_root_id"]).ok().flatten();
        if root_id.as_deref() != Some(GATEWAY) {
            return Err(
                "root_id: found another one; this module's stage is called \"gateway\"".to_owned()
            );
        }
        let document = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX);
        let document = document.ok().flatten().unwrap_or_default();
        Config::from_plugin(&document).map_err(|problems| problems.to_string())
    }
}

impl Context for Root {
    fn on_done(&mut self) -> bool {
        if let Some(worker) = &self.worker {
            worker.tokens.release(now());
        }
        true
    }

    fn on_http_call_response(&mut self, callout: u32, headers: usize, body: usize, _: usize) {
        let Some(worker) = &self.worker else {
            return;
        };
        let reply = callout::receive(headers, body);
        let now = now();
        worker.tokens.settle(callout, &reply, now, &worker.metrics);
        worker.waiting.serve(worker, now);
        worker.tick_within(worker.waiting.poll().unwrap_or_default());
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        follow_log_level();
        match self.configure() {
            Ok(config) => {
                info!(
                    "configured: {} subscription keys, {} models, {} backends",
                    config.subscriptions.len(),
                    config.models.len(),
                    config.backends.len(),
                );
                let worker = Rc::new(Worker::new(self.id, config));
                // Callouts are not allowed from here; the first tick makes the first fetch.
                worker.tick_within(Default::default());
                self.worker = Some(worker);
                true
            }
            Err(problems) => {
                error!("the configuration is refused:\n{problems}");
                false
            }
        }
    }

    fn on_tick(&mut self) {
        let Some(worker) = &self.worker else {
            return;
        };
        let now = now();
        let due = worker.tokens.tick(now, &worker.metrics);
        worker.waiting.serve(worker, now);
        let poll = worker.waiting.poll().map_or(due, |wait| due.min(now + wait));
        worker.tick_at(poll, now);
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream::new(id, self.worker.clone())))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

/// Formats no line that Envoy would drop.
fn follow_log_level() {
    proxy_wasm::set_log_level(hostcalls::get_log_level().unwrap_or(LogLevel::Info));
}
