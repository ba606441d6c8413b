//! Composition by plugins of both kinds, in both directions.

use alknet_tests::secrets::add_vault;
use futures_util::future::join_all;

use super::*;

const BOTH: [(&str, &str); 4] = [
    ("native", "native"),
    ("native", "confined"),
    ("confined", "native"),
    ("confined", "confined"),
];

#[tokio::test]
async fn c39_c44_plugins_of_both_kinds_compose() {
    let node = node().await;
    let client = node.client().await;
    for (above, below) in BOTH {
        let call = |name: &str| json!({ "name": format!("{below}/{name}") });
        let answer = client.ask(&format!("/{above}/compose"), call("context")).await.unwrap();
        let seen = &answer["answer"];
        assert_eq!(seen["operation"], format!("{below}/context"), "{answer}");
        assert_eq!(seen["internal"], true);
        assert_eq!(seen["identity"]["id"], format!("{above}-tree"));
        assert_eq!(seen["handler_identity"]["id"], format!("{below}-tree"));
        // c43
        assert_eq!(seen["origin"]["id"], "local");
        assert_ne!(seen["request_id"], seen["parent_request_id"]);
        assert_ne!(seen["parent_request_id"], Value::Null);
        // An internal operation is for composition, and reach is asked first.
        assert_eq!(composed(&client, above, call("secret")).await, Value::Null);
        assert_eq!(composed(&client, above, call("orphan")).await, "NOT_FOUND", "c39");
        assert_eq!(composed(&client, above, call("nothing")).await, "NOT_FOUND");
        assert_eq!(composed(&client, above, call("count")).await, "INVALID_OPERATION_TYPE", "c44");
        let asked = format!("/{above}/reaches");
        let reaches = |name| client.ask(&asked, call(name));
        assert_eq!(reaches("secret").await.unwrap(), true);
        assert_eq!(reaches("orphan").await.unwrap(), false);

        let relay = json!({ "name": format!("{below}/count"), "input": 3 });
        let relayed = client.ask(&format!("/{above}/relay"), relay).await.unwrap();
        assert_eq!(relayed, json!({ "items": [0, 1, 2], "code": null }), "c44");
        let relay = json!({ "name": format!("{below}/context"), "input": null });
        let relayed = client.ask(&format!("/{above}/relay"), relay).await.unwrap();
        assert_eq!(relayed["code"], "INVALID_OPERATION_TYPE", "c44");
        let relay =
            json!({ "name": format!("{below}/count"), "take": 5, "policy": "continue-running" });
        let relayed = client.ask(&format!("/{above}/relay"), relay).await.unwrap();
        assert_eq!(relayed["items"], json!([0, 1, 2, 3, 4]));

        for policy in ["continue-running", "abort-dependents"] {
            let call = json!({ "name": format!("{below}/context"), "policy": policy });
            let answer = client.ask(&format!("/{above}/compose"), call).await.unwrap();
            assert_eq!(answer["answer"]["abort_policy"], policy);
        }
        for peer in [json!("any"), json!({ "specific": "nobody" })] {
            let call = json!({ "name": format!("{below}/context"), "peer": peer });
            assert_eq!(composed(&client, above, call.clone()).await, "NOT_FOUND");
            assert_eq!(client.ask(&format!("/{above}/reaches"), call).await.unwrap(), false);
        }
    }
}

#[tokio::test]
async fn c40_c41_inner_calls_have_the_handlers_authority() {
    let node = node().await;
    let client = node.client().await;
    for below in ["native", "confined"] {
        let inner = json!({ "name": format!("{below}/inner") });
        // The caller lacks `inner`, the native plugin holds it.
        let direct = ask_as(&client, READER, &format!("/{below}/inner"), json!(null)).await;
        assert_eq!(direct.unwrap_err().message, "missing required scope: inner");
        let through = ask_as(&client, READER, "/native/compose", inner.clone()).await.unwrap();
        assert_eq!(through["answer"]["identity"]["id"], "native-tree");
        assert_eq!(through["answer"]["origin"]["id"], READER[..8]);
        // The caller holds it, the confined plugin does not.
        ask_as(&client, INNER, &format!("/{below}/inner"), json!(null)).await.unwrap();
        let through = ask_as(&client, INNER, "/confined/compose", inner).await.unwrap();
        assert_eq!(through["code"], "FORBIDDEN");
        assert_eq!(through["message"], "missing required scope: inner");
    }
}

