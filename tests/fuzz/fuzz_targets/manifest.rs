//! No manifest panics, and one that was read reads the same once written.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| alknet_plugin_api::fuzz::fuzz_manifest(data));
