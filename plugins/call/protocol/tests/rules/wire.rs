//! Frames and envelopes, good and bad.

use alknet_call_protocol::envelope::{self, Event};
use alknet_call_protocol::frame::{FrameDecoder, FrameError, PREFIX, READ_CHUNK, write_frame};
use alknet_plugin_api::Identity;
use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use serde_json::json;

use crate::peer::{Peer, framed, options, request, server};

#[test]
fn c01_a_run_of_frames_comes_out_as_it_went_in() {
    let mut decoder = FrameDecoder::new(100);
    decoder.buffer().extend_from_slice(b"\0\0\0\x02{}\0\0\0\x03[1]");
    assert_eq!(decoder.next_frame().unwrap().unwrap(), "{}");
    assert_eq!(decoder.next_frame().unwrap().unwrap(), "[1]");
    assert_eq!(decoder.finish(), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
    #[test]
    fn c01_frames_come_out_however_they_are_split(
        frames in prop::collection::vec((1usize..60_000, any::<u8>()), 1..6),
        cuts in prop::collection::vec(1usize..40_000, 1..8),
    ) {
        let mut bytes = BytesMut::new();
        for (size, fill) in &frames {
            write_frame(&mut bytes, 60_000, |out| out.put_bytes(*fill, *size)).unwrap();
        }
        let mut decoder = FrameDecoder::new(60_000);
        let mut out = Vec::new();
        let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let mut room = decoder.room();
            let n = rest.len().min(*cuts.next().unwrap()).min(room.remaining_mut());
            room.put_slice(&rest[..n]);
            rest = &rest[n..];
            while let Some(frame) = decoder.next_frame().unwrap() {
                out.push((frame.len(), frame[0]));
                prop_assert!(frame.iter().all(|byte| *byte == frame[0]));
            }
        }
        prop_assert_eq!(out, frames);
        prop_assert_eq!(decoder.finish(), Ok(()));
    }
}

#[test]
fn c03_a_declared_length_is_not_allocated() {
    let mut decoder = FrameDecoder::new(1 << 20);
    decoder.room().put_u32(1 << 20);
    decoder.room().put_slice(&[b' '; 10]);
    assert_eq!(decoder.next_frame(), Ok(None));
    decoder.room();
    assert!(decoder.buffer().capacity() <= 2 * READ_CHUNK);
    assert_eq!(decoder.finish(), Err(FrameError::Truncated));
}

#[tokio::test]
async fn c02_bad_frames_reset_their_stream_alone() {
    let connection = server(options());
    let mut healthy = Peer::open(&connection).await;
    healthy.write(request("slow", "/t/never", json!(1))).await;
    for (bytes, finish) in [
        (&[0, 0, 0, 0][..], false),
        (&[0xff, 0, 0, 0], false),
        (&[0, 0, 0, 9, b'{'], true),
        (&[0, 0, 0], true),
    ] {
        let mut peer = Peer::open(&connection).await;
        peer.send.write_all(bytes).await.unwrap();
        if finish {
            peer.send.finish().unwrap();
        }
        assert_eq!(peer.reset().await, 1, "{bytes:?}");
    }
    healthy.write(request("fast", "/t/echo", json!(2))).await;
    assert_eq!(healthy.next().await.unwrap()["payload"]["output"], 2);
}

#[tokio::test]
async fn c05_what_is_unknown_is_ignored() {
    let mut peer = Peer::open(&server(options())).await;
    peer.write(json!({"type": "later", "id": "x", "payload": {"a": 1}, "more": 1})).await;
    peer.write(json!({"type": "later", "id": "", "payload": []})).await;
    let mut known = request("a", "/t/echo", json!("hi"));
    known["more"] = json!({"b": []});
    known["payload"]["more"] = json!(null);
    peer.write(known).await;
    let answers = peer.rest().await;
    assert_eq!(
        answers,
        [json!({"type": "call.responded", "id": "a", "payload": {"output": "hi"}})]
    );
}

