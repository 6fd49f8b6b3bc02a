//! Local replies: the one table from an error of any room to what the caller gets, and the lists of
//! [`models`].
//!
//! A message says what to do next and repeats nothing that the caller sent, so that it cannot repeat
//! a key.

pub mod models;

use std::time::Duration;

use crate::access::AccessError;
use crate::identity::IdentityError;
use crate::request::body::BodyError;
use crate::request::head::BodyKindError;
use crate::request::RequestError;
use crate::routing::RoutingError;

/// Why a request is not forwarded. The names are public: they are in `x-aoai-reason`, in the body's
/// `type` and in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No key in any place where one may be.
    MissingKey,
    /// A key that belongs to no subscription.
    UnknownKey,
    /// Two different keys, or a key header that came twice.
    ConflictingKeys,
    /// A subscription that is suspended, not valid yet or no longer valid.
    InactiveSubscription,
    /// A model outside the subscription's scope.
    ModelNotAllowed,
    /// An operation outside the subscription's scope.
    OperationNotAllowed,
    /// A model that the configuration does not have.
    UnknownModel,
    /// A path outside the Azure OpenAI data plane.
    UnknownOperation,
    /// A request that names no model, two, or one that cannot be read.
    MissingModel,
    /// A body that cannot be read, and has to be although the URL names the model.
    UnreadableBody,
    /// As many requests as the subscription may make in a minute.
    RequestLimitReached,
    /// As many tokens as the subscription may use in a minute.
    TokenLimitReached,
    /// As many tokens as the subscription may use in a longer period.
    QuotaExhausted,
    /// The counters of limits cannot be reached.
    LimitsUnavailable,
    /// As much of bodies is buffered for the subscription as may be.
    RequestBufferFull,
    /// Envoy holds the body back that the filter waits for.
    BodyNotDelivered,
    /// No token in time.
    TokenUnavailable,
    /// The identity endpoint refuses for good.
    TokenRefused,
    /// Every backend of the model is in cooldown, and at least one of them throttles.
    AllBackendsThrottled,
    /// Every backend of the model is in cooldown after failures.
    AllBackendsFailed,
    /// Every backend of the model is misconfigured.
    BackendMisconfigured,
    /// A backend failed without a response, and no other one is tried.
    BackendFailed,
    /// A backend took the request and did not respond in time.
    BackendTimeout,
    /// The pool's endpoints do not match the configuration.
    UnknownBackend,
}

/// A local reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Why.
    pub reason: Reason,
    /// What the caller should do about it.
    pub message: String,
    /// The time after which to retry, where that is known.
    pub retry_after: Option<Duration>,
    /// The name of the operator's mistake, where one is the reason.
    pub diagnosis: Option<String>,
    /// Headers that tell the caller its limits.
    pub limits: Vec<(&'static str, String)>,
}

/// A response that the filter itself gives, as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalResponse {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

impl From<Reply> for LocalResponse {
    fn from(reply: Reply) -> Self {
        Self { status: reply.reason.status(), headers: reply.headers(), body: reply.body() }
    }
}

impl Reason {
    /// All of them, in the order of the public table.
    pub const ALL: [Self; 24] = [
        Self::MissingKey,
        Self::UnknownKey,
        Self::ConflictingKeys,
        Self::InactiveSubscription,
        Self::ModelNotAllowed,
        Self::OperationNotAllowed,
        Self::UnknownModel,
        Self::UnknownOperation,
        Self::MissingModel,
        Self::UnreadableBody,
        Self::RequestLimitReached,
        Self::TokenLimitReached,
        Self::QuotaExhausted,
        Self::LimitsUnavailable,
        Self::RequestBufferFull,
        Self::BodyNotDelivered,
        Self::TokenUnavailable,
        Self::TokenRefused,
        Self::AllBackendsThrottled,
        Self::AllBackendsFailed,
        Self::BackendMisconfigured,
        Self::BackendFailed,
        Self::BackendTimeout,
        Self::UnknownBackend,
    ];

