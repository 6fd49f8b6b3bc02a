mod reference;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::config::AFFINITY_FIELDS;
use reference::Reference;

type Outcome = Result<Option<(&'static str, &'static str)>, BodyError>;

/// Reads a body in pieces of a size, as far as it can be read: the model's name and the bytes where
/// its value stands.
fn read(
    format: &BodyFormat,
    body: &[u8],
    size: usize,
) -> Result<Option<(String, String)>, BodyError> {
    let mut reader = format.reader(AFFINITY_FIELDS.into_iter());
    for piece in body.chunks(size) {
        reader.push(piece)?;
    }
    reader.finish()?;
    Ok(reader.model().map(|model| {
        let value = String::from_utf8_lossy(&body[model.at.clone()]).into_owned();
        (model.name.clone(), value)
    }))
}

/// The same outcome must come of every way to cut the body.
fn check(name: &str, format: &BodyFormat, body: &[u8], expected: Outcome) {
    let expected =
        expected.map(|found| found.map(|(name, value)| (name.to_owned(), value.to_owned())));
    for size in [1, 2, 3, 7, 16, body.len().max(1)] {
        assert_eq!(read(format, body, size), expected, "{name}, in pieces of {size}");
    }
}

#[test]
fn the_model_of_json() {
    use BodyError::*;
    let rows: &[(&str, &str, Outcome)] = &[
        ("first", r#"{"model":"m","x":1}"#, Ok(Some(("m", r#""m""#)))),
        ("last", r#"{"messages":[{"role":"user"}],"model":"m"}"#, Ok(Some(("m", r#""m""#)))),
        ("spaced", "\t{ \"model\" :\r\n \"m\" } \n", Ok(Some(("m", r#""m""#)))),
        (
            "behind every kind of value",
            r#"{"a":1,"b":-1.5e+3,"c":true,"d":null,"e":"x","f":{},"g":[],"model":"m"}"#,
            Ok(Some(("m", r#""m""#))),
        ),
        ("escaped key", r#"{"\u006dod\u0065l":"m"}"#, Ok(Some(("m", r#""m""#)))),
        (
            "wholly escaped key",
            r#"{"\u006d\u006f\u0064\u0065\u006c":"m"}"#,
            Ok(Some(("m", r#""m""#))),
        ),
        (
            "escaped value",
            r#"{"model":"\u006d-\"1\""}"#,
            Ok(Some(("m-\"1\"", r#""\u006d-\"1\"""#))),
        ),
        ("surrogates", r#"{"model":"\ud83d\ude00"}"#, Ok(Some(("\u{1f600}", r#""\ud83d\ude00""#)))),
        ("empty value", r#"{"model":""}"#, Ok(Some(("", r#""""#)))),
        (
            "nested ones do not count",
            r#"{"a":{"model":"x"},"b":[{"model":"y"}],"model":"m"}"#,
            Ok(Some(("m", r#""m""#))),
        ),
        (
            "brackets and quotes in strings",
            r#"{"a":"}]\"{","b":["]","\\"],"model":"m"}"#,
            Ok(Some(("m", r#""m""#))),
        ),
        (
            "a key that contains it",
            r#"{"models":"x","xmodel":"y","model":"m"}"#,
            Ok(Some(("m", r#""m""#))),
        ),
        (
            "a very long key",
            &format!(r#"{{"{}":1,"model":"m"}}"#, "k".repeat(5000)),
            Ok(Some(("m", r#""m""#))),
        ),
        ("none", r#"{"messages":[]}"#, Ok(None)),
        ("empty object", "{}", Ok(None)),
        ("two", r#"{"model":"a","model":"b"}"#, Err(TwoModels)),
        ("two alike", r#"{"model":"a","model":"a"}"#, Err(TwoModels)),
        ("two, one escaped", r#"{"model":"a","mod\u0065l":"b"}"#, Err(TwoModels)),
        (
            "two, far apart",
            &format!(r#"{{"model":"a","x":"{}","model":"b"}}"#, "y".repeat(9000)),
            Err(TwoModels),
        ),
        ("two, the second no string", r#"{"model":"a","model":1}"#, Err(TwoModels)),
        ("in another case", r#"{"Model":"a"}"#, Err(TwoModels)),
        ("and one in another case", r#"{"model":"a","MODEL":"b"}"#, Err(TwoModels)),
        ("with a space", r#"{"model":"a","model ":"b"}"#, Err(TwoModels)),
        (
            "between very many spaces",
            &format!(r#"{{"{}Model":"a"}}"#, " ".repeat(5000)),
            Err(TwoModels),
        ),
        (
            "before very many escaped spaces",
            &format!(r#"{{"model":"a","mod\u0065l{}":"b"}}"#, "\\u0020".repeat(5000)),
            Err(TwoModels),
        ),
        (
            "a long key that begins with spaces",
            &format!(r#"{{"{}mod{}":1,"model":"m"}}"#, " ".repeat(90), "k".repeat(90)),
            Ok(Some(("m", r#""m""#))),
        ),
        ("a number", r#"{"model":1}"#, Err(NotAString)),
        ("null", r#"{"model":null}"#, Err(NotAString)),
        ("an object", r#"{"model":{"a":"b"}}"#, Err(NotAString)),
        ("a list", r#"{"model":["m"]}"#, Err(NotAString)),
        ("far too long", &format!(r#"{{"model":"{}"}}"#, "m".repeat(600)), Err(NotAString)),
        ("a lone surrogate", r#"{"model":"\ud83d"}"#, Err(NotAString)),
        ("empty", "", Err(Incomplete)),
        ("spaces", "  ", Err(Incomplete)),
        ("cut in a string", r#"{"model":"m","x":"y"#, Err(Incomplete)),
        ("cut behind a comma", r#"{"model":"m","#, Err(Incomplete)),
        ("cut in a nested value", r#"{"model":"m","x":[1,2"#, Err(Incomplete)),
        ("a list of objects", r#"[{"model":"m"}]"#, Err(Unreadable)),
        ("a string", r#""model""#, Err(Unreadable)),
        ("text", "model=m", Err(Unreadable)),
        ("a second document", r#"{"model":"a"}{"model":"b"}"#, Err(Unreadable)),
        ("lines of documents", "{\"model\":\"a\"}\n{\"model\":\"b\"}", Err(Unreadable)),
        ("a comma too many", r#"{"model":"m",}"#, Err(Unreadable)),
        ("no comma", r#"{"a":1 "model":"m"}"#, Err(Unreadable)),
        ("no colon", r#"{"model" "m"}"#, Err(Unreadable)),
        ("single quotes", "{'model':'a'}", Err(Unreadable)),
        ("bare key", "{model:\"a\"}", Err(Unreadable)),
        ("comment", r#"{"model":"a"/*","model":"b"*/}"#, Err(Unreadable)),
        ("comment in a nested value", r#"{"x":[/*"]*/],"model":"a"}"#, Err(Unreadable)),
        ("line feed in a string", "{\"x\":\"\n\",\"model\":\"a\"}", Err(Unreadable)),
        (
            "line feed where a value becomes too long",
            &format!("{{\"model\":\"{}\n", "m".repeat(511)),
            Err(Unreadable),
        ),
        ("byte order mark", "\u{feff}{\"model\":\"a\"}", Err(Unreadable)),
        ("UTF-16", "{\0\"\0m\0", Err(Unreadable)),
        ("nul", "{\"model\":\"a\"}\0", Err(Unreadable)),
        ("bad escape in a key", r#"{"\x":1,"model":"a"}"#, Err(Unreadable)),
    ];
    for (name, body, expected) in rows {
        check(name, &BodyFormat::Json, body.as_bytes(), *expected);
    }
    check("not utf-8", &BodyFormat::Json, b"{\"model\":\"\xff\"}", Err(NotAString));
}

#[test]
fn the_texts_of_other_fields_of_json() {
    // What is known at the end of `prompt_cache_key` and of `user`.
    let long = format!(r#"{{"user":"{}","model":"m"}}"#, "u".repeat(600));
    let longest = format!(r#"{{"user":"{}","model":"m"}}"#, "u".repeat(510));
    let u510 = "u".repeat(510);
    let long_escaped = format!(r#"{{"user":"{}\"","model":"m"}}"#, "\\n".repeat(300));
    let rows: &[(&str, &str, [Option<&str>; 2])] = &[
        ("neither", r#"{"model":"m"}"#, [None, None]),
        ("one", r#"{"model":"m","user":"u"}"#, [None, Some("u")]),
        ("both", r#"{"user":"u","prompt_cache_key":"k","model":"m"}"#, [Some("k"), Some("u")]),
        ("escaped", r#"{"us\u0065r":"\u00fc","model":"m"}"#, [None, Some("ü")]),
        (
            "wholly escaped",
            r#"{"\u0070\u0072\u006f\u006d\u0070\u0074\u005f\u0063\u0061\u0063\u0068\u0065\u005f\u006b\u0065\u0079":"k"}"#,
            [Some("k"), None],
        ),
        ("of two the first", r#"{"user":"a","user":"b","model":"m"}"#, [None, Some("a")]),
        ("the first no text", r#"{"user":1,"user":"b","model":"m"}"#, [None, Some("")]),
        ("empty", r#"{"user":"","model":"m"}"#, [None, Some("")]),
        ("null", r#"{"user":null,"model":"m"}"#, [None, Some("")]),
        ("an object", r#"{"user":{"user":"x"},"model":"m"}"#, [None, Some("")]),
        ("a list", r#"{"user" : [ "x" ],"model":"m"}"#, [None, Some("")]),
        ("a number at the end", r#"{"user":12}"#, [None, Some("")]),
        ("nested", r#"{"x":{"user":"u"},"model":"m"}"#, [None, None]),
        ("another case is another field", r#"{"User":"u","model":"m"}"#, [None, None]),
        ("far too long", &long, [None, Some("")]),
        ("far too long, escaped", &long_escaped, [None, Some("")]),
        ("as long as may be", &longest, [None, Some(&u510)]),
        ("a lone surrogate", r#"{"user":"\ud83d","model":"m"}"#, [None, Some("")]),
    ];
    for (name, body, expected) in rows {
        for size in [1, 2, 7, body.len()] {
            let mut reader = BodyFormat::Json.reader(AFFINITY_FIELDS.into_iter());
            for piece in body.as_bytes().chunks(size) {
                assert_eq!(reader.push(piece), Ok(()), "{name}");
            }
            assert_eq!(reader.finish(), Ok(()), "{name}");
            assert_eq!(reader.model().is_some(), body.contains(r#""m""#), "{name}");
            assert_eq!(AFFINITY_FIELDS.map(|field| reader.text(field)), *expected, "{name}");
        }
    }
    let mut reader = BodyFormat::Json.reader(["user"].into_iter());
    assert_eq!(reader.push(br#"{"user":"u","prompt_cache_key":"k""#), Ok(()));
    assert_eq!(AFFINITY_FIELDS.map(|field| reader.text(field)), [None, Some("u")], "one wanted");
    for broken in [r#"{"user":]}"#, r#"{"user":}"#, "{\"user\":\"\n\"}", r#"{"user":"u" 1}"#] {
        let mut reader = BodyFormat::Json.reader(AFFINITY_FIELDS.into_iter());
        assert_eq!(reader.push(broken.as_bytes()), Err(BodyError::Unreadable), "{broken}");
    }
}

/// What a reader that refuses data sources makes of a body, which must be the same in pieces of every size.
fn check_sources(
    name: &str,
    reader: impl Fn() -> BodyReader,
    body: &[u8],
    expected: Result<(), BodyError>,
) {
    for size in [1, 2, 3, 7, 16, body.len().max(1)] {
        let mut reader = reader();
        let found = body
            .chunks(size)
            .try_for_each(|piece| reader.push(piece))
            .and_then(|()| reader.finish());
        assert_eq!(found, expected, "{name}, in pieces of {size}");
    }
}

#[test]
fn data_sources_are_refused_at_the_top_level_of_json() {
    use BodyError::*;
    let long = |a: &str, b: &str| format!("{{\"{a}{}{b}\":[]}}", "_".repeat(150));
    let rows: &[(&str, &str, Result<(), BodyError>)] = &[
        ("none", r#"{"messages":[],"stream":true}"#, Ok(())),
        ("one", r#"{"data_sources":[{"type":"azure_search"}]}"#, Err(DataSources)),
        ("an empty list", r#"{"data_sources":[]}"#, Err(DataSources)),
        ("null", r#"{"data_sources":null}"#, Err(DataSources)),
        ("last", r#"{"messages":[{"x":1}],"stream":true , "data_sources" : {}}"#, Err(DataSources)),
        ("as in previews", r#"{"dataSources":[]}"#, Err(DataSources)),
        ("escaped", r#"{"data\u005fsources":[]}"#, Err(DataSources)),
        (
            "wholly escaped",
            r#"{"\u0064\u0061\u0074\u0061\u005F\u0073\u006f\u0075\u0072\u0063\u0065\u0073":[]}"#,
            Err(DataSources),
        ),
        ("in another case", r#"{"DATA_Sources":[]}"#, Err(DataSources)),
        ("with other separators", r#"{" data-sources\t":[]}"#, Err(DataSources)),
        ("with much in it", &long("data", "sources"), Err(DataSources)),
        ("another long name", &long("database", "sources"), Ok(())),
        ("with letters that fold to others", "{\"data_\u{17f}ource\u{17f}\":[]}", Err(DataSources)),
        (
            "nested ones do not count",
            r#"{"a":{"data_sources":[]},"b":[{"data_sources":1}]}"#,
            Ok(()),
        ),
        ("in a string", r#"{"a":"\"data_sources\":[]","b":"data_sources"}"#, Ok(())),
        ("other names", r#"{"data_source":1,"xdata_sources":2,"data_sources2":3}"#, Ok(())),
        ("cut", r#"{"messages":["#, Err(Incomplete)),
        ("empty", "", Err(Incomplete)),
        ("comment", r#"{"a":1/*","data_sources":[]*/}"#, Err(Unreadable)),
        ("single quotes", "{'data_sources':[]}", Err(Unreadable)),
        ("a form", "data_sources=x", Err(Unreadable)),
        ("a second document", r#"{}{"data_sources":[]}"#, Err(Unreadable)),
        ("UTF-16", "{\0\"\0d\0", Err(Unreadable)),
        ("byte order mark", "\u{feff}{\"data_sources\":[]}", Err(Unreadable)),
    ];
    for (name, body, expected) in rows {
        check_sources(name, BodyReader::of_data_sources, body.as_bytes(), *expected);
        let with_model = || BodyFormat::Json.reader(std::iter::empty()).refusing_data_sources();
        check_sources(name, with_model, body.as_bytes(), *expected);
        let refused = *expected == Err(DataSources);
        let lenient = || BodyFormat::Json.reader(std::iter::empty());
        check_sources(name, lenient, body.as_bytes(), if refused { Ok(()) } else { *expected });
    }
}

#[test]
fn a_model_does_not_matter_to_a_reader_of_data_sources() {
    for body in [r#"{"model":1,"Model":"x"}"#, r#"{"model":"a","model":"b"}"#] {
        check_sources(body, BodyReader::of_data_sources, body.as_bytes(), Ok(()));
    }
}

#[test]
fn data_sources_are_refused_as_a_part_of_a_form() {
    let form = BodyFormat::Multipart { boundary: "b".to_owned() };
    for (field, expected) in [
        ("data_sources", Err(BodyError::DataSources)),
        ("DataSources", Err(BodyError::DataSources)),
        ("data", Ok(())),
    ] {
        let body =
            format!("--b\r\nContent-Disposition: form-data; name={field}\r\n\r\n[]\r\n--b--");
        let reader = || form.reader(std::iter::empty());
        check_sources(field, || reader().refusing_data_sources(), body.as_bytes(), expected);
        check_sources(field, reader, body.as_bytes(), Ok(()));
    }
}

#[test]
fn the_model_of_a_form() {
    use BodyError::*;
    let form = BodyFormat::Multipart { boundary: "b-1".to_owned() };
    let part = |headers: &str, content: &str| format!("--b-1\r\n{headers}\r\n\r\n{content}\r\n");
    let field = |name: &str, content: &str| {
        part(&format!("Content-Disposition: form-data; name=\"{name}\""), content)
    };
    let file = |content: &str| {
        part(
            "Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav",
            content,
        )
    };
    let end = "--b-1--\r\n";
    let m = Ok(Some(("m", "m")));
    let rows: Vec<(&str, String, Outcome)> = vec![
        ("first", field("model", "m") + &file("RIFF") + end, m),
        ("last", file("RIFF") + &field("model", "m") + end, m),
        ("alone, without the last line break", field("model", "m") + "--b-1--", m),
        ("unquoted name", part("content-disposition:form-data;name=model", "m") + end, m),
        ("header order and case", part("X: y\r\nCONTENT-DISPOSITION: Form-Data; name=\"model\"", "m") + end, m),
        ("a content type of its own", part("Content-Disposition: form-data; name=\"model\"\r\nContent-Type: text/plain", "m") + end, m),
        ("empty value", field("model", "") + end, Ok(Some(("", "")))),
        ("none", file("RIFF") + end, Ok(None)),
        ("empty parts", field("a", "") + &field("b", "") + &field("model", "m") + end, m),
        ("what looks like a delimiter", file("\r\n--b-\r\n-b-1\r\n--b\r\n--\r\r\n") + &field("model", "m") + end, m),
        ("what looks like a part", file("Content-Disposition: form-data; name=\"model\"\r\n\r\nx") + &field("model", "m") + end, m),
        ("two", field("model", "a") + &field("model", "b") + end, Err(TwoModels)),
        ("two alike", field("model", "a") + &file("x") + &field("model", "a") + end, Err(TwoModels)),
        ("in another case", field("model", "a") + &field("Model", "b") + end, Err(TwoModels)),
        ("a file", part("Content-Disposition: form-data; name=\"model\"; filename=\"m\"", "m") + end, Err(NotAString)),
        ("encoded", part("Content-Disposition: form-data; name=\"model\"\r\nContent-Transfer-Encoding: base64", "bQ==") + end, Err(NotAString)),
        ("far too long", field("model", &"m".repeat(600)) + end, Err(NotAString)),
        ("two names", part("Content-Disposition: form-data; name=\"a\"; name=\"model\"", "m") + end, Err(Unreadable)),
        ("an extended name", part("Content-Disposition: form-data; name=\"a\"; name*=utf-8''model", "m") + end, Err(Unreadable)),
        ("two dispositions", part("Content-Disposition: form-data; name=\"a\"\r\nContent-Disposition: form-data; name=\"model\"", "m") + end, Err(Unreadable)),
        ("a name in another case", part("Content-Disposition: form-data; NAME=\"model\"", "m") + end, Err(Unreadable)),
        ("a blank that is not one to all", part("Content-Disposition: form-data; \u{2028}name=\"model\"", "m") + end, Err(Unreadable)),
        ("a blank before the sign of equality", part("Content-Disposition: form-data; name =\"model\"", "m") + end, Err(Unreadable)),
        ("a blank behind the sign of equality", part("Content-Disposition: form-data; name=\tmodel", "m") + end, Err(Unreadable)),
        ("no token and no quotes", part("Content-Disposition: form-data; name=model>", "m") + end, Err(Unreadable)),
        ("parts within a part", part("Content-Disposition: form-data; name=\"a\"\r\nContent-Type: Multipart/Mixed; boundary=c", "x") + &field("model", "m") + end, Err(Unreadable)),
        ("a name in a file's name", part("Content-Disposition: form-data; name=\"file\"; filename=\"a; name=model\"", "m") + end, Err(Unreadable)),
        ("an escaped quote", part("Content-Disposition: form-data; x=\"\\\"; name=\"model\"", "m") + end, Err(Unreadable)),
        ("a folded line", part("Content-Disposition: form-data;\r\n name=\"model\"", "m") + end, Err(Unreadable)),
        ("bare line feeds in headers", "--b-1\r\nContent-Disposition: form-data; name=\"a\"\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n".to_owned() + end, Err(Unreadable)),
        ("no disposition", part("Content-Type: text/plain", "m") + end, Err(Unreadable)),
        ("not form-data", part("Content-Disposition: attachment; name=\"model\"", "m") + end, Err(Unreadable)),
        ("a preamble", "x\r\n".to_owned() + &field("model", "m") + end, Err(Unreadable)),
        ("an epilogue", field("model", "m") + end + "--b-1\r\n", Err(Unreadable)),
        ("a delimiter behind a bare line feed", file("x\n--b-1\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm") + end, Err(Unreadable)),
        ("a delimiter behind the empty line", "--b-1\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n".to_owned() + &field("model", "m") + end, Err(Unreadable)),
        ("a longer delimiter", file("x\r\n--b-12\r\n") + &field("model", "m") + end, Err(Unreadable)),
        ("endless headers", format!("--b-1\r\nX: {}", "y".repeat(9000)), Err(Unreadable)),
        ("empty", String::new(), Err(Incomplete)),
        ("cut", field("model", "m"), Err(Incomplete)),
        ("another boundary", "--b-2\r\n".to_owned(), Err(Unreadable)),
    ];
    for (name, body, expected) in rows {
        check(name, &form, body.as_bytes(), expected);
    }
}

/// What took quadratic time would take minutes here.
#[test]
fn a_form_of_very_many_parts_is_read() {
    let mut body = "--A\r\nContent-Disposition:form-data;name=x\r\n\r\n\r\n".repeat(200_000);
    body += "--A--";
    let form = BodyFormat::Multipart { boundary: "A".to_owned() };
    assert_eq!(read(&form, body.as_bytes(), body.len()), Ok(None));
}

#[test]
fn the_format_follows_from_the_content_type() {
    use FormatError::*;
    let form = |boundary: &str| Ok(BodyFormat::Multipart { boundary: boundary.to_owned() });
    let rows = [
        ("application/json", Ok(BodyFormat::Json)),
        ("application/json; charset=utf-8", Ok(BodyFormat::Json)),
        ("application/json; charset=\"UTF-8\"", Ok(BodyFormat::Json)),
        ("application/json; charset=utf8", Ok(BodyFormat::Json)),
        ("text/plain", Ok(BodyFormat::Json)),
        ("", Ok(BodyFormat::Json)),
        ("application/json; charset=utf-16", Err(Charset)),
        ("application/json; Charset=UTF-7", Err(Charset)),
        ("multipart/form-data; boundary=b", form("b")),
        ("Multipart/Form-Data; charset=utf-8; Boundary=\"a b:c\"", form("a b:c")),
        ("multipart/form-data", Err(Boundary)),
        ("multipart/form-data; boundary=", Err(Boundary)),
        ("multipart/form-data; boundary=\"a\"; boundary=\"b\"", Err(Boundary)),
        ("multipart/form-data; boundary=\"a\r\n\"", Err(Boundary)),
        ("multipart/form-data; boundary=\"a", Err(Boundary)),
        ("multipart/form-data; boundary=a; boundary*=UTF-8''b", Err(Boundary)),
        ("multipart/form-data; boundary*0=b", Err(Boundary)),
        ("multipart/form-data; boundary=b a", Err(Boundary)),
        ("multipart/form-data; boundary=b(a)", Err(Boundary)),
        ("multipart/form-data; boundary=----=_Part_1/2", form("----=_Part_1/2")),
        ("multipart/mixed; boundary=b", Err(Unsupported)),
        ("application/json,multipart/form-data; boundary=b", Err(Unsupported)),
        ("multipart/form-data; boundary=b,application/json", Err(Boundary)),
        ("application/x-www-form-urlencoded", Err(Unsupported)),
    ];
    for (value, expected) in rows {
        assert_eq!(BodyFormat::of_content_type(value.as_bytes()), expected, "{value}");
    }
    for (value, expected) in [
        ("application/json", Ok(())),
        ("application/json; charset=utf8", Ok(())),
        ("text/plain;charset=UTF-8", Ok(())),
        ("application/x-www-form-urlencoded", Ok(())),
        ("multipart/form-data", Ok(())),
        ("application/json; charset=utf-16", Err(Charset)),
        ("multipart/form-data; boundary=b; charset=utf-7", Err(Charset)),
        ("application/json, text/plain; charset=\"utf-7\"", Err(Charset)),
    ] {
        assert_eq!(BodyFormat::check_charset(value.as_bytes()), expected, "{value}");
    }
    let long = format!("multipart/form-data; boundary={}", "b".repeat(71));
    assert_eq!(BodyFormat::of_content_type(long.as_bytes()), Err(Boundary));
    assert_eq!(BodyFormat::of_content_type(b"\xff"), Err(Unsupported));
}

/// Any JSON value, small.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        any::<f32>().prop_map(Into::into),
        ".{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map("(model|[a-z\"\\\\]{0,6})", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

#[test]
fn every_byte_in_every_place_is_read_as_a_reader_that_looks_at_every_byte_does() {
    let body = format!(
        r#"{{"x": [{{"y":"{}"}},{}], "{}": "{}","model":"m"}}"#,
        "s".repeat(80),
        "1,".repeat(20),
        "k".repeat(20),
        "v".repeat(20)
    );
    for place in 0..body.len() {
        for byte in 0..=u8::MAX {
            let mut body = body.clone().into_bytes();
            body[place] = byte;
            let mut reader = BodyFormat::Json.reader(AFFINITY_FIELDS.into_iter());
            let mut reference = Reference::new(AFFINITY_FIELDS.into_iter());
            let result = reader.push(&body);
            assert_eq!(result, reference.push(&body), "{byte:#x} at {place}");
            if result.is_ok() {
                assert_eq!(reader.finish(), reference.finish(), "{byte:#x} at {place}");
                assert_eq!(reader.model(), reference.model(), "{byte:#x} at {place}");
            }
        }
    }
}

/// JSON objects that are nearly right, with strings about as long as what is skipped or kept at once.
fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
    let run = prop_oneof![0_usize..70, 80_usize..110, 490_usize..530];
    let piece = (
        "[a ~\u{e9}]",
        run,
        prop::sample::select(vec!["", r"\n", r#"\""#, r"\\", r"\u0065", r"\x", "\u{7f}"]),
    )
        .prop_map(|(fill, length, end)| fill.repeat(length) + end);
    let text =
        prop::collection::vec(piece, 0..3).prop_map(|pieces| format!("\"{}\"", pieces.concat()));
    let leaf = prop_oneof![
        3 => text.clone(),
        1 => "(-?[0-9]{1,3}(\\.[0-9]{1,9}(e[+-]3)?)?|true|null|[ \t\r\n]{0,30}1)",
    ];
    let value = leaf.prop_recursive(3, 16, 6, |inner| {
        let inner = prop::collection::vec(inner, 0..6);
        let array = inner.clone().prop_map(|values| format!("[{}]", values.join(",")));
        let object = inner.prop_map(|values| format!("{{\"a\":{}}}", values.join(", \"b\" : ")));
        prop_oneof![array, object]
    });
    let names = [
        r#""model""#,
        r#""mod\u0065l""#,
        r#""Model""#,
        r#""user""#,
        r#""us\u0065r""#,
        r#""prompt_cache_key""#,
    ];
    let key =
        prop_oneof![3 => prop::sample::select(names.to_vec()).prop_map(str::to_owned), 1 => text];
    let object = prop::collection::vec((key, value), 0..5).prop_map(|fields| {
        let fields: Vec<String> =
            fields.iter().map(|(key, value)| format!("{key}:{value}")).collect();
        format!("{{{}}}", fields.join(","))
    });
    let byte = prop_oneof![prop::sample::select(b"\"\\\n\x1f {}[]:,1/\xff".to_vec()), any::<u8>()];
    (object, prop::collection::vec((any::<Index>(), byte, any::<bool>()), 0..3)).prop_map(
        |(object, edits)| {
            let mut body = object.into_bytes();
            for (at, byte, inserts) in edits {
                let at = at.index(body.len());
                let end = if inserts { at } else { at + 1 };
                body.splice(at..end, [byte]);
            }
            body
        },
    )
}

proptest! {
    #[test]
    fn the_reader_of_json_finds_what_one_finds_that_looks_at_every_byte(
        body in nearly_json(),
        cuts in prop::collection::vec(any::<Index>(), 0..6),
    ) {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        ends.push(body.len());
        ends.sort_unstable();
        let mut reader = BodyFormat::Json.reader(AFFINITY_FIELDS.into_iter());
        let mut reference = Reference::new(AFFINITY_FIELDS.into_iter());
        let mut start = 0;
        for end in ends {
            let piece = &body[start..end];
            start = end;
            let result = reader.push(piece);
            prop_assert_eq!(result, reference.push(piece));
            if result.is_err() {
                return Ok(());
            }
            prop_assert_eq!(reader.model(), reference.model());
            prop_assert_eq!(reader.finish(), reference.finish());
            prop_assert_eq!(
                AFFINITY_FIELDS.map(|field| reader.text(field)),
                AFFINITY_FIELDS.map(|field| reference.text(field))
            );
        }
    }

    #[test]
    fn a_boundary_of_dashes_counts_behind_a_line_break_only(
        content in prop::collection::vec(prop::sample::select(b"----x\r\n".to_vec()), 0..60),
        size in 1_usize..40,
    ) {
        let head = |name| format!("----\r\nContent-Disposition: form-data; name={name}\r\n\r\n");
        let content = String::from_utf8(content).unwrap();
        let body = format!("{}{content}\r\n{}m\r\n------", head("file"), head("model"));
        let form = BodyFormat::Multipart { boundary: "--".to_owned() };
        let behind_break = format!("\n{content}");
        let expected = if behind_break.contains("\n----") || behind_break.contains("\r----") {
            Err(BodyError::Unreadable)
        } else {
            Ok(Some(("m".to_owned(), "m".to_owned())))
        };
        prop_assert_eq!(read(&form, body.as_bytes(), size), expected);
    }

    #[test]
    fn a_json_object_has_the_model_that_a_whole_parser_finds(
        before in prop::collection::vec(("[a-l]{0,4}", json()), 0..3),
        model in ".{0,20}",
        after in prop::collection::vec(("[n-z]{0,4}", json()), 0..3),
        size in 1_usize..40,
    ) {
        let text = |value: &serde_json::Value| value.to_string();
        let fields: Vec<String> = before.iter()
            .map(|(name, value)| format!("{}:{}", text(&name.as_str().into()), text(value)))
            .chain([format!("\"model\": {}", text(&model.as_str().into()))])
            .chain(after.iter().map(|(name, value)| format!("{}:{}", text(&name.as_str().into()), text(value))))
            .collect();
        let body = format!("{{{}}}", fields.join(" ,\n"));
        let parsed: serde_json::Value = serde_json::from_str(&body).unwrap();
        let found = read(&BodyFormat::Json, body.as_bytes(), size).unwrap().unwrap();
        prop_assert_eq!(Some(found.0.as_str()), parsed["model"].as_str());
        prop_assert_eq!(found.1, text(&parsed["model"]));
    }

    #[test]
    fn accepted_json_has_no_other_model_for_a_whole_parser(
        body in r#"\{("(model|Model|x)":("a"|1|\{"model":"b"\}|\["model"\])[, ]?){0,4}\}?"#,
        size in 1_usize..10,
    ) {
        if let Ok(found) = read(&BodyFormat::Json, body.as_bytes(), size) {
            // serde_json takes the last of several.
            let parsed: serde_json::Value = serde_json::from_str(&body).unwrap();
            prop_assert_eq!(found.as_ref().map(|(name, _)| name.as_str()), parsed["model"].as_str());
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic_and_cuts_make_no_difference(
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            prop::collection::vec(prop::sample::select(br#"{}[]":,\model 1-"#.to_vec()), 0..200),
            prop::collection::vec(prop::sample::select(b"--b\r\n: ;=\"model".to_vec()), 0..200),
        ],
        size in 1_usize..50,
    ) {
        for format in [BodyFormat::Json, BodyFormat::Multipart { boundary: "b".to_owned() }] {
            prop_assert_eq!(read(&format, &body, size), read(&format, &body, body.len().max(1)));
        }
    }

    #[test]
    fn a_form_has_the_model_that_was_put_in(
        before in prop::collection::vec(any::<u8>(), 0..300),
        model in "[ -~]{0,40}",
        after in prop::collection::vec(prop::sample::select(b"\r\n-bx".to_vec()), 0..100),
        size in 1_usize..80,
    ) {
        let boundary = "bx0123456789abcdef";
        let mut body = Vec::new();
        for (name, content) in [("file", before.as_slice()), ("model", model.as_bytes()), ("z", &after)] {
            body.extend_from_slice(format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n").as_bytes());
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        let form = BodyFormat::Multipart { boundary: boundary.to_owned() };
        prop_assert_eq!(read(&form, &body, size), Ok(Some((model.clone(), model))));
    }

    #[test]
    fn no_content_type_makes_the_format_panic(value in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = BodyFormat::of_content_type(&value);
        let _ = BodyFormat::of_content_type(&[b"multipart/form-data; boundary=", value.as_slice()].concat());
    }
}
