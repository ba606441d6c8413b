//! A daemon that the kernel keeps to its own files.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use alknet::config::{DevelopPlugin, develop};
use alknet_tests::daemon::{Daemon, NodeFolder, built};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A node whose plugin `files` shows a folder of the test's own.
fn node_over(root: &Path, sandbox: &str) -> NodeFolder {
    let node = NodeFolder::new();
    let built = built();
    let mut plugins = [
        ("call", &built.call),
        ("echo", &built.echo),
        ("files", &built.files),
        ("clock", &built.clock),
    ]
    .map(|(name, file)| DevelopPlugin::new(name, file));
    plugins[2].config.insert("root".into(), root.to_str().unwrap().into());
    develop(&node.directory(), node.listen(), &plugins).unwrap();
    node.append("node.toml", sandbox);
    node
}

fn folder_with_a_file() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("note.txt"), "to be read").unwrap();
    folder
}

async fn read(node: &Daemon) -> Result<Value, String> {
    let client = node.client().await;
    let answer = client.ask("/files/read", json!({ "path": "note.txt" })).await;
    answer.map_err(|error| format!("{}: {}", error.code, error.message))
}

async fn confinement(node: &Daemon) -> Value {
    node.client().await.ask("/node/status", json!({})).await.unwrap()["confinement"].clone()
}

/// Whether the kernel has what the test is about; it says so loudly if not.
fn can_check(confinement: &Value) -> bool {
    let can = confinement["enforced"] != "none";
    if !can {
        eprintln!("NOT CHECKED: this kernel has no Landlock, so that nothing is confined");
    }
    can
}

#[tokio::test]
async fn a_confined_node_reads_nothing_outside_its_own_files() {
    let outside = folder_with_a_file();
    let node = node_over(outside.path(), "[sandbox]\nfiles = true\n").start(&[]).await;
    let confined = confinement(&node).await;
    if !can_check(&confined) {
        return;
    }
    println!("{confined}");
    let refused = read(&node).await.unwrap_err();
    println!("{refused}");
    // The file itself is in order: only the kernel stands in the way.
    assert_eq!(std::fs::read_to_string(outside.path().join("note.txt")).unwrap(), "to be read");

    // What the node needs of its own is there: calls, components, figures, reloads.
    let client = node.client().await;
    client.assert_answered().await;
    client.ask("/clock/now", json!({})).await.unwrap();
    let status = client.ask("/node/status", json!({})).await.unwrap();
    assert!(status["resident_bytes"].as_u64().unwrap() > 0, "{status}");
    node.append("access.toml", "# changed\n");
    node.alknet(["reload"]).await.text();
    node.alknet(["peer", "add", "ada", "--key", &format!("ed25519:{}", "1".repeat(64))])
        .await
        .text();
    let reloaded = node.alknet(["reload", "--json"]).await.json();
    let access = client.ask("/node/status", json!({})).await.unwrap()["access"].clone();
    assert_eq!(access["peers"], 2, "{reloaded} {access}");
    assert!(access["refused"].is_null(), "{access}");
    assert_eq!(node.stop("TERM").await.status, Some(0));
}

#[tokio::test]
async fn a_confined_node_reads_what_is_listed() {
    let root = folder_with_a_file();
    let listed = format!("[sandbox]\nfiles = true\nread = [\"{}\"]\n", root.path().display());
    let node = node_over(root.path(), &listed).start(&[]).await;
    assert_eq!(read(&node).await.unwrap()["text"], "to be read");
    let unconfined = node_over(root.path(), "").start(&[]).await;
    assert_eq!(read(&unconfined).await.unwrap()["text"], "to be read");
    assert!(confinement(&unconfined).await.is_null());
}

#[tokio::test]
async fn what_is_required_is_there_or_the_node_does_not_start() {
    let root = folder_with_a_file();
    let sandbox = "[sandbox]\nfiles = true\nrequired = true\n";
    let node = node_over(root.path(), sandbox);
    let checked = node.alknet(["check"]).await;
    match checked.status {
        Some(0) => {
            let node = node.start(&[]).await;
            assert_eq!(confinement(&node).await["enforced"], "full");
            read(&node).await.unwrap_err();
        }
        _ => {
            eprintln!("NOT CHECKED: this kernel has no Landlock; that the node says so was");
            assert!(checked.refused(78).contains("does not confine"), "{checked:?}");
        }
    }
}

#[tokio::test]
async fn a_listed_path_that_is_missing_is_named() {
    let root = folder_with_a_file();
    let node = node_over(root.path(), "[sandbox]\nfiles = true\nwrite = [\"missing\"]\n");
    for arguments in [["check"], ["run"]] {
        let refused = node.alknet(arguments).await;
        assert!(refused.refused(78).contains("missing cannot be opened"), "{refused:?}");
    }
}
