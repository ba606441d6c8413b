//! A plugin linked into this program and worked through the same tables as one
//! in a shared library, so that every crossing is made twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};

use super::*;
use crate::http::{HttpRequest, HttpResponse};
use crate::prelude::*;
use crate::testing::{Pair, TestHost};
use crate::{
    Built, CallStream, CapabilityKind, DatagramError, GatewayEvent, GatewayRequest, HandlerError,
    Level, LogRecord, OperationCode, Source,
};

/// Counts how many are alive.
struct Live(Arc<AtomicIsize>);

impl Live {
    fn new(count: &Arc<AtomicIsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "dropped");
    }
}

struct Sample;

impl Plugin for Sample {
    fn manifest() -> Manifest {
        let mut manifest = Manifest::new("sample", "1.0.0")
            .alpn("sample/all")
            .alpn("sample/hang")
            .operation(OperationSpec::subscription("sample/count"));
        for name in ["echo", "services", "never", "panic", "bomb", "refuse"] {
            manifest = manifest.operation(OperationSpec::query(format!("sample/{name}")));
        }
        manifest
    }

    fn build(host: Host, _: Json, on: &mut Registrar) -> Result<(), BuildError> {
        on.handler("sample/all", All { host: host.clone() });
        on.handler("sample/hang", Hang);
        on.subscription("sample/count", |_, to: u32, mut sink: ItemSink<u32>| async move {
            for n in 0..to {
                sink.send(&n).await?;
            }
            Err(CallError::new("DONE", "no more"))
        });
        on.operation_json("sample/echo", |_, input| async move { Ok(input) });
        on.operation("sample/services", move |context, _: serde_json::Value| {
            services(host.clone(), context)
        });
        on.operation(
            "sample/never",
            |context: OperationContext, _: serde_json::Value| async move {
                let _held = context;
                std::future::pending::<Result<(), CallError>>().await
            },
        );
        on.operation("sample/panic", |context: OperationContext, late: bool| async move {
            if late {
                Yield(false).await;
            }
            assert!(context.is_cancelled(), "sample panic");
            Ok(())
        });
        on.operation("sample/bomb", |_, _: serde_json::Value| async move {
            let _bomb = Bomb;
            std::future::pending::<Result<(), CallError>>().await
        });
        on.operation("sample/refuse", |_, _: serde_json::Value| async move {
            let error = CallError::new("SOLD_OUT", "none left").retryable(true);
            Err::<(), _>(error.with_details(json!({ "next": 7 })))
        });
        Ok(())
    }
}

/// Pending once.
struct Yield(bool);

impl Future for Yield {
    type Output = ();
    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    }
}

