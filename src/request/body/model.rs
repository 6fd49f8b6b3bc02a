//! The fields of a body that decide what becomes of it: the model, and data sources.

use std::ops::Range;

use thiserror::Error;

/// The name of the field, the same in JSON and in forms.
const FIELD: &str = "model";

/// The longest value that is read; names of models and keys of caches are far shorter.
pub(super) const LONGEST_VALUE: usize = 512;

/// The model that a body names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelField {
    /// Its decoded value.
    pub name: String,
    /// Where the value stands, counted from the body's first byte. In JSON with its quotes.
    pub at: Range<usize>,
}

/// Why the model of a body cannot be determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BodyError {
    /// The body does not match its content type.
    #[error("the body cannot be read")]
    Unreadable,
    /// The body ended too early.
    #[error("the body ends before it is complete")]
    Incomplete,
    /// There is no top-level `model`.
    #[error("the body names no model")]
    NoModel,
    /// There are two, or one that is spelled in another case.
    #[error("the body names a model more than once")]
    TwoModels,
    /// The value is not a text, or far too long.
    #[error("the body's model is not a string")]
    NotAString,
    /// There are data sources, and the reader refuses them.
    #[error("the body has data_sources")]
    DataSources,
}

/// Whether a decoded field name is the model's. A name in another case or with spaces around it is
/// not, but may be to a lenient parser behind this one: it counts as a second model.
pub(super) fn is_model(name: &str) -> Result<bool, BodyError> {
    if name == FIELD {
        Ok(true)
    } else if name.trim().eq_ignore_ascii_case(FIELD) {
        Err(BodyError::TwoModels)
    } else {
        Ok(false)
    }
}

/// Whether a name that begins with this text may be the model's to such a parser.
pub(super) fn begins_like_model(beginning: &str) -> bool {
    let begun = beginning.trim();
    FIELD.get(..begun.len()).is_some_and(|start| start.eq_ignore_ascii_case(begun))
}

/// Whether a decoded field name is `data_sources` (On Your Data), or `dataSources` as in previews before
/// 2024-02-15, or may be one of them to a lenient parser: in any case, with other separators or spaces.
pub(super) fn is_data_sources(name: &str) -> bool {
    letters(name).eq(DATA_SOURCES.chars())
}

/// Whether a name that begins with this text may be that.
pub(super) fn begins_like_data_sources(beginning: &str) -> bool {
    let mut wanted = DATA_SOURCES.chars();
    letters(beginning).all(|letter| wanted.next() == Some(letter))
}

const DATA_SOURCES: &str = "DATASOURCES";

/// What a lenient parser may look at of a name. Upper case, because parsers that fold case take U+017F for
/// an s.
fn letters(name: &str) -> impl Iterator<Item = char> + '_ {
    let is_letter = |c: &char| !matches!(c, '_' | '-') && !c.is_whitespace();
    name.chars().filter(is_letter).flat_map(char::to_uppercase)
}
