//! Names of metrics. Envoy shows them under `wasmcustom.`; the module's interface to Envoy knows no
//! labels, so these names carry them as `.label.value` pairs, for `stats_config.stats_tags` to take out.

use crate::config::Config;
use crate::flow::measure::{
    AttemptResult, Counter, FetchResult, Gauge, Histogram, Labels, Source, TokenKind,
};
use crate::reply::Reason;

impl Counter<'_> {
    /// The metric's name, written into this buffer.
    pub fn write_name(&self, name: &mut String) {
        let mut write = |parts: &[&str]| parts.iter().for_each(|part| name.push_str(part));
        match *self {
            Self::Forwarded { backend, labels } => {
                write_request(name, "forwarded", backend, labels);
            }
            Self::Abandoned { backend, labels } => {
                write_request(name, "abandoned", backend.unwrap_or("none"), labels);
            }
            Self::Replied { reason, labels } => {
                write_request(name, reason.name(), "none", labels);
            }
            Self::Tokens { labels, backend, kind, source } => {
                let Labels { subscription, model } = labels;
                write(&["aoai_tokens_total.backend.", backend, ".type.", kind.name()]);
                write(&[".source.", source.name(), ".subscription.", subscription]);
                write(&[".model.", model]);
            }
            Self::LimitsUnchecked { labels: Labels { subscription, model } } => {
                write(&[
                    "aoai_limits_unchecked_total.subscription.",
                    subscription,
                    ".model.",
                    model,
                ]);
            }
            Self::ModelsListed { labels } => {
                write_request(name, "models_listed", "none", labels);
            }
            Self::Attempt { backend, result } => {
                write(&["aoai_attempts_total.backend.", backend, ".result.", result.name()]);
            }
            Self::Retries => write(&["aoai_retries_total"]),
            Self::Cooldowns { backend } => write(&["aoai_cooldowns_total.backend.", backend]),
            Self::Diagnosis { backend, diagnosis } => {
                write(&["aoai_diagnoses_total.backend.", backend, ".diagnosis.", diagnosis.slug]);
            }
            Self::TokenFetch { identity, result } => {
                let result = result.name();
                write(&["aoai_entra_token_fetches_total.identity.", identity, ".result.", result]);
            }
        }
    }

    /// Calls this for each counter of a configuration that is shown from the beginning, at zero.
    pub fn each(config: &Config, mut define: impl FnMut(Counter<'_>)) {
        for reason in Reason::ALL {
            define(Counter::Replied { reason, labels: Labels::NONE });
        }
        define(Counter::Retries);
        for backend in config.backends.iter().map(|backend| backend.name.as_str()) {
            define(Counter::Cooldowns { backend });
            for result in AttemptResult::ALL {
                define(Counter::Attempt { backend, result });
            }
        }
        for identity in config.credentials.iter().map(|credential| credential.name.as_str()) {
            for result in FetchResult::ALL {
                define(Counter::TokenFetch { identity, result });
            }
        }
    }
}

impl Gauge<'_> {
    /// The metric's name, written into this buffer.
    pub fn write_name(&self, name: &mut String) {
        let mut write = |parts: &[&str]| parts.iter().for_each(|part| name.push_str(part));
        match *self {
            Self::ModelsInCooldown { backend } => {
                write(&["aoai_models_in_cooldown.backend.", backend]);
            }
            Self::Misconfigured { backend, diagnosis } => {
                write(&["aoai_misconfigured.backend.", backend, ".diagnosis.", diagnosis]);
            }
            Self::TokenRemaining { identity } => {
                write(&["aoai_entra_token_remaining_seconds.identity.", identity]);
            }
        }
    }

    /// Calls this for each gauge of a configuration.
    pub fn each(config: &Config, mut define: impl FnMut(Gauge<'_>)) {
        for backend in config.backends.iter().map(|backend| backend.name.as_str()) {
            define(Gauge::ModelsInCooldown { backend });
        }
        for identity in config.credentials.iter().map(|credential| credential.name.as_str()) {
            define(Gauge::TokenRemaining { identity });
        }
    }
}

