//! Tools imported from a server on the official Python MCP SDK.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use alknet_call_protocol::CallOptions;
use alknet_tests::daemon::{Daemon, NodeFolder, within};
use alknet_tests::secrets::add_vault;
use alknet_tests::service::{Service, free_port};
use serde_json::{Value, json};

fn importing(url: &str, more: &str) -> NodeFolder {
    let node = NodeFolder::developed();
    let stanza = format!(
        "[[import]]\nname = \"tools\"\nkind = \"mcp\"\nurl = \"{url}\"\n\
         expose = [\"add\", \"greet\", \"fail\", \"slow\", \"learn\", \"shout\"]\n{more}\n"
    );
    node.append("node.toml", &stanza);
    node
}

async fn with_tools() -> (Service, Daemon) {
    let tools = Service::start("tools.py", &[]).await;
    let node = importing(&tools.url("/mcp"), "").start(&[]).await;
    node.logged("imported").await;
    (tools, node)
}

#[tokio::test]
async fn tools_are_mutations() {
    let (_tools, node) = with_tools().await;
    let sum = node.alknet(["call", "/tools/add", r#"{"a": 1, "b": 2}"#]).await;
    assert_eq!(sum.json(), json!({"total": 3}));
    let client = node.client().await;
    let blocks = client.ask("/tools/greet", json!({"name": "you"})).await.unwrap();
    assert_eq!(blocks[0]["type"], "text");
    assert_eq!(blocks[0]["text"], "hello, you");
    let error = client.ask("/tools/fail", json!({"why": "no paper"})).await.unwrap_err();
    assert_eq!(error.code, "TOOL_ERROR");
    assert!(error.message.contains("no paper"), "{error}");
    let error = client.ask("/tools/add", json!({"a": "x"})).await.unwrap_err();
    assert_eq!(error.code, "INVALID_INPUT");
    let schema = client.services_schema("/tools/add").await.unwrap().to::<Value>().unwrap();
    assert_eq!(schema["op_type"], "mutation");
    assert_eq!(schema["description"], "Adds two numbers.");
}

#[tokio::test]
async fn tools_that_change_are_imported_anew() {
    let (_tools, node) = with_tools().await;
    let client = node.client().await;
    let error = client.ask("/tools/shout", json!({"text": "a"})).await.unwrap_err();
    assert_eq!(error.code, "NOT_FOUND");
    client.ask("/tools/learn", json!({"name": "shout"})).await.unwrap();
    node.logged("its tools changed").await;
    let shouted = async {
        loop {
            match client.ask("/tools/shout", json!({"text": "a"})).await {
                Ok(shouted) => return shouted,
                Err(error) => assert_eq!(error.code, "NOT_FOUND"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(within(shouted).await[0]["text"], "A");
}

#[tokio::test]
async fn c16_c47_a_call_that_ends_is_cancelled_in_the_server() {
    let (tools, node) = with_tools().await;
    let client = node.client().await;
    let options =
        CallOptions { timeout: Some(Duration::from_millis(800)), ..CallOptions::default() };
    let error = within(client.call_with("/tools/slow", json!({}), options)).await.unwrap_err();
    assert_eq!((&*error.code, error.retryable), ("TIMEOUT", true));
    tools.said("slow: cancelled").await;
    // The session has outlived it.
    client.ask("/tools/add", json!({"a": 1, "b": 2})).await.unwrap();
}

#[tokio::test]
async fn c50_a_call_that_is_given_up_is_cancelled_in_the_server() {
    let (tools, node) = with_tools().await;
    let client = node.client().await;
    {
        let call = client.call("/tools/slow", json!({}));
        tokio::pin!(call);
        tokio::select! {
            answer = &mut call => panic!("{answer:?}"),
            () = tools.said("slow: begun") => {}
        }
    }
    tools.said("slow: cancelled").await;
}

#[tokio::test]
async fn a_lost_server_is_found_again() {
    let (tools, node) = with_tools().await;
    let client = node.client().await;
    client.ask("/tools/add", json!({"a": 1, "b": 2})).await.unwrap();
    let port = tools.killed().await;
    for _ in 0..2 {
        let error = client.ask("/tools/add", json!({"a": 1, "b": 2})).await.unwrap_err();
        assert_eq!((&*error.code, error.retryable), ("INTERNAL", true), "{error}");
        assert!(error.message.contains("/mcp"), "{error}");
    }
    let _tools = Service::start_at(port, "tools.py", &[]).await;
    let found = async {
        while client.ask("/tools/add", json!({"a": 1, "b": 2})).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(found).await;
}

#[tokio::test]
async fn a_node_starts_without_a_server_and_finds_it_later() {
    let port = free_port();
    let node = importing(&format!("http://127.0.0.1:{port}/mcp"), "").start(&[]).await;
    node.logged("/mcp cannot be reached: Connection refused").await;
    assert!(node.alknet(["status"]).await.text().contains("degraded"));
    let _tools = Service::start_at(port, "tools.py", &[]).await;
    node.logged("imported").await;
    let client = node.client().await;
    client.ask("/tools/add", json!({"a": 1, "b": 2})).await.unwrap();
}

#[tokio::test]
async fn a_server_over_standard_input_is_refused_with_the_reason() {
    let node = NodeFolder::developed();
    node.append(
        "node.toml",
        "[[import]]\nname = \"x\"\nkind = \"mcp\"\ncommand = \"uvx some-server\"\n",
    );
    let check = node.alknet(["check"]).await;
    let text = check.refused(78);
    assert!(text.contains("standard input") && text.contains("streamable HTTP"), "{text}");
}

#[tokio::test]
async fn a_server_that_asks_for_a_credential_says_so() {
    let tools = Service::start("tools.py", &[("TOOLS_TOKEN", "s3cret")]).await;
    let node = importing(&tools.url("/mcp"), "").start(&[]).await;
    node.logged("refuses this node").await;
    let status = node.alknet(["status", "--json"]).await.json();
    let error = status["imports"][0]["last_error"].as_str().unwrap().to_owned();
    assert!(error.contains("`credential`"), "{error}");
}

#[tokio::test]
async fn c42_a_credential_reaches_the_server_and_nobody_else() {
    const TOKEN: &str = "s3cret-of-the-tools";
    let tools = Service::start("tools.py", &[("TOOLS_TOKEN", TOKEN)]).await;
    let node =
        importing(&tools.url("/mcp"), "credential = { entry = \"tools\", kind = \"bearer\" }");
    add_vault(&node, &[("tools", TOKEN)]);
    node.append("access.toml", "[log]\nfilter = \"trace\"\n");
    let node = node.start(&[]).await;
    node.logged("imported").await;
    let client = node.client().await;
    assert_eq!(client.ask("/tools/add", json!({"a": 1, "b": 2})).await.unwrap()["total"], 3);
    let error = client.ask("/tools/fail", json!({"why": "x"})).await.unwrap_err();
    let status = node.alknet(["status", "--json"]).await;
    let (stdout, stderr) = (node.process().stdout(), node.process().stderr());
    for seen in [&stdout, &stderr, &status.stdout, &format!("{error:?}")] {
        assert!(!seen.contains(TOKEN), "{seen}");
    }
}

#[tokio::test]
async fn all_pages_of_the_tools_are_imported() {
    let pages = Service::start("pages.py", &[]).await;
    let node = importing(&pages.url("/mcp"), "");
    node.replace("node.toml", "\"add\",", "\"tool0\", \"tool24\",");
    let node = node.start(&[]).await;
    node.logged("imported").await;
    let status = node.alknet(["status", "--json"]).await.json();
    assert_eq!(status["imports"][0]["operations"].as_array().unwrap().len(), 25, "{status}");
    let client = node.client().await;
    for tool in ["tool0", "tool24"] {
        let blocks = client.ask(&format!("/tools/{tool}"), json!({})).await.unwrap();
        assert_eq!(blocks[0]["text"], tool);
    }
    for first in [0, 10, 20] {
        pages.said(&format!("listing from {first}")).await;
    }
}
