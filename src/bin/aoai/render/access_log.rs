//! What Envoy writes of each request: for people, and for `aoai usage`.
//!
//! Source of the format's words: Envoy's reference of access logs.

use aoai_filter::config::{AccessLog, Listener};

/// The field of the HTTP connection manager; empty, where nothing is written.
pub(super) fn of(listener: &Listener) -> &'static str {
    match listener.access_log {
        AccessLog::None => "",
        AccessLog::Json => JSON,
    }
}

/// Nothing here is a text of the caller's: no path, no header. Whatever a caller sends, a line is valid JSON and has
/// no key.
const JSON: &str = "\
# A line of JSON for each request, for people and for aoai usage. What callers send is not in there.
access_log:
- name: envoy.access_loggers.stdout
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
    log_format:
      json_format:
        time: \"%START_TIME%\"
        subscription: \"%FILTER_STATE(wasm.aoai_subscription:PLAIN)%\"
        model: \"%FILTER_STATE(wasm.aoai_model:PLAIN)%\"
        operation: \"%FILTER_STATE(wasm.aoai_operation:PLAIN)%\"
        backend: \"%FILTER_STATE(wasm.aoai_backend:PLAIN)%\"
        attempts: \"%FILTER_STATE(wasm.aoai_attempts:PLAIN)%\"
        status: \"%RESPONSE_CODE%\"
        reason: \"%FILTER_STATE(wasm.aoai_reason:PLAIN)%\"
        diagnosis: \"%FILTER_STATE(wasm.aoai_diagnosis:PLAIN)%\"
        tokens: \"%FILTER_STATE(wasm.aoai_tokens:PLAIN)%\"
        input_tokens: \"%FILTER_STATE(wasm.aoai_input_tokens:PLAIN)%\"
        output_tokens: \"%FILTER_STATE(wasm.aoai_output_tokens:PLAIN)%\"
        duration_ms: \"%DURATION%\"
        first_byte_ms: \"%RESPONSE_DURATION%\"
        request_bytes: \"%BYTES_RECEIVED%\"
        response_bytes: \"%BYTES_SENT%\"
        flags: \"%RESPONSE_FLAGS%\"
        caller: \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\"
";
