//! The header for plugins in C is in step with the Rust types.

#![allow(clippy::unwrap_used, clippy::expect_used)] // In tests a panic is the report.

mod generate;

use std::path::Path;
use std::process::Command;

use alknet_plugin_api::abi::c::FINGERPRINT;

/// Set to have the header written.
const WRITE: &str = "ALKNET_WRITE_HEADER";

#[test]
fn the_header_says_what_the_types_are() {
    let made = generate::generate();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/alknet_plugin.h");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &made.text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap();
    assert!(found == made.text, "{} differs; run this test with {WRITE}=1", path.display());
    assert_eq!(made.fingerprint.as_bytes(), FINGERPRINT, "{}", made.fingerprint);
}

#[test]
fn a_c_compiler_lays_everything_out_as_rust_does() {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let header = std::fs::read_to_string(include.join("alknet_plugin.h")).unwrap();
    let compile = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("alknet_plugin.h"), text).unwrap();
        std::fs::write(folder.path().join("a.c"), "#include \"alknet_plugin.h\"\n").unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "a.c"]);
        cc.current_dir(folder.path()).output().unwrap()
    };
    let compiled = compile(&header);
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    // The asserts would notice a difference.
    let narrower = header.replace("uint64_t detail;", "uint8_t detail;");
    let refused = compile(&narrower);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("alknet_fault"), "{refused:?}");
}
