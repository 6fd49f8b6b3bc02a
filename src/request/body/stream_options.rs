//! The `stream_options` of a body, and the edits by which a stream is asked to tell its usage.
//!
//! `{"stream":true}` becomes `{"stream":true,"stream_options":{"include_usage":true}}`, where the body's
//! object ends; an explicit `false` becomes `true ` in its place. What else stands there stays, byte for
//! byte. A body that asks for no stream is not changed: its response has its usage anyway.

use std::ops::Range;

use super::edit::BodyEdit;
use super::rewrite::Rewrites;
use crate::base::json::fields::{Value, Want};

/// What asks for usage, as the last field of a body.
const OPTION: &[u8] = br#","stream_options":{"include_usage":true}"#;

/// What stands for a `null`.
const OBJECT: &[u8] = br#"{"include_usage":true}"#;

/// What is put at the end of an object that has other options.
const FIELD: &[u8] = br#","include_usage":true"#;

/// By how much a body grows at most.
pub const MOST_GROWTH: usize = OPTION.len();

/// `false`, and what may become of it.
const LONGEST_LITERAL: usize = 5;

/// Looks at a body's options as its fields are read, and notes what has to change.
#[derive(Debug, Default)]
pub struct StreamOptions {
    /// The value of the last `stream`.
    is_stream: Option<bool>,
    /// Whether there are options, or a `null` in their place.
    has_options: bool,
    /// Whether the options at hand say anything of usage.
    has_usage: bool,
    /// Whether the caller wants to be told.
    is_asked: bool,
    /// Whether Azure refuses the option, because it answers from the caller's own data (Azure OpenAI On Your
    /// Data: "Validation error at #/stream_options: Extra inputs are not permitted").
    is_refused: bool,
    edits: Vec<BodyEdit>,
    /// By how much the body grows; `None` where nothing has changed.
    growth: Option<usize>,
}

/// A field of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionField {
    /// `stream`
    Stream,
    /// `stream_options`
    Options,
    /// `include_usage` in there.
    Usage,
}

impl StreamOptions {
    /// Whether the body asks for a stream, as far as it has come.
    pub fn is_stream(&self) -> bool {
        self.is_stream == Some(true)
    }

    /// Whether the response has usage that the caller has not asked for.
    pub fn is_only_for_gateway(&self) -> bool {
        self.growth.is_some() && !self.is_asked
    }

    pub(super) fn field(&mut self, object: Option<OptionField>, key: &str) -> Want<OptionField> {
        match (object, key) {
            (None, "stream") => Want::Raw(OptionField::Stream, LONGEST_LITERAL),
            (None, "stream_options") => {
                (self.has_usage, self.is_asked) = (false, false);
                Want::Object(OptionField::Options)
            }
            (Some(OptionField::Options), "include_usage") => {
                self.has_usage = true;
                Want::Raw(OptionField::Usage, LONGEST_LITERAL)
            }
            (None, "data_sources") => {
                self.is_refused = true;
                Want::Nothing
            }
            _ => Want::Nothing,
        }
    }

    pub(super) fn value(&mut self, field: OptionField, value: &Value<'_>, at: Range<usize>) {
        let raw = match value {
            Value::Raw(raw) => *raw,
            Value::Text(_) | Value::Other => &[],
        };
        match (field, raw) {
            (OptionField::Stream, raw) => self.is_stream = Some(raw == b"true"),
            (OptionField::Usage, b"true") => self.is_asked = true,
            (OptionField::Usage, b"false") => self.edit(at, b"true "),
            (OptionField::Usage, b"null") => self.edit(at, b"true"),
            (OptionField::Options, raw) => {
                self.has_options = true;
                if raw == b"null" {
                    self.edit(at, OBJECT);
                }
            }
            (OptionField::Usage, _) => {}
        }
    }

