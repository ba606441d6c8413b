//! The call protocol's server as a component. Its instance waits for calls that
//! other instances answer, and none of them may run within it.

use alknet_plugin_api::code;
use futures_util::StreamExt;
use futures_util::future::join_all;

use super::*;

async fn node() -> Daemon {
    folder_behind(&built().confined_call).start(&[]).await
}

#[tokio::test]
async fn a_component_serves_calls_of_plugins_of_both_kinds() {
    let node = node().await;
    let client = node.client().await;
    for space in ["native", "confined"] {
        let seen = client.ask(&format!("/{space}/context"), json!(null)).await.unwrap();
        assert_eq!(seen["identity"]["id"], "local");
        assert_eq!(seen["internal"], false);
        // One call costs no other, whatever becomes of it.
        let steps = json!({ "steps": ["panic"] });
        let error = client.ask(&format!("/{space}/plan"), steps).await.unwrap_err();
        assert_eq!(error.code, code::INTERNAL);
        let error = client.ask(&format!("/{space}/inner"), json!(null)).await.unwrap_err();
        assert_eq!(error.code, code::FORBIDDEN);
    }
    for path in [["native", "confined"], ["confined", "native"], ["confined", "confined"]] {
        let down: Vec<_> = (0..40).map(|n| format!("{}/down", path[n % 2])).collect();
        assert_eq!(client.ask("/native/down", json!(down)).await.unwrap(), Value::Null);
        assert_eq!(client.ask("/confined/down", json!(down)).await.unwrap(), Value::Null);
    }
    let many = (0..60).map(|n| {
        let client = &client;
        let name = if n % 2 == 0 { "/confined/context" } else { "/native/context" };
        async move { client.ask(name, json!(null)).await.unwrap() }
    });
    assert_eq!(join_all(many).await.len(), 60);
}

#[tokio::test]
async fn a_component_serves_subscriptions_of_plugins_of_both_kinds() {
    let node = node().await;
    let (client, watcher) = (node.client().await, node.client().await);
    for space in ["native", "confined"] {
        let name = format!("/{space}/count");
        let counted: Vec<_> = within(client.subscribe(&name, json!(1000)))
            .await
            .unwrap()
            .map(|item| item.unwrap().to::<u64>().unwrap())
            .collect()
            .await;
        assert_eq!(counted, Vec::from_iter(0..1000), "{space}");
        // Two at once, of which one is left.
        let mut left = within(client.subscribe(&name, json!(null))).await.unwrap();
        let mut kept = within(client.subscribe(&name, json!(null))).await.unwrap();
        for n in 0..100 {
            let items = (within(left.next()).await, within(kept.next()).await);
            let (Some(Ok(one)), Some(Ok(other))) = items else { panic!("{items:?}") };
            assert_eq!((one.to().unwrap(), other.to().unwrap()), (n, n));
        }
        drop(left);
        in_flight_becomes(&watcher, &name[1..], 1).await;
        assert_eq!(within(kept.next()).await.unwrap().unwrap().to::<u64>().unwrap(), 100);
        drop(kept);
        in_flight_becomes(&watcher, &name[1..], 0).await;
        for below in ["native", "confined"] {
            let relay = json!({ "name": format!("{below}/count"), "input": 50 });
            let relayed = client.ask(&format!("/{space}/relay"), relay).await.unwrap();
            assert_eq!(relayed["items"].as_array().unwrap().len(), 50, "{space} of {below}");
        }
    }
}

#[tokio::test]
async fn aborts_and_lost_connections_reach_calls_behind_a_component() {
    let node = node().await;
    let watcher = node.client().await;
    for space in ["native", "confined"] {
        let client = node.client().await;
        let (name, wait) = (format!("/{space}/hold"), format!("{space}/wait"));
        let call = json!({ "name": wait });
        {
            let mut waiting = std::pin::pin!(client.ask(&name, call.clone()));
            tokio::select! {
                answer = &mut waiting => panic!("{answer:?}"),
                () = in_flight_becomes(&watcher, &wait, 1) => {}
            }
        }
        in_flight_becomes(&watcher, &wait, 0).await;
        let options =
            CallOptions { timeout: Some(Duration::from_millis(300)), ..CallOptions::default() };
        let error = ask_with(&client, options, &name, call.clone()).await.unwrap_err();
        assert_eq!((&*error.code, error.retryable), (code::TIMEOUT, true));
        in_flight_becomes(&watcher, &wait, 0).await;
        let waiting = client.ask(&name, call);
        let close = async {
            in_flight_becomes(&watcher, &wait, 1).await;
            client.connection().close(0, "gone");
        };
        let (ended, ()) = tokio::join!(waiting, close);
        assert_eq!(ended.unwrap_err().code, code::INTERNAL);
        in_flight_becomes(&watcher, &wait, 0).await;
        in_flight_becomes(&watcher, &name[1..], 0).await;
    }
}

#[tokio::test]
async fn a_connection_that_leaves_at_any_moment_leaves_no_instance() {
    let node = node().await;
    let watcher = node.client().await;
    let instances = "alknet_component_instances";
    let before = metric(&watcher, instances, &[]).await;
    for moment in 0..30 {
        let mut raw = Raw::open(&node).await;
        if moment % 2 == 0 {
            raw.request("c-1", "/confined/wait", json!(null)).await;
        }
        tokio::time::sleep(Duration::from_millis(moment)).await;
        drop(raw);
    }
    in_flight_becomes(&watcher, "confined/wait", 0).await;
    // Instances that answered calls may stay for others.
    let reached = async {
        while metric(&watcher, instances, &[]).await > before + 8.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(reached).await;
    watcher.assert_answered().await;
}
