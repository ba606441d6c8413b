//! The web client in Chromium, served by the node that it calls.

use alknet_call_protocol::websocket::{SUBPROTOCOL, WebSocket};
use alknet_call_protocol::{ALPN, CallClient, CallConnection, Options};
use alknet_plugin_api::{ConnectionInfo, Source};
use alknet_tests::browser::{Page, page};
use alknet_tests::daemon::Tokio;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use super::*;

/// A node that serves the page, and the page.
async fn opened(config: &str) -> (Site, tempfile::TempDir, Page) {
    let root = tempfile::tempdir().unwrap();
    page(root.path());
    let site = site(&format!("static_root = {:?}, {config}", root.path())).await;
    let page = Page::open(&site.url("/index.html")).await;
    (site, root, page)
}

#[tokio::test]
async fn c04_a_page_calls_its_node() {
    let (site, _root, mut page) = opened("drain_ms = 300").await;
    let watcher = site.client().await;
    for token in [json!(null), json!("alk_wrong")] {
        let refused = page.run("open", json!({ "token": token, "transport": "websocket" })).await;
        assert_eq!(refused["error"]["code"], "INTERNAL", "{refused}");
    }
    let connected = page.run("open", json!({ "token": INNER })).await;
    assert_eq!(connected, json!({ "output": "websocket" }));

    let said = page.run("call", json!(["echo/say", { "text": "hi" }])).await;
    assert_eq!(said, json!({ "output": { "text": "hi" } }));
    let inner = page.run("call", json!(["native/inner", {}])).await;
    assert_eq!(inner["output"]["identity"]["scopes"], json!(["inner"]));
    let other = page.run("call", json!(["native/context", {}, { "token": ADMIN }])).await;
    assert_eq!(other["output"]["identity"]["scopes"], json!(["admin"]));
    let error = page.run("call", json!(["echo/say", {}])).await["error"].take();
    assert_eq!((&error["name"], &error["call"]), (&json!("CallError"), &json!(true)));
    assert_eq!((&error["code"], &error["retryable"]), (&json!("INVALID_INPUT"), &json!(false)));
    assert!(error["details"][0]["message"].is_string(), "{error}");
    let calls = json!([{ "operation": "echo/say", "input": { "text": "a" } },
                       { "operation": "none/such", "input": {} }]);
    let results = page.run("batch", calls).await;
    assert_eq!(results[0]["output"], json!({ "text": "a" }));
    assert_eq!(results[1]["error"]["code"], "NOT_FOUND");

    // A deadline, and calls that are given up.
    let late = page.run("call", json!(["native/wait", {}, { "timeout": 50 }])).await;
    assert_eq!(
        (&late["error"]["code"], &late["error"]["retryable"]),
        (&json!("TIMEOUT"), &json!(true))
    );
    in_flight_becomes(&watcher, "native/wait", 0).await;
    page.run("begin", json!(["native/wait", {}])).await;
    in_flight_becomes(&watcher, "native/wait", 1).await;
    assert_eq!(page.run("give_up", json!(null)).await["error"]["name"], "AbortError");
    in_flight_becomes(&watcher, "native/wait", 0).await;

    // Subscriptions: left, not read, and none.
    let items = page.run("take", json!(["native/count", null, 2000])).await;
    assert_eq!(items, json!((0..2000).collect::<Vec<_>>()));
    in_flight_becomes(&watcher, "native/count", 0).await;
    let items = page.run("take", json!(["native/count", 3, 100])).await;
    assert_eq!(items, json!([0, 1, 2]));
    let ignored = page.run("ignore", json!(["native/count", null, 300])).await;
    assert_eq!(ignored["error"]["code"], "RESOURCE_EXHAUSTED", "{ignored}");
    assert_eq!(ignored["seen"], 1025);
    in_flight_becomes(&watcher, "native/count", 0).await;
    page.run("begin", json!(["echo/say", {}, true])).await;
    assert_eq!(page.run("end", json!(null)).await["error"]["code"], "INVALID_OPERATION_TYPE");

    // The end, by either side.
    page.run("begin", json!(["native/wait", {}])).await;
    in_flight_becomes(&watcher, "native/wait", 1).await;
    page.run("close", json!("enough")).await;
    assert_eq!(page.run("end", json!(null)).await["error"]["message"], "connection closed");
    in_flight_becomes(&watcher, "native/wait", 0).await;
    page.run("open", json!({ "token": INNER, "transport": "websocket" })).await;
    page.run("begin", json!(["native/wait", {}])).await;
    in_flight_becomes(&watcher, "native/wait", 1).await;
    drop(watcher);
    site.process().signal("TERM").await;
    assert_eq!(page.run("end", json!(null)).await["error"]["code"], "ABORTED");
    assert_eq!(page.run("closed", json!(null)).await["code"], 1001);
}

/// A certificate that browsers take by its hash: ECDSA, for less than two weeks.
fn short_lived(node: &NodeFolder) -> Vec<u8> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use sha2::Digest;
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "10", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .arg("-keyout")
        .arg(node.file("key.pem"))
        .arg("-out")
        .arg(node.file("chain.pem"))
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let certificate = CertificateDer::from_pem_file(node.file("chain.pem")).unwrap();
    sha2::Sha256::digest(&certificate).to_vec()
}

