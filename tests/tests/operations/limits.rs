//! How much at once: calls in flight, rates, recursion, and subscriptions whose
//! consumers take their time.

use alknet_plugin_api::code;
use futures_util::FutureExt;
use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn c20_the_257th_call_of_a_connection_is_refused() {
    let node = node().await;
    let (client, watcher) = (node.client().await, node.client().await);
    let mut calls: Vec<_> =
        (0..256).map(|_| client.ask("/native/wait", json!(null)).boxed_local()).collect();
    let waiting = join_all(calls.iter_mut());
    tokio::select! {
        _ = waiting => panic!("a wait ended"),
        () = in_flight_becomes(&watcher, "native/wait", 256) => {}
    }
    let error = client.ask("/native/context", json!(null)).await.unwrap_err();
    assert_eq!((&*error.code, error.retryable), (code::RESOURCE_EXHAUSTED, true));
    assert_eq!(in_flight(&watcher, "native/wait").await, 256.0, "the others go on");
    calls.truncate(200);
    in_flight_becomes(&watcher, "native/wait", 200).await;
    client.ask("/native/context", json!(null)).await.unwrap();
}

#[tokio::test]
async fn an_identitys_calls_are_limited_over_all_its_connections() {
    let node = folder();
    node.replace("access.toml", "[limits]\n", "[limits]\ncalls_per_identity = 10\n");
    let node = node.start(&[]).await;
    let (one, two) = (node.client().await, node.client().await);
    let mut calls: Vec<_> = (0..10)
        .map(|n| {
            let client = if n % 2 == 0 { &one } else { &two };
            ask_as(client, READER, "/native/wait", json!(null)).boxed_local()
        })
        .collect();
    let waiting = join_all(calls.iter_mut());
    tokio::select! {
        _ = waiting => panic!("a wait ended"),
        () = in_flight_becomes(&one, "native/wait", 10) => {}
    }
    for client in [&one, &two] {
        let error = ask_as(client, READER, "/native/context", json!(null)).await.unwrap_err();
        assert_eq!(error.code, code::RESOURCE_EXHAUSTED);
        // Another identity of the same connection has its own places.
        ask_as(client, INNER, "/native/context", json!(null)).await.unwrap();
    }
    calls.truncate(9);
    in_flight_becomes(&one, "native/wait", 9).await;
    ask_as(&two, READER, "/native/context", json!(null)).await.unwrap();
}

#[tokio::test]
async fn c22_a_claim_escapes_no_rate_and_changes_no_decision() {
    let node = folder();
    let limits = "[limits]\ncalls_per_second = 1\ncalls_burst = 20\norigin_calls_per_second = 1\n\
                  origin_calls_burst = 3\n";
    node.replace("access.toml", "[limits]\n", limits);
    let node = node.start(&[]).await;
    let client = node.client().await;
    let call = async |token: &str, claimed: &str| {
        let options = CallOptions {
            auth_token: Some(token.to_owned()),
            forwarded_for: vec![Identity { scopes: vec!["inner".into()], ..named(claimed) }],
            ..CallOptions::default()
        };
        ask_with(&client, options, "/native/inner", json!(null)).await.unwrap_err()
    };
    // The claimed scope does not help.
    assert_eq!(call(READER, "emil").await.message, "missing required scope: inner");
    // An end user has a stricter bucket of its own, for this caller.
    for _ in 0..2 {
        assert_eq!(call(READER, "emil").await.code, code::FORBIDDEN);
    }
    let error = call(READER, "emil").await;
    assert_eq!(error.code, code::RESOURCE_EXHAUSTED);
    assert!(error.retryable && error.details.unwrap().to_string().contains("retry_after"));
    assert_eq!(call(READER, "dora").await.code, code::FORBIDDEN);
    // Ever new claims spend the caller's own.
    let mut refused = 0;
    for n in 0..30 {
        refused += u32::from(call(READER, &n.to_string()).await.code == code::RESOURCE_EXHAUSTED);
    }
    assert!(refused >= 10, "{refused}");
    let options = CallOptions {
        auth_token: Some(INNER.to_owned()),
        forwarded_for: vec![named("emil")],
        ..CallOptions::default()
    };
    ask_with(&client, options, "/native/inner", json!(null)).await.unwrap();
}

#[tokio::test]
async fn c21_recursion_stops_at_the_limit() {
    let node = node().await;
    let client = node.client().await;
    for space in ["native", "confined"] {
        let answer = client.ask(&format!("/{space}/recurse"), json!(null)).await.unwrap();
        assert_eq!(answer["code"], code::RESOURCE_EXHAUSTED, "{space}");
        in_flight_becomes(&client, &format!("{space}/recurse"), 0).await;
    }
}

#[tokio::test]
async fn c17_a_timeout_above_the_maximum_is_capped() {
    let node = node().await;
    let client = node.client().await;
    let options =
        CallOptions { timeout: Some(Duration::from_secs(86_400)), ..CallOptions::default() };
    let seen = ask_with(&client, options, "/native/context", json!(null)).await.unwrap();
    let left = seen["remaining_ms"].as_u64().unwrap();
    assert!((290_000..=300_000).contains(&left), "{left}");
    let seen = client.ask("/native/context", json!(null)).await.unwrap();
    let left = seen["remaining_ms"].as_u64().unwrap();
    assert!((20_000..=30_000).contains(&left), "{left}");
}

#[tokio::test]
async fn c19_a_paused_consumer_suspends_the_producer_and_loses_nothing() {
    let node = node().await;
    let (client, watcher) = (node.client().await, node.client().await);
    for space in ["native", "confined"] {
        // For ever: what was not taken must not pile up in the node.
        let name = format!("{space}/count");
        let mut items = within(client.subscribe(&format!("/{name}"), json!(null))).await.unwrap();
        assert_eq!(within(items.next()).await.unwrap().unwrap().to::<u64>().unwrap(), 0);
        let before = node.resident_bytes();
        // Other calls on the connection go on; meanwhile the producer fills what
        // there is to fill.
        for _ in 0..200 {
            client.ask("/native/context", json!(null)).await.unwrap();
        }
        let grown = node.resident_bytes().saturating_sub(before);
        assert!(grown < 32 << 20, "{} MiB more", grown >> 20);
        for n in 1..10_000u64 {
            assert_eq!(within(items.next()).await.unwrap().unwrap().to::<u64>().unwrap(), n);
        }
        drop(items);
        in_flight_becomes(&watcher, &name, 0).await;
    }
}
