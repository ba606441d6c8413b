//! A node as its operator runs it: the binary as a child process, plugins from
//! files, QUIC over loopback.
//!
//! A [`NodeFolder`] is a node's files, and runs commands on them. A [`Daemon`] is
//! `alknet run` in such a folder: it is ready when it says so, its log can be
//! waited for, and it never outlives the test.

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alknet::config::{
    DevelopPlugin, KnownNodes, NodeAddress, NodeDirectory, Place, develop, read_key,
};
use alknet::endpoint::{DialError, Dialer, NodeKey, PublicKey};
use alknet_call_protocol::{CallClient, CallConnection, Options, Timer};
use alknet_plugin_api::{CallError, Connection};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::artifact;

/// More than anything takes here on a slow machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What `alknet run --dev` prints once the node has called itself.
const READY: &str = "serving until Ctrl-C";

/// The binary and the sample plugins: `clock` is a component, the others are
/// shared libraries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Built {
    /// The binary `alknet`.
    pub alknet: PathBuf,
    /// The call protocol's server.
    pub call: PathBuf,
    /// Streams and text, back again.
    pub echo: PathBuf,
    /// A folder, to be read.
    pub files: PathBuf,
    /// The registry over HTTP.
    pub http: PathBuf,
    /// A subscription.
    pub clock: PathBuf,
    /// Whatever a plugin can do, well or badly.
    pub conformance: PathBuf,
    /// The same, as a component.
    pub confined_conformance: PathBuf,
    /// Call trees, by a shared library.
    pub native_tree: PathBuf,
    /// Call trees, by a component.
    pub confined_tree: PathBuf,
    /// The call protocol's server as a component.
    pub confined_call: PathBuf,
}

/// Builds the binary and the plugins, once in a run of all tests.
///
/// # Panics
/// If one does not build.
pub fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        // A test runner with a process for each test would ask cargo in each.
        let run = std::env::var("NEXTEST_RUN_ID").ok();
        let note = std::env::current_exe().unwrap().with_file_name("alknet-tests-built.json");
        if let Some(run) = &run
            && let Ok(text) = std::fs::read_to_string(&note)
            && let Ok((of, built)) = serde_json::from_str::<(String, Built)>(&text)
            && of == *run
        {
            return built;
        }
        let built = build();
        if let Some(run) = run {
            let draft = note.with_extension(std::process::id().to_string());
            std::fs::write(&draft, serde_json::to_string(&(run, &built)).unwrap()).unwrap();
            std::fs::rename(&draft, &note).unwrap();
        }
        built
    })
}

fn build() -> Built {
    let messages = artifact::workspace();
    let library = |name: &str| {
        artifact::library(&messages, name)
            .unwrap_or_else(|| panic!("{name} makes no shared library"))
    };
    let alknet = messages
        .iter()
        .filter(|message| message["target"]["name"] == "alknet")
        .find_map(|message| message["executable"].as_str())
        .expect("there is a binary");
    Built {
        alknet: alknet.into(),
        call: library("alknet-plugin-call"),
        echo: library("alknet-plugin-echo"),
        files: library("alknet-plugin-files"),
        http: library("alknet-plugin-http"),
        clock: artifact::component("alknet-plugin-clock"),
        conformance: library("alknet-plugin-conformance"),
        confined_conformance: artifact::component("alknet-plugin-conformance"),
        native_tree: library("alknet-fixture-tree"),
        confined_tree: artifact::component("alknet-fixture-tree"),
        confined_call: artifact::component("alknet-plugin-call"),
    }
}

/// A UDP address on loopback that nobody else will be given: it lies below the
/// ports that the system hands out.
pub fn reserve_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests run side by side in processes of their own.
    let mut offset = std::process::id().wrapping_mul(37);
    loop {
        offset = offset.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).into());
        let port = 20_000 + u16::try_from(offset % 12_000).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

