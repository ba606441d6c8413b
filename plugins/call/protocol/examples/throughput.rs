//! Measures the protocol alone: envelopes, and calls over a connection in memory
//! on one thread, 64 at a time on one stream.
//!
//! `cargo run --release -p alknet-call-protocol --example throughput`

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_call_protocol::envelope::{self, Event};
use alknet_call_protocol::{ALPN, CallClient, CallConnection, LocalOperations, Options, Timer};
use alknet_plugin_api::testing::pair;
use alknet_plugin_api::{Json, OperationSpec};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, FuturesUnordered};

const AT_ONCE: usize = 64;

struct Tokio;
impl Timer for Tokio {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

fn report(what: &str, count: usize, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    show(what, count, start.elapsed());
}

fn show(what: &str, count: usize, took: Duration) {
    let each = took.as_nanos() as f64 / count.max(1) as f64;
    println!("{what:<28} {each:>8.0} ns {:>12.0} /s", 1e9 / each);
}

fn envelopes() {
    let input = r#"{"user":"dora","tag":"invoices","limit":25,"after":"2024-01-01"}"#;
    let text = format!(
        r#"{{"type":"call.requested","id":"abcdefghij-1f","payload":{{"operationId":"/notes/find","input":{input},"timeout_ms":4000}}}}"#
    );
    println!("an envelope of {} bytes", text.len());
    let frame = Bytes::from(text);
    let parsed = envelope::parse(&frame).map(|envelope| envelope.event);
    let Ok(Event::Requested(Ok(request))) = parsed else { return };
    report("parse a request", 1_000_000, || {
        for _ in 0..1_000_000 {
            let _ = black_box(envelope::parse(black_box(&frame)));
        }
    });
    let mut out = BytesMut::with_capacity(1024);
    report("write a request", 1_000_000, || {
        for _ in 0..1_000_000 {
            out.clear();
            envelope::write_request(black_box(&mut out), "abcdefghij-1f", &request);
        }
    });
    out.clear();
    envelope::write_response(&mut out, "abcdefghij-1f", &request.input, false);
    let frame = out.split().freeze();
    report("parse an answer", 1_000_000, || {
        for _ in 0..1_000_000 {
            let _ = black_box(envelope::parse(black_box(&frame)));
        }
    });
}

async fn calls(client: &CallConnection, name: &str, count: usize) {
    let input = Json::from(serde_json::json!({"user": "dora", "tag": "invoices"}));
    let mut running: FuturesUnordered<_> =
        (0..AT_ONCE).map(|_| client.call(name, input.clone())).collect();
    for _ in 0..count {
        if let Some(Err(error)) = running.next().await {
            eprintln!("{error:?}");
        }
        running.push(client.call(name, input.clone()));
    }
}

fn main() -> std::io::Result<()> {
    envelopes();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let count = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(300_000);
    runtime.block_on(async {
        let local = LocalOperations::new()
            .operation(OperationSpec::query("t/echo"), |input| async move { Ok(input) })
            .operation(OperationSpec::query("t/later"), |input| async move {
                tokio::task::yield_now().await;
                Ok(input)
            })
            .subscription(OperationSpec::subscription("t/count"), move |_| {
                stream::iter(0..count).map(|n| Ok(Json::from(serde_json::json!(n))))
            });
        let (client, server) = pair(ALPN);
        let options = Options::new(Arc::new(Tokio)).serve(Arc::new(local));
        let (_keep, driver) = CallClient::spawn_dispatch(server, options.clone());
        tokio::spawn(driver);
        let (client, driver) = CallClient::spawn_dispatch(client, options);
        tokio::spawn(driver);
        for name in ["t/echo", "t/later"] {
            let start = Instant::now();
            calls(&client, name, count).await;
            let took = start.elapsed();
            show(&format!("{name}, {AT_ONCE} in flight"), count, took);
        }
        let start = Instant::now();
        if let Ok(mut items) = client.subscribe("t/count", Json::null()).await {
            let mut seen = 0usize;
            while items.next().await.is_some() {
                seen += 1;
            }
            let took = start.elapsed();
            show("an item of a subscription", seen, took);
        }
    });
    Ok(())
}
