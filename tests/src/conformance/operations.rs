//! Operations: answers, errors, contexts, subscriptions.

use std::time::Duration;

use alknet_plugin_api::{CallError, code};
use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::mark;
use crate::substrate::{GREETING, NAME, SECRET, Substrate};

async fn call(substrate: &dyn Substrate, name: &str, input: Value) -> Result<Value, CallError> {
    let name = format!("conformance/{name}");
    Ok(substrate.call(&name, input, None).await?.to().unwrap())
}

async fn fails(substrate: &dyn Substrate, name: &str, input: Value) -> CallError {
    match call(substrate, name, input).await {
        Err(error) => error,
        Ok(output) => panic!("{name} answered {output}"),
    }
}

pub async fn operations_answer(substrate: &dyn Substrate) {
    for value in
        [json!(null), json!({ "a": [1, -2.5, "ü\u{0}\n", {}] }), json!("x".repeat(1 << 20))]
    {
        assert!(call(substrate, "echo", value.clone()).await.unwrap() == value);
    }
}

pub async fn the_configuration_arrives(substrate: &dyn Substrate) {
    assert_eq!(call(substrate, "greeting", json!(null)).await.unwrap(), GREETING);
}

pub async fn errors_keep_code_and_details(substrate: &dyn Substrate) {
    let declared = fails(substrate, "fail", json!("CONFORMANCE_FAILED")).await;
    assert_eq!(declared.code, "CONFORMANCE_FAILED");
    assert_eq!(declared.message, "failed, as asked");
    assert_eq!(declared.details, Some(json!({ "asked": true }).into()));
    assert!(!declared.retryable);
    let undeclared = fails(substrate, "fail", json!("UNHEARD_OF")).await;
    assert_eq!(undeclared.code, code::INTERNAL);
    assert!(undeclared.details.unwrap().to_string().contains("UNHEARD_OF"));
    assert_eq!(fails(substrate, "fail", json!(1)).await.code, code::INVALID_INPUT);
    assert_eq!(fails(substrate, "unknown", json!(1)).await.code, code::NOT_FOUND);
    assert_eq!(fails(substrate, "count", json!(1)).await.code, code::INVALID_OPERATION_TYPE);
    let mut items = substrate.subscribe("conformance/echo", json!(1));
    let error = items.next().await.unwrap().unwrap_err();
    assert_eq!(error.code, code::INVALID_OPERATION_TYPE);
}

pub async fn the_context_is_the_calls(substrate: &dyn Substrate) {
    let first = call(substrate, "context", json!(null)).await.unwrap();
    assert_eq!(first["operation"], "conformance/context");
    assert_eq!(first["identity"]["id"], NAME);
    assert_eq!((&first["internal"], &first["cancelled"]), (&json!(false), &json!(false)));
    let limit = Duration::from_secs(30);
    let second = substrate.call("conformance/context", json!(null), Some(limit)).await.unwrap();
    let second: Value = second.to().unwrap();
    assert_ne!(first["request_id"], second["request_id"]);
    let left = second["remaining_ms"].as_u64().unwrap();
    assert!((1..=30_000).contains(&left), "{left}");
}

pub async fn capabilities_are_lent(substrate: &dyn Substrate) {
    let lent = call(substrate, "capability", json!("secret")).await.unwrap();
    assert_eq!(lent["kind"], "bytes");
    // A confined plugin holds the bytes only where the operator says so.
    let bytes = &lent["bytes"];
    assert!(*bytes == SECRET.len() || (substrate.confines() && bytes.is_null()), "{lent}");
    assert_eq!(call(substrate, "capability", json!("other")).await.unwrap(), Value::Null);
}

pub async fn the_plugin_composes(substrate: &dyn Substrate) {
    let sum = call(substrate, "compose", json!({ "name": "host/add", "input": [2, 3] })).await;
    assert_eq!(sum.unwrap(), 5);
    let missing = fails(substrate, "compose", json!({ "name": "host/none" })).await;
    assert_eq!(missing.code, code::NOT_FOUND);
    let items = call(substrate, "relay", json!({ "name": "host/count", "input": 3 })).await;
    assert_eq!(items.unwrap(), json!([0, 1, 2]));
}

pub async fn a_deadline_drops_the_call(substrate: &dyn Substrate) {
    let mark = mark("deadline");
    let limit = Some(Duration::from_millis(100));
    let error = substrate.call("conformance/wait", json!(mark), limit).await.unwrap_err();
    assert_eq!(error.code, code::TIMEOUT);
    assert!(error.retryable);
    substrate.logged(&format!("stopped waiting: {mark}")).await;
}

pub async fn an_aborted_call_is_dropped(substrate: &dyn Substrate) {
    let mark = mark("aborted");
    let waiting = format!("waiting: {mark}");
    tokio::select! {
        answer = substrate.call("conformance/wait", json!(mark), None) => panic!("{answer:?}"),
        () = substrate.logged(&waiting) => {}
    }
    substrate.logged(&format!("stopped waiting: {mark}")).await;
}

pub async fn panics_in_operations_cost_the_call_alone(substrate: &dyn Substrate) {
    for _ in 0..10 {
        assert_eq!(fails(substrate, "panic", json!(null)).await.code, code::INTERNAL);
    }
    // The answer may win over the panic that follows it, or be lost to it.
    match call(substrate, "panic_in_drop", json!(null)).await {
        Ok(answer) => assert_eq!(answer, "answered"),
        Err(error) => assert_eq!(error.code, code::INTERNAL),
    }
}

pub async fn subscriptions_end_as_they_should(substrate: &dyn Substrate) {
    let items = substrate.subscribe("conformance/count", json!({ "to": 1000 }));
    let items: Vec<u64> = items.map(|item| item.unwrap().to::<u64>().unwrap()).collect().await;
    assert_eq!(items, (0..1000).collect::<Vec<_>>());

    for (fail, expected) in
        [("CONFORMANCE_FAILED", "CONFORMANCE_FAILED"), ("OTHER", code::INTERNAL)]
    {
        let input = json!({ "to": 2, "fail": fail });
        let items: Vec<_> = substrate.subscribe("conformance/count", input).collect().await;
        assert_eq!(items.len(), 3);
        assert_eq!(items[2].as_ref().unwrap_err().code, expected);
    }
}

pub async fn a_dropped_subscription_is_dropped(substrate: &dyn Substrate) {
    let mark = mark("subscription");
    let mut items = substrate.subscribe("conformance/forever", json!(mark));
    for n in 0..100u64 {
        assert_eq!(items.next().await.unwrap().unwrap().to::<u64>().unwrap(), n);
    }
    drop(items);
    substrate.logged(&format!("stopped waiting: {mark}")).await;
}

pub async fn a_panic_ends_the_subscription(substrate: &dyn Substrate) {
    let items: Vec<_> = substrate.subscribe("conformance/panic_after", json!(3)).collect().await;
    assert_eq!(items.len(), 4);
    assert_eq!(items[3].as_ref().unwrap_err().code, code::INTERNAL);
}

pub async fn many_calls_at_once(substrate: &dyn Substrate) {
    let answers = join_all((0..500u64).map(|n| async move {
        match n % 5 {
            0 => call(substrate, "sleep", json!(n % 20)).await.is_ok_and(|text| text == "slept"),
            1 => fails(substrate, "fail", json!("CONFORMANCE_FAILED")).await.code != code::INTERNAL,
            _ => call(substrate, "echo", json!(n)).await.is_ok_and(|back| back == n),
        }
    }));
    assert!(answers.await.into_iter().all(|right| right));
}
