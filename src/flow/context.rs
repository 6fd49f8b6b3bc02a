//! What a flow knows when an event comes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::SystemTime;

use super::gateway::Gateway;
use super::host::Host;
use super::measure::Labels;
use super::metering::Meter;
use super::pool_request::PoolRequests;
use super::request_buffer::RequestBuffer;

/// One event's circumstances.
pub struct Context<'a> {
    /// The request's number, which no other request of this worker has meanwhile.
    pub id: u32,
    /// The worker's gateway.
    pub gateway: &'a Rc<Gateway>,
    /// The requests to pools of all gateways of this worker.
    pub requests: &'a Rc<PoolRequests>,
    /// What this worker has buffered of bodies.
    pub buffer: &'a Rc<RequestBuffer>,
    /// The host.
    pub host: &'a dyn Host,
    /// Whose request it is, and what it uses.
    pub meter: RefCell<Meter>,
    now: Cell<Option<SystemTime>>,
}

impl<'a> Context<'a> {
    /// Those of an event that has come just now.
    pub fn new(
        id: u32,
        gateway: &'a Rc<Gateway>,
        requests: &'a Rc<PoolRequests>,
        buffer: &'a Rc<RequestBuffer>,
        host: &'a dyn Host,
    ) -> Self {
        Self {
            id,
            gateway,
            requests,
            buffer,
            host,
            meter: RefCell::default(),
            now: Cell::new(None),
        }
    }

    /// Has a request counted as this caller's, for this model.
    pub fn count(&self, count: impl FnOnce(&dyn Host, Labels<'_>)) {
        let meter = self.meter.borrow();
        count(self.host, self.gateway.series.labels(self.host, &meter.caller));
    }

    /// The time of the event. The clock is read at most once.
    pub fn now(&self) -> SystemTime {
        self.now.get().unwrap_or_else(|| {
            let now = self.host.now();
            self.now.set(Some(now));
            now
        })
    }
}
