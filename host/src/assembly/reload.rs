//! Taking up a changed `access.toml` while the node runs.
//!
//! One task reads the file, on a change of it, on SIGHUP and when asked by the
//! operation `node/reload`; so readings never overtake each other, and the last
//! state of the file is the last one taken up. A reading is judged as a whole by
//! the code that a start uses. A good one replaces the policy, the limits and
//! the log filter, each in one step; a bad one leaves everything as it is and
//! stays in the node's status until it is corrected.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot, watch};

use super::registering::call_limits;
use super::service;
use super::watched_file::{DEBOUNCE, WatchedFile};
use super::why::Explainer;
use crate::auth::PolicyStore;
use crate::config::{AccessConfig, AccessLimits, NodeConfig, NodeLimits, Problems, ReloadPlan};
use crate::endpoint::admission::AdmissionLimits;
use crate::endpoint::{CloseCode, ConnectionLimits, Endpoint};
use crate::observe::log;
use crate::observe::status::{AccessStatus, RefusedAccess};
use crate::operator::Reloading;
use crate::registry::Registry;

/// Requests for a reload that may wait for the one under way.
const WAITING: usize = 64;

/// What a reload has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Reloaded {
    /// What differs from before.
    #[serde(flatten)]
    plan: ReloadPlan,
    /// Connections that were closed, because their peer is not known any more.
    closed: usize,
}

type Answer = oneshot::Sender<Result<Reloaded, Problems>>;

/// Everything that a reload changes.
pub(super) struct InForce {
    file: PathBuf,
    ceilings: NodeLimits,
    /// The log filter of `node.toml`.
    log: String,
    policy: Arc<PolicyStore>,
    registry: Arc<Registry>,
    endpoint: Arc<Endpoint>,
    explainer: Arc<Explainer>,
    state: Mutex<State>,
}

struct State {
    access: AccessConfig,
    since: SystemTime,
    reloads: u64,
    refused: Option<(SystemTime, Problems)>,
}

impl InForce {
    /// Starts from what the node was assembled with, and sees to what only a
    /// running node has: the rate of calls, the limits of connections and the log
    /// filter.
    pub(super) fn new(
        config: &NodeConfig,
        access: AccessConfig,
        policy: Arc<PolicyStore>,
        registry: Arc<Registry>,
        endpoint: Arc<Endpoint>,
        explainer: Arc<Explainer>,
    ) -> Self {
        let in_force = Self {
            file: config.file.with_file_name("access.toml"),
            ceilings: config.limits.clone(),
            log: config.observe.log.clone(),
            policy,
            registry,
            endpoint,
            explainer,
            state: Mutex::new(State {
                access: access.clone(),
                since: SystemTime::now(),
                reloads: 0,
                refused: None,
            }),
        };
        in_force.limit_calls(&access);
        in_force.limit_connections(&access);
        in_force.filter_log(&access);
        in_force
    }

    /// For status.
    pub(super) fn status(&self) -> AccessStatus {
        let state = self.state.lock();
        AccessStatus {
            peers: state.access.peers.len(),
            api_keys: state.access.api_keys.len(),
            since_unix_ms: unix_ms(state.since),
            reloads: state.reloads,
            refused: state.refused.as_ref().map(|(since, problems)| RefusedAccess {
                since_unix_ms: unix_ms(*since),
                problems: problems.clone(),
            }),
        }
    }

    /// Judges a reading and takes it up.
    fn take_up(&self, read: Result<String, Problems>) -> Result<Reloaded, Problems> {
        let judged = read.and_then(|text| {
            let access = AccessConfig::parse(&self.file, &text)?;
            access.over(&self.ceilings).into_result(())?;
            let policy = access.policy(&self.file)?;
            Ok((access, policy))
        });
        let mut state = self.state.lock();
        let (access, policy) = match judged {
            Ok(judged) => judged,
            Err(problems) => {
                let is_news = state.refused.as_ref().is_none_or(|(_, before)| *before != problems);
                if is_news {
                    tracing::error!("access.toml is refused, what was in force stays: {problems}");
                    state.refused = Some((SystemTime::now(), problems.clone()));
                }
                return Err(problems);
            }
        };
        let was_refused = state.refused.take().is_some();
        // Lines move even where nothing that they say has changed.
        self.explainer.access_changed(access.entry_places().clone());
        let plan = ReloadPlan::new(&state.access, &access);
        state.reloads += 1;
        if plan.is_empty() {
            if was_refused {
                tracing::info!("access.toml is in order again, and says what is in force");
            }
            return Ok(Reloaded::default());
        }
        // A connection that arrives from here on is judged by the new policy, and
        // those that are there are looked at afterwards: none slips through.
        self.policy.replace(policy);
        if plan.limits {
            self.endpoint.set_limits(admission(&access.limits_under(&self.ceilings)));
            self.limit_connections(&access);
            self.limit_calls(&access);
        }
        if plan.log {
            self.filter_log(&access);
        }
        let closed = self.close(&plan);
        state.access = access;
        state.since = SystemTime::now();
        tell(&plan, closed);
        Ok(Reloaded { plan, closed })
    }

