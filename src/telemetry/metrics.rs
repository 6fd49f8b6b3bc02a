//! Names of metrics. Envoy shows them under `wasmcustom.`; the module's interface to Envoy knows no
//! labels, so these names carry them as `.label.value` pairs, for `stats_config.stats_tags` to take out.

use crate::config::Config;
use crate::flow::measure::{AttemptResult, Counter, FetchResult, Gauge};
use crate::reply::Reason;

impl Counter<'_> {
    /// The metric's name, written into this buffer.
    pub fn write_name(&self, name: &mut String) {
        let mut write = |parts: &[&str]| parts.iter().for_each(|part| name.push_str(part));
        match *self {
            Self::Forwarded { backend } => {
                write(&["aoai_requests_total.outcome.forwarded.backend.", backend]);
            }
            Self::Abandoned { backend } => {
                let backend = backend.unwrap_or("none");
                write(&["aoai_requests_total.outcome.abandoned.backend.", backend]);
            }
            Self::Replied(reason) => {
                write(&["aoai_requests_total.outcome.", reason.name(), ".backend.none"]);
            }
            Self::ModelsListed => {
                write(&["aoai_requests_total.outcome.models_listed.backend.none"]);
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
            define(Counter::Replied(reason));
        }
        define(Counter::ModelsListed);
        define(Counter::Retries);
        define(Counter::Abandoned { backend: None });
        for backend in config.backends.iter().map(|backend| backend.name.as_str()) {
            define(Counter::Forwarded { backend });
            define(Counter::Abandoned { backend: Some(backend) });
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
        let rows = [
            (
                Counter::Forwarded { backend },
                "aoai_requests_total.outcome.forwarded.backend.eastus",
            ),
            (
                Counter::Abandoned { backend: Some(backend) },
                "aoai_requests_total.outcome.abandoned.backend.eastus",
            ),
            (
                Counter::Abandoned { backend: None },
                "aoai_requests_total.outcome.abandoned.backend.none",
            ),
            (
                Counter::Replied(Reason::MissingKey),
                "aoai_requests_total.outcome.missing_key.backend.none",
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
            (Counter::ModelsListed, "aoai_requests_total.outcome.models_listed.backend.none"),
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