    /// Name, HTTP status and error code.
    const fn row(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::MissingKey => ("missing_key", 401, "401"),
            Self::UnknownKey => ("unknown_key", 401, "401"),
            Self::ConflictingKeys => ("conflicting_keys", 401, "401"),
            Self::InactiveSubscription => ("inactive_subscription", 401, "401"),
            Self::ModelNotAllowed => ("model_not_allowed", 403, "PermissionDenied"),
            Self::OperationNotAllowed => ("operation_not_allowed", 403, "PermissionDenied"),
            Self::UnknownModel => ("unknown_model", 404, "DeploymentNotFound"),
            Self::UnknownOperation => ("unknown_operation", 404, "404"),
            Self::MissingModel => ("missing_model", 400, "400"),
            Self::UnreadableBody => ("unreadable_body", 400, "400"),
            Self::RequestLimitReached => ("request_limit_reached", 429, "429"),
            Self::TokenLimitReached => ("token_limit_reached", 429, "429"),
            Self::QuotaExhausted => ("quota_exhausted", 403, "403"),
            Self::LimitsUnavailable => ("limits_unavailable", 503, "503"),
            Self::RequestBufferFull => ("request_buffer_full", 503, "503"),
            Self::BodyNotDelivered => ("body_not_delivered", 500, "500"),
            Self::TokenUnavailable => ("token_unavailable", 503, "503"),
            Self::TokenRefused => ("token_refused", 503, "503"),
            Self::AllBackendsThrottled => ("all_backends_throttled", 429, "429"),
            Self::AllBackendsFailed => ("all_backends_failed", 503, "503"),
            Self::BackendMisconfigured => ("backend_misconfigured", 502, "502"),
            Self::BackendFailed => ("backend_failed", 503, "503"),
            Self::BackendTimeout => ("backend_timeout", 504, "504"),
            Self::UnknownBackend => ("unknown_backend", 500, "500"),
        }
    }

    /// The name in `x-aoai-reason`.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status.
    pub const fn status(self) -> u16 {
        self.row().1
    }

    /// The `code` of the error object, as Azure writes it for the same kind of failure.
    pub const fn code(self) -> &'static str {
        self.row().2
    }

    /// A local reply for this reason.
    pub fn because(self, message: impl Into<String>) -> Reply {
        Reply {
            reason: self,
            message: message.into(),
            retry_after: None,
            diagnosis: None,
            limits: Vec::new(),
        }
    }
}

impl Reply {
    /// The same reply with a time after which to retry.
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// The same reply with headers that tell the caller its limits.
    pub fn with_limits(self, limits: Vec<(&'static str, String)>) -> Self {
        Self { limits, ..self }
    }

    /// The headers of the reply.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("content-type", "application/json".to_owned()),
            ("x-aoai-reason", self.reason.name().to_owned()),
        ];
        headers.extend(self.retry_after.into_iter().flat_map(retry_after_headers));
        if let Some(diagnosis) = &self.diagnosis {
            headers.push(("x-aoai-diagnosis", diagnosis.clone()));
        }
        headers.extend(self.limits.iter().cloned());
        let is_operators =
            matches!(self.reason, Reason::TokenRefused | Reason::BackendMisconfigured);
        if is_operators && self.retry_after.is_none() || self.reason == Reason::QuotaExhausted {
            // Official clients retry a 5xx without this header, and whatever has a time.
            headers.push(("x-should-retry", "false".to_owned()));
        }
        headers
    }

    /// The JSON body.
    pub fn body(&self) -> String {
        let text = |text: &str| serde_json::to_string(text).unwrap_or_default();
        format!(
            r#"{{"error":{{"code":{},"type":{},"message":{},"param":null}}}}"#,
            text(self.reason.code()),
            text(self.reason.name()),
            text(&self.message),
        )
    }
}

/// The headers that tell official clients after which time to retry.
pub fn retry_after_headers(wait: Duration) -> [(&'static str, String); 2] {
    // Rounded up, so that no caller retries too early; `retry-after` knows only seconds.
    let milliseconds = wait.as_micros().div_ceil(1000).max(1);
    let seconds = milliseconds.div_ceil(1000);
    [("retry-after", seconds.to_string()), ("retry-after-ms", milliseconds.to_string())]
}

impl From<AccessError> for Reply {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::MissingKey => Reason::MissingKey.because(
                "Send your subscription key in the header api-key, Ocp-Apim-Subscription-Key or \
                 Authorization: Bearer.",
            ),
            AccessError::UnknownKey => Reason::UnknownKey.because(
                "No subscription has this key. Check that it is complete, and whether it was replaced; an \
                 Azure OpenAI key is not a key of this gateway.",
            ),
            AccessError::ConflictingKeys => Reason::ConflictingKeys
                .because("The request has two different keys. Send only one of them."),
            AccessError::RepeatedKey => Reason::ConflictingKeys
                .because("The request has a header with the key more than once. Send this header once."),
            AccessError::Suspended { id } => Reason::InactiveSubscription.because(format!(
                "Subscription {id} is suspended. Ask the operator of this gateway to make it active."
            )),
            AccessError::NotYetValid { id, from } => Reason::InactiveSubscription.because(format!(
                "Subscription {id} is not valid before {}.",
                humantime::format_rfc3339_seconds(from)
            )),
            AccessError::Expired { id, until } => Reason::InactiveSubscription.because(format!(
                "Subscription {id} expired at {}. Ask the operator of this gateway to extend it.",
                humantime::format_rfc3339_seconds(until)
            )),
            AccessError::OperationNotGranted { id, grant } => {
                Reason::OperationNotAllowed.because(format!(
                    "Subscription {id} is not granted this operation, which belongs to \"{grant}\". Ask the \
                     operator of this gateway to add it to the subscription's operations."
                ))
            }
            AccessError::UnknownModel { id, allowed } => Reason::UnknownModel.because(format!(
                "This gateway has no model of that name. Subscription {id} may use: {allowed}."
            )),
            AccessError::ModelNotAllowed { id, allowed } => Reason::ModelNotAllowed.because(format!(
                "Subscription {id} may not use this model. Subscription {id} may use: {allowed}."
            )),
        }
    }
}

