//! Keeping an import's operations in the registry, for as long as its source holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_plugin_api::Visibility;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::backoff::Backoff;
use super::peers::Peers;
use super::selection::Selection;
use super::status::{Board, ImportState, ImportStatus, unix_seconds};
use super::{AdapterError, OperationAdapter};
use crate::registry::{Entry, HandlerRegistration, Registry};

/// A source that has held this long begins anew with short pauses.
const PROVEN: Duration = Duration::from_secs(5);

/// One import of the deployment file, with all that is needed to make it.
pub struct ImportPlan {
    /// Its name.
    pub name: String,
    /// The word for its kind.
    pub kind: &'static str,
    /// Where the operations come from, for people.
    pub source: String,
    /// Which operations, and what they are called.
    pub selection: Selection,
    /// The peer whose operations they are, if they are a node's.
    pub peer: Option<String>,
    /// What whoever calls its operations must hold, besides what the source asks.
    pub scopes: Vec<String>,
    /// How long asking the source may take.
    pub timeout: Duration,
    /// Whether the node waits for it, and does not start without it.
    pub required: bool,
    /// Asks the source.
    pub adapter: Arc<dyn OperationAdapter>,
}

/// An import that is being kept. Dropping it ends that; the operations that the
/// registry has then stay.
pub struct Importing {
    plan: Arc<ImportPlan>,
    board: Arc<Board>,
    first: watch::Receiver<Option<Result<(), String>>>,
    task: JoinHandle<()>,
}

impl Importing {
    /// Begins to import, in a task on the current runtime.
    pub fn start(plan: ImportPlan, registry: Arc<Registry>, peers: Arc<Peers>) -> Self {
        let board = Arc::new(Board::new(ImportStatus {
            name: plan.name.clone(),
            kind: plan.kind.to_owned(),
            source: plan.source.clone(),
            prefix: plan.selection.prefix().to_owned(),
            peer: plan.peer.clone(),
            state: ImportState::Connecting,
            since: unix_seconds(),
            operations: Vec::new(),
            exposed: Vec::new(),
            not_offered: Vec::new(),
            last_error: None,
            next_attempt_seconds: None,
        }));
        let plan = Arc::new(plan);
        let (told, first) = watch::channel(None);
        let keeper =
            Keeper { plan: plan.clone(), board: board.clone(), registry, peers, first: told };
        let task = tokio::spawn(keeper.keep());
        Self { plan, board, first, task }
    }

    /// How it stands.
    pub fn status(&self) -> ImportStatus {
        self.board.read()
    }

    /// The import's name.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Whether the node must not start without it.
    pub fn is_required(&self) -> bool {
        self.plan.required
    }

    /// Waits for the end of the first attempt.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn first_attempt(&self) -> Result<(), String> {
        let mut first = self.first.clone();
        let told = first.wait_for(Option::is_some).await;
        match told.as_deref() {
            Ok(Some(result)) => result.clone(),
            _ => Err("the node stops".to_owned()),
        }
    }

    /// Ends the import and lets go of its source.
    pub async fn close(&self) {
        self.task.abort();
        self.board.change(ImportState::Closed, None, |_| {});
        self.plan.adapter.close().await;
    }
}

impl Drop for Importing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Keeper {
    plan: Arc<ImportPlan>,
    board: Arc<Board>,
    registry: Arc<Registry>,
    peers: Arc<Peers>,
    first: watch::Sender<Option<Result<(), String>>>,
}

