//! The registry over HTTP, as foreign clients meet it: curl, a TLS client that
//! knows nothing of HTTP, aioquic, the official MCP SDKs and their conformance suite,
//! and a tester that makes requests up from the description.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod abort;
mod bad_input;
mod browser;
mod console;
mod documents;
mod gateway;
mod h3;
mod load;
mod mcp;
mod origins;
mod smuggling;
mod suites;
mod websocket;
mod webtransport;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alknet::auth::token::{digest, stored};
use alknet_tests::daemon::{Client, Daemon, NodeFolder, built, reserve_tcp, within};
use serde_json::{Value, json};
use tokio::process::Command;

/// The token of an API key with the scope `inner`.
const INNER: &str = "alk_inner-and-the-rest-of-a-token";

/// The token of an API key with the scope `admin`.
const ADMIN: &str = "alk_admin-and-the-rest-of-a-token";

/// A node with its gateway at `tcp`.
struct Site {
    node: Daemon,
    tcp: SocketAddr,
    files: AtomicUsize,
}

impl Deref for Site {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.node
    }
}

/// The files of a node with the gateway, the sample plugins, and operations that
/// wait, count and need the scope `inner`.
fn folder(config: &str) -> (NodeFolder, SocketAddr) {
    folder_with(config, &[("native", &built().native_tree)])
}

/// As [`folder`], with other plugins for the operations that wait.
fn folder_with(config: &str, plugins: &[(&str, &Path)]) -> (NodeFolder, SocketAddr) {
    let built = built();
    let samples: [(&str, &Path); 3] =
        [("call", &built.call), ("echo", &built.echo), ("files", &built.files)];
    let node = NodeFolder::developed_with(&[&samples, plugins, &[("http", &*built.http)]].concat());
    let tcp = reserve_tcp();
    node.append(
        "node.toml",
        &format!(
            "config = {{ {config} }}\n[endpoint.tcp]\nlisten = [\"{tcp}\"]\n\
             [identity.self_signed]\nnames = [\"localhost\", \"node.test\"]\n"
        ),
    );
    let mut keys = String::new();
    for (token, scope) in [(INNER, "inner"), (ADMIN, "admin")] {
        let (prefix, hash) = (&token[..8], stored(&digest(token.as_bytes())));
        write!(keys, "\n[[api_key]]\nprefix = {prefix:?}\nhash = {hash:?}\nscopes = [{scope:?}]\n")
            .unwrap();
    }
    node.append("access.toml", &keys);
    (node, tcp)
}

async fn site(config: &str) -> Site {
    let (node, tcp) = folder(config);
    start(node, tcp).await
}

async fn start(node: NodeFolder, tcp: SocketAddr) -> Site {
    Site { node: node.start(&[]).await, tcp, files: AtomicUsize::new(0) }
}

/// What curl got.
#[derive(Debug)]
struct Answer {
    status: u16,
    version: String,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The answer of a request that must succeed.
    fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// A problem document with this status and code.
    fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)));
        for text in ["type", "title", "detail"] {
            assert!(problem[text].is_string(), "{problem}");
        }
        assert!(problem["retryable"].is_boolean(), "{problem}");
        problem
    }

    fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.trim())
            .next_back()
    }
}

impl Site {
    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.tcp.port())
    }

    fn certificate(&self) -> PathBuf {
        self.file("self-signed/certificate.pem")
    }

    /// curl, with the node's certificate as the only one that it trusts.
    fn command(&self, path: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--no-buffer", "--max-time", "50", "--cacert"])
            .arg(self.certificate())
            .args(["--resolve", &format!("localhost:{}:127.0.0.1", self.tcp.port())])
            .args(arguments)
            .arg(self.url(path))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn curl(&self, path: &str, arguments: &[&str]) -> Answer {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let (head, body) =
            (self.file(&format!("head-{number}")), self.file(&format!("body-{number}")));
        let output = within(
            self.command(path, arguments)
                .args(["--write-out", "%{http_code} %{http_version}"])
                .arg("--dump-header")
                .arg(&head)
                .arg("--output")
                .arg(&body)
                .output(),
        )
        .await
        .expect("curl is installed: `apt-get install curl`");
        let said = String::from_utf8(output.stdout).unwrap();
        let (status, version) = said.split_once(' ').unwrap();
        let text = |file: &Path| std::fs::read_to_string(file).unwrap_or_default();
        let status = status.parse().unwrap();
        assert!(status != 0, "curl {path}: {}", String::from_utf8_lossy(&output.stderr));
        Answer { status, version: version.into(), head: text(&head), body: text(&body) }
    }

    /// `POST` of JSON.
    async fn post(&self, path: &str, body: &Value, more: &[&str]) -> Answer {
        let body = body.to_string();
        let own = ["--header", "content-type: application/json", "--data-binary", &body];
        self.curl(path, &[&own[..], more].concat()).await
    }

    /// `POST /call`.
    async fn call(&self, operation: &str, input: Value, more: &[&str]) -> Answer {
        self.post("/call", &json!({ "operation": operation, "input": input }), more).await
    }
}

/// curl's arguments for a token.
fn bearer(token: &str) -> [String; 2] {
    ["--header".into(), format!("authorization: Bearer {token}")]
}

/// Waits until so many calls of an operation are in flight.
async fn in_flight_becomes(client: &Client, operation: &str, count: u32) {
    let label = format!("operation=\"{operation}\"");
    within(async {
        loop {
            let answer = client.ask("/node/metrics", json!({})).await.unwrap();
            let lines = answer["text"].as_str().unwrap().lines();
            let own = lines.filter(|line| {
                line.starts_with("alknet_calls_in_flight{") && line.contains(&label)
            });
            let values = own.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap());
            if values.sum::<f64>() == f64::from(count) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
