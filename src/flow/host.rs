//! What a flow needs of its host.

use std::time::{Duration, SystemTime};

use super::measure::{Counter, Gauge, Histogram, LogEntry, LogField};
use crate::identity::{CalloutResponse, Request};

/// A header map: names in lower case, pseudo-headers included.
pub type Headers = Vec<(String, Vec<u8>)>;

/// The names and values of a header map.
pub fn pairs(headers: &Headers) -> impl Iterator<Item = (&str, &[u8])> + Clone {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
}

/// A value of the store that all workers of a process share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// The value, where there is one.
    pub value: Option<Vec<u8>>,
    /// What a conditional write has to name.
    pub version: Option<u32>,
}

/// Envoy, or what stands in for it. Everything that a flow asks is a call of the host, and so costs
/// something: a flow asks as late and as rarely as it can.
pub trait Host {
    /// The time by the host's clock.
    fn now(&self) -> SystemTime;

    /// Reads the store that all workers share.
    fn shared(&self, key: &str) -> Stored;

    /// Writes it, if the version is still this one; any, where there is none. Whether it was written.
    fn set_shared(&self, key: &str, value: &[u8], version: Option<u32>) -> bool;

    /// The headers of the request at hand.
    fn request_headers(&self) -> Headers;

    /// Its trailers.
    fn request_trailers(&self) -> Headers;

    /// What the host holds of its body, from one offset to another.
    fn request_body(&self, from: usize, to: usize) -> Vec<u8>;

    /// How many bytes of the request the host has received, head and body together.
    fn received_request_bytes(&self) -> Option<u64>;

    /// The headers of the response at hand.
    fn response_headers(&self) -> Headers;

    /// Its status.
    fn response_status(&self) -> Option<u16>;

    /// What the host holds of its body.
    fn response_body(&self, size: usize) -> Vec<u8>;

    /// Whether the host has received all of it.
    fn response_is_complete(&self) -> bool;

    /// Where it comes from, in Envoy's words (`response.code_details`).
    fn response_code_details(&self) -> Option<Vec<u8>>;

    /// Whether the attempt that ends at hand has found no connection.
    fn connection_failed(&self) -> bool;

    /// What the gateway stage left for the attempts at the request at hand.
    fn pool_reference(&self) -> Option<Vec<u8>>;

    /// The name of the backend that the attempt at hand goes to.
    fn upstream_backend(&self) -> Option<String>;

    /// Sends a request to an identity endpoint; its response comes with this number.
    ///
    /// # Errors
    /// It could not be sent, and this is what came of it.
    fn call(&self, request: &Request, timeout: Duration) -> Result<u32, CalloutResponse>;

    /// Has due fetches of tokens started soon.
    fn fetch_soon(&self);

    /// Adds to a counter.
    fn add(&self, counter: Counter<'_>, by: u64);

    /// Sets a gauge.
    fn set(&self, gauge: Gauge<'_>, value: u64);

    /// Adds a value to a histogram.
    fn record(&self, histogram: Histogram<'_>, value: u64);

    /// Leaves something of the request at hand for access logs.
    fn note(&self, field: LogField<'_>);

    /// Writes a line of the log.
    fn log(&self, entry: &LogEntry<'_>);
}
