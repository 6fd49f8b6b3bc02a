//! Skipping what need not be understood of JSON, in strides that the compiler turns into vector
//! instructions (simd128 in the module). `make bench-bodies` measures the effect.

use thiserror::Error;

/// The bytes are not a JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a JSON object")]
pub struct NotJson;

/// How much of a string was skipped.
pub(super) enum Skipped {
    /// All, with its closing quote.
    Whole,
    /// What was there, and a backslash is the last byte or not.
    Part { escaped: bool },
}

/// Skips a string from inside it, behind a backslash or not, and returns what follows. Control
/// bytes are errors in it.
pub(super) fn string(bytes: &[u8], escaped: bool) -> Result<(Skipped, &[u8]), NotJson> {
    let mut rest = if escaped { behind_backslash(bytes)? } else { Some(bytes) };
    while let Some(bytes) = rest {
        match skip_text(bytes) {
            [] => return Ok((Skipped::Part { escaped: false }, &[])),
            [b'"', behind @ ..] => return Ok((Skipped::Whole, behind)),
            [b'\\', behind @ ..] => rest = behind_backslash(behind)?,
            _ => return Err(NotJson),
        }
    }
    Ok((Skipped::Part { escaped: true }, &[]))
}

/// What follows the escaped byte, if that is there.
fn behind_backslash(bytes: &[u8]) -> Result<Option<&[u8]>, NotJson> {
    match bytes {
        [] => Ok(None),
        [0..=0x1f, ..] => Err(NotJson),
        [_, behind @ ..] => Ok(Some(behind)),
    }
}

/// Skips to the next quote, backslash or control byte.
fn skip_text(bytes: &[u8]) -> &[u8] {
    const STRIDE: usize = 64;
    // Most strings end within a stride.
    let (start, mut rest) = bytes.split_at_checked(STRIDE).unwrap_or((bytes, &[]));
    let length = text_length(start);
    if length < start.len() {
        return bytes.get(length..).unwrap_or_default();
    }
    while let Some((stride, behind)) = rest.split_at_checked(STRIDE) {
        // 0 for each of those bytes, by operations that vectors have: LLVM makes branches of a comparison.
        let mark = |byte: u8| (byte ^ b'"').min(byte ^ b'\\').min(byte.saturating_sub(0x1f));
        if stride.iter().fold(u8::MAX, |least, byte| least.min(mark(*byte))) == 0 {
            break;
        }
        rest = behind;
    }
    rest.get(text_length(rest)..).unwrap_or_default()
}

/// How many bytes are before the next quote, backslash or control byte.
fn text_length(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH_BITS: u64 = ONES << 7;
    // The lowest high bit that is set marks the first byte below `limit`, which is at most 0x80; others
    // may be set behind it (Hacker's Delight, 6-1).
    let below = |limit: u8, word: u64| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    let mut rest = bytes;
    while let Some((word, behind)) = rest.split_first_chunk() {
        let word = u64::from_le_bytes(*word);
        let equals = |byte: u8| below(1, word ^ (ONES * u64::from(byte)));
        let found = (equals(b'"') | equals(b'\\') | below(0x20, word)) & HIGH_BITS;
        if found != 0 {
            return bytes.len() - rest.len() + found.trailing_zeros() as usize / 8;
        }
        rest = behind;
    }
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
    bytes.len() - rest.len() + rest.iter().position(is_special).unwrap_or(rest.len())
}

/// Skips what a nested value may have between its strings and brackets: numbers, literals, commas,
/// colons and white space, in any order.
pub(super) fn between_strings(bytes: &[u8]) -> &[u8] {
    const STRIDE: usize = 16;
    let mut rest = bytes;
    // Between two strings there is one byte.
    while let [b',' | b':' | b' ', behind @ ..] = rest {
        rest = behind;
    }
    if matches!(rest, [b'"' | b'[' | b']' | b'{' | b'}', ..]) {
        return rest;
    }
    while let Some((stride, behind)) = rest.split_at_checked(STRIDE) {
        if stride.iter().fold(false, |any, byte| any | !is_between_strings(*byte)) {
            break;
        }
        rest = behind;
    }
    let length = rest.iter().position(|byte| !is_between_strings(*byte)).unwrap_or(rest.len());
    rest.get(length..).unwrap_or_default()
}

/// Without a branch, so that vectors can do it.
fn is_between_strings(byte: u8) -> bool {
    let is_letter = (byte | 0x20).wrapping_sub(b'a') < 26;
    // `+`, `,`, `-` and `.` stand side by side, as do the digits and `:`.
    let is_number = (byte.wrapping_sub(b'+') < 4) | (byte.wrapping_sub(b'0') < 11);
    let is_space = (byte == b' ') | (byte == b'\t') | (byte == b'\r') | (byte == b'\n');
    is_letter | is_number | is_space
}
