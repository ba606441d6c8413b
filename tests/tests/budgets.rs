//! What happens to a plugin at each of its limits, and that it happens to no other:
//! the same plugin as a shared library and as a component, behind a real daemon.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use alknet_plugin_api::{Connection, StreamError, code};
use alknet_plugin_conformance::{ALPN, Command};
use alknet_tests::conformance::{ask, assert_echo, command};
use alknet_tests::daemon::{Client, Daemon, NodeFolder, built, within};
use futures_util::FutureExt;
use serde_json::{Value, json};

/// The code with which a stream beyond the limit is refused.
const REFUSED: u64 = 0x11;

/// A node with the plugin `subject`, which is held to these limits.
fn folder(subject: &Path, limits: &str) -> NodeFolder {
    let built = built();
    let plugins = [("call", &*built.call), ("echo", &*built.echo), ("subject", subject)];
    let node = NodeFolder::developed_with(&plugins);
    node.append("node.toml", &format!("[plugin.limits]\n{limits}\n"));
    node
}

async fn node(subject: &Path, limits: &str) -> Daemon {
    folder(subject, limits).start(&[]).await
}

/// Both builds of the plugin.
fn builds() -> [&'static Path; 2] {
    [&built().conformance, &built().confined_conformance]
}

/// The subject as `node/plugins` shows it.
async fn subject(client: &Client) -> Value {
    let plugins = client.ask("/node/plugins", json!({})).await.unwrap();
    let plugins = plugins["plugins"].as_array().unwrap();
    plugins.iter().find(|plugin| plugin["name"] == "subject").unwrap().clone()
}

async fn limit(client: &Client, name: &str) -> Value {
    let subject = subject(client).await;
    subject["limits"].as_array().unwrap().iter().find(|l| l["name"] == name).unwrap().clone()
}

/// Waits until so much of a limit is in use.
async fn used(client: &Client, name: &str, expected: u64) {
    let reached = async {
        while limit(client, name).await["used"] != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(30), reached).await.is_err() {
        panic!("not {expected}: {}", limit(client, name).await);
    }
}

/// A sample of the metrics about the subject and one limit.
async fn metric(client: &Client, name: &str, limit: &str) -> Option<f64> {
    let text = client.ask("/node/metrics", json!({})).await.unwrap()["text"].clone();
    let labels = [format!("limit=\"{limit}\""), "plugin=\"subject\"".to_owned()];
    let fits = |line: &&str| {
        line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label))
    };
    let sample = text.as_str().unwrap().lines().find(fits)?.rsplit_once(' ')?.1.to_owned();
    sample.parse().ok()
}

