//! What strangers may send to a node, over QUIC, and what it costs: the stream
//! or the call that was wrong, and nobody else anything.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::net::UdpSocket;

use alknet::endpoint::Dialer;
use alknet_call_protocol::frame::{DEFAULT_MAX_FRAME, FrameDecoder};
use alknet_call_protocol::{ALPN, PROTOCOL_ERROR, reset};
use alknet_plugin_api::{Connection, RecvStream, SendStream, StreamError};
use alknet_tests::daemon::{Client, Daemon, NodeFolder, Running, built, within};
use futures_util::FutureExt;
use futures_util::future::{join_all, select_all};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// A node, somebody who uses it all the while, and somebody who does not behave.
struct Scene {
    bystander: Client,
    stranger: Connection,
    _dialer: Dialer,
    node: Daemon,
}

impl Scene {
    async fn new() -> Self {
        Self::of(NodeFolder::developed()).await
    }

    /// A node whose clock ticks, too.
    async fn ticking() -> Self {
        let node = NodeFolder::developed();
        let clock = node.file("clock.wasm");
        std::fs::copy(&built().clock, &clock).unwrap();
        node.append("node.toml", &format!("[[plugin]]\nname = \"clock\"\nartifact = {clock:?}\n"));
        Self::of(node).await
    }

    async fn of(node: NodeFolder) -> Self {
        let node = node.start(&[]).await;
        let bystander = node.client().await;
        bystander.assert_answered().await;
        let dialer = Dialer::new(None).unwrap();
        let stranger = node.dial(&dialer, ALPN).await.unwrap();
        Self { bystander, stranger, _dialer: dialer, node }
    }

    /// Everybody else is served as before, on old connections and on new ones.
    async fn assert_unharmed(&self) {
        self.bystander.assert_answered().await;
        let status = self.bystander.ask("/node/status", json!({})).await.unwrap();
        assert_eq!(status["degraded"], false);
        self.node.client().await.assert_answered().await;
    }

    /// What a stream with these bytes, and then its end, gets for an answer.
    async fn send(&self, bytes: &[u8]) -> Result<Vec<Value>, StreamError> {
        let (mut send, mut recv) = self.stranger.open_bi().await.unwrap();
        // It may be stopped before it is written, or reset once it is.
        let _stopped = send.write_all(bytes).await;
        let _reset = send.finish();
        let answer = within(recv.read_to_end(8 << 20)).await?;
        Ok(envelopes(&answer))
    }

    /// The code that such a stream is reset with.
    async fn assert_reset(&self, bytes: &[u8], code: u64) {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        match self.send(bytes).await {
            Err(StreamError::Reset(found)) => assert_eq!(found, code, "{shown:?}"),
            other => panic!("{shown:?}: {other:?}"),
        }
    }

    /// The one answer to a request.
    async fn answer(&self, request: &[u8]) -> Value {
        let mut answers = self.send(request).await.unwrap();
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
    }
}

fn framed(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    [&length.to_be_bytes()[..], content].concat()
}

fn frame(envelope: &Value) -> Vec<u8> {
    framed(envelope.to_string().as_bytes())
}

fn say(id: &str, text: &str) -> Vec<u8> {
    let payload = json!({ "operationId": "/echo/say", "input": { "text": text } });
    frame(&json!({ "type": "call.requested", "id": id, "payload": payload }))
}

fn envelopes(bytes: &[u8]) -> Vec<Value> {
    let mut decoder = FrameDecoder::new(DEFAULT_MAX_FRAME);
    decoder.buffer().extend_from_slice(bytes);
    let mut envelopes = Vec::new();
    while let Some(frame) = decoder.next_frame().unwrap() {
        envelopes.push(serde_json::from_slice(&frame).unwrap());
    }
    decoder.finish().unwrap();
    envelopes
}

