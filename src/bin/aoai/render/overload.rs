//! The overload manager: what all callers together can make Envoy hold.

use aoai_filter::config::Listener;

/// Its part of the bootstrap.
pub(super) fn manager(listener: &Listener) -> String {
    let Listener { max_connections, heap_limit, .. } = listener;
    format!(
        "
# What all callers together can make Envoy hold. Before the heap is full, connections that idle are closed
# sooner, then large HTTP/2 streams are reset; at last Envoy responds 503 to requests, and accepts no connections.
overload_manager:
  refresh_interval: 0.25s
  # Streams that hold less than 1 MiB are never reset.
  buffer_factory_config: {{minimum_account_to_track_power_of_two: 20}}
  resource_monitors:
  - name: envoy.resource_monitors.global_downstream_max_connections
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
      max_active_downstream_connections: {max_connections}
  - name: envoy.resource_monitors.fixed_heap
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig
      max_heap_size_bytes: {heap_limit}
  actions:
  - name: envoy.overload_actions.reduce_timeouts
    triggers: [{{name: envoy.resource_monitors.fixed_heap, scaled: {{scaling_threshold: 0.75, saturation_threshold: 0.9}}}}]
    typed_config:
      \"@type\": type.googleapis.com/envoy.config.overload.v3.ScaleTimersOverloadActionConfig
      timer_scale_factors: [{{timer: HTTP_DOWNSTREAM_CONNECTION_IDLE, min_timeout: 2s}}]
  - name: envoy.overload_actions.shrink_heap
    triggers: [{{name: envoy.resource_monitors.fixed_heap, threshold: {{value: 0.85}}}}]
  - name: envoy.overload_actions.reset_high_memory_stream
    triggers: [{{name: envoy.resource_monitors.fixed_heap, scaled: {{scaling_threshold: 0.85, saturation_threshold: 0.95}}}}]
  - name: envoy.overload_actions.stop_accepting_requests
    triggers: [{{name: envoy.resource_monitors.fixed_heap, threshold: {{value: 0.95}}}}]
  - name: envoy.overload_actions.stop_accepting_connections
    triggers: [{{name: envoy.resource_monitors.fixed_heap, threshold: {{value: 0.98}}}}]
"
    )
}
