//! How the tool ends.

use std::process::ExitCode;

/// The result of a run, as an exit status. Usage errors, which clap finds, have the status of
/// [`Outcome::Unusable`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// There is no problem.
    Success,
    /// The document has problems.
    Problems,
    /// The input or an option cannot be used.
    Unusable,
}

impl Outcome {
    /// The worse of two.
    pub(crate) fn or_worse(self, other: Self) -> Self {
        self.max(other)
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::Success => 0,
            Outcome::Problems => 1,
            Outcome::Unusable => 2,
        })
    }
}
