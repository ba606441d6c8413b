//! No entry panics the vault, and none of nobody's opens.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| alknet_vault::fuzz::fuzz_entry(data));
