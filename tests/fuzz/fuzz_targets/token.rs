//! No bytes panic the look-up of a token, and none but the token is found.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| alknet::fuzz::fuzz_token(data));