#[tokio::test]
async fn c42_a_child_sees_its_own_capabilities_and_not_its_parents() {
    let node = folder();
    add_vault(&node, &[("one", "s3cret-one"), ("two", "s3cret-two")]);
    for space in ["native", "confined"] {
        let lent = |name: &str, entry: &str, to: &str| {
            format!(
                "{name} = {{ entry = \"{entry}\", kind = \"bytes\", reveal = true, \
                 operations = [\"/{space}/{to}\"] }}"
            )
        };
        let (above, below) = (lent("above", "one", "plan"), lent("below", "two", "context"));
        let label = format!("authority = {{ label = \"{space}-tree\"");
        let capabilities = format!("capabilities = {{ {above}, {below} }}\n{label}");
        node.replace("node.toml", &label, &capabilities);
    }
    let node = node.start(&[]).await;
    let client = node.client().await;
    for (above, below) in BOTH {
        let call =
            |of: &str, plan| json!({ "call": { "target": format!("{below}/{of}"), "plan": plan } });
        let deeper = json!({ "steps": [call("context", json!(null))] });
        let plan = json!({ "steps": [call("context", json!(null)), call("plan", deeper)] });
        let answer = client.ask(&format!("/{above}/plan"), plan).await.unwrap();
        let child = |answer: &Value, n: usize| answer["calls"][n]["outcome"]["answer"].clone();
        assert_eq!(answer["seen"]["lent"], json!([true, false]), "{above}");
        assert_eq!(child(&answer, 0)["lent"], json!([false, true]), "{above} {below}");
        let middle = child(&answer, 1);
        assert_eq!(middle["seen"]["lent"], json!([true, false]), "{above} {below}");
        assert_eq!(child(&middle, 0)["lent"], json!([false, true]), "{above} {below}");
    }
}

#[tokio::test]
async fn c43_claims_stay_with_the_call_that_brought_them() {
    let node = node().await;
    let client = node.client().await;
    let options = CallOptions { forwarded_for: vec![named("emil")], ..CallOptions::default() };
    let root = ask_with(&client, options.clone(), "/native/context", json!(null)).await.unwrap();
    assert_eq!(root["forwarded_for"][0]["id"], "emil");
    assert_eq!(root["origin"]["id"], "local");
    for (above, below) in BOTH {
        let call = json!({ "name": format!("{below}/context") });
        let options = options.clone();
        let child = ask_with(&client, options, &format!("/{above}/compose"), call).await.unwrap();
        assert_eq!(child["answer"]["forwarded_for"], json!([]));
        assert_eq!(child["answer"]["origin"]["id"], "local");
    }
}

#[tokio::test]
async fn c18_a_composed_calls_deadline_is_its_parents() {
    let node = node().await;
    let client = node.client().await;
    for (above, below) in BOTH {
        let call = json!({ "steps": [
            { "wait": 50 },
            { "call": { "target": format!("{below}/context"), "plan": null } },
        ] });
        let timeout = Some(Duration::from_secs(20));
        let options = CallOptions { timeout, ..CallOptions::default() };
        let answer = ask_with(&client, options, &format!("/{above}/plan"), call).await.unwrap();
        let left = |seen: &Value| seen["remaining_ms"].as_u64().unwrap();
        let child = left(&answer["calls"][0]["outcome"]["answer"]);
        // Both were looked at after the wait, the parent's last.
        assert!(left(&answer["seen"]) <= child && child <= 19_950, "{answer}");
    }
}

#[tokio::test]
async fn confined_plugins_call_themselves_without_waiting_for_themselves() {
    let node = node().await;
    let client = node.client().await;
    // Deeper than a component has instances for calls, and of both kinds in turn.
    for spaces in [&["confined"][..], &["confined", "native"], &["native"]] {
        let path: Vec<_> = (0..40).map(|n| format!("{}/down", spaces[n % spaces.len()])).collect();
        let trees = (0..3).map(|_| client.ask("/native/down", json!(path)));
        for answer in join_all(trees).await {
            assert_eq!(answer.unwrap(), Value::Null);
        }
    }
    // Many calls that nobody of their kind waits for wait for a place instead.
    let forks: Vec<_> = (0..60).map(|_| json!(["confined/context", null])).collect();
    let plan = json!({ "steps": [{ "fork": forks }] });
    let answer = client.ask("/native/plan", plan).await.unwrap();
    let outcomes = answer["calls"].as_array().unwrap();
    assert_eq!(outcomes.len(), 60);
    assert!(outcomes.iter().all(|call| call["outcome"]["code"].is_null()), "{answer}");
}
