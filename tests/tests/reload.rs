//! Who may do what is changed while the node runs: by command, in an editor, by
//! a file in another's place, by signal and over the wire.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use alknet::auth::token;
use alknet::config::{AccessConfig, AccessFile};
use alknet::endpoint::{Dialer, NodeKey};
use alknet_call_protocol::{CallClient, CallOptions, Options};
use alknet_plugin_api::Connection;
use alknet_tests::daemon::{Daemon, NodeFolder, Running, Tokio, within};
use serde_json::{Value, json};

/// The peer with this private key.
struct Peer {
    dialer: Dialer,
    fingerprint: String,
}

impl Peer {
    fn new(seed: u8) -> Self {
        let key = NodeKey::from_seed([seed; 32]);
        let fingerprint = key.public().fingerprint();
        Self { dialer: Dialer::new(Some(&key)).unwrap(), fingerprint }
    }

    async fn connect(&self, node: &Daemon) -> Connection {
        node.dial(&self.dialer, alknet_call_protocol::ALPN).await.unwrap()
    }

    /// What a call answers, or its error's code, over a connection of its own.
    async fn ask(&self, node: &Daemon, name: &str) -> Result<Value, String> {
        ask(self.connect(node).await, name, CallOptions::default()).await
    }
}

async fn ask(connection: Connection, name: &str, options: CallOptions) -> Result<Value, String> {
    let (calls, driver) =
        CallClient::spawn_dispatch(connection, Options::new(std::sync::Arc::new(Tokio)));
    let driver = tokio::spawn(driver);
    let input = alknet_plugin_api::Json::empty_object();
    let answer = within(calls.call_with(name, input, options)).await;
    calls.connection().close(0, "done");
    driver.abort();
    answer.map(|answer| answer.to().unwrap()).map_err(|error| error.code.to_string())
}

fn stanza(name: &str, peer: &Peer, more: &str) -> String {
    format!("[[peer]]\npeer_id = \"{name}\"\nfingerprints = [\"{}\"]\n{more}\n", peer.fingerprint)
}

async fn node_with(access: &str) -> Daemon {
    let node = NodeFolder::developed();
    node.append("access.toml", access);
    node.start(&[]).await
}

