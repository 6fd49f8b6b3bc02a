//! The rest of a body, read as it passes.

use crate::request::body::{BodyError, BodyReader};
use crate::request::head::Head;
use crate::request::RequestError;

/// Reads the rest of a body whose model is known: no second one may follow, and nothing that the subscription
/// may not use.
#[derive(Debug)]
pub struct BodyCheck {
    reader: BodyReader,
    /// How many bytes have come.
    received: u64,
    content_length: Option<u64>,
    /// What an error of the reader is.
    error: fn(BodyError) -> RequestError,
}

impl BodyCheck {
    /// For a body of which so much was read already.
    pub fn new(reader: BodyReader, received: usize, content_length: Option<u64>) -> Self {
        Self { reader, received: received as u64, content_length, error: RequestError::Body }
    }

    /// For a body whose model is known from the URL, and which must have no data sources.
    ///
    /// # Errors
    /// The head tells that the body cannot be read.
    pub fn of_data_sources(head: &Head<'_>) -> Result<Self, RequestError> {
        head.check_json().map_err(RequestError::UncheckedKind)?;
        Ok(Self {
            reader: BodyReader::of_data_sources(),
            received: 0,
            content_length: head.content_length,
            error: RequestError::Unchecked,
        })
    }

    /// Reads the next piece of the body. After an error the body must not be completed towards the
    /// backend: a body is judged before the piece that completes it is forwarded, be that the last one or
    /// the one that reaches its length.
    ///
    /// # Errors
    /// The body is to be refused.
    pub fn read(&mut self, piece: &[u8], ended: bool) -> Result<(), RequestError> {
        self.reader.push(piece).map_err(self.error)?;
        self.received = self.received.saturating_add(piece.len() as u64);
        if ended || self.is_whole() {
            self.reader.finish().map_err(self.error)?;
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.content_length.is_some_and(|length| self.received >= length)
    }

    /// Whether what has come must not be forwarded before more has.
    pub fn is_undecided(&self) -> bool {
        self.reader.is_undecided()
    }

    /// Whether the body names the model by this name.
    pub fn names(&self, deployment: &str) -> bool {
        self.reader.model().is_some_and(|field| field.name == deployment)
    }
}
