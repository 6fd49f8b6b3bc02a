//! What an answer of Azure means when it tells of a mistake: one table for the gateway's
//! `x-aoai-diagnosis`, its log, `aoai doctor`, `aoai explain` and the page on troubleshooting, so that
//! these never disagree.
//!
//! What a caller gets is never changed by it.

mod concern;
mod head;
mod said;
#[cfg(not(target_arch = "wasm32"))]
mod says;
mod table;

#[cfg(test)]
mod tests;

pub use concern::Concern;
pub use head::{may_have_status, may_tell, LONGEST_BODY};
pub use said::Said;
pub use table::{BACKENDS, SIGN_IN};

/// A mistake that Azure's answers tell of, or another answer that is often taken for one.
#[derive(Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// Its public name: in `x-aoai-diagnosis`, in metrics and as a heading.
    pub slug: &'static str,
    /// Whether somebody has to mend something: identity, role, network or address. If not, the answer
    /// is explained to whoever asks, and otherwise left alone.
    pub is_mistake: bool,
    /// The statuses that it comes with; none where it is told by its text alone.
    statuses: &'static [u16],
    /// The whole `code` of such an answer, or an `AADSTS` number.
    codes: &'static [&'static str],
    /// A part of the message of such an answer.
    phrases: &'static [&'static str],
    /// What is wrong: a clause without a full stop.
    pub wrong: &'static str,
    /// What to do about it: sentences.
    pub mend: &'static str,
}

/// A token that a resource does not take: a new one may help.
pub const TOKEN_REJECTED: &str = "token_rejected";

impl Diagnosis {
    /// The mistake that a backend's answer tells of.
    pub fn of_answer(status: u16, said: &Said) -> Option<&'static Self> {
        BACKENDS.iter().find(|row| row.statuses.contains(&status) && row.is_told_by(said))
    }

    /// What the endpoint of an identity tells of when it refuses.
    pub fn of_refusal(said: &Said) -> Option<&'static Self> {
        SIGN_IN.iter().find(|row| row.is_told_by(said))
    }

    /// What a text tells of that somebody has found somewhere: a body, a log line, a client's
    /// exception. Its status may not be known.
    pub fn of_text(said: &Said) -> Option<&'static Self> {
        Self::of_refusal(said).or_else(|| BACKENDS.iter().find(|row| row.is_told_by(said)))
    }

    /// Every row, in the order of the page on troubleshooting.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        BACKENDS.iter().chain(&SIGN_IN)
    }

    fn is_told_by(&self, said: &Said) -> bool {
        self.codes.iter().any(|code| said.has_code(code))
            || self.phrases.iter().any(|phrase| said.has_phrase(phrase))
    }
}
