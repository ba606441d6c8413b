//! However a byte stream is split, the same frames come out of it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| alknet_call_protocol::fuzz::fuzz_frame(data));
