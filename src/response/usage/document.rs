//! The usage of a response that is one JSON document.

use super::fields::UsageFields;
use super::tokens::Usage;
use crate::base::json::fields::FieldReader;

/// Reads a JSON response in pieces.
#[derive(Debug, Default)]
pub struct DocumentReader {
    fields: FieldReader<UsageFields>,
    is_unreadable: bool,
}

impl DocumentReader {
    /// Reads the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.is_unreadable = self.is_unreadable || self.fields.push(piece).is_err();
    }

    /// The usage that was read so far. Where there are two, the second one counts.
    pub fn usage(&self) -> Option<Usage> {
        self.fields.visitor.usage.get()
    }
}
