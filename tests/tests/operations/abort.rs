//! Aborts over the wire: what stops, what survives, and that nothing is left.

use std::task::Poll;

use alknet_plugin_api::code;
use futures_util::future::join_all;

use super::*;

/// Starts a call and waits until the node runs `operation` for it.
async fn begin<'a>(
    client: &'a Client,
    watcher: &Client,
    name: &'a str,
    input: Value,
    operation: &str,
) -> futures_util::future::LocalBoxFuture<'a, Result<Value, CallError>> {
    use futures_util::FutureExt;
    let mut call = client.ask(name, input).boxed_local();
    let before = in_flight(watcher, operation).await;
    let started = async {
        while in_flight(watcher, operation).await == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        answer = &mut call => panic!("{name} answered {answer:?}"),
        () = within(started) => call,
    }
}

#[tokio::test]
async fn c47_c48_an_abort_stops_handlers_of_both_kinds_three_levels_down() {
    let node = node().await;
    let (client, watcher) = (node.client().await, node.client().await);
    for (above, below) in [("native", "confined"), ("confined", "native")] {
        let waits = json!({ "name": format!("{below}/wait") });
        let middle = json!({ "name": format!("{above}/hold"), "input": waits });
        let root = format!("/{below}/hold");
        let [wait, hold] = ["wait", "hold"].map(|of| format!("{below}/{of}"));
        let sibling = begin(&client, &watcher, "/native/hold", waits.clone(), &wait).await;
        let aborted = begin(&client, &watcher, &root, middle, &wait).await;
        assert_eq!(in_flight(&watcher, &wait).await, 2.0);
        drop(aborted);
        in_flight_becomes(&watcher, &wait, 1).await;
        if below != "native" {
            in_flight_becomes(&watcher, &hold, 0).await;
        }
        drop(sibling);
        in_flight_becomes(&watcher, &wait, 0).await;
        in_flight_becomes(&watcher, "native/hold", 0).await;
    }
    // Subscriptions below go, too.
    for (above, below) in [("native", "confined"), ("confined", "native")] {
        let count = format!("{below}/count");
        let relay = json!({ "name": count });
        let name = format!("/{above}/relay");
        let call = begin(&client, &watcher, &name, relay, &count).await;
        drop(call);
        in_flight_becomes(&watcher, &count, 0).await;
    }
}

#[tokio::test]
async fn c47_a_component_is_stopped_in_a_tight_loop() {
    let node = node().await;
    let (client, watcher) = (node.client().await, node.client().await);
    let before = metric(&watcher, "alknet_component_instances", &[]).await;
    let began = std::time::Instant::now();
    let call = begin(&client, &watcher, "/confined/spin", json!(null), "confined/spin").await;
    drop(call);
    in_flight_becomes(&watcher, "confined/spin", 0).await;
    metric_becomes(&watcher, "alknet_component_instances", &[], before - 1.0).await;
    assert!(began.elapsed() < Duration::from_secs(20));
    client.ask("/confined/context", json!(null)).await.unwrap();
}

#[tokio::test]
async fn c49_continue_running_spares_the_started_and_starts_none() {
    let node = node().await;
    let watcher = &node.client().await;
    for (above, below) in [("native", "confined"), ("confined", "native")] {
        let (plan, context) = (format!("{below}/plan"), format!("{below}/context"));
        // The survivor would make a call after its wait.
        let steps = json!({ "steps": [
            { "wait": 2000 },
            { "call": { "target": context, "plan": null } },
        ] });
        let ended = |operation: &str| {
            let labels = [("operation", operation.to_owned())];
            async move {
                let labels = labels.each_ref().map(|(label, value)| (*label, &**value));
                metric(watcher, "alknet_calls_total", &labels).await
            }
        };
        // Once by the policy of the call, and once by that of the abort.
        for by_abort in [false, true] {
            let (survived, started) = (ended(&plan).await, ended(&context).await);
            let policy = if by_abort { "abort-dependents" } else { "continue-running" };
            let call = json!({ "name": plan, "input": steps, "policy": policy });
            let mut raw = Raw::open(&node).await;
            raw.request("c-1", &format!("/{above}/hold"), call).await;
            in_flight_becomes(watcher, &plan, 1).await;
            raw.abort("c-1", if by_abort { "continue-running" } else { "abort-dependents" }).await;
            in_flight_becomes(watcher, &format!("{above}/hold"), 0).await;
            assert_eq!(in_flight(watcher, &plan).await, 1.0, "it runs on");
            in_flight_becomes(watcher, &plan, 0).await;
            assert_eq!(ended(&plan).await, survived + 1.0);
            assert_eq!(ended(&context).await, started, "nothing starts afterwards");
            // After the caller aborts, the responder sends nothing more for the call.
            raw.request("c-2", &format!("/{above}/context"), json!(null)).await;
            assert_eq!(raw.event().await["id"], "c-2");
        }
    }
}