/// What to write instead, for a client whose base URL lacks this.
fn base_url(missing: &str) -> &'static str {
    match missing {
        "/anthropic" => "give the client a base URL that ends with /anthropic.",
        "/openai" => {
            "give OpenAI's clients a base URL that ends with /openai/v1/, and AzureOpenAI the gateway's address \
             alone as azure_endpoint."
        }
        _ => "give the client a base URL that ends with /openai/v1/.",
    }
}

impl From<RequestError> for Reply {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Path(error) => Reason::UnknownOperation.because(format!(
                "The path cannot be used: {error}. Write it as the Azure OpenAI reference does."
            )),
            RequestError::UnknownOperation(Some(missing)) => Reason::UnknownOperation.because(format!(
                "The path lacks its beginning, {missing}: {}",
                base_url(missing)
            )),
            RequestError::UnknownOperation(None) => Reason::UnknownOperation.because(
                "This gateway serves the Azure OpenAI data plane: paths that begin with \
                 /openai/deployments/{model}/, /openai/v1/ or /openai/; and of Foundry /models/chat/completions, \
                 /models/embeddings and /anthropic/v1/. Check the client's endpoint or base URL.",
            ),
            RequestError::NoModelInQuery => Reason::MissingModel
                .because("Name the model in the query: model=… (v1) or deployment=…."),
            RequestError::TwoModelsInQuery => Reason::MissingModel.because(
                "The query names a model more than once. Name it once, as model=… or deployment=….",
            ),
            RequestError::NearModelInQuery => Reason::MissingModel.because(
                "The name of a query parameter is similar to model or deployment, but not the same. Write \
                 model=… or deployment=…, without spaces or brackets in the parameter's name.",
            ),
            RequestError::BodyKind(error) => {
                let advice = match error {
                    BodyKindError::RepeatedContentType => "Send one content-type",
                    BodyKindError::Encoded => {
                        "Send the body uncompressed, or name the model in the URL: \
                         /openai/deployments/{model}/…"
                    }
                    BodyKindError::Format(_) => "Send JSON in UTF-8, or a multipart form",
                };
                unreadable(error, advice)
            }
            RequestError::Unchecked(BodyError::DataSources) => data_sources_not_granted(),
            RequestError::UncheckedKind(error) => {
                unchecked(error, match error {
                    BodyKindError::RepeatedContentType => "Send one content-type",
                    BodyKindError::Encoded => "Send the body uncompressed",
                    BodyKindError::Format(_) => "Send JSON in UTF-8",
                })
            }
            RequestError::Unchecked(error) => unchecked(error, "Send one JSON object in UTF-8"),
            RequestError::Body(error) => {
                let advice = match error {
                    BodyError::Unreadable | BodyError::Incomplete => {
                        "Check that the body is what its content-type says"
                    }
                    BodyError::NoModel => {
                        "Add a field \"model\", or name the model in the URL: \
                         /openai/deployments/{model}/…"
                    }
                    BodyError::TwoModels => "Send exactly one field \"model\", in lower case",
                    BodyError::NotAString => "Send the model's name as a string",
                    BodyError::DataSources => return data_sources_not_granted(),
                };
                unreadable(error, advice)
            }
        }
    }
}