    /// Closes the connections of those who lost their access, and says how many.
    fn close(&self, plan: &ReloadPlan) -> usize {
        let by_key = self.endpoint.close_removed();
        if plan.lost.identities.is_empty() {
            return by_key;
        }
        // Whoever proved who it is in its own protocol, and not by this key.
        by_key
            + self.endpoint.table().close_where(CloseCode::PeerRemoved, |connection| {
                let (key, identity) = (connection.peer.as_deref(), connection.identity.as_deref());
                plan.lost.closes(None, identity) && !plan.lost.closes(key, None)
            })
    }

    fn limit_calls(&self, access: &AccessConfig) {
        self.registry.set_limits(call_limits(&self.ceilings, &access.limits));
    }

    fn limit_connections(&self, access: &AccessConfig) {
        let limits = &access.limits;
        self.endpoint.set_connection_limits(ConnectionLimits {
            handshake_timeout: limits.handshake_timeout,
            idle_timeout: limits.idle_timeout,
            bidirectional_streams: limits.bidirectional_streams,
            unidirectional_streams: limits.unidirectional_streams,
        });
    }

    fn filter_log(&self, access: &AccessConfig) {
        let filter = access.log.as_deref().unwrap_or(&self.log);
        if let Err(error) = log::set_filter(filter) {
            // Reading the file has tried the filter.
            tracing::error!(%error, "the log filter stays");
        }
    }
}

fn tell(plan: &ReloadPlan, closed: usize) {
    let (peers, keys) = (&plan.peers, &plan.api_keys);
    tracing::info!(
        peers_added = ?peers.added, peers_removed = ?peers.removed, peers_changed = ?peers.changed,
        keys_added = ?keys.added, keys_removed = ?keys.removed, keys_changed = ?keys.changed,
        limits = plan.limits, log = plan.log, closed,
        "access.toml taken up"
    );
}

/// The endpoint's limits.
pub(super) fn admission(limits: &AccessLimits) -> AdmissionLimits {
    AdmissionLimits {
        rate_per_prefix: f64::from(limits.new_per_second),
        burst_per_prefix: limits.new_burst,
        concurrent_per_prefix: limits.connections_per_prefix,
        concurrent: limits.connections,
        failed_authentications: limits.failures_per_minute,
        refusal: limits.refusal,
        half_open_retry: limits.half_open_retry,
        half_open_refuse: limits.half_open_refuse,
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Begins to watch the file, until the node drains, and gives what asks for a
/// reload.
pub(super) fn start(
    in_force: Arc<InForce>,
    hangup: Signal,
    draining: watch::Receiver<bool>,
) -> impl Fn() -> Reloading + Send + Sync + use<> {
    let (requests, asked) = mpsc::channel::<Answer>(WAITING);
    let file = WatchedFile::new(&in_force.file);
    tokio::spawn(run(in_force, file, hangup, asked, draining));
    move || {
        let requests = requests.clone();
        async move {
            let (answer, answered) = oneshot::channel();
            requests.send(answer).await.ok()?;
            let reloaded = answered.await.ok()?;
            Some(reloaded.map(|reloaded| serde_json::json!(reloaded)))
        }
        .boxed()
    }
}

async fn run(
    in_force: Arc<InForce>,
    mut file: WatchedFile,
    mut hangup: Signal,
    mut asked: mpsc::Receiver<Answer>,
    mut draining: watch::Receiver<bool>,
) {
    loop {
        let mut asked_for = AskedFor::default();
        let is_urgent = tokio::select! {
            // The sender's end is the node's end.
            _ = draining.wait_for(|draining| *draining) => return,
            () = file.changed() => false,
            () = asked_for.by(&mut hangup, &mut asked) => true,
        };
        // Who asks does not wait until a change has settled.
        let read = match is_urgent {
            true => None,
            false => tokio::select! {
                read = file.read(DEBOUNCE) => Some(read),
                () = asked_for.by(&mut hangup, &mut asked) => None,
            },
        };
        if asked_for.signal {
            service::reloading();
        }
        // Whoever has asked by now is answered by this reading.
        while let Ok(answer) = asked.try_recv() {
            asked_for.answers.push(answer);
        }
        let read = match read {
            // A reading from before they asked is none for them.
            Some(read) if asked_for.answers.is_empty() => read,
            _ => file.read(Duration::ZERO).await,
        };
        let result = in_force.take_up(read);
        if asked_for.signal {
            if result.as_ref().is_ok_and(|reloaded| reloaded.plan.is_empty()) {
                tracing::info!("access.toml says what is in force: nothing has changed");
            }
            service::reloaded(result.is_ok());
        }
        for answer in asked_for.answers {
            // Who asked may have left.
            let _gone = answer.send(result.clone());
        }
    }
}

/// Who wants a reload to be now.
#[derive(Default)]
struct AskedFor {
    signal: bool,
    answers: Vec<Answer>,
}

impl AskedFor {
    /// Resolves when somebody asks.
    async fn by(&mut self, hangup: &mut Signal, asked: &mut mpsc::Receiver<Answer>) {
        tokio::select! {
            Some(()) = hangup.recv() => self.signal = true,
            Some(answer) = asked.recv() => self.answers.push(answer),
            // Neither comes any more.
            else => std::future::pending().await,
        }
    }
}
