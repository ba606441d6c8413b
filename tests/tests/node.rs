//! What a user sees: a development node, its screen, and every command against
//! it, from a process of its own.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::Stdio;

use alknet::endpoint::Dialer;
use alknet_tests::daemon::{Daemon, NodeFolder, Running, built, within};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

async fn sample_node() -> Daemon {
    let built = built();
    let plugins = [&built.call, &built.echo, &built.files, &built.clock];
    NodeFolder::new().start(&plugins.map(|plugin| plugin.as_path())).await
}

async fn node_with(plugins: &[&Path]) -> Daemon {
    NodeFolder::new().start(plugins).await
}

/// The row of a table that begins with this word.
fn row<'a>(table: &'a str, first: &str) -> Vec<&'a str> {
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.into_iter()
        .find(|row| row.first() == Some(&first))
        .unwrap_or_else(|| panic!("no row `{first}` in:\n{table}"))
}

fn names<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array().unwrap().iter().map(|one| one[key].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_node_shows_itself_and_answers_every_command() {
    let node = sample_node().await;
    let key = hex(&node.key().0);
    let address = node.address().to_string();

    // The screen.
    let screen = node.process().stdout();
    assert!(screen.starts_with(&format!("alknet 0.1.0  node {key}\n")), "{screen}");
    assert!(screen.contains(&format!("listening on {address}\n")), "{screen}");
    let header = ["PLUGIN", "KIND", "TRUST", "VERSION", "ALPNS", "OPERATIONS", "LOAD"];
    let shown: Vec<_> = row(&screen, "PLUGIN").iter().map(|word| word.to_uppercase()).collect();
    assert_eq!(shown, header);
    assert_eq!(row(&screen, "call")[..5], ["call", "native", "native", "0.1.0", "alknet/call"]);
    let echo = row(&screen, "echo");
    assert_eq!(echo[..5], ["echo", "native", "native", "0.1.0", "alknet/echo"]);
    assert_eq!(echo[5..8], ["echo/say", "echo/reverse", "echo/fail"]);
    assert_eq!(echo[9], "ms");
    let clock = row(&screen, "clock");
    assert_eq!(clock[..4], ["clock", "component", "confined", "0.1.0"]);
    assert!(screen.contains("alknet call /echo/say '{\"text\":\"hello, node\"}'"), "{screen}");
    assert!(screen.contains("\n{\"text\":\"hello, node\"}\n"), "{screen}");
    for created in ["node.key", "node.toml", "client.key", "access.toml", "known-nodes"] {
        assert!(node.process().stderr().contains(created), "{}", node.process().stderr());
    }

    // Discovery.
    let ops = node.alknet(["ops"]).await;
    assert_eq!(row(ops.text(), "/clock/ticks")[1], "subscription");
    assert_eq!(row(ops.text(), "/echo/say")[1], "query");
    let ops = node.alknet(["ops", "--json"]).await.json();
    let found = names(&ops["operations"], "name");
    for name in ["node/status", "clock/now", "echo/say", "files/read", "services/list"] {
        assert!(found.contains(&name), "{found:?}");
    }
    let one = node.alknet(["ops", "/clock/ticks", "--json"]).await.json();
    assert_eq!(one["op_type"], "subscription");
    assert!(node.alknet(["ops", "/clock/ticks"]).await.text().contains("every_ms"));
    let unknown = node.alknet(["ops", "/clock/tick"]).await;
    assert!(unknown.refused(1).contains("NOT_FOUND"), "{unknown:?}");
    assert!(unknown.refused(1).contains("help: `alknet ops` lists"), "{unknown:?}");

    // Calls.
    let call = ["call", "/echo/reverse", r#"{"text":"hi"}"#];
    assert_eq!(node.alknet(call).await.json(), json!({ "text": "ih" }));
    let failed = node.alknet(["call", "/echo/fail", r#"{"text":"why"}"#]).await;
    assert!(failed.refused(1).contains("ECHO_REFUSED"), "{failed:?}");
    let failed = node.alknet(["--json", "call", "/echo/fail", r#"{"text":"why"}"#]).await;
    let error: Value = serde_json::from_str(failed.refused(1)).unwrap();
    assert_eq!(error["error"]["details"]["text"], "why");
    let wrong = node.alknet(["call", "/echo/say", r#"{"txt":"hi"}"#]).await;
    assert!(wrong.refused(1).contains("INVALID_INPUT"), "{wrong:?}");
    let manifest = node.alknet(["call", "/files/read", r#"{"path":"Cargo.toml"}"#]).await;
    assert!(manifest.text().contains("alknet-tests"), "{manifest:?}");
    let outside = node.alknet(["call", "/files/read", r#"{"path":"../Cargo.toml"}"#]).await;
    outside.refused(1);
    let ticks = node.alknet(["subscribe", "/clock/ticks", r#"{"every_ms":10,"count":3}"#]).await;
    let ticks: Vec<Value> =
        ticks.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(ticks.len(), 3);
    assert_eq!(ticks[0]["tick"], 0);

    // What it is.
    let status = node.alknet(["status"]).await;
    assert!(status.text().contains(&key), "{status:?}");
    assert_eq!(row(status.text(), "clock")[1..3], ["component", "confined"]);
    let status = node.alknet(["status", "--json"]).await.json();
    assert_eq!(status["node_key"], json!(key));
    assert_eq!(status["degraded"], json!(false));
    assert_eq!(names(&status["plugins"], "name"), ["call", "echo", "files", "clock"]);
    let connections = status["connections"].as_array().unwrap();
    assert!(connections.iter().any(|one| one["plugin"] == "call"), "{status}");

    // Its files.
    let plugins = node.alknet(["plugin", "list"]).await;
    assert_eq!(row(plugins.text(), "clock")[1..3], ["component", "confined"]);
    assert!(plugins.stderr.contains("could read its secrets"), "{plugins:?}");
    let plugins = node.alknet(["plugin", "list", "--json"]).await.json();
    assert_eq!(names(&plugins["plugins"], "name"), ["call", "echo", "files", "clock"]);
    for (file, kind, operation) in
        [(&built().echo, "native", "/echo/say"), (&built().clock, "component", "/clock/ticks")]
    {
        let file = file.to_str().unwrap();
        assert!(node.alknet(["plugin", "inspect", file]).await.text().contains(operation));
        let inspected = node.alknet(["plugin", "inspect", file, "--json"]).await.json();
        assert_eq!(inspected["kind"], kind);
        let pinned = names(&plugins["plugins"], "sha256");
        assert!(pinned.contains(&inspected["sha256"].as_str().unwrap()), "{inspected}");
    }
    let check = node.alknet(["check"]).await;
    assert!(check.text().contains("no problems; 4 plugins"), "{check:?}");
    assert_eq!(node.alknet(["check", "--json"]).await.json()["problems"], json!([]));

    // Its addresses.
    node.append("known-nodes", &format!("home {address}\n"));
    for to in ["home", "local", &address] {
        let said = node.alknet(["--to", to, "call", "/echo/say", r#"{"text":"hi"}"#]).await;
        assert_eq!(said.json()["text"], "hi", "{to}");
    }

    let ended = node.stop("INT").await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("shutting down"), "{ended:?}");
}

#[tokio::test]
async fn ctrl_c_aborts_a_subscription_on_the_node() {
    let built = built();
    let node = node_with(&[&built.call, &built.clock]).await;
    let mut command = node.command(["subscribe", "/clock/ticks", r#"{"every_ms":10}"#]);
    let client = Running::spawn(&mut command);
    client.said("\"tick\":0").await;
    assert!(!node.process().stderr().contains("call aborted"), "not before");
    client.signal("INT").await;
    assert_eq!(client.ended().await.status, Some(0));
    node.logged("call aborted").await;
    let log = node.process().stderr();
    let line = log.lines().find(|line| line.contains("call aborted")).unwrap();
    assert!(line.contains(r#"operation="clock/ticks""#), "{line}");
    assert!(line.contains(r#"plugin="clock""#) && line.contains(r#"caller="local""#), "{line}");
}

#[tokio::test]
async fn a_subscription_is_not_called_and_a_query_not_subscribed_to() {
    let built = built();
    let node = node_with(&[&built.call, &built.echo, &built.clock]).await;
    let called = node.alknet(["call", "/clock/ticks", r#"{"every_ms":10}"#]).await;
    let told = called.refused(1);
    assert!(told.contains("INVALID_OPERATION_TYPE"), "{called:?}");
    assert!(told.contains("alknet subscribe /clock/ticks"), "{called:?}");
    let subscribed = node.alknet(["subscribe", "/echo/say", r#"{"text":"hi"}"#]).await;
    assert!(subscribed.refused(1).contains("INVALID_OPERATION_TYPE"), "{subscribed:?}");
    let unknown = node.alknet(["call", "/echo/sya", "{}"]).await;
    assert!(unknown.refused(1).contains("NOT_FOUND"), "{unknown:?}");
}

#[tokio::test]
async fn connect_joins_standard_streams_to_a_protocol() {
    let built = built();
    let node = node_with(&[&built.call, &built.echo]).await;
    let mut command = node.command(["connect", "local", "--alpn", "alknet/echo"]);
    let mut client = Running::spawn(command.stdin(Stdio::piped()));
    let mut stdin = client.stdin();
    stdin.write_all(b"one line\n").await.unwrap();
    // Before the end of input: what arrives is passed on as it comes.
    client.said("one line").await;
    stdin.write_all(b"and another\n").await.unwrap();
    drop(stdin);
    let ended = client.ended().await;
    assert_eq!(ended.text(), "one line\nand another\n");

    let unknown = node.alknet(["connect", "local", "--alpn", "alknet/none"]).await;
    assert!(unknown.refused(69).contains("alknet/none"), "{unknown:?}");
}

#[tokio::test]
async fn k21_who_cannot_be_reached_is_69() {
    let built = built();
    let node = node_with(&[&built.call, &built.echo]).await;
    let say = ["call", "/echo/say", r#"{"text":"hi"}"#];

    // Another key than the node's.
    let other = format!("alknet://{}@{}", "58".repeat(32), node.listen());
    let refused = node.alknet([&["--to", &other][..], &say].concat()).await;
    assert!(refused.refused(69).contains("no connection to"), "{refused:?}");

    // The same port for a second node.
    let second = NodeFolder::new();
    let listen = node.listen().to_string();
    let echo = built.echo.to_str().unwrap();
    let refused = second.alknet(["run", "--dev", "--listen", &listen, "--plugin", echo]).await;
    assert!(refused.refused(69).contains(&listen), "{refused:?}");

    // No node any more, and never one.
    let (folder, process) = node.into_parts();
    process.signal("INT").await;
    assert_eq!(process.ended().await.status, Some(0));
    let nobody = NodeFolder::new();
    assert!(nobody.alknet(say).await.refused(69).contains("alknet run --dev"));
    drop(folder);
}

#[tokio::test]
async fn k21_wrong_command_lines_are_64_and_wrong_files_78() {
    let node = NodeFolder::developed();
    for wrong in [
        &["cal"][..],
        &["call"],
        &["call", "/echo/say", "{"],
        &["call", "/echo/say", "{}", "--to", "nowhere"],
        &["call", "/echo/say", "{}", "--to", "alknet://x@y:1"],
        &["run", "--listen", "127.0.0.1:1"],
    ] {
        let ended = node.alknet(wrong).await;
        assert!(ended.refused(64).contains("error"), "{wrong:?}");
        assert_eq!(ended.stdout, "", "{wrong:?}");
    }
    node.append("node.toml", "[endpoint.qiuc]\n");
    for command in [&["run"][..], &["run", "--dev"], &["check"], &["plugin", "list"]] {
        let ended = node.alknet(command).await;
        assert!(ended.refused(78).contains("qiuc"), "{command:?}: {ended:?}");
    }
    assert_eq!(node.alknet(["--version"]).await.text(), "alknet 0.1.0\n");
}

#[tokio::test]
async fn strangers_may_call_what_is_open_and_no_more() {
    let built = built();
    let node = node_with(&[&built.call, &built.echo]).await;
    let (_folder, stranger) = (&node, NodeFolder::new());
    let address = node.address().to_string();
    let say = ["--to", &address, "call", "/echo/say", r#"{"text":"hi"}"#];
    assert_eq!(stranger.alknet(say).await.json()["text"], "hi");
    let refused = stranger.alknet(["--to", &address, "status"]).await;
    assert!(refused.refused(1).contains("FORBIDDEN"), "{refused:?}");
    let ops = stranger.alknet(["--to", &address, "ops", "--json"]).await.json();
    assert!(!names(&ops["operations"], "name").contains(&"node/status"), "{ops}");
}

#[tokio::test]
async fn k17_k18_a_subscription_is_given_the_drain_time_and_then_ended() {
    let built = built();
    let node = node_with(&[&built.call, &built.clock]).await;
    let client = node.client().await;
    let mut ticks = client.subscribe("/clock/ticks", json!({ "every_ms": 10 })).await.unwrap();
    within(ticks.next()).await.unwrap().unwrap();

    let (folder, process) = node.into_parts();
    process.signal("TERM").await;
    process.logged("shutting down").await;
    // k16: nobody new is let in meanwhile.
    let dialer = Dialer::new(None).unwrap();
    within(dialer.dial(folder.listen(), folder.key(), "alknet/call")).await.unwrap_err();
    // A call that was under way goes on, and in the end is told.
    within(ticks.next()).await.unwrap().unwrap();
    let end = within(async {
        loop {
            match ticks.next().await {
                Some(Ok(_)) => {}
                end => break end,
            }
        }
    })
    .await;
    assert_eq!(end.expect("it does not just end").unwrap_err().code, "ABORTED");
    assert_eq!(process.ended().await.status, Some(0));
}

#[tokio::test]
async fn k17_what_ends_within_the_drain_time_arrives_whole() {
    let built = built();
    let node = node_with(&[&built.call, &built.clock]).await;
    let client = node.client().await;
    let input = json!({ "every_ms": 40, "count": 15 });
    let mut ticks = client.subscribe("/clock/ticks", input).await.unwrap();
    within(ticks.next()).await.unwrap().unwrap();
    let (_folder, process) = node.into_parts();
    process.signal("TERM").await;
    process.logged("shutting down").await;
    let mut items = 1;
    while let Some(item) = within(ticks.next()).await {
        item.unwrap();
        items += 1;
    }
    assert_eq!(items, 15);
    assert_eq!(process.ended().await.status, Some(0));
}

#[tokio::test]
async fn k20_a_second_signal_closes_at_once() {
    let built = built();
    let node = node_with(&[&built.call, &built.clock]).await;
    let client = node.client().await;
    let mut ticks = client.subscribe("/clock/ticks", json!({ "every_ms": 10 })).await.unwrap();
    within(ticks.next()).await.unwrap().unwrap();
    let (_folder, process) = node.into_parts();
    process.signal("TERM").await;
    process.logged("shutting down").await;
    process.signal("TERM").await;
    let closed = within(client.connection().closed()).await;
    assert_eq!(closed.code, Some(3), "{closed:?}");
    let ended = process.ended().await;
    assert_eq!(ended.status, Some(0));
    assert!(ended.stderr.contains("closing at once"), "{ended:?}");
}

#[tokio::test]
async fn k19_an_idle_node_stops_at_once() {
    let built = built();
    let node = node_with(&[&built.call, &built.echo]).await;
    let client = node.client().await;
    client.assert_answered().await;
    let before = std::time::Instant::now();
    assert_eq!(node.stop("TERM").await.status, Some(0));
    // Far less than the drain time, which it would take if it waited for clients.
    assert!(before.elapsed().as_millis() < 1_400, "{:?}", before.elapsed());
}

#[tokio::test]
async fn port_0_is_one_that_the_node_keeps() {
    let node = NodeFolder::new();
    let arguments = ["run", "--dev", "--listen", "127.0.0.1:0", "--plugin"];
    let mut arguments: Vec<_> = arguments.into();
    arguments.push(built().call.to_str().unwrap());
    let running = Running::spawn(&mut node.command(arguments));
    running.said("serving until Ctrl-C").await;
    assert!(running.stdout().contains(&node.address().to_string()), "{}", running.stdout());
    node.alknet(["ops"]).await.text();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
