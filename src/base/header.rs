//! Names of headers and query parameters that the gateway or Envoy interprets.

/// What the names of the gateway's own headers begin with. Those that a client sends are removed: they
/// could choose where its request goes.
pub const OWN_PREFIX: &str = "x-aoai-";

/// Which cluster the route sends a request to.
pub const CLUSTER: &str = "x-aoai-cluster";

/// Which backend a response comes from.
pub const BACKEND: &str = "x-aoai-backend";

/// How many backends were tried.
pub const ATTEMPTS: &str = "x-aoai-attempts";

/// Why the gateway replied locally.
pub const REASON: &str = "x-aoai-reason";

/// The mistake of configuration that a response shows.
pub const DIAGNOSIS: &str = "x-aoai-diagnosis";

/// How many requests a subscription may make in a minute.
pub const LIMIT_REQUESTS: &str = "x-aoai-limit-requests";

/// For how many of them there is room.
pub const REMAINING_REQUESTS: &str = "x-aoai-remaining-requests";

/// How many tokens a subscription may use in a minute.
pub const LIMIT_TOKENS: &str = "x-aoai-limit-tokens";

/// For how many of them there is room.
pub const REMAINING_TOKENS: &str = "x-aoai-remaining-tokens";

/// On a response: Envoy may retry at the pool's next backend.
pub const RETRY: &str = "x-aoai-retry";

/// Where a client may put its subscription key, besides `Authorization: Bearer`: as Azure's clients,
/// API Management's and Anthropic's have it.
pub const KEY_HEADERS: [&str; 3] = ["api-key", "ocp-apim-subscription-key", "x-api-key"];

/// Query parameters that hold a key; browsers cannot set headers on a WebSocket.
pub const KEY_PARAMETERS: [&str; 2] = ["subscription-key", "api-key"];

/// What a WebSocket client offers to speak: names between commas.
pub const SUBPROTOCOLS: &str = "sec-websocket-protocol";

/// What the name of a subprotocol begins with that holds a key: the official clients' way in browsers.
pub const KEY_SUBPROTOCOL: &str = "openai-insecure-api-key.";

/// Whether Envoy takes instructions from a header of this name, or its statistics and traces do. Envoy
/// removes them itself where it knows that a caller is not one of the mesh's own.
pub fn is_envoy_control(name: &str) -> bool {
    const CONTROLS: [&str; 10] = [
        "retr",
        "max-retries",
        "hedge",
        "upstream-rq-",
        "original-dst-host",
        "upstream-alt-stat-name",
        "ip-tags",
        "decorator-operation",
        "force-trace",
        "expected-rq-timeout-ms",
    ];
    let control = name.strip_prefix("x-envoy-");
    control.is_some_and(|control| CONTROLS.iter().any(|start| control.starts_with(start)))
}

/// Whether a header or trailer of this name is never forwarded, whatever its value.
pub fn is_internal(name: &str) -> bool {
    name.starts_with(OWN_PREFIX) || KEY_HEADERS.contains(&name) || name == "authorization"
}

/// Whether a request leaves with a header of this name as it came.
pub fn is_forwarded(name: &str) -> bool {
    !is_internal(name) && !is_envoy_control(name)
}
