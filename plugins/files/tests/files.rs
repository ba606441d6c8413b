//! The plugin, driven in memory over real directories.

#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use alknet_plugin_api::code;
use alknet_plugin_api::prelude::*;
use alknet_plugin_api::testing::{TestHost, TestPlugin};
use alknet_plugin_files::Files;
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use serde_json::Value;
use tempfile::TempDir;

fn files(root: &Path) -> TestPlugin {
    with_config(json!({ "root": root }))
}

fn with_config(config: Value) -> TestPlugin {
    TestPlugin::build::<Files>(TestHost::new(), config).unwrap()
}

/// A root with a file in it, beside a secret that is not in it.
fn place() -> (TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("notes")).unwrap();
    std::fs::create_dir(dir.path().join("private")).unwrap();
    std::fs::write(dir.path().join("secret"), "secret").unwrap();
    std::fs::write(dir.path().join("private/today"), "secret").unwrap();
    std::fs::write(root.join("notes/today"), "buy milk").unwrap();
    (dir, root)
}

async fn call(plugin: &TestPlugin, name: &str, input: Value) -> Result<Value, CallError> {
    Ok(plugin.call(name, input).await?.to().unwrap())
}

async fn code_of(plugin: &TestPlugin, name: &str, input: Value) -> String {
    match call(plugin, name, input.clone()).await {
        Err(error) => error.code.into_owned(),
        Ok(output) => panic!("{name} {input} gave {output}"),
    }
}

#[tokio::test]
async fn files_are_listed_described_and_read() {
    let (_dir, root) = place();
    std::fs::write(root.join("empty"), "").unwrap();
    symlink("notes/today", root.join("link")).unwrap();
    let plugin = files(&root);
    let list = call(&plugin, "files/list", json!({})).await.unwrap();
    assert_eq!(
        list,
        json!({ "entries": [
            { "name": "empty", "kind": "file" },
            { "name": "link", "kind": "symlink" },
            { "name": "notes", "kind": "directory" },
        ] })
    );
    let stat = call(&plugin, "files/stat", json!({ "path": "link" })).await.unwrap();
    assert_eq!((&stat["kind"], &stat["size"]), (&json!("file"), &json!(8)));
    assert!(stat["modified_ms"].as_u64().unwrap() > 1_600_000_000_000);
    let read = call(&plugin, "files/read", json!({ "path": "notes/../link" })).await.unwrap();
    assert_eq!(read, json!({ "text": "buy milk", "offset": 0, "length": 8, "size": 8 }));
    let read = call(&plugin, "files/read", json!({ "path": "empty" })).await.unwrap();
    assert_eq!(read, json!({ "text": "", "offset": 0, "length": 0, "size": 0 }));
}

#[tokio::test]
async fn large_files_come_in_parts() {
    let (_dir, root) = place();
    let bytes: Vec<u8> = (0..1000u32).map(|n| (n % 256) as u8).collect();
    std::fs::write(root.join("large"), &bytes).unwrap();
    let plugin = with_config(json!({ "root": root, "max_read": 300 }));
    let (mut whole, mut next) = (Vec::new(), Some(0));
    while let Some(offset) = next {
        let input = json!({ "path": "large", "offset": offset, "encoding": "base64" });
        let part = call(&plugin, "files/read", input).await.unwrap();
        let data = part["data"].as_str().unwrap();
        let data = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, data).unwrap();
        assert!(data.len() <= 300);
        whole.extend(data);
        next = part["next"].as_u64();
    }
    assert_eq!(whole, bytes);

    let read = async |offset: u64, length: u64| {
        let input = json!({ "path": "large", "offset": offset, "length": length });
        call(&plugin, "files/read", input).await.unwrap()
    };
    assert_eq!(read(65, 3).await["text"], "ABC");
    assert_eq!(read(200, 2).await["data"], "yMk=");
    assert_eq!(read(0, 0).await["length"], 0);
    for beyond in [1000, 5000, u64::MAX] {
        let part = read(beyond, 10).await;
        assert_eq!((&part["length"], part.get("next")), (&json!(0), None));
    }
}

