//! No envelope panics, and both ways of reading one agree.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| alknet_call_protocol::fuzz::fuzz_envelope(data));
