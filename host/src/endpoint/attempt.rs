//! The accept loop of the sources that speak QUIC: admission, the handshake
//! within its time, and nothing that ends the loop before the node does.

use std::sync::Arc;
use std::time::Duration;

use super::admission::{Origin, Turned};
use super::dispatch::Dispatcher;

/// Hands a connection that has arrived to its handler.
pub(super) type Arrived = Box<dyn FnOnce() + Send>;

/// Somebody's attempt to connect, before the node has done anything about it.
pub(super) trait Attempt: Send + 'static {
    /// Where it comes from, by its own word.
    fn origin(&self) -> Origin;
    /// Whether that is proven.
    fn is_validated(&self) -> bool;
    /// Takes it through the handshake. Dropping the future gives it up.
    fn handshake(
        self,
        node: Arc<Dispatcher>,
    ) -> impl Future<Output = Result<Arrived, String>> + Send;
    /// Has the sender prove where it is.
    fn retry(self);
    /// Turns it away.
    fn refuse(self);
}

/// Where attempts come in.
pub(super) trait Door: Send + Sync + 'static {
    type Attempt: Attempt;
    /// The next one; `None` when there will be no more.
    fn next(&self) -> impl Future<Output = Option<Self::Attempt>> + Send;
}

/// Takes connections until the node closes, or until there will be no more. A
/// failed handshake is counted and forgotten; it has `limit` to complete, unless the
/// node's limits say otherwise.
pub(super) async fn accept(door: impl Door, node: Arc<Dispatcher>, limit: Duration) {
    loop {
        let attempt = tokio::select! {
            biased;
            () = node.closing().cancelled() => return,
            attempt = door.next() => attempt,
        };
        let Some(attempt) = attempt else { return };
        if node.is_draining() {
            attempt.refuse();
            continue;
        }
        match node.knock(attempt.origin(), attempt.is_validated()) {
            Ok(half_open) => {
                let node = node.clone();
                let limit = node.limits().handshake_timeout.unwrap_or(limit);
                tokio::spawn(async move {
                    let handshake = attempt.handshake(node.clone());
                    let done = tokio::time::timeout(limit, handshake).await;
                    drop(half_open);
                    match done {
                        Ok(Ok(arrived)) => arrived(),
                        Ok(Err(reason)) => node.handshake_failed(&reason),
                        Err(_) => node.handshake_failed("not complete in time"),
                    }
                });
            }
            Err(Turned::Retry) => attempt.retry(),
            Err(Turned::Refused(_)) => attempt.refuse(),
        }
    }
}
