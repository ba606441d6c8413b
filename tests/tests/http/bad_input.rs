//! What clients must not send.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout};

/// The answers of a TLS client that knows no HTTP. Its process goes with this.
pub(super) struct Answers(Child, ChildStdout);

/// Bytes to the node, over TLS alone, as HTTP/1.1.
pub(super) async fn raw(site: &Site) -> (ChildStdin, Answers) {
    raw_with(site, "http/1.1").await
}

/// Bytes to the node, over TLS alone.
pub(super) async fn raw_with(site: &Site, alpn: &str) -> (ChildStdin, Answers) {
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-no_ign_eof", "-alpn", alpn, "-servername", "localhost"])
        .args(["-connect", &site.tcp.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("openssl is installed");
    let (stdin, stdout) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    (stdin, Answers(client, stdout))
}

/// Everything until the node ends the connection.
pub(super) async fn read(answers: &mut Answers) -> String {
    let mut text = Vec::new();
    within(answers.1.read_to_end(&mut text)).await.unwrap();
    let _ended = answers.0.start_kill();
    String::from_utf8_lossy(&text).into_owned()
}

pub(super) async fn told(site: &Site, request: &[u8]) -> String {
    let (mut stdin, mut answers) = raw(site).await;
    stdin.write_all(request).await.unwrap();
    stdin.flush().await.unwrap();
    read(&mut answers).await
}

#[tokio::test]
async fn malformed_http_is_told_and_ends_its_connection() {
    let site = site("header_timeout_ms = 1000").await;
    let many = format!("GET /healthz HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(200));
    let long = format!("GET /healthz HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    for (request, status) in [
        ("\0\0\0\0\r\n\r\n", "400"),
        ("GET\r\n\r\n", "400"),
        ("GET /healthz HTTP/1.1\r\nno colon\r\n\r\n", "400"),
        ("GET /healthz HTTP/9.9\r\n\r\n", "400"),
        ("POST /call HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n", "400"),
        // What one server takes for a body and another for the next request.
        (
            "POST /call HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
            "400",
        ),
        (
            "POST /call HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
            "400",
        ),
        (&*many, "431"),
        (&*long, "431"),
    ] {
        let told = told(&site, request.as_bytes()).await;
        let wanted = format!("HTTP/1.1 {status}");
        assert!(told.starts_with(&wanted), "{:.60} got {told}", request);
        assert_eq!(told.matches("HTTP/1.1").count(), 1, "{told}");
    }
    // A head that does not end.
    let nothing = told(&site, b"GET /healthz HTTP/1.1\r\nhost: a\r\n").await;
    assert!(nothing.is_empty() || nothing.starts_with("HTTP/1.1 408"), "{nothing}");
    site.client().await.assert_answered().await;
}

#[tokio::test]
async fn bodies_are_json_of_a_bounded_size_that_comes_in_time() {
    let site = site("body_bytes = 2048, body_timeout_ms = 500").await;
    let kind = ["--header", "content-type: application/json"];
    for invalid in [
        "",
        "{",
        "[]",
        "nul",
        r#"{"operation":"echo/say"}"#,
        r#"{"operation":1,"input":{}}"#,
        r#"{"operation":"echo/say","input":{},"more":1}"#,
        r#"{"operation":"echo/say","input":{}} x"#,
    ] {
        let told = site.curl("/call", &[&kind[..], &["--data-binary", invalid]].concat()).await;
        told.problem(422, "INVALID_INPUT");
    }
    let input = r#"{"operation":"echo/say","input":{"text":"a"}}"#;
    for wrong in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx"] {
        let header = format!("content-type: {wrong}");
        let told = site.curl("/call", &["--header", &header, "--data-binary", input]).await;
        told.problem(415, "INVALID_INPUT");
    }
    let large = format!(r#"{{"operation":"echo/say","input":{{"text":"{}"}}}}"#, "a".repeat(4096));
    for flag in ["--http1.1", "--http2"] {
        for more in [&[][..], &["--header", "transfer-encoding: chunked"]] {
            if flag == "--http2" && !more.is_empty() {
                continue;
            }
            let own = [flag, "--data-binary", &large];
            let told = site.curl("/call", &[&kind[..], &own, more].concat()).await;
            told.problem(413, "INVALID_INPUT");
        }
    }
    let slow = told(
        &site,
        b"POST /call HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
          content-length: 100\r\n\r\n{",
    )
    .await;
    assert!(slow.starts_with("HTTP/1.1 408") && slow.contains("500 ms"), "{slow}");
    for query in ["/search?limit=x", "/search?limit=-1", "/search?x=1", "/schema", "/subscribe"] {
        site.curl(query, &[]).await.problem(422, "INVALID_INPUT");
    }
    site.curl("/subscribe?operation=native/count&input=%7B", &[])
        .await
        .problem(422, "INVALID_INPUT");
    site.call("/echo/say", json!({ "text": "still" }), &[]).await.ok();
}
