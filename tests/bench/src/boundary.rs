//! What the boundary between host and plugin costs: one plugin, linked into this
//! program, loaded from its shared library, loaded into a process of its own, and
//! run as a component, driven in memory on one thread.

use std::path::Path;
use std::time::{Duration, Instant};

use alknet::plugins::artifact::Policy;
use alknet::plugins::component::{self, ComponentLimits, Engine, EngineOptions};
use alknet::plugins::process::{self, Launch};
use alknet::plugins::{Artifact, native};
use alknet_plugin_api::testing::{Pair, TestHost, TestPlugin};
use alknet_plugin_api::{Connection, Json};
use alknet_plugin_echo::Echo;
use anyhow::{Context, Result};
use futures_util::future::{join_all, try_join};

use crate::call;
use crate::table::median;

const ALPN: &str = "alknet/echo";
const BUFFER: usize = 64 * 1024;
const BULK: usize = 256 << 20;
const CALLS: u32 = 20_000;
const CONNECTIONS: u32 = 1_000;
/// What an open connection has echoed.
const SMALL: usize = 1024;
/// Connections open at once while memory is looked at.
const OPEN: usize = 400;

/// One way to have the plugin in the process.
struct Substrate {
    name: &'static str,
    plugin: TestPlugin,
}

#[derive(Default)]
struct Samples {
    mebibytes: Vec<f64>,
    call_ns: Vec<f64>,
    connection_us: Vec<f64>,
    open_kib: Vec<f64>,
}

/// Prints the costs, as medians of `rounds` interleaved rounds.
pub(crate) fn run(rounds: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cache = tempfile::tempdir()?;
    let substrates = runtime.block_on(async { substrates(cache.path()) })?;
    let mut samples: Vec<Samples> = substrates.iter().map(|_| Samples::default()).collect();
    for round in 0..rounds {
        for (substrate, samples) in substrates.iter().zip(&mut samples) {
            runtime.block_on(measure(&substrate.plugin, samples))?;
        }
        eprintln!("boundary: round {} of {rounds}", round + 1);
    }
    println!("\nthe plugin echo in memory, on one thread (median of {rounds})");
    println!(
        "{:<12}{:>16}{:>10}{:>14}{:>10}{:>16}{:>10}{:>18}",
        "",
        "64 KiB echo",
        "x native",
        "call",
        "x native",
        "connection",
        "x native",
        "open connection"
    );
    let native = &mut samples[1];
    let native = [&mut native.mebibytes, &mut native.call_ns, &mut native.connection_us]
        .map(|each| median(each));
    for (substrate, samples) in substrates.iter().zip(&mut samples) {
        let bulk = median(&mut samples.mebibytes);
        let call = median(&mut samples.call_ns);
        let connection = median(&mut samples.connection_us);
        println!(
            "{:<12}{bulk:>10.0} MiB/s{:>10.2}{call:>11.0} ns{:>10.2}{connection:>13.1} us{:>10.2}\
             {:>14.0} KiB",
            substrate.name,
            bulk / native[0],
            call / native[1],
            connection / native[2],
            median(&mut samples.open_kib),
        );
    }
    println!("a connection is opened, served and closed; an open one has echoed 1 KiB");
    Ok(())
}

