//! A row of the table: a mistake, and how a response that shows it is recognised.

use crate::base::error_body::ErrorBody;

/// A mistake that Azure's responses show, or another response that is often taken for one.
#[derive(Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// Its public name: in `x-aoai-diagnosis`, in metrics and as a heading.
    pub slug: &'static str,
    /// Whose mistake it is, if anybody's.
    pub mistake: Mistake,
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

/// Whose mistake a response shows, and what it concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// Nobody's: the response is explained by `aoai explain`, and otherwise passed on.
    Nobodys,
    /// The caller's, or one that cannot be told from the caller's: the response is passed on.
    Callers,
    /// An operator's, who has to correct something of the backend: identity, network or address.
    Backend,
    /// An operator's, who has to correct something that may concern the one model: its deployment, or the
    /// right to what is done with it. What another model needs may be there.
    Model,
}

impl Mistake {
    /// Whether an operator has to correct something.
    pub fn is_operators(self) -> bool {
        matches!(self, Self::Backend | Self::Model)
    }
}

/// The slug of a token that a resource does not accept: a new one may help.
pub const TOKEN_REJECTED: &str = "token_rejected";

impl Diagnosis {
    /// Whether a response with this status has one of the rule's codes, or begins with one of its phrases.
    /// Anywhere else it may quote the request, such as the name of a field. A 400 may even begin with that: for an
    /// operator's mistake, the whole message must be the phrase there. A caller decides no 401, 403 or 404 of its
    /// model's deployment.
    pub(super) fn is_of(&self, status: u16, error: &ErrorBody) -> bool {
        let is_phrase = |phrase: &&str| match status {
            400 if self.mistake.is_operators() => error.is(phrase),
            _ => error.begins_with(phrase),
        };
        self.codes.contains(&error.code.as_str()) || self.phrases.iter().any(is_phrase)
    }

    /// Whether an error has one of the rule's codes or phrases somewhere.
    pub(super) fn matches(&self, error: &ErrorBody) -> bool {
        self.codes.iter().any(|code| error.has_code(code)) || self.is_said_by(error)
    }

    /// Whether an error has one of the rule's phrases somewhere.
    pub fn is_said_by(&self, error: &ErrorBody) -> bool {
        self.phrases.iter().any(|phrase| error.has_phrase(phrase))
    }
}
