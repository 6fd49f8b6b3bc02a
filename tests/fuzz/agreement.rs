//! What must be true of any body and any URL: that it is read the same way however it arrives, and as
//! other readers read it. A function panics where it is not.

use std::borrow::Cow;

use aoai_filter::base::header::KEY_PARAMETERS;
use aoai_filter::request::body::{BodyError, BodyFormat, BodyReader, ModelField};
use aoai_filter::request::path::Target;
use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::readers::{fields_of_json, is_like_model, parts_of_form, path_and_query, Parts};

/// Of the forms.
const BOUNDARY: &str = "b";

/// A body that is no longer than this has no value that is too long.
const SHORT: usize = 500;

/// A key that is no longer than this is read whole.
const SHORT_KEY: usize = 15;

/// A field that is kept beside the model.
const OTHER: &str = "user";

fn reader(format: &BodyFormat) -> BodyReader {
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
pub(crate) fn name(format: &BodyFormat, body: &[u8]) -> Result<Option<String>, BodyError> {
    read(format, body).map(|model| model.map(|model| model.name))
}

/// What must be true of a body however it arrives.
fn check(format: &BodyFormat, body: &[u8], cut: &[&[u8]]) {
    let whole = read_both(format, &[body]);
    assert_eq!(&read_both(format, cut), &whole, "cuts make no difference");
    let Ok((Some(model), _)) = whole else {
        return;
    };
    let mut renamed = body[..model.at.start].to_vec();
    renamed.extend_from_slice(reader(format).syntax().encode("deployed-as.this_1").as_bytes());
    renamed.extend_from_slice(&body[model.at.end..]);
    assert_eq!(
        name(format, &renamed),
        Ok(Some("deployed-as.this_1".to_owned())),
        "it is the one that counts"
    );
}

/// A JSON body, whole and cut: serde_json reads the model that the module reads.
pub(crate) fn json(body: &[u8], cut: &[&[u8]]) {
    check(&BodyFormat::Json, body, cut);
    let Some(fields) = fields_of_json(body) else {
        return;
    };
    let has_long = body.len() > SHORT || fields.iter().any(|(key, _)| key.len() > SHORT_KEY);
    let is_model = |(name, _): &(String, Value)| is_like_model(name);
    let models: Vec<(String, Value)> = fields.into_iter().filter(is_model).collect();
    match name(&BodyFormat::Json, body) {
        // Of several the first counts for some readers, and the last for others.
        Ok(found) => {
            let found = found.map(|name| ("model".to_owned(), Value::String(name)));
            assert_eq!(Vec::from_iter(found), models, "{}", body.escape_ascii());
        }
        Err(_) => {
            let names_one =
                matches!(models.as_slice(), [(name, Value::String(_))] if name == "model");
            assert!(!names_one || has_long, "it is found: {}", body.escape_ascii());
        }
    }
}

/// A form, whole and cut: multer finds the model that the module finds.
pub(crate) fn form(body: &[u8], cut: &[&[u8]]) {
    let format = BodyFormat::Multipart { boundary: BOUNDARY.to_owned() };
    check(&format, body, cut);
    let Ok(found) = name(&format, body) else {
        return;
    };
    let found = Vec::from_iter(found.map(String::into_bytes));
    let Parts { models, complete } = parts_of_form(BOUNDARY, body);
    if complete {
        assert_eq!(found, models, "{}", body.escape_ascii());
    } else {
        assert!(models.iter().all(|model| found.contains(model)), "{}", body.escape_ascii());
    }
}

/// The decoded segments of a path.
pub(crate) fn segments<'t>(target: &'t Target<'_>) -> Vec<&'t str> {
    target.segments().iter().map(Cow::as_ref).collect()
}

/// A path with a query: what leaves is read by others as it was read here.
pub(crate) fn url(path: &[u8]) {
    let Ok(target) = Target::parse(path) else {
        return;
    };
    // Envoy refuses a fragment, which is no part of a request's path.
    if path.contains(&b'#') {
        return;
    }
    let written = target.write(None);
    let Some((path, parameters)) = path_and_query(written.bytes()) else {
        return;
    };
    let decoded = percent_decode_str(&path).decode_utf8().expect("it is UTF-8");
    let decoded: Vec<&str> = decoded.split('/').filter(|segment| !segment.is_empty()).collect();
    assert_eq!(segments(&target), decoded);
    let named = |name: &str| -> Vec<&str> {
        let all = parameters.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        all.map(|(_, value)| value.as_str()).collect()
    };
    for key in KEY_PARAMETERS {
        assert!(named(key).is_empty(), "a key leaves: {}", written.bytes().escape_ascii());
    }
    let own = target.query().parameters().filter(|parameter| parameter.is_named("model"));
    let own: Vec<String> =
        own.map(|parameter| String::from_utf8_lossy(&parameter.value()).into_owned()).collect();
    assert_eq!(own, named("model"), "{}", written.bytes().escape_ascii());
}
