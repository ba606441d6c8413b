//! The component loader against a real component, built here by cargo.

#![allow(clippy::unwrap_used, clippy::expect_used)] // In tests a panic is the report.

mod double;
mod giving_up;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};

use alknet::plugins::Artifact;
use alknet::plugins::component::{ComponentLimits, Engine, EngineOptions, Trap, open};
use alknet_plugin_api::{
    AuthContext, Built, CallError, CallStream, Connection, HandlerError, Json, OperationCode,
    RecvStream, SendStream, Source, StreamError,
};
use double::{Told, context, host, pair};
use futures_util::StreamExt;
use serde_json::json;
use sha2::{Digest, Sha256};

/// The fixture's bytes; cargo builds it once for all tests.
static FIXTURE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/component/Cargo.toml");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("fixture");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--target", "wasm32-wasip2", "--manifest-path"])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&target)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the fixture does not build");
    std::fs::read(target.join("wasm32-wasip2/debug/component_fixture.wasm")).unwrap()
});

fn cache_dir() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("component-cache");
    std::fs::create_dir_all(&dir).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

/// One engine for all tests: each reserves address space for its instances.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let options = EngineOptions {
        cache_dir: Some(cache_dir()),
        max_instances: 64,
        ..EngineOptions::default()
    };
    Engine::new(options).unwrap()
});

fn artifact(bytes: &[u8]) -> Artifact {
    Artifact {
        path: PathBuf::from("fixture.wasm"),
        bytes: bytes.to_vec(),
        sha256: Sha256::digest(bytes).into(),
    }
}

fn limits() -> ComponentLimits {
    ComponentLimits { memory_bytes: 16 << 20, cpu_slice_ms: 200, ..ComponentLimits::default() }
}

struct Loaded {
    built: Built,
    told: Arc<Told>,
}

fn load_with(limits: ComponentLimits) -> Loaded {
    load_on(&ENGINE, limits)
}

fn load_on(engine: &Engine, limits: ComponentLimits) -> Loaded {
    let opened = open(artifact(&FIXTURE), engine, limits).unwrap();
    let (host, told) = host();
    Loaded { built: opened.build(host, Json::empty_object()).unwrap(), told }
}

fn load() -> Loaded {
    load_with(limits())
}

type Task = tokio::task::JoinHandle<Result<(), HandlerError>>;

impl Loaded {
    /// Connects to an ALPN: the client's end, and the handler at work.
    fn connect(&self, alpn: &str) -> (Connection, Task) {
        let number = self.built.manifest.alpns.iter().position(|other| other == alpn).unwrap();
        let (client, server) = pair(alpn);
        let auth = AuthContext::new(None, alpn, None, None, Source::Memory);
        let handler = self.built.handlers[number].clone();
        (client, tokio::spawn(async move { handler.handle(server, auth).await }))
    }

    fn code(&self, name: &str) -> &OperationCode {
        let specs = &self.built.manifest.operations;
        &self.built.operations[specs.iter().position(|spec| spec.name == name).unwrap()]
    }

    async fn call(
        &self,
        name: &str,
        input: serde_json::Value,
    ) -> Result<serde_json::Value, CallError> {
        let OperationCode::Once(code) = self.code(name) else { panic!("{name} is a subscription") };
        Ok(code.call(context(), Json::from(input)).await?.to().unwrap())
    }

    fn subscribe(&self, name: &str, input: serde_json::Value) -> CallStream {
        let OperationCode::Stream(code) = self.code(name) else { panic!("{name} is a call") };
        code.subscribe(context(), Json::from(input))
    }
}

