//! Contexts are the host's to make: what a plugin can compile says so.

use std::path::Path;
use std::process::Command;

/// Whether a plugin's source compiles against the plugin API as plugins get it.
fn compiles(api: &Path, source: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plugin.rs");
    std::fs::write(&file, source).unwrap();
    // Its own dependencies, and the macros that run in the compiler.
    let built = api.parent().unwrap();
    let profile = built.file_name().unwrap();
    let dependencies =
        [built.to_owned(), built.join("deps"), built.join("../..").join(profile).join("deps")];
    let compiled = Command::new("rustc")
        .args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata"])
        .args(["--target", "wasm32-wasip2", "--out-dir"])
        .arg(folder.path())
        .arg("--extern")
        .arg(format!("alknet_plugin_api={}", api.display()))
        .args(
            dependencies
                .iter()
                .flat_map(|folder| ["-L".to_owned(), format!("dependency={}", folder.display())]),
        )
        .arg(&file)
        .output()
        .unwrap();
    match compiled.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8(compiled.stderr).unwrap()),
    }
}

#[test]
fn c45_a_plugin_can_neither_make_a_context_nor_mark_a_call_internal() {
    let api = alknet_tests::artifact::linked_by_components("alknet-plugin-api");
    let reads = "use alknet_plugin_api::OperationContext;
        pub fn read(context: &OperationContext) -> bool { context.is_internal() }";
    compiles(&api, reads).unwrap();
    for (forgery, complaint) in [
        (
            "pub fn f(b: std::sync::Arc<dyn alknet_plugin_api::backend::ContextBackend>) \
          -> OperationContext { OperationContext::from_backend(b) }",
            "from_backend",
        ),
        (
            "pub fn f(b: std::sync::Arc<dyn alknet_plugin_api::backend::ContextBackend>) \
          -> OperationContext { OperationContext::wrap(b) }",
            "private",
        ),
        (
            "pub fn f() -> OperationContext { OperationContext { backend: todo!(), info: todo!() } }",
            "private",
        ),
        ("pub fn f(c: &mut OperationContext) { c.info().internal = true; }", "cannot assign"),
        ("pub fn f(c: &mut OperationContext) { c.internal = true; }", "no field"),
        ("pub fn f() -> OperationContext { Default::default() }", "Default"),
        ("pub fn f() -> OperationContext { serde_json::from_str(\"{}\").unwrap() }", "E0"),
    ] {
        let source = format!("use alknet_plugin_api::OperationContext; {forgery}");
        let error = compiles(&api, &source).expect_err(forgery);
        assert!(error.contains(complaint), "{forgery}:\n{error}");
    }
}
