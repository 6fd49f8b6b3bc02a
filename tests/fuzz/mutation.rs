//! Inputs that are nearly right.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// What tends to break a parser.
const PIECES: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e400",
    b"-0.0",
    b"18446744073709551615",
    b"18446744073709551616",
    b"99999",
    b"340282366920938463463",
    b"\0",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"--",
    b"%",
    b"%2F",
    b"%2e%2e",
    b"%00",
    b"%25",
    b"+",
    b"/",
    b"..",
    b"//",
    b"?",
    b"&",
    b"=",
    b"#",
    b";",
    b" ",
    b".",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xc3\xa9",
    b"\xe2\x80\xa8",
    b"`",
    b"model",
    b"\"model\":\"x\"",
    b"api-key=k",
    b"name=\"model\"",
    b"AADSTS700213",
    b"+99:99",
    b"PM",
    b"T",
];

#[derive(Debug, Clone)]
enum Edit {
    Flip(Index, u8),
    Cut(Index, Index),
    Insert(Index, Vec<u8>),
    Repeat(Index, Index, Index),
}

impl Edit {
    fn apply(&self, text: &mut Vec<u8>) {
        let at = |index: &Index, text: &Vec<u8>| index.index(text.len() + 1);
        let range = |from: &Index, to: &Index, text: &Vec<u8>| {
            let (from, to) = (at(from, text), at(to, text));
            // Pieces of a line or two: a document cut in half is soon read.
            from.min(to)..from.max(to).min(from.min(to) + 80)
        };
        match self {
            Self::Flip(index, mask) => {
                let at = at(index, text);
                if let Some(byte) = text.get_mut(at) {
                    *byte ^= mask;
                }
            }
            Self::Cut(from, to) => drop(text.drain(range(from, to, text))),
            Self::Insert(index, piece) => {
                let at = at(index, text);
                text.splice(at..at, piece.iter().copied());
            }
            Self::Repeat(from, to, index) => {
                let piece = text[range(from, to, text)].to_vec();
                let at = at(index, text);
                text.splice(at..at, piece);
            }
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<Index>;
    let piece = prop_oneof![
        4 => prop::sample::select(PIECES).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..12),
    ];
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, mask)| Edit::Flip(at, mask)),
        (index(), index()).prop_map(|(from, to)| Edit::Cut(from, to)),
        (index(), piece).prop_map(|(at, piece)| Edit::Insert(at, piece)),
        (index(), index(), index()).prop_map(|(from, to, at)| Edit::Repeat(from, to, at)),
    ]
}

/// Some of these samples as they are, most with a few changes, and some bytes of no meaning.
pub(crate) fn like<S: AsRef<[u8]> + ?Sized>(samples: &[&S]) -> BoxedStrategy<Vec<u8>> {
    let samples: Vec<Vec<u8>> = samples.iter().map(|sample| sample.as_ref().to_vec()).collect();
    let changed =
        (prop::sample::select(samples), vec(edit(), 0..5)).prop_map(|(mut text, edits)| {
            for edit in edits {
                edit.apply(&mut text);
            }
            text
        });
    prop_oneof![9 => changed, 1 => vec(any::<u8>(), 0..200)].boxed()
}

/// The same as text.
pub(crate) fn text_like(samples: &[&str]) -> BoxedStrategy<String> {
    like(samples).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).boxed()
}

/// Where to cut something into pieces.
pub(crate) fn cuts() -> impl Strategy<Value = Vec<Index>> {
    vec(any::<Index>(), 0..8)
}

/// The pieces.
pub(crate) fn pieces<'b>(body: &'b [u8], cuts: &[Index]) -> Vec<&'b [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
    ends.push(body.len());
    ends.sort_unstable();
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(&ends).map(|(start, end)| &body[start..*end]).collect()
}
