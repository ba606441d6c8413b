//! What a call costs inside the node: the whole dispatch against none, and
//! composition so many levels deep, native and confined.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use alknet::auth::{IdentityProvider, PeerEntry, Policy as Access, PolicyStore, system_unix_time};
use alknet::observe::calls::CallRecorder;
use alknet::observe::metrics;
use alknet::plugins::artifact::Policy;
use alknet::plugins::component::{self, Engine, EngineOptions};
use alknet::plugins::{Artifact, native};
use alknet::registry::{
    CallerScope, CompositionAuthority, HandlerRegistration, Registry, RegistryBuilder,
    ScopedPeerEnv, TokioClock, TokioSpawner,
};
use alknet_plugin_api::testing::TestHost;
use alknet_plugin_api::{
    Built, Gateway, GatewayEvent, GatewayRequest, Json, Manifest, OperationCode, OperationSpec,
    Registrar,
};
use anyhow::{Context, Result};
use serde_json::json;
use tokio::runtime::Handle;

use crate::call;
use crate::table::median;

const CALLS: u32 = 50_000;
/// Calls that compose others.
const TREES: u32 = 2_000;
const DEPTHS: [usize; 3] = [1, 5, 20];

/// Prints the costs, as medians of `rounds` interleaved rounds.
pub(crate) fn run(rounds: usize) -> Result<()> {
    metrics::init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cache = tempfile::tempdir()?;
    runtime.block_on(async {
        let registry = registry(cache.path())?;
        let gateway = gateway(&registry)?;
        let bare = once(&registry)?;
        let (mut without, mut with) = (Vec::new(), Vec::new());
        let mut trees = vec![Vec::new(); 2 * DEPTHS.len()];
        for round in 0..rounds {
            without.push(bare_calls(&bare).await?);
            with.push(full_calls(&*gateway).await?);
            for (n, samples) in trees.iter_mut().enumerate() {
                let space = ["native", "confined"][n / DEPTHS.len()];
                samples.push(composed(&*gateway, space, DEPTHS[n % DEPTHS.len()]).await?);
            }
            eprintln!("dispatch: round {} of {rounds}", round + 1);
        }
        let (without, with) = (median(&mut without), median(&mut with));
        println!("\na call inside the node, on one thread (median of {rounds})");
        println!("  handler alone            {without:>9.0} ns");
        println!("  identity, limits, access, schema, span, metrics");
        println!("                           {with:>9.0} ns   {:+.0} ns", with - without);
        println!("  composed, levels deep    {:>12}{:>12}{:>12}", 1, 5, 20);
        for (space, samples) in ["native", "confined"].iter().zip(trees.chunks_mut(DEPTHS.len())) {
            print!("    {space:<22}");
            for samples in samples {
                print!(" {:>8.1} us", median(samples) / 1e3);
            }
            println!();
        }
        Ok(())
    })
}

/// An operation that answers with its input, as a plugin would declare it.
fn echo() -> Result<Built> {
    let spec = OperationSpec::query("bench/echo").scope("bench").input(json!({
        "type": "object",
        "required": ["text"],
        "properties": { "text": { "type": "string", "maxLength": 100 } },
    }));
    let mut on = Registrar::new();
    on.operation_json("bench/echo", |_, input| async move { Ok(input) });
    let manifest = Manifest::new("bench", "1.0.0").operation(spec);
    on.finish(manifest).map_err(|error| anyhow::anyhow!("{error}"))
}