#[tokio::test]
async fn c06_what_cannot_be_answered_resets_its_stream_alone() {
    let connection = server(options());
    let mut healthy = Peer::open(&connection).await;
    healthy.write(request("slow", "/t/never", json!(1))).await;
    let long = request(&"i".repeat(129), "/t/echo", json!(1)).to_string();
    let bad: [&[u8]; 9] = [
        b"nonsense",
        b"{}",
        b"[]",
        br#"{"type":"call.requested","payload":{}}"#,
        br#"{"type":"call.requested","id":7,"payload":{}}"#,
        br#"{"type":"call.requested","id":"","payload":{}}"#,
        br#"{"type":"call.requested","id":"a","payload":{}} {}"#,
        b"{\"type\":\"call.requested\",\"id\":\"\xff\",\"payload\":{}}",
        long.as_bytes(),
    ];
    for text in bad {
        let mut peer = Peer::open(&connection).await;
        peer.send.write_all(&framed(text)).await.unwrap();
        assert_eq!(peer.reset().await, 2, "{}", String::from_utf8_lossy(text));
    }
    healthy.write(request("fast", "/t/echo", json!(2))).await;
    assert_eq!(healthy.next().await.unwrap()["payload"]["output"], 2);
}

#[tokio::test]
async fn c06_malformed_requests_with_an_id_are_answered_without_quoting_them() {
    let nine = vec![json!({"id": "alk_secret", "scopes": [], "resources": {}}); 9];
    let bad = [
        json!({}),
        json!(7),
        json!(null),
        json!({"operationId": "/t/echo"}),
        json!({"input": 1}),
        json!({"operationId": 7, "input": 1}),
        json!({"operationId": "/t/echo", "input": 1, "auth_token": ["alk_secret"]}),
        json!({"operationId": "/t/echo", "input": 1, "timeout_ms": "alk_secret"}),
        json!({"operationId": "/t/echo", "input": 1, "timeout_ms": -1}),
        json!({"operationId": "/t/echo", "input": 1, "forwarded_for": "alk_secret"}),
        json!({"operationId": "/t/echo", "input": 1, "forwarded_for": nine}),
    ];
    let mut peer = Peer::open(&server(options())).await;
    for (n, payload) in bad.iter().enumerate() {
        let id = n.to_string();
        peer.write(json!({"type": "call.requested", "id": id, "payload": payload})).await;
        let answer = peer.next().await.unwrap();
        assert_eq!((&answer["type"], &answer["id"]), (&json!("call.error"), &json!(id)));
        assert_eq!(answer["payload"]["code"], "INVALID_INPUT", "{payload}");
        assert!(!answer.to_string().contains("secret"), "{answer}");
    }
}

#[tokio::test]
async fn eight_entries_of_forwarded_for_pass() {
    let mut peer = Peer::open(&server(options())).await;
    let mut asked = request("a", "/t/echo", json!(1));
    let one = serde_json::to_value(Identity { id: "dora".into(), ..Default::default() }).unwrap();
    asked["payload"]["forwarded_for"] = json!(vec![one; 8]);
    peer.write(asked).await;
    assert_eq!(peer.next().await.unwrap()["type"], "call.responded");
}

#[tokio::test]
async fn c09_an_id_in_flight_resets_the_stream() {
    let connection = server(options());
    let mut first = Peer::open(&connection).await;
    first.write(request("a", "/t/never", json!(1))).await;
    first.write(request("b", "/t/echo", json!(1))).await;
    first.next().await.unwrap();
    let mut second = Peer::open(&connection).await;
    second.write(request("a", "/t/echo", json!(1))).await;
    assert_eq!(second.reset().await, 2);
    // An id is free again with its answer, on any stream.
    let mut third = Peer::open(&connection).await;
    third.write(request("b", "/t/echo", json!(3))).await;
    assert_eq!(third.next().await.unwrap()["payload"]["output"], 3);
}