#[tokio::test]
async fn c53_calls_of_a_node_that_stops_end_as_aborted() {
    let node = node().await;
    let (client, watcher) = (node.client().await, node.client().await);
    let mut waiting = Vec::new();
    for (name, wait) in [("/native/wait", "native/wait"), ("/confined/wait", "confined/wait")] {
        waiting.push(begin(&client, &watcher, name, json!(null), wait).await);
    }
    node.process().signal("TERM").await;
    for call in join_all(waiting).await {
        let error = call.unwrap_err();
        assert_eq!((&*error.code, error.retryable), (code::ABORTED, false), "{error}");
    }
}

#[tokio::test]
async fn c51_closing_a_connection_cancels_its_calls_and_no_others() {
    let node = node().await;
    let (client, watcher) = (node.client().await, node.client().await);
    for space in ["native", "confined"] {
        let wait = format!("{space}/wait");
        let name = format!("/{wait}");
        let kept = begin(&watcher, &client, &name, json!(null), &wait).await;
        let other = node.client().await;
        let lost = begin(&other, &client, &name, json!(null), &wait).await;
        assert_eq!(in_flight(&client, &wait).await, 2.0);
        other.connection().close(0, "gone");
        assert_eq!(lost.await.unwrap_err().code, code::INTERNAL);
        in_flight_becomes(&client, &wait, 1).await;
        drop(kept);
        in_flight_becomes(&client, &wait, 0).await;
    }
}

#[tokio::test]
async fn c16_a_handler_past_its_deadline_is_cancelled_with_its_dependents() {
    let node = node().await;
    let client = node.client().await;
    for (above, below) in [("native", "confined"), ("confined", "native")] {
        let call = json!({ "name": format!("{below}/wait"), "policy": "continue-running" });
        let timeout = Some(Duration::from_millis(300));
        let options = CallOptions { timeout, ..CallOptions::default() };
        let error = ask_with(&client, options, &format!("/{above}/hold"), call).await.unwrap_err();
        assert_eq!((&*error.code, error.retryable), (code::TIMEOUT, true));
        in_flight_becomes(&client, &format!("{above}/hold"), 0).await;
        in_flight_becomes(&client, &format!("{below}/wait"), 0).await;
    }
}

/// Starts `count` calls, gives each up once it has been sent, in batches.
async fn abort_calls(client: &Client, name: &str, input: &Value, count: usize) {
    const BATCH: usize = 100;
    for _ in 0..count / BATCH {
        let mut calls: Vec<_> =
            (0..BATCH).map(|_| Box::pin(client.call(name, input.clone()))).collect();
        for call in &mut calls {
            let polled = std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
        }
        // Half of them are given up before the node can have started them all.
        calls.truncate(BATCH / 2);
        client.ask("/native/context", json!(null)).await.unwrap();
        drop(calls);
        client.ask("/native/context", json!(null)).await.unwrap();
    }
}

#[tokio::test]
async fn c47_a_hundred_thousand_aborted_calls_leave_nothing() {
    let node = node().await;
    let (client, watcher) = (node.client().await, node.client().await);
    let tasks = async || watcher.ask("/node/status", json!({})).await.unwrap()["tasks"].clone();
    let hold = |name: &str| json!({ "name": name });
    let rounds = [
        ("/native/wait", json!(null), 60_000),
        ("/native/hold", hold("native/wait"), 30_000),
        ("/confined/wait", json!(null), 6_000),
        ("/native/hold", hold("confined/wait"), 2_000),
        ("/confined/hold", hold("native/wait"), 2_000),
    ];
    // What is made at first use, once, is no leak.
    for (name, input, _) in &rounds {
        abort_calls(&client, name, input, 100).await;
    }
    let settle = async || {
        for operation in ["native/wait", "native/hold", "confined/wait", "confined/hold"] {
            in_flight_becomes(&watcher, operation, 0).await;
        }
    };
    settle().await;
    // Work that was given up takes its leave.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (tasks_before, memory) = (tasks().await, node.resident_bytes());
    let began = std::time::Instant::now();
    for (name, input, count) in &rounds {
        abort_calls(&client, name, input, *count).await;
        eprintln!("{name} {count}: {:?}", began.elapsed());
    }
    settle().await;
    let settled = async {
        while tasks().await.as_u64() > tasks_before.as_u64() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(settled).await;
    // A component keeps at most what it may keep idle.
    let instances = metric(&watcher, "alknet_component_instances", &[]).await;
    assert!(instances <= 16.0, "{instances} instances");
    let grown = node.resident_bytes().saturating_sub(memory);
    assert!(grown < 64 << 20, "{} MiB more", grown >> 20);
    let answers = (0..50).map(|_| client.ask("/confined/context", json!(null)));
    assert!(join_all(answers).await.iter().all(Result::is_ok));
}
