//! What a response of Azure means when it shows a mistake: one table for the gateway's
//! `x-aoai-diagnosis`, its log, `aoai doctor`, `aoai explain` and the documentation's troubleshooting, so that
//! these never disagree.

mod candidate;
#[cfg(not(target_arch = "wasm32"))]
mod examples;
mod finding;
mod rule;
mod table;

#[cfg(test)]
mod tests;

pub use candidate::{may_have_status, may_tell, LONGEST_BODY};
pub use finding::Finding;
pub use rule::{Diagnosis, Mistake, TOKEN_REJECTED};
pub use table::{BACKENDS, SIGN_IN};

use crate::base::error_body::ErrorBody;

impl Diagnosis {
    /// The mistake that a backend's response shows.
    pub fn of_response(status: u16, error: &ErrorBody) -> Option<&'static Self> {
        BACKENDS.iter().find(|row| row.statuses.contains(&status) && row.is_of(status, error))
    }

    /// The mistake that a refusal of an identity endpoint shows.
    pub fn of_refusal(error: &ErrorBody) -> Option<&'static Self> {
        SIGN_IN.iter().find(|row| row.matches(error))
    }

    /// The mistake that a text from anywhere shows: a body, a log line, a client's exception. Its status
    /// may be unknown.
    pub fn of_text(error: &ErrorBody) -> Option<&'static Self> {
        Self::of_refusal(error).or_else(|| BACKENDS.iter().find(|row| row.matches(error)))
    }

    /// Every row, in the order of the documentation's troubleshooting.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        BACKENDS.iter().chain(&SIGN_IN)
    }
}