fn registry(cache: &Path) -> Result<Arc<Registry>> {
    let spawner = Arc::new(TokioSpawner(Handle::current()));
    let mut builder = RegistryBuilder::new(Arc::new(TokioClock::new()), spawner);
    builder.recorder(Arc::new(CallRecorder::new(Arc::default(), Arc::default(), Arc::default())));
    let policy = Policy { allow_unpinned: true, ..Policy::default() };
    let host = TestHost::new();
    let library = Artifact::read(&call::built()?.join("libalknet_fixture_tree.so"), &policy)?;
    let library = native::open(&library)?.build(host.host(), Json::empty_object())?;
    let file = Artifact::read(&call::component("alknet_fixture_tree")?, &policy)?;
    let engine = Engine::new(EngineOptions {
        cache_dir: Some(cache.join("components")),
        ..EngineOptions::default()
    })?;
    let confined = component::open(file, &engine, component::ComponentLimits::default())?;
    let confined = confined.build(host.host(), Json::empty_object())?;
    for (built, limited) in [(echo()?, false), (library, false), (confined, true)] {
        for (spec, code) in built.manifest.operations.into_iter().zip(built.operations) {
            let mut registration = HandlerRegistration::new(spec, code, "bench");
            registration.limited = limited;
            registration.authority =
                Some(CompositionAuthority { label: "bench".into(), ..Default::default() });
            registration.scoped_env = ScopedPeerEnv {
                allowed_ops: ["native/down", "confined/down"].map(str::to_owned).into(),
                ..ScopedPeerEnv::default()
            };
            builder.register(registration);
        }
    }
    builder.freeze().map_err(|errors| anyhow::anyhow!("{errors:?}"))
}

const FINGERPRINT: &str =
    "ed25519:0000000000000000000000000000000000000000000000000000000000000000";

fn gateway(registry: &Arc<Registry>) -> Result<Arc<dyn Gateway>> {
    let dora = PeerEntry {
        peer_id: "dora".into(),
        fingerprints: vec![FINGERPRINT.into()],
        scopes: vec!["bench".into()],
        enabled: true,
        ..PeerEntry::default()
    };
    let access =
        Access::new(vec![dora], Vec::new()).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    let provider: Arc<dyn IdentityProvider> =
        Arc::new(PolicyStore::new(access, system_unix_time()));
    let fingerprint = Some(FINGERPRINT.to_owned());
    Ok(registry.gateway("call", CallerScope { connection: 1, provider, fingerprint }))
}

/// The handler's code, and a context to call it with.
fn once(registry: &Arc<Registry>) -> Result<(OperationCode, alknet_plugin_api::OperationContext)> {
    static HOST: OnceLock<TestHost> = OnceLock::new();
    let entry = registry.operation("bench/echo").context("it is registered")?;
    let code = echo()?.operations.remove(0);
    let host = HOST.get_or_init(TestHost::new);
    let (context, _cancel) = host.context(&entry.spec().name).build();
    Ok((code, context))
}

fn input() -> Json {
    json!({ "text": "x".repeat(32) }).into()
}

async fn bare_calls(
    (code, context): &(OperationCode, alknet_plugin_api::OperationContext),
) -> Result<f64> {
    let OperationCode::Once(code) = code else { anyhow::bail!("a query") };
    let input = input();
    let start = Instant::now();
    for _ in 0..CALLS {
        let answer = code.call(context.clone(), input.clone()).await;
        std::hint::black_box(answer.map_err(|error| anyhow::anyhow!("{error}"))?);
    }
    Ok(start.elapsed().as_nanos() as f64 / f64::from(CALLS))
}

async fn full_calls(gateway: &dyn Gateway) -> Result<f64> {
    let input = input();
    let start = Instant::now();
    for n in 0..CALLS {
        std::hint::black_box(ask(gateway, "/bench/echo", n, input.clone()).await?);
    }
    Ok(start.elapsed().as_nanos() as f64 / f64::from(CALLS))
}

/// Nanoseconds of a call that composes another, and so on, `depth` levels.
async fn composed(gateway: &dyn Gateway, space: &str, depth: usize) -> Result<f64> {
    let name = format!("/{space}/down");
    let path: Json = json!(vec![format!("{space}/down"); depth]).into();
    let start = Instant::now();
    for n in 0..TREES {
        std::hint::black_box(ask(gateway, &name, n, path.clone()).await?);
    }
    Ok(start.elapsed().as_nanos() as f64 / f64::from(TREES))
}

async fn ask(gateway: &dyn Gateway, name: &str, n: u32, input: Json) -> Result<Json> {
    let mut call = gateway.dispatch(GatewayRequest {
        request_id: n.to_string(),
        operation: name.to_owned(),
        input,
        auth_token: None,
        forwarded_for: Vec::new(),
        timeout: None,
        remote_addr: None,
    });
    match call.next().await {
        Some(GatewayEvent::Responded(answer)) => Ok(answer),
        other => anyhow::bail!("{name} ended with {other:?}"),
    }
}
