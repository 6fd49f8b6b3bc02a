use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{json, Value as Json};

use super::*;

fn usage(input: u64, cached_input: u64, output: u64, reasoning: u64) -> Option<Usage> {
    Some(Usage { input, cached_input, output, reasoning })
}

/// Every way of the operations to write it.
#[test]
fn usage_is_read_in_all_of_its_forms() {
    let rows = [
        (
            "chat",
            json!({"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21,
                "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 7, "audio_tokens": 0}}),
            usage(9, 4, 12, 7),
        ),
        ("embeddings", json!({"prompt_tokens": 8, "total_tokens": 8}), usage(8, 0, 0, 0)),
        (
            "responses",
            json!({"input_tokens": 36, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 87,
                "output_tokens_details": {"reasoning_tokens": 3}, "total_tokens": 123}),
            usage(36, 2, 87, 3),
        ),
        (
            "images",
            json!({"total_tokens": 100, "input_tokens": 50, "output_tokens": 50,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}}),
            usage(50, 0, 50, 0),
        ),
        (
            "realtime",
            json!({"total_tokens": 253, "input_tokens": 132, "output_tokens": 121,
                "input_token_details": {"text_tokens": 119, "audio_tokens": 13, "cached_tokens": 64},
                "output_token_details": {"text_tokens": 30, "audio_tokens": 91}}),
            usage(132, 64, 121, 0),
        ),
        (
            "messages of Claude",
            json!({"input_tokens": 20, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 30,
                "cache_creation": {"ephemeral_5m_input_tokens": 30}, "output_tokens": 5}),
            usage(150, 100, 5, 0),
        ),
        ("a transcription by duration", json!({"type": "duration", "seconds": 7}), None),
        (
            "details that are null",
            json!({"prompt_tokens": 1, "prompt_tokens_details": null}),
            usage(1, 0, 0, 0),
        ),
        ("no numbers", json!({"prompt_tokens": "9", "completion_tokens": -1}), None),
        ("empty", json!({}), None),
    ];
    for (name, json, expected) in rows {
        assert_eq!(Usage::read(json.to_string().as_bytes()), expected, "{name}");
    }
    assert_eq!(Usage::read(b"{\"prompt_tokens\": 1"), None);
}

fn of_document(document: &[u8], size: usize) -> Option<Usage> {
    let mut reader = DocumentReader::default();
    document.chunks(size.max(1)).for_each(|piece| reader.push(piece));
    reader.usage()
}

#[test]
fn only_the_usage_of_the_document_itself_counts() {
    const USED: &str = r#"{"prompt_tokens":9,"completion_tokens":12}"#;
    let long = "x".repeat(100_000);
    let rows = [
        ("first", format!(r#"{{"usage":{USED},"choices":[{{"message":{{}}}}]}}"#), true),
        ("last", format!(r#"{{"data":[0.5,-1e-3],"model":"m","usage": {USED} }}"#), true),
        (
            "behind a large text",
            format!(r#"{{"choices":[{{"text":"{long}"}}],"usage":{USED}}}"#),
            true,
        ),
        (
            "behind large data",
            format!(r#"{{"data":[{{"b64_json":"{long}"}}],"usage":{USED}}}"#),
            true,
        ),
        ("spelled with escapes", format!(r#"{{"us\u0061ge":{USED}}}"#), true),
        ("the last of two", format!(r#"{{"usage":{{"prompt_tokens":1}},"usage":{USED}}}"#), true),
        ("taken back", format!(r#"{{"usage":{USED},"usage":null}}"#), false),
        (
            "in a text",
            format!(r#"{{"choices":[{{"text":"\"usage\":{}"}}]}}"#, USED.replace('"', "\\\"")),
            false,
        ),
        (
            "in a text that looks like an end",
            format!(r#"{{"a":"\\","b":"\"}}","c":[{{"usage":{USED}}}]}}"#),
            false,
        ),
        (
            "below",
            format!(r#"{{"choices":[{{"usage":{USED}}}],"metadata":{{"usage":{USED}}}}}"#),
            false,
        ),
        ("of a response below", format!(r#"{{"response":{{"usage":{USED}}}}}"#), false),
        ("another name", format!(r#"{{"usages":{USED},"Usage":{USED}," usage":{USED}}}"#), false),
        ("null", r#"{"usage":null}"#.to_owned(), false),
        ("a list", format!(r#"{{"usage":[{USED}]}}"#), false),
        ("far too long", format!(r#"{{"usage":{{"prompt_tokens":1,"x":"{long}"}}}}"#), false),
        ("a list of documents", format!(r#"[{{"usage":{USED}}}]"#), false),
        ("behind the document", format!(r#"{{}}{{"usage":{USED}}}"#), false),
        ("no JSON", format!("usage: {USED}"), false),
        ("empty", String::new(), false),
    ];
    for (name, document, counts) in rows {
        let expected = if counts { usage(9, 0, 12, 0) } else { None };
        for size in [1, 2, 3, 7, 1000, document.len()] {
            assert_eq!(
                of_document(document.as_bytes(), size),
                expected,
                "{name}, in pieces of {size}"
            );
        }
    }
}

/// What passes of a stream that comes in pieces which end there, the usage and the number of outputs.
fn of_stream(stream: &[u8], ends: &[usize], takes_out: bool) -> (Vec<u8>, Option<Usage>, u64) {
    let mut reader = EventReader::new(takes_out);
    let mut passed = Vec::new();
    let mut start = 0;
    for end in ends.iter().copied().chain([stream.len()]) {
        let piece = &stream[start..end];
        let ended = end == stream.len();
        passed.extend(reader.push(piece, ended).unwrap_or_else(|| piece.to_vec()));
        start = end;
    }
    (passed, reader.usage(), reader.outputs())
}

/// In pieces of this size.
fn in_pieces(stream: &str, size: usize, takes_out: bool) -> (String, Option<Usage>, u64) {
    let ends: Vec<usize> = (size..stream.len()).step_by(size).collect();
    let (passed, usage, outputs) = of_stream(stream.as_bytes(), &ends, takes_out);
    (String::from_utf8(passed).unwrap(), usage, outputs)
}

const FIRST: &str = r#"{"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0}]}"#;
const CHUNK: &str = r#"{"choices":[{"delta":{"content":"\"usage\":{}"},"index":0}],"id":"c","model":"m","usage":null}"#;
const OTHER: &str =
    r#"{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{}}]}"#;
const USED: &str =
    r#"{"choices":[],"id":"c","model":"m","usage":{"prompt_tokens":9,"completion_tokens":12}}"#;

#[test]
fn the_chunk_that_only_tells_of_usage_is_taken_out() {
    for end in ["\n", "\r\n", "\r"] {
        let event = |data: &str| format!("data: {data}{end}{end}");
        let before = [event(FIRST), event(CHUNK), event(OTHER)].concat();
        let done = event("[DONE]");
        let rows = [
            ("as Azure sends it", event(USED)),
            ("without the space", format!("data:{USED}{end}{end}")),
            ("with an id", format!("id: 7{end}data: {USED}{end}event: chunk{end}{end}")),
            ("with white space", event(&USED.replace("[]", " [ ]").replace(':', " : "))),
            (
                "in two lines",
                format!("data: {}{end}", USED.replace(",\"id\"", &format!(",{end}data: \"id\"")))
                    + end,
            ),
        ];
        for (name, used) in rows {
            let stream = [before.as_str(), &used, &done].concat();
            for size in [1, 2, 3, 7, 16, 50, 1000, stream.len()] {
                let expected = (before.clone() + &done, usage(9, 0, 12, 0), 2);
                assert_eq!(in_pieces(&stream, size, true), expected, "{name} {end:?} {size}");
                let untouched = (stream.clone(), usage(9, 0, 12, 0), 2);
                assert_eq!(in_pieces(&stream, size, false), untouched, "{name} {end:?} {size}");
            }
        }
    }
}

#[test]
fn what_is_not_that_chunk_stays_as_it_is() {
    let rows = [
        (
            "a usage beside a choice",
            CHUNK.replace("null", r#"{"prompt_tokens":1}"#),
            usage(1, 0, 0, 0),
        ),
        (
            "choices that are null",
            r#"{"choices":null,"usage":{"prompt_tokens":1}}"#.into(),
            usage(1, 0, 0, 0),
        ),
        ("no choices", r#"{"usage":{"prompt_tokens":1}}"#.into(), usage(1, 0, 0, 0)),
        ("a usage that is null", r#"{"choices":[],"usage":null}"#.into(), None),
        ("a usage in a choice", format!(r#"{{"choices":[{USED}]}}"#), None),
        ("two documents", format!("{USED}{USED}"), None),
        ("half a document", USED.trim_end_matches('}').into(), None),
        ("a text", format!("{USED:?}"), None),
        ("nothing", String::new(), None),
        (
            "a very long one",
            USED.replace("\"m\"", &format!("{:?}", "m".repeat(20_000))),
            usage(9, 0, 12, 0),
        ),
    ];
    for (name, data, expected) in rows {
        let stream = format!(": a comment\n\ndata: {data}\n\ndata: [DONE]\n\n");
        for size in [1, 3, 50, 700] {
            let (passed, usage, _) = in_pieces(&stream, size, true);
            assert_eq!((passed, usage), (stream.clone(), expected), "{name} in pieces of {size}");
        }
    }
    // An event that is cut is no event.
    for stream in [format!("data: {USED}\n"), format!("data: {USED}"), "data".to_owned()] {
        assert_eq!(in_pieces(&stream, 5, true), (stream.clone(), None, 0));
    }
}

#[test]
fn an_event_goes_on_as_soon_as_it_is_known_not_to_be_that_chunk() {
    let mut reader = EventReader::new(true);
    let mut push = |piece: &str| match reader.push(piece.as_bytes(), false) {
        Some(changed) => String::from_utf8(changed).unwrap(),
        None => piece.to_owned(),
    };
    let rows = [
        (": wait", ": wait"),
        (" a moment\n", " a moment\n"),
        ("data: {\"id\":\"c\",", ""),
        ("\"choices\":[{\"index\"", "data: {\"id\":\"c\",\"choices\":[{\"index\""),
        (":0,\"delta\":", ":0,\"delta\":"),
        ("{}}]}\n\nda", "{}}]}\n\n"),
        ("ta: [D", "data: [D"),
        ("ONE]\n", "ONE]\n"),
        ("\ndata: {\"choices\":[]", "\n"),
        (",\"prompt_filter_results\":[]", ""),
        ("}\n\n", "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n"),
    ];
    for (piece, expected) in rows {
        assert_eq!(push(piece), expected, "after {piece:?}");
    }
}

#[test]
fn events_of_the_responses_api_have_their_usage_in_the_response() {
    let event =
        |name: &str, data: &str| format!("event: {name}\ndata: {{\"type\":\"{name}\",{data}}}\n\n");
    for end in ["response.completed", "response.incomplete", "response.failed"] {
        let stream = [
            event("response.created", r#""response":{"id":"r","usage":null}"#),
            event("response.output_text.delta", r#""delta":"\"usage\"""#),
            event("response.output_text.delta", r#""delta":"x""#),
            event("response.output_text.done", r#""text":"\"usage\"x""#),
            event(end, r#""response":{"output":[{"usage":{"input_tokens":1}}],"usage":{"input_tokens":9,"output_tokens":12}}"#),
        ]
        .concat();
        for takes_out in [false, true] {
            let expected = (stream.clone(), usage(9, 0, 12, 0), 2);
            assert_eq!(in_pieces(&stream, 13, takes_out), expected, "{end}");
        }
    }
}

/// A frame of a server.
/// The end tells the output, and of the input as much as it likes.
#[test]
fn a_message_of_claude_has_its_usage_at_its_beginning_and_at_its_end() {
    const START: &str = r#"{"type":"message_start","message":{"id":"m","usage":{"input_tokens":20,"cache_read_input_tokens":100,"output_tokens":1}}}"#;
    const TEXT: &str =
        r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"\"usage\":{}"}}"#;
    let end = |usage: &str| {
        format!(
            r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},"usage":{usage}}}"#
        )
    };
    let stream = |events: &[&str]| -> String {
        let event = |data: &&str| format!("event: any\ndata: {data}\n\n");
        events.iter().map(event).collect()
    };
    let alone = end(r#"{"output_tokens":7}"#);
    let whole = end(r#"{"input_tokens":20,"cache_read_input_tokens":100,"output_tokens":7}"#);
    let rows = [
        ("the output alone at the end", stream(&[START, TEXT, &alone]), usage(120, 100, 7, 0), 2),
        ("all at the end", stream(&[START, TEXT, TEXT, &whole]), usage(120, 100, 7, 0), 3),
        ("without an end", stream(&[START, TEXT]), usage(120, 100, 1, 0), 1),
        ("without a beginning", stream(&[TEXT, &alone]), usage(0, 0, 7, 0), 2),
    ];
    for (name, stream, expected, outputs) in rows {
        for size in [1, 5, stream.len()] {
            let found = in_pieces(&stream, size, false);
            assert_eq!(found, (stream.clone(), expected, outputs), "{name}, in pieces of {size}");
        }
    }
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(length as u8),
        length @ 126..=0xffff => {
            frame.push(126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

/// A message in frames of this size, with a ping between them.
fn message(text: &str, size: usize) -> Vec<u8> {
    let parts: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
    let mut frames = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let opcode = if index == 0 { 1 } else { 0 };
        let fin = if index + 1 == parts.len() { 0x80 } else { 0 };
        frames.extend(frame(fin | opcode, part));
        frames.extend(frame(0x89, b"{\"response\":"));
    }
    frames
}

fn of_session(frames: &[u8], size: usize) -> Option<Usage> {
    let mut reader = FrameReader::default();
    frames.chunks(size).for_each(|piece| reader.push(piece));
    reader.usage()
}

#[test]
fn every_response_of_a_realtime_session_counts() {
    let done =
        r#"{"type":"response.done","response":{"usage":{"input_tokens":9,"output_tokens":12}}}"#;
    let delta = format!(r#"{{"type":"response.audio.delta","delta":"{}"}}"#, "A".repeat(70_000));
    let transcript = r#"{"type":"conversation.item.input_audio_transcription.completed","usage":{"input_tokens":5}}"#;
    for frame_size in [5, 100, 200, 100_000] {
        let session: Vec<u8> = [&delta, done, transcript, &delta, done, "not JSON"]
            .iter()
            .flat_map(|text| message(text, frame_size))
            .collect();
        for size in [1, 2, 3, 1000, session.len()] {
            assert_eq!(of_session(&session, size), usage(18, 0, 24, 0), "{frame_size} {size}");
        }
    }
    for (name, first) in
        [("binary", 0x82), ("compressed", 0xc1), ("a continuation of nothing", 0x80)]
    {
        assert_eq!(of_session(&frame(first, done.as_bytes()), 7), None, "{name}");
    }
    let mut masked = frame(0x81, done.as_bytes());
    masked[1] |= 0x80;
    masked.splice(2..2, [0; 4]);
    masked.extend(frame(0x81, done.as_bytes()));
    assert_eq!(of_session(&masked, 3), usage(9, 0, 12, 0), "the next one is found");
}

/// Any JSON value, small, with names that count elsewhere.
fn json_value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        ".{0,12}".prop_map(Into::into),
        Just(json!("\"usage\":{\"prompt_tokens\":1}")),
        Just(json!({"prompt_tokens": 5, "completion_tokens": 6})),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = "(usage|response|message|choices|delta|[a-z\"\\\\\u{e9}]{0,6})";
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map(key, inner, 0..4)
                .prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    })
}

fn document() -> impl Strategy<Value = Json> {
    let key = "(usage|response|message|choices|delta|[a-z]{0,6})";
    prop::collection::btree_map(key, json_value(), 0..6)
        .prop_map(|map| Json::Object(map.into_iter().collect()))
}

/// As likely as not the end of a stream.
fn chunk() -> impl Strategy<Value = Json> {
    (document(), any::<bool>()).prop_map(|(mut document, is_last)| {
        if is_last {
            document["choices"] = json!([]);
        }
        document
    })
}

/// What a whole parser finds.
fn independent(usage: Option<&Json>) -> Option<Usage> {
    let count = |name: &str| usage?.get(name)?.as_u64();
    let (input, output) = (count("prompt_tokens"), count("completion_tokens"));
    (input.is_some() || output.is_some()).then(|| Usage {
        input: input.unwrap_or_default(),
        output: output.unwrap_or_default(),
        ..Usage::default()
    })
}

fn is_usage_chunk(document: &Json) -> bool {
    document.get("choices").is_some_and(|choices| choices.as_array().is_some_and(Vec::is_empty))
        && document.get("usage").is_some_and(Json::is_object)
}

fn ends(cuts: &[Index], length: usize) -> Vec<usize> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(length + 1)).collect();
    ends.sort_unstable();
    ends
}

proptest! {
    #[test]
    fn a_document_has_the_usage_that_a_whole_parser_finds(document in document(), size in 1_usize..60) {
        let text = document.to_string();
        prop_assert_eq!(of_document(text.as_bytes(), size), independent(document.get("usage")), "{}", text);
    }

    #[test]
    fn a_stream_has_the_usage_that_a_whole_parser_finds_and_loses_no_other_event(
        chunks in prop::collection::vec((chunk(), 0_usize..3), 0..6),
        end in prop::sample::select(&["\n", "\r\n", "\r"][..]),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
    ) {
        let (mut stream, mut expected) = (String::new(), String::new());
        let (mut used, mut begun) = (None, None);
        for (chunk, kind) in &chunks {
            if *kind == 0 {
                stream += &format!(": wait{end}{end}");
                expected += &format!(": wait{end}{end}");
            }
            let id = if *kind == 1 { format!("id: 1{end}") } else { String::new() };
            let event = format!("{id}data: {chunk}{end}{end}");
            stream += &event;
            if !is_usage_chunk(chunk) {
                expected += &event;
            }
            let within = |name: &str| independent(chunk.get(name).and_then(|one| one.get("usage")));
            used = independent(chunk.get("usage")).or(within("response")).or(used);
            begun = within("message").or(begun);
        }
        let used = match (used, begun) {
            (Some(used), Some(begun)) => Some(Usage {
                input: used.input.max(begun.input),
                output: used.output.max(begun.output),
                ..Usage::default()
            }),
            (used, begun) => used.or(begun),
        };
        let ends = ends(&cuts, stream.len());
        let (passed, found, _) = of_stream(stream.as_bytes(), &ends, true);
        prop_assert_eq!(String::from_utf8(passed).unwrap(), expected);
        prop_assert_eq!(found, used);
        let (passed, _, _) = of_stream(stream.as_bytes(), &ends, false);
        prop_assert_eq!(String::from_utf8(passed).unwrap(), stream);
    }

    #[test]
    fn no_bytes_make_a_reader_panic_and_cuts_make_no_difference(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            prop::collection::vec(prop::sample::select(b"data: {}[]\"\r\n,\\u".to_vec()), 0..200),
            prop::collection::vec(
                prop::sample::select(&["data:", " ", "\r", "\n", ":", "{\"choices\":[]", ",", "\"usage\":{}", "}", "x"][..]),
                0..60,
            ).prop_map(|pieces| pieces.concat().into_bytes()),
        ],
        cuts in prop::collection::vec(any::<Index>(), 0..12),
        takes_out in any::<bool>(),
    ) {
        let ends = ends(&cuts, bytes.len());
        prop_assert_eq!(of_stream(&bytes, &ends, takes_out), of_stream(&bytes, &[], takes_out));
        prop_assert_eq!(of_document(&bytes, 3), of_document(&bytes, 200));
        prop_assert_eq!(of_session(&bytes, 3), of_session(&bytes, 200));
    }
}
