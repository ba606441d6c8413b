//! The announcement that the node stops.

use futures_util::future::BoxFuture;
use tokio::sync::watch;

/// A connection's ear for the node's shutdown.
#[derive(Clone, Debug)]
pub struct Drain(Option<watch::Receiver<bool>>);

impl Drain {
    /// Follows a node.
    pub(crate) fn following(node: &watch::Sender<bool>) -> Self {
        Self(Some(node.subscribe()))
    }

    /// For connections that belong to no node, such as a client's.
    pub fn never() -> Self {
        Self(None)
    }

    /// Resolves when the node begins to drain, or is gone.
    pub fn begun(&self) -> BoxFuture<'static, ()> {
        match self.0.clone() {
            Some(mut node) => Box::pin(async move {
                // An error means that the node is gone, which is as good a
                // reason to stop.
                let _gone = node.wait_for(|draining| *draining).await;
            }),
            None => Box::pin(std::future::pending()),
        }
    }
}
