//! Runs contenders in turn and prints medians and ratios.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde::Deserialize;

/// A server in a process of its own, killed when dropped.
pub(crate) struct ServerProcess {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) certificate: tempfile::NamedTempFile,
}

#[derive(Deserialize)]
struct Announcement {
    address: SocketAddr,
    certificate: String,
}

impl ServerProcess {
    fn start(contender: &str, shape: &str) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", contender, "--shape", shape])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("the server has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let announced: Announcement =
            serde_json::from_str(&line).with_context(|| format!("{contender} did not start"))?;
        let mut certificate = tempfile::NamedTempFile::new()?;
        certificate.write_all(announced.certificate.as_bytes())?;
        Ok(Self { child, address: announced.address, certificate })
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn load(server: &ServerProcess, contender: &str, shape: &str, in_flight: usize) -> Result<f64> {
    let output = Command::new(std::env::current_exe()?)
        .args(["load", contender, &server.address.to_string()])
        .args(["--in-flight", &in_flight.to_string(), "--shape", shape])
        .arg("--certificate")
        .arg(server.certificate.path())
        .stderr(Stdio::inherit())
        .output()?;
    String::from_utf8(output.stdout)?.trim().parse().context("the client printed no figure")
}

/// Medians of `rounds` interleaved rounds.
pub(crate) fn run(rounds: usize) -> Result<()> {
    let contenders = [
        ("grpc", "multi"),
        ("grpc", "current"),
        ("raw", "multi"),
        ("raw", "current"),
    ];
    for in_flight in [64, 1] {
        let mut samples = vec![Vec::new(); contenders.len()];
        for round in 0..rounds {
            for (i, (contender, shape)) in contenders.iter().enumerate() {
                let server = ServerProcess::start(contender, shape)?;
                samples[i].push(load(&server, contender, shape, in_flight)?);
            }
            eprintln!("{in_flight} in flight: round {} of {rounds}", round + 1);
        }
        println!("{in_flight} in flight, calls per second (median of {rounds})");
        for ((contender, shape), samples) in contenders.iter().zip(&mut samples) {
            println!("  {contender:<6} {shape:<8} {:>10.0}", median(samples));
        }
    }
    Ok(())
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