/// Uses every service of the host.
async fn services(host: Host, context: OperationContext) -> Result<String, CallError> {
    let wrong = |what: &str| CallError::internal(format!("wrong: {what}"));
    let check = |holds: bool, what: &str| if holds { Ok(()) } else { Err(wrong(what)) };
    check(context.info().operation == "sample/services", "info")?;
    check(context.remaining().is_some(), "remaining")?;
    check(!context.is_cancelled(), "cancelled")?;
    let answer = context.invoke("other/twice", json!(21)).await?;
    check(answer.to_string() == "42", "invoke")?;
    check(context.env().contains("other/twice"), "contains")?;
    check(!context.env().contains("other/none"), "contains none")?;
    let missing = context.invoke("other/none", Json::null()).await;
    check(missing.is_err_and(|error| error.code == "NOT_FOUND"), "not found")?;
    let items: Vec<_> = context.subscribe("other/upto", json!(3)).collect().await;
    check(items.len() == 3 && items.iter().all(Result::is_ok), "subscribe")?;

    let before = host.now();
    host.sleep(Duration::from_millis(20)).await;
    check(host.now() - before >= Duration::from_millis(20), "sleep")?;
    check(host.unix_time() > Duration::from_secs(1), "unix_time")?;
    host.counter("seen", &[("kind", "a")], 3);
    host.gauge("level", &[], 1.5);
    let many: Vec<_> = (0..12).map(|_| ("label", "value")).collect();
    host.histogram("size", &many[..1], 2.5);
    let fields = [("a", "1"), ("b", "two")];
    host.log(&LogRecord { level: Level::Warn, target: "sample", message: "hear", fields: &fields });
    let ada = host.resolve_token(b"secret").ok_or_else(|| wrong("token"))?;
    check(ada.id == "ada" && host.resolve_token(b"\xff\0").is_none(), "token")?;
    let key = host.capability("key").ok_or_else(|| wrong("capability"))?;
    check(key.kind() == CapabilityKind::Bytes, "kind")?;
    check(key.reveal().is_some_and(|bytes| &bytes[..] == b"hush"), "reveal")?;
    check(key.sign(b"x").is_none() && host.capability("none").is_none(), "sign")?;
    let refused = key.send(HttpRequest::get("https://a.example/")).await;
    check(refused.is_err_and(|error| error.code == "INTERNAL"), "a host that sends nothing")?;
    let search = host.capability("search").ok_or_else(|| wrong("search"))?;
    let body = Bytes::from(vec![7; 100_000]);
    let request = HttpRequest::post("https://a.example/", body.clone()).header("x-a", "b");
    let answer = search.send(request).await?;
    check(answer.status == 201 && answer.body == body, "send")?;
    check(answer.header("x-a") == Some("b"), "send, headers")?;
    let refused = search.send(HttpRequest::get("https://b.example/")).await;
    check(refused.is_err_and(|error| error.code == "FORBIDDEN"), "send, refused")?;

    let (tell, told) = tokio::sync::oneshot::channel();
    let mut task = host.spawn(async move {
        let _unheard = tell.send(7);
    });
    check(told.await == Ok(7), "spawn")?;
    task.ended().await;
    let mut endless = host.spawn(std::future::pending());
    endless.abort();
    endless.ended().await;
    Ok("all well".into())
}

/// Uses everything that a connection has.
struct All {
    host: Host,
}

impl ProtocolHandler for All {
    async fn handle(&self, connection: Connection, auth: &AuthContext) -> Result<(), HandlerError> {
        assert_eq!(connection.alpn(), "sample/all");
        assert_eq!(auth.identity().map(|identity| identity.id.as_str()), Some("ada"));
        assert_eq!(connection.peer_key(), Some([9; 32]));
        let (mut send, mut recv) = connection.accept_bi().await?;
        let text = recv.read_to_end(1 << 20).await?;
        send.set_priority(3);
        send.write_all(&text).await?;
        send.finish()?;
        assert!(matches!(send.finish(), Err(StreamError::StreamClosed)));
        assert_eq!(send.stopped().await?, None);

        let mut resets = connection.accept_uni().await?;
        let reset = resets.read(&mut [0; 16]).await;
        assert!(matches!(reset, Err(StreamError::Reset(0x1_0000_0001))), "{reset:?}");
        let mut stopped = connection.open_uni().await?;
        stopped.write_all(b"?").await?;
        assert_eq!(stopped.stopped().await?, Some(0x2_0000_0002));

        let datagram = connection.read_datagram().await?;
        connection.send_datagram(datagram).unwrap();
        let max = connection.max_datagram_size().unwrap();
        let sent = connection.send_datagram(Bytes::from(vec![0; max + 1]));
        assert!(
            matches!(sent, Err(DatagramError::TooLarge { size, max: m }) if size == max + 1 && m == max)
        );
        let ada = Identity { id: "ada".into(), ..Identity::default() };
        connection.set_identity(ada.clone()).unwrap();
        connection.set_identity(ada.clone()).unwrap_err();
        assert_eq!(connection.identity(), Some(ada));
        let _ = connection.stats();

        let gateway = self.host.gateway(&connection).unwrap();
        let mut call = gateway.dispatch(GatewayRequest {
            request_id: "1".into(),
            operation: "/other/twice".into(),
            input: json!(4).into(),
            auth_token: None,
            forwarded_for: vec![Identity::default()],
            timeout: Some(Duration::from_secs(5)),
            remote_addr: "127.0.0.1:9".parse().ok(),
        });
        let event = call.next().await;
        assert_eq!(event, Some(GatewayEvent::Responded(json!(8).into())));
        connection.shutdown().await;
        connection.close(77, "bye");
        assert_eq!(connection.closed().await.code, Some(77));
        Err(HandlerError::AuthRequired)
    }
}