    pub(super) fn close(&mut self, object: Option<OptionField>, at: usize, is_empty: bool) {
        match object {
            Some(OptionField::Options) => {
                self.has_options = true;
                if !self.has_usage {
                    self.insert(at, FIELD, is_empty);
                }
            }
            None if self.is_stream() && !self.has_options && !self.is_refused => {
                self.insert(at, OPTION, is_empty);
            }
            _ => {}
        }
    }

    /// Puts a field at the end of an object.
    fn insert(&mut self, at: usize, field: &[u8], is_empty: bool) {
        let comma = usize::from(is_empty);
        self.edit(at..at, field.get(comma..).unwrap_or_default());
    }

    fn edit(&mut self, at: Range<usize>, with: &[u8]) {
        let growth = self.growth.unwrap_or_default() + with.len() - at.len();
        // A body that has its options several times does not grow without end.
        if self.is_stream == Some(false) || growth > MOST_GROWTH {
            return;
        }
        self.growth = Some(growth);
        self.edits.push(BodyEdit { at, with: with.to_vec() });
    }

    /// What has to change in what was read since the last time. A literal that may have to is incomplete
    /// where it begins there.
    pub(super) fn take(&mut self, incomplete: Option<(OptionField, usize)>) -> Rewrites {
        let may_change = |(field, _): &(OptionField, usize)| {
            matches!(field, OptionField::Options | OptionField::Usage)
        };
        let undecided = incomplete.filter(may_change).map(|(_, start)| start);
        let used = self.growth.unwrap_or_default();
        Rewrites { edits: std::mem::take(&mut self.edits), undecided, used }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;
    use serde_json::{json, Value as Json};

    use super::super::rewrite::BodyRewriter;
    use super::super::{BodyFormat, BodyReader};
    use super::*;

    /// A reader for a body that names its model, or for one whose URL does.
    fn reader(names_model: bool) -> BodyReader {
        match names_model {
            true => BodyFormat::Json.reader(std::iter::empty()).asking_for_usage(),
            false => BodyReader::of_options(),
        }
    }

    /// What a backend gets of a body that comes in pieces which end there, and whether the usage is only for
    /// the gateway.
    fn sent(body: &[u8], ends: &[usize], reserve: usize, names_model: bool) -> (Vec<u8>, bool) {
        let mut reader = reader(names_model);
        let mut rewriter = BodyRewriter::new(reserve);
        let (mut sent, mut start, mut is_refused) = (Vec::new(), 0, false);
        for end in ends.iter().copied().chain([body.len()]) {
            let mut piece = body[start..end].to_vec();
            is_refused = is_refused || reader.push(&piece).is_err();
            if let Some(edit) = rewriter.next(&piece, reader.take_rewrites(), end == body.len()) {
                match edit.is_append() {
                    true => piece.extend(edit.with),
                    false => drop(piece.splice(edit.at, edit.with)),
                }
            }
            sent.append(&mut piece);
            start = end;
        }
        (sent, reader.options().unwrap().is_only_for_gateway())
    }

    fn check(name: &str, body: &str, expected: &str, is_only_for_gateway: bool) {
        for names_model in [false, true] {
            for size in [1, 2, 3, 7, body.len().max(1)] {
                let ends: Vec<usize> = (size..body.len()).step_by(size).collect();
                let (found, found_only) = sent(body.as_bytes(), &ends, 0, names_model);
                let found = String::from_utf8(found).unwrap();
                assert_eq!(found, expected, "{name}, in pieces of {size}");
                assert_eq!(found_only, is_only_for_gateway, "{name}");
                let (filled, _) = sent(body.as_bytes(), &ends, MOST_GROWTH, names_model);
                let space = " ".repeat(body.len() + MOST_GROWTH - expected.len());
                assert_eq!(
                    String::from_utf8(filled).unwrap(),
                    expected.to_owned() + &space,
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn a_stream_is_asked_to_tell_its_usage() {
        const ASKS: &str = r#""stream_options":{"include_usage":true}"#;
        let rows = [
            ("no options", r#"{"stream":true}"#, format!(r#"{{"stream":true,{ASKS}}}"#)),
            (
                "other fields and white space",
                "{ \"stream\" : true , \"messages\" : [ {} ] }\n",
                format!("{{ \"stream\" : true , \"messages\" : [ {{}} ] ,{ASKS}}}\n"),
            ),
            (
                "an explicit false",
                r#"{"stream_options":{"include_usage":false},"stream":true}"#,
                r#"{"stream_options":{"include_usage":true },"stream":true}"#.to_owned(),
            ),
            (
                "other options",
                r#"{"stream":true,"stream_options":{"include_obfuscation":false}}"#,
                r#"{"stream":true,"stream_options":{"include_obfuscation":false,"include_usage":true}}"#
                    .to_owned(),
            ),
            (
                "other options and a null",
                r#"{"stream":true,"stream_options":{"x":[1],"include_usage": null ,"y":"}"}}"#,
                r#"{"stream":true,"stream_options":{"x":[1],"include_usage": true ,"y":"}"}}"#
                    .to_owned(),
            ),
            (
                "no option in there",
                r#"{"stream":true,"stream_options":{}}"#,
                format!(r#"{{"stream":true,{ASKS}}}"#),
            ),
            (
                "null",
                r#"{"stream":true,"stream_options":null,"n":1}"#,
                format!(r#"{{"stream":true,{ASKS},"n":1}}"#),
            ),
            (
                "escapes",
                r#"{"stre\u0061m":true,"stream\u005foptions":{"include\u005fusage":false}}"#,
                r#"{"stre\u0061m":true,"stream\u005foptions":{"include\u005fusage":true }}"#.to_owned(),
            ),
            (
                "what stands below",
                r#"{"stream":true,"messages":[{"stream_options":{"include_usage":false}}]}"#,
                format!(
                    r#"{{"stream":true,"messages":[{{"stream_options":{{"include_usage":false}}}}],{ASKS}}}"#
                ),
            ),
            (
                "two of them",
                r#"{"stream":true,"stream_options":{"include_usage":true},"stream_options":{"include_usage":false}}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true},"stream_options":{"include_usage":true }}"#
                    .to_owned(),
            ),
        ];
        for (name, body, expected) in rows {
            check(name, body, &expected, true);
        }
    }

    #[test]
    fn what_needs_no_option_is_sent_as_it_came() {
        let rows = [
            ("the caller has asked", r#"{"stream":true,"stream_options":{"include_usage":true}}"#),
            ("no stream", r#"{"stream":false,"messages":[]}"#),
            ("nothing of streams", r#"{"messages":[]}"#),
            ("a stream that is taken back", r#"{"stream":true,"stream":false}"#),
            ("no truth value", r#"{"stream":"true"}"#),
            (
                "an option without a stream",
                r#"{"stream":false,"stream_options":{"include_usage":false}}"#,
            ),
            (
                "an option of another kind",
                r#"{"stream":true,"stream_options":{"include_usage":"no"}}"#,
            ),
            ("options of another kind", r#"{"stream":true,"stream_options":"none"}"#),
            ("the caller's own data", r#"{"stream":true,"data_sources":[{}]}"#),
            ("below", r#"{"x":{"stream":true}}"#),
            ("a list", r#"[{"stream":true}]"#),
            ("cut", r#"{"stream":true"#),
            ("cut in the option", r#"{"stream":true,"stream_options":{"include_usage":fal"#),
            ("no JSON", "stream=true"),
            ("empty", ""),
        ];
        for (name, body) in rows {
            check(name, body, body, false);
        }
    }

    #[test]
    fn a_body_grows_no_further_than_its_head_says() {
        let body = format!(r#"{{"stream":true,{}"n":1}}"#, r#""stream_options":null,"#.repeat(9));
        let (sent, _) = sent(body.as_bytes(), &[20, 33], MOST_GROWTH, false);
        assert_eq!(sent.len(), body.len() + MOST_GROWTH);
        let whole: Json = serde_json::from_slice(&sent).unwrap();
        assert_eq!(whole["stream_options"], Json::Null);
    }

    /// Some of a chat's body, with options as callers may write them.
    fn body() -> impl Strategy<Value = Json> {
        let any = prop_oneof![
            Just(json!(true)),
            Just(json!(false)),
            Just(json!(null)),
            Just(json!({})),
            Just(json!([{"stream": true}])),
            Just(json!("true")),
            any::<i16>().prop_map(Into::into),
        ];
        let option = prop::collection::btree_map("(include_usage|include|x)", any.clone(), 0..3)
            .prop_map(|map| Json::Object(map.into_iter().collect()));
        let stream = prop_oneof![3 => Just(json!(true)), 1 => any.clone()];
        let options = prop_oneof![3 => option, 1 => any.clone()];
        let other = prop::collection::btree_map("(messages|data_sources|z)", any, 0..3);
        (other, prop::option::of(stream), prop::option::of(options)).prop_map(
            |(other, stream, options)| {
                let mut body = Json::Object(other.into_iter().collect());
                let fields = [("stream", stream), ("stream_options", options)];
                for (name, value) in fields.into_iter().filter_map(|(name, v)| Some((name, v?))) {
                    body[name] = value;
                }
                body
            },
        )
    }

    /// What a backend must understand.
    fn expected(body: &Json) -> Json {
        let mut expected = body.clone();
        let asks = json!({"include_usage": true});
        match (body.get("stream"), body.get("stream_options")) {
            (Some(stream), _) if *stream != json!(true) => {}
            (_, Some(Json::Null)) => expected["stream_options"] = asks,
            (_, Some(Json::Object(options))) => match options.get("include_usage") {
                None | Some(Json::Null | Json::Bool(_)) => {
                    expected["stream_options"]["include_usage"] = json!(true);
                }
                Some(_) => {}
            },
            (Some(_), None) if body.get("data_sources").is_none() => {
                expected["stream_options"] = asks;
            }
            _ => {}
        }
        expected
    }

    proptest! {
        #[test]
        fn a_backend_understands_the_body_with_the_option_however_it_is_cut(
            body in body(),
            is_pretty in any::<bool>(),
            names_model in any::<bool>(),
            cuts in prop::collection::vec(any::<Index>(), 0..8),
        ) {
            let text = if is_pretty { format!("{body:#}") } else { body.to_string() };
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
            ends.sort_unstable();
            let (whole, _) = sent(text.as_bytes(), &[], MOST_GROWTH, names_model);
            prop_assert_eq!(whole.len(), text.len() + MOST_GROWTH);
            let (cut, _) = sent(text.as_bytes(), &ends, MOST_GROWTH, names_model);
            prop_assert_eq!(&cut, &whole);
            let understood: Json = serde_json::from_slice(&whole).unwrap();
            prop_assert_eq!(understood, expected(&body), "{}", text);
        }

        #[test]
        fn any_bytes_grow_by_the_reserve_and_cuts_make_no_difference(
            start in prop::sample::select(&["", "{\"stream\":true,", "{\"stream_options\":{\"include_usage\":"][..]),
            bytes in prop::collection::vec(
                prop::sample::select(b"{}[]\":,\\ 1nulltruefalse\xff".to_vec()), 0..60),
            cuts in prop::collection::vec(any::<Index>(), 0..8),
        ) {
            let body = [start.as_bytes(), &bytes].concat();
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
            ends.retain(|end| *end < body.len());
            ends.sort_unstable();
            let (whole, _) = sent(&body, &[], MOST_GROWTH, false);
            prop_assert_eq!(whole.len(), body.len() + MOST_GROWTH);
            prop_assert_eq!(sent(&body, &ends, MOST_GROWTH, false).0, whole);
        }
    }
}
