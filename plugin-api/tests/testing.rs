//! The in-memory connection and host behave as the node's do.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use alknet_plugin_api::prelude::*;
use alknet_plugin_api::testing::{Metric, Pair, TestHost, TestPlugin, pair, single_stream};
use alknet_plugin_api::{
    AbortPolicy, CapabilityKind, Closed, DatagramError, GatewayEvent, GatewayRequest,
    IdentityAlreadySet, PeerRef, code,
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

const HUGE: u64 = (1 << 62) - 1;

fn named(id: &str) -> Identity {
    Identity { id: id.into(), ..Identity::default() }
}

#[tokio::test]
async fn ids_are_quics() {
    let (client, server) = pair("alknet/test");
    let ids = [
        client.open_bi().await.unwrap().0.id(),
        client.open_bi().await.unwrap().0.id(),
        server.open_bi().await.unwrap().0.id(),
        client.open_uni().await.unwrap().id(),
        server.open_uni().await.unwrap().id(),
    ];
    assert_eq!(ids, [0, 4, 1, 2, 3]);
}

#[tokio::test]
async fn a_stream_shows_when_used_and_brings_the_earlier_ones_along() {
    let (client, server) = pair("alknet/test");
    let _first = client.open_bi().await.unwrap();
    let mut accept = Box::pin(server.accept_bi());
    assert!(futures_util::poll!(&mut accept).is_pending());
    let (mut second, _recv) = client.open_bi().await.unwrap();
    second.write_all(b"x").await.unwrap();
    assert_eq!(accept.await.unwrap().1.id(), 0);
    assert_eq!(server.accept_bi().await.unwrap().1.id(), 4);
}

#[tokio::test]
async fn a_writer_waits_for_room() {
    let (client, server, _) = Pair::new("alknet/test").buffer(4).build();
    let (mut send, _recv) = client.open_bi().await.unwrap();
    assert_eq!(send.write(b"abcdef").await.unwrap(), 4);
    let (_send, mut recv) = server.accept_bi().await.unwrap();
    {
        let mut more = Box::pin(send.write(b"ef"));
        assert!(futures_util::poll!(&mut more).is_pending());
        let mut buffer = [0; 3];
        assert_eq!(recv.read(&mut buffer).await.unwrap(), Some(3));
        assert_eq!(more.await.unwrap(), 2);
    }
    send.finish().unwrap();
    assert_eq!(recv.read_to_end(10).await.unwrap(), b"def");
}

#[tokio::test]
async fn codes_arrive_unchanged_both_ways() {
    let (client, server) = pair("alknet/test");
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    send.write_all(b"x").await.unwrap();
    let (mut back, mut there) = server.accept_bi().await.unwrap();
    back.reset(HUGE);
    there.stop(HUGE - 1);
    assert!(matches!(recv.read(&mut [0; 1]).await, Err(StreamError::Reset(HUGE))));
    match send.write(b"y").await {
        Err(StreamError::Stopped(code)) => assert_eq!(code, HUGE - 1),
        other => panic!("{other:?}"),
    }
    assert_eq!(send.stopped().await.unwrap(), Some(HUGE - 1));
    assert!(matches!(there.read(&mut [0; 1]).await, Err(StreamError::StreamClosed)));
}

#[tokio::test]
async fn k10_an_unfinished_stream_that_is_dropped_reads_as_reset() {
    let (client, server) = pair("alknet/test");
    let mut send = client.open_uni().await.unwrap();
    send.write_all(b"half an ans").await.unwrap();
    let mut recv = server.accept_uni().await.unwrap();
    drop(send);
    match recv.read_to_end(100).await {
        Err(StreamError::Reset(code)) => assert_eq!(code, SendStream::DROPPED),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_dropped_receiver_stops_its_sender() {
    let (client, server) = pair("alknet/test");
    let mut send = client.open_uni().await.unwrap();
    send.write_all(b"x").await.unwrap();
    drop(server.accept_uni().await.unwrap());
    assert_eq!(send.stopped().await.unwrap(), Some(0));
}

#[tokio::test]
async fn half_close_leaves_the_other_direction_open() {
    let (client, server) = pair("alknet/test");
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    send.finish().unwrap();
    assert!(matches!(send.finish(), Err(StreamError::StreamClosed)));
    assert!(matches!(send.write(b"x").await, Err(StreamError::StreamClosed)));
    let (mut back, mut there) = server.accept_bi().await.unwrap();
    assert_eq!(there.read(&mut [0; 1]).await.unwrap(), None);
    assert_eq!(there.read(&mut [0; 1]).await.unwrap(), None);
    back.write_all(b"late").await.unwrap();
    back.finish().unwrap();
    assert_eq!(recv.read_to_end(10).await.unwrap(), b"late");
    assert_eq!(back.stopped().await.unwrap(), None);
}

#[tokio::test]
async fn opening_waits_at_the_limit_until_a_stream_is_over_in_both_directions() {
    let (client, server, _) = Pair::new("alknet/test").bi_limit(1).build();
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    let mut open = Box::pin(client.open_bi());
    assert!(futures_util::poll!(&mut open).is_pending());
    send.finish().unwrap();
    let (mut back, mut there) = server.accept_bi().await.unwrap();
    assert_eq!(there.read_to_end(1).await.unwrap(), b"");
    assert!(futures_util::poll!(&mut open).is_pending());
    back.finish().unwrap();
    assert_eq!(recv.read_to_end(1).await.unwrap(), b"");
    assert_eq!(open.await.unwrap().0.id(), 4);
}

#[tokio::test]
async fn datagrams_arrive_in_order_and_a_full_queue_drops_the_oldest() {
    let (client, server, _) =
        Pair::new("alknet/test").datagram_size(Some(8)).datagram_queue(2).build();
    assert_eq!(client.max_datagram_size(), Some(8));
    for text in [&b"one"[..], b"two", b"three"] {
        client.send_datagram(Bytes::from_static(text)).unwrap();
    }
    assert_eq!(server.read_datagram().await.unwrap(), "two");
    assert_eq!(server.read_datagram().await.unwrap(), "three");
    let oversize = client.send_datagram(Bytes::from_static(b"nine byte"));
    assert!(matches!(oversize, Err(DatagramError::TooLarge { size: 9, max: 8 })));
    let (deaf, _server, _) = Pair::new("alknet/test").datagram_size(None).build();
    assert_eq!(deaf.max_datagram_size(), None);
    assert!(deaf.send_datagram(Bytes::new()).is_err());
}

#[tokio::test]
async fn both_ends_learn_why_a_connection_closed_and_the_first_close_counts() {
    let (client, server) = pair("alknet/test");
    let (mut send, _recv) = client.open_bi().await.unwrap();
    let pending = tokio::spawn({
        let server = server.clone();
        async move { server.accept_uni().await.map(|_| ()) }
    });
    tokio::task::yield_now().await;
    server.close(u64::MAX, "go away");
    server.close(1, "again");
    let closed = Closed { code: Some(HUGE), reason: "go away".into() };
    assert_eq!(client.closed().await, closed);
    assert_eq!(server.closed().await, closed);
    assert!(matches!(pending.await.unwrap(), Err(StreamError::ConnectionClosed)));
    assert!(matches!(send.write(b"x").await, Err(StreamError::ConnectionClosed)));
    assert!(matches!(client.open_bi().await, Err(StreamError::ConnectionClosed)));
    assert!(client.send_datagram(Bytes::new()).is_err());
    assert!(matches!(client.read_datagram().await, Err(StreamError::ConnectionClosed)));
}

#[tokio::test]
async fn a_hasty_close_loses_data_and_a_patient_one_does_not() {
    for patient in [false, true] {
        let (client, server) = pair("alknet/test");
        let mut send = server.open_uni().await.unwrap();
        send.write_all(b"result").await.unwrap();
        send.finish().unwrap();
        let mut recv = client.accept_uni().await.unwrap();
        if patient {
            assert_eq!(send.stopped().await.unwrap(), None);
        }
        server.close(0, "");
        let read = recv.read_to_end(100).await;
        match patient {
            true => assert_eq!(read.unwrap(), b"result"),
            false => assert!(matches!(read, Err(StreamError::ConnectionClosed))),
        }
    }
}

#[tokio::test]
async fn the_last_handle_closes_with_code_0() {
    let (client, server) = pair("alknet/test");
    let (send, recv) = client.open_bi().await.unwrap();
    drop(client);
    let mut closed = Box::pin(server.closed());
    assert!(futures_util::poll!(&mut closed).is_pending());
    drop((send, recv));
    assert_eq!(closed.await.code, Some(0));
}

#[tokio::test]
async fn a_vanished_peer_is_a_time_out() {
    let (client, server, control) = Pair::new("alknet/test").build();
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    send.write_all(b"x").await.unwrap();
    control.time_out();
    assert!(matches!(recv.read(&mut [0; 1]).await, Err(StreamError::Timeout)));
    assert!(matches!(server.accept_uni().await, Err(StreamError::Timeout)));
    assert_eq!(server.closed().await.code, None);
}

#[tokio::test]
async fn k09_an_identity_is_set_once_on_each_end() {
    let (client, server) = pair("alknet/test");
    server.set_identity(named("ada")).unwrap();
    assert_eq!(server.set_identity(named("bob")), Err(IdentityAlreadySet));
    assert_eq!(server.identity(), Some(named("ada")));
    assert_eq!(client.identity(), None);
}

#[tokio::test]
async fn shutdown_and_facts_are_the_pairs() {
    let addr = "[::1]:4433".parse().unwrap();
    let (client, server, control) =
        Pair::new("alknet/test").client_key([7; 32]).client_addr(addr).build();
    assert_eq!((server.alpn(), client.alpn()), ("alknet/test", "alknet/test"));
    assert_eq!((server.peer_key(), client.peer_key()), (Some([7; 32]), None));
    assert_eq!(server.remote_addr(), Some(addr));
    let mut waiting = Box::pin(server.shutdown());
    assert!(futures_util::poll!(&mut waiting).is_pending());
    control.begin_shutdown();
    waiting.await;
    assert!(futures_util::poll!(Box::pin(client.shutdown())).is_pending());
    let mut send = client.open_uni().await.unwrap();
    send.write_all(b"12345").await.unwrap();
    server.accept_uni().await.unwrap().read(&mut [0; 8]).await.unwrap();
    assert_eq!(client.stats().bytes_sent, 5);
    assert_eq!(server.stats().bytes_received, 5);
}

#[tokio::test]
async fn a_thousand_streams_at_once_keep_their_bytes_apart() {
    let (client, server) = pair("alknet/test");
    let echo = tokio::spawn(async move {
        let mut tasks = Vec::new();
        while let Ok((mut send, mut recv)) = server.accept_bi().await {
            tasks.push(tokio::spawn(async move {
                let bytes = recv.read_to_end(1 << 20).await.unwrap();
                send.write_all(&bytes).await.unwrap();
                send.finish().unwrap();
                send.stopped().await.unwrap();
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
    let calls = (0..1000u32).map(|n| {
        let client = client.clone();
        async move {
            let (mut send, mut recv) = client.open_bi().await.unwrap();
            send.write_all(&n.to_be_bytes().repeat(50)).await.unwrap();
            send.finish().unwrap();
            let back = recv.read_to_end(1 << 20).await.unwrap();
            assert_eq!(back, n.to_be_bytes().repeat(50));
        }
    });
    futures_util::future::join_all(calls).await;
    client.close(0, "");
    echo.await.unwrap();
}

/// Shows every way in which code behind an operation can end.
struct Sample;

impl ProtocolHandler for Sample {
    async fn handle(&self, connection: Connection, auth: &AuthContext) -> Result<(), HandlerError> {
        let (mut send, mut recv) = connection.accept_bi().await?;
        match &recv.read_to_end(100).await?[..] {
            b"ok" => {
                let who = auth.identity().map_or("nobody", |identity| &identity.id);
                send.write_all(who.as_bytes()).await?;
                send.finish()?;
                send.stopped().await?;
                Ok(())
            }
            b"auth" => Err(HandlerError::AuthRequired),
            b"panic" => panic!("on purpose"),
            b"hang" => {
                tracing::info!(bytes = 4, "hanging");
                let _dropped = LogsItsDrop;
                std::future::pending().await
            }
            _ => Err(HandlerError::internal("what?")),
        }
    }
}

struct LogsItsDrop;
impl Drop for LogsItsDrop {
    fn drop(&mut self) {
        tracing::info!("dropped");
    }
}

impl Plugin for Sample {
    fn manifest() -> Manifest {
        Manifest::new("sample", "1.0.0")
            .alpn("alknet/sample")
            .operation(OperationSpec::query("sample/echo"))
            .operation(OperationSpec::query("sample/fail").error("DECLARED", "On demand"))
            .operation(OperationSpec::query("sample/panic"))
            .operation(OperationSpec::query("sample/hang"))
            .operation(OperationSpec::query("sample/compose"))
            .operation(OperationSpec::subscription("sample/count"))
    }

    fn build(host: Host, _: Json, on: &mut Registrar) -> Result<(), BuildError> {
        on.handler("alknet/sample", Sample);
        on.operation_json("sample/echo", |context, input| async move {
            let who = context.identity().map(|identity| identity.id.clone());
            Ok(json!({ "input": input.to::<serde_json::Value>().unwrap(), "who": who }).into())
        });
        on.operation("sample/fail", |_, code: String| async move {
            Err::<(), _>(CallError::new(code, "as asked"))
        });
        on.operation("sample/panic", |_, (): ()| async move {
            if true {
                panic!("on purpose");
            }
            Ok(())
        });
        on.operation("sample/hang", |context, (): ()| async move {
            let _dropped = LogsItsDrop;
            tracing::info!(left = ?context.remaining(), "hanging");
            std::future::pending::<()>().await;
            Ok(())
        });
        on.operation("sample/compose", |context, name: String| async move {
            let output = context.invoke(&name, json!({ "n": 1 })).await?;
            output.to::<serde_json::Value>().map_err(|error| CallError::internal(error.to_string()))
        });
        on.subscription("sample/count", move |_, to: u64, mut items| {
            let host = host.clone();
            async move {
                let _dropped = LogsItsDrop;
                for n in 0..to {
                    host.sleep(Duration::from_secs(60)).await;
                    items.send(&n).await?;
                }
                Ok(())
            }
        });
        Ok(())
    }
}

fn sample() -> TestPlugin {
    TestPlugin::build::<Sample>(TestHost::new(), json!({})).unwrap()
}

async fn ask(plugin: &TestPlugin, what: &str) -> (Result<Vec<u8>, StreamError>, Closed) {
    let connection = plugin.connect_as("alknet/sample", named("ada"));
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(what.as_bytes()).await.unwrap();
    send.finish().unwrap();
    (recv.read_to_end(100).await, connection.closed().await)
}

#[tokio::test]
async fn a_handlers_result_decides_the_close_code() {
    let plugin = sample();
    let (answer, closed) = ask(&plugin, "ok").await;
    assert_eq!((answer.unwrap(), closed.code), (b"ada".to_vec(), Some(0)));
    for (what, code) in [("auth", 2), ("panic", 5), ("other", 1)] {
        let (answer, closed) = ask(&plugin, what).await;
        assert!(answer.is_err(), "{what}");
        assert_eq!(closed.code, Some(code), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_is_dropped_after_its_connection() {
    let plugin = sample();
    let (client, _, serving) = plugin.connect_over(Pair::new("alknet/sample"), None);
    let (mut send, _recv) = client.open_bi().await.unwrap();
    send.write_all(b"hang").await.unwrap();
    send.finish().unwrap();
    assert_eq!(plugin.host().logged("hanging").await.field("bytes"), Some("4"));
    client.close(0, "");
    assert!(matches!(serving.await, Err(HandlerError::ConnectionClosed)));
    plugin.host().logged("dropped").await;
}

#[tokio::test]
async fn the_same_handler_serves_a_single_stream() {
    let plugin = sample();
    let (mut far, connection) = single_stream("alknet/sample");
    let serving = plugin.serve(connection, None);
    far.write_all(b"ok").await.unwrap();
    far.shutdown().await.unwrap();
    let mut answer = String::new();
    far.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "nobody");
    serving.await.unwrap();
}

#[tokio::test]
async fn calls_end_as_on_a_node() {
    let plugin = sample();
    let context = plugin.context("/sample/echo").identity(named("ada"));
    let output = plugin.call_with(context, json!([1])).await.unwrap();
    assert_eq!(output.to_string(), r#"{"input":[1],"who":"ada"}"#);

    let code_of = async |name: &str, input| plugin.call(name, input).await.unwrap_err().code;
    assert_eq!(code_of("sample/none", json!(null)).await, code::NOT_FOUND);
    assert_eq!(code_of("sample/count", json!(1)).await, code::INVALID_OPERATION_TYPE);
    assert_eq!(code_of("sample/fail", json!(1)).await, code::INVALID_INPUT);
    assert_eq!(code_of("sample/fail", json!("DECLARED")).await, "DECLARED");
    assert_eq!(code_of("sample/fail", json!("TIMEOUT")).await, code::TIMEOUT);
    assert_eq!(code_of("sample/panic", json!(null)).await, code::INTERNAL);
    let undeclared = plugin.call("sample/fail", json!("OTHER")).await.unwrap_err();
    assert_eq!(undeclared.code, code::INTERNAL);
    assert!(undeclared.details.unwrap().to_string().contains("OTHER"));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_drops_the_call() {
    let plugin = sample();
    let context = plugin.context("sample/hang").timeout(Duration::from_secs(5));
    let error = plugin.call_with(context, json!(null)).await.unwrap_err();
    assert_eq!(error.code, code::TIMEOUT);
    assert_eq!(plugin.host().logged("hanging").await.field("left"), Some("Some(5s)"));
    assert!(plugin.host().logs().iter().any(|line| line.message == "dropped"));
}

#[tokio::test(start_paused = true)]
async fn subscriptions_follow_the_tests_clock_and_end_when_dropped() {
    let plugin = sample();
    let items: Vec<_> = plugin.subscribe("sample/count", json!(3)).collect().await;
    let items: Vec<u64> = items.into_iter().map(|item| item.unwrap().to().unwrap()).collect();
    assert_eq!(items, [0, 1, 2]);

    let mut items = plugin.subscribe("sample/count", json!(100));
    items.next().await.unwrap().unwrap();
    let before = plugin.host().logs().len();
    drop(items);
    assert_eq!(plugin.host().logs().len(), before + 1);

    let context = plugin.context("sample/count").timeout(Duration::from_secs(90));
    let items: Vec<_> = plugin.subscribe_with(context, json!(100)).collect().await;
    assert_eq!(items.len(), 2);
    assert_eq!(items[1].as_ref().unwrap_err().code, code::TIMEOUT);
}

#[tokio::test]
async fn a_plugin_composes_the_hosts_operations() {
    let host = TestHost::new()
        .operation("other/add", |context: OperationContext, input: serde_json::Value| async move {
            assert!(context.is_internal());
            Ok(json!({ "sum": input["n"].as_u64().unwrap() + 1 }))
        })
        .peer_operation("bob", "far/add", |_, _: Json| async { Ok(json!("far")) });
    let plugin = TestPlugin::build::<Sample>(host.clone(), json!({})).unwrap();
    let output = plugin.call("sample/compose", json!("other/add")).await.unwrap();
    assert_eq!(output.to_string(), r#"{"sum":2}"#);
    let error = plugin.call("sample/compose", json!("other/none")).await.unwrap_err();
    assert_eq!(error.code, code::NOT_FOUND);

    let env = host.host().env();
    assert!(env.contains("other/add") && !env.contains("far/add"));
    let bob = PeerRef::Specific("bob".into());
    assert!(env.peer_contains(&bob, "far/add"));
    assert!(!env.peer_contains(&PeerRef::Specific("eve".into()), "far/add"));
    let far = env.invoke_peer(PeerRef::Any, "far/add", Json::null()).await.unwrap();
    assert_eq!(far.to_string(), r#""far""#);
}

#[tokio::test]
async fn an_aborted_call_takes_its_dependents_along_unless_told_otherwise() {
    let release = Arc::new(Notify::new());
    let wait = release.clone();
    let host = TestHost::new().operation("other/wait", move |_, (): ()| {
        let release = wait.clone();
        async move {
            release.notified().await;
            Ok("done")
        }
    });
    let (context, cancel) = host.context("sample/compose").build();
    let env = context.env();
    let dependent = env.invoke("other/wait", Json::null());
    let independent =
        env.invoke_with_policy("other/wait", Json::null(), AbortPolicy::ContinueRunning);
    let independent = tokio::spawn(independent);
    let dependent = tokio::spawn(dependent);
    tokio::task::yield_now().await;
    assert!(!context.is_cancelled());
    cancel.cancel();
    context.cancelled().await;
    assert!(context.is_cancelled());
    assert_eq!(dependent.await.unwrap().unwrap_err().code, code::ABORTED);
    release.notify_one();
    assert_eq!(independent.await.unwrap().unwrap().to_string(), r#""done""#);
    let late = env.invoke("other/wait", Json::null()).await;
    assert_eq!(late.unwrap_err().code, code::ABORTED);
}

fn request(id: &str, operation: &str, token: Option<&str>) -> GatewayRequest {
    GatewayRequest {
        request_id: id.into(),
        operation: operation.into(),
        input: Json::null(),
        auth_token: token.map(Into::into),
        forwarded_for: Vec::new(),
        timeout: None,
        remote_addr: None,
    }
}

#[tokio::test]
async fn a_gateway_calls_as_the_connections_peer() {
    let fingerprint = format!("ed25519:{}", "07".repeat(32));
    let host = TestHost::new()
        .fingerprint(fingerprint, named("ada"))
        .token("alk_bob", named("bob"))
        .operation("who/am", |context: OperationContext, (): ()| async move {
            Ok(context.identity().map(|identity| identity.id.clone()))
        })
        .operation("who/waits", |_, (): ()| std::future::pending::<Result<(), CallError>>())
        .subscription("who/counts", |_, (): (), mut items| async move {
            for n in 0..2 {
                items.send(&n).await?;
            }
            Ok(())
        });
    let (_client, server, _) = Pair::new("alknet/call").client_key([7; 32]).build();
    assert!(host.host().gateway(&server).is_none());
    let host = host.gateway();
    let gateway = host.host().gateway(&server).unwrap();

    let mut events = Vec::new();
    for token in [None, Some("alk_bob"), Some("alk_eve")] {
        events.extend(gateway.dispatch(request("1", "/who/am", token)).next().await);
    }
    assert_eq!(events[0], GatewayEvent::Responded(json!("ada").into()));
    assert_eq!(events[1], GatewayEvent::Responded(json!("bob").into()));
    assert!(matches!(&events[2], GatewayEvent::Error(error) if error.code == code::FORBIDDEN));

    let mut counts = gateway.dispatch(request("2", "/who/counts", None));
    let mut events = Vec::new();
    while let Some(event) = counts.next().await {
        events.push(event);
    }
    assert_eq!(events.len(), 3);
    assert_eq!(events[2], GatewayEvent::Completed);

    for drop_gateway in [false, true] {
        let gateway = host.host().gateway(&server).unwrap();
        let mut waits = gateway.dispatch(request("3", "who/waits", None));
        assert!(futures_util::poll!(Box::pin(waits.next())).is_pending());
        if drop_gateway {
            drop(gateway)
        } else {
            gateway.abort("3", AbortPolicy::default())
        }
        let event = waits.next().await.unwrap();
        assert!(matches!(event, GatewayEvent::Error(error) if error.code == code::ABORTED));
    }
}

#[tokio::test(start_paused = true)]
async fn the_hosts_services_are_real() {
    let test = TestHost::new().secret("key", CapabilityKind::Bytes, &b"s3cret"[..]);
    let host = test.host();
    let started = host.now();
    let mut task = host.spawn({
        let host = host.clone();
        async move { host.sleep(Duration::from_secs(3600)).await }
    });
    task.ended().await;
    assert_eq!(host.now() - started, Duration::from_secs(3600));

    let mut endless = host.spawn(async {
        let _dropped = LogsItsDrop;
        std::future::pending().await
    });
    tokio::task::yield_now().await;
    endless.abort();
    endless.ended().await;
    test.logged("dropped").await;
    host.spawn(async { panic!("on purpose") }).ended().await;
    test.logged("a task panicked: on purpose").await;

    host.counter("seen", &[("kind", "a")], 2);
    host.counter("seen", &[("kind", "b")], 3);
    host.gauge("open", &[], 1.5);
    host.histogram("took", &[], 0.25);
    assert_eq!(test.counter("seen"), 5);
    assert_eq!(test.metric("seen", &[("kind", "b")]), Some(Metric::Counter(3)));
    assert_eq!(test.metric("open", &[]), Some(Metric::Gauge(1.5)));
    assert_eq!(test.metric("took", &[]), Some(Metric::Histogram(vec![0.25])));
    assert_eq!(host.capability("key").unwrap().reveal().unwrap(), "s3cret");
    assert!(host.capability("other").is_none());

    let mut shutdown = Box::pin(host.shutdown());
    assert!(futures_util::poll!(&mut shutdown).is_pending());
    test.begin_shutdown();
    shutdown.await;
}
