//! The rest of a body, read and edited as it passes.

use super::host::Host;
use crate::request::body::edit::{BodyEdit, ModelInBody};
use crate::request::body::rewrite::BodyRewriter;
use crate::request::body::stream_options::{StreamOptions, MOST_GROWTH};
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
    /// Has a stream tell its usage.
    rewriter: Option<BodyRewriter>,
}

/// What changes of a request so that its stream tells its usage.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Of the bytes that are held, a new name of the model included.
    pub body: Option<BodyEdit>,
    /// By how much the body becomes longer, a new name of the model aside.
    pub growth: usize,
    /// How much of that stands before the model.
    pub before_model: usize,
}

impl BodyCheck {
    /// For a body of which so much was read already.
    pub fn new(reader: BodyReader, received: usize, content_length: Option<u64>) -> Self {
        Self {
            reader,
            received: received as u64,
            content_length,
            error: RequestError::Body,
            rewriter: None,
        }
    }

    /// For a body whose model is known from the URL: it may have to be without data sources, and its stream may
    /// be asked to tell its usage. `None` where nothing of it matters.
    ///
    /// # Errors
    /// It must have no data sources, and the head tells that it cannot be read.
    pub fn of_url(
        head: &Head<'_>,
        refuses_data_sources: bool,
        asks_for_usage: bool,
    ) -> Result<Option<Self>, RequestError> {
        let reader = match (refuses_data_sources, asks_for_usage, head.check_json()) {
            (true, _, Err(error)) => return Err(RequestError::UncheckedKind(error)),
            (true, false, Ok(())) => BodyReader::of_data_sources(),
            (true, true, Ok(())) => BodyReader::of_data_sources().asking_for_usage(),
            (false, true, Ok(())) => BodyReader::of_options(),
            (false, ..) => return Ok(None),
        };
        Ok(Some(Self {
            reader,
            received: 0,
            content_length: head.content_length,
            error: RequestError::Unchecked,
            rewriter: None,
        }))
    }

    /// The request goes on, with `held` bytes of its body, which are all of it where it is `whole`. `model` is
    /// where these name the model, and `renamed` another name for it.
    pub fn forward(
        &mut self,
        host: &dyn Host,
        (held, whole): (usize, bool),
        model: Option<&ModelInBody>,
        renamed: Option<BodyEdit>,
    ) -> Asked {
        if self.reader.options().is_none() {
            return Asked { body: renamed, ..Asked::default() };
        }
        let mut rewrites = self.reader.take_rewrites();
        // What of the reserve is not needed becomes white space at the end.
        let (growth, reserve) = match self.content_length {
            _ if whole => (rewrites.used, 0),
            Some(_) => (MOST_GROWTH, MOST_GROWTH),
            None => (0, 0),
        };
        let mut rewriter = BodyRewriter::new(reserve);
        let start = model.map_or(0, |model| model.at.start);
        let before = rewrites.edits.iter().take_while(|edit| edit.at.start < start);
        let (count, before_model) = before.fold((0, 0), |(count, growth), edit| {
            (count + 1, growth + edit.with.len().saturating_sub(edit.at.len()))
        });
        let body = if rewrites.edits.is_empty() && rewrites.undecided.is_none() {
            rewriter.skip(held);
            renamed
        } else {
            rewrites.edits.splice(count..count, renamed);
            rewriter.next(&host.request_body(0, held), rewrites, whole)
        };
        self.rewriter = Some(rewriter);
        Asked { body, growth, before_model }
    }

    /// What changes in a piece that was read behind those that the request went on with.
    pub fn rewrite(&mut self, piece: &[u8], ended: bool) -> Option<BodyEdit> {
        let is_last = ended || self.is_whole();
        let rewriter = self.rewriter.as_mut().filter(|_| !piece.is_empty())?;
        rewriter.next(piece, self.reader.take_rewrites(), is_last)
    }

    /// Whether the response's stream tells a usage that its caller has not asked for.
    pub fn is_asked_for_gateway(&self) -> bool {
        self.reader.options().is_some_and(StreamOptions::is_only_for_gateway)
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