/// A TCP address on loopback that nobody else will be given.
pub fn reserve_tcp() -> SocketAddr {
    loop {
        let address = reserve_address();
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit status; `None` when a signal killed it.
    pub status: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl From<std::process::Output> for Ended {
    fn from(output: std::process::Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        Self { status: output.status.code(), stdout, stderr }
    }
}

impl Ended {
    /// Standard output as JSON.
    ///
    /// # Panics
    /// If the command failed or wrote something else.
    pub fn json(&self) -> Value {
        assert_eq!(self.status, Some(0), "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Standard output of a command that must succeed.
    ///
    /// # Panics
    /// If it failed.
    pub fn text(&self) -> &str {
        assert_eq!(self.status, Some(0), "{}", self.stderr);
        &self.stdout
    }

    /// Standard error of a command that must fail with this status.
    ///
    /// # Panics
    /// If it ended otherwise.
    pub fn refused(&self, status: i32) -> &str {
        assert_eq!(self.status, Some(status), "{self:?}");
        &self.stderr
    }
}

/// The files of a node, gone with the test.
pub struct NodeFolder {
    folder: TempDir,
    listen: SocketAddr,
}

impl Default for NodeFolder {
    fn default() -> Self {
        Self::new()
    }
}

impl NodeFolder {
    /// No files yet, and an address for the node.
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), listen: reserve_address() }
    }

    /// The files of a development node with `call` and `echo`, that admits
    /// however many connections a test makes.
    pub fn developed() -> Self {
        Self::developed_with(&[("call", &built().call), ("echo", &built().echo)])
    }

    /// As [`NodeFolder::developed`], with these plugins. The last one's stanza is the
    /// end of `node.toml`.
    pub fn developed_with(plugins: &[(&str, &Path)]) -> Self {
        let node = Self::new();
        let plugins: Vec<_> =
            plugins.iter().map(|(name, file)| DevelopPlugin::new(*name, *file)).collect();
        develop(&node.directory(), node.listen, &plugins).unwrap();
        node.append(
            "access.toml",
            "[limits]\nnew_per_second = 100000\nnew_burst = 100000\n\
             connections_per_prefix = 10000\n",
        );
        node
    }

    /// Where the node's files are.
    pub fn directory(&self) -> NodeDirectory {
        NodeDirectory::new(self.folder.path().join("node"))
    }

    /// One of the node's files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory().path().join(name)
    }

    /// The text of one of the node's files.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap()
    }

    /// Adds to one of the node's files.
    pub fn append(&self, name: &str, text: &str) {
        self.write(name, &format!("{}\n{text}", self.read(name)));
    }

    /// Writes one of the node's files.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(name), text).unwrap();
    }

    /// Replaces text in one of the node's files.
    ///
    /// # Panics
    /// If it is not there.
    pub fn replace(&self, name: &str, old: &str, new: &str) {
        let text = self.read(name);
        assert!(text.contains(old), "{name} has no `{old}`:\n{text}");
        self.write(name, &text.replace(old, new));
    }

    /// Where the node listens.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where the node can be reached, and its key.
    pub fn address(&self) -> NodeAddress {
        let known = KnownNodes::load(&self.directory().known_nodes()).unwrap();
        known.get("local").expect("a development node knows itself").clone()
    }

    /// The node's public key.
    pub fn key(&self) -> PublicKey {
        PublicKey(self.address().key().expect("it is known by its key").0)
    }

    /// A command about this node, whose standard streams are captured.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&built().alknet);
        command
            .arg("--node")
            .arg(self.directory().path())
            .args(arguments)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs a command about this node to its end.
    pub async fn alknet<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ended {
        let output = within(self.command(arguments).output()).await.unwrap();
        Ended {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What `run` is told to start the node, made with these plugins if there is
    /// none yet.
    pub fn run_arguments(&self, plugins: &[&Path]) -> Vec<String> {
        let listen = self.listen.to_string();
        let mut arguments: Vec<_> = ["run", "--dev", "--listen", &listen].map(str::to_owned).into();
        for plugin in plugins {
            arguments.extend(["--plugin".to_owned(), plugin.to_str().unwrap().to_owned()]);
        }
        arguments
    }

    /// Starts the node and waits until it serves.
    ///
    /// # Panics
    /// If it does not come to that.
    pub async fn start(self, plugins: &[&Path]) -> Daemon {
        let mut command = self.command(self.run_arguments(plugins));
        let running = Running::spawn(&mut command);
        running.said(READY).await;
        Daemon { node: self, running }
    }
}

/// A command that runs.
pub struct Running {
    child: Child,
    stdout: watch::Receiver<String>,
    stderr: watch::Receiver<String>,
}

impl Running {
    /// Starts a command with captured standard streams.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the binary runs");
        let stdout = gather(child.stdout.take().expect("standard output is captured"));
        let stderr = gather(child.stderr.take().expect("standard error is captured"));
        Self { child, stdout, stderr }
    }

    /// Waits until standard output has this text.
    ///
    /// # Panics
    /// If the process ends without having said it.
    pub async fn said(&self, text: &str) {
        self.wait_for(self.stdout.clone(), text).await;
    }

    /// Waits until standard error has this text.
    ///
    /// # Panics
    /// If the process ends without having logged it.
    pub async fn logged(&self, text: &str) {
        self.wait_for(self.stderr.clone(), text).await;
    }

    /// Waits until standard error has this text so many times.
    ///
    /// # Panics
    /// If the process ends without having logged it.
    pub async fn logged_times(&self, text: &str, times: usize) {
        self.times(self.stderr.clone(), text, times).await;
    }

    /// Waits until standard output has this text so many times.
    ///
    /// # Panics
    /// If the process ends without having said it.
    pub async fn said_times(&self, text: &str, times: usize) {
        self.times(self.stdout.clone(), text, times).await;
    }

    async fn times(&self, mut stream: watch::Receiver<String>, text: &str, times: usize) {
        let enough = stream.wait_for(|all| all.matches(text).count() >= times);
        let found = matches!(tokio::time::timeout(LIMIT, enough).await, Ok(Ok(_)));
        assert!(
            found,
            "`{text}` did not come {times} times:\n{}\n{}",
            self.stdout(),
            self.stderr()
        );
    }

    async fn wait_for(&self, mut stream: watch::Receiver<String>, text: &str) {
        let found = tokio::time::timeout(LIMIT, stream.wait_for(|all| all.contains(text))).await;
        if !matches!(found, Ok(Ok(_))) {
            panic!("`{text}` did not come:\n{}\n{}", self.stdout(), self.stderr());
        }
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.borrow().clone()
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.borrow().clone()
    }

    /// Standard input, once.
    pub fn stdin(&mut self) -> tokio::process::ChildStdin {
        self.child.stdin.take().expect("standard input is captured")
    }

    /// The process's number.
    ///
    /// # Panics
    /// If it has ended.
    pub fn id(&self) -> u32 {
        self.child.id().expect("the process runs")
    }

    /// Sends a signal, by its name without `SIG`.
    pub async fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.id());
        let sent = Command::new("sh").args(["-c", &kill]).status().await.unwrap();
        assert!(sent.success(), "{kill}");
    }

    /// Ends it without its doing, unless it has ended already.
    pub async fn killed(mut self) -> Ended {
        // What has ended cannot be killed, and need not.
        let _ = self.child.start_kill();
        self.ended().await
    }

    /// Waits for the end and all that was written.
    pub async fn ended(mut self) -> Ended {
        let status = within(self.child.wait()).await.unwrap();
        // The senders go when the streams are at their end.
        for stream in [&mut self.stdout, &mut self.stderr] {
            while within(stream.changed()).await.is_ok() {}
        }
        Ended { status: status.code(), stdout: self.stdout(), stderr: self.stderr() }
    }
}

