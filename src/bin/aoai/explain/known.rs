//! What is no error of Azure: local replies of the gateway, and words of Envoy's and of the gateway's log.

use aoai_filter::reply::Reason;

/// Something that users meet.
#[derive(Clone, Copy)]
pub(super) struct Known {
    /// By what it is found in a text, in lower case; for a local reply, its name.
    pub(super) words: &'static str,
    /// What it is.
    pub(super) cause: &'static str,
    /// What to do about it.
    pub(super) remedy: &'static str,
}

/// The local reply that a text names, as the header `x-aoai-reason` or the error's `type` does.
pub(super) fn reply_in(text: &str) -> Option<Reason> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_part(c))
        .find_map(|word| Reason::ALL.into_iter().find(|reason| reason.name() == word))
}

/// What Envoy's words or a line of the log in a text mean; the first row that fits.
pub(super) fn words_in(text: &str) -> Option<Known> {
    let text = text.to_ascii_lowercase();
    LINES.into_iter().find(|row| row.words.split('&').all(|words| text.contains(words)))
}

/// All of these.
pub(super) fn all() -> impl Iterator<Item = Known> {
    let replies = Reason::ALL.into_iter().map(about);
    replies.chain(LINES)
}

const fn row(words: &'static str, cause: &'static str, remedy: &'static str) -> Known {
    Known { words, cause, remedy }
}

/// The cause and the remedy of a local reply.
pub(super) fn about(reason: Reason) -> Known {
    let (cause, remedy) = match reason {
        Reason::MissingKey => (
            "the gateway found no subscription key in the request",
            "Send it in api-key, x-api-key, Ocp-Apim-Subscription-Key or Authorization: Bearer.",
        ),
        Reason::UnknownKey => (
            "no subscription has this key; an Azure OpenAI key is not a key of the gateway",
            "Check the key. An operator can compare its digest (aoai key digest) with those in the document.",
        ),
        Reason::ConflictingKeys => (
            "the request has two different keys, or one header of a key twice",
            "Send one key, once.",
        ),
        Reason::InactiveSubscription => (
            "the subscription is suspended, not valid yet, or expired",
            "Ask the operator of the gateway: see state, not_before and expires_at of the subscription.",
        ),
        Reason::ModelNotAllowed => (
            "the subscription may not use this model",
            "Use one of the models that the reply lists, or have the operator add it to the subscription's models.",
        ),
        Reason::OperationNotAllowed => (
            "the subscription is not granted this operation, or the body has data_sources",
            "Have the operator add resources to the subscription's operations, if it may read what is stored.",
        ),
        Reason::UnknownModel => (
            "the gateway has no model of this name",
            "Use one of the models that the reply lists: the document's models, not Azure's deployments.",
        ),
        Reason::UnknownOperation => (
            "the path is not part of the data plane, or can be read in two ways",
            "Check the client's base URL: it ends with /openai/v1/, or is the gateway's address alone for \
             AzureOpenAI, or ends with /anthropic or /models on Foundry.",
        ),
        Reason::MissingModel => (
            "the body cannot be read, names no model, or names two",
            "Send one JSON object, or a form, with exactly one model, or name the model in the URL.",
        ),
        Reason::UnreadableBody => (
            "the body has to be checked for data_sources, and cannot be read",
            "Send one JSON object in UTF-8, uncompressed.",
        ),
        Reason::RequestLimitReached | Reason::TokenLimitReached => (
            "the subscription has used what its limit allows in a minute",
            "Retry after retry-after. An operator sees the limit in the subscription's limits.",
        ),
        Reason::QuotaExhausted => (
            "the subscription has used its quota of tokens for the period",
            "Wait for the next period (retry-after), or have the operator raise limits.quota.",
        ),
        Reason::LimitsUnavailable => (
            "the service that keeps the limits does not respond",
            "Retry after retry-after. An operator checks envoyproxy/ratelimit and Redis, and limits.endpoint.",
        ),
        Reason::RequestBufferFull => (
            "as much of bodies is buffered as listener.request_buffer allows",
            "Put model first in the body or name it in the URL, and nothing is buffered; or retry.",
        ),
        Reason::BodyNotDelivered => (
            "Envoy holds back the body that the filter waits for",
            "Set allow_on_headers_stop_iteration: true on the filter, as aoai render does; Envoy 1.37 or newer knows it.",
        ),
        Reason::TokenUnavailable => (
            "the gateway has no token of Entra ID yet",
            "Retry after retry-after. The proxy's log has the cause (no token for Azure: …), and so has aoai doctor.",
        ),
        Reason::TokenRefused => (
            "the identity endpoint refuses a token for good",
            "The proxy's log has its response, with the cause and the remedy; run aoai doctor.",
        ),
        Reason::AllBackendsThrottled => (
            "every backend of the model is in cooldown, and at least one of them throttles",
            "Retry after retry-after. More quota in Azure, or more backends for the model, make it rarer.",
        ),
        Reason::AllBackendsFailed => (
            "every backend of the model has failed, and is in cooldown",
            "Retry after retry-after. The proxy's log has each failure; run aoai doctor.",
        ),
        Reason::BackendMisconfigured => (
            "no backend accepts the gateway's requests: a mistake of its operator's",
            "The header x-aoai-diagnosis names the mistake: aoai explain NAME. The proxy's log has it too.",
        ),
        Reason::BackendFailed => (
            "the backend failed without a response, and no other can be tried in time",
            "Retry. Where it goes on, look for the network between the proxy and the backend: aoai doctor.",
        ),
        Reason::BackendTimeout => (
            "the backend has the request and did not respond in time",
            "Retry, or stream the response.",
        ),
        Reason::UnknownBackend => (
            "Envoy's clusters do not fit the document",
            "Render both from one document (aoai render), and let the clusters come first; the proxy's log has \
             the cluster that is missing.",
        ),
    };
    row(reason.name(), cause, remedy)
}

