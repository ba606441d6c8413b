//! The call protocol over WebTransport, as aioquic meets it.

use super::h3::H3;
use super::*;

const PATH: &str = "/alknet/call";

fn requested(id: &str, operation: &str, input: &Value) -> Value {
    json!({
        "type": "call.requested", "id": id,
        "payload": { "operationId": format!("/{operation}"), "input": input },
    })
}

/// A session, and what came of it.
async fn session(client: &mut H3, path: &str, headers: Value) -> (u64, Value) {
    let request = json!({ "path": path, "headers": headers });
    let session = client.tell(request, "session").await["stream"].as_u64().unwrap();
    let head = client.tell(json!({ "stream": session }), "head").await;
    (session, head)
}

async fn opened(client: &mut H3, headers: Value) -> u64 {
    let (session, head) = session(client, PATH, headers).await;
    assert_eq!(head["status"], 200, "{head}");
    session
}

async fn open(client: &mut H3, session: u64) -> u64 {
    client.tell(json!({ "session": session }), "open").await["stream"].as_u64().unwrap()
}

async fn send(client: &mut H3, stream: u64, envelope: Value) {
    client.tell(json!({ "stream": stream, "envelope": envelope }), "send").await;
}

async fn next(client: &mut H3, stream: u64) -> Value {
    client.tell(json!({ "stream": stream }), "envelope").await
}

/// A call on a stream of its own.
async fn call(client: &mut H3, session: u64, envelope: Value) -> Value {
    let stream = open(client, session).await;
    send(client, stream, envelope).await;
    next(client, stream).await
}

#[tokio::test]
async fn calls_and_subscriptions_run_over_a_session() {
    let site = site("").await;
    let watcher = site.client().await;
    let mut client = H3::connect(&site).await;
    let settings = client.tell(json!({}), "settings").await;
    // Extended CONNECT, datagrams, WebTransport and how many sessions of it.
    for (setting, value) in [("0x8", 1), ("0x33", 1), ("0x2b603742", 1), ("0x2b603743", 8)] {
        assert_eq!(settings[setting], value, "{settings}");
    }
    let session = opened(&mut client, json!([["origin", site_origin(&site)]])).await;
    let said = requested("a", "echo/say", &json!({ "text": "hi" }));
    let said = call(&mut client, session, said).await;
    assert_eq!((&said["type"], &said["id"]), (&json!("call.responded"), &json!("a")));
    assert_eq!(said["payload"]["output"]["text"], "hi");

    // Several on one stream, and one that ends.
    let stream = open(&mut client, session).await;
    for id in ["b", "c"] {
        send(&mut client, stream, requested(id, "echo/say", &json!({ "text": id }))).await;
    }
    let ids = [next(&mut client, stream).await, next(&mut client, stream).await];
    let mut ids = ids.map(|answer| answer["id"].as_str().unwrap().to_owned());
    ids.sort();
    assert_eq!(ids, ["b", "c"]);
    send(&mut client, stream, requested("d", "native/count", &json!(3))).await;
    for item in 0..3 {
        assert_eq!(next(&mut client, stream).await["payload"]["output"], item);
    }
    assert_eq!(next(&mut client, stream).await["type"], "call.completed");

    // Giving up a stream aborts what was asked on it.
    let stream = open(&mut client, session).await;
    send(&mut client, stream, requested("e", "native/wait", &json!({}))).await;
    in_flight_becomes(&watcher, "native/wait", 1).await;
    client.tell(json!({ "stream": stream, "code": 0x52e4_a40f_a8db_u64 }), "reset").await;
    in_flight_becomes(&watcher, "native/wait", 0).await;

    // The end of the session aborts all.
    let stream = open(&mut client, session).await;
    send(&mut client, stream, requested("f", "native/wait", &json!({}))).await;
    in_flight_becomes(&watcher, "native/wait", 1).await;
    client.tell(json!({ "stream": session, "end": true }), "data").await;
    in_flight_becomes(&watcher, "native/wait", 0).await;
    let gone = client.tell(json!({ "stream": stream }), "stopped").await;
    assert_eq!(gone["reset"], 0x170d_7b68, "{gone}");
    let answer = client.answer(session).await;
    assert_eq!((&answer["ended"], &answer["reset"]), (&json!(true), &Value::Null));

    // The connection has not.
    let session = opened(&mut client, json!([])).await;
    let said = requested("a", "echo/say", &json!({ "text": "again" }));
    assert_eq!(call(&mut client, session, said).await["type"], "call.responded");
}

fn site_origin(site: &Site) -> String {
    format!("https://localhost:{}", site.listen().port())
}

#[tokio::test]
async fn c28_c29_a_token_holds_for_its_session_or_its_request() {
    let site = site("").await;
    let mut client = H3::connect(&site).await;
    let inner = || requested("a", "native/inner", &json!({}));
    let plain = opened(&mut client, json!([])).await;
    let refused = call(&mut client, plain, inner()).await;
    assert_eq!(refused["payload"]["code"], "FORBIDDEN", "{refused}");
    let mut with_token = inner();
    with_token["payload"]["auth_token"] = INNER.into();
    assert_eq!(call(&mut client, plain, with_token).await["type"], "call.responded");
    // It was for that request alone.
    let refused = call(&mut client, plain, inner()).await;
    assert_eq!(refused["payload"]["code"], "FORBIDDEN", "{refused}");

    let token = json!([["authorization", format!("Bearer {INNER}")]]);
    let known = opened(&mut client, token).await;
    assert_eq!(call(&mut client, known, inner()).await["type"], "call.responded");
    let mut other = inner();
    other["payload"]["auth_token"] = ADMIN.into();
    let refused = call(&mut client, known, other).await;
    assert_eq!(refused["payload"]["code"], "FORBIDDEN", "its own token replaces it: {refused}");
}