fn gather(stream: impl AsyncRead + Unpin + Send + 'static) -> watch::Receiver<String> {
    let (sender, receiver) = watch::channel(String::new());
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            sender.send_modify(|all| {
                all.push_str(&line);
                all.push('\n');
            });
        }
    });
    receiver
}

/// A node that serves. It is killed when this is dropped.
pub struct Daemon {
    node: NodeFolder,
    running: Running,
}

impl std::ops::Deref for Daemon {
    type Target = NodeFolder;

    fn deref(&self) -> &NodeFolder {
        &self.node
    }
}

impl Daemon {
    /// Its process.
    pub fn process(&self) -> &Running {
        &self.running
    }

    /// Waits until the log has this text.
    pub async fn logged(&self, text: &str) {
        self.running.logged(text).await;
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.running.id())).unwrap();
        let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
        pages * 4096
    }

    /// Connects with the key that the node knows as `local`.
    pub async fn connect(&self, alpn: &str) -> (Connection, Dialer) {
        let key = read_key(&self.directory().client_key(), &Place::default()).unwrap();
        let dialer = Dialer::new(Some(&NodeKey::from_seed(*key))).unwrap();
        let connection = self.dial(&dialer, alpn).await.unwrap();
        (connection, dialer)
    }

    /// Connects with a dialer.
    ///
    /// # Errors
    /// As [`Dialer::dial`].
    pub async fn dial(&self, dialer: &Dialer, alpn: &str) -> Result<Connection, DialError> {
        within(dialer.dial(self.listen(), self.key(), alpn)).await
    }

    /// A client of the call protocol.
    pub async fn client(&self) -> Client {
        let (connection, dialer) = self.connect(alknet_call_protocol::ALPN).await;
        let (calls, driver) = CallClient::spawn_dispatch(connection, Options::new(Tokio::shared()));
        tokio::spawn(driver);
        Client { calls, _dialer: dialer }
    }

    /// Sends a signal and waits for the end.
    pub async fn stop(self, signal: &str) -> Ended {
        self.running.signal(signal).await;
        self.running.ended().await
    }

    /// Ends it without its doing, as a power cut would.
    pub async fn killed(self) -> NodeFolder {
        self.running.signal("KILL").await;
        assert_eq!(self.running.ended().await.status, None);
        self.node
    }

    /// The process, for a test that ends it in its own way.
    pub fn into_parts(self) -> (NodeFolder, Running) {
        (self.node, self.running)
    }
}

