//! A plugin's life outside of this workspace: made, tested, run, changed.

#![allow(clippy::unwrap_used)] // In tests a panic is the report.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use alknet_tests::daemon::{NodeFolder, Running, built, within};
use serde_json::json;
use tokio::process::Command;

const READY: &str = "serving until Ctrl-C";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Where projects are built: beside the workspace, so that they share what they
/// are made of from one run to the next.
fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("fixture")
}

/// A plugin's project in a folder of its own.
struct Project {
    _place: tempfile::TempDir,
    folder: PathBuf,
}

impl Project {
    /// What `alknet plugin new` makes, with the versions that this workspace uses.
    async fn new(name: &str, arguments: &[&str]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join(name);
        let made = Command::new(&built().alknet)
            .args(["plugin", "new", name, "--into"])
            .arg(&folder)
            .arg("--api")
            .arg(repository().join("plugin-api"))
            .args(arguments)
            .output();
        success(within(made).await.unwrap());
        std::fs::copy(repository().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
        Self { _place: place, folder }
    }

    fn replace(&self, file: &str, old: &str, new: &str) {
        let path = self.folder.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(old), "{text}");
        std::fs::write(path, text.replace(old, new)).unwrap();
    }

    fn program(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // What cargo tells tests of their own package is not for others.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("CARGO_")) {
                command.env_remove(name);
            }
        }
        command
            .current_dir(&self.folder)
            .env("CARGO_TARGET_DIR", target())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn cargo(&self, arguments: &[&str]) -> String {
        let cargo = self.program(Path::new(env!("CARGO"))).args(arguments).output().await;
        success(cargo.unwrap())
    }

    /// `alknet dev`, once its node serves.
    async fn dev(&self) -> Running {
        let mut dev = self.program(&built().alknet);
        let running = Running::spawn(dev.arg("dev").arg("--plugin").arg(call()));
        running.said(READY).await;
        running
    }

    /// A command about the node that `alknet dev` runs, which is found by its place.
    async fn alknet(&self, arguments: &[&str]) -> String {
        let command = self.program(&built().alknet).args(arguments).output();
        success(within(command).await.unwrap())
    }
}

fn call() -> String {
    format!("call={}", built().call.display())
}

fn success(output: Output) -> String {
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    stdout
}

#[tokio::test]
async fn a_new_native_plugin_is_tested_run_and_changed() {
    let project = Project::new("greeter", &[]).await;
    let tested = project.cargo(&["test", "--tests"]).await;
    assert!(tested.contains("test result: ok. 3 passed"), "{tested}");

    let dev = project.dev().await;
    let hello = ["call", "/greeter/hello", r#"{"name":"Ada"}"#];
    assert_eq!(project.alknet(&hello).await.trim(), r#"{"text":"hello, Ada"}"#);
    let counted = project.alknet(&["subscribe", "/greeter/count", r#"{"to":2}"#]).await;
    assert_eq!(counted.lines().count(), 2, "{counted}");

    // A mistake leaves the node as it was; the next change is taken up.
    project.replace("src/greet.rs", "{}, {}\"", "{}, {}");
    dev.logged("it does not build").await;
    assert_eq!(project.alknet(&hello).await.trim(), r#"{"text":"hello, Ada"}"#);
    project.replace("src/greet.rs", "{}, {}", "{} there, {}\"");
    dev.logged_times("built greeter in", 2).await;
    dev.said_times(READY, 2).await;
    assert_eq!(project.alknet(&hello).await.trim(), r#"{"text":"hello there, Ada"}"#);

    dev.signal("INT").await;
    assert_eq!(dev.ended().await.status, Some(0));

    // A node that was made for something else is not touched.
    let other = NodeFolder::developed();
    let before = other.read("node.toml");
    let mut dev = project.program(&built().alknet);
    dev.arg("--node").arg(other.directory().path()).args(["dev", "--plugin", &call()]);
    let ended = Running::spawn(&mut dev).ended().await;
    assert!(ended.refused(78).contains("is another node's"), "{ended:?}");
    assert_eq!(other.read("node.toml"), before);
}

#[tokio::test]
async fn a_new_component_is_tested_and_run() {
    let project = Project::new("small-one", &["--kind", "component"]).await;
    let tested = project.cargo(&["test", "--tests"]).await;
    assert!(tested.contains("test result: ok. 3 passed"), "{tested}");
    let dev = project.dev().await;
    let hello = project.alknet(&["call", "/small-one/hello", r#"{"name":"Ada"}"#]).await;
    assert_eq!(hello.trim(), r#"{"text":"hello, Ada"}"#);
    let listed = project.alknet(&["plugin", "list", "--json"]).await;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let kind = listed["plugins"].as_array().unwrap().iter().find(|one| one["name"] == "small-one");
    assert_eq!(kind.unwrap()["trust"], "confined", "{listed}");
    dev.signal("TERM").await;
    assert_eq!(dev.ended().await.status, Some(0));
}

#[tokio::test]
async fn every_choice_builds_and_passes_its_own_tests() {
    for (with, passed) in [("handler", 1), ("operations", 2)] {
        let project = Project::new("choice", &["--with", with]).await;
        let tested = project.cargo(&["test", "--tests"]).await;
        assert!(tested.contains(&format!("test result: ok. {passed} passed")), "{tested}");
        assert_eq!(project.cargo(&["fmt", "--check"]).await, "");
        project.cargo(&["clippy", "--all-targets", "--", "-D", "warnings"]).await;
    }
}

/// Builds the plugin of `third-party` with a toolchain and returns its file.
async fn third_party(toolchain: Option<&str>) -> PathBuf {
    let folder = repository().join("tests/third-party");
    let target = match toolchain {
        Some(name) => target().join(name),
        None => target(),
    };
    let mut cargo = Command::new("cargo");
    cargo.args(toolchain.map(|name| format!("+{name}")));
    for (name, _) in std::env::vars_os() {
        let inherited = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO") || name.starts_with("RUSTUP_TOOLCHAIN") || name == "RUSTC"
        });
        if inherited && name != "CARGO_HOME" {
            cargo.env_remove(name);
        }
    }
    let built = cargo
        .args(["build", "--locked"])
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", &target)
        .output()
        .await
        .unwrap();
    success(built);
    target.join("debug/libguestbook.so")
}

async fn signs_the_guestbook(plugin: &Path) {
    let node = NodeFolder::new();
    let daemon = node.start(&[&built().call, plugin]).await;
    let client = daemon.client().await;
    let mut following = client.subscribe("guestbook/follow", json!({})).await.unwrap();
    let entry = json!({ "name": "Ada", "text": "was here" });
    // Whether it follows already shows in its first item alone.
    let first = async { following.next().await.unwrap().unwrap() };
    let signing = async {
        loop {
            client.call("guestbook/sign", entry.clone()).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let item = tokio::select! { item = within(first) => item, () = signing => unreachable!() };
    assert_eq!(item, alknet_plugin_api::Json::from(entry));

    let (connection, _dialer) = daemon.connect("guestbook/1").await;
    let (_send, mut recv) = connection.open_bi().await.unwrap();
    drop(_send);
    let book = within(recv.read_to_end(100_000)).await.unwrap();
    assert!(book.starts_with(b"Ada: was here\n"), "{}", String::from_utf8_lossy(&book));
}

#[tokio::test]
async fn a_strangers_plugin_is_loaded() {
    signs_the_guestbook(&third_party(None).await).await;
}

#[tokio::test]
async fn a_plugin_of_another_compiler_is_loaded() {
    signs_the_guestbook(&third_party(Some("nightly")).await).await;
}