fn substrates(cache: &Path) -> Result<Vec<Substrate>> {
    let built = call::built()?;
    let policy = Policy { allow_unpinned: true, ..Policy::default() };
    let linked = TestPlugin::build::<Echo>(TestHost::new(), Json::empty_object())
        .map_err(|error| anyhow::anyhow!("{error}"))?;

    let host = TestHost::new();
    let library = Artifact::read(&built.join("libalknet_plugin_echo.so"), &policy)?;
    let opened = native::open(&library)?.build(host.host(), Json::empty_object())?;
    let native = TestPlugin::of(host, opened);

    let host = TestHost::new();
    let launch = Launch { program: built.join("alknet"), ..Launch::new("echo") };
    let opened = process::open(&library, launch)?.build(host.host(), Json::empty_object())?;
    let isolated = TestPlugin::of(host, opened);

    let host = TestHost::new();
    let file = call::component("alknet_plugin_echo")?;
    let artifact = Artifact::read(&file, &policy)?;
    let engine = Engine::new(EngineOptions {
        cache_dir: Some(cache.join("components")),
        ..EngineOptions::default()
    })?;
    let opened = component::open(artifact, &engine, ComponentLimits::default())?;
    let component = TestPlugin::of(host.clone(), opened.build(host.host(), Json::empty_object())?);
    Ok(vec![
        Substrate { name: "linked", plugin: linked },
        Substrate { name: "native", plugin: native },
        Substrate { name: "isolated", plugin: isolated },
        Substrate { name: "component", plugin: component },
    ])
}

async fn measure(plugin: &TestPlugin, samples: &mut Samples) -> Result<()> {
    let connection = plugin.connect(ALPN);
    echo(&connection, BULK / 8).await?;
    let start = Instant::now();
    echo(&connection, BULK).await?;
    samples.mebibytes.push((BULK >> 20) as f64 / start.elapsed().as_secs_f64());
    drop(connection);

    let input = Json::from(serde_json::json!({ "text": "x".repeat(64) }));
    let calls = async |count: u32| {
        for _ in 0..count {
            let answer = plugin.call("echo/say", input.clone()).await;
            std::hint::black_box(answer.map_err(|error| anyhow::anyhow!("{error}"))?);
        }
        anyhow::Ok(())
    };
    calls(CALLS / 10).await?;
    let start = Instant::now();
    calls(CALLS).await?;
    samples.call_ns.push(each(start.elapsed(), CALLS) * 1e9);

    let connections = async |count: u32| {
        for _ in 0..count {
            let (client, _control, serving) = plugin.connect_over(Pair::new(ALPN), None);
            // The handler must have begun before there is an end to it.
            tokio::task::yield_now().await;
            client.close(0, "");
            let _closed = serving.await;
        }
    };
    connections(CONNECTIONS / 10).await;
    let start = Instant::now();
    connections(CONNECTIONS).await;
    samples.connection_us.push(each(start.elapsed(), CONNECTIONS) * 1e6);

    let before = resident()?;
    let open: Vec<_> = (0..OPEN).map(|_| plugin.connect(ALPN)).collect();
    for echoed in join_all(open.iter().map(|connection| echo(connection, SMALL))).await {
        echoed?;
    }
    let held = resident()?.saturating_sub(before);
    samples.open_kib.push(held as f64 / 1024.0 / OPEN as f64);
    for connection in &open {
        connection.close(0, "");
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    Ok(())
}

fn each(all: Duration, count: u32) -> f64 {
    all.as_secs_f64() / f64::from(count)
}

/// Sends so many bytes through an echo and reads them back.
pub(crate) async fn echo(connection: &Connection, bytes: usize) -> Result<()> {
    let (mut send, mut recv) = connection.open_bi().await?;
    let sending = async {
        let buffer = vec![b'x'; BUFFER.min(bytes)];
        for _ in 0..bytes / buffer.len() {
            send.write_all(&buffer).await?;
        }
        send.finish()?;
        anyhow::Ok(())
    };
    let receiving = async {
        let mut buffer = vec![0; BUFFER];
        let mut received = 0;
        while let Some(n) = recv.read(&mut buffer).await? {
            received += n;
        }
        anyhow::ensure!(received == bytes, "{received} of {bytes} bytes came back");
        Ok(())
    };
    try_join(sending, receiving).await?;
    Ok(())
}

/// This process's resident memory in bytes.
fn resident() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split_whitespace().nth(1).context("no resident pages")?;
    Ok(pages.parse::<u64>()? * 4096)
}
