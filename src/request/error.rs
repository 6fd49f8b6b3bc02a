//! Why a request cannot be read, or is not part of the data plane.

use std::borrow::Cow;

use thiserror::Error;

use super::body::BodyError;
use super::head::BodyKindError;
use super::operation::missing_prefix;
use super::path::TargetError;

/// Why a request cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RequestError {
    /// Its path has more than one reading.
    #[error(transparent)]
    Path(#[from] TargetError),
    /// Its path is outside the data plane. What a client's base URL probably lacks, if that shows.
    #[error("the path is not one of the Azure OpenAI data plane")]
    UnknownOperation(Option<&'static str>),
    /// Its query has to name a model and names none.
    #[error("the query names no model")]
    NoModelInQuery,
    /// Its query names a model more than once.
    #[error("the query names a model more than once")]
    TwoModelsInQuery,
    /// A parameter of its query is nearly named as the one that names the model.
    #[error("the query has a parameter whose name is nearly model or deployment")]
    NearModelInQuery,
    /// Its head does not determine how to read its body.
    #[error(transparent)]
    BodyKind(#[from] BodyKindError),
    /// The model of its body cannot be determined.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// Its head does not let its body be read as JSON, in which there must be no data sources.
    #[error(transparent)]
    UncheckedKind(BodyKindError),
    /// Its body is no JSON in which it can be seen that there are no data sources.
    #[error(transparent)]
    Unchecked(BodyError),
}

impl RequestError {
    /// The error of a path with these segments, which is outside the data plane.
    pub fn unknown(segments: &[Cow<'_, str>]) -> Self {
        Self::UnknownOperation(missing_prefix(segments))
    }
}
