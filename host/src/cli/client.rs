//! How commands reach a node: a connection of any ALPN, or the call protocol
//! over one.

use std::time::Duration;

use alknet_plugin_api::{CallFuture, CallStream, Connection, Json};
use futures_util::future::BoxFuture;

use super::failure::{Exit, Failure};
use super::target::Target;

/// A node to which calls can be made.
///
/// Dropping a call's future or a subscription's stream aborts it on the node,
/// as long as the caller itself lives until [`close`](Self::close) is done.
pub trait Caller: Send + Sync {
    /// Makes a call. `timeout` is sent with it, so that the node stops too.
    fn call(&self, name: &str, input: Json, timeout: Option<Duration>) -> CallFuture;

    /// Subscribes; an error is the stream's last item.
    fn subscribe(&self, name: &str, input: Json) -> CallStream;

    /// Sends what is queued, such as the abort of what was dropped, and closes
    /// the connection. It takes a second at most.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// Connects to a node with an ALPN, proving the client's key and checking the
/// node's.
///
/// # Errors
/// The node cannot be reached, is another one, or does not serve the ALPN.
pub async fn connect(target: &Target, alpn: &str) -> Result<Connection, Failure> {
    let what = format!("cannot connect to {} for {alpn}", target.address);
    Err(Failure::new(Exit::Internal, what).remedy("this binary is built without an endpoint"))
}

/// Connects to a node in order to make calls.
///
/// # Errors
/// As for [`connect`].
pub async fn caller(target: &Target) -> Result<Box<dyn Caller>, Failure> {
    let what = format!("cannot call {}", target.address);
    Err(Failure::new(Exit::Internal, what).remedy("this binary is built without an endpoint"))
}

/// Runs a command that waits for a node.
///
/// # Errors
/// The command's own, or that no runtime can be made.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Failure::new(Exit::Internal, format!("cannot start the runtime: {error}"))
    })?;
    let result = runtime.block_on(future);
    // A read of standard input that is still under way must not hold the end up.
    runtime.shutdown_background();
    result
}

/// One call over a connection of its own, which is closed in good order.
///
/// # Errors
/// The node cannot be reached, or its answer is an error.
pub(super) async fn one_call(
    target: &Target,
    name: &str,
    input: Json,
    timeout: Option<Duration>,
) -> Result<Json, Failure> {
    let caller = caller(target).await?;
    let result = tokio::select! {
        result = caller.call(name, input, timeout) => result.map_err(Failure::from),
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Answer, "aborted")),
    };
    caller.close().await;
    result
}
