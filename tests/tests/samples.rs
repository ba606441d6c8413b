//! The sample plugins as components, through the daemon's own loader. That they
//! work as linked code is tested beside each of them.

#![allow(clippy::unwrap_used)] // In tests a panic is the report.

use std::path::Path;

use alknet::plugins::artifact::Policy;
use alknet::plugins::component::{self, ComponentLimits};
use alknet::plugins::{Artifact, Kind, LoadError};
use alknet_plugin_api::testing::{TestHost, TestPlugin};
use alknet_plugin_api::{CallError, Connection, Json, SendStream, StreamError, code};
use alknet_tests::{artifact, substrate};
use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use serde_json::{Value, json};

const ECHO: &str = "alknet/echo";

fn try_load(package: &str, config: Value) -> Result<TestPlugin, LoadError> {
    let policy = Policy { allow_unpinned: true, ..Policy::default() };
    let artifact = Artifact::read(&artifact::component(package), &policy)?;
    assert_eq!(artifact.kind()?, Kind::Component);
    let engine = substrate::engine(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("samples-cache"));
    let host = TestHost::new();
    let opened = component::open(artifact, &engine, ComponentLimits::default())?;
    let built = opened.build(host.host(), Json::from(config))?;
    Ok(TestPlugin::of(host, built))
}

fn load(package: &str) -> TestPlugin {
    try_load(package, json!({})).unwrap_or_else(|error| panic!("{error}"))
}

async fn round_trip(connection: &Connection, data: &[u8]) -> Vec<u8> {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let sending = async {
        send.write_all(data).await.unwrap();
        send.finish().unwrap();
    };
    join(sending, recv.read_to_end(data.len() + 1)).await.1.unwrap()
}

async fn call(plugin: &TestPlugin, name: &str, input: Value) -> Result<Value, CallError> {
    Ok(plugin.call(name, input).await?.to().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn echo_returns_streams_datagrams_and_codes() {
    let plugin = load("alknet-plugin-echo");
    let connection = plugin.connect(ECHO);
    for size in [0, 1, 4096, 65_536, 3_000_001] {
        let data: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        assert!(round_trip(&connection, &data).await == data, "{size} bytes");
    }
    let answers = join_all((0..100u32).map(|n| {
        let connection = connection.clone();
        async move { round_trip(&connection, &n.to_be_bytes()).await == n.to_be_bytes() }
    }));
    assert!(answers.await.into_iter().all(|same| same));
    assert_eq!(plugin.host().counter("streams_total"), 105);

    connection.send_datagram("gram".into()).unwrap();
    assert_eq!(connection.read_datagram().await.unwrap(), "gram");

    let (mut send, mut recv): (SendStream, _) = connection.open_bi().await.unwrap();
    send.write_all(b"x").await.unwrap();
    assert_eq!(recv.read(&mut [0; 1]).await.unwrap(), Some(1));
    send.reset(0x1234_5678_9abc);
    match recv.read_to_end(10).await {
        Err(StreamError::Reset(code)) => assert_eq!(code, 0x1234_5678_9abc),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn echo_answers_calls() {
    let plugin = load("alknet-plugin-echo");
    let hi = json!({ "text": "hi" });
    assert_eq!(call(&plugin, "echo/say", hi.clone()).await.unwrap(), hi);
    let reversed = call(&plugin, "echo/reverse", json!({ "text": "añb" })).await.unwrap();
    assert_eq!(reversed, json!({ "text": "bña" }));
    let refused = call(&plugin, "echo/fail", hi.clone()).await.unwrap_err();
    assert_eq!(refused.code, "ECHO_REFUSED");
    assert_eq!(refused.details.unwrap().to::<Value>().unwrap(), hi);
    let wrong = call(&plugin, "echo/say", json!({ "text": 5 })).await.unwrap_err();
    assert_eq!(wrong.code, code::INVALID_INPUT);
}

#[tokio::test]
async fn clock_keeps_to_its_times() {
    let plugin = load("alknet-plugin-clock");
    let now = async || {
        let now = call(&plugin, "clock/now", json!({})).await.unwrap();
        now["unix_ms"].as_u64().unwrap()
    };
    let before = now().await;
    let ticks: Vec<Value> = plugin
        .subscribe("clock/ticks", json!({ "every_ms": 10, "count": 20 }))
        .map(|item| item.unwrap().to().unwrap())
        .collect()
        .await;
    let after = now().await;
    assert_eq!(ticks.len(), 20);
    // A busy machine may make the consumer late, who then misses some.
    let numbers: Vec<_> = ticks.iter().map(|tick| tick["tick"].as_u64().unwrap()).collect();
    assert!(numbers[0] == 0 && numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    let times: Vec<_> = ticks.iter().map(|tick| tick["unix_ms"].as_u64().unwrap()).collect();
    assert!(before <= times[0] && times[19] <= after, "{before} {times:?} {after}");
    // Both ends are cut to milliseconds. The first tick may come late, and the next
    // all the sooner.
    assert!(times[19] - before + 1 >= 19 * 10, "{before} {times:?}");
    let line = plugin.host().logged("ticks subscription ended").await;
    assert_eq!(line.field("aborted"), Some("false"));
    assert_eq!(line.field("ticks"), Some("20"));
}

#[tokio::test]
async fn an_abort_runs_the_destructors_of_clocks_subscription() {
    let plugin = load("alknet-plugin-clock");
    let context = plugin.context("clock/ticks").request_id("r-1");
    let mut items = plugin.subscribe_with(context, json!({ "every_ms": 10 }));
    for _ in 0..3 {
        items.next().await.unwrap().unwrap();
    }
    drop(items);
    let line = plugin.host().logged("ticks subscription ended").await;
    assert_eq!(line.field("request_id"), Some("r-1"));
    assert_eq!(line.field("aborted"), Some("true"));
    assert_eq!(line.field("ticks"), Some("3"));
    // Its instance is gone; the next call has another.
    assert!(call(&plugin, "clock/now", json!({})).await.unwrap()["unix_ms"].is_u64());
}

#[tokio::test]
async fn clock_refuses_what_its_configuration_forbids() {
    let error = try_load("alknet-plugin-clock", json!({ "shortest": 1 })).err().unwrap();
    assert!(error.to_string().contains("shortest"), "{error}");
    let config = json!({ "min_interval_ms": 1000 });
    let plugin = try_load("alknet-plugin-clock", config).unwrap_or_else(|error| panic!("{error}"));
    let items = plugin.subscribe("clock/ticks", json!({ "every_ms": 999 }));
    let items: Vec<_> = items.collect().await;
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].as_ref().unwrap_err().code, code::INVALID_INPUT);
}
