//! Names of metrics. Envoy shows them under `wasmcustom.`; the module's interface to Envoy knows no
//! labels, so these names carry them as `.label.value` pairs, for `stats_config.stats_tags` to take out.

use crate::answer::Reason;
use crate::diagnosis::Diagnosis;
use crate::health;

/// How a request ended in the gateway stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'o> {
    /// It went to this backend.
    Forwarded(&'o str),
    /// The filter answered it.
    Answered(Reason),
}

/// How a fetch of a token ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchResult {
    /// With a token.
    Success,
    /// With a failure that may pass.
    Failed,
    /// With a refusal.
    Refused,
}

impl FetchResult {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Success, Self::Failed, Self::Refused];
}

/// How an attempt of a pool ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptResult {
    /// With an answer.
    Answered,
    /// With a 429.
    Throttled,
    /// With a 5xx or no answer.
    Failed,
}

impl AttemptResult {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Answered, Self::Throttled, Self::Failed];
}

impl From<health::Outcome> for AttemptResult {
    fn from(outcome: health::Outcome) -> Self {
        match outcome {
            health::Outcome::Answered => Self::Answered,
            health::Outcome::Throttled(_) => Self::Throttled,
            health::Outcome::Failed => Self::Failed,
        }
    }
}

/// A counter of the attempts of pools.
pub fn attempts(backend: &str, result: AttemptResult) -> String {
    let result = match result {
        AttemptResult::Answered => "answered",
        AttemptResult::Throttled => "throttled",
        AttemptResult::Failed => "failed",
    };
    format!("aoai_attempts_total.backend.{backend}.result.{result}")
}

/// A counter of attempts beyond the first.
pub fn retries() -> String {
    "aoai_retries_total".to_owned()
}

/// A counter: how often a backend began to be left alone.
pub fn cooldowns(backend: &str) -> String {
    format!("aoai_cooldowns_total.backend.{backend}")
}

/// A gauge: for how many models a backend is left alone.
pub fn cooling(backend: &str) -> String {
    format!("aoai_cooling_models.backend.{backend}")
}

/// A counter of requests.
pub fn requests(outcome: Outcome<'_>) -> String {
    let (outcome, backend) = match outcome {
        Outcome::Forwarded(backend) => ("forwarded", backend),
        Outcome::Answered(reason) => (reason.name(), "none"),
    };
    format!("aoai_requests_total.outcome.{outcome}.backend.{backend}")
}

/// A counter of answers that told of a mistake.
pub fn diagnoses(backend: &str, diagnosis: &Diagnosis) -> String {
    format!("aoai_diagnoses_total.backend.{backend}.diagnosis.{}", diagnosis.slug)
}

/// A counter of token fetches of an identity.
pub fn token_fetches(identity: &str, result: FetchResult) -> String {
    let result = match result {
        FetchResult::Success => "success",
        FetchResult::Failed => "failed",
        FetchResult::Refused => "refused",
    };
    format!("aoai_token_fetches_total.identity.{identity}.result.{result}")
}

/// A gauge: for how many more seconds an identity has a token.
pub fn token_remaining_seconds(identity: &str) -> String {
    format!("aoai_token_remaining_seconds.identity.{identity}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::BACKENDS;

    #[test]
    fn names_are_what_dashboards_are_built_on() {
        let rows = [
            (
                requests(Outcome::Forwarded("eastus")),
                "aoai_requests_total.outcome.forwarded.backend.eastus",
            ),
            (
                requests(Outcome::Answered(Reason::MissingKey)),
                "aoai_requests_total.outcome.missing_key.backend.none",
            ),
            (
                token_fetches("default", FetchResult::Refused),
                "aoai_token_fetches_total.identity.default.result.refused",
            ),
            (
                attempts("eastus", AttemptResult::Throttled),
                "aoai_attempts_total.backend.eastus.result.throttled",
            ),
            (
                diagnoses("eastus", &BACKENDS[0]),
                "aoai_diagnoses_total.backend.eastus.diagnosis.regional_endpoint",
            ),
            (retries(), "aoai_retries_total"),
            (cooldowns("eastus"), "aoai_cooldowns_total.backend.eastus"),
            (cooling("eastus"), "aoai_cooling_models.backend.eastus"),
            (token_remaining_seconds("default"), "aoai_token_remaining_seconds.identity.default"),
        ];
        for (name, expected) in rows {
            assert_eq!(name, expected);
        }
    }
}
