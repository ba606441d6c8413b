//! `alknet plugin doctor`: each kind of mismatch by its name.

use std::mem::offset_of;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use alknet_plugin_api::abi::{Header, MAGIC, SYMBOL};
use alknet_tests::artifact;
use alknet_tests::daemon::{NodeFolder, built};
use serde_json::Value;

use crate::{Publisher, text};

/// What the doctor says of a file: the exit status, and each field with its state.
async fn doctor(node: &NodeFolder, arguments: &[&str]) -> (i32, Vec<(String, String, Value)>) {
    let arguments = [&["plugin", "doctor", "--json"], arguments].concat();
    let ended = node.alknet(&arguments).await;
    let checkup: Value = serde_json::from_str(&ended.stdout).expect(&ended.stderr);
    let checks = checkup["checks"].as_array().unwrap().iter().map(|check| {
        let text = |key: &str| check[key].as_str().unwrap().to_owned();
        (text("field"), text("state"), check.clone())
    });
    (ended.status.unwrap(), checks.collect())
}

/// Whoever looks finds this field in this state, and the command ends so.
async fn finds(
    node: &NodeFolder,
    arguments: &[&str],
    exit: i32,
    field: &str,
    state: &str,
) -> Value {
    let (status, checks) = doctor(node, arguments).await;
    let found = checks.iter().find(|(name, how, _)| name == field && how == state);
    let found = found.unwrap_or_else(|| panic!("no {field} {state}: {checks:#?}"));
    assert_eq!(status, exit, "{checks:#?}");
    if exit != 0 {
        let wrong: Vec<_> = checks.iter().filter(|(_, how, _)| how == "wrong").collect();
        assert!(wrong.iter().all(|(name, ..)| name == field), "{wrong:#?}");
    }
    found.2.clone()
}

/// A node with `call` and an `echo` of its own file, whose stanza is the last.
fn node_with(change: impl FnOnce(&mut Vec<u8>)) -> (NodeFolder, String) {
    let node = NodeFolder::developed();
    let file = node.file("echo.so");
    let mut bytes = std::fs::read(&built().echo).unwrap();
    change(&mut bytes);
    std::fs::write(&file, bytes).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    let stands = built().echo.canonicalize().unwrap();
    node.replace("node.toml", text(&stands), text(&file));
    (node, text(&file).to_owned())
}

fn find(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes.windows(wanted.len()).position(|found| found == wanted).expect("it is in the file")
}

fn with_api(bytes: &mut [u8], major: u32, minor: u32) {
    let header = find(bytes, &MAGIC);
    for (at, number) in
        [(offset_of!(Header, api_major), major), (offset_of!(Header, api_minor), minor)]
    {
        bytes[header + at..][..4].copy_from_slice(&number.to_ne_bytes());
    }
}

#[tokio::test]
async fn what_fits_is_told_to_fit() {
    let (node, file) = node_with(|_| {});
    let (status, checks) = doctor(&node, &[&file]).await;
    assert_eq!(status, 0);
    for field in [
        "file",
        "target",
        "interface",
        "API version",
        "digest",
        "signature",
        "ALPNs",
        "gateway",
        "capabilities",
        "configuration",
        "collisions",
        "reach",
        "limits",
    ] {
        let of = checks.iter().find(|(name, ..)| name == field);
        assert_eq!(of.map(|(_, state, _)| state.as_str()), Some("ok"), "{field}: {checks:#?}");
    }
    let shown = node.alknet(["plugin", "doctor", &file]).await;
    assert!(shown.text().starts_with("echo 0.1.0, plugin `echo` of the node"), "{}", shown.stdout);

    // Without a node it is the machine alone.
    let nowhere = NodeFolder::new();
    finds(&nowhere, &[&file], 0, "deployment", "note").await;
    finds(&nowhere, &[&file], 0, "API version", "ok").await;
}

#[tokio::test]
async fn what_the_file_is() {
    let nowhere = NodeFolder::new();
    for (major, exit, state) in [(0, 65, "wrong"), (2, 65, "wrong")] {
        let (_node, file) = node_with(|bytes| with_api(bytes, major, 0));
        let check = finds(&nowhere, &[&file], exit, "API version", state).await;
        assert_eq!(check["found"], format!("{major}.0"));
        assert_eq!(check["expected"], "1.0");
    }
    let publisher = Publisher::new();
    let component = artifact::component("alknet-plugin-echo");
    let newer = publisher.copy(&component, "newer.wasm", |bytes| {
        let version = b"@1.0.0";
        for at in 0..bytes.len() - version.len() {
            if bytes[at..].starts_with(version) {
                bytes[at + 1] = b'2';
            }
        }
    });
    finds(&nowhere, &[&newer], 65, "API version", "wrong").await;

    let (_node, file) = node_with(|bytes| bytes[18..20].copy_from_slice(&8u16.to_le_bytes()));
    finds(&nowhere, &[&file], 65, "target", "wrong").await;
    let (_node, file) = node_with(|bytes| {
        let symbol = SYMBOL.as_bytes();
        while let Some(at) = bytes.windows(symbol.len()).position(|found| found == symbol) {
            bytes[at] = b'_';
        }
    });
    finds(&nowhere, &[&file], 65, "interface", "wrong").await;
    let (_node, file) = node_with(|bytes| bytes.truncate(100_000));
    finds(&nowhere, &[&file], 65, "loads", "wrong").await;
    let words = publisher.copy(Path::new(env!("CARGO_MANIFEST_PATH")), "words", |_| {});
    finds(&nowhere, &[&words], 65, "kind", "wrong").await;
    let (_node, file) = node_with(|_| {});
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o777)).unwrap();
    let check = finds(&nowhere, &[&file], 65, "file", "wrong").await;
    assert!(check["found"].as_str().unwrap().contains("chmod go-w"), "{check}");
}