/// Reads until there is one more envelope.
async fn next(recv: &mut RecvStream, decoder: &mut FrameDecoder) -> Result<Value, StreamError> {
    loop {
        if let Some(frame) = decoder.next_frame().unwrap() {
            return Ok(serde_json::from_slice(&frame).unwrap());
        }
        let mut buffer = vec![0; 64 << 10];
        let read = within(recv.read(&mut buffer)).await?.expect("the stream goes on");
        decoder.buffer().extend_from_slice(&buffer[..read]);
    }
}

#[tokio::test]
async fn what_is_no_frame_costs_the_stream() {
    let scene = Scene::new().await;
    let request = say("a", "hi");
    let too_long = u32::try_from(DEFAULT_MAX_FRAME + 1).unwrap().to_be_bytes();
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: alknet\r\n\r\n".as_slice(),
        &[0; 4],
        &[0xff; 4_096],
        &too_long,
        &request[..1],
        &request[..4],
        &request[..request.len() - 1],
        &[&request[..], &[0, 0]].concat(),
    ] {
        scene.assert_reset(bytes, reset::BAD_FRAME).await;
    }
    let answer = scene.answer(&request).await;
    assert_eq!(answer["payload"]["output"]["text"], "hi", "the connection lives");
    scene.assert_unharmed().await;
}

#[tokio::test]
async fn what_is_no_envelope_costs_the_stream() {
    let scene = Scene::new().await;
    let request = |id: &Value| {
        let payload = json!({ "operationId": "/echo/say", "input": { "text": "hi" } });
        json!({ "type": "call.requested", "id": id, "payload": payload }).to_string().into_bytes()
    };
    let no_type = br#"{"id":"a","payload":{}}"#.as_slice();
    let no_id = br#"{"type":"call.requested","payload":{}}"#.as_slice();
    for content in [
        b"nonsense".as_slice(),
        b"null",
        b"[]",
        b"{}",
        b"{\"type\":",
        b"{\"type\":\"call.requested\",\"id\":\"\xff\xfe\",\"payload\":{}}",
        no_type,
        no_id,
        &request(&json!("")),
        &request(&json!("x".repeat(129))),
        &request(&json!(7)),
        &request(&json!(null)),
        &b"[".repeat(500_000),
        &b"{\"a\":".repeat(100_000),
    ] {
        scene.assert_reset(&framed(content), reset::BAD_ENVELOPE).await;
    }
    assert_eq!(scene.answer(&say("a", "hi")).await["type"], "call.responded");
    scene.assert_unharmed().await;
}

#[tokio::test]
async fn requests_that_are_wrong_are_told_so() {
    let scene = Scene::new().await;
    let nobody = json!({ "id": "x", "scopes": [], "resources": {} });
    for (payload, code) in [
        (json!({}), "INVALID_INPUT"),
        (json!([]), "INVALID_INPUT"),
        (json!(null), "INVALID_INPUT"),
        (json!({ "operationId": "/echo/say" }), "INVALID_INPUT"),
        (json!({ "operationId": 7, "input": {} }), "INVALID_INPUT"),
        (json!({ "operationId": "/echo/say", "input": {}, "timeout_ms": -1 }), "INVALID_INPUT"),
        (json!({ "operationId": "/echo/say", "input": {}, "auth_token": 1 }), "INVALID_INPUT"),
        (
            json!({ "operationId": "/echo/say", "input": {}, "forwarded_for": vec![nobody; 9] }),
            "INVALID_INPUT",
        ),
        (json!({ "operationId": "/echo/say", "input": "hi" }), "INVALID_INPUT"),
        (json!({ "operationId": "/echo/say", "input": { "text": 7 } }), "INVALID_INPUT"),
        (json!({ "operationId": "/echo/say", "input": { "tex": "hi" } }), "INVALID_INPUT"),
        (json!({ "operationId": "/echo/shout", "input": {} }), "NOT_FOUND"),
        (json!({ "operationId": "", "input": {} }), "NOT_FOUND"),
        (json!({ "operationId": "/../node/status", "input": {} }), "NOT_FOUND"),
        (json!({ "operationId": "/node/status", "input": {} }), "FORBIDDEN"),
        (
            json!({ "operationId": "/echo/say", "input": { "text": "" }, "auth_token": "alk_x" }),
            "FORBIDDEN",
        ),
    ] {
        let request = json!({ "type": "call.requested", "id": "a", "payload": payload });
        let answer = scene.answer(&frame(&request)).await;
        assert_eq!(answer["type"], "call.error", "{request}");
        assert_eq!(answer["payload"]["code"], code, "{request}: {answer}");
    }
    // Deeper than anybody would read it.
    let deep = [&b"[".repeat(200_000)[..], &b"]".repeat(200_000)].concat();
    let mut request =
        br#"{"type":"call.requested","id":"a","payload":{"operationId":"/echo/say","input":"#
            .to_vec();
    request.extend_from_slice(&deep);
    request.extend_from_slice(b"}}");
    let answer = scene.answer(&framed(&request)).await;
    assert_eq!(answer["payload"]["code"], "INVALID_INPUT", "{answer}");
    scene.assert_unharmed().await;
}