/// A client that calls over one connection.
pub struct Client {
    calls: CallConnection,
    _dialer: Dialer,
}

impl std::ops::Deref for Client {
    type Target = CallConnection;

    fn deref(&self) -> &CallConnection {
        &self.calls
    }
}

impl Drop for Client {
    /// What drives the connection would keep it.
    fn drop(&mut self) {
        self.calls.connection().close(0, "done");
    }
}

impl Client {
    /// Calls an operation, and takes its answer as any JSON.
    ///
    /// # Errors
    /// The call's own.
    pub async fn ask(&self, name: &str, input: Value) -> Result<Value, CallError> {
        within(self.calls.call(name, input)).await.map(|answer| answer.to().unwrap())
    }

    /// Makes sure that the node still answers.
    pub async fn assert_answered(&self) {
        let said = self.ask("/echo/say", serde_json::json!({ "text": "there?" })).await;
        assert_eq!(said.unwrap()["text"], "there?");
    }
}

/// Tokio's timers.
pub struct Tokio;

impl Tokio {
    /// As clients of the call protocol want them.
    pub fn shared() -> Arc<dyn Timer> {
        Arc::new(Self)
    }
}

impl Timer for Tokio {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Waits for what must come.
///
/// # Panics
/// If it does not come within [`LIMIT`].
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LIMIT, future).await.expect("nothing came")
}