#[tokio::test]
async fn a_byte_at_a_time_is_as_good_as_a_packet() {
    let mut peer = Peer::open(&server(options())).await;
    for byte in framed(request("a", "/t/echo", json!({"é": "\u{1F980}"})).to_string()) {
        peer.send.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(peer.next().await.unwrap()["payload"]["output"], json!({"é": "\u{1F980}"}));
}

#[tokio::test]
async fn deep_nesting_costs_no_stack() {
    let mut peer = Peer::open(&server(options())).await;
    let deep = [b"[".repeat(200_000), b"]".repeat(200_000)].concat();
    let deep = String::from_utf8(deep).unwrap();
    let ask = format!(
        r#"{{"x":{deep},"type":"call.requested","id":"a","payload":{{"operationId":"/t/long","input":{deep}}}}}"#
    );
    let echoed = ask.replace("t/long", "t/echo");
    let writing = async move {
        peer.send.write_all(&framed(echoed)).await.unwrap();
        peer.send.finish().unwrap();
        peer.recv.read_to_end(1 << 20).await.unwrap()
    };
    let answer = writing.await;
    assert!(answer.ends_with(b"]}}") && answer.len() > 400_000);
}

#[test]
fn no_token_is_shown_for_debugging() {
    let mut asked = request("a", "/t/echo", json!(1));
    asked["payload"]["auth_token"] = json!("alk_secret");
    let envelope = envelope::parse(&asked.to_string().into()).unwrap();
    assert!(!format!("{envelope:?}").contains("secret"));
    let Event::Requested(Ok(request)) = envelope.event else { panic!("it is a request") };
    assert_eq!(request.auth_token.as_deref(), Some("alk_secret"));
    let options =
        alknet_call_protocol::CallOptions { auth_token: request.auth_token, ..Default::default() };
    assert!(!format!("{options:?}").contains("secret"));
}

#[test]
fn fields_in_any_order_and_escaped_names_read_the_same() {
    for text in [
        r#"{"type":"call.responded","id":"a","payload":{"output":[1],"terminal":true}}"#,
        r#"{"payload":{"terminal":true,"output":[1]},"id":"a","type":"call.responded"}"#,
        r#"{"payload":{"output":[1],"terminal":true},"type":"call\u002eresponded","id":"\u0061"}"#,
    ] {
        let envelope = envelope::parse(&Bytes::from(text)).unwrap();
        let Event::Responded { output, terminal: true } = envelope.event else { panic!("{text}") };
        assert_eq!((&*envelope.id, output.as_bytes()), ("a", &b"[1]"[..]));
    }
}

#[test]
fn answers_without_their_shape_are_told_from_nonsense() {
    for (kind, payload) in [
        ("call.responded", json!({})),
        ("call.responded", json!({"output": 1, "terminal": 3})),
        ("call.completed", json!(1)),
        ("call.error", json!({"code": "X"})),
        ("call.error", json!({"code": "X", "message": 1, "retryable": false})),
    ] {
        let text = json!({"type": kind, "id": "a", "payload": payload}).to_string();
        let event = envelope::parse(&text.clone().into()).unwrap().event;
        assert!(matches!(event, Event::Unparsable(told) if told == kind), "{text}");
    }
}

#[test]
fn a_small_value_keeps_no_read_buffer_alive_and_a_large_one_is_not_copied() {
    let value = |size: usize| {
        let text = request("a", "/t/echo", json!("x".repeat(size))).to_string();
        let mut decoder = FrameDecoder::new(1 << 20);
        let framed = framed(text);
        let mut rest = &framed[..];
        loop {
            let mut room = decoder.room();
            let n = rest.len().min(room.remaining_mut());
            room.put_slice(&rest[..n]);
            rest = &rest[n..];
            if let Some(frame) = decoder.next_frame().unwrap() {
                let Event::Requested(Ok(request)) = envelope::parse(&frame).unwrap().event else {
                    panic!("it is a request")
                };
                let within = frame.as_ptr_range();
                let input = request.input.into_bytes();
                return (within.contains(&input.as_ptr()), input.len());
            }
        }
    };
    assert_eq!(value(10), (false, 12));
    assert!(!value(READ_CHUNK / 8).0);
    assert!(value(READ_CHUNK / 2).0);
    assert_eq!(value(500_000), (true, 500_002));
}

#[test]
fn mutated_input_neither_panics_nor_decodes_differently_when_split() {
    let seeds = [
        r#"{"type":"call.requested","id":"a","payload":{"operationId":"/t/echo","input":[1,"\u00e9"],"timeout_ms":5}}"#,
        r#"{"type":"call.requested","id":"a","payload":{"operationId":"/t/echo","input":{"timeout_ms":57}}}"#,
        r#"{"type":"call.responded","id":"a","payload":{"output":{"a":[null,true]},"terminal":true}}"#,
        r#"{"type":"call.responded","id":"a","payload":{"output":{"a":[null,{"b":1}]}}}"#,
        r#"{"type":"call.error","id":"a","payload":{"code":"X","message":"m","retryable":false}}"#,
    ]
    .map(framed);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize
    };
    for seed in &seeds {
        for _ in 0..5_000 {
            let mut data = [&seed[..], seed].concat();
            for _ in 0..next() % 4 {
                let at = next() % data.len();
                data[at] = if next() % 2 == 0 { seed[next() % seed.len()] } else { next() as u8 };
            }
            alknet_call_protocol::fuzz::fuzz_envelope(&data[PREFIX..seed.len()]);
            // The frame target takes its first byte as the size of the pieces.
            data.insert(0, next() as u8);
            alknet_call_protocol::fuzz::fuzz_frame(&data);
        }
    }
}
