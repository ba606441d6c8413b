//! No text panics the parser of derivation paths.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| alknet_vault::fuzz::fuzz_path(data));
