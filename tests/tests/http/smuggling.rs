//! Requests that two servers take for different ones.

use super::bad_input::{read, told};
use super::*;
use tokio::io::AsyncWriteExt;

/// What somebody hopes to get past a proxy.
const SMUGGLED: &str = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";

const CALL: &str = r#"{"operation":"echo/say","input":{"text":"hi"}}"#;

/// Sends a head for `POST /call`, a body and another request, and takes what comes
/// until the node ends the connection, which must be one answer.
async fn one_answer(site: &Site, fields: &str, body: &str) -> String {
    let head = format!("POST /call HTTP/1.1\r\ncontent-type: application/json\r\n{fields}\r\n");
    let told = told(site, format!("{head}{body}{SMUGGLED}").as_bytes()).await;
    assert_eq!(told.matches("HTTP/1.1 ").count(), 1, "{fields:?} got {told}");
    told
}

#[tokio::test]
async fn requests_of_no_clear_length_are_refused_and_end_their_connection() {
    let site = site("").await;
    let chunked = format!("{:x}\r\n{CALL}\r\n0\r\n\r\n", CALL.len());
    for fields in [
        // Two lengths, or one that is no number.
        "host: localhost\r\ncontent-length: 46\r\ncontent-length: 47\r\n",
        "host: localhost\r\ncontent-length: 46, 47\r\n",
        "host: localhost\r\ncontent-length: +46\r\n",
        "host: localhost\r\ncontent-length: -1\r\n",
        "host: localhost\r\ncontent-length: 0x2e\r\n",
        "host: localhost\r\ncontent-length:\r\n",
        "host: localhost\r\ncontent-length: 99999999999999999999999\r\n",
        // Codings that some take for `chunked`, and some do not.
        "host: localhost\r\ntransfer-encoding: xchunked\r\n",
        "host: localhost\r\ntransfer-encoding: chunked, identity\r\n",
        "host: localhost\r\ntransfer-encoding: identity, chunked\r\n",
        "host: localhost\r\ntransfer-encoding: chunked, chunked\r\n",
        "host: localhost\r\ntransfer-encoding: identity\r\n",
        "host: localhost\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "host: localhost\r\ntransfer-encoding: identity\r\ntransfer-encoding: chunked\r\n",
        "host: localhost\r\ntransfer-encoding: \"chunked\"\r\n",
        "host: localhost\r\ntransfer-encoding: \u{b}chunked\r\n",
        // Fields that some do not see, or see elsewhere.
        "host: localhost\r\ntransfer-encoding : chunked\r\n",
        "host: localhost\r\n transfer-encoding: chunked\r\n",
        "host: localhost\r\nx: y\r\n transfer-encoding: chunked\r\n",
        "host: localhost\r\nx: y\rtransfer-encoding: chunked\r\n",
        "host: localhost\r\nx\0y: z\r\ntransfer-encoding: chunked\r\n",
        "host: localhost\r\nx: y\0\r\ntransfer-encoding: chunked\r\n",
        "host: localhost\r\n: y\r\ntransfer-encoding: chunked\r\n",
        // For nobody, for two, or for different ones.
        "transfer-encoding: chunked\r\n",
        "host: localhost\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n",
    ] {
        let told = one_answer(&site, fields, &chunked).await;
        assert!(told.starts_with("HTTP/1.1 400 "), "{fields:?} got {told}");
    }
    let other = "GET https://node.test/healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let told = told(&site, format!("{other}{SMUGGLED}").as_bytes()).await;
    assert!(told.starts_with("HTTP/1.1 400 ") && told.contains("different hosts"), "{told}");
    assert_eq!(told.matches("HTTP/1.1 ").count(), 1, "{told}");
    site.client().await.assert_answered().await;
}

#[tokio::test]
async fn a_request_with_a_length_and_chunks_has_chunks_and_is_the_last() {
    let site = site("").await;
    let chunked = format!("{:x}\r\n{CALL}\r\n0\r\n\r\n", CALL.len());
    for fields in [
        "host: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n",
        "host: localhost\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n",
    ] {
        let told = one_answer(&site, fields, &chunked).await;
        assert!(told.starts_with("HTTP/1.1 200 ") && told.contains("hi"), "{told}");
    }
}

#[tokio::test]
async fn broken_chunks_are_no_body() {
    let site = site("").await;
    for body in
        ["zz\r\n{}\r\n0\r\n\r\n", "2\r\n{}0\r\n\r\n", "fffffffffffffffff\r\n{}", "-2\r\n{}\r\n"]
    {
        let fields = "host: localhost\r\ntransfer-encoding: chunked\r\n";
        let told = one_answer(&site, fields, body).await;
        assert!(told.starts_with("HTTP/1.1 400 "), "{body:?} got {told}");
    }
    // Clients that send one line feed for a line end mean the same to everybody.
    let plain = "GET /healthz HTTP/1.1\nhost: localhost\nconnection: close\n\n";
    let told = told(&site, plain.as_bytes()).await;
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
}

/// The first bytes of a client of HTTP/2: its preface, and settings of none.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn idle_and_silent_connections_of_http2_are_closed() {
    // Without a request, and without an answer to a ping.
    for config in [
        "idle_timeout_ms = 300, ping_ms = 500, header_timeout_ms = 500",
        "ping_ms = 200, header_timeout_ms = 200",
    ] {
        let site = site(config).await;
        let (mut client, mut answers) = bad_input::raw_with(&site, "h2").await;
        client.write_all(HELLO).await.unwrap();
        client.flush().await.unwrap();
        read(&mut answers).await;
        // A call that takes longer keeps its connection.
        let late = ["--http2", "--header", "alknet-timeout-ms: 1500"];
        let late = site.call("/native/wait", json!({}), &late).await;
        late.problem(504, "TIMEOUT");
    }
}
