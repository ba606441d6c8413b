//! What only a plugin with a process of its own survives, and what that process is
//! kept from, in a real daemon.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use alknet_plugin_api::{CallError, Connection};
use alknet_plugin_conformance::{ALPN, Command};
use alknet_tests::daemon::{Client, Daemon, NodeFolder, built, within};
use serde_json::{Value, json};

/// A node with the conformance plugin in a process of its own, and `echo` in the
/// daemon's.
fn folder() -> NodeFolder {
    let built = built();
    let node = NodeFolder::developed_with(&[
        ("call", &built.call),
        ("echo", &built.echo),
        ("conformance", &built.conformance),
    ]);
    node.append(
        "node.toml",
        "isolation = \"process\"\n[plugin.limits]\nmemory = \"128 MiB\"\ncpu = \"2s\"\n",
    );
    node
}

async fn ask(client: &Client, name: &str, input: Value) -> Result<Value, CallError> {
    within(client.ask(&format!("/conformance/{name}"), input)).await
}

async fn assert_serves(client: &Client) {
    assert_eq!(ask(client, "echo", json!(["back", 1])).await.unwrap(), json!(["back", 1]));
}

async fn echo(connection: &Connection, text: &[u8]) -> Vec<u8> {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&Command::Echo.line().unwrap()).await.unwrap();
    send.write_all(text).await.unwrap();
    send.finish().unwrap();
    recv.read_to_end(1 << 20).await.unwrap()
}

