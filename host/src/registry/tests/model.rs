//! Random call trees against a small model of who may call what.
//!
//! Every operation `m/<i>` interprets a plan: which operations to call, in
//! which order, with waits, panics and errors between them. Beside each run,
//! the model below says what each call may see; a run that reaches anything
//! else fails, with the seed that made it.

use std::collections::BTreeSet;

use alknet_plugin_api::{AbortPolicy, OperationContext};
use rand_seed::Rng;
use serde::{Deserialize, Serialize};

use super::*;

/// How many operations there are, and how many scopes.
const OPERATIONS: usize = 8;
const SCOPES: usize = 3;

/// A small generator with a seed that a failure can print.
mod rand_seed {
    pub(super) struct Rng(pub(super) u64);

    impl Rng {
        /// SplitMix64.
        pub(super) fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        pub(super) fn below(&mut self, n: usize) -> usize {
            (self.next() % n as u64) as usize
        }

        pub(super) fn chance(&mut self, one_in: usize) -> bool {
            self.below(one_in) == 0
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plan {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Step {
    Call {
        target: usize,
        plan: Plan,
        policy: Option<AbortPolicy>,
    },
    /// The calls run at the same time.
    Fork(Vec<(usize, Plan)>),
    /// Gives a call up after some milliseconds.
    GiveUp {
        target: usize,
        plan: Plan,
        after: u64,
    },
    Wait(u64),
    Panic,
    Fail,
}

/// One operation of the model.
#[derive(Clone, Debug)]
struct Op {
    required: BTreeSet<usize>,
    authority: Option<BTreeSet<usize>>,
    reach: BTreeSet<usize>,
    internal: bool,
    capability: bool,
}

fn random_set(rng: &mut Rng, of: usize, one_in: usize) -> BTreeSet<usize> {
    (0..of).filter(|_| rng.chance(one_in)).collect()
}

fn random_ops(rng: &mut Rng) -> Vec<Op> {
    (0..OPERATIONS)
        .map(|_| Op {
            required: random_set(rng, SCOPES, 8),
            authority: (!rng.chance(4)).then(|| random_set(rng, SCOPES, 2)),
            reach: (0..OPERATIONS).filter(|_| !rng.chance(4)).collect(),
            internal: rng.chance(6),
            capability: rng.chance(2),
        })
        .collect()
}

fn random_plan(rng: &mut Rng, depth: usize) -> Plan {
    let steps = if depth == 0 { 0 } else { 1 + rng.below(4) };
    let plan = |rng: &mut Rng| (rng.below(OPERATIONS), random_plan(rng, depth - 1));
    let steps = (0..steps)
        .map(|_| match rng.below(12) {
            0..6 => {
                let policy = match rng.below(4) {
                    0 => Some(AbortPolicy::ContinueRunning),
                    1 => Some(AbortPolicy::AbortDependents),
                    _ => None,
                };
                let (target, plan) = plan(rng);
                Step::Call { target, plan, policy }
            }
            6 | 7 => Step::Fork((0..1 + rng.below(3)).map(|_| plan(rng)).collect()),
            8 => {
                let (target, plan) = plan(rng);
                Step::GiveUp { target, plan, after: rng.below(40) as u64 }
            }
            9 => Step::Wait(rng.below(50) as u64),
            10 if rng.chance(3) => Step::Panic,
            10 => Step::Fail,
            _ => Step::Wait(0),
        })
        .collect();
    Plan { steps }
}

/// What a handler saw when it ran.
#[derive(Debug)]
struct Seen {
    target: usize,
    parent: Option<usize>,
    identity: Option<Identity>,
    origin: Option<String>,
    capabilities: Vec<String>,
    deadline: Option<Duration>,
}

#[derive(Default)]
struct World {
    seen: Mutex<Vec<Seen>>,
    live: std::sync::atomic::AtomicUsize,
    /// The root was aborted, or has ended: nothing may start any more.
    closed: std::sync::atomic::AtomicBool,
    /// What went against the model where a panic would only cost a call.
    violations: Mutex<Vec<String>>,
    ops: Vec<Op>,
}

impl World {
    /// How the rules answer a call of `target` by `parent`'s handler, where
    /// they refuse it.
    fn refusal(&self, parent: usize, target: usize) -> Option<&'static str> {
        let (above, op) = (&self.ops[parent], &self.ops[target]);
        if !above.reach.contains(&target) {
            return Some("NOT_FOUND");
        }
        let held = above.authority.clone().unwrap_or_default();
        (!op.required.is_subset(&held)).then_some("FORBIDDEN")
    }

    fn compare(&self, parent: usize, target: usize, outcome: Result<Json, CallError>) {
        let code = outcome.err().map(|error| error.code);
        let refused = code.as_deref().filter(|code| matches!(*code, "NOT_FOUND" | "FORBIDDEN"));
        // A survivor's calls are aborted before they are looked at.
        if refused != self.refusal(parent, target) && code.as_deref() != Some("ABORTED") {
            self.violations.lock().push(format!("{parent} calls {target}: {code:?}"));
        }
    }
}

struct Live(Arc<World>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
    }
}

fn name(index: usize) -> String {
    format!("m/{index}")
}

fn input(parent: usize, plan: &Plan) -> Json {
    json!({ "parent": parent, "plan": plan }).into()
}

#[derive(Deserialize)]
struct Input {
    parent: Option<usize>,
    plan: Plan,
}

async fn interpret(
    own: usize,
    world: Arc<World>,
    context: OperationContext,
    begun: tokio::time::Instant,
    json: Json,
) -> Result<Json, CallError> {
    world.live.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    let _live = Live(world.clone());
    if world.closed.load(std::sync::atomic::Ordering::SeqCst) {
        world.violations.lock().push(format!("{own} started after the end"));
    }
    let Input { parent, plan } = json.to().unwrap();
    world.seen.lock().push(Seen {
        target: own,
        parent,
        identity: context.identity().cloned(),
        origin: context.info().origin.as_ref().map(|origin| origin.id.clone()),
        capabilities: (0..OPERATIONS)
            .map(|i| format!("of-{i}"))
            .filter(|name| context.capability(name).is_some())
            .collect(),
        deadline: context.remaining().map(|left| begun.elapsed() + left),
    });
    for step in plan.steps {
        match step {
            Step::Call { target, plan, policy } => {
                let (env, name, input) = (context.env(), name(target), input(own, &plan));
                let outcome = match policy {
                    Some(policy) => env.invoke_with_policy(&name, input, policy).await,
                    None => env.invoke(&name, input).await,
                };
                world.compare(own, target, outcome);
            }
            Step::Fork(calls) => {
                let targets: Vec<_> = calls.iter().map(|(target, _)| *target).collect();
                let env = context.env();
                let calls =
                    calls.iter().map(|(target, plan)| env.invoke(&name(*target), input(own, plan)));
                let outcomes = futures_util::future::join_all(calls).await;
                for (target, outcome) in targets.into_iter().zip(outcomes) {
                    world.compare(own, target, outcome);
                }
            }
            Step::GiveUp { target, plan, after } => {
                let call = context.env().invoke(&name(target), input(own, &plan));
                let _ = tokio::time::timeout(Duration::from_millis(after), call).await;
            }
            Step::Wait(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
            Step::Panic => panic!("as planned"),
            Step::Fail => return Err(CallError::new("PLANNED", "as planned")),
        }
    }
    Ok(Json::null())
}

fn scope_names(set: &BTreeSet<usize>) -> Vec<String> {
    set.iter().map(|scope| format!("s{scope}")).collect()
}

fn registrations(
    ops: &[Op],
    world: &Arc<World>,
    begun: tokio::time::Instant,
) -> Vec<HandlerRegistration> {
    ops.iter()
        .enumerate()
        .map(|(own, op)| {
            let access = AccessControl {
                required_scopes: scope_names(&op.required),
                ..AccessControl::default()
            };
            let mut spec = OperationSpec::query(name(own)).access(access).error("PLANNED", "");
            if op.internal {
                spec = spec.internal();
            }
            let world = world.clone();
            let mut registration = operation(spec, move |context, json| {
                interpret(own, world.clone(), context, begun, json)
            });
            registration.authority = op.authority.as_ref().map(|scopes| CompositionAuthority {
                label: format!("label-{own}"),
                scopes: scope_names(scopes),
                resources: BTreeMap::new(),
            });
            registration.scoped_env.allowed_ops = op.reach.iter().copied().map(name).collect();
            if op.capability {
                let backend = Arc::new(NoSecret);
                let capability = alknet_plugin_api::Capability::new(backend);
                registration.capabilities.insert(format!("of-{own}"), capability);
            }
            registration
        })
        .collect()
}

struct NoSecret;

impl alknet_plugin_api::CapabilityBackend for NoSecret {
    fn kind(&self) -> alknet_plugin_api::CapabilityKind {
        alknet_plugin_api::CapabilityKind::Bytes
    }
    fn reveal(&self) -> Option<bytes::Bytes> {
        None
    }
    fn sign(&self, _: &[u8]) -> Option<[u8; 64]> {
        None
    }
}

/// What the rules allow a handler to have seen.
fn check(ops: &[Op], caller: &BTreeSet<usize>, limit: Duration, seen: &Seen) {
    let op = &ops[seen.target];
    let (subject, held) = match seen.parent {
        None => {
            assert!(!op.internal, "the wire reached an internal operation");
            (Some("dora".to_owned()), caller.clone())
        }
        Some(parent) => {
            let above = &ops[parent];
            assert!(above.reach.contains(&seen.target), "out of reach");
            let label = above.authority.as_ref().map(|_| format!("label-{parent}"));
            (label, above.authority.clone().unwrap_or_default())
        }
    };
    assert_eq!(seen.identity.as_ref().map(|identity| identity.id.clone()), subject);
    let shown = seen.identity.as_ref().map(|identity| identity.scopes.clone());
    assert_eq!(shown.unwrap_or_default(), scope_names(&held));
    assert!(op.required.is_subset(&held), "access exceeds the authority");
    assert_eq!(seen.origin.as_deref(), Some("dora"));
    let own = op.capability.then(|| format!("of-{}", seen.target));
    assert_eq!(seen.capabilities, Vec::from_iter(own));
    assert_eq!(seen.deadline, Some(limit), "one deadline holds for the whole tree");
}

async fn run(seed: u64) -> usize {
    let mut rng = Rng(seed);
    let ops = random_ops(&mut rng);
    let caller = random_set(&mut rng, SCOPES, 2);
    let world = Arc::new(World { ops: ops.clone(), ..World::default() });
    let begun = tokio::time::Instant::now();
    let registry = freeze(registrations(&ops, &world, begun));
    let people = Arc::new(People::default());
    people.add(Identity { id: "dora".into(), scopes: scope_names(&caller), ..Identity::default() });
    let peer = Peer::new(&registry, &people, Some("dora"));
    let timeout = Duration::from_millis(1 + rng.below(300) as u64);
    let mut request = peer.request(&name(rng.below(OPERATIONS)), Value::Null);
    request.input = json!({ "parent": null, "plan": random_plan(&mut rng, 5) }).into();
    request.timeout = Some(timeout);
    let id = request.request_id.clone();
    let mut call = peer.gateway.dispatch(request);
    let stop_at = Duration::from_millis(rng.below(200) as u64);
    match rng.below(4) {
        0 => drop(tokio::time::timeout(stop_at, call.next()).await),
        1 | 2 => {
            let policy = if rng.chance(2) {
                AbortPolicy::ContinueRunning
            } else {
                AbortPolicy::AbortDependents
            };
            if tokio::time::timeout(stop_at, call.next()).await.is_err() {
                peer.gateway.abort(&id, policy);
                world.closed.store(true, std::sync::atomic::Ordering::SeqCst);
                assert!(
                    matches!(call.next().await, Some(GatewayEvent::Error(error)) if error.code == "ABORTED")
                );
            }
        }
        _ => {
            call.next().await.unwrap();
        }
    }
    drop(call);
    world.closed.store(true, std::sync::atomic::Ordering::SeqCst);
    // Whatever survived ends by the deadline at the latest.
    tokio::time::sleep(timeout + Duration::from_millis(2)).await;
    assert_eq!(world.live.load(std::sync::atomic::Ordering::SeqCst), 0, "a handler is left");
    assert_eq!(Arc::strong_count(&registry), 2, "a call is left");
    assert_eq!(*world.violations.lock(), Vec::<String>::new());
    let seen = world.seen.lock();
    for seen in &*seen {
        check(&ops, &caller, timeout, seen);
    }
    seen.len()
}

#[test]
fn c46_random_call_trees_never_exceed_their_authorities() {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let planned = info.payload().downcast_ref::<&str>() == Some(&"as planned");
        if !planned {
            quiet(info);
        }
    }));
    let first = 0x616c_6b6e_6574;
    let mut ran = 0;
    for seed in first..first + 3000 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let result = std::panic::catch_unwind(|| runtime.block_on(run(seed)));
        match result {
            Ok(calls) => ran += calls,
            Err(_) => panic!("the model is violated with seed {seed:#x}"),
        }
    }
    assert!(ran > 10_000, "only {ran} handlers ran: the plans are too tame");
}
