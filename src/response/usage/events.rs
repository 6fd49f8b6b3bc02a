//! The usage of a response that is a stream of server-sent events, and the events without the one that
//! only tells of usage.

use super::fields::{UsageField, UsageFields};
use super::tokens::Usage;
use crate::base::json::fields::FieldReader;

/// The longest event of which it is waited to be known whether it only tells of usage. That one has less
/// than 1 KiB.
const LONGEST_UNDECIDED: usize = 16 << 10;

/// Reads a stream of server-sent events in pieces (WHATWG HTML, 9.2.6).
///
/// Where the caller has not asked for usage, it also takes out the chunk that only tells of it: that has
/// `"choices": []` and a `usage` that is an object. The first chunk of Azure, with the results of its filter
/// for the prompt, has no choice and no usage, and stays. No byte waits longer than until it is known of
/// which kind its event is, and that is known by the first choice.
#[derive(Debug)]
pub struct EventReader {
    line: Line,
    /// Whether the last byte was a carriage return, with which a line feed is one end of a line.
    is_behind_return: bool,
    /// The data of the event at hand.
    data: FieldReader<UsageFields>,
    has_data: bool,
    is_unreadable: bool,
    event: Event,
    takes_out: bool,
    /// What has come of an event that is undecided, and has not gone on.
    withheld: Vec<u8>,
    usage: Option<Usage>,
    /// What a message told when it began, which its end may tell only a part of.
    begun: Option<Usage>,
    outputs: u64,
}

/// What becomes of the event at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// Nothing of it has come; the event before was taken out or not.
    None { was_taken_out: bool },
    /// It is not known yet.
    Undecided,
    /// It goes on.
    GoesOn,
}

/// Where in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// At its beginning.
    Start,
    /// In the field's name, of which so much is that of [`DATA`].
    Name(usize),
    /// Behind the colon of data: one space does not count.
    Colon,
    /// In data.
    Data,
    /// In a comment before an event, which is no part of it.
    Comment,
    /// In another field, or in a comment.
    Other,
}

const DATA: &[u8] = b"data";

/// What goes on of a piece.
struct Output<'p> {
    piece: &'p [u8],
    /// What goes on, where that is not the piece as it is.
    changed: Option<Vec<u8>>,
    /// How much of the piece is settled.
    settled: usize,
}

impl Output<'_> {
    /// What is before this goes on.
    fn keep(&mut self, until: usize) {
        if let Some(changed) = &mut self.changed {
            changed.extend_from_slice(self.piece.get(self.settled..until).unwrap_or_default());
        }
        self.settled = self.settled.max(until);
    }

    /// What is from here to there does not go on.
    fn leave_out(&mut self, from: usize, until: usize) {
        if self.changed.is_none() {
            self.changed = Some(Vec::new());
            self.settled = 0;
        }
        self.keep(from);
        self.settled = until;
    }

    /// What was withheld goes on before all of the piece.
    fn prepend(&mut self, withheld: &mut Vec<u8>) {
        if !withheld.is_empty() {
            self.changed = Some(std::mem::take(withheld));
        }
    }
}

impl EventReader {
    /// A reader of a stream of which nothing has come. `takes_out` is whether the caller has not asked for
    /// usage.
    pub fn new(takes_out: bool) -> Self {
        Self {
            line: Line::Start,
            is_behind_return: false,
            data: FieldReader::default(),
            has_data: false,
            is_unreadable: false,
            event: Event::None { was_taken_out: false },
            takes_out,
            withheld: Vec::new(),
            usage: None,
            begun: None,
            outputs: 0,
        }
    }

    /// The usage that was read so far. Where there are several, the last one counts.
    pub fn usage(&self) -> Option<Usage> {
        match (self.usage, self.begun) {
            (Some(usage), Some(begun)) => Some(usage.or_more(begun)),
            (usage, begun) => usage.or(begun),
        }
    }

    /// How many events had a piece of the output.
    pub fn outputs(&self) -> u64 {
        self.outputs
    }

