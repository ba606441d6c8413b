//! Runs contenders in turn and prints medians and ratios.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::call::{self, Daemon};
use crate::load::Shape;

/// A server in a process of its own, killed when dropped.
pub(crate) enum Server {
    /// This program, as a gRPC or raw QUIC server.
    Own {
        child: Child,
        address: String,
        certificate: tempfile::NamedTempFile,
    },
    Daemon(Daemon),
}

#[derive(Deserialize)]
struct Announcement {
    address: String,
    certificate: String,
}

/// One server and client, in one shape.
struct Contender {
    name: &'static str,
    family: &'static str,
    server: Runs,
    client: Shape,
}

/// What a server runs on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Runs {
    Tokio(Shape),
    /// The daemon, on so many threads with a runtime each.
    Shards(u32),
}

impl Runs {
    /// The shape of another server that this one compares with.
    fn like(self) -> Shape {
        match self {
            Self::Tokio(shape) => shape,
            Self::Shards(1) => Shape::Current,
            Self::Shards(_) => Shape::Multi,
        }
    }
}

impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokio(shape) => f.pad(shape.name()),
            Self::Shards(1) => f.pad("1 shard"),
            Self::Shards(count) => f.pad(&format!("{count} shards")),
        }
    }
}

const GRPC: &str = "gRPC, tonic";
const RAW: &str = "raw quinn";
const CALL: &str = "alknet call";

const CONTENDERS: [Contender; 10] = [
    contender(GRPC, "grpc", Runs::Tokio(Shape::Multi), Shape::Multi),
    contender(GRPC, "grpc", Runs::Tokio(Shape::Multi), Shape::Current),
    contender(GRPC, "grpc", Runs::Tokio(Shape::Current), Shape::Current),
    contender(RAW, "raw", Runs::Tokio(Shape::Multi), Shape::Multi),
    contender(RAW, "raw", Runs::Tokio(Shape::Multi), Shape::Current),
    contender(RAW, "raw", Runs::Tokio(Shape::Current), Shape::Current),
    contender(CALL, "call", Runs::Tokio(Shape::Multi), Shape::Multi),
    contender(CALL, "call", Runs::Tokio(Shape::Multi), Shape::Current),
    contender(CALL, "call", Runs::Shards(1), Shape::Current),
    contender(CALL, "call", Runs::Shards(2), Shape::Current),
];

const fn contender(
    name: &'static str,
    family: &'static str,
    server: Runs,
    client: Shape,
) -> Contender {
    Contender { name, family, server, client }
}

impl Server {
    fn start(contender: &Contender) -> Result<Self> {
        if contender.family == "call" {
            let shards = match contender.server {
                Runs::Tokio(_) => 0,
                Runs::Shards(count) => count,
            };
            return Ok(Self::Daemon(Daemon::start(shards)?));
        }
        Self::own(contender.family, contender.server.like())
    }