struct Hang;

impl ProtocolHandler for Hang {
    async fn handle(&self, connection: Connection, _: &AuthContext) -> Result<(), HandlerError> {
        let streams = connection.accept_bi().await?;
        let _held = (streams, connection);
        std::future::pending().await
    }
}

fn host() -> TestHost {
    TestHost::new()
        .token(b"secret", Identity { id: "ada".into(), ..Identity::default() })
        .secret("key", CapabilityKind::Bytes, &b"hush"[..])
        .sender("search", |request| async move {
            if request.url != "https://a.example/" {
                return Err(CallError::forbidden("another origin"));
            }
            let mut answer = HttpResponse::new(201);
            (answer.headers, answer.body) = (request.headers, request.body);
            Ok(answer)
        })
        .gateway()
        .operation("other/twice", |_, n: u32| async move { Ok(n * 2) })
        .subscription("other/upto", |_, n: u32, mut sink: ItemSink<u32>| async move {
            for n in 0..n {
                sink.send(&n).await?;
            }
            Ok(())
        })
}

fn build(host: &TestHost) -> Built {
    let module = Module::linked::<Sample>();
    let manifest = module.manifest().unwrap();
    module.build(manifest, &host.host(), &Json::empty_object()).unwrap()
}

fn code<'a>(built: &'a Built, name: &str) -> &'a OperationCode {
    let index = built.manifest.operations.iter().position(|spec| spec.name == name).unwrap();
    &built.operations[index]
}

fn call(built: &Built, host: &TestHost, name: &str, input: serde_json::Value) -> crate::CallFuture {
    let OperationCode::Once(code) = code(built, name) else { panic!("{name} streams") };
    let (context, cancel) = host.context(name).timeout(Duration::from_secs(60)).build();
    let call = code.call(context, input.into());
    Box::pin(async move {
        let _cancel = cancel;
        call.await
    })
}

fn subscribe(built: &Built, host: &TestHost, name: &str, input: u32) -> CallStream {
    let OperationCode::Stream(code) = code(built, name) else { panic!("{name} answers") };
    let (context, _cancel) = host.context(name).build();
    code.subscribe(context, json!(input).into())
}

fn auth(alpn: &str) -> AuthContext {
    let ada = Identity { id: "ada".into(), ..Identity::default() };
    AuthContext::new(Some(ada), alpn, None, None, Source::Memory)
}

#[tokio::test]
async fn every_service_of_the_host_crosses() {
    let host = host();
    let built = build(&host);
    let answer = call(&built, &host, "sample/services", json!(null)).await.unwrap();
    assert_eq!(answer.to_string(), "\"all well\"");
    assert_eq!(host.logged("hear").await.field("b"), Some("two"));
    assert!(host.metric("seen", &[("kind", "a")]).is_some());
}

#[tokio::test]
async fn everything_a_connection_has_crosses() {
    let host = host();
    let built = build(&host);
    let (client, server, control) = Pair::new("sample/all").client_key([9; 32]).build();
    let serving = tokio::spawn(built.handlers[0].clone().handle(server, auth("sample/all")));
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    let text = vec![b'z'; 200_000];
    let (wrote, back) = tokio::join!(
        async {
            send.write_all(&text).await.unwrap();
            send.finish()
        },
        recv.read_to_end(1 << 20)
    );
    wrote.unwrap();
    assert!(back.unwrap() == text);
    let mut uni = client.open_uni().await.unwrap();
    uni.write_all(b"").await.unwrap();
    uni.reset(0x1_0000_0001);
    client.accept_uni().await.unwrap().stop(0x2_0000_0002);
    client.send_datagram(Bytes::from_static(b"dgram")).unwrap();
    assert_eq!(client.read_datagram().await.unwrap(), "dgram");
    control.begin_shutdown();
    let closed = client.closed().await;
    assert_eq!((closed.code, closed.reason.as_str()), (Some(77), "bye"));
    assert!(matches!(serving.await.unwrap(), Err(HandlerError::AuthRequired)));
}

