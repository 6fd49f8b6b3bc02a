//! Finding the model in a request's body, the value of its affinity, and data sources that may be refused,
//! while the body arrives.
//!
//! A reader gets the body in whatever pieces it comes, and returns where the model's value is as soon as
//! it has been read, so that the body can be forwarded from there. It continues reading after that: two
//! parsers may choose differently between two `model` fields, so a body that has two must not be
//! completed towards a backend.

pub mod edit;
mod json;
mod model;
mod multipart;
pub mod rewrite;
pub mod stream_options;

use thiserror::Error;

use json::JsonReader;
use multipart::MultipartReader;

use edit::NameSyntax;
use rewrite::Rewrites;
use stream_options::StreamOptions;

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
pub enum BodyReader {
    /// See [`BodyFormat::Json`].
    Json(Box<JsonReader>),
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
        if has_foreign_charset(parameters) {
            return Err(FormatError::Charset);
        }
        Ok(Self::Json)
    }

    /// Whether a body is in UTF-8 if it is JSON, which it may be whatever its content type says.
    pub fn check_charset(content_type: &[u8]) -> Result<(), FormatError> {
        let value = String::from_utf8_lossy(content_type);
        match value.split_once(';') {
            Some((_, parameters)) if has_foreign_charset(parameters) => Err(FormatError::Charset),
            _ => Ok(()),
        }
    }

    /// A reader for such a body, which also keeps the texts of these fields of JSON.
    pub fn reader(&self, wanted: impl Iterator<Item = &'static str>) -> BodyReader {
        match self {
            Self::Json => BodyReader::Json(Box::new(JsonReader::new(wanted))),
            Self::Multipart { boundary } => {
                BodyReader::Multipart(Box::new(MultipartReader::new(boundary)))
            }
        }
    }
}

/// Whether the parameters of a content type name an encoding in which ASCII is not itself, or may not be.
fn has_foreign_charset(parameters: &str) -> bool {
    let is_utf8 = |charset: &str| {
        let charset = charset.trim().trim_matches('"');
        ["utf-8", "utf8", "us-ascii"].iter().any(|known| charset.eq_ignore_ascii_case(known))
    };
    parameters
        .split(';')
        .filter_map(|parameter| parameter.split_once('='))
        .any(|(name, charset)| name.trim().eq_ignore_ascii_case("charset") && !is_utf8(charset))
}

impl BodyReader {
    /// A reader for JSON that names no model, or one that does not matter, and in which `data_sources` is
    /// an error.
    pub fn of_data_sources() -> Self {
        Self::Json(Box::new(JsonReader::without_model())).refusing_data_sources()
    }

    /// A reader for a body in which nothing can be an error: it may be JSON, and have the options of a stream.
    pub fn of_options() -> Self {
        Self::Json(Box::new(JsonReader::lenient())).asking_for_usage()
    }

    /// A reader that finds out what has to change in JSON for a stream to tell its usage.
    #[must_use]
    pub fn asking_for_usage(mut self) -> Self {
        if let Self::Json(reader) = &mut self {
            reader.ask_for_usage();
        }
        self
    }

    /// A reader to which `data_sources` is an error, whatever its value.
    #[must_use]
    pub fn refusing_data_sources(mut self) -> Self {
        match &mut self {
            Self::Json(reader) => reader.refuse_data_sources(),
            Self::Multipart(reader) => reader.refuse_data_sources(),
        }
        self
    }

    /// Reads the next piece. After an error the reader is not to be used again.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        match self {
            Self::Json(reader) => reader.push(piece),
            Self::Multipart(reader) => reader.push(piece),
        }
    }

    /// Ends the body. A body without a model is complete here too: see
    /// [`BodyReader::model`].
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

    /// What the body says of streams, where that matters.
    pub fn options(&self) -> Option<&StreamOptions> {
        match self {
            Self::Json(reader) => reader.options(),
            Self::Multipart(_) => None,
        }
    }

    /// What has to change in what was read since the last time, for a stream to tell its usage.
    pub fn take_rewrites(&mut self) -> Rewrites {
        match self {
            Self::Json(reader) => reader.take_rewrites(),
            Self::Multipart(_) => Rewrites::default(),
        }
    }
}

#[cfg(test)]
mod tests;