/// The numbers of the plugin's processes so far, from the daemon's log.
fn processes(node: &Daemon) -> Vec<u32> {
    let log = node.process().stderr();
    let started = log.lines().filter(|line| line.contains("an isolated plugin's process"));
    let pid = |line: &str| {
        let (_, rest) = line.split_once("pid=")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    started.filter_map(pid).collect()
}

/// Ends the plugin's process in some way and sees what that costs.
async fn survives(trouble: &str, input: Value, logged: &str) {
    let node = folder().start(&[]).await;
    let client = node.client().await;
    let (connection, _dialer) = node.connect(ALPN).await;
    let (other, _dialer) = node.connect("alknet/echo").await;
    assert_eq!(within(echo(&connection, b"before")).await, b"before");

    let error = ask(&client, trouble, input).await.unwrap_err();
    assert_eq!(error.code, "INTERNAL", "{error:?}");
    assert!(error.message.contains("the plugin's process"), "{error:?}");
    let closed = within(connection.closed()).await;
    assert_eq!(closed.code, Some(5), "{closed:?}");
    node.logged(logged).await;

    // Nobody else has noticed, and the plugin is there again.
    client.assert_answered().await;
    let (mut send, mut recv) = other.open_bi().await.unwrap();
    send.write_all(b"beside it").await.unwrap();
    send.finish().unwrap();
    assert_eq!(within(recv.read_to_end(100)).await.unwrap(), b"beside it");
    assert_serves(&client).await;
    let (again, _dialer) = node.connect(ALPN).await;
    assert_eq!(within(echo(&again, b"after")).await, b"after");
    let processes = processes(&node);
    assert_eq!(processes.len(), 2, "{processes:?}");
    assert_eq!(node.stop("TERM").await.status, Some(0));
}

#[tokio::test]
async fn a_segmentation_fault_costs_the_plugin_alone() {
    survives("crash", json!("segv"), "its process was killed by signal 11 (SIGSEGV)").await;
}

#[tokio::test]
async fn an_abort_costs_the_plugin_alone() {
    survives("crash", json!("abort"), "its process was killed by signal 6 (SIGABRT)").await;
}

#[tokio::test]
async fn an_exit_costs_the_plugin_alone() {
    survives("crash", json!("exit"), "its process exited with status 3").await;
}

#[tokio::test]
async fn a_loop_without_an_end_is_ended() {
    survives("spin", json!(null), "a thread of it did not give way").await;
}

#[tokio::test]
async fn a_memory_bomb_ends_at_the_limit() {
    survives("allocate", json!(1u64 << 40), "memory allocation of").await;
}

#[tokio::test]
async fn a_process_that_stands_still_is_ended() {
    let node = folder().start(&[]).await;
    let client = node.client().await;
    assert_serves(&client).await;
    let pid = processes(&node)[0];
    signal(pid, "STOP").await;
    let error = ask(&client, "echo", json!(1)).await.unwrap_err();
    assert_eq!(error.code, "INTERNAL", "{error:?}");
    node.logged("it gave no sign of life").await;
    assert_serves(&client).await;
}

async fn signal(pid: u32, name: &str) {
    let kill = format!("kill -{name} {pid}");
    let sent = tokio::process::Command::new("sh").args(["-c", &kill]).status().await.unwrap();
    assert!(sent.success());
}

#[tokio::test]
async fn operators_see_that_it_is_isolated() {
    let node = folder();
    let checked = node.alknet(["check"]).await;
    assert!(checked.text().contains("no problems; 3 plugins"), "{checked:?}");
    let listed = node.alknet(["plugin", "list", "--json"]).await.json();
    let node = node.start(&[]).await;
    let client = node.client().await;
    let served = client.ask("/node/plugins", json!({})).await.unwrap();
    for plugins in [&listed["plugins"], &served["plugins"]] {
        let trust = |name: &str| {
            let plugins = plugins.as_array().unwrap();
            plugins.iter().find(|plugin| plugin["name"] == name).unwrap()["trust"].clone()
        };
        assert_eq!(trust("conformance"), "isolated", "{plugins}");
        assert_eq!(trust("echo"), "native", "{plugins}");
    }
    let screen = node.process().stdout();
    let row = screen.lines().find(|line| line.starts_with("conformance")).unwrap();
    let words: Vec<_> = row.split_whitespace().collect();
    assert_eq!(words[..3], ["conformance", "native", "isolated"], "{screen}");
}

#[tokio::test]
async fn its_process_is_handed_no_secret_and_dies_with_the_daemon() {
    let node = folder();
    let mut command = node.command(node.run_arguments(&[]));
    command.env("ALKNET_TEST_SECRET", "hush");
    let running = alknet_tests::daemon::Running::spawn(&mut command);
    running.said("serving until Ctrl-C").await;
    let log = running.stderr();
    let (_, pid) = log.split_once("pid=").expect(&log);
    let pid: String = pid.chars().take_while(char::is_ascii_digit).collect();
    let of = |file: &str| {
        String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{file}")).unwrap()).into_owned()
    };
    let arguments = of("cmdline");
    assert!(arguments.contains("isolated-plugin\0conformance"), "{arguments}");
    assert!(!of("environ").contains("hush"));
    let status = of("status");
    for line in ["NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"] {
        assert!(status.contains(line), "{status}");
    }
    let limits = of("limits");
    let data = limits.lines().find(|line| line.starts_with("Max data size")).unwrap();
    assert!(data.contains(&((128u64 + 64) << 20).to_string()), "{limits}");
    running.signal("KILL").await;
    within(async {
        // A process that is gone, or that nobody has looked at yet.
        let dead = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z")),
            Err(_) => true,
        };
        while !dead() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn under_a_sandbox_it_runs_and_is_confined_further() {
    let node = folder();
    node.append("node.toml", "[sandbox]\nfiles = true\n");
    let node = node.start(&[]).await;
    let client = node.client().await;
    assert_serves(&client).await;
    ask(&client, "crash", json!("abort")).await.unwrap_err();
    assert_serves(&client).await;
    let confined = client.ask("/node/status", json!({})).await.unwrap()["confinement"].clone();
    if confined["enforced"] == "none" {
        eprintln!("NOT CHECKED: this kernel has no Landlock, so that nothing is confined");
        return;
    }
    let log = node.process().stderr();
    assert!(
        log.lines()
            .any(|line| line.contains("an isolated plugin's process")
                && line.contains("files=\"full\"")),
        "{log}"
    );
}

#[tokio::test]
async fn a_component_needs_no_process_of_its_own() {
    let built = built();
    let node = NodeFolder::developed_with(&[("call", &built.call), ("clock", &built.clock)]);
    node.append("node.toml", "isolation = \"process\"\n");
    let refused = node.alknet(["check"]).await;
    assert!(refused.refused(78).contains("is confined already"), "{refused:?}");
}

#[tokio::test]
async fn a_plugin_that_refuses_its_configuration_says_so_from_its_process() {
    let built = built();
    for (settings, said) in
        [("refuse = \"no cheese\"", "no cheese"), ("panic = true", "panicked in build")]
    {
        let node = NodeFolder::developed_with(&[("conformance", &built.conformance)]);
        node.append(
            "node.toml",
            &format!("isolation = \"process\"\n[plugin.config]\n{settings}\n"),
        );
        let refused = node.alknet(["check"]).await;
        assert!(refused.refused(78).contains(said), "{refused:?}");
    }
}
