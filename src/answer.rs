//! The answers that the filter makes itself: one table from a reason to what the caller gets.
//!
//! A message says what to do next and repeats nothing that the caller sent, so that it cannot repeat
//! a key.

use std::time::Duration;

use crate::body::BodyError;
use crate::head::BodyKindError;
use crate::key::KeyError;
use crate::target::TargetError;

/// Why a request is not passed on. The names are public: they stand in `x-aoai-reason`, in the body's
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
    /// Envoy holds the body back that the filter waits for.
    BodyNotDelivered,
    /// No token in time.
    TokenUnavailable,
    /// The identity endpoint refuses for good.
    TokenRefused,
    /// Every backend of the model has asked to be left alone.
    AllBackendsThrottled,
    /// A backend failed so late that no other one is tried.
    BackendFailed,
    /// The pool's endpoints do not say which backends they are.
    UnknownBackend,
}

/// An answer of the filter's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Why.
    pub reason: Reason,
    /// What the caller should do about it.
    pub message: String,
    /// When it is worth coming back, where that is known.
    pub retry_after: Option<Duration>,
}

impl Reason {
    /// All of them, in the order of the public table.
    pub const ALL: [Self; 15] = [
        Self::MissingKey,
        Self::UnknownKey,
        Self::ConflictingKeys,
        Self::InactiveSubscription,
        Self::ModelNotAllowed,
        Self::OperationNotAllowed,
        Self::UnknownModel,
        Self::UnknownOperation,
        Self::MissingModel,
        Self::BodyNotDelivered,
        Self::TokenUnavailable,
        Self::TokenRefused,
        Self::AllBackendsThrottled,
        Self::BackendFailed,
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
            Self::BodyNotDelivered => ("body_not_delivered", 500, "500"),
            Self::TokenUnavailable => ("token_unavailable", 503, "503"),
            Self::TokenRefused => ("token_refused", 503, "503"),
            Self::AllBackendsThrottled => ("all_backends_throttled", 429, "429"),
            Self::BackendFailed => ("backend_failed", 503, "503"),
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

    /// An answer for this reason.
    pub fn because(self, message: impl Into<String>) -> Answer {
        Answer { reason: self, message: message.into(), retry_after: None }
    }
}

impl Answer {
    /// The same answer with a time to come back.
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// The headers of the answer.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("content-type", "application/json".to_owned()),
            ("x-aoai-reason", self.reason.name().to_owned()),
        ];
        if let Some(wait) = self.retry_after {
            // Rounded up, so that nobody comes too early; `retry-after` knows only seconds.
            let milliseconds = wait.as_micros().div_ceil(1000).max(1);
            let seconds = milliseconds.div_ceil(1000);
            headers.push(("retry-after", seconds.to_string()));
            headers.push(("retry-after-ms", milliseconds.to_string()));
        }
        if self.reason == Reason::TokenRefused {
            // Official clients retry a 503 unless they are told not to.
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

impl From<KeyError> for Answer {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Missing => Reason::MissingKey.because(
                "Send your subscription key in the header api-key, Ocp-Apim-Subscription-Key or \
                 Authorization: Bearer.",
            ),
            KeyError::Unknown => Reason::UnknownKey.because(
                "No subscription has this key. Check it for a missing part, and whether it was \
                 replaced; an Azure OpenAI key is not a key of this gateway.",
            ),
            KeyError::Conflicting => Reason::ConflictingKeys
                .because("The request has two different keys. Send one of them only."),
            KeyError::Repeated => Reason::ConflictingKeys
                .because("A header that holds the key came more than once. Send it once."),
            KeyError::Suspended { id } => Reason::InactiveSubscription.because(format!(
                "Subscription {id} is suspended. Ask whoever runs this gateway to make it active."
            )),
            KeyError::NotYetValid { id, from } => Reason::InactiveSubscription.because(format!(
                "Subscription {id} is not valid before {}.",
                humantime::format_rfc3339_seconds(from)
            )),
            KeyError::Expired { id, until } => Reason::InactiveSubscription.because(format!(
                "Subscription {id} expired at {}. Ask whoever runs this gateway to extend it.",
                humantime::format_rfc3339_seconds(until)
            )),
        }
    }
}

impl From<TargetError> for Answer {
    fn from(error: TargetError) -> Self {
        Reason::UnknownOperation.because(format!(
            "Write the path plainly, as the Azure OpenAI reference does: {error}."
        ))
    }
}

impl From<BodyKindError> for Answer {
    fn from(error: BodyKindError) -> Self {
        let advice = match error {
            BodyKindError::RepeatedContentType => "Send one content-type",
            BodyKindError::Encoded => {
                "Send the body uncompressed, or name the model in the URL: /openai/deployments/{model}/…"
            }
            BodyKindError::Format(_) => "Send JSON in UTF-8, or a multipart form",
        };
        unreadable(error, advice)
    }
}

impl From<BodyError> for Answer {
    fn from(error: BodyError) -> Self {
        let advice = match error {
            BodyError::Unreadable | BodyError::Incomplete => {
                "Check that the body is what its content-type says"
            }
            BodyError::NoModel => {
                "Add a field \"model\", or name the model in the URL: /openai/deployments/{model}/…"
            }
            BodyError::TwoModels => "Send exactly one field \"model\", in lower case",
            BodyError::NotAString => "Send the model's name as a plain text",
        };
        unreadable(error, advice)
    }
}

fn unreadable(error: impl std::fmt::Display, advice: &str) -> Answer {
    Reason::MissingModel.because(format!("The model cannot be told: {error}. {advice}."))
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
                ("body_not_delivered", 500, "500"),
                ("token_unavailable", 503, "503"),
                ("token_refused", 503, "503"),
                ("all_backends_throttled", 429, "429"),
                ("backend_failed", 503, "503"),
                ("unknown_backend", 500, "500"),
            ]
        );
    }

    #[test]
    fn an_answer_is_the_error_object_that_official_clients_read() {
        let answer = Reason::UnknownKey.because("say \"please\"\n");
        assert_eq!(
            answer.body(),
            r#"{"error":{"code":"401","type":"unknown_key","message":"say \"please\"\n","param":null}}"#
        );
        assert_eq!(
            answer.headers(),
            [
                ("content-type", "application/json".to_owned()),
                ("x-aoai-reason", "unknown_key".to_owned()),
            ]
        );
    }

    #[test]
    fn the_time_to_come_back_is_rounded_up_and_never_nothing() {
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
    fn only_a_refused_token_tells_clients_not_to_retry() {
        for reason in Reason::ALL {
            let headers = reason.because("").headers();
            let told = headers.contains(&("x-should-retry", "false".to_owned()));
            assert_eq!(told, reason == Reason::TokenRefused, "{reason:?}");
        }
    }
}