#[tokio::test]
async fn sessions_are_refused_as_requests_are() {
    let site = site(r#"origins = ["https://app.example"], hosts = ["localhost"]"#).await;
    let mut client = H3::connect(&site).await;
    for (path, headers, status, code) in [
        ("/alknet/calls", json!([]), 404, "NOT_FOUND"),
        ("/", json!([]), 404, "NOT_FOUND"),
        (PATH, json!([["origin", "https://evil.example"]]), 403, "FORBIDDEN"),
        (PATH, json!([["origin", "null"]]), 403, "FORBIDDEN"),
        (PATH, json!([["authorization", "Bearer nonsense"]]), 401, "FORBIDDEN"),
    ] {
        let (session, head) = session(&mut client, path, headers).await;
        assert_eq!(head["status"], status, "{path} {head}");
        let answer = client.answer(session).await;
        let problem: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        assert_eq!(problem["code"], code);
    }
    opened(&mut client, json!([["origin", "https://app.example"]])).await;
    // One more than a connection may have.
    for _ in 1..8 {
        opened(&mut client, json!([])).await;
    }
    let (_, head) = session(&mut client, PATH, json!([])).await;
    assert_eq!(head["status"], 429, "{head}");
    let healthy = client.begin(json!({ "path": "/healthz" })).await;
    assert_eq!(client.answer(healthy).await["status"], 200);
}

#[tokio::test]
async fn c02_garbage_ends_its_stream_or_session_and_nothing_else() {
    let site = site("").await;
    let mut client = H3::connect(&site).await;
    let first = opened(&mut client, json!([])).await;
    let second = opened(&mut client, json!([])).await;
    // No frame (`BAD_FRAME`), and no envelope (`BAD_ENVELOPE`).
    for (bytes, code) in [("00000000", 1), ("ffffffff", 1), ("000000037b7d5d", 2)] {
        let stream = open(&mut client, first).await;
        client.tell(json!({ "stream": stream, "bytes": bytes }), "raw").await;
        let given_up = client.tell(json!({ "stream": stream }), "stopped").await;
        assert_eq!(given_up["reset"], 0x52e4_a40f_a8db_u64 + code, "{bytes}: {given_up}");
    }
    // A stream that comes byte by byte, and before its session.
    let stream = client.tell(json!({ "session": first, "pieces": true }), "open").await;
    let stream = stream["stream"].as_u64().unwrap();
    let said = requested("a", "echo/say", &json!({ "text": "a" }));
    assert_eq!(call(&mut client, first, said.clone()).await["type"], "call.responded");
    client.tell(json!({ "stream": stream, "session": first }), "finish_open").await;
    send(&mut client, stream, said.clone()).await;
    assert_eq!(next(&mut client, stream).await["type"], "call.responded");

    // A capsule that cannot be: an end of the session with a code of three bytes.
    let broken = opened(&mut client, json!([])).await;
    let capsule = json!({ "stream": broken, "bytes": "0006684303000000" });
    client.tell(capsule, "raw").await;
    assert_eq!(client.answer(broken).await["reset"], 0x33);

    // A datagram for nobody, and one that no call reads.
    for (of, bytes) in [(400, "00"), (first, "00")] {
        client.tell(json!({ "session": of, "bytes": bytes }), "datagram").await;
    }
    // The call protocol has no unidirectional streams.
    let uni = format!("4054{second:02x}00");
    client.tell(json!({ "bytes": uni, "unidirectional": true }), "raw").await;
    let told = client.answer(second).await;
    assert!(told["body"].as_str().unwrap().contains("no unidirectional streams"), "{told}");

    assert_eq!(call(&mut client, first, said.clone()).await["type"], "call.responded");
    let mut other = H3::connect(&site).await;
    let session = opened(&mut other, json!([])).await;
    assert_eq!(call(&mut other, session, said).await["type"], "call.responded");
}

#[tokio::test]
async fn a_stream_that_comes_before_its_session_waits_for_it() {
    let site = site("").await;
    let mut client = H3::connect(&site).await;
    let stream = client.tell(json!({ "session": 4 }), "open").await["stream"].as_u64().unwrap();
    assert_eq!(stream, 0);
    send(&mut client, stream, requested("a", "echo/say", &json!({ "text": "a" }))).await;
    let session = opened(&mut client, json!([])).await;
    assert_eq!(session, 4);
    assert_eq!(next(&mut client, stream).await["type"], "call.responded");
    // One of a session that is refused does not.
    let stream = client.tell(json!({ "session": 12 }), "open").await["stream"].as_u64().unwrap();
    send(&mut client, stream, requested("a", "echo/say", &json!({ "text": "a" }))).await;
    let (refused, head) = self::session(&mut client, "/none", json!([])).await;
    assert_eq!((refused, &head["status"]), (12, &json!(404)));
    let gone = client.tell(json!({ "stream": stream }), "stopped").await;
    assert_eq!(gone["reset"], 0x170d_7b68);
}

#[tokio::test]
async fn a_node_that_drains_ends_its_sessions() {
    let site = site("drain_ms = 500").await;
    let mut client = H3::connect(&site).await;
    let session = opened(&mut client, json!([])).await;
    let stream = open(&mut client, session).await;
    send(&mut client, stream, requested("a", "native/wait", &json!({}))).await;
    in_flight_becomes(&site.client().await, "native/wait", 1).await;
    site.process().signal("TERM").await;
    assert_eq!(next(&mut client, stream).await["type"], "call.aborted");
    let ended = client.answer(session).await;
    assert_eq!((&ended["ended"], &ended["reset"]), (&json!(true), &Value::Null));
    assert_eq!(client.tell(json!({}), "terminated").await["code"], 0x100);
}
