//! A plugin's life outside of this workspace: made, tested, run, changed.

#![allow(clippy::unwrap_used)] // In tests a panic is the report.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use alknet_tests::daemon::{LIMIT, NodeFolder, Running, built, within};
use alknet_tests::service::installed;
use serde_json::json;
use tokio::io::AsyncWriteExt;
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
    /// One in Rust, with the versions that this workspace uses.
    async fn new(name: &str, arguments: &[&str]) -> Self {
        let api = repository().join("plugin-api");
        let project =
            Self::made(name, &[&["--api", api.to_str().unwrap()], arguments].concat()).await;
        let lock = project.folder.join("Cargo.lock");
        std::fs::copy(repository().join("Cargo.lock"), lock).unwrap();
        project
    }

    /// What `alknet plugin new` makes.
    async fn made(name: &str, arguments: &[&str]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join(name);
        let made = Command::new(&built().alknet)
            .args(["plugin", "new", name, "--into"])
            .arg(&folder)
            .args(arguments)
            .output();
        success(within(made).await.unwrap());
        Self { _place: place, folder }
    }

    /// One in JavaScript, with the packages that the tests have.
    async fn in_javascript(name: &str, arguments: &[&str]) -> Self {
        let project = Self::made(name, &[&["--lang", "js"], arguments].concat()).await;
        let packages = installed("node").join("node_modules");
        std::os::unix::fs::symlink(packages, project.folder.join("node_modules")).unwrap();
        project
    }

    /// One in Python, with the packages that the tests have.
    async fn in_python(name: &str, arguments: &[&str]) -> Self {
        let project = Self::made(name, &[&["--lang", "python"], arguments].concat()).await;
        std::os::unix::fs::symlink(installed("python"), project.folder.join(".venv")).unwrap();
        project
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

    /// What a program tells on both of its streams.
    async fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.program(Path::new(program)).args(arguments).output().await.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        success(output) + &stderr
    }

    /// `alknet dev`, once its node serves.
    async fn dev(&self) -> Running {
        let running = self.starts().await;
        running.said(READY).await;
        running
    }

    /// `alknet dev`, once it has built the plugin.
    async fn starts(&self) -> Running {
        let mut dev = self.program(&built().alknet);
        let running = Running::spawn(dev.arg("dev").arg("--plugin").arg(call()));
        running.logged("built ").await;
        running
    }

    /// A command about the node that `alknet dev` runs, which is found by its place.
    async fn alknet(&self, arguments: &[&str]) -> String {
        let command = self.program(&built().alknet).args(arguments).output();
        success(within(command).await.unwrap())
    }

    /// That a node takes the built plugin.
    async fn loads(&self, artifact: &str, kind: &str) {
        let mut inspect = self.program(&built().alknet);
        let inspected = inspect.args(["plugin", "inspect", artifact, "--json"]).output();
        // Compiling CPython takes its time.
        let inspected = tokio::time::timeout(5 * LIMIT, inspected).await.unwrap();
        let inspected = success(inspected.unwrap());
        assert!(inspected.contains(kind), "{inspected}");
    }

    /// What a new plugin's handler answers.
    async fn connect(&self, name: &str, input: &str) -> String {
        let mut command = self.program(&built().alknet);
        command.args(["connect", "local", "--alpn", &format!("alknet/{name}")]);
        let mut running = Running::spawn(command.stdin(Stdio::piped()));
        let mut stdin = running.stdin();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        running.ended().await.text().to_owned()
    }

    /// Whether a new plugin, which a node runs, does what it should.
    async fn does_what_it_should(&self, name: &str) {
        let (hello, count) = (format!("/{name}/hello"), format!("/{name}/count"));
        let greeted = self.alknet(&["call", &hello, r#"{"name":"Ada \u00e9\u4e16"}"#]).await;
        let greeted: serde_json::Value = serde_json::from_str(&greeted).unwrap();
        assert_eq!(greeted, json!({ "text": "hello, Ada é世" }));
        let counted = self.alknet(&["subscribe", &count, r#"{"to":3}"#]).await;
        let numbers: Vec<serde_json::Value> =
            counted.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(json!(numbers), json!([{ "number": 1 }, { "number": 2 }, { "number": 3 }]));
        for (input, wanted) in
            [("{}", "is a required property"), (r#"{"name":7}"#, "is not of type")]
        {
            let refused = self.program(&built().alknet).args(["call", &hello, input]).output();
            let refused = within(refused).await.unwrap();
            let text = String::from_utf8_lossy(&refused.stderr);
            assert!(!refused.status.success(), "{text}");
            assert!(text.contains("INVALID_INPUT") && text.contains(wanted), "{text}");
        }
        let long = "abc ".repeat(100_000);
        assert_eq!(self.connect(name, &long).await.trim_end(), long.to_uppercase().trim_end());
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

#[tokio::test]
async fn a_new_plugin_in_javascript_is_tested_run_and_changed() {
    let project = Project::in_javascript("in-js", &[]).await;
    let tested = project.run("npm", &["test"]).await;
    assert!(tested.contains("pass 4") && tested.contains("fail 0"), "{tested}");

    let dev = project.dev().await;
    project.does_what_it_should("in-js").await;
    project.replace("src/greet.js", "${config.greeting}, $", "${config.greeting} there, $");
    dev.logged_times("built in-js in", 2).await;
    dev.said_times(READY, 2).await;
    let hello = project.alknet(&["call", "/in-js/hello", r#"{"name":"Ada"}"#]).await;
    assert_eq!(hello.trim(), r#"{"text":"hello there, Ada"}"#);
    dev.signal("INT").await;
    assert_eq!(dev.ended().await.status, Some(0));
}

#[tokio::test]
async fn a_new_plugin_in_python_is_tested_and_run() {
    let project = Project::in_python("in-python", &[]).await;
    let tested = project.run("make", &["test"]).await;
    assert!(tested.contains("Ran 3 tests") && tested.contains("OK"), "{tested}");
    project.run("make", &[]).await;

    let dev = project.starts().await;
    // It takes its time, and the node says with what.
    dev.logged("compiling in_python.wasm").await;
    dev.said(READY).await;
    project.does_what_it_should("in-python").await;
    dev.signal("INT").await;
    assert_eq!(dev.ended().await.status, Some(0));
}

#[tokio::test]
async fn a_new_plugin_in_c_is_tested_run_and_changed() {
    let project = Project::made("in-c", &["--lang", "c"]).await;
    assert!(project.run("make", &["test"]).await.contains("ok"));

    let dev = project.dev().await;
    project.does_what_it_should("in-c").await;
    project.replace("src/greet.c", "%s, %.*s", "%s there, %.*s");
    dev.logged_times("built in-c in", 2).await;
    dev.said_times(READY, 2).await;
    let hello = project.alknet(&["call", "/in-c/hello", r#"{"name":"Ada"}"#]).await;
    assert_eq!(hello.trim(), r#"{"text":"hello there, Ada"}"#);

    // What it answers is passed on unread, so it is checked.
    project.replace("src/greet.c", "%s there, %.*s", "\\\\x%s, %.*s");
    dev.said_times(READY, 3).await;
    let answer =
        project.program(&built().alknet).args(["call", "/in-c/hello", r#"{"name":"A"}"#]).output();
    let answer = String::from_utf8(within(answer).await.unwrap().stderr).unwrap();
    assert!(answer.contains("the plugin's answer is not JSON"), "{answer}");
    dev.signal("INT").await;
    assert_eq!(dev.ended().await.status, Some(0));
}

#[tokio::test]
async fn a_plugin_of_another_interface_in_c_is_refused() {
    let project = Project::made("in-c", &["--lang", "c"]).await;
    let inspect = || {
        let mut inspect = project.program(&built().alknet);
        within(inspect.args(["plugin", "inspect", "build/libin_c.so"]).output())
    };
    let changes = [
        ("#define ALKNET_API_MAJOR 1", "#define ALKNET_API_MAJOR 2", "plugin API 2.0"),
        ("ALKNET_FINGERPRINT,  ", "\"0000\",", "the fingerprint of alknet_plugin.h"),
        ("TABLE_FIELDS UINT64_C(0x3)", "TABLE_FIELDS UINT64_C(0x1)", "is incomplete"),
        ("alknet_plugin_c_header_1 =", "alknet_other =", "without the symbol"),
    ];
    for (old, new, reason) in changes {
        project.replace("include/alknet_plugin.h", old, new);
        project.run("make", &[]).await;
        let refused = inspect().await.unwrap();
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && text.contains(reason), "{text}");
        project.replace("include/alknet_plugin.h", new, old);
    }
    project.run("make", &[]).await;
    assert!(inspect().await.unwrap().status.success());
}

#[tokio::test]
async fn every_choice_of_every_language_is_tested_and_built() {
    for with in ["handler", "operations"] {
        let project = Project::made("choice", &["--lang", "c", "--with", with]).await;
        assert!(project.run("make", &["test", "CFLAGS=-Werror"]).await.contains("ok"));
        project.run("make", &[]).await;
        project.loads("build/libchoice.so", "native").await;
        let project = Project::in_javascript("choice", &["--with", with]).await;
        assert!(project.run("npm", &["test"]).await.contains("fail 0"));
        project.run("npm", &["run", "build"]).await;
        project.loads("build/choice.wasm", "component").await;
        let project = Project::in_python("choice", &["--with", with]).await;
        assert!(project.run("make", &["test"]).await.contains("OK"));
        project.run("make", &[]).await;
        project.loads("build/choice.wasm", "component").await;
    }
}

#[tokio::test]
async fn templates_name_the_versions_that_are_tested() {
    let named = |folder: &Path, file: &str, start: &str| {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let line = text.lines().find(|line| line.trim().starts_with(start));
        line.unwrap_or_else(|| panic!("{text}")).trim().to_owned()
    };
    let tests = repository().join("tests");
    let project = Project::in_javascript("a", &[]).await;
    let start = "\"componentize-qjs\": ";
    let wanted = named(&tests, "node/package.json", start);
    assert_eq!(named(&project.folder, "package.json", start), wanted);
    let project = Project::in_python("a", &[]).await;
    let wanted = named(&tests, "python/requirements.txt", "componentize-py==");
    assert_eq!(named(&project.folder, "requirements.txt", "componentize-py=="), wanted);
}

#[tokio::test]
async fn what_a_language_cannot_be_built_as_is_refused() {
    let new = |arguments: &'static [&str]| {
        Command::new(&built().alknet).args(["plugin", "new", "a"]).args(arguments).output()
    };
    let refused = within(new(&["--lang", "js", "--kind", "native"])).await.unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(text.contains("built as a component") && text.contains("`--kind`"), "{text}");
    let refused = within(new(&["--lang", "python", "--api", "."])).await.unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("leave it out"), "{text}");
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