    /// Reads the next piece, which is the last one where the stream has `ended`. What goes on in its place,
    /// where that is not the piece as it is.
    pub fn push(&mut self, piece: &[u8], ended: bool) -> Option<Vec<u8>> {
        let mut output = Output { piece, changed: None, settled: 0 };
        // Where the event at hand begins in this piece.
        let mut start = 0;
        let mut at = 0;
        while let Some(byte) = piece.get(at) {
            let is_second = std::mem::take(&mut self.is_behind_return) && *byte == b'\n';
            let at_before = at;
            at += 1;
            if is_second {
                if let Event::None { was_taken_out } = self.event {
                    if was_taken_out {
                        output.leave_out(at_before, at);
                    }
                    start = at;
                }
                continue;
            }
            if let b'\r' | b'\n' = byte {
                self.is_behind_return = *byte == b'\r';
                match self.line {
                    Line::Start => {
                        let is_taken_out = self.end_event();
                        if is_taken_out {
                            self.withheld.clear();
                            output.leave_out(start, at);
                        } else {
                            output.prepend(&mut self.withheld);
                        }
                        self.event = Event::None { was_taken_out: is_taken_out };
                        start = at;
                    }
                    Line::Name(length) if length == DATA.len() => self.read(b"\n"),
                    Line::Colon | Line::Data => self.read(b"\n"),
                    Line::Comment => {
                        self.event = Event::None { was_taken_out: false };
                        start = at;
                    }
                    Line::Name(_) | Line::Other => {}
                }
                self.line = Line::Start;
                continue;
            }
            match self.line {
                Line::Start => {
                    let is_first = matches!(self.event, Event::None { .. });
                    self.line = match byte {
                        b':' if is_first => Line::Comment,
                        byte if DATA.first() == Some(byte) => Line::Name(1),
                        _ => Line::Other,
                    };
                    if is_first {
                        let is_undecided = self.takes_out && self.line != Line::Comment;
                        self.event = if is_undecided { Event::Undecided } else { Event::GoesOn };
                    }
                }
                Line::Name(length) if length == DATA.len() && *byte == b':' => {
                    self.line = Line::Colon;
                }
                Line::Name(length) => {
                    let goes_on = DATA.get(length) == Some(byte);
                    self.line = if goes_on { Line::Name(length + 1) } else { Line::Other };
                }
                Line::Colon if *byte == b' ' => self.line = Line::Data,
                Line::Colon | Line::Data => {
                    self.line = Line::Data;
                    let rest = piece.get(at_before..).unwrap_or_default();
                    let length = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                    self.read(rest.get(..length).unwrap_or_default());
                    at = at_before + length;
                    if self.event == Event::Undecided && !self.may_be_usage() {
                        self.event = Event::GoesOn;
                        output.prepend(&mut self.withheld);
                    }
                }
                Line::Comment | Line::Other => {
                    let rest = piece.get(at..).unwrap_or_default();
                    at += memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                }
            }
        }
        if self.event == Event::Undecided {
            let undecided = piece.get(start..).unwrap_or_default();
            if ended || self.withheld.len() + undecided.len() > LONGEST_UNDECIDED {
                self.event = Event::GoesOn;
                output.prepend(&mut self.withheld);
            } else {
                output.leave_out(start, piece.len());
                self.withheld.extend_from_slice(undecided);
            }
        }
        output.keep(piece.len());
        output.changed
    }

    /// Reads some of the data of the event at hand.
    fn read(&mut self, data: &[u8]) {
        if !std::mem::replace(&mut self.has_data, true) {
            self.data.visitor = UsageFields::default();
            self.data.restart();
            self.is_unreadable = false;
        }
        self.is_unreadable = self.is_unreadable || self.data.push(data).is_err();
    }

    /// Whether the event at hand may only tell of usage, as far as its data have come.
    fn may_be_usage(&self) -> bool {
        !self.is_unreadable && !self.data.visitor.is_other_chunk
    }

    /// The event at hand has come whole. Whether it is taken out.
    fn end_event(&mut self) -> bool {
        let has_data = std::mem::take(&mut self.has_data);
        if !has_data || self.is_unreadable || !self.data.is_complete() {
            return false;
        }
        let fields = &self.data.visitor;
        self.usage = fields.usage.get().or(fields.of_response.get()).or(self.usage);
        self.begun = fields.of_message.get().or(self.begun);
        self.outputs += u64::from(fields.has_output);
        let is_usage = fields.has_no_choice && matches!(fields.usage, UsageField::Object(_));
        is_usage && !fields.is_other_chunk && self.event == Event::Undecided
    }
}
