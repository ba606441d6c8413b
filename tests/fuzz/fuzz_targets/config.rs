//! No text panics a reader of configuration.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| alknet::fuzz::fuzz_config(data));