/// The limit was hit: status, metrics and the log say so, and the rest of the node does
/// not notice.
async fn was_hit(node: &Daemon, client: &Client, name: &str) {
    let shown = limit(client, name).await;
    assert!(shown["hits"].as_u64().unwrap() >= 1, "{shown}");
    assert_eq!(shown["enforced"], true);
    assert!(metric(client, "alknet_budget_hits_total", name).await.unwrap() >= 1.0);
    assert_eq!(metric(client, "alknet_budget_limit", name).await, shown["limit"].as_f64());
    node.logged(&format!("plugin=\"subject\" limit=\"{name}\"")).await;
    client.assert_answered().await;
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    for build in builds() {
        let node = node(build, "streams = 3").await;
        let client = node.client().await;
        let (connection, _dialer) = node.connect(ALPN).await;
        let (other, _other_dialer) = node.connect(ALPN).await;
        let mut held = Vec::new();
        for n in 0..3 {
            // Over all of its connections.
            let on = if n == 0 { &other } else { &connection };
            let (mut send, mut recv) = command(on, &Command::Echo).await;
            send.write_all(b"x").await.unwrap();
            assert_eq!(within(recv.read(&mut [0; 8])).await.unwrap(), Some(1));
            held.push((send, recv));
        }
        used(&client, "streams", 3).await;
        let (_send, mut recv) = command(&connection, &Command::Echo).await;
        match within(recv.read(&mut [0; 8])).await {
            Err(StreamError::Reset(REFUSED)) => {}
            answered => panic!("{answered:?}"),
        }
        was_hit(&node, &client, "streams").await;
        assert_eq!(metric(&client, "alknet_budget_used", "streams").await, Some(3.0));
        let status = node.alknet(["status"]).await;
        assert!(status.text().contains(" 3 / 3 "), "{}", status.text());
        assert!(status.text().contains("streams 1×"), "{}", status.text());

        // Those that were there go on, and a place that is free is given again.
        let (mut send, mut recv) = held.pop().unwrap();
        send.write_all(b"y").await.unwrap();
        assert_eq!(within(recv.read(&mut [0; 8])).await.unwrap(), Some(1));
        send.finish().unwrap();
        assert_eq!(within(recv.read(&mut [0; 8])).await.unwrap(), None);
        drop((send, recv));
        used(&client, "streams", 2).await;
        assert_echo(&connection, b"again").await;
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    for build in builds() {
        let node = node(build, "connections = 2").await;
        let client = node.client().await;
        let (one, _one) = node.connect(ALPN).await;
        let (two, _two) = node.connect(ALPN).await;
        assert_echo(&one, b"one").await;
        assert_echo(&two, b"two").await;
        let (three, _three) = node.connect(ALPN).await;
        let closed = within(three.closed()).await;
        assert_eq!((closed.code, &*closed.reason), (Some(4), "rate limited"));
        was_hit(&node, &client, "connections").await;
        assert_echo(&one, b"still").await;
        two.close(0, "done");
        used(&client, "connections", 1).await;
        let (four, _four) = node.connect(ALPN).await;
        assert_echo(&four, b"four").await;
    }
}

#[tokio::test]
async fn calls_and_subscriptions_beyond_their_limits_are_refused() {
    for build in builds() {
        let node = node(build, "calls = 2\nsubscriptions = 1").await;
        let (client, watcher) = (node.client().await, node.client().await);
        let mut waits: Vec<_> =
            (0..2).map(|_| client.ask("/conformance/wait", json!("mark")).boxed_local()).collect();
        let waiting = futures_util::future::join_all(waits.iter_mut());
        tokio::select! {
            _ = waiting => panic!("a wait ended"),
            () = used(&watcher, "calls", 2) => {}
        }
        let error = client.ask("/conformance/echo", json!(1)).await.unwrap_err();
        assert_eq!((&*error.code, error.retryable), (code::RESOURCE_EXHAUSTED, true));
        assert_eq!(error.message, "the plugin is at its limit `calls` of 2");
        was_hit(&node, &watcher, "calls").await;

        // Subscriptions are counted apart, and last.
        let mut items = client.subscribe("/conformance/forever", json!("s")).await.unwrap();
        within(items.next()).await.unwrap().unwrap();
        let mut more = client.subscribe("/conformance/forever", json!("t")).await.unwrap();
        let error = within(more.next()).await.unwrap().unwrap_err();
        assert_eq!(error.code, code::RESOURCE_EXHAUSTED);
        was_hit(&node, &watcher, "subscriptions").await;

        waits.clear();
        used(&watcher, "calls", 0).await;
        assert_eq!(client.ask("/conformance/echo", json!(1)).await.unwrap(), 1);
        drop(items);
        used(&watcher, "subscriptions", 0).await;
    }
}

#[tokio::test]
async fn bytes_beyond_the_limit_wait() {
    const RATE: u64 = 256 << 10;
    const SENT: u64 = 640 << 10;
    for build in builds() {
        let node = node(build, "bytes_per_second = \"256 KiB\"").await;
        let client = node.client().await;
        let (connection, _dialer) = node.connect(ALPN).await;

        // A second's worth comes at once, and what is under way when that is used up.
        let least = Duration::from_secs_f64((SENT - RATE - (64 << 10)) as f64 / RATE as f64);
        let started = Instant::now();
        let (mut send, mut recv) = command(&connection, &Command::Flood { bytes: SENT }).await;
        send.finish().unwrap();
        let slow = recv.read_to_end(SENT as usize + 1);
        let others = async {
            for _ in 0..5 {
                client.assert_answered().await;
            }
        };
        let (flood, ()) = within(futures_util::future::join(slow, others)).await;
        assert_eq!(flood.unwrap().len() as u64, SENT);
        assert!(started.elapsed() >= least, "written in {:?}", started.elapsed());
        was_hit(&node, &client, "bytes_per_second").await;

        let started = Instant::now();
        assert_eq!(count(&connection, SENT as usize).await, SENT);
        assert!(started.elapsed() >= least, "read in {:?}", started.elapsed());

        let usage = subject(&client).await["usage"].clone();
        assert!(usage["bytes_out"].as_u64().unwrap() >= SENT, "{usage}");
        assert!(usage["bytes_in"].as_u64().unwrap() >= SENT, "{usage}");
    }
}

/// Has the plugin read so many bytes, and takes its count of them.
async fn count(connection: &Connection, bytes: usize) -> u64 {
    let (mut send, mut recv) = command(connection, &Command::Count).await;
    let sending = async {
        send.write_all(&vec![7; bytes]).await.unwrap();
        send.finish().unwrap();
    };
    let (_, answer) = within(futures_util::future::join(sending, recv.read_to_end(100))).await;
    serde_json::from_slice(&answer.unwrap()).unwrap()
}

#[tokio::test]
async fn a_component_is_stopped_at_its_memory_and_at_its_slice() {
    let limits = "memory = \"16 MiB\"\ncpu = \"100ms\"\ninstances = 3";
    let node = node(&built().confined_conformance, limits).await;
    let client = node.client().await;
    let (bystander, _dialer) = node.connect(ALPN).await;
    for (name, trouble) in
        [("memory", Command::Allocate { bytes: 64 << 20 }), ("cpu", Command::Spin { ms: None })]
    {
        let (connection, _dialer) = node.connect(ALPN).await;
        let (_send, mut recv) = command(&connection, &trouble).await;
        assert!(within(recv.read_to_end(100)).await.is_err());
        assert_eq!(within(connection.closed()).await.code, Some(5));
        was_hit(&node, &client, name).await;
        assert_echo(&bystander, b"goes on").await;
    }
    used(&client, "instances", 1).await;
    assert!(limit(&client, "memory").await["used"].as_u64().unwrap() > 64 << 10);

    let (one, _one) = node.connect(ALPN).await;
    let (two, _two) = node.connect(ALPN).await;
    assert_echo(&one, b"one").await;
    assert_echo(&two, b"two").await;
    let (three, _three) = node.connect(ALPN).await;
    within(three.closed()).await;
    was_hit(&node, &client, "instances").await;
    assert_echo(&bystander, b"goes on").await;
}

#[tokio::test]
async fn a_component_waits_for_its_share_of_computing_and_is_not_stopped() {
    let node = node(&built().confined_conformance, "cpu_per_second = \"100ms\"").await;
    let client = node.client().await;
    let (connection, _dialer) = node.connect(ALPN).await;
    assert_echo(&connection, b"before").await;
    let seconds = async || subject(&client).await["usage"]["cpu_seconds"].as_f64().unwrap();
    let (begun, before) = (Instant::now(), seconds().await);
    let mut used = 0.0;
    while used < 0.35 {
        used = seconds().await - before;
        client.ask("/conformance/allocate", json!(16 << 20)).await.unwrap();
    }
    // The last call had to wait until what was used before it was paid for: a tenth of a
    // second that was there, and each further one in a second.
    let least = Duration::from_secs_f64((used - 0.1) / 0.1);
    assert!(begun.elapsed() >= least, "{used} s in {:?}", begun.elapsed());
    was_hit(&node, &client, "cpu_per_second").await;
    assert_echo(&connection, b"after").await;
}

#[tokio::test]
async fn what_is_not_enforceable_is_said() {
    let limits = "memory = \"16 MiB\"\ncpu = \"100ms\"\ncalls = 5";
    let folder = folder(&built().conformance, limits);
    let text = folder.read("node.toml");
    let line = 1 + text.lines().position(|line| line.starts_with("memory")).unwrap();
    let check = folder.alknet(["check"]).await;
    assert_eq!(check.status, Some(0), "{check:?}");
    let said = format!(
        "node.toml:{line}:10: `memory` of plugin `subject` is not enforceable: its memory is the \
         daemon's; build it as a component, or give it a process with `isolation = \"process\"`"
    );
    assert!(check.stderr.contains(&said), "{}", check.stderr);
    assert!(check.stderr.contains("`cpu` of plugin `subject`"), "{}", check.stderr);
    assert!(!check.stderr.contains("`calls` of plugin"), "{}", check.stderr);
    let json = folder.alknet(["check", "--json"]).await.json();
    let findings = json["findings"].as_array().unwrap();
    assert!(findings.iter().any(|finding| finding["line"] == line), "{json}");

    let node = folder.start(&[]).await;
    node.logged("`memory` of plugin `subject` is not enforceable").await;
    let client = node.client().await;
    let shown = limit(&client, "memory").await;
    assert_eq!((&shown["limit"], &shown["used"]), (&json!(16 << 20), &Value::Null));
    assert_eq!((&shown["enforced"], &shown["beyond"]), (&json!(false), &json!("not enforceable")));
    for arguments in [&["status"][..], &["plugin", "list", "--running"]] {
        let text = node.alknet(arguments).await;
        assert!(text.text().contains("not enforceable"), "{}", text.text());
        assert!(text.text().contains("0 / 5"), "{}", text.text());
    }
    // It computes nevertheless, and that is seen.
    let native: String = client
        .ask("/conformance/spin", json!(200))
        .await
        .map(|spun| spun.as_str().unwrap().to_owned())
        .unwrap();
    assert_eq!(native, "spun");
    let usage = subject(&client).await["usage"].clone();
    assert!(usage["cpu_seconds"].as_f64().unwrap() >= 0.05, "{usage}");
    let (connection, _dialer) = node.connect(ALPN).await;
    assert_eq!(ask::<u64>(&connection, &Command::Allocate { bytes: 32 << 20 }).await, 32 << 20);
    let inspected = node.alknet(["plugin", "inspect", built().conformance.to_str().unwrap()]).await;
    assert!(inspected.text().contains("not enforceable: its memory is the daemon's"));
}

#[tokio::test]
async fn wrong_limits_stop_the_start() {
    let folder = folder(
        &built().conformance,
        "streams = 0\ncalls = \"many\"\ncpu_per_second = 5\nbytes_per_second = \"fast\"\nstream = 1",
    );
    let check = folder.alknet(["check"]).await;
    let text = check.refused(78);
    for said in [
        "`streams` of 0 lets the plugin do nothing",
        "`calls` takes an integer, not a string",
        "`cpu_per_second` takes a duration, not an integer",
        "`fast` is not a size",
        "unknown key `stream`",
        "did you mean `streams`?",
    ] {
        assert!(text.contains(said), "{said}:\n{text}");
    }
}
