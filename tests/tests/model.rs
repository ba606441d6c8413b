//! Random call trees through real plugins of both kinds, against a small model of
//! who may call what.
//!
//! Eight operations share the code of `alknet-fixture-tree`, half of them native
//! and half confined, each with rights of its own. A plan says whom each call
//! calls in turn, with waits, panics and errors between; the root has a deadline,
//! and is aborted or left at random. What the registry records of every decision
//! and call is held against the model. The seed of a case that fails is printed,
//! and `ALKNET_MODEL_SEED` runs it alone.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use alknet::auth::IdentityProvider;
use alknet::plugins::artifact::Policy;
use alknet::plugins::{Artifact, component, native};
use alknet::registry::access::{Allowed, Denied};
use alknet::registry::{
    AccessDecided, CallEnded, CallStarted, CallerScope, CompositionAuthority, HandlerRegistration,
    Recorder, RegistryBuilder, ScopedPeerEnv, TokioClock, TokioSpawner,
};
use alknet_plugin_api::testing::TestHost;
use alknet_plugin_api::{
    AbortPolicy, AccessControl, Built, GatewayEvent, GatewayRequest, Identity, Json, OperationCode,
    OperationSpec,
};
use alknet_tests::daemon::built;
use alknet_tests::substrate;
use serde_json::{Value, json};
use tokio::runtime::Handle;

const OPERATIONS: usize = 8;
const SCOPES: usize = 3;
const CASES: u64 = 2_000;
const FIRST_SEED: u64 = 0x7472_6565;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    fn subset(&mut self, of: usize, one_in: u64) -> BTreeSet<usize> {
        (0..of).filter(|_| self.chance(one_in)).collect()
    }
}

/// One operation of the model.
struct Op {
    required: BTreeSet<usize>,
    authority: BTreeSet<usize>,
    reach: BTreeSet<usize>,
    internal: bool,
}

impl Op {
    fn random(rng: &mut Rng) -> Self {
        Self {
            required: rng.subset(SCOPES, 6),
            authority: rng.subset(SCOPES, 2),
            reach: (0..OPERATIONS).filter(|_| !rng.chance(4)).collect(),
            internal: rng.chance(6),
        }
    }
}

fn name(index: usize) -> String {
    format!("m/{index}")
}

fn index(name: &str) -> usize {
    name.strip_prefix("m/").unwrap().parse().unwrap()
}

fn scopes(set: &BTreeSet<usize>) -> Vec<String> {
    set.iter().map(|scope| format!("s{scope}")).collect()
}

fn plan(rng: &mut Rng, depth: u64) -> Value {
    let count = if depth == 0 { 0 } else { 1 + rng.below(3) };
    let called = |rng: &mut Rng| {
        let target = name(rng.below(OPERATIONS as u64) as usize);
        (target, plan(rng, depth - 1))
    };
    let steps: Vec<Value> = (0..count)
        .map(|_| match rng.below(12) {
            0..6 => {
                let (target, plan) = called(rng);
                match rng.below(4) {
                    0 => json!({ "call": {
                        "target": target, "plan": plan, "policy": "continue-running" } }),
                    _ => json!({ "call": { "target": target, "plan": plan } }),
                }
            }
            6 | 7 => {
                let forks: Vec<_> = (0..1 + rng.below(3)).map(|_| called(rng)).collect();
                json!({ "fork": forks })
            }
            8 => {
                let (target, plan) = called(rng);
                json!({ "give_up": { "target": target, "plan": plan, "after": rng.below(40) } })
            }
            9 if rng.chance(4) => json!("panic"),
            9 => json!("fail"),
            _ => json!({ "wait": rng.below(50) }),
        })
        .collect();
    json!({ "steps": steps })
}

/// What the registry says of a case, held against the model as it comes.
#[derive(Default)]
struct Witness {
    ops: Vec<Op>,
    caller: BTreeSet<usize>,
    said: std::sync::Mutex<Said>,
}

#[derive(Default)]
struct Said {
    admitted: usize,
    started: usize,
    ended: usize,
    wrong: Vec<String>,
}

