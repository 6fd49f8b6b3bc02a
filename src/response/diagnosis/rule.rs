//! A row of the table: a mistake, and how a response that shows it is recognised.

use crate::base::error_body::ErrorBody;

/// A mistake that Azure's responses show, or another response that is often taken for one.
#[derive(Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// Its public name: in `x-aoai-diagnosis`, in metrics and as a heading.
    pub slug: &'static str,
    /// Whether an operator has to correct something: identity, role, network or address. If not, the response
    /// is explained by `aoai explain`, and otherwise passed on.
    pub is_mistake: bool,
    /// The statuses that it comes with; none where it is recognised by its text alone.
    pub(super) statuses: &'static [u16],
    /// The whole `code` of such a response, or an `AADSTS` number.
    pub(super) codes: &'static [&'static str],
    /// The beginning of the message of such a response, where `…` is a word that differs.
    pub(super) phrases: &'static [&'static str],
    /// What is wrong: a clause without a full stop.
    pub cause: &'static str,
    /// What to do about it: sentences.
    pub remedy: &'static str,
}

/// The slug of a token that a resource does not accept: a new one may help.
pub const TOKEN_REJECTED: &str = "token_rejected";

impl Diagnosis {
    /// Whether a response's error has one of the rule's codes, or begins with one of its phrases. Anywhere
    /// else it may quote the request, such as the name of a field.
    pub(super) fn is_of(&self, error: &ErrorBody) -> bool {
        self.codes.contains(&error.code.as_str())
            || self.phrases.iter().any(|phrase| error.begins_with(phrase))
    }

    /// Whether an error has one of the rule's codes or phrases somewhere.
    pub(super) fn matches(&self, error: &ErrorBody) -> bool {
        self.codes.iter().any(|code| error.has_code(code))
            || self.phrases.iter().any(|phrase| error.has_phrase(phrase))
    }
}
