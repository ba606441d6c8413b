//! Clients that leave, and a node that shuts down.

use super::*;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

#[tokio::test]
async fn c47_c50_a_client_that_leaves_aborts_its_call() {
    let site = site("").await;
    let watcher = site.client().await;
    for flag in ["--http1.1", "--http2"] {
        let body = r#"{"operation":"native/wait","input":{}}"#;
        let arguments = [flag, "--header", "content-type: application/json", "--data-binary", body];
        let mut curl = site.command("/call", &arguments).spawn().unwrap();
        in_flight_becomes(&watcher, "native/wait", 1).await;
        curl.kill().await.unwrap();
        in_flight_becomes(&watcher, "native/wait", 0).await;
    }
}

#[tokio::test]
async fn c48_a_client_that_leaves_a_subscription_ends_it() {
    let site = site("").await;
    let watcher = site.client().await;
    for flag in ["--http1.1", "--http2"] {
        let path = "/subscribe?operation=native/count&input=null";
        let mut curl = site.command(path, &[flag]).spawn().unwrap();
        let mut lines = BufReader::new(curl.stdout.take().unwrap()).lines();
        while within(lines.next_line()).await.unwrap().unwrap() != "data: 1000" {}
        // It reads no more, and the producer waits for it.
        in_flight_becomes(&watcher, "native/count", 1).await;
        curl.kill().await.unwrap();
        in_flight_becomes(&watcher, "native/count", 0).await;
    }
}

#[tokio::test]
async fn a_node_that_drains_is_not_ready_and_ends_what_it_serves() {
    let site = site("drain_ms = 200").await;
    assert_eq!(site.curl("/healthz", &[]).await.ok(), json!({ "status": "ok" }));
    assert_eq!(site.curl("/readyz", &[]).await.ok(), json!({ "status": "ready" }));
    let subscription = site.command("/subscribe?operation=native/count&input=null", &[]);
    let mut subscription = { subscription }.spawn().unwrap();
    let mut lines = BufReader::new(subscription.stdout.take().unwrap()).lines();
    while within(lines.next_line()).await.unwrap().unwrap() != "data: 10" {}
    // A request that has begun when the drain does.
    let (mut late, mut answer) = bad_input::raw(&site).await;
    late.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n").await.unwrap();
    late.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    site.process().signal("TERM").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    late.write_all(b"\r\n").await.unwrap();
    let text = bad_input::read(&mut answer).await;
    assert!(text.starts_with("HTTP/1.1 503") && text.contains("draining"), "{text}");
    let mut last = String::new();
    while let Some(line) = within(lines.next_line()).await.unwrap() {
        if line.starts_with("event: ") {
            last = line;
        }
    }
    assert_eq!(last, "event: failed");
    assert_eq!(within(subscription.wait()).await.unwrap().code(), Some(0), "it ends cleanly");
    let (_folder, process) = site.node.into_parts();
    assert_eq!(process.ended().await.status, Some(0));
}