impl Witness {
    fn said(&self) -> std::sync::MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Recorder for Witness {
    fn access_decided(&self, decision: &AccessDecided<'_>) {
        let target = &self.ops[index(decision.operation)];
        let subject = decision.subject.map(|subject| subject.id.as_str());
        let (held, reached) = match (decision.internal, subject) {
            (false, Some("dora")) => (&self.caller, !target.internal),
            (true, Some(label)) => {
                let above = &self.ops[index(label)];
                (&above.authority, above.reach.contains(&index(decision.operation)))
            }
            other => return self.said().wrong.push(format!("{other:?} calls")),
        };
        let allowed = target.required.is_subset(held);
        let right = match decision.decision {
            Ok(Allowed::Unrestricted) => target.required.is_empty(),
            Ok(_) => allowed,
            Err(Denied::MissingScope(scope)) => !allowed && !scopes(held).contains(scope),
            Err(_) => false,
        };
        let origin = decision.origin.map(|origin| origin.id.as_str());
        let mut said = self.said();
        if !right || !reached || origin != Some("dora") {
            said.wrong.push(format!("{decision:?}"));
        }
        said.admitted += usize::from(decision.decision.is_ok());
    }

    fn call_started(&self, _: &CallStarted<'_>) {
        self.said().started += 1;
    }

    fn call_ended(&self, _: &CallEnded<'_>) {
        self.said().ended += 1;
    }
}

struct Dora(Arc<Identity>);

impl IdentityProvider for Dora {
    fn resolve_from_fingerprint(&self, _: &str) -> Option<Arc<Identity>> {
        Some(self.0.clone())
    }
    fn resolve_from_token(&self, _: &[u8]) -> Option<Arc<Identity>> {
        None
    }
}

/// The code of `plan`, native and confined.
fn codes(cache: &std::path::Path) -> [OperationCode; 2] {
    let read = |file: std::path::PathBuf| {
        let policy = Policy { allow_unpinned: true, ..Policy::default() };
        Artifact::read(&file, &policy).unwrap_or_else(|error| panic!("{error}"))
    };
    let code = |built: Built, name: &str| {
        let at = built.manifest.operations.iter().position(|spec| spec.name == name).unwrap();
        built.operations[at].clone()
    };
    let host = TestHost::new();
    let library = native::open(&read(built().native_tree.clone())).unwrap();
    let library = library.build(host.host(), Json::empty_object()).unwrap();
    let component = component::open(
        read(built().confined_tree.clone()),
        &substrate::engine(cache),
        component::ComponentLimits { call_instances: 4, ..Default::default() },
    );
    let component = component.unwrap().build(host.host(), Json::empty_object()).unwrap();
    [code(library, "native/plan"), code(component, "confined/plan")]
}

async fn case(seed: u64, codes: &[OperationCode; 2]) -> usize {
    let mut rng = Rng(seed);
    let ops: Vec<_> = (0..OPERATIONS).map(|_| Op::random(&mut rng)).collect();
    let caller = rng.subset(SCOPES, 2);
    let spawner = Arc::new(TokioSpawner(Handle::current()));
    let mut builder = RegistryBuilder::new(Arc::new(TokioClock::new()), spawner);
    for (own, op) in ops.iter().enumerate() {
        let access =
            AccessControl { required_scopes: scopes(&op.required), ..AccessControl::default() };
        let mut spec = OperationSpec::query(name(own)).access(access).error("PLANNED", "");
        if op.internal {
            spec = spec.internal();
        }
        let confined = own % 2 == 1;
        let code = codes[usize::from(confined)].clone();
        let mut registration = HandlerRegistration::new(spec, code, "tree");
        registration.limited = confined;
        // The label tells whose handler calls.
        registration.authority = Some(CompositionAuthority {
            label: name(own),
            scopes: scopes(&op.authority),
            ..CompositionAuthority::default()
        });
        registration.scoped_env = ScopedPeerEnv {
            allowed_ops: op.reach.iter().copied().map(name).collect(),
            ..ScopedPeerEnv::default()
        };
        builder.register(registration);
    }
    let dora = Identity { id: "dora".into(), scopes: scopes(&caller), ..Identity::default() };
    let witness = Arc::new(Witness { ops, caller, ..Witness::default() });
    builder.recorder(witness.clone());
    let registry = builder.freeze().unwrap();
    let scope = CallerScope {
        connection: 1,
        provider: Arc::new(Dora(Arc::new(dora))),
        fingerprint: Some("key".into()),
    };
    let gateway = registry.gateway("call", scope);
    let timeout = Duration::from_millis(1 + rng.below(300));
    let mut call = gateway.dispatch(GatewayRequest {
        request_id: "c-1".into(),
        operation: format!("/{}", name(rng.below(OPERATIONS as u64) as usize)),
        input: plan(&mut rng, 4).into(),
        auth_token: None,
        forwarded_for: vec![Identity { id: "claimed".into(), ..Identity::default() }],
        timeout: Some(timeout),
        remote_addr: None,
    });
    let stop_at = Duration::from_millis(rng.below(200));
    let policy =
        if rng.chance(2) { AbortPolicy::ContinueRunning } else { AbortPolicy::AbortDependents };
    match rng.below(4) {
        0 => drop(tokio::time::timeout(stop_at, call.next()).await),
        1 | 2 => {
            if tokio::time::timeout(stop_at, call.next()).await.is_err() {
                gateway.abort("c-1", policy);
                let started = witness.said().started;
                let last = call.next().await;
                assert!(
                    matches!(&last, Some(GatewayEvent::Error(error)) if error.code == "ABORTED"),
                    "{last:?}"
                );
                tokio::time::sleep(timeout).await;
                assert_eq!(witness.said().started, started, "a call started after the abort");
            }
        }
        _ => drop(call.next().await),
    }
    drop(call);
    // Whatever survived ends by the deadline at the latest.
    tokio::time::sleep(timeout + Duration::from_millis(2)).await;
    let started = {
        let said = witness.said();
        assert_eq!(said.wrong, Vec::<String>::new());
        assert_eq!(said.started, said.ended, "a call is left");
        assert!(said.started <= said.admitted, "a call ran that was not admitted");
        said.started
    };
    drop(gateway);
    // An instance that takes its leave still holds its call's context.
    let gone = async {
        while Arc::strong_count(&registry) > 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("a call holds the registry");
    started
}

#[test]
fn c46_random_trees_of_both_kinds_of_plugin_keep_to_the_model() {
    let seeds = match std::env::var("ALKNET_MODEL_SEED") {
        Ok(seed) => {
            let seed = u64::from_str_radix(seed.trim_start_matches("0x"), 16).unwrap();
            seed..seed + 1
        }
        Err(_) => FIRST_SEED..FIRST_SEED + CASES,
    };
    let all = seeds.end - seeds.start == CASES;
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let codes = {
        let _entered = runtime.enter();
        codes(folder.path())
    };
    let mut ran = 0;
    for seed in seeds {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(case(seed, &codes))
        }));
        match result {
            Ok(calls) => ran += calls,
            Err(_) => panic!("the model is violated: ALKNET_MODEL_SEED={seed:#x}"),
        }
    }
    assert!(!all || ran > 4_000, "only {ran} handlers ran: the plans are too tame");
}
