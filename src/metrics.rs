//! Names of metrics. Envoy shows them under `wasmcustom.`; the module's interface to Envoy knows no
//! labels, so these names carry them as `.label.value` pairs, for `stats_config.stats_tags` to take out.

use crate::answer::Reason;

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

/// A counter of requests.
pub fn requests(outcome: Outcome<'_>) -> String {
    let (outcome, backend) = match outcome {
        Outcome::Forwarded(backend) => ("forwarded", backend),
        Outcome::Answered(reason) => (reason.name(), "none"),
    };
    format!("aoai_requests_total.outcome.{outcome}.backend.{backend}")
}

/// A counter of token fetches.
pub fn token_fetches(result: FetchResult) -> String {
    let result = match result {
        FetchResult::Success => "success",
        FetchResult::Failed => "failed",
        FetchResult::Refused => "refused",
    };
    format!("aoai_token_fetches_total.identity.default.result.{result}")
}

/// A gauge: for how many more seconds there is a token.
pub fn token_remaining_seconds() -> String {
    "aoai_token_remaining_seconds.identity.default".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

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
                token_fetches(FetchResult::Refused),
                "aoai_token_fetches_total.identity.default.result.refused",
            ),
            (token_remaining_seconds(), "aoai_token_remaining_seconds.identity.default"),
        ];
        for (name, expected) in rows {
            assert_eq!(name, expected);
        }
    }
}