#[tokio::test]
async fn k53_who_guesses_tokens_gets_no_new_connections() {
    let scene = Scene::new().await;
    for _ in 0..5 {
        let payload = json!({
            "operationId": "/echo/say", "input": { "text": "" }, "auth_token": "alk_guess",
        });
        let request = json!({ "type": "call.requested", "id": "a", "payload": payload });
        let answer = scene.answer(&frame(&request)).await;
        assert_eq!(answer["payload"]["code"], "FORBIDDEN", "{answer}");
    }
    let dialer = Dialer::new(None).unwrap();
    assert!(scene.node.dial(&dialer, ALPN).await.is_err(), "a guesser may come back");
    // Whoever is in is served on.
    scene.bystander.assert_answered().await;
}

#[tokio::test]
async fn events_that_nobody_waits_for_are_ignored() {
    let scene = Scene::new().await;
    let mut bytes = Vec::new();
    for (kind, payload) in [
        ("call.sung", json!({})),
        ("", json!(7)),
        ("call.responded", json!({ "output": 1 })),
        ("call.responded", json!({})),
        ("call.completed", json!({})),
        ("call.error", json!({ "code": "X", "message": "x", "retryable": true })),
        ("call.error", json!("x")),
        ("call.aborted", json!({})),
        ("call.aborted", json!({ "policy": 7 })),
    ] {
        bytes.extend(frame(&json!({ "type": kind, "id": "nobody's", "payload": payload })));
    }
    bytes.extend(say("a", "hi"));
    let answer = scene.answer(&bytes).await;
    assert_eq!((&answer["id"], &answer["type"]), (&json!("a"), &json!("call.responded")));
    scene.assert_unharmed().await;
}

#[tokio::test]
async fn an_id_in_use_costs_the_stream_that_takes_it_again() {
    let scene = Scene::ticking().await;
    let (mut send, mut recv) = scene.stranger.open_bi().await.unwrap();
    let input = json!({ "every_ms": 20 });
    let payload = json!({ "operationId": "/clock/ticks", "input": input });
    let subscribe = json!({ "type": "call.requested", "id": "mine", "payload": payload });
    send.write_all(&frame(&subscribe)).await.unwrap();
    let mut decoder = FrameDecoder::new(DEFAULT_MAX_FRAME);
    next(&mut recv, &mut decoder).await.unwrap();

    scene.assert_reset(&say("mine", "hi"), reset::BAD_ENVELOPE).await;
    // Its first user has noticed nothing, and can end it.
    for _ in 0..3 {
        assert_eq!(next(&mut recv, &mut decoder).await.unwrap()["type"], "call.responded");
    }
    let abort = json!({ "type": "call.aborted", "id": "mine", "payload": {} });
    send.write_all(&frame(&abort)).await.unwrap();
    scene.node.logged("call aborted").await;
    assert_eq!(scene.answer(&say("mine", "hi")).await["type"], "call.responded");
    scene.assert_unharmed().await;
}

