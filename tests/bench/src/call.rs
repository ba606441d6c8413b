//! The call protocol: the real daemon with its plugins loaded from files, and a
//! client on the call library.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet::config::{KnownNodes, NodeDirectory, Place, read_key};
use alknet::endpoint::{Dialer, NodeKey, PublicKey};
use alknet_call_protocol::{ALPN, CallClient, CallConnection, Options, Timer};
use alknet_plugin_api::{Connection, Json};
use anyhow::{Context, Result};
use futures_util::future::BoxFuture;

use crate::load::Load;

/// A daemon in a directory of its own, killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    directory: tempfile::TempDir,
    /// Where it listens for QUIC.
    pub(crate) quic: SocketAddr,
    /// From its start to the answer of the call that it makes to itself.
    pub(crate) first_answer: Duration,
}

/// The folder that this program and the plugins were built into.
pub(crate) fn built() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    Ok(exe.parent().context("the program is in no folder")?.to_owned())
}

impl Daemon {
    /// Starts a node that serves `call` and `echo`, on this many shards.
    pub(crate) fn start(shards: u32) -> Result<Self> {
        Self::start_with(shards, &built()?.join("libalknet_plugin_echo.so"))
    }

    /// Starts a node that serves `call` and this build of `echo`.
    pub(crate) fn start_with(shards: u32, echo: &Path) -> Result<Self> {
        Self::start_plugins(shards, &[echo], |text| text)
    }

    /// Starts a node that serves its operations over HTTP as well, by a plugin with
    /// this configuration.
    pub(crate) fn start_http(tcp: SocketAddr, echo: &Path, config: &str) -> Result<Self> {
        let more = format!(
            "[endpoint.tcp]\nlisten = [\"{tcp}\"]\n\n\
             [identity.self_signed]\nnames = [\"localhost\"]\n"
        );
        let http = built()?.join("libalknet_plugin_http.so");
        Self::start_plugins(0, &[echo, &http], |text| {
            text.replace("name = \"http\"\n", &format!("name = \"http\"\nconfig = {config}\n"))
                + &more
        })
    }

    fn start_plugins(
        shards: u32,
        plugins: &[&Path],
        edit: impl Fn(String) -> String,
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let built = built()?;
        let quic = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        let daemon = || {
            let mut command = Command::new(built.join("alknet"));
            command.arg("--node").arg(directory.path()).args(["run", "--dev"]);
            command.args(["--listen", &quic.to_string()]);
            command.arg("--plugin").arg(built.join("libalknet_plugin_call.so"));
            for plugin in plugins {
                command.arg("--plugin").arg(plugin);
            }
            command
        };
        // The first start writes the files, which are then set up for the load.
        let (mut first, _) = Self::spawn(daemon())?;
        first.kill()?;
        // Its port is free once it is gone.
        first.wait()?;
        let node = directory.path().join("node.toml");
        let text = fs::read_to_string(&node)?;
        let text =
            text.replace("[endpoint.quic]\n", &format!("[endpoint.quic]\nshards = {shards}\n"));
        fs::write(&node, edit(text + "\n[observe]\nlog = \"warn\"\n\n"))?;
        let access = directory.path().join("access.toml");
        let limits = "\n[limits]\nnew_per_second = 100000\nnew_burst = 100000\n\
                      connections_per_prefix = 10000\n";
        fs::write(&access, fs::read_to_string(&access)? + limits)?;
        let (child, first_answer) = Self::spawn(daemon())?;
        Ok(Self { child, directory, quic, first_answer })
    }

    fn spawn(mut command: Command) -> Result<(Child, Duration)> {
        use std::io::{BufRead, BufReader};
        let start = Instant::now();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let stdout = child.stdout.take().context("the daemon has no output")?;
        for line in BufReader::new(stdout).lines() {
            if line?.starts_with("serving") {
                return Ok((child, start.elapsed()));
            }
        }
        anyhow::bail!("the daemon did not start")
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.child.id()))?;
        let pages = statm.split_whitespace().nth(1).context("no resident pages")?;
        Ok(pages.parse::<u64>()? * 4096)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Sizes in bytes of what an operator installs.
pub(crate) fn sizes() -> Result<Vec<(String, u64)>> {
    let built = built()?;
    let files = ["alknet", "libalknet_plugin_call.so", "libalknet_plugin_echo.so"];
    let size = |name: &str| anyhow::Ok((name.to_owned(), fs::metadata(built.join(name))?.len()));
    files.into_iter().map(size).collect()
}

struct Tokio;

impl Timer for Tokio {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Connects as the development node's own client.
pub(crate) async fn connect(node: &Path, alpn: &str) -> Result<(Connection, Dialer)> {
    let directory = NodeDirectory::new(node);
    let known = KnownNodes::load(&directory.known_nodes()).map_err(|e| anyhow::anyhow!("{e}"))?;
    let address = known.get("local").context("the node has no address")?;
    let file = directory.client_key();
    let seed = read_key(&file, &Place::file_only(&file)).map_err(|e| anyhow::anyhow!("{e}"))?;
    let dialer = Dialer::new(Some(&NodeKey::from_seed(*seed)))?;
    let socket: SocketAddr = format!("{}:{}", address.host, address.port).parse()?;
    let key = address.key().context("the node is not known by a key")?;
    let connection = dialer.dial(socket, PublicKey(key.0), alpn).await?;
    Ok((connection, dialer))
}

pub(crate) async fn load(load: &Load) -> Result<f64> {
    let node = load.node.as_deref().context("--node is missing")?;
    let mut connections: Vec<(CallConnection, Dialer)> = Vec::new();
    for _ in 0..load.connections {
        let (connection, dialer) = connect(node, ALPN).await?;
        let (calls, driver) = CallClient::spawn_dispatch(connection, Options::new(Arc::new(Tokio)));
        tokio::spawn(driver);
        connections.push((calls, dialer));
    }
    let input = Json::from(serde_json::json!({ "text": load.text() }));
    load.run(|number| {
        let (calls, _) = &connections[number % connections.len()];
        let answer = calls.call("echo/say", input.clone());
        async move {
            std::hint::black_box(answer.await?);
            Ok(())
        }
    })
    .await
}

/// The component build of a plugin.
pub(crate) fn component(name: &str) -> Result<PathBuf> {
    let built = built()?;
    let profile = built.file_name().context("the program is in no folder")?;
    Ok(built.with_file_name("wasm32-wasip2").join(profile).join(format!("{name}.wasm")))
}

/// Sends bytes through the node's handler `alknet/echo` and reads them back;
/// mebibytes per second.
pub(crate) async fn bulk(node: &Path) -> Result<f64> {
    const MEBIBYTES: usize = 256;
    let (connection, _dialer) = connect(node, "alknet/echo").await?;
    crate::boundary::echo(&connection, 16 << 20).await?;
    let start = Instant::now();
    crate::boundary::echo(&connection, MEBIBYTES << 20).await?;
    Ok(MEBIBYTES as f64 / start.elapsed().as_secs_f64())
}

/// Holds this many connections open until standard input ends.
pub(crate) async fn hold(node: &Path, count: usize) -> Result<()> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(connect(node, ALPN).await?);
    }
    println!("holding");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(())
}