impl From<RoutingError> for Reply {
    fn from(error: RoutingError) -> Self {
        match error {
            RoutingError::AllThrottled { wait } => Reason::AllBackendsThrottled
                .because(
                    "Every backend of this model is in cooldown after throttling or failures. Retry after the \
                     given time.",
                )
                .retry_after(wait),
            RoutingError::AllFailed { wait } => Reason::AllBackendsFailed
                .because(
                    "Every backend of this model has failed, and is in cooldown. Retry after the given time.",
                )
                .retry_after(wait),
            RoutingError::AllMisconfigured { diagnosis } => Reply::misconfigured(diagnosis),
            RoutingError::NotOnDefaultBackend => Reason::UnknownModel.because(
                "This model has no deployment on the Azure resource that keeps this subscription's \
                 assistants and threads. Use a model that has one.",
            ),
            RoutingError::UnknownBackend => Reason::UnknownBackend.because(
                "The clusters of this gateway's Envoy do not match its configuration: each endpoint needs the \
                 metadata {aoai: {backend: NAME}} with the name of a backend of the model. The operator of \
                 this gateway has to render them again.",
            ),
            RoutingError::NoBackendLeft => Reply::no_response(),
        }
    }
}

impl From<IdentityError> for Reply {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Refused { status } => Reason::TokenRefused.because(format!(
                "Azure refuses to issue a token to this gateway ({}). The operator of this gateway has to correct its \
                 identity; its log has the identity endpoint's response.",
                status.map_or("no status".to_owned(), |status| format!("status {status}")),
            )),
            IdentityError::Unavailable { wait } => Reason::TokenUnavailable
                .because(
                    "This gateway has no token for Azure at the moment: its identity endpoint does not \
                     respond as it should. Try again in a moment.",
                )
                .retry_after(wait),
            IdentityError::Stalled => Reason::TokenUnavailable
                .because(
                    "This gateway had no token for Azure when the request came, and the rest of the request's \
                     body did not come in time. Try again.",
                )
                .retry_after(Duration::from_secs(1)),
        }
    }
}

impl Reply {
    /// The backend failed without a response, and no other one is tried.
    pub fn no_response() -> Self {
        Reason::BackendFailed.because(
            "The backend failed without a response, and no other backend can be tried now. Try again.",
        )
    }

    /// The backend has not responded in time.
    pub fn timeout() -> Self {
        Reason::BackendTimeout.because(
            "The backend took the request and did not respond in time. Try again; a response that takes long \
             is better streamed.",
        )
    }

    /// Envoy's circuit breaker lets no more requests to the backend.
    pub fn circuit_breaker() -> Self {
        let reply = Reason::BackendFailed.because(
            "There are more requests to the backend at once than this gateway's Envoy allows (circuit \
             breaker). Try again in a moment.",
        );
        reply.retry_after(Duration::from_secs(1))
    }

    /// Every backend is misconfigured; the first one in this way. Whose mistake it is is told to callers, and
    /// nothing of what Azure says about the operator's resources.
    pub fn misconfigured(diagnosis: impl Into<String>) -> Self {
        let reply = Reason::BackendMisconfigured.because(
            "This gateway's access to Azure is misconfigured; the request is not at fault. The operator of this \
             gateway finds the cause and the remedy in its log, and by aoai doctor.",
        );
        Self { diagnosis: Some(diagnosis.into()), ..reply }
    }

    /// The subscription has made as many requests as it may in a minute.
    pub fn request_limit_reached(rate: u32, wait: Duration) -> Self {
        let reply = Reason::RequestLimitReached.because(format!(
            "The subscription may make {rate} requests a minute, and has made them. Retry after the given time."
        ));
        reply.retry_after(wait)
    }

    /// The subscription has used as many tokens as it may in a minute.
    pub fn token_limit_reached(rate: u32, wait: Duration) -> Self {
        let reply = Reason::TokenLimitReached.because(format!(
            "The subscription may use {rate} tokens a minute, and has used them. Retry after the given time."
        ));
        reply.retry_after(wait)
    }

    /// The subscription has used all tokens of its quota, until the next period.
    pub fn quota_exhausted(tokens: u32, wait: Duration) -> Self {
        let reply = Reason::QuotaExhausted.because(format!(
            "The subscription may use {tokens} tokens in each period of its quota, and has used them. The next \
             period begins after the given time."
        ));
        reply.retry_after(wait)
    }

    /// The counters of limits cannot be reached, so that nobody knows whether there is room.
    pub fn limits_unavailable() -> Self {
        let reply = Reason::LimitsUnavailable.because(
            "This gateway cannot check the subscription's limits at the moment. Try again in a moment.",
        );
        reply.retry_after(Duration::from_secs(1))
    }