#[tokio::test]
async fn what_a_package_is() {
    let publisher = Publisher::new();
    publisher.key("publisher.key").await;
    let package = publisher.echo("echo.alkp", text(&built().echo)).await;
    let (node, _) = node_with(|_| {});
    // Another artifact than the one that runs: what an upgrade would be.
    finds(&node, &[&package], 0, "digest", "note").await;
    finds(&node, &[&package], 0, "package", "ok").await;
    let altered = publisher.copy(Path::new(&package), "altered.alkp", |bytes| {
        let at = find(bytes, b"Says it back.");
        bytes[at] = b'L';
    });
    finds(&node, &[&altered], 65, "package", "wrong").await;
    // With a component it fits any machine, so one is made without.
    if cfg!(target_arch = "x86_64") {
        let bytes = std::fs::read(&package).unwrap();
        let foreign = String::from_utf8_lossy(&bytes[512..]).find("x86_64").is_some();
        assert!(foreign, "its index names this machine");
    }
}

#[tokio::test]
async fn whether_it_is_the_one_that_is_pinned_and_signed() {
    let (node, file) = node_with(|bytes| bytes.push(0));
    let check = finds(&node, &[&file], 78, "digest", "wrong").await;
    assert_ne!(check["found"], check["expected"]);
    node.alknet(["plugin", "pin", &file]).await.text();
    finds(&node, &[&file], 0, "digest", "ok").await;

    let publisher = Publisher::new();
    let key = publisher.key("publisher.key").await;
    publisher.key("other.key").await;
    let sign = async |with: &str| {
        let with = publisher.path(with);
        let signed = publisher.alknet(&["plugin", "sign", &file, "--key-file", &with]).await;
        signed.text().trim().to_owned()
    };
    // A signature that nothing checks.
    let before = node.read("node.toml");
    node.append("node.toml", &format!("signature = \"{}\"\n", sign("other.key").await));
    finds(&node, &[&file], 77, "signature", "wrong").await;
    // A publisher who is trusted, and a signature by another; then none; then theirs.
    let trusting = format!("trusted_plugin_keys = [\"{key}\"]\n\n");
    node.write("node.toml", &(trusting.clone() + &node.read("node.toml")));
    finds(&node, &[&file], 77, "signature", "wrong").await;
    node.write("node.toml", &(trusting + &before));
    let check = finds(&node, &[&file], 77, "signature", "wrong").await;
    assert_eq!(check["found"], "not signed");
    node.append("node.toml", &format!("signature = \"{}\"\n", sign("publisher.key").await));
    finds(&node, &[&file], 0, "signature", "ok").await;
}

#[tokio::test]
async fn whether_it_gets_what_it_wants() {
    let stanza = |lines: &str| {
        let (node, file) = node_with(|_| {});
        node.append("node.toml", lines);
        (node, file)
    };
    for (lines, field, exit, state) in [
        ("kind = \"component\"\n", "kind", 78, "wrong"),
        ("alpn = [\"h3\"]\n", "ALPNs", 78, "wrong"),
        ("config = { loud = true }\n", "configuration", 78, "wrong"),
        ("hide = [\"/echo/shout\"]\n", "hide, expose", 78, "wrong"),
        ("limits = { memory = \"1 MiB\" }\n", "limits", 0, "note"),
        ("reach = [\"/no/where\"]\nauthority = { label = \"e\" }\n", "reach", 0, "note"),
        ("reach = [\"/services/list\"]\n", "reach", 0, "note"),
        ("limts = {}\n", "deployment", 0, "note"),
    ] {
        let (node, file) = stanza(lines);
        let check = finds(&node, &[&file], exit, field, state).await;
        assert!(!check["remedy"].as_str().unwrap_or_default().is_empty(), "{check}");
    }
    let vault = "capabilities.token = { entry = \"token\", kind = \"bearer\" }\n";
    let (node, file) = stanza(vault);
    node.append("node.toml", "[vault]\n");
    finds(&node, &[&file], 78, "capabilities", "wrong").await;
    // One that calls for its peers, which is not granted.
    node.replace("node.toml", "gateway = true\n", "");
    let call = text(&built().call);
    finds(&node, &[call], 78, "gateway", "wrong").await;
    // What it would like and does without; what it is given in the wrong form.
    let conformance = text(&built().conformance);
    let node = NodeFolder::developed_with(&[("conformance", &built().conformance)]);
    finds(&node, &[conformance], 0, "capabilities", "note").await;
    node.append(
        "node.toml",
        "capabilities.key = { entry = \"key\", kind = \"bearer\" }\n[vault]\n",
    );
    finds(&node, &[conformance], 78, "capabilities", "wrong").await;
}

#[tokio::test]
async fn whether_somebody_serves_the_same() {
    let (node, file) = node_with(|_| {});
    let (status, checks) = doctor(&node, &[&file, "--name", "nobody"]).await;
    assert_eq!(status, 78, "{checks:#?}");
    assert!(checks.iter().any(|(field, state, _)| field == "stanza" && state == "wrong"));
    // As another plugin beside itself.
    let second = format!("[[plugin]]\nname = \"second\"\nartifact = \"{file}\"\n");
    node.append("node.toml", &second);
    let (status, checks) = doctor(&node, &[&file, "--name", "second"]).await;
    let wrong = |field: &str| {
        checks.iter().filter(|(name, state, _)| name == field && state == "wrong").count()
    };
    assert_eq!((status, wrong("ALPN collision"), wrong("operation collision")), (78, 1, 3));
    let check = checks.iter().find(|(name, ..)| name == "ALPN collision").unwrap();
    assert_eq!(check.2["expected"], "served by `echo`");
}
