//! Responses of backends: their usage, and streams without the chunk that only tells of it.

use aoai_filter::response::usage::{DocumentReader, EventReader, FrameReader, Usage};
use proptest::prelude::*;
use serde_json::Value;

use crate::budget;
use crate::mutation::{cuts, like, pieces};

const DOCUMENTS: &[&str] = &[
    r#"{"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":1}"}}],"usage":{"prompt_tokens":9,"completion_tokens":12}}"#,
    r#"{"usage":{"input_tokens":9,"output_tokens":12,"output_tokens_details":{"reasoning_tokens":3}},"output":[[{}]]}"#,
    r#"{"data":[{"embedding":[0.5,-1e-3]}],"us\u0061ge" : {"prompt_tokens":8,"prompt_tokens_details":{"cached_tokens":4}}}"#,
    r#"{"text":"x","usage":{"type":"duration","seconds":7}}"#,
];
const STREAMS: &[&str] = &[
    "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\ndata: {\"choices\":[{\"delta\":{}}],\"usage\":null}\n\n\
     data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12}}\n\ndata: [DONE]\n\n",
    ": wait\r\n\r\nid: 1\r\ndata:{\"usage\":{\"prompt_tokens\":9},\r\ndata:\"choices\":[ ]}\r\n\r\n",
    "event: response.completed\ndata: {\"response\":{\"usage\":{\"input_tokens\":9}}}\n\n",
];
const SESSIONS: &[&[u8]] = &[
    b"\x81\x24{\"response\":{\"usage\":{\"a\":1,\"b\":2}}}",
    b"\x01\x0e{\"response\":{\"u\x89\x00\x80\x1esage\":{\"input_tokens\":9}}      \x88\x02\x03\xe8",
];

fn of_document(pieces: &[&[u8]]) -> Option<Usage> {
    let mut reader = DocumentReader::default();
    pieces.iter().for_each(|piece| reader.push(piece));
    reader.usage()
}

fn of_session(pieces: &[&[u8]]) -> Option<Usage> {
    let mut reader = FrameReader::default();
    pieces.iter().for_each(|piece| reader.push(piece));
    reader.usage()
}

/// What passes of a stream, and its usage.
fn of_stream(pieces: &[&[u8]], takes_out: bool) -> (Vec<u8>, Option<Usage>) {
    let mut reader = EventReader::new(takes_out);
    let mut passed = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let changed = reader.push(piece, index + 1 == pieces.len());
        passed.extend(changed.unwrap_or_else(|| piece.to_vec()));
    }
    (passed, reader.usage())
}

/// The events of a stream as they are written, read in another way: whole, line by line.
fn events(stream: &[u8]) -> Vec<&[u8]> {
    let (mut events, mut start, mut line, mut at) = (Vec::new(), 0, 0, 0);
    while at < stream.len() {
        let length = match &stream[at..] {
            [b'\r', b'\n', ..] => 2,
            [b'\r' | b'\n', ..] => 1,
            _ => 0,
        };
        at += length.max(1);
        if length == 0 {
            continue;
        }
        let is_comment = stream[line] == b':' && line == start;
        if at - line == length || is_comment {
            events.push(&stream[start..at]);
            start = at;
        }
        line = at;
    }
    events.push(&stream[start..]);
    events
}

/// The data of an event.
fn data(event: &[u8]) -> Vec<u8> {
    let lines = event.split(|byte| matches!(byte, b'\r' | b'\n'));
    let data = lines.filter_map(|line| line.strip_prefix(b"data:"));
    data.map(|line| line.strip_prefix(b" ").unwrap_or(line)).collect::<Vec<_>>().join(&b'\n')
}

/// Whether an event only tells of usage; `None` where it cannot be read, or has a field twice: what is
/// decided by the first one goes on.
fn only_tells_of_usage(event: &[u8]) -> Option<bool> {
    let ends = [&b"\r\n"[..], b"\n", b"\r"];
    let last = ends.iter().find_map(|end| event.strip_suffix(*end));
    let is_whole = last.is_some_and(|lines| matches!(lines, [.., b'\r' | b'\n']));
    let chunk = serde_json::from_slice::<Value>(&data(event)).ok()?;
    let text = String::from_utf8_lossy(event);
    if ["\"choices\"", "\"usage\"", "\\u"].iter().any(|name| text.matches(name).count() > 1) {
        return None;
    }
    let has_no_choice = chunk["choices"].as_array().is_some_and(Vec::is_empty);
    Some(is_whole && has_no_choice && chunk["usage"].is_object())
}

proptest! {
    #![proptest_config(budget())]

    #[test]
    fn the_usage_of_a_document(body in like(DOCUMENTS), cuts in cuts()) {
        let found = of_document(&[&body]);
        prop_assert_eq!(of_document(&pieces(&body, &cuts)), found, "cuts make no difference");
        let Ok(parsed) = serde_json::from_slice::<Value>(&body) else {
            return Ok(());
        };
        let count = |names: [&str; 2]| {
            let mut counts = names.iter().map(|name| parsed["usage"][name].as_u64());
            counts.find_map(|count| count).unwrap_or_default()
        };
        // Of a field that stands in it twice nothing is read.
        let names = ["prompt_tokens\"", "input_tokens\"", "completion_tokens\"", "output_tokens\"", "\\u"];
        let text = String::from_utf8_lossy(&body);
        if names.iter().all(|name| text.matches(name).count() < 2) {
            let found = found.unwrap_or_default();
            prop_assert_eq!(found.input, count(["prompt_tokens", "input_tokens"]), "{}", text);
            prop_assert_eq!(found.output, count(["completion_tokens", "output_tokens"]), "{}", text);
        }
    }

    #[test]
    fn the_usage_of_a_stream_and_what_passes_of_it(stream in like(STREAMS), cuts in cuts()) {
        let cut = pieces(&stream, &cuts);
        let (untouched, usage) = of_stream(&cut, false);
        prop_assert_eq!(&untouched, &stream);
        let (passed, same) = of_stream(&cut, true);
        prop_assert_eq!((&passed, usage), (&of_stream(&[&stream], true).0, same));
        // What was taken out and what has passed are the stream.
        let events = events(&stream);
        let mut rest = passed.as_slice();
        for event in events {
            let is_taken_out = only_tells_of_usage(event);
            match rest.strip_prefix(event) {
                Some(behind) if is_taken_out != Some(true) => rest = behind,
                _ => prop_assert!(
                    is_taken_out != Some(false),
                    "lost: {:?}",
                    String::from_utf8_lossy(event)
                ),
            }
        }
        prop_assert!(rest.is_empty(), "not taken out: {:?}", String::from_utf8_lossy(rest));
    }

    #[test]
    fn the_usage_of_a_session(frames in like(SESSIONS), cuts in cuts()) {
        prop_assert_eq!(of_session(&pieces(&frames, &cuts)), of_session(&[&frames]));
    }
}