    /// As much of bodies is buffered for the subscription as may be.
    pub fn request_buffer_full() -> Self {
        let reply = Reason::RequestBufferFull.because(
            "This gateway has to buffer the request's body until it knows the model, and has buffered as much \
             for this subscription as it may. Put \"model\" first in the body, or name the model in the URL \
             (/openai/deployments/{model}/…), and nothing is buffered; or try again in a moment.",
        );
        reply.retry_after(Duration::from_secs(1))
    }

    /// Envoy holds a body back that the filter waits for.
    pub fn body_not_delivered() -> Self {
        Reason::BodyNotDelivered.because(
            "This gateway cannot see the request's body, because its Envoy filter lacks \
             allow_on_headers_stop_iteration: true. Name the model in the URL meanwhile: \
             /openai/deployments/{model}/….",
        )
    }
}

fn unreadable(error: impl std::fmt::Display, advice: &str) -> Reply {
    Reason::MissingModel.because(format!("The model cannot be determined: {error}. {advice}."))
}

fn data_sources_not_granted() -> Reply {
    Reason::OperationNotAllowed.because(
        "This subscription is not granted \"resources\", which the body's field data_sources needs: the Azure \
         resource reads the data with its own identity. Leave the field out, or ask the operator of this \
         gateway to add \"resources\" to the subscription's operations.",
    )
}

fn unchecked(error: impl std::fmt::Display, advice: &str) -> Reply {
    Reason::UnreadableBody.because(format!(
        "The body cannot be checked for data_sources, which the subscription is not granted: {error}. {advice}."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_table() {
        let table: Vec<_> = Reason::ALL.into_iter().map(Reason::row).collect();
        assert_eq!(
            table,
            [
                ("missing_key", 401, "401"),
                ("unknown_key", 401, "401"),
                ("conflicting_keys", 401, "401"),
                ("inactive_subscription", 401, "401"),
                ("model_not_allowed", 403, "PermissionDenied"),
                ("operation_not_allowed", 403, "PermissionDenied"),
                ("unknown_model", 404, "DeploymentNotFound"),
                ("unknown_operation", 404, "404"),
                ("missing_model", 400, "400"),
                ("unreadable_body", 400, "400"),
                ("request_limit_reached", 429, "429"),
                ("token_limit_reached", 429, "429"),
                ("quota_exhausted", 403, "403"),
                ("limits_unavailable", 503, "503"),
                ("request_buffer_full", 503, "503"),
                ("body_not_delivered", 500, "500"),
                ("token_unavailable", 503, "503"),
                ("token_refused", 503, "503"),
                ("all_backends_throttled", 429, "429"),
                ("all_backends_failed", 503, "503"),
                ("backend_misconfigured", 502, "502"),
                ("backend_failed", 503, "503"),
                ("backend_timeout", 504, "504"),
                ("unknown_backend", 500, "500"),
            ]
        );
    }

    #[test]
    fn a_reply_is_the_error_object_that_official_clients_read() {
        let reply = Reason::UnknownKey.because("say \"please\"\n");
        assert_eq!(
            reply.body(),
            r#"{"error":{"code":"401","type":"unknown_key","message":"say \"please\"\n","param":null}}"#
        );
        assert_eq!(
            reply.headers(),
            [
                ("content-type", "application/json".to_owned()),
                ("x-aoai-reason", "unknown_key".to_owned()),
            ]
        );
    }

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        let rows = [
            (Duration::ZERO, "1", "1"),
            (Duration::from_micros(1), "1", "1"),
            (Duration::from_millis(1000), "1", "1000"),
            (Duration::from_millis(1001), "2", "1001"),
            (Duration::from_secs(70), "70", "70000"),
        ];
        for (wait, seconds, milliseconds) in rows {
            let headers = Reason::TokenUnavailable.because("").retry_after(wait).headers();
            let value = |name| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
            assert_eq!(value("retry-after"), Some(seconds), "{wait:?}");
            assert_eq!(value("retry-after-ms"), Some(milliseconds), "{wait:?}");
        }
    }

    #[test]
    fn what_no_retry_helps_has_x_should_retry_false() {
        let has = |reply: Reply| reply.headers().contains(&("x-should-retry", "false".to_owned()));
        for reason in Reason::ALL {
            let is_final = matches!(
                reason,
                Reason::TokenRefused | Reason::BackendMisconfigured | Reason::QuotaExhausted
            );
            assert_eq!(has(reason.because("")), is_final, "{reason:?}");
        }
        let next_period = Reason::QuotaExhausted.because("").retry_after(Duration::from_secs(60));
        assert!(has(next_period), "clients would wait for days");
        assert!(!has(Reply::misconfigured("d").retry_after(Duration::from_secs(1))));
    }
}