#[tokio::test]
async fn a_frame_may_drip_and_holds_up_nobody() {
    let scene = Scene::new().await;
    let (mut send, mut recv) = scene.stranger.open_bi().await.unwrap();
    for byte in say("slow", "at last") {
        send.write_all(&[byte]).await.unwrap();
        scene.bystander.assert_answered().await;
    }
    let mut decoder = FrameDecoder::new(DEFAULT_MAX_FRAME);
    let answer = next(&mut recv, &mut decoder).await.unwrap();
    assert_eq!(answer["payload"]["output"]["text"], "at last");

    // Frames that are announced and never come take no memory.
    let before = scene.node.resident_bytes();
    let announced = u32::try_from(DEFAULT_MAX_FRAME).unwrap().to_be_bytes();
    let mut open = Vec::new();
    for _ in 0..500 {
        let (mut send, recv) = scene.stranger.open_bi().await.unwrap();
        send.write_all(&[&announced[..], b"{\"type\":"].concat()).await.unwrap();
        open.push((send, recv));
    }
    scene.assert_unharmed().await;
    let grown = scene.node.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "{} MiB for nothing", grown / MIB);
}

#[tokio::test]
async fn unfinished_frames_on_many_streams_take_a_bounded_amount_of_memory() {
    let scene = Scene::new().await;
    let before = scene.node.resident_bytes();
    let announced = u32::try_from(DEFAULT_MAX_FRAME).unwrap().to_be_bytes();
    let unfinished = [&announced[..], &[b'x'; 900 << 10]].concat();
    let streams = (0..300).map(|_| async {
        let (mut send, mut recv) = scene.stranger.open_bi().await.unwrap();
        let _stopped = send.write_all(&unfinished).await;
        let ended = recv.read_to_end(1).await;
        // The stream stays open until the node ends it.
        drop(send);
        ended
    });
    let streams = streams.map(|stream| stream.boxed_local());
    let (first, _, _others) = within(select_all(streams)).await;
    assert!(matches!(first, Err(StreamError::Reset(reset::OVERFLOW))), "{first:?}");
    scene.assert_unharmed().await;
    let grown = scene.node.resident_bytes().saturating_sub(before);
    assert!(grown < 160 * MIB, "{} MiB", grown / MIB);
}

#[tokio::test]
async fn ten_thousand_requests_at_once_are_all_answered() {
    const REQUESTS: usize = 10_000;
    let scene = Scene::new().await;
    let before = scene.node.resident_bytes();
    let (mut send, mut recv) = scene.stranger.open_bi().await.unwrap();
    let requests: Vec<u8> = (0..REQUESTS).flat_map(|n| say(&n.to_string(), "hi")).collect();
    let sending = async {
        send.write_all(&requests).await.unwrap();
        send.finish().unwrap();
    };
    let (answers, ()) =
        within(futures_util::future::join(recv.read_to_end(16 << 20), sending)).await;
    let mut seen = HashMap::new();
    for answer in envelopes(&answers.unwrap()) {
        let code = answer["payload"]["code"].as_str().unwrap_or("").to_owned();
        assert!(["", "RESOURCE_EXHAUSTED"].contains(&&*code), "{answer}");
        let first = seen.insert(answer["id"].as_str().unwrap().to_owned(), code);
        assert!(first.is_none(), "answered twice: {answer}");
    }
    assert_eq!(seen.len(), REQUESTS);
    scene.assert_unharmed().await;
    let grown = scene.node.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "{} MiB are left", grown / MIB);
}

/// Asks for as much as the node lets it, and reads nothing.
async fn ask_and_never_read(scene: &Scene) -> (SendStream, RecvStream) {
    let (mut send, recv) = scene.stranger.open_bi().await.unwrap();
    let text = "x".repeat(256 << 10);
    for n in 0..2_000 {
        let request = say(&n.to_string(), &text);
        let writing = send.write_all(&request);
        match tokio::time::timeout(std::time::Duration::from_millis(500), writing).await {
            Ok(Ok(())) => {}
            // The node reads no more of it, or has had enough.
            Err(_) | Ok(Err(StreamError::Stopped(reset::OVERFLOW))) => return (send, recv),
            Ok(Err(error)) => panic!("{error}"),
        }
    }
    // It may take them all: those above the limit of calls in flight are refused
    // in few bytes and kept no longer.
    (send, recv)
}

