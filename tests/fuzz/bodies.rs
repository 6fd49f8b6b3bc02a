//! Bodies of requests: the model in JSON and in forms, and content types.

use aoai_filter::request::body::{BodyError, BodyFormat, ModelField, ModelReader};
use proptest::prelude::*;
use serde_json::Value;

use crate::budget;
use crate::mutation::{cuts, like, pieces};
use crate::readers::{models_of_json, parts_of_form, Parts};

const JSON: &[&str] = &[
    r#"{"messages":[{"role":"user","content":"hi"}],"model":"gpt-4o","stream":true,"user":"u-\u00e91"}"#,
    r#"{"model":"gpt-4o","input":["a","b"],"metadata":{"model":"x"},"temperature":1.5e-3}"#,
    r#"{"\u006dodel" : "gpt\u002d4o", "tools": [{"function":{"parameters":{"a":[[],{}]}}}]}"#,
    "{}",
];
const FORMS: &[&str] = &[
    "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--b--\r\n",
    "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n\
     RIFF\r\n--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b--",
    "--b\r\ncontent-disposition:form-data;name=model\r\n\r\n\r\n--b\r\nContent-Disposition: form-data; name=x\r\n\
     \r\n\r\n--b--\r\n",
    "--b\r\nContent-Disposition: form-data; filename=\"; name=model ;b\"; name=\"file\"\r\n\r\nx\r\n--b\r\n\
     Content-Type: text/plain\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b--\r\n",
];
const TYPES: &[&str] = &[
    "application/json; charset=utf-8",
    "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
    "multipart/form-data; charset=\"utf-8\"; boundary=\"a b\"",
];

/// A field that is kept beside the model.
const OTHER: &str = "user";

fn reader(format: &BodyFormat) -> ModelReader {
    format.reader(std::iter::once(OTHER))
}

/// The model that a body names, and the text of the other field.
fn read_both(
    format: &BodyFormat,
    pieces: &[&[u8]],
) -> Result<(Option<ModelField>, Option<String>), BodyError> {
    let mut reader = reader(format);
    for piece in pieces {
        reader.push(piece)?;
    }
    reader.finish()?;
    Ok((reader.model().cloned(), reader.text(OTHER).map(str::to_owned)))
}

fn read(format: &BodyFormat, body: &[u8]) -> Result<Option<ModelField>, BodyError> {
    read_both(format, &[body]).map(|(model, _)| model)
}

/// Its name alone.
fn name(format: &BodyFormat, body: &[u8]) -> Result<Option<String>, BodyError> {
    read(format, body).map(|model| model.map(|model| model.name))
}

/// What must be true of a body however it arrives.
fn check(format: &BodyFormat, body: &[u8], cut: &[&[u8]]) -> Result<(), TestCaseError> {
    let whole = read_both(format, &[body]);
    prop_assert_eq!(&read_both(format, cut), &whole, "cuts make no difference");
    let Ok((Some(model), _)) = whole else {
        return Ok(());
    };
    let mut renamed = body[..model.at.start].to_vec();
    renamed.extend_from_slice(reader(format).syntax().encode("deployed-as.this_1").as_bytes());
    renamed.extend_from_slice(&body[model.at.end..]);
    prop_assert_eq!(
        name(format, &renamed),
        Ok(Some("deployed-as.this_1".to_owned())),
        "it is the one that counts"
    );
    Ok(())
}

proptest! {
    #![proptest_config(budget())]

    #[test]
    fn the_model_of_json(body in like(JSON), cuts in cuts()) {
        check(&BodyFormat::Json, &body, &pieces(&body, &cuts))?;
        if let Some(models) = models_of_json(&body) {
            match name(&BodyFormat::Json, &body) {
                // Of several the first counts for some readers, and the last for others.
                Ok(found) => {
                    let found = found.map(|name| ("model".to_owned(), Value::String(name)));
                    prop_assert_eq!(Vec::from_iter(found), models, "{}", body.escape_ascii());
                }
                Err(_) => {
                    let is_good = matches!(models.as_slice(), [(name, Value::String(_))] if name == "model");
                    prop_assert!(!is_good || body.len() > 512, "a model that is not too long is found");
                }
            }
        }
    }

    #[test]
    fn the_model_of_a_form(body in like(FORMS), cuts in cuts()) {
        let format = BodyFormat::Multipart { boundary: "b".to_owned() };
        check(&format, &body, &pieces(&body, &cuts))?;
        if let Ok(found) = name(&format, &body) {
            let found = found.map(String::into_bytes);
            let Parts { models, complete } = parts_of_form("b", &body);
            if complete {
                prop_assert_eq!(Vec::from_iter(found), models, "{}", body.escape_ascii());
            } else {
                let all_same = models.iter().all(|model| Some(model) == found.as_ref());
                prop_assert!(all_same, "{}", body.escape_ascii());
            }
        }
    }

    #[test]
    fn content_types(value in like(TYPES)) {
        if let Ok(BodyFormat::Multipart { boundary }) = BodyFormat::of_content_type(&value) {
            prop_assert!((1..=70).contains(&boundary.len()), "RFC 2046, 5.1.1");
            prop_assert!(boundary.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            let body = format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--{boundary}--");
            let format = BodyFormat::Multipart { boundary };
            prop_assert_eq!(name(&format, body.as_bytes()), Ok(Some("m".to_owned())), "it can be read by");
        }
    }
}
