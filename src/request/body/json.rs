//! The top-level `model` of a JSON document, and other fields that are wanted or refused, found while the
//! document arrives.

use std::ops::Range;

use super::model::{
    begins_like_data_sources, begins_like_model, is_data_sources, is_model, BodyError, ModelField,
    LONGEST_VALUE,
};
use super::rewrite::Rewrites;
use super::stream_options::{OptionField, StreamOptions};
use crate::base::json::fields::{FieldReader, NotJson, Value, Visitor, Want};

/// The longest spelling of a key that could be wanted: every letter as `\uXXXX`, and the quotes.
pub(super) const LONGEST_KEY: usize = "prompt_cache_key".len() * "\\u0000".len() + 2;

/// Reads a JSON object in pieces.
#[derive(Debug, Default)]
pub struct JsonReader {
    fields: FieldReader<Found>,
    /// Whether a document that cannot be read is no error, because nothing depends on what is in it.
    is_lenient: bool,
    /// Whether it could not be read.
    is_broken: bool,
}

/// What was found so far.
#[derive(Debug, Default)]
struct Found {
    model: Option<ModelField>,
    /// Other fields by name, with their texts as soon as those are known. Of several the first counts.
    wanted: Vec<(&'static str, Option<String>)>,
    /// Whether `model` is a field like any other.
    ignores_model: bool,
    refuses_data_sources: bool,
    /// Where a stream is asked to tell its usage.
    options: Option<StreamOptions>,
}

/// Which field of the document a key names.
#[derive(Debug, Clone, Copy)]
enum Field {
    Model,
    /// By its place among those that are wanted.
    Wanted(usize),
    /// One that is about streams, or in there.
    Option(OptionField),
}

impl JsonReader {
    pub(super) fn new(wanted: impl Iterator<Item = &'static str>) -> Self {
        let wanted = wanted.map(|name| (name, None)).collect();
        Self::of(Found { wanted, ..Found::default() })
    }

    /// Of a document whose model does not matter.
    pub(super) fn without_model() -> Self {
        Self::of(Found { ignores_model: true, ..Found::default() })
    }

    /// Of a document in which nothing matters that could be an error.
    pub(super) fn lenient() -> Self {
        Self { is_lenient: true, ..Self::without_model() }
    }

    fn of(found: Found) -> Self {
        Self { fields: FieldReader::new(found), ..Self::default() }
    }

    pub(super) fn refuse_data_sources(&mut self) {
        self.fields.visitor.refuses_data_sources = true;
    }

    pub(super) fn ask_for_usage(&mut self) {
        self.fields.visitor.options = Some(StreamOptions::default());
    }

    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        if self.is_broken {
            return Ok(());
        }
        let read = self.fields.push(piece);
        self.is_broken = read.is_err();
        if self.is_lenient {
            Ok(())
        } else {
            read
        }
    }

    pub(super) fn finish(&self) -> Result<(), BodyError> {
        if self.fields.is_complete() || self.is_lenient {
            Ok(())
        } else {
            Err(BodyError::Incomplete)
        }
    }

    pub(super) fn model(&self) -> Option<&ModelField> {
        self.fields.visitor.model.as_ref()
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.fields.visitor.wanted.iter().find(|(wanted, _)| *wanted == name)?.1.as_deref()
    }

    pub(super) fn options(&self) -> Option<&StreamOptions> {
        self.fields.visitor.options.as_ref()
    }

    pub(super) fn take_rewrites(&mut self) -> Rewrites {
        let incomplete = self.fields.incomplete().filter(|_| !self.is_broken);
        let incomplete = incomplete.and_then(|(field, start)| match field {
            Field::Option(field) => Some((field, start)),
            Field::Model | Field::Wanted(_) => None,
        });
        self.fields
            .visitor
            .options
            .as_mut()
            .map(|options| options.take(incomplete))
            .unwrap_or_default()
    }
}

impl From<NotJson> for BodyError {
    fn from(_: NotJson) -> Self {
        Self::Unreadable
    }
}

impl Visitor for Found {
    type Field = Field;
    type Error = BodyError;
    const LONGEST_KEY: usize = LONGEST_KEY;

    fn field(&mut self, object: Option<Field>, key: &str) -> Result<Want<Field>, BodyError> {
        if let (Some(Field::Option(object)), Some(options)) = (object, &mut self.options) {
            return Ok(options.field(Some(object), key).map(Field::Option));
        }
        if self.refuses_data_sources && is_data_sources(key) {
            return Err(BodyError::DataSources);
        }
        if !self.ignores_model && is_model(key)? {
            return match self.model {
                Some(_) => Err(BodyError::TwoModels),
                None => Ok(Want::Text(Field::Model, LONGEST_VALUE)),
            };
        }
        let new = self.wanted.iter().position(|(wanted, text)| *wanted == key && text.is_none());
        if let Some(which) = new {
            return Ok(Want::Text(Field::Wanted(which), LONGEST_VALUE));
        }
        let options = self.options.as_mut().map(|options| options.field(None, key));
        Ok(options.unwrap_or(Want::Nothing).map(Field::Option))
    }

    /// With enough white space around it, `model` is too long to be wanted.
    fn long_key(&mut self, object: Option<Field>, beginning: &str) -> Result<(), BodyError> {
        if object.is_some() {
            return Ok(());
        }
        if self.refuses_data_sources && begins_like_data_sources(beginning) {
            return Err(BodyError::DataSources);
        }
        if !self.ignores_model && begins_like_model(beginning) {
            return Err(BodyError::TwoModels);
        }
        Ok(())
    }

    fn value(&mut self, field: Field, value: Value<'_>, at: Range<usize>) -> Result<(), BodyError> {
        if let (Field::Option(field), Some(options)) = (field, &mut self.options) {
            options.value(field, &value, at);
            return Ok(());
        }
        let text = match value {
            Value::Text(text) => Some(text.into_owned()),
            Value::Raw(_) | Value::Other => None,
        };
        match field {
            Field::Model => {
                let name = text.ok_or(BodyError::NotAString)?;
                self.model = Some(ModelField { name, at });
            }
            Field::Wanted(which) => {
                if let Some((_, known)) = self.wanted.get_mut(which) {
                    *known = Some(text.unwrap_or_default());
                }
            }
            Field::Option(_) => {}
        }
        Ok(())
    }

    fn close(&mut self, object: Option<Field>, at: usize, is_empty: bool) {
        let object = match object {
            Some(Field::Option(object)) => Some(object),
            Some(Field::Model | Field::Wanted(_)) | None => None,
        };
        if let Some(options) = &mut self.options {
            options.close(object, at, is_empty);
        }
    }
}
