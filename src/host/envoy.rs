//! Envoy, as flows see it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::{error, info, warn};
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType};

use super::ticker::Ticker;
use super::{callout, metrics};
use crate::flow::host::{Headers, Host, Stored};
use crate::flow::measure::{Counter, Gauge, Histogram, LogEntry, LogField};
use crate::identity::{CalloutResponse, Request};
use crate::telemetry::log::Level;

/// Where the gateway stage leaves word of a request for the backend stage.
pub(super) const POOL_REFERENCE: &str = "aoai_request";

/// Where the endpoint of an attempt says which backend it is.
const BACKEND: [&str; 5] = ["xds", "upstream_host_metadata", "filter_metadata", "aoai", "backend"];

/// Envoy, as it is for the effective context.
pub(super) struct Envoy<'t> {
    /// The request or attempt whose context it is, and the ticks of a root of the gateway stage.
    of: Option<(&'t Ticker, u32)>,
}

impl<'t> Envoy<'t> {
    /// For a root.
    pub(super) fn new() -> Self {
        Self { of: None }
    }

    /// For a request or an attempt.
    pub(super) fn of(ticker: &'t Ticker, request: u32) -> Self {
        Self { of: Some((ticker, request)) }
    }
}

impl Host for Envoy<'_> {
    fn now(&self) -> SystemTime {
        hostcalls::get_current_time().unwrap_or(UNIX_EPOCH)
    }

    fn shared(&self, key: &str) -> Stored {
        let (value, version) = hostcalls::get_shared_data(key).unwrap_or_default();
        Stored { value, version }
    }

    fn set_shared(&self, key: &str, value: &[u8], version: Option<u32>) -> bool {
        hostcalls::set_shared_data(key, Some(value), version).is_ok()
    }

    fn request_headers(&self) -> Headers {
        hostcalls::get_map_bytes(MapType::HttpRequestHeaders).unwrap_or_default()
    }

    fn request_trailers(&self) -> Headers {
        hostcalls::get_map_bytes(MapType::HttpRequestTrailers).unwrap_or_default()
    }

    fn request_body(&self, from: usize, to: usize) -> Vec<u8> {
        buffer(BufferType::HttpRequestBody, from, to)
    }

    fn received_request_bytes(&self) -> Option<u64> {
        let bytes = property(&["request", "total_size"])?;
        u64::try_from(i64::from_le_bytes(bytes.try_into().ok()?)).ok()
    }

    fn response_headers(&self) -> Headers {
        hostcalls::get_map_bytes(MapType::HttpResponseHeaders).unwrap_or_default()
    }

    #[allow(clippy::disallowed_methods)] // a pseudo-header comes once, and its bytes are read as such
    fn response_status(&self) -> Option<u16> {
        let status = hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, ":status");
        std::str::from_utf8(&status.ok()??).ok()?.parse().ok()
    }

    fn response_body(&self, size: usize) -> Vec<u8> {
        buffer(BufferType::HttpResponseBody, 0, size)
    }

    fn response_is_complete(&self) -> bool {
        // Envoy knows then how long it took.
        property(&["response", "backend_latency"]).is_some_and(|took| !took.is_empty())
    }

    fn response_code_details(&self) -> Option<Vec<u8>> {
        property(&["response", "code_details"])
    }

    fn connection_failed(&self) -> bool {
        property(&["upstream", "transport_failure_reason"]).is_some_and(|why| !why.is_empty())
    }

    fn pool_reference(&self) -> Option<Vec<u8>> {
        property(&[POOL_REFERENCE])
    }

    fn upstream_backend(&self) -> Option<String> {
        String::from_utf8(property(&BACKEND)?).ok().filter(|name| !name.is_empty())
    }

    fn call(&self, request: &Request, timeout: Duration) -> Result<u32, CalloutResponse> {
        callout::send(request, timeout)
    }

    fn fetch_soon(&self) {
        if let Some((ticker, request)) = &self.of {
            ticker.tick_from(*request, Duration::ZERO);
        }
    }

    fn add(&self, counter: Counter<'_>, by: u64) {
        metrics::add(counter, by);
    }

    fn set(&self, gauge: Gauge<'_>, value: u64) {
        metrics::set(gauge, value);
    }

    fn record(&self, histogram: Histogram<'_>, value: u64) {
        metrics::record(histogram, value);
    }

    fn note(&self, field: LogField<'_>) {
        let _ = hostcalls::set_property(vec![field.name()], Some(field.value().as_bytes()));
    }

    fn log(&self, entry: &LogEntry<'_>) {
        match entry.level() {
            Level::Info => info!("{entry}"),
            Level::Warning => warn!("{entry}"),
            Level::Error => error!("{entry}"),
        }
    }
}

fn property(path: &[&str]) -> Option<Vec<u8>> {
    hostcalls::get_property(path.to_vec()).ok().flatten()
}

/// Some of the bytes that Envoy holds of a body.
fn buffer(of: BufferType, from: usize, to: usize) -> Vec<u8> {
    if from >= to {
        return Vec::new();
    }
    hostcalls::get_buffer(of, from, to - from).ok().flatten().unwrap_or_default()
}
