//! Finding the model in a request's body, and what draws the request to a backend, while the body arrives.
//!
//! A reader is fed the body in whatever pieces it comes and says where the model's value stands as
//! soon as it has been seen, so that the body can go on from there. It keeps reading behind that: two
//! parsers may choose differently between two `model` fields, so a body that has two must not be
//! completed towards a backend.

mod json;
mod multipart;
mod skip;

use std::ops::Range;

use thiserror::Error;

use json::JsonReader;
use multipart::MultipartReader;

/// The name of the field, the same in JSON and in forms.
const FIELD: &str = "model";

/// The fields of a JSON body that may draw a request to a backend: what its caller knows to begin with
/// the same prompt (OpenAI's API reference; `prompt_cache_key` replaces `user`).
pub const AFFINITY_FIELDS: [&str; 2] = ["prompt_cache_key", "user"];

/// The longest value that is read; names of models and keys of caches are far shorter.
const LONGEST_VALUE: usize = 512;

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

/// Why a content type does not tell how to read the body.
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

/// The model that a body names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelField {
    /// Its decoded value.
    pub name: String,
    /// Where the value stands, counted from the body's first byte. In JSON with its quotes.
    pub at: Range<usize>,
}

/// Why the model of a body cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BodyError {
    /// The body is not what its content type says.
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

    /// Says that the body has ended. A body without a model is complete here too: see
    /// [`ModelReader::model`].
    pub fn finish(&self) -> Result<(), BodyError> {
        match self {
            Self::Json(reader) => reader.finish(),
            Self::Multipart(reader) => reader.finish(),
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

    /// Writes a value for the field in the body's own syntax. A deployment's name
    /// ([`crate::config::Placement`]) has no character that would need an escape.
    pub fn spell(&self, deployment: &str) -> String {
        match self {
            Self::Json(_) => format!("\"{deployment}\""),
            Self::Multipart(_) => deployment.to_owned(),
        }
    }
}

/// Whether a decoded field name is the model's. A name in another case or with spaces around it is
/// not, but may be to a generous parser behind this one: it counts as a second model.
fn is_model(name: &str) -> Result<bool, BodyError> {
    if name == FIELD {
        Ok(true)
    } else if name.trim().eq_ignore_ascii_case(FIELD) {
        Err(BodyError::TwoModels)
    } else {
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