#[tokio::test]
async fn answers_items_and_errors_cross_unchanged() {
    let host = host();
    let built = build(&host);
    for text in ["1".to_owned(), format!("\"{}\"", "x".repeat(5000))] {
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let answer = call(&built, &host, "sample/echo", value).await.unwrap();
        assert_eq!(answer.to_string(), text);
    }
    let error = call(&built, &host, "sample/refuse", json!(0)).await.unwrap_err();
    assert_eq!((&*error.code, error.retryable), ("SOLD_OUT", true));
    assert_eq!(error.details.unwrap().to_string(), r#"{"next":7}"#);
    let items: Vec<_> = subscribe(&built, &host, "sample/count", 3).collect().await;
    let texts: Vec<_> = items[..3].iter().map(|item| item.clone().unwrap().to_string()).collect();
    assert_eq!(texts, ["0", "1", "2"]);
    assert_eq!(items[3].as_ref().unwrap_err().code, "DONE");
    assert_eq!(items.len(), 4);
}

#[tokio::test]
async fn panics_in_poll_and_in_drop_are_contained() {
    let host = host();
    let built = build(&host);
    for late in [false, true] {
        let error = call(&built, &host, "sample/panic", json!(late)).await.unwrap_err();
        assert_eq!(error.code, "INTERNAL");
        assert!(error.message.contains("sample panic"), "{error}");
    }
    let mut bomb = call(&built, &host, "sample/bomb", json!(0));
    assert!((&mut bomb).now_or_never().is_none());
    drop(bomb);
    call(&built, &host, "sample/echo", json!(1)).await.unwrap();
}

#[tokio::test]
async fn nothing_is_left_behind() {
    let host = host();
    let backend = host.host().backend().clone();
    let before = Arc::strong_count(&backend);
    let built = build(&host);
    for _ in 0..50 {
        call(&built, &host, "sample/echo", json!("x".repeat(3000))).await.unwrap();
        let mut never = call(&built, &host, "sample/never", json!(0));
        assert!((&mut never).now_or_never().is_none());
        drop(subscribe(&built, &host, "sample/count", 9));
        let _ = call(&built, &host, "sample/panic", json!(true)).await;

        let (client, server, _control) = Pair::new("sample/hang").build();
        let weak = Arc::downgrade(server.backend());
        let mut serving = built.handlers[1].clone().handle(server, auth("sample/hang"));
        let (mut send, _recv) = client.open_bi().await.unwrap();
        send.write_all(b"hello").await.unwrap();
        assert!((&mut serving).now_or_never().is_none());
        drop(serving);
        assert_eq!(weak.strong_count(), 0, "the handler's connection is given back");
    }
    drop(built);
    assert_eq!(Arc::strong_count(&backend), before, "the host's services are given back");
}

#[test]
fn bytes_are_released_once_by_the_side_that_made_them() {
    struct Owner(Vec<u8>, #[allow(dead_code)] Live);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let count = Arc::default();
    for size in [1, 100, 1024, 1025, 100_000] {
        let bytes = Bytes::from_owner(Owner(vec![5; size], Live::new(&count)));
        let at = bytes.as_ptr();
        let back = value::Blob::new(bytes).into_bytes();
        assert!(back.len() == size && back.iter().all(|byte| *byte == 5));
        assert_eq!(back.as_ptr() == at, size > 1024, "large ones are not copied");
        drop(back);
        assert_eq!(count.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn a_panic_whose_payload_panics_when_dropped_is_contained() {
    let caught = guard(|| std::panic::panic_any(Bomb));
    assert_eq!(caught, Err("a panic without a text".into()));
}

#[test]
fn log_events_reach_the_host_with_level_and_fields() {
    let host = TestHost::new();
    let forwarder = crate::forward::Forwarder::new(host.host().backend().clone());
    tracing::subscriber::with_default(forwarder, || {
        let _span = tracing::info_span!("unrecorded").entered();
        tracing::warn!(count = 3, name = "x", "it happened");
    });
    let lines = host.logs();
    let line = lines.iter().find(|line| line.message == "it happened").unwrap();
    assert_eq!(line.level, Level::Warn);
    assert_eq!((line.field("count"), line.field("name")), (Some("3"), Some("x")));
}
