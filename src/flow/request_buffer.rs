//! What a worker has Envoy buffer of requests' bodies, and how much of that one subscription may use.
//!
//! A body is buffered until it names its model and there is a token. Many of them at once, each within
//! `listener.body_limit`, would be a way to take all memory from others. So a subscription may use as much as
//! it leaves free (dynamic thresholds, Choudhury and Hahne 1998): half of the buffer where it is alone, a third
//! where there are two. However many use all that they may, there is room for one more.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::Subscription;
use crate::reply::Reply;

/// The buffer of one worker, for all of its configurations.
#[derive(Debug, Default)]
pub struct RequestBuffer {
    used: Cell<u64>,
    /// By the subscription's id, as far as it uses any.
    by_subscription: RefCell<HashMap<String, u64>>,
}

/// What the buffer has of one request's body. It is given back when this is dropped.
#[derive(Debug)]
pub struct BufferedBody {
    buffer: Rc<RequestBuffer>,
    subscription: Arc<Subscription>,
    bytes: u64,
}

impl RequestBuffer {
    /// How many bytes are in use.
    pub fn used(&self) -> u64 {
        self.used.get()
    }

    /// Replaces a request's use of `from` bytes by one of `to`.
    fn change(&self, subscription: &str, from: u64, to: u64) {
        let changed = |used: u64| used.saturating_sub(from).saturating_add(to);
        self.used.set(changed(self.used.get()));
        let mut by_subscription = self.by_subscription.borrow_mut();
        let used = changed(by_subscription.get(subscription).copied().unwrap_or_default());
        if used == 0 {
            by_subscription.remove(subscription);
        } else if let Some(known) = by_subscription.get_mut(subscription) {
            *known = used;
        } else {
            by_subscription.insert(subscription.to_owned(), used);
        }
    }

    fn used_by(&self, subscription: &str) -> u64 {
        self.by_subscription.borrow().get(subscription).copied().unwrap_or_default()
    }
}

impl BufferedBody {
    /// Nothing yet, of a request of this subscription.
    pub fn new(buffer: &Rc<RequestBuffer>, subscription: &Arc<Subscription>) -> Self {
        Self { buffer: Rc::clone(buffer), subscription: Arc::clone(subscription), bytes: 0 }
    }

    /// So many bytes of the body are to be buffered, where the buffer has room for `capacity`.
    ///
    /// # Errors
    /// The reply where the subscription would use more than it leaves free.
    pub fn buffer(&mut self, bytes: usize, capacity: u64) -> Result<(), Reply> {
        let bytes = bytes as u64;
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            let used = self.buffer.used().saturating_add(more);
            let own = self.buffer.used_by(&self.subscription.id).saturating_add(more);
            if own > capacity.saturating_sub(used) {
                return Err(Reply::request_buffer_full());
            }
        }
        if bytes != self.bytes {
            self.buffer.change(&self.subscription.id, self.bytes, bytes);
            self.bytes = bytes;
        }
        Ok(())
    }
}

impl Drop for BufferedBody {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.buffer.change(&self.subscription.id, self.bytes, 0);
        }
    }
}
