#![no_main]

#[path = "../../agreement.rs"]
#[allow(dead_code, reason = "the property tests use all of it")]
mod agreement;
#[path = "../../readers.rs"]
mod readers;

// The first byte is the size of the pieces in which the rest arrives.
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some((size, body)) = input.split_first() {
        let pieces: Vec<&[u8]> = body.chunks(usize::from(*size).max(1)).collect();
        agreement::form(body, &pieces);
    }
});
