//! What Envoy knows of a request by the module, as filter state `wasm.NAME`: for access logs, and for Envoy's
//! filter of rate limits.

use std::borrow::Cow;

use crate::flow::measure::LogField;

/// The tokens that a request has used.
pub const TOKENS: &str = "aoai_tokens";

/// The counter of requests that a request is to be counted in.
pub const REQUEST_LIMIT: &str = "aoai_request_limit";

/// The counter of tokens.
pub const TOKEN_LIMIT: &str = "aoai_token_limit";

/// The counter of the tokens of a longer period.
pub const QUOTA: &str = "aoai_quota";

impl LogField<'_> {
    /// The name under which Envoy keeps it, without `wasm.`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Subscription(_) => "aoai_subscription",
            Self::Model(_) => "aoai_model",
            Self::Operation(_) => "aoai_operation",
            Self::Backend(_) => "aoai_backend",
            Self::Attempts(_) => "aoai_attempts",
            Self::Reason(_) => "aoai_reason",
            Self::Diagnosis(_) => "aoai_diagnosis",
            Self::Tokens(_) => TOKENS,
            Self::InputTokens(_) => "aoai_input_tokens",
            Self::OutputTokens(_) => "aoai_output_tokens",
            Self::RequestLimit(_) => REQUEST_LIMIT,
            Self::TokenLimit(_) => TOKEN_LIMIT,
            Self::Quota(_) => QUOTA,
        }
    }

    /// Its value as text.
    pub fn value(&self) -> Cow<'_, str> {
        match *self {
            Self::Subscription(text)
            | Self::Model(text)
            | Self::Operation(text)
            | Self::Backend(text)
            | Self::Diagnosis(text)
            | Self::RequestLimit(text)
            | Self::TokenLimit(text)
            | Self::Quota(text) => Cow::Borrowed(text),
            Self::Reason(reason) => Cow::Borrowed(reason.name()),
            Self::Attempts(count) => Cow::Owned(count.to_string()),
            Self::Tokens(count) | Self::InputTokens(count) | Self::OutputTokens(count) => {
                Cow::Owned(count.to_string())
            }
        }
    }
}
