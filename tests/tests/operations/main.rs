//! Operations over the wire: access, composition, aborts, limits, owners and what
//! the node writes down of them, with plugins of both kinds in one node.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod abort;
mod access;
mod compose;
mod confined_gateway;
mod contexts;
mod limits;
mod observe;
mod ownership;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use alknet::auth::token::{digest, stored};
use alknet::endpoint::Dialer;
use alknet_call_protocol::CallOptions;
use alknet_plugin_api::{CallError, Connection, Identity, RecvStream, SendStream};
use alknet_tests::daemon::{Client, Daemon, NodeFolder, built, within};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The operations of the plugin `alknet-fixture-tree`, without their first
/// segment.
const OPERATIONS: [&str; 17] = [
    "context", "inner", "secret", "compose", "relay", "reaches", "recurse", "down", "wait", "hold",
    "spin", "count", "plan", "create", "read", "delete", "list",
];

/// The token of the API key `alk_read`, which holds the scope `notes`.
const READER: &str = "alk_read-and-the-rest-of-a-token";

/// The token of the API key `alk_inne`, which holds the scopes `inner` and `notes`.
const INNER: &str = "alk_inner-and-the-rest-of-a-token";

/// The files of a node with both builds of the plugin, to each of which all
/// operations of both are in reach but `orphan`. The native one's authority holds
/// `inner` and `notes`, the confined one's `notes`.
fn folder() -> NodeFolder {
    folder_behind(&built().call)
}

/// As [`folder`], with this file as the call protocol's server.
fn folder_behind(call: &Path) -> NodeFolder {
    let node = NodeFolder::developed_with(&[("call", call), ("echo", &built().echo)]);
    let reach: Vec<_> = ["native", "confined"]
        .iter()
        .flat_map(|space| OPERATIONS.map(|operation| format!("/{space}/{operation}")))
        .collect();
    let mut stanzas = String::new();
    for (space, file, scopes) in [
        ("native", &built().native_tree, json!(["inner", "notes"])),
        ("confined", &built().confined_tree, json!(["notes"])),
    ] {
        let sha256 = stored(&digest(&std::fs::read(file).unwrap())).replace("sha256:", "");
        write!(
            stanzas,
            "\n[[plugin]]\nname = \"{space}\"\nartifact = {file:?}\nsha256 = \"{sha256}\"\nowns = [\"{space}-note\"]\n\
             reach = {reach:?}\nauthority = {{ label = \"{space}-tree\", scopes = {scopes} }}\n"
        )
        .unwrap();
    }
    node.append("node.toml", &stanzas);
    let mut keys = String::new();
    for (token, scopes) in [(READER, "[\"notes\"]"), (INNER, "[\"inner\", \"notes\"]")] {
        let (prefix, hash) = (&token[..8], stored(&digest(token.as_bytes())));
        write!(keys, "\n[[api_key]]\nprefix = {prefix:?}\nhash = {hash:?}\nscopes = {scopes}\n")
            .unwrap();
    }
    node.append("access.toml", &keys);
    node
}

async fn node() -> Daemon {
    folder().start(&[]).await
}

async fn ask_as(
    client: &Client,
    token: &str,
    name: &str,
    input: Value,
) -> Result<Value, CallError> {
    let options = CallOptions { auth_token: Some(token.to_owned()), ..CallOptions::default() };
    ask_with(client, options, name, input).await
}

async fn ask_with(
    client: &Client,
    options: CallOptions,
    name: &str,
    input: Value,
) -> Result<Value, CallError> {
    within(client.call_with(name, input, options)).await.map(|answer| answer.to().unwrap())
}

/// The code that `{space}/compose` says that the call it makes ends with; `null`
/// where it is answered.
async fn composed(client: &Client, space: &str, call: Value) -> Value {
    client.ask(&format!("/{space}/compose"), call).await.unwrap()["code"].clone()
}

fn named(id: &str) -> Identity {
    Identity { id: id.to_owned(), ..Identity::default() }
}

/// A sample of the node's metrics, 0 where there is none.
async fn metric(client: &Client, name: &str, labels: &[(&str, &str)]) -> f64 {
    let answer = client.ask("/node/metrics", json!({})).await.unwrap();
    let text = answer["text"].as_str().unwrap().to_owned();
    let fits = |line: &&str| {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let own = series.split('{').next() == Some(name);
        own && labels.iter().all(|(label, value)| series.contains(&format!("{label}=\"{value}\"")))
    };
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    samples.filter(fits).map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

/// Waits until a sample has a value. The node tells of its metrics when asked, so
/// it is asked until then.
async fn metric_becomes(client: &Client, name: &str, labels: &[(&str, &str)], value: f64) {
    let reached = async {
        while metric(client, name, labels).await != value {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(30), reached).await.is_err() {
        panic!("{name}{labels:?} stays {}", metric(client, name, labels).await);
    }
}

/// A stream of the call protocol, written by hand.
struct Raw {
    connection: Connection,
    _dialer: Dialer,
    send: SendStream,
    recv: RecvStream,
}

impl Raw {
    async fn open(node: &Daemon) -> Self {
        let (connection, dialer) = node.connect(alknet_call_protocol::ALPN).await;
        let (send, recv) = connection.open_bi().await.unwrap();
        Self { connection, _dialer: dialer, send, recv }
    }

    async fn send(&mut self, envelope: Value) {
        let text = serde_json::to_vec(&envelope).unwrap();
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        self.send.write_all(&[&length[..], &text].concat()).await.unwrap();
    }

    async fn request(&mut self, id: &str, name: &str, input: Value) {
        let payload = json!({ "operationId": name, "input": input });
        self.send(json!({ "type": "call.requested", "id": id, "payload": payload })).await;
    }

    async fn abort(&mut self, id: &str, policy: &str) {
        let payload = json!({ "policy": policy });
        self.send(json!({ "type": "call.aborted", "id": id, "payload": payload })).await;
    }

    async fn event(&mut self) -> Value {
        let mut length = [0; 4];
        within(self.recv.read_exact(&mut length)).await.unwrap();
        let mut text = vec![0; u32::from_be_bytes(length) as usize];
        within(self.recv.read_exact(&mut text)).await.unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.connection.close(0, "done");
    }
}

/// How many calls of an operation are in flight.
async fn in_flight(client: &Client, operation: &str) -> f64 {
    metric(client, "alknet_calls_in_flight", &[("operation", operation)]).await
}

async fn in_flight_becomes(client: &Client, operation: &str, count: u32) {
    let labels = [("operation", operation)];
    metric_becomes(client, "alknet_calls_in_flight", &labels, f64::from(count)).await;
}
