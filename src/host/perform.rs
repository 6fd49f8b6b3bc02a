//! Steps of flows as calls of Envoy.

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType};

use super::envoy::POOL_REFERENCE;
use crate::flow::step::{Changes, HeaderChange, Message};
use crate::reply::LocalResponse;
use crate::request::body::edit::BodyEdit;

/// Changes the message at hand. Its head must still be held where headers change: the SDK panics
/// otherwise, and then the message does not go on.
pub(super) fn change(message: Message, changes: &Changes) {
    let map = match message {
        Message::Request => MapType::HttpRequestHeaders,
        Message::Response => MapType::HttpResponseHeaders,
    };
    for change in &changes.headers {
        let _ = match change {
            HeaderChange::Remove(name) => hostcalls::remove_map_value(map, name),
            HeaderChange::Set(name, value) => {
                hostcalls::set_map_value_bytes(map, name, Some(value))
            }
        };
    }
    for name in &changes.removed_trailers {
        let _ = hostcalls::remove_map_value(MapType::HttpRequestTrailers, name);
    }
    if let Some(edit) = &changes.body {
        let body = match message {
            Message::Request => BufferType::HttpRequestBody,
            Message::Response => BufferType::HttpResponseBody,
        };
        edit_body(body, edit);
    }
    if let Some(reference) = &changes.pool_reference {
        let _ = hostcalls::set_property(vec![POOL_REFERENCE], Some(reference));
    }
}

/// Replaces some bytes of a body that is held. Envoy replaces at the beginning of a buffer only, so what
/// stands before goes with it.
fn edit_body(body: BufferType, edit: &BodyEdit) {
    let mut start = Vec::new();
    if edit.is_append() {
        let _ = hostcalls::set_buffer(body, edit.at.start, 0, &edit.with);
        return;
    }
    if edit.at.start > 0 {
        start = hostcalls::get_buffer(body, 0, edit.at.start).ok().flatten().unwrap_or_default();
    }
    start.extend_from_slice(&edit.with);
    let _ = hostcalls::set_buffer(body, 0, edit.at.end, &start);
}

/// Sends a local reply.
pub(super) fn reply(reply: &LocalResponse) {
    let LocalResponse { status, headers, body } = reply;
    let headers = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let _ = hostcalls::send_http_response(u32::from(*status), headers, Some(body.as_bytes()));
}