#[tokio::test]
async fn a_client_that_never_reads_takes_a_bounded_amount_of_memory() {
    let scene = Scene::new().await;
    let before = scene.node.resident_bytes();
    let _unread = ask_and_never_read(&scene).await;
    let grown = scene.node.resident_bytes().saturating_sub(before);
    assert!(grown < 160 * MIB, "{} MiB", grown / MIB);
    scene.assert_unharmed().await;
    // It is given back when the client has gone.
    scene.stranger.close(0, "done");
    gone(&scene, 1).await;
    scene.assert_unharmed().await;
}

/// Waits until the node has no more connections than this.
async fn gone(scene: &Scene, left: usize) {
    within(async {
        loop {
            let status = scene.bystander.ask("/node/status", json!({})).await.unwrap();
            if status["connections"].as_array().unwrap().len() <= left {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn five_hundred_connections_that_are_opened_and_dropped_leave_nothing() {
    let scene = Scene::new().await;
    scene.stranger.close(0, "done");
    let mut before = 0;
    // The first of them show what a node of this age needs.
    for round in 0..12 {
        let dialer = Dialer::new(None).unwrap();
        let alpns = [ALPN, "alknet/echo"].into_iter().cycle().take(50);
        let opened = join_all(alpns.map(|alpn| scene.node.dial(&dialer, alpn))).await;
        assert_eq!(opened.iter().filter(|one| one.is_ok()).count(), 50);
        drop(opened);
        gone(&scene, 1).await;
        if round == 1 {
            before = scene.node.resident_bytes();
        }
    }
    scene.assert_unharmed().await;
    let grown = scene.node.resident_bytes().saturating_sub(before);
    assert!(grown < 32 * MIB, "{} MiB are left", grown / MIB);
}

#[tokio::test]
async fn a_client_that_vanishes_is_missed_and_forgotten() {
    let node = NodeFolder::developed();
    let clock = node.file("clock.wasm");
    std::fs::copy(&built().clock, &clock).unwrap();
    node.append("node.toml", &format!("[[plugin]]\nname = \"clock\"\nartifact = {clock:?}\n"));
    let idle = "[endpoint.quic]\nidle_timeout = \"3s\"\nkeep_alive = \"500ms\"\n";
    node.replace("node.toml", "[endpoint.quic]\n", idle);
    let scene = Scene::of(node).await;
    let mut command = scene.node.command(["subscribe", "/clock/ticks", r#"{"every_ms":10}"#]);
    let client = Running::spawn(&mut command);
    client.said("\"tick\":0").await;
    client.signal("KILL").await;
    assert_eq!(client.ended().await.status, None);
    scene.node.logged("call aborted").await;
    gone(&scene, 2).await;
    scene.assert_unharmed().await;
}

#[tokio::test]
async fn k06_a_stream_that_no_answer_can_come_back_on_costs_the_connection() {
    let scene = Scene::new().await;
    let mut stray = scene.stranger.open_uni().await.unwrap();
    stray.write_all(b"psst").await.unwrap();
    let closed = within(scene.stranger.closed()).await;
    assert_eq!(closed.code, Some(PROTOCOL_ERROR), "{}", closed.reason);
    scene.assert_unharmed().await;
}

#[tokio::test]
async fn what_is_no_quic_is_ignored() {
    let scene = Scene::new().await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut state = 7_u32;
    for length in (0..1_200).step_by(7) {
        let packet: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .collect();
        socket.send_to(&packet, scene.node.listen()).unwrap();
    }
    scene.assert_unharmed().await;
    // The echo's streams take anything, and its connection needs no framing.
    let (connection, _dialer) = scene.node.connect("alknet/echo").await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[0xff; 64]).await.unwrap();
    send.finish().unwrap();
    assert_eq!(within(recv.read_to_end(64)).await.unwrap(), [0xff; 64]);
}