impl Keeper {
    async fn keep(self) {
        let mut backoff = Backoff::new();
        let mut logged = String::new();
        loop {
            self.board.change(ImportState::Connecting, None, |_| {});
            let error = match self.import().await {
                Ok(()) => {
                    self.first.send_replace(Some(Ok(())));
                    logged.clear();
                    let since = Instant::now();
                    let error = tokio::select! {
                        error = self.plan.adapter.lost() => error,
                        () = self.plan.adapter.changed() => continue,
                    };
                    if !self.plan.adapter.keeps_operations() {
                        self.detach();
                    }
                    if since.elapsed() >= PROVEN {
                        backoff.reset();
                    }
                    error
                }
                Err(error) => error,
            };
            let text = error.to_string();
            let pause = backoff.pause();
            // A source that stays away is told of once.
            if logged != text {
                tracing::warn!(import = self.plan.name, "{text}");
                logged.clone_from(&text);
            }
            self.board.change(ImportState::Waiting, Some(Instant::now() + pause), |status| {
                status.last_error = Some(text.clone());
                if !self.plan.adapter.keeps_operations() {
                    status.operations.clear();
                    status.exposed.clear();
                }
            });
            self.first.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert(Err(text));
                is_first
            });
            tokio::time::sleep(pause).await;
        }
    }

    async fn import(&self) -> Result<(), AdapterError> {
        let plan = &self.plan;
        let asked = tokio::time::timeout(plan.timeout, plan.adapter.import()).await;
        let operations = asked.unwrap_or_else(|_| {
            Err(AdapterError::Transport {
                source_name: format!("import `{}`", plan.name),
                cause: format!(
                    "it did not say what it offers within {:?}; see that it runs, or raise \
                     `timeout`",
                    plan.timeout
                ),
            })
        })?;
        self.attach(operations)
    }

    fn attach(&self, mut operations: Vec<HandlerRegistration>) -> Result<(), AdapterError> {
        let ImportPlan { name, selection, scopes, .. } = &*self.plan;
        for operation in &mut operations {
            let required = &mut operation.spec.access_control.required_scopes;
            required.extend(scopes.iter().cloned());
        }
        let refused =
            |problems| AdapterError::Refused { source_name: format!("import `{name}`"), problems };
        let mut names: Vec<_> = operations.iter().map(|one| one.spec.name.clone()).collect();
        names.sort();
        let entries = match &self.plan.peer {
            Some(_) => peer_entries(&operations, selection).map_err(refused)?,
            None => Vec::new(),
        };
        let exposes = |name: &str| selection.exposes(name);
        self.registry.attach_import(name, operations, &exposes).map_err(refused)?;
        if let Some(peer) = &self.plan.peer {
            self.peers.attach(peer, entries);
        }
        let exposed: Vec<_> = names.iter().filter(|name| exposes(name)).cloned().collect();
        let offered =
            |wanted: &str| exposed.iter().any(|name| selection.source_name(name) == Some(wanted));
        let not_offered: Vec<_> = selection.exposed_in_vain(offered).map(str::to_owned).collect();
        for name in &not_offered {
            tracing::warn!(
                import = self.plan.name,
                "`{name}` is exposed and not among the operations; correct `expose`"
            );
        }
        self.board.change(ImportState::Connected, None, |status| {
            status.operations = names.clone();
            status.exposed = exposed.clone();
            status.not_offered = not_offered.clone();
        });
        tracing::info!(import = self.plan.name, operations = names.len(), "imported");
        Ok(())
    }

    fn detach(&self) {
        if let Some(peer) = &self.plan.peer {
            self.peers.detach(peer);
        }
        self.registry.detach_import(&self.plan.name);
    }
}

/// The operations under the peer's own names.
fn peer_entries(
    operations: &[HandlerRegistration],
    selection: &Selection,
) -> Result<Vec<Arc<Entry>>, Vec<crate::registry::RegistryError>> {
    let mut entries = Vec::with_capacity(operations.len());
    let mut problems = Vec::new();
    for registration in operations {
        let name = &registration.spec.name;
        let mut own = registration.clone();
        let Some(source_name) = selection.source_name(name) else { continue };
        own.spec.name = source_name.to_owned();
        own.spec.namespace = source_name.split('/').next().unwrap_or_default().to_owned();
        own.spec.visibility = match selection.exposes(name) {
            true => Visibility::External,
            false => Visibility::Internal,
        };
        match Entry::compile(own) {
            Ok(entry) => entries.push(Arc::new(entry)),
            Err(more) => problems.extend(more),
        }
    }
    if problems.is_empty() { Ok(entries) } else { Err(problems) }
}

#[cfg(test)]
#[path = "importing_tests.rs"]
mod tests;
