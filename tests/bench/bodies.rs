//! How fast request bodies are read: MiB/s for each kind of body, natively, or in wasm by
//! `bodies.mjs`. Nothing is asserted about time.

#![allow(clippy::print_stdout, reason = "this is a program that prints")]

use std::hint::black_box;

use aoai_filter::config::AFFINITY_FIELDS;
use aoai_filter::request::body::BodyFormat;

/// How much of each body there is.
const SIZE: usize = 8 << 20;

/// What Envoy hands over at once is of about this size.
const PIECE: usize = 16 << 10;

const BOUNDARY: &str = "----WebKitFormBoundary7MA4YWxkTrZu0gW";

/// The kinds of bodies, in the order in which `bodies.mjs` names them too.
const CASES: [(&str, fn() -> (BodyFormat, Vec<u8>)); 9] = [
    ("one long string", || {
        json(r#"[{"role":"user","content":""#, "The quick brown fox. ", r#""}]"#)
    }),
    ("text with escapes", || json(r#"[{"content":""#, r#"if x:\n    say(\"hello\")\n"#, r#""}]"#)),
    ("messages", || {
        let content = "What a message of a chat says is a line or two long. ".repeat(3);
        json("[", &format!(r#"{{"role":"user","content":"{content}"}},"#), "1]")
    }),
    ("short strings", || json("[", r#"{"role":"user","id":"a1"},["x","yz"],"#, "1]")),
    ("token numbers", || json("[", "1034,17,9906,200,", "1]")),
    ("floats", || json("[", "-0.01367, 0.27e-3, ", "1]")),
    ("base64", || {
        json(r#"[{"url":"data:image/png;base64,"#, "iVBORw0KGgoAAAANSUhEUgAB+/", r#""}]"#)
    }),
    ("multipart file", || form(&pseudo_random(), BOUNDARY)),
    ("multipart dashes", || form(format!("x{}", "-".repeat(SIZE)).as_bytes(), &"-".repeat(70))),
];

fn json(start: &str, repeated: &str, end: &str) -> (BodyFormat, Vec<u8>) {
    let repeated = repeated.repeat(SIZE / repeated.len());
    let body = format!(r#"{{"messages":{start}{repeated}{end},"model":"gpt-4o"}}"#);
    (BodyFormat::Json, body.into_bytes())
}

fn form(content: &[u8], boundary: &str) -> (BodyFormat, Vec<u8>) {
    let head =
        |name| format!("--{boundary}\r\nContent-Disposition: form-data; name={name}\r\n\r\n");
    let end = format!("\r\n{}m\r\n--{boundary}--\r\n", head("model"));
    let body = [head("file").as_bytes(), content, end.as_bytes()].concat();
    (BodyFormat::Multipart { boundary: boundary.to_owned() }, body)
}

/// Bytes like those of a compressed file (xorshift, Marsaglia 2003).
fn pseudo_random() -> Vec<u8> {
    let mut state: u32 = 2_463_534_242;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    (0..SIZE / 4).flat_map(|_| next()).collect()
}

/// Whether the whole body was read and its model found.
fn read(format: &BodyFormat, body: &[u8]) -> bool {
    let mut reader = format.reader(AFFINITY_FIELDS.into_iter());
    body.chunks(PIECE).all(|piece| reader.push(black_box(piece)).is_ok())
        && reader.finish().is_ok()
        && reader.model().is_some()
}

#[cfg(not(target_arch = "wasm32"))]
#[allow(clippy::disallowed_methods, reason = "this is no part of the module")]
fn main() {
    use std::time::Instant;

    for (name, make) in CASES {
        let (format, body) = make();
        let rounds = (0..9).map(|_| {
            let start = Instant::now();
            assert!(read(&format, &body), "{name} cannot be read");
            start.elapsed()
        });
        let best = rounds.min().unwrap_or_default().as_secs_f64();
        println!("{name:20} {:8.0} MiB/s", body.len() as f64 / f64::from(1 << 20) / best);
    }
}

/// The module has no clock and no arguments of its own, so whoever calls measures: each call makes the
/// next body, and the calls after that read it. The result is 0 where the body was made or read, 1 where
/// it cannot be read, and 2 behind the last.
#[cfg(target_arch = "wasm32")]
fn main() -> std::process::ExitCode {
    use std::sync::Mutex;

    const ROUNDS: usize = 9;
    static TURN: Mutex<(usize, Option<(BodyFormat, Vec<u8>)>)> = Mutex::new((0, None));

    let Ok(mut turn) = TURN.lock() else {
        return 1.into();
    };
    let (number, body) = &mut *turn;
    let Some((_, make)) = CASES.get(*number / (ROUNDS + 1)) else {
        return 2.into();
    };
    let is_new = *number % (ROUNDS + 1) == 0;
    *number += 1;
    if is_new {
        *body = Some(make());
        return 0.into();
    }
    let is_read = body.as_ref().is_some_and(|(format, body)| read(format, body));
    u8::from(!is_read).into()
}
