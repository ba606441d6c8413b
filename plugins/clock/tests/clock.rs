//! The plugin, driven in memory with the clock paused.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use alknet_plugin_api::prelude::*;
use alknet_plugin_api::testing::{TestHost, TestPlugin};
use alknet_plugin_clock::Clock;
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

#[derive(Debug, Deserialize)]
struct Tick {
    tick: u64,
    unix_ms: u64,
}

fn clock() -> TestPlugin {
    TestPlugin::build::<Clock>(TestHost::new(), json!({})).unwrap()
}

#[tokio::test(start_paused = true)]
async fn now_is_the_hosts_time() {
    let plugin = clock();
    let unix_ms = async || {
        let now = plugin.call("clock/now", json!({})).await.unwrap();
        now.to::<serde_json::Value>().unwrap()["unix_ms"].as_u64().unwrap()
    };
    let before = unix_ms().await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(unix_ms().await - before, 60_000);
}

#[tokio::test(start_paused = true)]
async fn ticks_keep_to_their_times() {
    let started = Instant::now();
    let ticks: Vec<Tick> = clock()
        .subscribe("clock/ticks", json!({ "every_ms": 500, "count": 7200 }))
        .map(|item| item.unwrap().to().unwrap())
        .collect()
        .await;
    assert_eq!(ticks.len(), 7200);
    assert!(ticks.iter().enumerate().all(|(n, tick)| tick.tick == n as u64));
    let took = ticks[7199].unix_ms - ticks[0].unix_ms;
    // Timers have a resolution of a millisecond, but the error does not add up.
    assert!((7199 * 500..=7199 * 500 + 2).contains(&took), "{took}");
    assert!(started.elapsed() < Duration::from_secs(3601));
}

#[tokio::test(start_paused = true)]
async fn a_slow_consumer_misses_ticks_and_gets_no_burst() {
    let mut items = clock().subscribe("clock/ticks", json!({ "every_ms": 100 }));
    let mut next = async || -> Tick { items.next().await.unwrap().unwrap().to().unwrap() };
    assert_eq!(next().await.tick, 0);
    assert_eq!(next().await.tick, 1);
    sleep(Duration::from_millis(1050)).await;
    let late = next().await;
    let after = next().await;
    assert!(late.tick >= 11, "{late:?}");
    assert_eq!(after.tick, late.tick + 1);
}

#[tokio::test(start_paused = true)]
async fn an_aborted_subscription_is_logged() {
    let plugin = clock();
    let context = plugin.context("clock/ticks").request_id("r-1");
    let mut items = plugin.subscribe_with(context, json!({ "every_ms": 500 }));
    for _ in 0..3 {
        items.next().await.unwrap().unwrap();
    }
    assert!(plugin.host().logs().is_empty());
    drop(items);
    let line = plugin.host().logged("ticks subscription ended").await;
    assert_eq!(line.field("request_id"), Some("r-1"));
    assert_eq!(line.field("aborted"), Some("true"));
    assert_eq!(line.field("ticks"), Some("3"));
}

#[tokio::test(start_paused = true)]
async fn a_complete_subscription_is_logged_as_such() {
    let plugin = clock();
    let items = plugin.subscribe("clock/ticks", json!({ "every_ms": 500, "count": 2 }));
    assert_eq!(items.count().await, 2);
    let line = plugin.host().logged("ticks subscription ended").await;
    assert_eq!((line.field("aborted"), line.field("ticks")), (Some("false"), Some("2")));
}

#[tokio::test]
async fn intervals_out_of_bounds_are_refused() {
    let config = json!({ "min_interval_ms": 100 });
    let plugin = TestPlugin::build::<Clock>(TestHost::new(), config).unwrap();
    for every_ms in [0, 99, 86_400_001] {
        let mut items = plugin.subscribe("clock/ticks", json!({ "every_ms": every_ms }));
        let error = items.next().await.unwrap().unwrap_err();
        assert_eq!(error.code, alknet_plugin_api::code::INVALID_INPUT, "{every_ms}");
        assert!(items.next().await.is_none());
    }
    let unknown = TestPlugin::build::<Clock>(TestHost::new(), json!({ "min_intervall": 1 }));
    assert!(unknown.is_err_and(|error| error.to_string().contains("min_intervall")));
}