#[tokio::test]
async fn c04_c19_a_page_calls_its_node_over_webtransport() {
    let root = tempfile::tempdir().unwrap();
    page(root.path());
    let (node, tcp) = folder(&format!("static_root = {:?}, origins = [\"*\"]", root.path()));
    node.replace(
        "node.toml",
        "[identity.self_signed]\nnames = [\"localhost\", \"node.test\"]\n",
        "[identity.x509]\ncert = \"chain.pem\"\nkey = \"key.pem\"\n",
    );
    let hash = short_lived(&node);
    let url = format!("https://localhost:{}", node.listen().port());
    let site = start(node, tcp).await;
    let watcher = site.client().await;
    let mut page = Page::open(&site.url("/index.html")).await;
    let options =
        json!({ "url": url, "hashes": [hash], "token": INNER, "transport": "webtransport" });
    assert_eq!(page.run("open", options).await, json!({ "output": "webtransport" }));
    let inner = page.run("call", json!(["native/inner", {}])).await;
    assert_eq!(inner["output"]["identity"]["scopes"], json!(["inner"]));
    let error = page.run("call", json!(["none/such", {}])).await;
    assert_eq!(error["error"]["code"], "NOT_FOUND");
    let items = page.run("take", json!(["native/count", null, 2000])).await;
    assert_eq!(items, json!((0..2000).collect::<Vec<_>>()));
    in_flight_becomes(&watcher, "native/count", 0).await;
    // Nobody reads for a while, and nothing is lost.
    let all = page.run("ignore", json!(["native/count", 20_000, 300])).await;
    assert_eq!(all, json!({ "seen": 20_000 }));
    page.run("begin", json!(["native/wait", {}])).await;
    in_flight_becomes(&watcher, "native/wait", 1).await;
    page.run("give_up", json!(null)).await;
    in_flight_becomes(&watcher, "native/wait", 0).await;
    page.run("begin", json!(["native/wait", {}])).await;
    in_flight_becomes(&watcher, "native/wait", 1).await;
    page.run("close", json!("enough")).await;
    in_flight_becomes(&watcher, "native/wait", 0).await;
    assert_eq!(page.run("end", json!(null)).await["error"]["message"], "connection closed");
}

/// Waits for one page to connect.
// The refusal is a whole response, as the library has it.
#[expect(clippy::result_large_err)]
async fn accept(listener: TcpListener) -> CallConnection {
    let (stream, _) = listener.accept().await.unwrap();
    let chosen = |request: &Request, mut response: Response| {
        let asked = request.headers()["sec-websocket-protocol"].to_str().unwrap();
        assert!(asked.starts_with("alknet.call, alknet.bearer."), "{asked}");
        response.headers_mut().insert("sec-websocket-protocol", SUBPROTOCOL.parse().unwrap());
        Ok(response)
    };
    let socket = tokio_tungstenite::accept_hdr_async(stream, chosen).await.unwrap();
    let info = ConnectionInfo {
        id: 1,
        source: Source::Nested,
        alpn: ALPN.into(),
        remote_addr: None,
        peer_key: None,
    };
    let socket = WebSocket::server(info, Tokio::shared()).open(socket.into_inner());
    let (connection, socket) = socket.await;
    let (calls, driver) = CallClient::spawn_dispatch(connection, Options::new(Tokio::shared()));
    tokio::spawn(async move { tokio::join!(driver, socket) });
    calls
}

#[tokio::test]
async fn c04_c13_a_page_is_called() {
    let (_site, _root, mut page) = opened("").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/alknet/call", listener.local_addr().unwrap());
    let connect = page.run("open", json!({ "url": url, "token": INNER, "transport": "websocket" }));
    let (connected, calls) = tokio::join!(connect, within(accept(listener)));
    assert_eq!(connected, json!({ "output": "websocket" }));
    let ask = async |name, input: Value| {
        let answer = within(calls.call(name, input)).await;
        answer.map(|answer| answer.to::<Value>().unwrap())
    };
    assert_eq!(ask("page/title", json!({})).await.unwrap(), "A page that calls its node");
    let error = ask("page/fail", json!({})).await.unwrap_err();
    assert_eq!((&*error.code, &*error.message, error.retryable), ("PAGE_BUSY", "later", true));
    assert_eq!(error.details.unwrap().to_string(), r#"{"in_ms":5}"#);
    assert_eq!(ask("page/none", json!({})).await.unwrap_err().code, "NOT_FOUND");
    let mut items = within(calls.subscribe("page/count", json!(100))).await.unwrap();
    for n in 0..100 {
        assert_eq!(within(items.next()).await.unwrap().unwrap().to_string(), n.to_string());
    }
    assert!(within(items.next()).await.is_none());
    // Given up here, and stopped there.
    let mut endless = within(calls.subscribe("page/count", json!(1_000_000_000))).await.unwrap();
    within(endless.next()).await.unwrap().unwrap();
    drop(endless);
    page.run("counted", json!(null)).await;
    let waiting = calls.call("page/wait", json!({}));
    assert!(tokio::time::timeout(Duration::from_millis(50), waiting).await.is_err());
    // Calls the other way go on beside.
    let (there, here) =
        tokio::join!(page.run("call", json!(["none/such", {}])), ask("page/title", json!({})));
    assert_eq!(there["error"]["code"], "NOT_FOUND");
    here.unwrap();
    calls.connection().close(0, "done");
    let closed = page.run("closed", json!(null)).await;
    assert_eq!((&closed["code"], &closed["reason"]), (&json!(1000), &json!("done")));
}