/// Sends `data` and returns what came back by the clean end.
async fn round(streams: (SendStream, RecvStream), data: &[u8]) -> Vec<u8> {
    let (mut send, mut recv) = streams;
    let write = async {
        send.write_all(data).await.unwrap();
        send.finish().unwrap();
    };
    let (_, back) = tokio::join!(write, recv.read_to_end(data.len() + 1));
    back.unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

async fn stopped(task: Task) -> Trap {
    let error = task.await.unwrap().unwrap_err();
    Trap::of(&error).unwrap_or_else(|| panic!("no trap: {error}")).clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_echoed_and_operations_answer() {
    let plugin = load();
    for alpn in ["fixture/echo", "fixture/copy"] {
        for len in [0, 1, 64 << 10, 8 << 20] {
            let (client, task) = plugin.connect(alpn);
            let data = pattern(len);
            assert!(round(client.open_bi().await.unwrap(), &data).await == data, "{alpn} {len}");
            client.close(0, "done");
            task.await.unwrap().unwrap();
        }
    }
    assert_eq!(plugin.told.counters.lock().unwrap()["served"], 4);
    assert!(plugin.told.logs.lock().unwrap().iter().any(|line| line.contains("serving")));
    assert_eq!(plugin.call("fixture/say", json!("hi")).await.unwrap(), "hi!");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_streams_are_served_by_one_instance() {
    let plugin = load();
    let (client, task) = plugin.connect("fixture/echo");
    let mut rounds = futures_util::stream::FuturesUnordered::new();
    for n in 0..100 {
        let streams = client.open_bi().await.unwrap();
        rounds.push(async move {
            let data = pattern(1000 + n * 97);
            assert!(round(streams, &data).await == data);
        });
    }
    while rounds.next().await.is_some() {}
    client.close(0, "done");
    task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_half_may_end_before_the_other() {
    let plugin = load();
    let (client, _task) = plugin.connect("fixture/echo");
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    send.write_all(b"ping").await.unwrap();
    let mut buffer = [0; 4];
    assert_eq!(recv.read(&mut buffer).await.unwrap(), Some(4));
    send.finish().unwrap();
    assert_eq!(recv.read(&mut buffer).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_cross_both_ways() {
    let plugin = load();
    let (client, _task) = plugin.connect("fixture/echo");
    let big = u64::from(u32::MAX) + 5;

    let (mut send, mut recv) = client.open_bi().await.unwrap();
    send.write_all(b"x").await.unwrap();
    recv.read(&mut [0; 8]).await.unwrap();
    send.reset(big);
    let error = recv.read(&mut [0; 8]).await.unwrap_err();
    assert!(matches!(error, StreamError::Reset(code) if code == big + 1), "{error}");

    let (mut send, mut recv) = client.open_bi().await.unwrap();
    recv.stop(big);
    let error = loop {
        if let Err(error) = send.write_all(&[0; 4096]).await {
            break error;
        }
        tokio::task::yield_now().await;
    };
    assert!(matches!(error, StreamError::Stopped(code) if code == big + 1), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_streams_of_one_direction_tasks_and_identities_cross() {
    let plugin = load();
    let (client, task) = plugin.connect("fixture/rest");
    client.send_datagram("gram".into()).unwrap();
    assert_eq!(client.read_datagram().await.unwrap(), "gram");
    let mut uni = client.open_uni().await.unwrap();
    uni.write_all(b"one way").await.unwrap();
    uni.finish().unwrap();
    let mut back = client.accept_uni().await.unwrap();
    assert_eq!(back.read_to_end(100).await.unwrap(), b"one way");
    let closed = client.closed().await;
    assert_eq!((closed.code, closed.reason.as_str()), (Some(7), "that is all"));
    assert_eq!(client.identity().unwrap().id, "somebody");
    assert!(matches!(task.await.unwrap(), Err(HandlerError::AuthRequired)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_see_their_call_and_compose() {
    let plugin = load();
    let who = plugin.call("fixture/whoami", json!(null)).await.unwrap();
    assert_eq!(
        who,
        json!({
            "request": "r1", "caller": "alice", "limited": true, "reaches": true, "beyond": false,
        })
    );
    let value = json!({ "a": [1, null, "é"] });
    assert_eq!(plugin.call("fixture/compose", value.clone()).await.unwrap(), value);
    assert_eq!(plugin.call("fixture/nap", json!(5)).await.unwrap(), "rested");
    let error = plugin.call("fixture/say", json!(5)).await.unwrap_err();
    assert_eq!(error.code, "INVALID_INPUT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_yields_its_items_and_then_its_error() {
    let plugin = load();
    let items: Vec<_> = plugin.subscribe("fixture/ticks", json!(500)).collect().await;
    let texts: Vec<_> = items[..500].iter().map(|i| i.as_ref().unwrap().to_string()).collect();
    assert!(texts.iter().enumerate().all(|(i, text)| *text == (i + 1).to_string()));
    let error = items[500].as_ref().unwrap_err();
    assert_eq!(error.code, "DONE");
    assert_eq!(error.details.as_ref().unwrap().to_string(), r#"{"last":500}"#);
    assert_eq!(items.len(), 501);

    let relayed: Vec<_> = plugin.subscribe("fixture/relay", json!([1, "b", {}])).collect().await;
    let texts: Vec<_> = relayed.iter().map(|i| i.as_ref().unwrap().to_string()).collect();
    assert_eq!(texts, ["1", "\"b\"", "{}"]);
}

// On one thread: the stream is there before the plugin is, and ends it.
#[tokio::test]
async fn a_trap_costs_one_connection_and_says_why() {
    let plugin = load();
    let (healthy, _task) = plugin.connect("fixture/echo");
    for (alpn, expected) in [
        ("fixture/panic", "unreachable: panicked at src/lib.rs"),
        ("fixture/recurse", "call stack exhausted"),
    ] {
        let (client, task) = plugin.connect(alpn);
        let (_send, mut recv) = client.open_bi().await.unwrap();
        let text = stopped(task).await.to_string();
        assert!(text.contains(expected), "{text}");
        // What a dead handler held is reset, never ended cleanly.
        let error = recv.read(&mut [0; 8]).await.unwrap_err();
        assert!(matches!(error, StreamError::Reset(SendStream::DROPPED)), "{error}");
        assert_eq!(round(healthy.open_bi().await.unwrap(), b"still here").await, b"still here");
    }
    assert!(plugin.told.logs.lock().unwrap().iter().any(|line| line.contains("out of cheese")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loops_and_bombs_are_stopped_while_others_are_served() {
    let plugin = load();
    let (healthy, _task) = plugin.connect("fixture/echo");
    for (alpn, expected) in
        [("fixture/spin", Trap::CpuSlice(200)), ("fixture/bomb", Trap::Memory(16 << 20))]
    {
        // As many as there are threads: they must give way to the healthy one.
        let bad: Vec<_> = (0..2).map(|_| plugin.connect(alpn)).collect();
        for (client, _) in &bad {
            client.open_bi().await.unwrap();
        }
        let data = pattern(100_000);
        for _ in 0..5 {
            assert!(round(healthy.open_bi().await.unwrap(), &data).await == data);
        }
        for (_client, task) in bad {
            assert_eq!(stopped(task).await, expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_traps_is_replaced() {
    let plugin = load_with(ComponentLimits { call_instances: 1, ..limits() });
    assert_eq!(plugin.call("fixture/count", json!(null)).await.unwrap(), 1);
    assert_eq!(plugin.call("fixture/count", json!(null)).await.unwrap(), 2);
    for (how, expected) in [
        ("panic", "panicked at"),
        ("spin", "out of CPU slice"),
        ("bomb", "memory limit of 16777216 bytes"),
    ] {
        let error = plugin.call("fixture/misbehave", json!(how)).await.unwrap_err();
        assert_eq!(error.code, "INTERNAL");
        assert!(error.message.contains(expected), "{error}");
        // A fresh instance has counted nothing.
        assert_eq!(plugin.call("fixture/count", json!(null)).await.unwrap(), 1);
    }
}

fn refusal(bytes: &[u8]) -> String {
    match open(artifact(bytes), &ENGINE, limits()) {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_is_no_plugin_is_refused_with_a_reason() {
    assert!(refusal(b"#!/bin/sh\n").contains("no WebAssembly component"));
    assert!(refusal(b"\0asm\x01\0\0\0").contains("not a component"));
    // An empty component: valid, and exports nothing.
    let text = refusal(b"\0asm\x0d\0\x01\0");
    assert!(text.contains("`manifest`") && text.contains("export!"), "{text}");
    for part in [2, 3, 10] {
        let cut = &FIXTURE[..FIXTURE.len() - FIXTURE.len() / part];
        assert!(refusal(cut).contains("does not compile"), "{part}");
    }
    // The same plugin, had it been built against another major version.
    let mut bytes = FIXTURE.clone();
    replace(&mut bytes, b"alknet:plugin/host@1.0.0", b"alknet:plugin/host@2.0.0");
    let text = refusal(&bytes);
    assert!(text.contains("alknet:plugin/host@2.0.0") && text.contains("matching"), "{text}");
    let mut bytes = FIXTURE.clone();
    replace(&mut bytes, b"alknet:plugin/host@1.0.0", b"alknet:plugin/hose@1.0.0");
    assert!(refusal(&bytes).contains("`alknet:plugin/hose@1.0.0`"));
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let places: Vec<_> =
        (0..bytes.len() - from.len()).filter(|i| bytes[*i..].starts_with(from)).collect();
    assert!(!places.is_empty());
    for place in places {
        bytes[place..place + to.len()].copy_from_slice(to);
    }
}

#[test]
fn a_plugins_own_refusal_is_reported() {
    let opened = open(artifact(&FIXTURE), &ENGINE, limits()).unwrap();
    let config = Json::from(json!({ "refuse": "no cheese configured" }));
    let error = opened.build(host().0, config).err().expect("refused").to_string();
    assert!(error.contains("no cheese configured"), "{error}");
}

#[test]
fn compiled_code_is_kept_and_checked() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let engine = || {
        let options = EngineOptions {
            cache_dir: Some(cache.clone()),
            max_instances: 2,
            ..EngineOptions::default()
        };
        Engine::new(options)
    };
    let open_with = |engine: &Engine| open(artifact(&FIXTURE), engine, limits()).unwrap();
    open_with(&engine().unwrap());
    let files: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|f| f.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    let kept = std::fs::read(file).unwrap();
    let modified = || std::fs::metadata(file).unwrap().modified().unwrap();

    // A hit leaves the file alone.
    let before = modified();
    open_with(&engine().unwrap());
    assert_eq!(modified(), before);

    // Altered, cut off or open to others: not used, and written anew.
    let mut altered = kept.clone();
    altered[kept.len() / 2] ^= 1;
    for (bytes, mode) in [(&altered[..], 0o600), (&kept[..20], 0o600), (&kept[..], 0o666)] {
        std::fs::write(file, bytes).unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
        open_with(&engine().unwrap());
        let renewed = std::fs::read(file).unwrap();
        let digest = Sha256::digest(&renewed[32..]);
        assert_eq!(digest[..], renewed[..32]);
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    // A directory that others can write to is refused outright.
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o770)).unwrap();
    let error = engine().err().expect("refused").to_string();
    assert!(error.contains("0700"), "{error}");
}

#[test]
fn memory_is_given_back() {
    let options = EngineOptions { max_instances: 4, ..EngineOptions::default() };
    let engine = Engine::new(options).unwrap();
    let opened = open(artifact(&FIXTURE), &engine, limits()).unwrap();
    assert_eq!(engine.memory_used(), 0);
    let built = opened.build(host().0, Json::empty_object()).unwrap();
    assert!(engine.memory_used() > 0);
    drop(built);
    assert_eq!(engine.memory_used(), 0);
}

/// Figures, not verdicts: run with `--ignored --nocapture` and a release build.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn figures() {
    let plugin = load();
    plugin.call("fixture/say", json!("warm")).await.unwrap();
    let start = std::time::Instant::now();
    for _ in 0..20_000 {
        plugin.call("fixture/say", json!("hi")).await.unwrap();
    }
    println!("call: {:?}", start.elapsed() / 20_000);
    let start = std::time::Instant::now();
    for _ in 0..2_000 {
        let (client, task) = plugin.connect("fixture/echo");
        client.close(0, "");
        task.await.unwrap().unwrap();
    }
    println!("connection (instance, build, handle): {:?}", start.elapsed() / 2_000);
    let data = pattern(64 << 20);
    for alpn in ["fixture/echo", "fixture/copy"] {
        let (client, _task) = plugin.connect(alpn);
        let start = std::time::Instant::now();
        assert!(round(client.open_bi().await.unwrap(), &data).await == data);
        println!("{alpn}: {:.0} MiB/s", 64.0 / start.elapsed().as_secs_f64());
    }
    let (before, resident) = (ENGINE.memory_used(), resident_kib());
    let held: Vec<_> = (0..20).map(|_| plugin.connect("fixture/echo")).collect();
    for (client, _) in &held {
        let (mut send, mut recv) = client.open_bi().await.unwrap();
        send.write_all(b"x").await.unwrap();
        recv.read(&mut [0; 8]).await.unwrap();
    }
    println!(
        "an instance after an echo: {} KiB of linear memory, {} KiB resident in all",
        (ENGINE.memory_used() - before) / 20 / 1024,
        (resident_kib() - resident) / 20
    );
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
