//! The node's own operations, for its operators: `node/…`.
//!
//! Those that read need one of the scopes `admin` and `observe`, what changes the
//! node needs `admin`. They are declared (`specs`) and attached like any plugin's,
//! and pass through the same registry, access decision and dispatch. The console
//! in a browser and the command line are clients of them, and of nothing else.

mod events;
mod specs;
mod views;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use alknet_plugin_api::{Built, CallError, Json, Registrar};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use crate::auth::PolicyStore;
use crate::config::Problems;
use crate::endpoint::ConnectionRecord;
use crate::observe::metrics;
use crate::observe::recent::Recent;
use crate::observe::sample::Sampler;
use crate::observe::status::NodeStatus;
use crate::registry::Registry;

/// Tells the node's status.
pub type StatusSource = OnceLock<Box<dyn Fn() -> NodeStatus + Send + Sync>>;

/// Takes up `access.toml` and tells what has changed, or what is wrong with the
/// file; `None` where the node is stopping.
pub type ReloadSource = OnceLock<Box<dyn Fn() -> Reloading + Send + Sync>>;

/// A reload under way.
pub type Reloading = BoxFuture<'static, Option<Result<Value, Problems>>>;

/// Answers a question about access; see [`why`](crate::assembly::why).
pub type AnswerSource = OnceLock<Box<dyn Fn(Json) -> Result<Json, CallError> + Send + Sync>>;

/// What the operations answer from. Set once the node runs.
#[derive(Clone, Default)]
pub struct Sources {
    /// The node's status.
    pub status: Arc<StatusSource>,
    /// Takes up `access.toml`.
    pub reload: Arc<ReloadSource>,
    /// Answers questions about access. Set once the registry is frozen.
    pub answers: Arc<AnswerSource>,
    /// Tells who may call what. Set once the registry is frozen.
    pub matrix: Arc<AnswerSource>,
    /// The running node.
    pub live: Arc<OnceLock<Live>>,
    /// The last errors and refusals.
    pub recent: Arc<Recent>,
    /// Reads the metrics.
    pub sampler: Arc<Sampler>,
}

/// What the operations look at while the node runs.
pub struct Live {
    /// What is served.
    pub registry: Arc<Registry>,
    /// Who is who.
    pub policy: Arc<PolicyStore>,
    /// Who is connected.
    pub connections: Box<dyn Fn() -> Vec<ConnectionRecord> + Send + Sync>,
    /// How many are connected.
    pub connected: Box<dyn Fn() -> usize + Send + Sync>,
    /// When the node started.
    pub started: Instant,
}

/// The name that these operations are registered under.
pub const NAME: &str = "node";

/// The scope that changes the node.
pub const ADMIN: &str = "admin";

/// The scope that looks at the node and changes nothing.
pub const OBSERVE: &str = "observe";

/// The error of a reload that is refused; its details name the problems.
pub const ACCESS_REFUSED: &str = "ACCESS_REFUSED";

/// The error of a subscription to `node/events` beyond what the node serves.
pub const TOO_MANY_WATCHERS: &str = "TOO_MANY_WATCHERS";

/// The operations, answering from `sources`.
pub fn operations(sources: &Sources) -> Built {
    let mut on = Registrar::new();
    let status = sources.status.clone();
    on.operation_json("node/status", move |_, _| answer(current(&status).map(|s| json!(s))));
    on.operation_json("node/metrics", |_, _| answer(Ok(json!({ "text": metrics::render() }))));
    let source = sources.reload.clone();
    on.operation_json("node/reload", move |_, _| reload(source.clone()));
    for (name, source) in [("node/acl-why", &sources.answers), ("node/access", &sources.matrix)] {
        let source = source.clone();
        on.operation_json(name, move |_, question| {
            std::future::ready(match source.get() {
                Some(answer) => answer(question),
                None => Err(starting()),
            })
        });
    }
    views::attach(&mut on, sources);
    events::attach(&mut on, sources);
    match on.finish(specs::manifest()) {
        Ok(built) => built,
        Err(error) => unreachable!("the declarations have code for each operation: {error}"),
    }
}

async fn reload(source: Arc<ReloadSource>) -> Result<Json, CallError> {
    let reloading = source.get().ok_or_else(starting)?;
    match reloading().await {
        Some(Ok(reloaded)) => Ok(reloaded.into()),
        Some(Err(problems)) => {
            let what = "access.toml is refused, and what was in force stays so";
            Err(CallError::new(ACCESS_REFUSED, what).with_details(json!({ "problems": problems })))
        }
        None => Err(CallError::internal("the node is stopping")),
    }
}

fn current(source: &StatusSource) -> Result<NodeStatus, CallError> {
    source.get().map(|status| status()).ok_or_else(starting)
}

fn starting() -> CallError {
    CallError::internal("the node is still starting").retryable(true)
}

fn answer(result: Result<Value, CallError>) -> std::future::Ready<Result<Json, CallError>> {
    std::future::ready(result.map(Json::from))
}
