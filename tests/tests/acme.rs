//! Certificates from a real ACME server: Pebble, which validates over the node's
//! own listeners.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use alknet_tests::daemon::{Daemon, NodeFolder, reserve_tcp, within};
use alknet_tests::pebble::{Pebble, Ports};
use serde_json::{Value, json};

const NAME: &str = "node.test";

async fn certificate_with(node: &Daemon, right: impl Fn(&Value) -> bool) -> Value {
    within(async {
        loop {
            let shown = node.alknet(["status", "--json"]).await.json()["certificates"][0].clone();
            if right(&shown) {
                return shown;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

fn issued(shown: &Value) -> bool {
    shown["fingerprint"].is_string()
}

/// Makes a call to whoever shows this certificate.
async fn says_hi(node: &Daemon, hash: &str, port: u16) {
    let to = format!("alknet+tcp://{hash}@127.0.0.1:{port}");
    let said = node.alknet(["--to", &to, "call", "/echo/say", r#"{"text":"hi"}"#]).await;
    assert_eq!(said.json()["text"], "hi");
}

#[tokio::test]
async fn k30_a_certificate_is_issued_over_tls_renewed_and_kept_when_renewal_fails() {
    let tcp = reserve_tcp();
    // A third of its validity before its end, a certificate is renewed.
    let mut pebble = Pebble::start(Ports { http: 1, tls: tcp.port() }, 24).await;
    let node = NodeFolder::developed();
    node.append("node.toml", &format!("[endpoint.tcp]\nlisten = [\"{tcp}\"]\n"));
    node.append("node.toml", &pebble.identity(NAME));
    let node = node.start(&[]).await;
    let old = node.client().await;

    let first = certificate_with(&node, issued).await;
    assert_eq!((&first["kind"], &first["names"]), (&json!("acme"), &json!([NAME])));
    assert_eq!(first["error"], Value::Null);
    let first = first["fingerprint"].as_str().unwrap().to_owned();
    says_hi(&node, &first, tcp.port()).await;

    // What is kept is the node's own.
    let cache = node.file("acme");
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&cache), 0o700);
    let files: Vec<_> =
        std::fs::read_dir(&cache).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    for file in &files {
        assert_eq!(mode(file), 0o600, "{file:?}");
    }

    let second = certificate_with(&node, |now| now["fingerprint"] != json!(first)).await;
    assert_eq!(second["error"], Value::Null);
    let second = second["fingerprint"].as_str().unwrap().to_owned();
    says_hi(&node, &second, tcp.port()).await;

    // The server is gone when the next renewal is due.
    pebble.pause().await;
    let failed = certificate_with(&node, |now| !now["error"].is_null()).await;
    node.logged("the certificate was not replaced").await;
    node.logged("the ACME server is asked again after a pause").await;
    let kept = failed["fingerprint"].as_str().unwrap().to_owned();
    says_hi(&node, &kept, tcp.port()).await;
    old.assert_answered().await;
    let log = node.process().stderr();
    for file in &files {
        let kept = std::fs::read_to_string(file).unwrap();
        for line in kept.lines().filter(|line| !line.starts_with("-----")) {
            assert!(!log.contains(line), "what is kept in {file:?} is in the log");
        }
    }
}

#[tokio::test]
async fn k30_a_kept_certificate_serves_after_a_restart_without_asking_again() {
    let tcp = reserve_tcp();
    let mut pebble = Pebble::start(Ports { http: 1, tls: tcp.port() }, 3_600).await;
    let node = NodeFolder::developed();
    node.append("node.toml", &format!("[endpoint.tcp]\nlisten = [\"{tcp}\"]\n"));
    node.append("node.toml", &pebble.identity(NAME));
    let node = node.start(&[]).await;
    let first = certificate_with(&node, issued).await;
    let (folder, process) = node.into_parts();
    process.signal("TERM").await;
    assert_eq!(process.ended().await.status, Some(0));
    pebble.pause().await;
    let node = folder.start(&[]).await;
    let kept = certificate_with(&node, |_| true).await;
    assert_eq!(kept["fingerprint"], first["fingerprint"]);
    assert_eq!(kept["error"], Value::Null);
    says_hi(&node, kept["fingerprint"].as_str().unwrap(), tcp.port()).await;
}

#[tokio::test]
async fn k30_a_certificate_is_issued_over_http() {
    let http = reserve_tcp();
    let pebble = Pebble::start(Ports { http: http.port(), tls: 1 }, 3_600).await;
    let node = NodeFolder::developed();
    let lines = format!("challenge = \"http-01\"\nhttp_listen = [\"{http}\"]\n");
    node.append("node.toml", &(pebble.identity(NAME) + &lines));
    let node = node.start(&[]).await;
    let shown = certificate_with(&node, issued).await;
    assert_eq!(shown["names"], json!([NAME]));
    let to = format!("alknet://{}@{}", shown["fingerprint"].as_str().unwrap(), node.listen());
    let said = node.alknet(["--to", &to, "call", "/echo/say", r#"{"text":"hi"}"#]).await;
    assert_eq!(said.json()["text"], "hi");
}

#[tokio::test]
async fn k30_a_name_that_cannot_be_validated_is_told_and_hinders_nothing() {
    let tcp = reserve_tcp();
    // The server looks where the node does not listen.
    let pebble = Pebble::start(Ports { http: 1, tls: reserve_tcp().port() }, 3_600).await;
    let node = NodeFolder::developed();
    node.append("node.toml", &format!("[endpoint.tcp]\nlisten = [\"{tcp}\"]\n"));
    node.append("node.toml", &pebble.identity(NAME));
    let node = node.start(&[]).await;
    let shown = certificate_with(&node, |now| !now["error"].is_null()).await;
    let error = shown["error"].as_str().unwrap();
    assert!(error.contains("could not validate node.test"), "{error}");
    assert!(error.contains("TCP port 443 is open"), "{error}");
    assert_eq!(shown["fingerprint"], Value::Null);
    let status = node.alknet(["status"]).await;
    assert!(status.text().contains("certificate (acme): none yet; not replaced:"), "{status:?}");
    // Raw keys work without.
    node.client().await.assert_answered().await;
    let to = format!("alknet+tcp://{}@{tcp}", node.key());
    let said = node.alknet(["--to", &to, "call", "/echo/say", r#"{"text":"hi"}"#]).await;
    assert_eq!(said.json()["text"], "hi");
}