/// Waits for a state that the node must come to by itself.
async fn until<T, F: Future<Output = Option<T>>>(mut state: impl FnMut() -> F) -> T {
    within(async {
        loop {
            if let Some(reached) = state().await {
                return reached;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

async fn status(node: &Daemon) -> Value {
    let client = node.client().await;
    client.ask("/node/status", json!({})).await.unwrap()
}

/// Puts a text in the file's place as a whole.
fn rename_over(node: &Daemon, text: &str) {
    let draft = node.file("draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(&draft, node.file("access.toml")).unwrap();
}

#[tokio::test]
async fn k51_a_removed_peers_connections_close_and_the_others_stay() {
    let (ada, emil) = (Peer::new(1), Peer::new(2));
    let access = format!("{}{}", stanza("ada", &ada, ""), stanza("emil", &emil, ""));
    let node = node_with(&access).await;
    let bystander = node.client().await;
    let (first, second) = (ada.connect(&node).await, ada.connect(&node).await);
    let emils = emil.connect(&node).await;

    let began = Instant::now();
    node.alknet(["peer", "remove", "ada"]).await.text();
    for connection in [first, second] {
        let closed = within(connection.closed()).await;
        assert_eq!(closed.code, Some(8), "{closed:?}");
    }
    println!("closed {:?} after the command began", began.elapsed());
    node.logged("access.toml taken up").await;
    assert!(node.process().stderr().contains(r#"peers_removed=["ada"]"#));
    bystander.assert_answered().await;

    // By an editor that writes in place, it is the same.
    node.replace("access.toml", &emil.fingerprint, &ada.fingerprint);
    let closed = within(emils.closed()).await;
    assert_eq!(closed.code, Some(8), "{closed:?}");
    bystander.assert_answered().await;
}

#[tokio::test]
async fn k33_keys_are_rotated_and_the_peer_stays_who_it_is() {
    let (old, new) = (Peer::new(1), Peer::new(2));
    let node = node_with(&stanza("ada", &old, "scopes = [\"admin\"]")).await;
    assert!(old.ask(&node, "/node/status").await.is_ok());
    assert_eq!(new.ask(&node, "/node/status").await.unwrap_err(), "FORBIDDEN");

    node.alknet(["peer", "keys", "ada", "--add", &new.fingerprint]).await.text();
    until(async || new.ask(&node, "/node/status").await.ok()).await;
    assert!(old.ask(&node, "/node/status").await.is_ok(), "both keys are ada's");

    let open = old.connect(&node).await;
    let kept = new.connect(&node).await;
    node.alknet(["peer", "keys", "ada", "--remove", &old.fingerprint]).await.text();
    assert_eq!(within(open.closed()).await.code, Some(8));
    assert_eq!(old.ask(&node, "/node/status").await.unwrap_err(), "FORBIDDEN");
    // The connection by the other key has lived through it, with the same rights.
    assert!(ask(kept, "/node/status", CallOptions::default()).await.is_ok());
    let listed = node.alknet(["peer", "list", "--json"]).await.json();
    assert_eq!(listed["peers"][1]["peer_id"], "ada");
    assert_eq!(listed["peers"][1]["fingerprints"], json!([new.fingerprint]));
}

#[tokio::test]
async fn k34_a_key_that_is_taken_is_refused_by_command_and_by_the_node() {
    let ada = Peer::new(1);
    let node = node_with(&stanza("ada", &ada, "scopes = [\"admin\"]")).await;
    let before = node.read("access.toml");
    let refused = node.alknet(["peer", "add", "emil", "--key", &ada.fingerprint]).await;
    assert!(refused.refused(78).contains("stands twice"), "{refused:?}");
    let refused = node.alknet(["peer", "add", "ada", "--key", &Peer::new(2).fingerprint]).await;
    assert!(refused.refused(64).contains("there is a peer `ada`"), "{refused:?}");
    let bare = ada.fingerprint.trim_start_matches("ed25519:");
    node.alknet(["peer", "add", "emil", "--key", bare]).await.refused(64);
    assert_eq!(node.read("access.toml"), before);

    node.append("access.toml", &stanza("emil", &ada, ""));
    node.logged("stands twice").await;
    assert!(ada.ask(&node, "/node/status").await.is_ok(), "what was in force stays");
}

#[tokio::test]
async fn k35_a_disabled_peer_is_unknown_by_key_and_by_token() {
    let (ada, token) = (Peer::new(1), token::generate().unwrap());
    let more = format!("auth_token_hash = \"{}\"\nscopes = [\"admin\"]", token.hash);
    let node = node_with(&stanza("ada", &ada, &more)).await;
    let by_token = async || {
        let anonymous = Dialer::new(None).unwrap();
        let connection = node.dial(&anonymous, alknet_call_protocol::ALPN).await.unwrap();
        let auth_token = Some(token.token.as_str().into());
        let options = CallOptions { auth_token, ..CallOptions::default() };
        let answer = ask(connection, "/node/status", options).await;
        drop(anonymous);
        answer
    };
    assert!(by_token().await.is_ok());
    assert!(ada.ask(&node, "/node/status").await.is_ok());

    node.alknet(["peer", "disable", "ada"]).await.text();
    until(async || ada.ask(&node, "/node/status").await.err()).await;
    assert_eq!(ada.ask(&node, "/node/status").await.unwrap_err(), "FORBIDDEN");
    assert_eq!(by_token().await.unwrap_err(), "FORBIDDEN");

    node.alknet(["peer", "enable", "ada"]).await.text();
    until(async || ada.ask(&node, "/node/status").await.ok()).await;
    assert!(by_token().await.is_ok());
}

#[tokio::test]
async fn k48_a_file_with_mistakes_is_shown_until_it_is_corrected() {
    let ada = Peer::new(1);
    let node = node_with(&stanza("ada", &ada, "scopes = [\"admin\"]")).await;
    let good = node.read("access.toml");

    let bad = good.replace("scopes = [\"admin\"]\n", "scope = [\"admin\"]\n");
    rename_over(&node, &bad);
    node.logged("access.toml is refused").await;
    let line = bad.lines().position(|line| line.starts_with("scope =")).unwrap() + 1;
    let shown = node.alknet(["status"]).await;
    assert!(shown.text().contains("access.toml is refused"), "{shown:?}");
    assert!(shown.text().contains(&format!("line {line}: unknown key `scope`")), "{shown:?}");
    assert!(ada.ask(&node, "/node/status").await.is_ok(), "the old policy stays");
    let refused = node.alknet(["reload"]).await;
    assert!(refused.refused(1).contains("ACCESS_REFUSED"), "{refused:?}");
    assert!(refused.stderr.contains(&format!("access.toml:{line}:1: unknown key")), "{refused:?}");
    // A start would say the same.
    assert!(node.alknet(["check"]).await.refused(78).contains("unknown key `scope`"));
    // So would a command that changes the file.
    node.alknet(["peer", "remove", "ada"]).await.refused(78);

    std::fs::remove_file(node.file("access.toml")).unwrap();
    until(async || {
        let refused = status(&node).await["access"]["refused"]["problems"][0]["what"].clone();
        (refused == "there is no such file").then_some(())
    })
    .await;
    assert!(ada.ask(&node, "/node/status").await.is_ok(), "the old policy stays");

    rename_over(&node, &good);
    until(async || status(&node).await["access"]["refused"].is_null().then_some(())).await;
    assert!(!node.alknet(["status"]).await.text().contains("refused"));
    assert_eq!(node.alknet(["reload"]).await.text(), "nothing has changed\n");
}

#[tokio::test]
async fn k49_half_a_file_is_never_taken_up() {
    let ada = Peer::new(1);
    let node = node_with(&stanza("ada", &ada, "scopes = [\"admin\"]")).await;
    let watching = ada.connect(&node).await;
    let whole = node.read("access.toml");
    let half = whole.find("[[peer]]\npeer_id = \"ada\"").unwrap();
    AccessConfig::parse(Path::new("half"), &whole[..half]).expect("half of it would be valid");

    // An editor that takes its time: emptied, half-written, and only then whole.
    let mut writer = std::fs::File::create(node.file("access.toml")).unwrap();
    writer.write_all(&whole.as_bytes()[..half]).unwrap();
    writer.sync_all().unwrap();
    for _ in 0..3 {
        node.process().signal("HUP").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(ada.ask(&node, "/node/status").await.is_ok());
    }
    writer.write_all(&whole.as_bytes()[half..]).unwrap();
    writer.write_all(b"# and a comment\n").unwrap();
    drop(writer);
    assert_eq!(node.alknet(["reload"]).await.text(), "nothing has changed\n");

    // One that makes a new file, and one that empties it and goes away.
    std::fs::remove_file(node.file("access.toml")).unwrap();
    std::fs::File::create(node.file("access.toml")).unwrap();
    node.logged("the file is empty").await;
    assert!(ada.ask(&node, "/node/status").await.is_ok());
    node.write("access.toml", &whole);
    until(async || status(&node).await["access"]["refused"].is_null().then_some(())).await;
    let pending = tokio::time::timeout(Duration::ZERO, watching.closed()).await;
    assert!(pending.is_err(), "ada's connection has lived through all of it");
    assert!(!node.process().stderr().contains("peers_removed=[\"ada\"]"));
}

#[tokio::test]
async fn k52_reloading_takes_the_scope_admin() {
    let (ada, emil) = (Peer::new(1), Peer::new(2));
    let access = format!(
        "{}{}",
        stanza("ada", &ada, "scopes = [\"admin\"]"),
        stanza("emil", &emil, "scopes = [\"notes:read\"]")
    );
    let node = node_with(&access).await;
    assert_eq!(emil.ask(&node, "/node/reload").await.unwrap_err(), "FORBIDDEN");
    assert_eq!(Peer::new(3).ask(&node, "/node/reload").await.unwrap_err(), "FORBIDDEN");
    let anonymous = Dialer::new(None).unwrap();
    let connection = node.dial(&anonymous, alknet_call_protocol::ALPN).await.unwrap();
    let answer = ask(connection, "/node/reload", CallOptions::default()).await;
    assert_eq!(answer.unwrap_err(), "FORBIDDEN");
    assert_eq!(status(&node).await["access"]["reloads"], 0, "none of them has reloaded");

    let reloaded = ada.ask(&node, "/node/reload").await.unwrap();
    assert_eq!((&reloaded["limits"], &reloaded["closed"]), (&json!(false), &json!(0)));
    assert_eq!(status(&node).await["access"]["reloads"], 1);
}

#[tokio::test]
async fn limits_and_the_log_filter_change_while_the_node_runs() {
    let node = NodeFolder::developed().start(&[]).await;
    let client = node.client().await;
    let good = node.read("access.toml");

    // The log.
    assert!(!node.process().stderr().contains("connection opened"));
    node.append("access.toml", "[log]\nfilter = \"debug\"\n");
    node.alknet(["reload"]).await.text();
    drop(node.client().await);
    node.logged("connection opened").await;
    node.write("access.toml", &good);
    node.alknet(["reload"]).await.text();

    // How often somebody may call.
    node.write("access.toml", &format!("{good}calls_per_second = 1\ncalls_burst = 3\n"));
    node.alknet(["reload"]).await.text();
    let codes = async || {
        let mut codes = Vec::new();
        for _ in 0..8 {
            let said = client.ask("/echo/say", json!({ "text": "hi" })).await;
            codes.extend(said.err().map(|error| error.code));
        }
        codes
    };
    let refused = codes().await;
    assert!(
        !refused.is_empty() && refused.iter().all(|code| code == "RESOURCE_EXHAUSTED"),
        "{refused:?}"
    );
    node.write("access.toml", &good);
    node.process().signal("HUP").await;
    until(async || codes().await.is_empty().then_some(())).await;

    // How many may come.
    node.write("access.toml", &good.replace("10000", "1"));
    assert!(good.contains("connections_per_prefix = 10000"), "{good}");
    node.process().signal("HUP").await;
    let anonymous = Dialer::new(None).unwrap();
    until(async || {
        let dialled = node.dial(&anonymous, alknet_call_protocol::ALPN).await;
        match dialled {
            Err(_) => Some(()),
            Ok(connection) => {
                let closed = tokio::time::timeout(Duration::from_millis(100), connection.closed());
                let is_refused = closed.await.is_ok_and(|closed| closed.code == Some(4));
                connection.close(0, "done");
                is_refused.then_some(())
            }
        }
    })
    .await;
    client.assert_answered().await;
    node.write("access.toml", &good);
    until(async || {
        let connection = node.dial(&anonymous, alknet_call_protocol::ALPN).await.ok()?;
        ask(connection, "/services/list", CallOptions::default()).await.ok()
    })
    .await;

    // More than node.toml allows is a mistake, as it is at a start.
    node.write("access.toml", &format!("{good}connections = 4000000\n"));
    let refused = node.alknet(["reload"]).await;
    assert!(refused.refused(1).contains("over the node's ceiling"), "{refused:?}");
}

#[tokio::test]
async fn k50_a_thousand_reloads_leave_memory_flat_and_the_last_state_in_force() {
    let (first, last) = (Peer::new(1), Peer::new(2));
    let node = node_with("").await;
    let client = node.client().await;
    let good = node.read("access.toml");
    let version = |n: usize| {
        let peers: String = (0..50)
            .map(|i| {
                let key = format!("{:064x}", (n * 1_000 + i) as u128 + (1 << 40));
                format!("[[peer]]\npeer_id = \"p{n}-{i}\"\nfingerprints = [\"ed25519:{key}\"]\n")
            })
            .collect();
        format!("{peers}{good}")
    };
    let mut before = 0;
    for n in 0..1_000 {
        if n == 200 {
            before = node.resident_bytes();
        }
        rename_over(&node, &version(n));
        let reloaded = client.ask("/node/reload", json!({})).await.unwrap();
        // The watcher may have come first.
        let added = reloaded["peers"]["added"].as_array().unwrap().len();
        assert!(added == 50 || added == 0, "{reloaded}");
    }
    let after = node.resident_bytes();
    println!("resident after 200 reloads {} KiB, after 1000 {} KiB", before >> 10, after >> 10);
    assert!(after < before + (8 << 20), "{before} bytes became {after}");
    let access = status(&node).await["access"].clone();
    assert!(access["reloads"].as_u64().unwrap() >= 1_000, "{access}");
    assert_eq!(access["peers"], 51);

    // A storm that nobody waits for: whatever is read when, the end is in force.
    for n in 0..1_000 {
        let peer = if n == 999 { &last } else { &first };
        let text = format!("{}{}", stanza("ada", peer, "scopes = [\"admin\"]"), version(n));
        match n % 2 {
            0 => rename_over(&node, &text),
            _ => node.write("access.toml", &text),
        }
        if n % 10 == 0 {
            node.process().signal("HUP").await;
        }
    }
    until(async || last.ask(&node, "/node/status").await.ok()).await;
    assert_eq!(first.ask(&node, "/node/status").await.unwrap_err(), "FORBIDDEN");
    let access = status(&node).await["access"].clone();
    assert!(access["refused"].is_null(), "{access}");
    client.assert_answered().await;
}

/// Runs a command and kills it after a while, if it is not done by then.
async fn killed_after(node: &NodeFolder, arguments: &[&str], delay: Duration) {
    let running = Running::spawn(&mut node.command(arguments));
    tokio::time::sleep(delay).await;
    running.killed().await;
}

#[tokio::test]
async fn k49_killed_commands_leave_the_old_file_or_the_new_one() {
    let node = NodeFolder::developed();
    let path = node.file("access.toml");
    let mut sizes = std::collections::BTreeSet::new();
    for n in 0..60_u64 {
        let key = format!("ed25519:{n:064x}");
        let name = format!("p{n}");
        let before = node.read("access.toml");
        let delay = Duration::from_micros(n * 397 % 24_000);
        killed_after(&node, &["peer", "add", &name, "--key", &key], delay).await;
        let after = node.read("access.toml");
        let access = AccessConfig::load(&path).expect("the file is whole");
        let added = access.peers.iter().any(|peer| peer.peer_id == name);
        assert!(added || after == before, "{after}");
        sizes.insert(access.peers.len());
    }
    println!("{} of 60 commands were done before they were killed", sizes.len() - 1);
    // Neither a lock nor a draft of the dead is in the way.
    let mut file = AccessFile::load(&path).unwrap();
    file.set_enabled("local", true).unwrap();
    file.save().unwrap();
    node.alknet(["check"]).await.text();
}

#[tokio::test]
async fn a_node_killed_during_reloads_starts_with_the_old_policy_or_the_new_one() {
    let ada = Peer::new(1);
    let mut node = NodeFolder::developed();
    let scopes = ["notes:read", "admin"];
    node.append("access.toml", &stanza("ada", &ada, &format!("scopes = [\"{}\"]", scopes[0])));
    for round in 0..5_u64 {
        let daemon = node.start(&[]).await;
        for n in 0..4 {
            let (old, new) = (scopes[n % 2], scopes[(n + 1) % 2]);
            let mut text = daemon.read("access.toml");
            let at = text.rfind(old).unwrap();
            text.replace_range(at..at + old.len(), new);
            rename_over(&daemon, &text);
            daemon.process().signal("HUP").await;
        }
        tokio::time::sleep(Duration::from_millis(round * 7)).await;
        node = daemon.killed().await;
        AccessConfig::load(&node.file("access.toml")).expect("the file is whole");
    }
    let daemon = node.start(&[]).await;
    assert_eq!(ada.ask(&daemon, "/node/status").await.unwrap_err(), "FORBIDDEN");
    daemon.client().await.assert_answered().await;
}