    /// This program as a server.
    pub(crate) fn own(family: &str, shape: Shape) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", family, "--shape", shape.name()])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("the server has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let announced: Announcement = serde_json::from_str(&line)
            .with_context(|| format!("`serve {family}` did not start"))?;
        let mut certificate = tempfile::NamedTempFile::new()?;
        certificate.write_all(announced.certificate.as_bytes())?;
        Ok(Self::Own { child, address: announced.address, certificate })
    }

    /// Where it listens, and the file of its certificate; nothing of a daemon.
    pub(crate) fn announced(&self) -> Option<(&str, &std::path::Path)> {
        match self {
            Self::Own { address, certificate, .. } => Some((address, certificate.path())),
            Self::Daemon(_) => None,
        }
    }

    fn load(&self, contender: &Contender, in_flight: usize, connections: usize) -> Result<f64> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["load", contender.family, "--in-flight", &in_flight.to_string()]);
        command.args(["--shape", contender.client.name()]);
        command.args(["--connections", &connections.to_string()]);
        match self {
            Self::Own { address, certificate, .. } => {
                command.arg(address).arg("--certificate").arg(certificate.path())
            }
            Self::Daemon(daemon) => command.arg("--node").arg(daemon.path()),
        };
        let output = command.stderr(Stdio::inherit()).output()?;
        let text = String::from_utf8(output.stdout)?;
        text.trim().parse().with_context(|| format!("{}: no figure", contender.name))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Self::Own { child, .. } = self {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// Prints everything, with medians of `rounds` interleaved rounds.
pub(crate) fn run(rounds: usize) -> Result<()> {
    for in_flight in [64, 1] {
        throughput(rounds, in_flight)?;
    }
    shapes(rounds)?;
    crate::boundary::run(rounds)?;
    crate::dispatch::run(rounds)?;
    crate::gateway::run(rounds)?;
    crate::versions::run(rounds)?;
    bulk(rounds)?;
    footprint()
}

fn throughput(rounds: usize, in_flight: usize) -> Result<()> {
    let mut samples = vec![Vec::new(); CONTENDERS.len()];
    for round in 0..rounds {
        for (contender, samples) in CONTENDERS.iter().zip(&mut samples) {
            samples.push(Server::start(contender)?.load(contender, in_flight, 1)?);
        }
        eprintln!("{in_flight} in flight: round {} of {rounds}", round + 1);
    }
    let medians: Vec<f64> = samples.iter_mut().map(|samples| median(samples)).collect();
    let rate_of = |family: &str, like: &Contender| {
        let same = |row: &Contender| {
            row.family == family
                && row.client == like.client
                && row.server.like() == like.server.like()
        };
        let found = CONTENDERS.iter().zip(&medians).find(|(row, _)| same(row));
        found.map_or(f64::NAN, |(_, rate)| *rate)
    };
    println!("\n{in_flight} in flight on one connection, 64 bytes of text (median of {rounds})");
    println!(
        "{:<14}{:<10}{:<10}{:>10}{:>10}{:>10}",
        "", "server", "client", "calls/s", "x gRPC", "x raw"
    );
    for (row, rate) in CONTENDERS.iter().zip(&medians) {
        println!(
            "{:<14}{:<10}{:<10}{rate:>10.0}{:>10.2}{:>10.2}",
            row.name,
            row.server,
            row.client.name(),
            rate / rate_of("grpc", row),
            rate / rate_of("raw", row)
        );
    }
    println!("ratios are to gRPC and to raw quinn on the same runtimes");
    Ok(())
}

/// The daemon's runtimes compared, with the calls spread over connections.
fn shapes(rounds: usize) -> Result<()> {
    const CONNECTIONS: usize = 16;
    let rows: Vec<_> = CONTENDERS.iter().filter(|row| row.family == "call").collect();
    let mut samples = vec![Vec::new(); rows.len()];
    for round in 0..rounds {
        for (contender, samples) in rows.iter().zip(&mut samples) {
            samples.push(Server::start(contender)?.load(contender, 256, CONNECTIONS)?);
        }
        eprintln!("{CONNECTIONS} connections: round {} of {rounds}", round + 1);
    }
    println!("\n256 in flight on {CONNECTIONS} connections (median of {rounds})");
    println!("{:<14}{:<10}{:<10}{:>10}", "", "server", "client", "calls/s");
    for (row, samples) in rows.iter().zip(&mut samples) {
        let rate = median(samples);
        println!("{:<14}{:<10}{:<10}{rate:>10.0}", row.name, row.server, row.client.name());
    }
    Ok(())
}

/// Bulk echo over QUIC, by the native and by the component build of `echo`.
fn bulk(rounds: usize) -> Result<()> {
    let native = call::built()?.join("libalknet_plugin_echo.so");
    let builds = [("native", native), ("component", call::component("alknet_plugin_echo")?)];
    let mut samples = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for ((name, file), samples) in builds.iter().zip(&mut samples) {
            let daemon = Daemon::start_with(0, file)?;
            let mut command = Command::new(std::env::current_exe()?);
            let output = command.arg("bulk").arg(daemon.path()).output()?;
            let text = String::from_utf8(output.stdout)?;
            samples.push(text.trim().parse().with_context(|| format!("{name}: no figure"))?);
        }
        eprintln!("bulk: round {} of {rounds}", round + 1);
    }
    let [native, component] = samples.each_mut().map(|samples| median(samples));
    println!("\nbulk echo over QUIC, there and back (median of {rounds})");
    println!("native     {native:>8.0} MiB/s");
    println!("component  {component:>8.0} MiB/s  x native {:.2}", component / native);
    Ok(())
}

/// Start, memory, sizes.
fn footprint() -> Result<()> {
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let daemon = Daemon::start(0)?;
    println!("\nstart to first answered call  {:>8.1} ms", daemon.first_answer.as_secs_f64() * 1e3);
    let idle = daemon.resident()?;
    println!("resident, idle                {:>8.1} MiB", mebibytes(idle));
    let mut holder = Command::new(std::env::current_exe()?)
        .arg("hold")
        .arg(daemon.path())
        .arg("1000")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(holder.stdout.take().context("no output")?).read_line(&mut line)?;
    anyhow::ensure!(line.starts_with("holding"), "1,000 connections could not be opened");
    let busy = daemon.resident()?;
    println!(
        "resident, 1,000 idle conns    {:>8.1} MiB ({:.1} KiB each)",
        mebibytes(busy),
        busy.saturating_sub(idle) as f64 / 1024.0 / 1000.0
    );
    holder.kill()?;
    holder.wait()?;
    for (name, size) in call::sizes()? {
        println!("{name:<30}{:>8.1} MiB", mebibytes(size));
    }
    Ok(())
}

pub(crate) fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
