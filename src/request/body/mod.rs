//! Finding the model in a request's body, and the value of its affinity, while the body arrives.
//!
//! A reader gets the body in whatever pieces it comes, and returns where the model's value is as soon as
//! it has been read, so that the body can be forwarded from there. It continues reading after that: two
//! parsers may choose differently between two `model` fields, so a body that has two must not be
//! completed towards a backend.

pub mod edit;
mod json;
mod model;
mod multipart;
mod skip;

use thiserror::Error;

use json::JsonReader;
use multipart::MultipartReader;

use edit::NameSyntax;

pub use model::{BodyError, ModelField};

/// How a body is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyFormat {
    /// JSON, and whatever has no content type of its own.
    Json,
    /// `multipart/form-data` with this boundary.
    Multipart {
        /// What separates the parts.
        boundary: String,
    },
}

/// Why a body cannot be read by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FormatError {
    /// `multipart/form-data` without one valid boundary.
    #[error("the multipart form has no usable boundary")]
    Boundary,
    /// JSON in another encoding than UTF-8.
    #[error("the body is not in UTF-8")]
    Charset,
    /// Neither of the formats in which the data plane takes a model.
    #[error("the body is neither JSON nor a multipart form")]
    Unsupported,
}

/// Reads a body as it arrives.
#[derive(Debug)]
pub enum ModelReader {
    /// See [`BodyFormat::Json`].
    Json(JsonReader),
    /// See [`BodyFormat::Multipart`].
    Multipart(Box<MultipartReader>),
}

impl BodyFormat {
    /// Reads a `content-type` value.
    pub fn of_content_type(value: &[u8]) -> Result<Self, FormatError> {
        let value = std::str::from_utf8(value).map_err(|_| FormatError::Unsupported)?;
        let (essence, parameters) = value.split_once(';').unwrap_or((value, ""));
        let essence = essence.trim();
        if essence.eq_ignore_ascii_case("multipart/form-data") {
            return multipart::boundary(parameters)
                .map(|boundary| Self::Multipart { boundary })
                .ok_or(FormatError::Boundary);
        }
        // Envoy joins repeated headers with a comma.
        if essence.contains(',')
            || essence
                .get(.."multipart/".len())
                .is_some_and(|start| start.eq_ignore_ascii_case("multipart/"))
            || essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        {
            return Err(FormatError::Unsupported);
        }
        let is_utf8 = |charset: &str| {
            let charset = charset.trim().trim_matches('"');
            charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("us-ascii")
        };
        let foreign = parameters.split(';').filter_map(|parameter| parameter.split_once('=')).any(
            |(name, charset)| name.trim().eq_ignore_ascii_case("charset") && !is_utf8(charset),
        );
        if foreign {
            return Err(FormatError::Charset);
        }
        Ok(Self::Json)
    }

    /// A reader for such a body, which also keeps the texts of these fields of JSON.
    pub fn reader(&self, wanted: impl Iterator<Item = &'static str>) -> ModelReader {
        match self {
            Self::Json => ModelReader::Json(JsonReader::new(wanted)),
            Self::Multipart { boundary } => {
                ModelReader::Multipart(Box::new(MultipartReader::new(boundary)))
            }
        }
    }
}

impl ModelReader {
    /// Reads the next piece. After an error the reader is not to be used again.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        match self {
            Self::Json(reader) => reader.push(piece),
            Self::Multipart(reader) => reader.push(piece),
        }
    }

    /// Ends the body. A body without a model is complete here too: see
    /// [`ModelReader::model`].
    pub fn finish(&self) -> Result<(), BodyError> {
        match self {
            Self::Json(reader) => reader.finish(),
            Self::Multipart(reader) => reader.finish(),
        }
    }

    /// Whether what has come does not tell yet whether the body names a model, or a second one: a form of
    /// which the name or the value of a part is incomplete. A request does not begin with what is undecided: a
    /// more lenient parser may find the form complete. A JSON document is complete with its last byte only.
    pub fn is_undecided(&self) -> bool {
        match self {
            Self::Json(_) => false,
            Self::Multipart(reader) => reader.is_undecided(),
        }
    }

    /// The model, once it has been read.
    pub fn model(&self) -> Option<&ModelField> {
        match self {
            Self::Json(reader) => reader.model(),
            Self::Multipart(reader) => reader.model(),
        }
    }

    /// The text of one of the other fields, once it has been read: empty where the field is no text, or
    /// a far too long one. A form has none.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self {
            Self::Json(reader) => reader.text(name),
            Self::Multipart(_) => Some(""),
        }
    }

    /// How the body writes the model's name.
    pub fn syntax(&self) -> NameSyntax {
        match self {
            Self::Json(_) => NameSyntax::Quoted,
            Self::Multipart(_) => NameSyntax::Plain,
        }
    }
}

#[cfg(test)]
mod tests;
