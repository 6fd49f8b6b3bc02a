//! The top-level `model` of a JSON document, and other fields that are wanted or refused, found while the
//! document arrives.

use std::ops::Range;

use super::model::{
    begins_like_data_sources, begins_like_model, is_data_sources, is_model, BodyError, ModelField,
    LONGEST_VALUE,
};
use crate::base::json::fields::{FieldReader, NotJson, Value, Visitor, Want};

/// The longest spelling of a key that could be wanted: every letter as `\uXXXX`, and the quotes.
pub(super) const LONGEST_KEY: usize = "prompt_cache_key".len() * "\\u0000".len() + 2;

/// Reads a JSON object in pieces.
#[derive(Debug, Default)]
pub struct JsonReader(FieldReader<Found>);

/// What was found so far.
#[derive(Debug, Default)]
struct Found {
    model: Option<ModelField>,
    /// Other fields by name, with their texts as soon as those are known. Of several the first counts.
    wanted: Vec<(&'static str, Option<String>)>,
    /// Whether `model` is a field like any other.
    ignores_model: bool,
    refuses_data_sources: bool,
}

/// Which field of the document a key names.
#[derive(Debug, Clone, Copy)]
enum Field {
    Model,
    /// By its place among those that are wanted.
    Wanted(usize),
}

impl JsonReader {
    pub(super) fn new(wanted: impl Iterator<Item = &'static str>) -> Self {
        let wanted = wanted.map(|name| (name, None)).collect();
        Self(FieldReader::new(Found { wanted, ..Found::default() }))
    }

    /// Of a document whose model does not matter.
    pub(super) fn without_model() -> Self {
        Self(FieldReader::new(Found { ignores_model: true, ..Found::default() }))
    }

    pub(super) fn refuse_data_sources(&mut self) {
        self.0.visitor.refuses_data_sources = true;
    }

    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        self.0.push(piece)
    }

    pub(super) fn finish(&self) -> Result<(), BodyError> {
        if self.0.is_complete() {
            Ok(())
        } else {
            Err(BodyError::Incomplete)
        }
    }

    pub(super) fn model(&self) -> Option<&ModelField> {
        self.0.visitor.model.as_ref()
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.visitor.wanted.iter().find(|(wanted, _)| *wanted == name)?.1.as_deref()
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

    fn field(&mut self, _: Option<Field>, key: &str) -> Result<Want<Field>, BodyError> {
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
        Ok(new.map_or(Want::Nothing, |which| Want::Text(Field::Wanted(which), LONGEST_VALUE)))
    }

    /// With enough white space around it, `model` is too long to be wanted.
    fn long_key(&mut self, _: Option<Field>, beginning: &str) -> Result<(), BodyError> {
        if self.refuses_data_sources && begins_like_data_sources(beginning) {
            return Err(BodyError::DataSources);
        }
        if !self.ignores_model && begins_like_model(beginning) {
            return Err(BodyError::TwoModels);
        }
        Ok(())
    }

    fn value(&mut self, field: Field, value: Value<'_>, at: Range<usize>) -> Result<(), BodyError> {
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
        }
        Ok(())
    }
}
