//! The call protocol over WebSocket, with a client that others wrote.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::*;

type Stream = TlsStream<TcpStream>;

/// A TLS connection to the node, for these protocols.
pub(super) async fn tls(site: &Site, alpn: &str) -> Stream {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(site.certificate()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.into()];
    let stream = TcpStream::connect(site.tcp).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

fn asking(site: &Site, headers: &[(&str, &str)]) -> Request {
    let url = format!("wss://localhost:{}/alknet/call", site.tcp.port());
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
    }
    request
}

async fn upgraded(site: &Site, headers: &[(&str, &str)]) -> Result<(Socket, Response), Error> {
    let stream = tls(site, "http/1.1").await;
    let request = asking(site, headers);
    let (socket, response) = within(tokio_tungstenite::client_async(request, stream)).await?;
    Ok((Socket(socket), response))
}

/// A socket of the API key with the scope `inner`.
async fn socket(site: &Site) -> Socket {
    let token = format!("Bearer {INNER}");
    upgraded(site, &[("authorization", &token)]).await.unwrap().0
}

struct Socket<S = Stream>(WebSocketStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    async fn send(&mut self, message: Message) {
        within(self.0.send(message)).await.unwrap();
    }

    async fn envelope(&mut self, envelope: &Value) {
        self.send(Message::Binary(envelope.to_string().into())).await;
    }

    async fn ask(&mut self, id: &str, operation: &str, input: Value) {
        self.ask_as(id, operation, input, json!({})).await;
    }

    async fn ask_as(&mut self, id: &str, operation: &str, input: Value, more: Value) {
        let mut payload = json!({ "operationId": operation, "input": input });
        payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.envelope(&json!({ "type": "call.requested", "id": id, "payload": payload })).await;
    }

    async fn abort(&mut self, id: &str) {
        self.envelope(&json!({ "type": "call.aborted", "id": id, "payload": {} })).await;
    }

    /// The next envelope, which nothing stands before.
    async fn next(&mut self) -> Value {
        loop {
            match within(self.0.next()).await.unwrap().unwrap() {
                Message::Binary(message) => return serde_json::from_slice(&message).unwrap(),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The payload of the next envelope, which is of this type and for this call.
    async fn payload(&mut self, kind: &str, id: &str) -> Value {
        let mut envelope = self.next().await;
        assert_eq!((&envelope["type"], &envelope["id"]), (&json!(kind), &json!(id)), "{envelope}");
        envelope["payload"].take()
    }

    async fn output(&mut self, id: &str) -> Value {
        self.payload("call.responded", id).await["output"].take()
    }

    /// The code and reason that the node closes the socket with.
    async fn closed(mut self) -> (u16, String) {
        let frame = loop {
            match within(self.0.next()).await {
                Some(Ok(Message::Close(frame))) => break frame.unwrap(),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        };
        // Nothing follows, and the stream under it ends cleanly.
        let after = within(self.0.next()).await;
        assert!(after.is_none(), "{after:?} follows {frame:?}");
        (frame.code.into(), frame.reason.to_string())
    }
}

#[tokio::test]
async fn c04_one_binary_message_is_one_envelope() {
    let site = site("").await;
    let mut socket = socket(&site).await;
    socket.ask("a", "/echo/say", json!({ "text": "hi" })).await;
    assert_eq!(socket.output("a").await, json!({ "text": "hi" }));
    socket.ask("b", "/echo/none", json!({})).await;
    let error = socket.payload("call.error", "b").await;
    assert_eq!((&error["code"], &error["retryable"]), (&json!("NOT_FOUND"), &json!(false)));
    // Malformed, with an id: an answer, and the socket goes on.
    socket.envelope(&json!({ "type": "call.requested", "id": "c", "payload": {} })).await;
    assert_eq!(socket.payload("call.error", "c").await["code"], "INVALID_INPUT");
    // Unknown, and skipped.
    socket.envelope(&json!({ "type": "call.sung", "id": "d", "payload": {} })).await;
    // In fragments, with a ping between them.
    let text = json!({ "type": "call.requested", "id": "e",
        "payload": { "operationId": "/echo/say", "input": { "text": "parts" } } })
    .to_string();
    let cut = [&text[..10], &text[10..11], &text[11..]];
    for (n, part) in cut.into_iter().enumerate() {
        let opcode = OpCode::Data(if n == 0 { Data::Binary } else { Data::Continue });
        let frame = Frame::message(part.as_bytes().to_vec(), opcode, n == 2);
        socket.send(Message::Frame(frame)).await;
        socket.send(Message::Ping("between".into())).await;
    }
    let mut pongs = 0;
    loop {
        match within(socket.0.next()).await.unwrap().unwrap() {
            Message::Pong(data) => {
                assert_eq!(&data[..], b"between");
                pongs += 1;
            }
            Message::Binary(answer) => {
                let answer: Value = serde_json::from_slice(&answer).unwrap();
                assert_eq!(answer["payload"]["output"], json!({ "text": "parts" }));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(pongs >= 1, "the first pings came before the last fragment");
    socket.send(Message::Close(None)).await;
    assert!(matches!(within(socket.0.next()).await, Some(Ok(Message::Close(_)))));
    assert!(within(socket.0.next()).await.is_none());
}

#[tokio::test]
async fn c04_an_upgrade_without_a_valid_token_is_401() {
    let site = site("").await;
    let refused = |result: Result<(Socket, Response), Error>| match result {
        Err(Error::Http(response)) => response,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it is let in"),
    };
    let wrong = format!("Bearer {INNER}x");
    let hidden = base64(&format!("{INNER}x"));
    let hidden = format!("alknet.call, alknet.bearer.{hidden}");
    for (headers, challenge) in [
        (vec![], "Bearer realm=\"alknet\""),
        (vec![("sec-websocket-protocol", "alknet.call")], "Bearer realm=\"alknet\""),
        (vec![("authorization", &*wrong)], "Bearer realm=\"alknet\", error=\"invalid_token\""),
        (
            vec![("sec-websocket-protocol", &*hidden)],
            "Bearer realm=\"alknet\", error=\"invalid_token\"",
        ),
    ] {
        let response = refused(upgraded(&site, &headers).await);
        assert_eq!(response.status(), 401, "{headers:?}");
        assert_eq!(response.headers()["www-authenticate"], challenge);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
    let token = format!("Bearer {INNER}");
    for (name, value, status) in [
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("sec-websocket-version", "8", 426),
        ("sec-websocket-protocol", "chat", 422),
    ] {
        let headers = [("authorization", &*token), (name, value)];
        assert_eq!(refused(upgraded(&site, &headers).await).status(), status, "{name}: {value}");
    }
    // A token in the address is none.
    let path = format!("/alknet/call?token={INNER}&access_token={INNER}");
    let upgrade = ["--http1.1", "--header", "connection: upgrade", "--header"];
    let version = ["--header", "sec-websocket-version: 13"];
    let key = ["--header", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="];
    let upgrade = [&upgrade[..], &["upgrade: websocket"], &version, &key].concat();
    site.curl(&path, &upgrade).await.problem(401, "FORBIDDEN");
    // And no upgrade is none.
    for flag in ["--http1.1", "--http2"] {
        for method in ["GET", "POST"] {
            let asked = site.curl("/alknet/call", &[flag, "--request", method]).await;
            asked.problem(426, "INVALID_INPUT");
            let upgrade = (flag == "--http1.1").then_some("websocket");
            assert_eq!(asked.header("upgrade"), upgrade);
        }
    }
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(text)
}

#[tokio::test]
async fn c04_sockets_share_an_http2_connection_with_requests() {
    let site = site("").await;
    let watcher = site.client().await;
    let stream = TokioIo::new(tls(&site, "h2").await);
    let (mut requests, connection) =
        within(hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)).await.unwrap();
    tokio::spawn(connection);
    let url = |path: &str| format!("{}{path}", site.url(""));
    let connect = |token: &str| {
        hyper::Request::connect(url("/alknet/call"))
            .extension(hyper::ext::Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13")
            .header(
                "sec-websocket-protocol",
                format!("alknet.call, alknet.bearer.{}", base64(token)),
            )
            .body(Empty::<bytes::Bytes>::new())
            .unwrap()
    };
    // Until the node has said that it takes them.
    let refused = within(async {
        loop {
            requests.ready().await.unwrap();
            if let Ok(refused) = requests.send_request(connect("alk_wrong")).await {
                return refused;
            }
        }
    })
    .await;
    assert_eq!(refused.status(), 401);
    let mut sockets = Vec::new();
    for n in 0..16 {
        let response = within(requests.send_request(connect(INNER))).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], "alknet.call");
        let stream = TokioIo::new(within(hyper::upgrade::on(response)).await.unwrap());
        let mut socket = Socket(WebSocketStream::from_raw_socket(stream, Role::Client, None).await);
        // Ids are the socket's own.
        socket.ask("w", "/native/wait", json!({})).await;
        socket.ask("i", "/native/inner", json!({})).await;
        socket.output("i").await;
        in_flight_becomes(&watcher, "native/wait", n + 1).await;
        sockets.push(socket);
    }
    let full = within(requests.send_request(connect(INNER))).await.unwrap();
    assert_eq!(full.status(), 429);
    let plain = hyper::Request::get(url("/healthz")).body(Empty::new()).unwrap();
    assert_eq!(within(requests.send_request(plain)).await.unwrap().status(), 200);
    let mut last = sockets.pop().unwrap();
    last.send(Message::text("no")).await;
    assert_eq!(last.closed().await.0, 1002);
    in_flight_becomes(&watcher, "native/wait", 15).await;
    let again = within(requests.send_request(connect(INNER))).await.unwrap();
    assert_eq!(again.status(), 200);
    drop((requests, sockets, again));
    in_flight_becomes(&watcher, "native/wait", 0).await;
}

#[tokio::test]
async fn c04_c28_the_upgrades_token_holds_for_requests_that_bring_none() {
    let site = site(r#"origins = ["https://app.example"]"#).await;
    let hidden = format!("alknet.call, alknet.bearer.{}", base64(INNER));
    let headers = [("sec-websocket-protocol", &*hidden), ("origin", "https://app.example")];
    let (mut socket, response) = upgraded(&site, &headers).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "alknet.call");
    socket.ask("a", "/native/inner", json!({})).await;
    assert_eq!(socket.output("a").await["identity"]["scopes"], json!(["inner"]));
    socket.ask_as("b", "/native/context", json!({}), json!({ "auth_token": ADMIN })).await;
    assert_eq!(socket.output("b").await["identity"]["scopes"], json!(["admin"]));
    socket.ask_as("c", "/native/inner", json!({}), json!({ "auth_token": ADMIN })).await;
    assert_eq!(socket.payload("call.error", "c").await["code"], "FORBIDDEN");
    socket.ask_as("d", "/echo/say", json!({ "text": "" }), json!({ "auth_token": "alk_no" })).await;
    assert_eq!(socket.payload("call.error", "d").await["message"], "invalid token");
    socket.ask("e", "/native/inner", json!({})).await;
    socket.output("e").await;
}

#[tokio::test]
async fn c04_c19_a_client_that_does_not_read_holds_up_its_subscription() {
    let site = site("").await;
    let watcher = site.client().await;
    let mut socket = socket(&site).await;
    let before = site.resident_bytes();
    socket.ask("s", "/native/count", json!(null)).await;
    in_flight_becomes(&watcher, "native/count", 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = site.resident_bytes();
    assert!(after < before + (16 << 20), "{before} bytes became {after}");
    for n in 0..200_000 {
        let item = socket.next().await;
        assert_eq!(item["payload"]["output"], n);
    }
    // An abort is heard though answers are under way, and nothing follows it.
    socket.abort("s").await;
    in_flight_becomes(&watcher, "native/count", 0).await;
    socket.ask("t", "/echo/say", json!({ "text": "after" })).await;
    loop {
        let envelope = socket.next().await;
        if envelope["id"] == "t" {
            break;
        }
        assert_eq!(envelope["type"], "call.responded", "{envelope}");
    }
}

#[tokio::test]
async fn c04_c47_c51_aborts_and_lost_sockets_stop_what_runs() {
    let site = site("").await;
    let watcher = site.client().await;
    let mut one = socket(&site).await;
    one.ask("w", "/native/wait", json!({})).await;
    in_flight_becomes(&watcher, "native/wait", 1).await;
    one.abort("w").await;
    in_flight_becomes(&watcher, "native/wait", 0).await;
    // A deadline of the caller's.
    one.ask_as("t", "/native/wait", json!({}), json!({ "timeout_ms": 50 })).await;
    assert_eq!(one.payload("call.error", "t").await["code"], "TIMEOUT");
    for gentle in [true, false] {
        let mut other = socket(&site).await;
        other.ask("w", "/native/wait", json!({})).await;
        in_flight_becomes(&watcher, "native/wait", 1).await;
        if gentle {
            other.send(Message::Close(None)).await;
        }
        drop(other);
        in_flight_becomes(&watcher, "native/wait", 0).await;
    }
    one.ask("e", "/echo/say", json!({ "text": "still" })).await;
    assert_eq!(one.output("e").await, json!({ "text": "still" }));
}

#[tokio::test]
async fn c04_what_is_no_envelope_closes_its_socket_alone() {
    let site = site("max_frame_bytes = 4096").await;
    let watcher = site.client().await;
    let mut healthy = socket(&site).await;
    let large = vec![b' '; 5000];
    let fragment = |n: usize| {
        let opcode = OpCode::Data(if n == 0 { Data::Binary } else { Data::Continue });
        Message::Frame(Frame::message(large[..2500].to_vec(), opcode, n == 1))
    };
    let cases = [
        ("text", vec![Message::text(r#"{"type":"call.aborted","id":"x","payload":{}}"#)], 1002),
        ("garbage", vec![Message::Binary(vec![0xff; 100].into())], 1002),
        ("an empty message", vec![Message::Binary(vec![].into())], 1002),
        ("no id", vec![Message::Binary(r#"{"type":"call.requested","payload":{}}"#.into())], 1002),
        ("a large message", vec![Message::Binary(large.clone().into())], 1009),
        ("large fragments", vec![fragment(0), fragment(1)], 1009),
        (
            "no such opcode",
            vec![Message::Frame(Frame::message(vec![], OpCode::Data(Data::Reserved(3)), true))],
            1002,
        ),
    ];
    for (name, messages, code) in cases {
        let mut socket = socket(&site).await;
        socket.ask("w", "/native/wait", json!({})).await;
        in_flight_becomes(&watcher, "native/wait", 1).await;
        for message in messages {
            socket.send(message).await;
        }
        let (told, reason) = socket.closed().await;
        assert_eq!(told, code, "{name}: {reason}");
        assert!(!reason.is_empty(), "{name}");
        in_flight_becomes(&watcher, "native/wait", 0).await;
    }
    // As large as may be.
    let frame = json!({ "type": "call.requested", "id": "l",
        "payload": { "operationId": "/echo/say", "input": { "text": "" } } });
    let text = "x".repeat(4096 - frame.to_string().len());
    healthy.ask("l", "/echo/say", json!({ "text": text })).await;
    assert_eq!(healthy.output("l").await, json!({ "text": text }));
}

#[tokio::test]
async fn c04_a_dead_peer_is_given_up() {
    let site = site("silence_ms = 400").await;
    let watcher = site.client().await;
    let mut alive = socket(&site).await;
    let mut dead = socket(&site).await;
    dead.ask("w", "/native/wait", json!({})).await;
    in_flight_becomes(&watcher, "native/wait", 1).await;
    // It reads nothing more, and so answers no ping; the other does.
    let (seen, ()) = tokio::join!(
        tokio::time::timeout(Duration::from_secs(2), async {
            loop {
                let message = alive.0.next().await.unwrap().unwrap();
                assert!(message.is_ping(), "{message:?}");
            }
        }),
        in_flight_becomes(&watcher, "native/wait", 0),
    );
    assert!(seen.is_err(), "an answering peer is left alone");
    // It was told, and would hear it had it not a ping to answer first.
    while let Some(Ok(message)) = within(dead.0.next()).await {
        assert!(message.is_ping() || message.is_close(), "{message:?}");
    }
    alive.ask("e", "/echo/say", json!({ "text": "still" })).await;
    assert_eq!(alive.output("e").await, json!({ "text": "still" }));
}

#[tokio::test]
async fn c04_a_node_that_drains_closes_its_sockets_after_the_last_answers() {
    let site = site("drain_ms = 500").await;
    let watcher = site.client().await;
    let (idle, mut busy) = (socket(&site).await, socket(&site).await);
    busy.ask("w", "/native/wait", json!({})).await;
    busy.ask("s", "/native/count", json!(1)).await;
    assert_eq!(busy.output("s").await, 0);
    busy.payload("call.completed", "s").await;
    in_flight_becomes(&watcher, "native/wait", 1).await;
    drop(watcher);
    site.process().signal("TERM").await;
    assert_eq!(idle.closed().await.0, 1001);
    busy.ask("late", "/echo/say", json!({ "text": "" })).await;
    busy.payload("call.aborted", "late").await;
    busy.payload("call.aborted", "w").await;
    assert_eq!(busy.closed().await.0, 1001);
    let (_folder, process) = site.node.into_parts();
    assert_eq!(process.ended().await.status, Some(0));
}
