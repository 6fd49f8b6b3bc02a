//! Lines of the log: one for each change of state, with what to do where that is known.

use std::fmt;
use std::time::Duration;

use crate::base::error_body::ErrorBody;
use crate::flow::measure::LogEntry;
use crate::identity::Failure;
use crate::response::diagnosis::Diagnosis;

/// How urgent a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// A change for the better.
    Info,
    /// A change for the worse, which may be transient.
    Warning,
    /// An operator has to correct something.
    Error,
}

impl LogEntry<'_> {
    /// How urgent it is.
    pub fn level(&self) -> Level {
        match self {
            Self::Recovered { .. } | Self::TokenRecovered { .. } => Level::Info,
            Self::Cooldown { .. } | Self::Unlogged { .. } | Self::Finding(_) => Level::Warning,
            Self::TokenFailed { failure, .. } if !failure.is_permanent() => Level::Warning,
            Self::TokenFailed { .. }
            | Self::StoreFailed
            | Self::NoCluster { .. }
            | Self::LimitsUnchecked { .. } => Level::Error,
        }
    }
}

impl fmt::Display for LogEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cooldown { backend, model, wait, outcome } => {
                let wait = Seconds(*wait);
                write!(
                    f,
                    "backend {backend} is in cooldown for model {model} for {wait}: {outcome}"
                )
            }
            Self::Recovered { backend, model } => {
                write!(f, "backend {backend} serves model {model} again")
            }
            Self::Unlogged { backend, changes, models } => {
                write!(
                    f,
                    "backend {backend}: {changes} more changes of state in a minute; it is in cooldown for \
                     {models} models now"
                )
            }
            Self::Finding(finding) => finding.fmt(f),
            Self::TokenFailed { identity, failure, retry_in } => {
                let (explanation, retry_in) = (Explanation(failure), retry_in.as_secs());
                write!(
                    f,
                    "no token for Azure: {failure}. {explanation}Next attempt in {retry_in} s (identity \
                     {identity})"
                )
            }
            Self::TokenRecovered { identity, failures, lasts } => {
                let lasts = lasts.as_secs();
                write!(
                    f,
                    "the identity endpoint gives tokens again after {failures} failed fetches; this one lasts \
                     {lasts} s (identity {identity})"
                )
            }
            Self::StoreFailed => f.write_str("the data that all workers share cannot be written"),
            Self::NoCluster { cluster } => write!(
                f,
                "Envoy has no cluster {cluster}, which the configuration needs: requests get 500 \
                 unknown_backend. Render both from one document (aoai render), and let the clusters come first"
            ),
            Self::LimitsUnchecked { subscription } => write!(
                f,
                "the limits of subscription {subscription} were not checked: the service of limits does not \
                 respond, or does not know them; print its configuration again (aoai render ratelimit)"
            ),
        }
    }
}

/// To the millisecond.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} s", self.0.as_secs(), self.0.subsec_millis())
    }
}

/// What a failure means and what to do about it, in sentences, where that is known.
struct Explanation<'a>(&'a Failure);

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = ErrorBody { code: String::new(), message: self.0.detail().to_owned() };
        match Diagnosis::of_refusal(&error) {
            Some(found) => write!(f, "{}: {}. {} ", found.slug, found.cause, found.remedy),
            None if self.0.is_permanent() => {
                f.write_str("The identity's configuration has to be corrected. ")
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::cooldown::Outcome;

    #[test]
    fn a_line_has_what_changed_and_what_to_do() {
        let refused = Failure::Permanent {
            status: 400,
            detail: "invalid_request: Identity not found".into(),
        };
        let reset = Failure::Transient { status: None, detail: "reset".into(), retry_after: None };
        let wait = Duration::from_millis(7050);
        let rows = [
            (
                LogEntry::Cooldown {
                    backend: "eastus",
                    model: "gpt-4o",
                    wait,
                    outcome: Outcome::Throttled(Some(Duration::from_secs(7))),
                },
                Level::Warning,
                "backend eastus is in cooldown for model gpt-4o for 7.050 s: throttled (retry after 7.000 s)",
            ),
            (
                LogEntry::Recovered { backend: "eastus", model: "gpt-4o" },
                Level::Info,
                "backend eastus serves model gpt-4o again",
            ),
            (
                LogEntry::Unlogged { backend: "eastus", changes: 37, models: 2 },
                Level::Warning,
                "backend eastus: 37 more changes of state in a minute; it is in cooldown for 2 models now",
            ),
            (
                LogEntry::NoCluster { cluster: "aoai/eastus>sweden" },
                Level::Error,
                "Envoy has no cluster aoai/eastus>sweden, which the configuration needs: requests get 500 \
                 unknown_backend. Render both from one document (aoai render), and let the clusters come first",
            ),
            (
                LogEntry::TokenFailed { identity: "default", failure: &reset, retry_in: wait },
                Level::Warning,
                "no token for Azure: failed: reset. Next attempt in 7 s (identity default)",
            ),
            (
                LogEntry::TokenRecovered { identity: "default", failures: 3, lasts: wait },
                Level::Info,
                "the identity endpoint gives tokens again after 3 failed fetches; this one lasts 7 s \
                 (identity default)",
            ),
        ];
        for (entry, level, line) in rows {
            assert_eq!((entry.level(), entry.to_string().as_str()), (level, line));
        }
        let line = LogEntry::TokenFailed { identity: "default", failure: &refused, retry_in: wait };
        assert_eq!(line.level(), Level::Error);
        let text = line.to_string();
        assert!(text.contains("identity_not_found: ") && text.contains("Next attempt"), "{text}");
    }
}
