//! Which responses are inspected: small errors, and nothing else.

/// How many bytes of a response are inspected. Azure's errors have a few hundred. An Envoy that may buffer
/// less would reply in the backend's place.
pub const LONGEST_BODY: usize = 4 * 1024;

/// Whether the response with this status and these headers may show a mistake: a client error
/// with a small body that is not encoded.
pub fn may_tell<'h>(status: u16, headers: impl Iterator<Item = (&'h str, &'h [u8])>) -> bool {
    may_have_status(status)
        && headers.into_iter().all(|(name, value)| match name {
            "content-length" => {
                let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                length.is_some_and(|length: usize| length <= LONGEST_BODY)
            }
            "content-encoding" => value == b"identity",
            "content-type" => !value.starts_with(b"text/event-stream"),
            _ => true,
        })
}

/// Whether a mistake comes with this status.
pub fn may_have_status(status: u16) -> bool {
    matches!(status, 400 | 401 | 403 | 404)
}