impl Histogram<'_> {
    /// The metric's name, written into this buffer.
    pub fn write_name(&self, name: &mut String) {
        let (start, backend, model) = match *self {
            Self::TimeToFirstToken { backend, model } => {
                ("aoai_time_to_first_token_ms.backend.", backend, model)
            }
            Self::RequestDuration { backend, model } => {
                ("aoai_request_duration_ms.backend.", backend, model)
            }
        };
        [start, backend, ".model.", model].iter().for_each(|part| name.push_str(part));
    }
}

/// The name of a counter of requests. A model's name may have dots, and so is last.
fn write_request(name: &mut String, outcome: &str, backend: &str, labels: Labels<'_>) {
    let Labels { subscription, model } = labels;
    let parts = ["aoai_requests_total.outcome.", outcome, ".backend.", backend];
    let labels = [".subscription.", subscription, ".model.", model];
    parts.iter().chain(&labels).for_each(|part| name.push_str(part));
}

impl TokenKind {
    fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::CachedInput => "cached_input",
            Self::Output => "output",
            Self::Reasoning => "reasoning",
        }
    }
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Estimated => "estimated",
        }
    }
}

impl AttemptResult {
    fn name(self) -> &'static str {
        match self {
            Self::Responded => "responded",
            Self::Throttled => "throttled",
            Self::Failed => "failed",
            Self::Misconfigured => "misconfigured",
        }
    }
}

impl FetchResult {
    fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::response::diagnosis::BACKENDS;

    fn name(write: impl FnOnce(&mut String)) -> String {
        let mut name = String::new();
        write(&mut name);
        name
    }

    #[test]
    fn names_are_what_dashboards_are_built_on() {
        let backend = "eastus";
        let identity = "default";
        let labels = Labels { subscription: "team", model: "gpt-4.1" };
        let rows = [
            (
                Counter::Forwarded { backend, labels },
                "aoai_requests_total.outcome.forwarded.backend.eastus.subscription.team.model.gpt-4.1",
            ),
            (
                Counter::Abandoned { backend: None, labels },
                "aoai_requests_total.outcome.abandoned.backend.none.subscription.team.model.gpt-4.1",
            ),
            (
                Counter::Replied { reason: Reason::MissingKey, labels: Labels::NONE },
                "aoai_requests_total.outcome.missing_key.backend.none.subscription.none.model.none",
            ),
            (
                Counter::Tokens {
                    labels,
                    backend,
                    kind: TokenKind::CachedInput,
                    source: Source::Reported,
                },
                "aoai_tokens_total.backend.eastus.type.cached_input.source.reported.subscription.team\
                 .model.gpt-4.1",
            ),
            (
                Counter::TokenFetch { identity, result: FetchResult::Refused },
                "aoai_entra_token_fetches_total.identity.default.result.refused",
            ),
            (
                Counter::Attempt { backend, result: AttemptResult::Throttled },
                "aoai_attempts_total.backend.eastus.result.throttled",
            ),
            (
                Counter::Diagnosis { backend, diagnosis: &BACKENDS[0] },
                "aoai_diagnoses_total.backend.eastus.diagnosis.regional_endpoint",
            ),
            (
                Counter::ModelsListed { labels },
                "aoai_requests_total.outcome.models_listed.backend.none.subscription.team.model.gpt-4.1",
            ),
            (Counter::Retries, "aoai_retries_total"),
            (Counter::Cooldowns { backend }, "aoai_cooldowns_total.backend.eastus"),
        ];
        for (counter, expected) in rows {
            assert_eq!(name(|name| counter.write_name(name)), expected);
        }
        for (gauge, expected) in [
            (Gauge::ModelsInCooldown { backend }, "aoai_models_in_cooldown.backend.eastus"),
            (
                Gauge::Misconfigured { backend, diagnosis: "role_missing" },
                "aoai_misconfigured.backend.eastus.diagnosis.role_missing",
            ),
            (
                Gauge::TokenRemaining { identity },
                "aoai_entra_token_remaining_seconds.identity.default",
            ),
        ] {
            assert_eq!(name(|name| gauge.write_name(name)), expected);
        }
    }
}
