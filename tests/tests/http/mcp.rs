//! The tools, as the official Python SDK and curl see them.

use super::*;
use alknet_tests::service::run_python;

/// The protocol's versions: the newest, and the one before.
const VERSIONS: [&str; 2] = ["2026-07-28", "2025-11-25"];

/// What the SDK gets from these calls of tools, for each version: the listing, and
/// each result.
async fn asked(site: &Site, token: &str, calls: &Value) -> Vec<Vec<Value>> {
    let certificate = site.certificate();
    let (url, calls) = (site.url("/mcp"), calls.to_string());
    let arguments = [&*url, certificate.to_str().unwrap(), token, &calls];
    let said = run_python("mcp_client.py", &arguments).await;
    let lines: Vec<Value> =
        said.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let versions = lines.chunks(lines.len() / VERSIONS.len());
    versions.map(<[Value]>::to_vec).collect()
}

#[tokio::test]
async fn c59_models_have_four_tools_and_no_subscriptions() {
    let site = site("").await;
    let calls = json!([
        ["search", { "query": "count" }],
        ["search", { "query": "echo reverse" }],
        ["schema", { "name": "echo/say" }],
        ["schema", { "name": "native/count" }],
        ["call", { "operation": "echo/say", "input": { "text": "hi" } }],
        ["call", { "operation": "native/count", "input": 3 }],
        ["call", { "operation": "native/inner", "input": {} }],
        ["batch", { "calls": [
            { "operation": "echo/say", "input": { "text": "a" } },
            { "operation": "none/such", "input": {} },
        ] }],
        ["call", { "operation": "echo/say" }],
    ]);
    for (token, inner) in [("", false), (INNER, true)] {
        let answers = asked(&site, token, &calls).await;
        for (answers, version) in answers.iter().zip(VERSIONS) {
            assert_eq!(answers[0]["version"], version);
            assert_eq!(answers[0]["tools"], json!(["search", "schema", "call", "batch"]));
            let content = |n: usize, error: bool| {
                assert_eq!(answers[n]["error"], error, "{n}: {}", answers[n]);
                &answers[n]["content"]
            };
            assert_eq!(content(1, false)["operations"], json!([]));
            assert_eq!(content(2, false)["operations"][0]["name"], "echo/reverse");
            assert_eq!(content(3, false)["name"], "echo/say");
            assert_eq!(content(4, true)["code"], "NOT_FOUND");
            assert_eq!(content(5, false)["output"]["text"], "hi");
            assert_eq!(content(6, true)["code"], "INVALID_OPERATION_TYPE");
            match inner {
                true => assert!(content(7, false)["output"].is_object()),
                false => assert_eq!(content(7, true)["code"], "FORBIDDEN"),
            }
            assert_eq!(content(8, false)["results"][0]["output"]["text"], "a");
            assert_eq!(content(8, false)["results"][1]["error"]["code"], "NOT_FOUND");
            assert_eq!(content(9, true)["code"], "INVALID_INPUT");
        }
    }
}

/// A request of the version before, as curl sends it.
async fn post(site: &Site, method: &str, params: Value, more: &[&str]) -> Answer {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let accept = ["--header", "accept: application/json, text/event-stream"];
    site.post("/mcp", &body, &[&accept[..], more].concat()).await
}

#[tokio::test]
async fn what_is_no_mcp_is_refused() {
    let site = site("").await;
    let tools = post(&site, "tools/list", json!({}), &[]).await.ok();
    assert_eq!(tools["result"]["tools"].as_array().unwrap().len(), 4);
    let refused =
        post(&site, "tools/list", json!({}), &["--header", "authorization: Bearer x"]).await;
    refused.problem(401, "FORBIDDEN");
    assert!(refused.header("www-authenticate").unwrap().contains("invalid_token"));
    let other = post(&site, "tools/list", json!({}), &["--header", "host: node.test"]).await;
    other.problem(421, "NOT_FOUND");
    let wrong =
        post(&site, "tools/list", json!({}), &["--header", "mcp-protocol-version: 1999-01-01"]);
    assert_eq!(wrong.await.status, 400);
    let none = json!({ "name": "subscribe", "arguments": {} });
    let none = post(&site, "tools/call", none, &[]).await.ok();
    assert_eq!(none["error"]["code"], -32602, "{none}");
    let none = post(&site, "resources/list", json!({}), &[]).await;
    assert!(none.json()["error"].is_object() || none.json()["result"]["resources"] == json!([]));
    assert_eq!(site.curl("/mcp", &["--header", "accept: text/event-stream"]).await.status, 405);
    let text = ["--header", "content-type: application/json", "--data-binary", "{"];
    let accept = ["--header", "accept: application/json, text/event-stream"];
    let invalid = site.curl("/mcp", &[&text[..], &accept].concat()).await;
    assert!((400..500).contains(&invalid.status), "{invalid:?}");
}

#[tokio::test]
async fn c50_a_model_that_leaves_aborts_its_call() {
    let site = site("").await;
    let watcher = site.client().await;
    let body = json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": { "name": "call", "arguments": { "operation": "native/wait", "input": {} } },
    })
    .to_string();
    let arguments = [
        "--header",
        "accept: application/json, text/event-stream",
        "--header",
        "content-type: application/json",
        "--data-binary",
        &body,
    ];
    let mut curl = site.command("/mcp", &arguments).spawn().unwrap();
    in_flight_becomes(&watcher, "native/wait", 1).await;
    curl.kill().await.unwrap();
    in_flight_becomes(&watcher, "native/wait", 0).await;
}

#[tokio::test]
async fn tools_can_be_switched_off() {
    let site = site("mcp = false").await;
    site.curl("/mcp", &[]).await.problem(404, "NOT_FOUND");
}
