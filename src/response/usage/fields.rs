//! The fields of a document that tell of usage.

use std::ops::Range;

use super::tokens::{Usage, LONGEST};
use crate::base::json::fields::{NotJson, Value, Visitor, Want};

/// What a document tells.
#[derive(Debug, Default)]
pub(super) struct UsageFields {
    /// What stands at the top level.
    pub(super) usage: UsageField,
    /// What stands in the object `response`.
    pub(super) of_response: UsageField,
    /// What stands in the object `message`: of a message that begins (messages).
    pub(super) of_message: UsageField,
    /// Whether the document has an empty list of `choices` (chat, completions).
    pub(super) has_no_choice: bool,
    /// Whether it has a piece of a response's output: a choice, or a `delta` (responses, messages).
    pub(super) has_output: bool,
    /// Whether it has a choice, or no object as usage, wherever that stands and whatever follows.
    pub(super) is_other_chunk: bool,
}

/// What a document has at one place.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum UsageField {
    /// Nothing.
    #[default]
    Absent,
    /// Something that is no object, such as `null`.
    NoObject,
    /// An object.
    Object(Option<Usage>),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Field {
    Usage,
    Response,
    UsageOfResponse,
    Message,
    UsageOfMessage,
    Choices,
}

impl UsageField {
    pub(super) fn get(self) -> Option<Usage> {
        match self {
            Self::Object(usage) => usage,
            Self::Absent | Self::NoObject => None,
        }
    }
}

impl Visitor for UsageFields {
    type Field = Field;
    type Error = NotJson;
    /// `response`, every letter as `\uXXXX`.
    const LONGEST_KEY: usize = "response".len() * "\\u0000".len() + 2;

    fn field(&mut self, object: Option<Field>, key: &str) -> Result<Want<Field>, NotJson> {
        Ok(match (object, key) {
            (None, "usage") => Want::Raw(Field::Usage, LONGEST),
            (None, "response") => {
                self.of_response = UsageField::Absent;
                Want::Object(Field::Response)
            }
            (Some(Field::Response), "usage") => Want::Raw(Field::UsageOfResponse, LONGEST),
            (None, "message") => {
                self.of_message = UsageField::Absent;
                Want::Object(Field::Message)
            }
            (Some(Field::Message), "usage") => Want::Raw(Field::UsageOfMessage, LONGEST),
            // An empty list may have white space in it.
            (None, "choices") => Want::Raw(Field::Choices, 8),
            (None, "delta") => {
                self.has_output = true;
                Want::Nothing
            }
            _ => Want::Nothing,
        })
    }

    fn value(&mut self, field: Field, value: Value<'_>, _: Range<usize>) -> Result<(), NotJson> {
        let usage = || match value {
            Value::Raw(raw @ [b'{', ..]) => UsageField::Object(Usage::read(raw)),
            Value::Raw(_) | Value::Text(_) | Value::Other => UsageField::NoObject,
        };
        match field {
            Field::Usage => {
                self.usage = usage();
                self.is_other_chunk |= self.usage == UsageField::NoObject;
            }
            Field::UsageOfResponse => self.of_response = usage(),
            Field::UsageOfMessage => self.of_message = usage(),
            Field::Choices => {
                let is_empty = matches!(&value, Value::Raw([b'[', inner @ .., b']'])
                    if inner.trim_ascii().is_empty());
                self.has_no_choice |= is_empty;
                self.has_output |= !is_empty;
                self.is_other_chunk |= !is_empty;
            }
            Field::Response | Field::Message => {}
        }
        Ok(())
    }
}
