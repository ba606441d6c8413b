//! Builds plugins as their authors do, by cargo, and says where they are.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Builds a package of the workspace and returns its shared library. It is built
/// with the profile that this test was built with.
///
/// # Panics
/// If the package does not build, or makes no shared library.
pub fn native(package: &str) -> PathBuf {
    build(package, None)
}

/// Builds a package of the workspace for `wasm32-wasip2` and returns the
/// component.
///
/// # Panics
/// As [`native`].
pub fn component(package: &str) -> PathBuf {
    build(package, Some("wasm32-wasip2"))
}

fn build(package: &str, target: Option<&str>) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--lib", "--message-format=json-render-diagnostics", "--package", package])
        .stderr(Stdio::inherit());
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    if let Some(target) = target {
        cargo.args(["--target", target]);
    }
    let built = cargo.output().expect("cargo runs");
    assert!(built.status.success(), "{package} does not build");
    let extension = if target.is_some() { "wasm" } else { std::env::consts::DLL_EXTENSION };
    let library = package.replace('-', "_");
    let messages = String::from_utf8(built.stdout).expect("cargo speaks UTF-8");
    let files = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == *library)
        .filter_map(|message| {
            serde_json::from_value::<Vec<PathBuf>>(message["filenames"].clone()).ok()
        })
        .flatten();
    files
        .into_iter()
        .find(|file| file.extension().is_some_and(|found| found == extension))
        .unwrap_or_else(|| panic!("{package} makes no .{extension} file"))
}
