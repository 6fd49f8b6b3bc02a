//! HTTP callouts, with the ways in which they fail brought to one form.

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType, Status};

use crate::identity::{CalloutResponse, Request};

/// More than any identity endpoint has to say. What is longer is cut, and then is no JSON.
const LONGEST_BODY: usize = 64 * 1024;

/// Sends a request; its response comes to the context that is current now, with this number.
pub(super) fn send(request: &Request, timeout: Duration) -> Result<u32, CalloutResponse> {
    let headers = request.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let body = request.body.as_ref().map(|body| body.expose().as_bytes());
    match hostcalls::dispatch_http_call(&request.cluster, headers, body, Vec::new(), timeout) {
        Ok(callout) => Ok(callout),
        Err(Status::BadArgument) => {
            Err(CalloutResponse::NoResponse("Envoy has no cluster of the identity's name"))
        }
        Err(_) => Err(CalloutResponse::NoResponse("the identity's cluster has no healthy host")),
    }
}

/// Reads the response of a callout from within its callback.
pub(super) fn receive(headers: usize, body_size: usize) -> CalloutResponse {
    if headers == 0 {
        return CalloutResponse::NoResponse("the connection was reset");
    }
    let pairs = hostcalls::get_map_bytes(MapType::HttpCallResponseHeaders).unwrap_or_default();
    let text = |wanted: &str| {
        let (_, value) = pairs.iter().find(|(name, _)| name == wanted)?;
        String::from_utf8(value.clone()).ok()
    };
    let Some(status) = text(":status").and_then(|status| status.parse().ok()) else {
        return CalloutResponse::NoResponse("the response has no status");
    };
    let body =
        hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, body_size.min(LONGEST_BODY));
    CalloutResponse::Response {
        status,
        retry_after: text("retry-after"),
        body: body.ok().flatten().unwrap_or_default(),
    }
}
