//! An import's life, with a source that follows a script.

use alknet_plugin_api::{Json, OperationSpec};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::*;
use crate::imports::leaf;
use crate::registry::{
    Code, HostCall, HostOperation, PeerSource, Provenance, RegistryBuilder, TokioClock,
    TokioSpawner,
};

struct Echo;

impl HostOperation for Echo {
    fn call(&self, _: HostCall, input: Json) -> alknet_plugin_api::CallFuture {
        Box::pin(std::future::ready(Ok(input)))
    }
}

/// Offers one set of names after the other; `None` is a failure.
struct Script {
    offers: Mutex<Vec<Option<Vec<&'static str>>>>,
    lost: Notify,
}

impl OperationAdapter for Script {
    fn import(&self) -> BoxFuture<'_, Result<Vec<HandlerRegistration>, AdapterError>> {
        let offer = self.offers.lock().pop();
        Box::pin(async move {
            let Some(offer) = offer else { return std::future::pending().await };
            let Some(names) = offer else {
                return Err(AdapterError::Transport {
                    source_name: "the script".into(),
                    cause: "it says so".into(),
                });
            };
            let code = || Code::Host(Arc::new(Echo));
            let operation = |name: &&str| {
                let spec = OperationSpec::query(format!("s/{name}"));
                leaf(spec, code(), "s", Provenance::FromCall, None)
            };
            Ok(names.iter().map(operation).collect())
        })
    }

    fn lost(&self) -> BoxFuture<'_, AdapterError> {
        Box::pin(async {
            self.lost.notified().await;
            AdapterError::Transport { source_name: "the script".into(), cause: "lost".into() }
        })
    }
}

fn registry(peers: &Arc<Peers>) -> Arc<Registry> {
    let spawner = TokioSpawner(tokio::runtime::Handle::current());
    let mut builder = RegistryBuilder::new(Arc::new(TokioClock::new()), Arc::new(spawner));
    builder.reserve("s");
    builder.peers(peers.clone());
    builder.register(HandlerRegistration::new(
        OperationSpec::query("core/x"),
        Code::Host(Arc::new(Echo)),
        "core",
    ));
    builder.freeze().unwrap()
}

async fn until(importing: &Importing, state: ImportState) -> ImportStatus {
    loop {
        let status = importing.status();
        if status.state == state {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn start(
    offers: &[Option<Vec<&'static str>>],
    timeout: Duration,
) -> (Importing, Arc<Script>, Arc<Registry>, Arc<Peers>) {
    let peers = Arc::<Peers>::default();
    let registry = registry(&peers);
    let offers = Mutex::new(offers.iter().rev().cloned().collect());
    let script = Arc::new(Script { offers, lost: Notify::new() });
    let plan = ImportPlan {
        name: "s".into(),
        kind: "call",
        source: "script".into(),
        selection: Selection::new("s").expose(["a/b", "a/missing"]),
        peer: Some("p".into()),
        scopes: Vec::new(),
        timeout,
        required: false,
        adapter: script.clone(),
    };
    let importing = Importing::start(plan, registry.clone(), peers.clone());
    (importing, script, registry, peers)
}

#[tokio::test(start_paused = true)]
async fn operations_come_and_go_with_their_source() {
    let minute = Duration::from_secs(60);
    let (importing, script, registry, peers) =
        start(&[None, Some(vec!["a/b", "a/c"]), Some(vec!["a/d"])], minute);
    assert!(importing.first_attempt().await.unwrap_err().contains("it says so"));
    let status = until(&importing, ImportState::Connected).await;
    assert_eq!(status.operations, ["s/a/b", "s/a/c"]);
    assert_eq!(status.exposed, ["s/a/b"]);
    assert_eq!(status.not_offered, ["a/missing"]);
    assert!(status.last_error.unwrap().contains("it says so"));
    assert!(registry.operation("s/a/c").is_some());
    assert_eq!(peers.attached(), ["p".into()]);
    assert_eq!(peers.operation("p", "a/c").unwrap().spec().namespace, "a");
    assert!(peers.operation("p", "s/a/c").is_none());

    script.lost.notify_one();
    let status = until(&importing, ImportState::Waiting).await;
    assert!(status.operations.is_empty() && status.next_attempt_seconds.is_some());
    assert!(registry.operation("s/a/c").is_none());
    assert!(peers.attached().is_empty());

    let status = until(&importing, ImportState::Connected).await;
    assert_eq!(status.operations, ["s/a/d"]);
    assert!(registry.operation("s/a/b").is_none());
    importing.close().await;
    assert_eq!(importing.status().state, ImportState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_says_nothing_is_given_up() {
    let (importing, ..) = start(&[], Duration::from_secs(3));
    let error = importing.first_attempt().await.unwrap_err();
    assert!(error.contains("within 3s"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn c58_what_the_registry_refuses_is_told_and_not_attached() {
    let (importing, _script, registry, peers) =
        start(&[Some(vec!["a/b", "a/b"])], Duration::from_secs(3));
    let error = importing.first_attempt().await.unwrap_err();
    assert!(error.contains("s/a/b"), "{error}");
    assert!(registry.operation("s/a/b").is_none());
    assert!(peers.attached().is_empty());
}
