//! The usage of a realtime session, from the frames that its server sends (RFC 6455, 5.2): text, neither
//! masked nor compressed.

use super::fields::UsageFields;
use super::tokens::Usage;
use crate::base::json::fields::FieldReader;

/// Reads what a WebSocket server sends, in pieces.
#[derive(Debug, Default)]
pub struct FrameReader {
    state: State,
    /// The text message that is being read, which may have several frames.
    message: Option<FieldReader<UsageFields>>,
    usage: Option<Usage>,
}

/// The longest head of a frame: two bytes, the length in eight, and a mask.
const LONGEST_HEAD: usize = 14;

#[derive(Debug, Clone, Copy)]
enum State {
    /// In a frame's head, of which so many bytes have come.
    Head { bytes: [u8; LONGEST_HEAD], length: usize },
    /// In a payload, of which so many bytes are to come.
    Payload { rest: u64, is_message: bool, is_last: bool },
}

impl Default for State {
    fn default() -> Self {
        Self::Head { bytes: [0; LONGEST_HEAD], length: 0 }
    }
}

/// A frame's head.
struct Frame {
    is_last: bool,
    is_compressed: bool,
    opcode: u8,
    is_masked: bool,
    payload: u64,
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;

impl Frame {
    /// Reads a head, if all of it is here.
    fn read(head: &[u8]) -> Option<Self> {
        let [first, second, rest @ ..] = head else {
            return None;
        };
        let is_masked = second & 0x80 != 0;
        let (payload, rest) = match second & 0x7f {
            126 => {
                let (length, rest) = rest.split_first_chunk()?;
                (u16::from_be_bytes(*length).into(), rest)
            }
            127 => {
                let (length, rest) = rest.split_first_chunk()?;
                (u64::from_be_bytes(*length), rest)
            }
            length => (length.into(), rest),
        };
        let has_mask = !is_masked || rest.len() >= 4;
        has_mask.then_some(Self {
            is_last: first & 0x80 != 0,
            is_compressed: first & 0x70 != 0,
            opcode: first & 0x0f,
            is_masked,
            payload,
        })
    }
}

impl FrameReader {
    /// Reads the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while let Some((byte, behind)) = rest.split_first() {
            match &mut self.state {
                State::Head { bytes, length } => {
                    rest = behind;
                    if let Some(place) = bytes.get_mut(*length) {
                        *place = *byte;
                    }
                    *length += 1;
                    if let Some(frame) = bytes.get(..*length).and_then(Frame::read) {
                        self.begin(&frame);
                    }
                }
                State::Payload { rest: left, is_message, .. } => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX);
                    let (payload, behind) = rest.split_at_checked(here).unwrap_or((rest, &[]));
                    rest = behind;
                    *left -= payload.len() as u64;
                    if *is_message {
                        // What is no JSON has no usage.
                        self.message.take_if(|message| message.push(payload).is_err());
                    }
                }
            }
            self.end_frame();
        }
    }

    /// What all responses of the session have used so far.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    fn begin(&mut self, frame: &Frame) {
        let is_message = matches!(frame.opcode, CONTINUATION | TEXT | BINARY);
        let is_readable = !frame.is_compressed && !frame.is_masked;
        match frame.opcode {
            TEXT if is_readable => self.message = Some(FieldReader::default()),
            CONTINUATION if is_readable => {}
            // A control frame may come between the frames of a message.
            _ if !is_message => {}
            _ => self.message = None,
        }
        self.state = State::Payload { rest: frame.payload, is_message, is_last: frame.is_last };
    }

    /// Goes on to the next frame, if this one has ended.
    fn end_frame(&mut self) {
        let State::Payload { rest: 0, is_message, is_last } = self.state else {
            return;
        };
        self.state = State::default();
        if !is_message || !is_last {
            return;
        }
        let message = self.message.take().filter(FieldReader::is_complete);
        if let Some(used) = message.and_then(|message| message.visitor.of_response.get()) {
            *self.usage.get_or_insert_default() += used;
        }
    }
}