#[tokio::test]
async fn large_directories_come_in_pages() {
    let (_dir, root) = place();
    for n in 0..250 {
        std::fs::write(root.join(format!("{n:03}")), "").unwrap();
    }
    let plugin = with_config(json!({ "root": root, "max_entries": 100 }));
    let (mut names, mut input) = (Vec::new(), json!({}));
    loop {
        let page = call(&plugin, "files/list", input).await.unwrap();
        let entries = page["entries"].as_array().unwrap();
        assert!(entries.len() <= 100);
        names.extend(entries.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()));
        let Some(next) = page.get("next") else { break };
        input = json!({ "after": next });
    }
    assert_eq!(names.len(), 251);
    assert!(names.is_sorted());
    let two = call(&plugin, "files/list", json!({ "limit": 2 })).await.unwrap();
    assert_eq!(two["entries"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn no_path_leads_out() {
    let (dir, root) = place();
    symlink(dir.path().join("secret"), root.join("absolute")).unwrap();
    symlink("../secret", root.join("upward")).unwrap();
    symlink("../..", root.join("notes/far")).unwrap();
    symlink("..", root.join("notes/near")).unwrap();
    symlink("circle", root.join("circle")).unwrap();
    let plugin = files(&root);
    let secret = dir.path().join("secret");
    let outside = [
        "..",
        "../secret",
        "../root/notes/today",
        "notes/../../secret",
        "notes/../../../../../../etc/passwd",
        "/",
        "/etc/passwd",
        secret.to_str().unwrap(),
        "absolute",
        "upward",
        "notes/far",
        "notes/far/secret",
        "circle",
    ];
    for path in outside {
        for name in ["files/read", "files/stat", "files/list"] {
            let error = call(&plugin, name, json!({ "path": path })).await.unwrap_err();
            assert_eq!(error.code, "OUTSIDE_ROOT", "{name} {path}");
            assert!(!error.message.contains(dir.path().to_str().unwrap()), "{}", error.message);
        }
    }
    // Upward is fine as long as it stays inside.
    let read = call(&plugin, "files/read", json!({ "path": "notes/near/notes/today" })).await;
    assert_eq!(read.unwrap()["text"], "buy milk");
}

#[tokio::test]
async fn paths_that_are_none_are_refused() {
    let (_dir, root) = place();
    let plugin = files(&root);
    let refused = [
        json!({ "path": "notes\0/today" }),
        json!({ "path": "notes", "path_base64": "bm90ZXM=" }),
        json!({ "path_base64": "?" }),
        json!({ "path": "x".repeat(300) }),
        json!({ "path": "x/".repeat(5000) }),
        json!({ "path": 1 }),
    ];
    for input in refused {
        assert_eq!(code_of(&plugin, "files/stat", input).await, code::INVALID_INPUT);
    }
    assert_eq!(code_of(&plugin, "files/read", json!({ "path": "none" })).await, "FILE_NOT_FOUND");
    let below_a_file = json!({ "path": "notes/today/x" });
    assert_eq!(code_of(&plugin, "files/read", below_a_file).await, "NOT_A_DIRECTORY");
    let a_file = json!({ "path": "notes/today" });
    assert_eq!(code_of(&plugin, "files/list", a_file).await, "NOT_A_DIRECTORY");
    assert_eq!(code_of(&plugin, "files/read", json!({})).await, "NOT_A_FILE");
}

#[tokio::test]
async fn pipes_sockets_and_devices_are_not_opened() {
    let (_dir, root) = place();
    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let plugin = files(&root);
    for path in ["pipe", "socket"] {
        assert_eq!(code_of(&plugin, "files/read", json!({ "path": path })).await, "NOT_A_FILE");
        let stat = call(&plugin, "files/stat", json!({ "path": path })).await.unwrap();
        assert_eq!(stat["kind"], "other");
    }
    let devices = files(Path::new("/dev"));
    assert_eq!(code_of(&devices, "files/read", json!({ "path": "zero" })).await, "NOT_A_FILE");
}

#[tokio::test]
async fn magic_links_are_not_followed() {
    let proc = files(Path::new("/proc/self"));
    for path in ["root/etc/passwd", "cwd", "fd/0", "exe"] {
        assert_eq!(code_of(&proc, "files/stat", json!({ "path": path })).await, "OUTSIDE_ROOT");
    }
}

#[tokio::test]
async fn a_read_that_fails_says_so_and_tells_nothing() {
    // Regular, but nothing is mapped at its start.
    let proc = files(Path::new("/proc/self"));
    let error = call(&proc, "files/read", json!({ "path": "mem" })).await.unwrap_err();
    assert_eq!(error.code, code::INTERNAL);
    assert!(!error.message.contains("/proc"), "{}", error.message);
}

#[tokio::test]
async fn names_that_are_not_utf8_can_be_used() {
    let (_dir, root) = place();
    std::fs::write(root.join(OsStr::from_bytes(b"caf\xe9")), "latin").unwrap();
    let plugin = files(&root);
    let list = call(&plugin, "files/list", json!({})).await.unwrap();
    let entry = &list["entries"][0];
    assert_eq!(entry["name"], "caf\u{fffd}");
    let input = json!({ "path_base64": entry["name_base64"] });
    assert_eq!(call(&plugin, "files/read", input).await.unwrap()["text"], "latin");
}

/// As root nothing is unreadable, so the plugin's threads give up root's right to
/// read everything first. Nobody else has it.
#[test]
fn an_unreadable_file_is_refused() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let (_dir, root) = place();
    let file = root.join("notes/today");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o000)).unwrap();
    std::fs::set_permissions(root.join("notes"), PermissionsExt::from_mode(0o300)).unwrap();
    let confined = std::thread::spawn(move || {
        let mut sets = capabilities(None).unwrap();
        let all = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        sets.effective.remove(all);
        set_capabilities(None, sets).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let plugin = files(&root);
            let path = json!({ "path": "notes/today" });
            assert_eq!(code_of(&plugin, "files/read", path.clone()).await, "NOT_READABLE");
            assert_eq!(call(&plugin, "files/stat", path).await.unwrap()["size"], 8);
            let directory = json!({ "path": "notes" });
            assert_eq!(code_of(&plugin, "files/list", directory).await, "NOT_READABLE");
        });
        std::fs::set_permissions(root.join("notes"), PermissionsExt::from_mode(0o700)).unwrap();
    });
    confined.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn swapping_a_directory_for_a_link_never_shows_what_is_outside() {
    let (_dir, root) = place();
    symlink("../private", root.join("trap")).unwrap();
    let plugin = files(&root);
    let done = AtomicBool::new(false);
    let (mut inside, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let (a, b) = (root.join("notes"), root.join("trap"));
                renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
            }
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for _ in 0..200_000 {
                    // The second path makes the kernel walk back up past the swap.
                    for path in ["notes/today", "notes/../notes/today"] {
                        match call(&plugin, "files/read", json!({ "path": path })).await {
                            Ok(read) => {
                                assert_eq!(read["text"], "buy milk");
                                inside += 1;
                            }
                            Err(error) => {
                                assert!(error.code == "OUTSIDE_ROOT" || error.retryable, "{error}");
                                refused += 1;
                            }
                        }
                    }
                    if inside >= 500 && refused >= 500 {
                        break;
                    }
                }
            });
        });
        done.store(true, Ordering::Relaxed);
    });
    assert!(inside >= 500 && refused >= 500, "no race: {inside} inside, {refused} refused");
}

#[tokio::test]
async fn a_root_that_is_none_is_a_build_error() {
    let (dir, root) = place();
    let of = |config: Value| match TestPlugin::build::<Files>(TestHost::new(), config) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("built"),
    };
    assert!(of(json!({})).contains("root"));
    assert!(of(json!({ "root": "relative" })).contains("absolute"));
    assert!(of(json!({ "root": dir.path().join("none") })).contains("none"));
    assert!(of(json!({ "root": dir.path().join("secret") })).contains("secret"));
    assert!(of(json!({ "root": root, "rooot": 1 })).contains("rooot"));
}
