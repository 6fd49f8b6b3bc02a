//! Fields of access logs: Envoy has them as filter state `wasm.NAME`.

use std::borrow::Cow;

use crate::flow::measure::LogField;

impl LogField<'_> {
    /// The name under which Envoy keeps it, without `wasm.`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Subscription(_) => "aoai_subscription",
            Self::Model(_) => "aoai_model",
            Self::Backend(_) => "aoai_backend",
            Self::Attempts(_) => "aoai_attempts",
            Self::Reason(_) => "aoai_reason",
            Self::Diagnosis(_) => "aoai_diagnosis",
            Self::Tokens(_) => "aoai_tokens",
            Self::InputTokens(_) => "aoai_input_tokens",
            Self::OutputTokens(_) => "aoai_output_tokens",
        }
    }

    /// Its value as text.
    pub fn value(&self) -> Cow<'_, str> {
        match *self {
            Self::Subscription(text)
            | Self::Model(text)
            | Self::Backend(text)
            | Self::Diagnosis(text) => Cow::Borrowed(text),
            Self::Reason(reason) => Cow::Borrowed(reason.name()),
            Self::Attempts(count) => Cow::Owned(count.to_string()),
            Self::Tokens(count) | Self::InputTokens(count) | Self::OutputTokens(count) => {
                Cow::Owned(count.to_string())
            }
        }
    }
}
