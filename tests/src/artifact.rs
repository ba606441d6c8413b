//! Builds plugins as their authors do, by cargo, and says where they are.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Builds a package of the workspace and returns its shared library. It is built
/// with the profile that this test was built with.
///
/// # Panics
/// If the package does not build, or makes no shared library.
pub fn native(package: &str) -> PathBuf {
    library(&workspace(), package).unwrap_or_else(|| panic!("{package} makes no shared library"))
}

/// Builds a package of the workspace for `wasm32-wasip2` and returns the
/// component.
///
/// # Panics
/// As [`native`].
pub fn component(package: &str) -> PathBuf {
    let messages = build(&["--lib", "--package", package, "--target", "wasm32-wasip2"]);
    file_of(&messages, &package.replace('-', "_"), "wasm")
        .unwrap_or_else(|| panic!("{package} makes no component"))
}

/// Builds a library of the workspace for components, with the features that it has
/// there, and returns it as other crates link it.
///
/// # Panics
/// If it does not build.
pub fn linked_by_components(package: &str) -> PathBuf {
    let messages = build(&["--lib", "--package", package, "--target", "wasm32-wasip2"]);
    file_of(&messages, &package.replace('-', "_"), "rlib")
        .unwrap_or_else(|| panic!("{package} makes no library"))
}

/// Builds the libraries and programs of the workspace, and returns what cargo
/// says of them.
///
/// Cargo chooses the features of what packages share by what is built together,
/// and builds it again for another choice. So this asks for all of them, and with
/// a test for what tests need: then everything is as the run of all tests has it.
///
/// # Panics
/// If they do not build.
pub(crate) fn workspace() -> Vec<Value> {
    build(&["--lib", "--bins", "--test", "layout"])
}

/// The shared library among what cargo has made.
pub(crate) fn library(messages: &[Value], package: &str) -> Option<PathBuf> {
    file_of(messages, &package.replace('-', "_"), std::env::consts::DLL_EXTENSION)
}

fn build(what: &[&str]) -> Vec<Value> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args(["build", "--message-format=json-render-diagnostics"])
        .args(what)
        .stderr(Stdio::inherit());
    // What cargo tells a test about its own package would make cargo run the
    // build scripts again that look at it, and build all that needs them.
    let told = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(told) {
            cargo.env_remove(name);
        }
    }
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let built = cargo.output().expect("cargo runs");
    assert!(built.status.success(), "`cargo build {}` fails", what.join(" "));
    let messages = String::from_utf8(built.stdout).expect("cargo speaks UTF-8");
    messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The file with this extension that cargo has made of a target.
fn file_of(messages: &[Value], target: &str, extension: &str) -> Option<PathBuf> {
    let files = messages
        .iter()
        .filter(|message| message["target"]["name"] == target)
        .filter_map(|message| message["filenames"].as_array())
        .flatten();
    files
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .find(|file| file.extension().is_some_and(|found| found == extension))
}
