//! A body that is refused never reaches a backend whole, be its end marked or not; and its client, which may
//! send all of it first, gets to read the reply.

use crate::host::{Call, Request, Worker};
use crate::regions::{millis, seconds, started, CHAT, KEY};
use std::rc::Rc;

const FORM: &str = "multipart/form-data; boundary=b";
const GOOD: &str = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nMODEL\r\n";

/// Bodies that name a model that is allowed, and then are refused: content type and body.
fn refused(model: &str) -> Vec<(&'static str, &'static str, String)> {
    let good = GOOD.replace("MODEL", model);
    let form = |rest: &str| format!("{good}{rest}");
    vec![
        (
            "a second model behind bare line feeds",
            FORM,
            form("--b\r\nContent-Disposition: form-data; name=\"model\"\n\nsecret\r\n--b--\r\n"),
        ),
        (
            "a second model behind a bare carriage return",
            FORM,
            form("--b\r\nContent-Disposition: form-data; name=\"model\"\r\r\n\r\nsecret\r\n--b--\r\n"),
        ),
        (
            "a second model",
            FORM,
            form("--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nsecret\r\n--b--\r\n"),
        ),
        ("a form without its end", FORM, form("--b\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\ny")),
        ("a second form", FORM, form("--b--\r\n--b\r\n")),
        ("JSON that is cut", "application/json", format!(r#"{{"model":"{model}","messages":["#)),
        (
            "a second model in JSON",
            "application/json",
            format!(r#"{{"model":"{model}","x":1,"model":"secret"}}"#),
        ),
        ("a second document", "application/json", format!(r#"{{"model":"{model}"}}{{}}"#)),
    ]
}

fn upload(kind: &str, body: impl AsRef<[u8]>) -> Request {
    Request::new("POST", CHAT).header("api-key", KEY).header("content-type", kind).body(body)
}

/// Sends a body in pieces of a size, of which the last is not marked as such: HTTP/2 without END_STREAM, or
/// HTTP/1.1 before Envoy has noticed the end.
fn send(worker: &std::rc::Rc<Worker>, request: &Request, size: usize) -> String {
    let call = worker.begin(request, false);
    for piece in request.body.chunks(size) {
        call.piece(piece, false);
    }
    // Until it is certain that no more comes.
    worker.pass(seconds(2));
    let told = call.told();
    call.leave();
    told
}

#[test]
fn a_refused_body_with_a_length_never_arrives_whole() {
    for model in ["m", "single"] {
        for (name, kind, body) in refused(model) {
            for size in 1..=body.len() {
                let (process, worker) = started();
                let request = upload(kind, &body).content_length();
                let told = send(&worker, &request, size);
                assert_eq!(told, "400 missing_model", "{name} for {model} in pieces of {size}");
                for arrived in process.arrived() {
                    // The deployment's name is longer than the model's.
                    let added = arrived.body.len().saturating_sub(body.len());
                    assert!(!arrived.complete && added < 10, "{name} in pieces of {size}");
                    let end = body.as_bytes().last_chunk::<3>().unwrap();
                    assert!(!arrived.body.ends_with(end), "{name} in pieces of {size}");
                }
            }
        }
    }
}

#[test]
fn undecided_bytes_of_a_form_are_not_forwarded() {
    for model in ["m", "single"] {
        let body = GOOD.replace("MODEL", model)
            + "--b\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\nvalue\r\n--b--\r\n";
        let part = body.find("name=\"x\"").unwrap();
        for cut in part - 30..part + 8 {
            let (process, worker) = started();
            let request = upload(FORM, &body);
            let call = worker.begin(&request, false);
            call.piece(&body.as_bytes()[..cut], false);
            assert_eq!(process.arrived().len(), 0, "cut at {cut}");
            call.piece(&body.as_bytes()[cut..], true);
            assert!(call.told().starts_with("200 aa"), "cut at {cut}: {}", call.told());
            let [arrived] = &process.arrived()[..] else { panic!("one request") };
            let expected =
                body.replacen(&format!("\r\n{model}\r\n"), &format!("\r\n{model}-in-aa\r\n"), 1);
            assert_eq!(String::from_utf8_lossy(&arrived.body), expected);
        }
    }
}

#[test]
fn a_whole_body_goes_on_before_its_end_is_marked() {
    for (model, kind, body) in [
        ("m", "application/json", r#"{"messages":[],"model":"m"}"#.to_owned()),
        ("single", FORM, GOOD.replace("MODEL", "single") + "--b--\r\n"),
    ] {
        for size in [1, 7, body.len()] {
            let (process, worker) = started();
            let request = upload(kind, &body).content_length();
            let call = worker.begin(&request, false);
            for piece in request.body.chunks(size) {
                call.piece(piece, false);
            }
            call.piece(b"", true);
            assert!(call.told().starts_with("200 aa"), "{model}: {}", call.told());
            assert!(process.arrived()[0].complete);
        }
    }
}

/// A piece that is held behind others would be put behind what Envoy keeps for a retry, and all of that be
/// sent again (envoyproxy/envoy#45470).
#[test]
fn no_piece_is_held_behind_others_that_have_gone_on() {
    for model in ["m", "single"] {
        let start = GOOD.replace("MODEL", model)
            + "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\ncontent";
        let rest =
            "\r\n--b\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\nvalue\r\n--b--\r\n";
        for cut in 1..rest.len() {
            let (process, worker) = started();
            let request = upload(FORM, start.clone() + rest).content_length();
            let call = worker.begin(&request, false);
            call.piece(start.as_bytes(), false);
            call.piece(&rest.as_bytes()[..cut], false);
            call.piece(&rest.as_bytes()[cut..], true);
            assert!(call.told().starts_with("200 aa"), "cut at {cut}: {}", call.told());
            let expected = (start.clone() + rest).replacen(
                &format!("\r\n{model}\r\n"),
                &format!("\r\n{model}-in-aa\r\n"),
                1,
            );
            assert_eq!(String::from_utf8_lossy(&process.arrived()[0].body), expected);
        }
    }
}

const MIB: usize = 1 << 20;

/// Requests that are refused before their body has ended: at their head, and at the body's first piece. The
/// reply, the key, and that piece.
const REFUSED_AT_ONCE: [(&str, &str, &str); 2] =
    [("401 unknown_key", "nobody's", "{"), ("404 unknown_model", KEY, r#"{"model":"none","#)];

/// Calls a test with each of them, after its first piece.
fn refused_at_once(length: Option<usize>, test: impl Fn(&Rc<Worker>, &str, &Rc<Call>)) {
    for (expected, key, first) in REFUSED_AT_ONCE {
        let (process, worker) = started();
        let mut request = Request::new("POST", CHAT).header("api-key", key);
        if let Some(length) = length {
            request = request.header("content-length", length.to_string());
        }
        let call = worker.begin(&request, false);
        call.piece(first.as_bytes(), false);
        test(&worker, expected, &call);
        assert_eq!(process.asked(), "");
    }
}

#[test]
fn a_refused_body_is_discarded_to_its_end_before_the_reply() {
    for length in [None, Some(10 * MIB)] {
        refused_at_once(length, |worker, expected, call| {
            for _ in 0..10 {
                call.piece(&vec![b' '; MIB], false);
                assert_eq!((call.told().as_str(), call.held()), ("", 0));
                worker.pass(millis(900));
            }
            call.piece(b"", true);
            assert_eq!(call.told(), expected);
        });
    }
}

#[test]
fn a_refused_body_that_ends_with_trailers_gets_its_reply() {
    refused_at_once(None, |_, expected, call| {
        call.trailers(&[("x", "y")]);
        assert_eq!(call.told(), expected);
    });
}

#[test]
fn a_refused_body_that_is_too_long_or_too_slow_or_stalls_gets_its_reply_before_its_end() {
    refused_at_once(Some(17 * MIB), |_, expected, call| {
        assert_eq!(call.told(), expected, "too long by its head");
    });
    refused_at_once(None, |_, expected, call| {
        for _ in 0..16 {
            assert_eq!(call.told(), "");
            call.piece(&vec![b' '; MIB], false);
        }
        assert_eq!(call.told(), expected, "too long");
    });
    refused_at_once(None, |worker, expected, call| {
        for _ in 0..11 {
            assert_eq!(call.told(), "");
            call.piece(b" ", false);
            worker.pass(millis(910));
        }
        assert_eq!(call.told(), expected, "too slow");
    });
    refused_at_once(None, |worker, expected, call| {
        worker.pass(seconds(2));
        assert_eq!(call.told(), expected, "stalled");
    });
}

#[test]
fn a_refused_head_that_asks_for_another_protocol_gets_its_reply_at_once() {
    let (_, worker) = started();
    let request = Request::new("GET", "/openai/v1/realtime?model=m").header("upgrade", "websocket");
    assert_eq!(worker.begin(&request, false).told(), "401 missing_key");
}
