//! How many tokens a text is likely to have, where nobody tells.

/// How many bytes of a request or a response make a token, about: a word of English has four or five, and a
/// space.
const BYTES_PER_TOKEN: u64 = 4;

/// The tokens of a text of so many bytes.
pub fn tokens(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN)
}
