#![no_main]

#[path = "../../agreement.rs"]
#[allow(dead_code, reason = "the property tests use all of it")]
mod agreement;
#[path = "../../readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|path: &[u8]| agreement::url(path));
