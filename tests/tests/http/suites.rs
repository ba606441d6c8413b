//! The TypeScript SDKs of MCP, its conformance suite, and a tester that makes
//! requests up from the description.

use super::*;
use alknet_tests::service::{fixture, free_port, run_python_tool, start_node};
use tokio::io::AsyncWriteExt;

/// What the first TypeScript SDK and its successor get from these calls of tools, a
/// line each. Calls that wait are cancelled once they run.
async fn asked(site: &Site, token: &str, calls: &Value) -> Vec<Vec<Value>> {
    let watcher = site.client().await;
    let (url, calls) = (site.url("/mcp"), calls.to_string());
    let mut client = start_node("mcp_client.js", &site.certificate(), &[&url, token, &calls]);
    let mut input = client.stdin();
    for n in 1..=2 {
        client.said_times(r#"{"calling":"call"}"#, n).await;
        in_flight_becomes(&watcher, "native/wait", 1).await;
        input.write_all(b"cancel\n").await.unwrap();
        in_flight_becomes(&watcher, "native/wait", 0).await;
    }
    let ended = client.ended().await;
    let lines: Vec<Value> =
        ended.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.chunks(lines.len() / 2).map(<[Value]>::to_vec).collect()
}

#[tokio::test]
async fn c59_c50_typescript_clients_call_the_tools_and_cancel() {
    let site = site("").await;
    let calls = json!([
        ["search", { "query": "echo reverse" }],
        ["schema", { "name": "echo/say" }],
        ["call", { "operation": "echo/say", "input": { "text": "hi" } }],
        ["call", { "operation": "native/inner", "input": {} }],
        ["batch", { "calls": [
            { "operation": "echo/say", "input": { "text": "a" } },
            { "operation": "none/such", "input": {} },
        ] }],
        ["call", { "operation": "native/wait", "input": {} }, { "cancelled": true }],
        ["call", { "operation": "echo/say", "input": { "text": "still" } }],
    ]);
    for (token, inner) in [("", false), (INNER, true)] {
        let clients = asked(&site, token, &calls).await;
        for (told, sessions) in clients.iter().zip([true, false]) {
            let tools = json!(["search", "schema", "call", "batch"]);
            assert_eq!(told[0], json!({ "session": sessions, "tools": tools }));
            let content = |n: usize, error: bool| {
                assert_eq!(told[n]["error"], error, "{n}: {}", told[n]);
                &told[n]["content"]
            };
            assert_eq!(content(1, false)["operations"][0]["name"], "echo/reverse");
            assert_eq!(content(2, false)["name"], "echo/say");
            assert_eq!(content(3, false)["output"]["text"], "hi");
            match inner {
                true => assert!(content(4, false)["output"].is_object()),
                false => assert_eq!(content(4, true)["code"], "FORBIDDEN"),
            }
            assert_eq!(content(5, false)["results"][0]["output"]["text"], "a");
            assert_eq!(content(5, false)["results"][1]["error"]["code"], "NOT_FOUND");
            assert_eq!(told[5]["progress"], json!([[1, 2], [2, 2]]), "{}", told[5]);
            assert_eq!(told[6], json!({ "calling": "call" }));
            assert_eq!(told[7], json!({ "cancelled": true }));
            assert_eq!(content(8, false)["output"]["text"], "still");
        }
    }
}

/// A cancellation as a client of 2025-11-25 sends it.
async fn cancel(site: &Site, session: &str, token: &[String; 2]) {
    let body = json!({
        "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 7 },
    });
    let session = format!("mcp-session-id: {session}");
    let accept = "accept: application/json, text/event-stream";
    let headers = ["--header", &session, "--header", accept, &token[0], &token[1]];
    assert_eq!(site.post("/mcp", &body, &headers).await.status, 202);
}

#[tokio::test]
async fn a_cancellation_holds_for_its_own_session_and_token() {
    let site = site("").await;
    let watcher = site.client().await;
    let (inner, admin) = (bearer(INNER), bearer(ADMIN));
    let body = json!({
        "jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": { "name": "call", "arguments": { "operation": "native/wait", "input": {} } },
    })
    .to_string();
    let accept = "accept: application/json, text/event-stream";
    let arguments = [
        &["--header", "content-type: application/json", "--header", accept][..],
        &["--header", "mcp-session-id: a", &inner[0], &inner[1], "--data-binary", &body],
    ]
    .concat();
    let call = site.command("/mcp", &arguments).spawn().unwrap();
    in_flight_becomes(&watcher, "native/wait", 1).await;
    cancel(&site, "b", &inner).await;
    cancel(&site, "a", &admin).await;
    in_flight_becomes(&watcher, "native/wait", 1).await;
    cancel(&site, "a", &inner).await;
    in_flight_becomes(&watcher, "native/wait", 0).await;
    let told = within(call.wait_with_output()).await.unwrap().stdout;
    let told: Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(told["result"]["structuredContent"]["code"], "ABORTED", "{told}");
}

#[tokio::test]
async fn the_conformance_suite_of_mcp_finds_what_is_known() {
    let port = free_port();
    let site = site(&format!("origins = [\"http://localhost:{port}\"]")).await;
    for revision in ["2025-11-25", "2026-07-28"] {
        let node = format!("localhost:{}", site.tcp.port());
        let expected = format!("{}/node/conformance-{revision}.yml", env!("CARGO_MANIFEST_DIR"));
        let arguments = [&*node, &port.to_string(), revision, &expected];
        let judged = start_node("conformance.js", &site.certificate(), &arguments).ended().await;
        assert_eq!(judged.status, Some(0), "{revision}:\n{}{}", judged.stdout, judged.stderr);
        assert!(judged.stdout.contains("server-stateless") || revision == "2025-11-25");
    }
}

#[tokio::test]
async fn requests_made_up_from_the_description_get_what_it_promises() {
    let (node, tcp) = folder_with("", &[("clock", &built().clock)]);
    let site = start(node, tcp).await;
    let certificate = site.certificate();
    let config = fixture("schemathesis.toml");
    let arguments = [
        "--config-file",
        config.to_str().unwrap(),
        "run",
        &site.url("/openapi.json"),
        "--tls-verify",
        certificate.to_str().unwrap(),
        "--checks=all",
        "--phases=examples,coverage,fuzzing",
        "--max-examples=30",
        // A subscription ends with its client alone.
        "--exclude-path=/subscribe",
        "--seed=1",
        "--generation-database=none",
        "--no-color",
    ];
    let judged = run_python_tool("schemathesis", &arguments).await;
    assert_eq!(judged.status, Some(0), "{}{}", judged.stdout, judged.stderr);
    site.client().await.assert_answered().await;
}