const NO_CLUSTER: &str = "the document needs a cluster that Envoy does not have";
const RENDER_CLUSTERS: &str =
    "Render both from one document (aoai render), and let the clusters come first.";

/// Envoy's words (its reference, "Response Code Details", and its source) and those of the gateway's log, most telling
/// first. `&` joins what has to be there.
const LINES: [Known; 23] = [
    row(
        "certificate_verify_failed",
        "Envoy does not trust the certificate of a backend, or it is for another name",
        "Give the CA bundle that signed it (--ca): a proxy that breaks up TLS has its own. --resolve must lead to \
         the host in the document.",
    ),
    row("envoy has no cluster", NO_CLUSTER, RENDER_CLUSTERS),
    row("cluster_not_found", NO_CLUSTER, RENDER_CLUSTERS),
    row(
        "no such field&allow_on_headers_stop_iteration",
        "this Envoy, or its control plane, is older than the module needs",
        "Use Envoy 1.37 or newer, and Istio 1.29 or newer.",
    ),
    row(
        "load wasm code",
        "Envoy cannot run the module: the file is broken, or none of WebAssembly",
        "Compare its checksum with SHA256SUMS of the release, or the image's digest, and the path that --wasm names.",
    ),
    row(
        "failed to initialize wasm code",
        "Envoy cannot run the module: it is none of this project's, or this Envoy is too old for it",
        "Use Envoy 1.37 or newer with V8, and the module of the release that aoai belongs to.",
    ),
    row(
        "plugin configured to fail closed",
        "the module has no configuration that it can use: Envoy replies 500 or keeps the old listener",
        "The lines of the log above have each problem of the document; aoai check finds them before.",
    ),
    row(
        "unable to create wasm",
        "Envoy cannot load the module, or the module refuses the document",
        "The lines of the log above have the reason: the file's path, or each problem of the document (aoai check).",
    ),
    row(
        "invalid path:",
        "a file that the configuration names is not there for Envoy",
        "Mount it, or render with its path: --wasm for the module, --ca for the CA bundle.",
    ),
    row(
        "no healthy upstream",
        "Envoy has no address for the backend: its name does not resolve",
        "Check the backend's endpoint and DNS from the proxy: aoai doctor.",
    ),
    row(
        "upstream connect error&overflow",
        "a circuit breaker of Envoy's is open: there are too many requests at once",
        "Use the clusters that aoai render prints, whose limits are high; a mesh may have its own.",
    ),
    row(
        "upstream connect error",
        "Envoy cannot reach the backend, or the connection broke before a response",
        "Check the network from the proxy: aoai doctor. What follows in the line is Envoy's reason.",
    ),
    row(
        "upstream request timeout",
        "a timeout of the route ended the request",
        "Use the routes that aoai render prints, which have none: a mesh may add one.",
    ),
    row(
        "stream timeout",
        "a timeout ended the stream of a request",
        "Use stream_idle_timeout: 900s, as aoai render prints it: a reasoning model may be silent for minutes.",
    ),
    row(
        "payload too large",
        "the body is larger than what Envoy buffers",
        "Raise listener.body_limit, or name the model in the URL of a model with one backend.",
    ),
    row(
        "envoy overloaded",
        "Envoy's heap is nearly as large as listener.heap_limit allows",
        "Raise it together with the container's memory, or add proxies.",
    ),
    row(
        "address already in use",
        "another process listens at this port",
        "Choose another one (listener.port, --admin-port), or end the other process.",
    ),
    row(
        "is in cooldown for model",
        "a backend throttled or failed, and other backends are asked meanwhile",
        "Nothing, where it ends by itself. More quota in Azure makes it rarer; aoai doctor tests the backend.",
    ),
    row(
        "more changes of state in a minute",
        "a backend goes into cooldown and out of it many times a minute",
        "Its quota is at its limit: raise it in Azure, or give another backend more weight.",
    ),
    row(
        "no token for azure",
        "the proxy cannot get a token of Entra ID",
        "The line has the identity endpoint's response; run aoai doctor on the proxy's machine.",
    ),
    row(
        "the limits of subscription&were not checked",
        "the service of limits does not respond, or does not know the subscription",
        "Check envoyproxy/ratelimit, and give it what aoai render ratelimit prints.",
    ),
    row(
        "the model produced invalid content",
        "the model failed at this prompt: the response is Azure's own 500",
        "Nothing is wrong with the gateway. Change the prompt, or ask again; another backend would respond the same.",
    ),
    row(
        "route_not_found",
        "the request is for a host or path that Envoy has no route for",
        "Check the host that callers use, and the routes: aoai render prints them.",
    ),
];
