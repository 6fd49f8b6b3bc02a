//! Bodies of requests: the model in JSON and in forms, and content types.

use aoai_filter::request::body::{BodyFormat, BodyReader};
use proptest::prelude::*;

use crate::agreement::{self, name};
use crate::budget;
use crate::mutation::{cuts, like, pieces};

const JSON: &[&str] = &[
    r#"{"messages":[{"role":"user","content":"hi"}],"model":"gpt-4o","stream":true,"user":"u-\u00e91"}"#,
    r#"{"model":"gpt-4o","input":["a","b"],"metadata":{"model":"x"},"temperature":1.5e-3}"#,
    r#"{"\u006dodel" : "gpt\u002d4o", "tools": [{"function":{"parameters":{"a":[[],{}]}}}]}"#,
    r#"{"messages":[],"data_sources":[{"type":"azure_search"}],"data\u005fsources":{"dataSources":null}}"#,
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

proptest! {
    #![proptest_config(budget())]

    #[test]
    fn the_model_of_json(body in like(JSON), cuts in cuts()) {
        agreement::json(&body, &pieces(&body, &cuts));
    }

    #[test]
    fn data_sources_in_json(body in like(JSON), cuts in cuts()) {
        let read = |pieces: &[&[u8]]| {
            let mut reader = BodyReader::of_data_sources();
            pieces.iter().try_for_each(|piece| reader.push(piece))?;
            reader.finish()
        };
        let found = read(&[&body]);
        prop_assert_eq!(read(&pieces(&body, &cuts)), found, "cuts make no difference");
        if let Ok(parsed) = serde_json::from_slice::<serde_json::Value>(&body) {
            let has_them = ["data_sources", "dataSources"].iter().any(|name| parsed.get(name).is_some());
            prop_assert!(!has_them || found.is_err(), "{found:?}");
        }
    }

    #[test]
    fn the_model_of_a_form(body in like(FORMS), cuts in cuts()) {
        agreement::form(&body, &pieces(&body, &cuts));
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
