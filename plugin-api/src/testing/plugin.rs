//! A plugin under test.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;

use super::calls::{Run, TestContext};
use super::host::{TestHost, panic_text};
use super::log::Logged;
use super::pair::{Pair, PairControl};
use crate::connection::Connection;
use crate::error::CallError;
use crate::handler::HandlerError;
use crate::identity::{AuthContext, Identity};
use crate::json::Json;
use crate::operation::CallStream;
use crate::plugin::{BuildError, Built, Plugin};

/// A plugin built on a [`TestHost`]; see the [module](super)'s example. Clones
/// are handles to the same.
#[derive(Clone)]
pub struct TestPlugin {
    host: TestHost,
    built: Arc<Built>,
}

impl TestPlugin {
    /// Builds the plugin as a node does, but for checking `config` against the
    /// manifest's schema.
    ///
    /// # Errors
    /// The plugin's own, or everything in which manifest and code differ.
    pub fn build<P: Plugin>(host: TestHost, config: impl Into<Json>) -> Result<Self, BuildError> {
        let built = Built::new::<P>(host.host(), config.into())?;
        Ok(Self { host, built: Arc::new(built) })
    }

    /// Takes a plugin that was built elsewhere, such as one that a loader has put
    /// behind the same types. It has to have been built on `host`, or on a host of
    /// its own, whose records the test then reads.
    pub fn of(host: TestHost, built: Built) -> Self {
        Self { host, built: Arc::new(built) }
    }

    /// The host it was built on.
    pub fn host(&self) -> &TestHost {
        &self.host
    }

    /// The plugin with its manifest.
    pub fn built(&self) -> &Built {
        &self.built
    }

    /// Connects to the plugin's handler for `alpn` as an unknown peer: the client's
    /// end of a connection whose other end the handler serves in a task.
    ///
    /// # Panics
    /// If the plugin has no handler for `alpn`, or outside a tokio runtime.
    pub fn connect(&self, alpn: &str) -> Connection {
        self.connect_over(Pair::new(alpn), None).0
    }

    /// Connects as `identity`, as far as the endpoint knows.
    ///
    /// # Panics
    /// As [`TestPlugin::connect`].
    pub fn connect_as(&self, alpn: &str, identity: Identity) -> Connection {
        self.connect_over(Pair::new(alpn), Some(identity)).0
    }

    /// Connects over a pair with settings of its own. The [`Serving`] tells how
    /// the handler ended.
    ///
    /// # Panics
    /// As [`TestPlugin::connect`].
    pub fn connect_over(
        &self,
        pair: Pair,
        identity: Option<Identity>,
    ) -> (Connection, PairControl, Serving) {
        let (client, server, control) = pair.build();
        let serving = self.serve(server, identity);
        (client, control, serving)
    }

    /// Lets the plugin serve a connection of any source, as a node does: the
    /// connection closes with the code of the handler's result, a panic costs
    /// nothing else, and a handler that has not returned 1.5 s after the
    /// connection's end is dropped.
    ///
    /// # Panics
    /// As [`TestPlugin::connect`].
    pub fn serve(&self, connection: Connection, identity: Option<Identity>) -> Serving {
        let position = self.built.manifest.alpns.iter().position(|alpn| alpn == connection.alpn());
        let Some(position) = position else {
            panic!(
                "plugin `{}` handles {:?}, not `{}`",
                self.built.manifest.name,
                self.built.manifest.alpns,
                connection.alpn()
            )
        };
        let handler = self.built.handlers[position].clone();
        let fingerprint = connection.backend().peer_fingerprint();
        let auth = AuthContext::new(
            identity,
            connection.alpn(),
            connection.remote_addr(),
            fingerprint,
            connection.info().source,
        );
        let dispatch = self.host.inner.dispatch.clone();
        let work = {
            let connection = connection.clone();
            Logged::new(&dispatch, async move { handler.handle(connection, auth).await })
        };
        Serving(tokio::spawn(serve(connection, work)))
    }

    /// A call of `operation`, to be filled in and given to
    /// [`call_with`](TestPlugin::call_with) or
    /// [`subscribe_with`](TestPlugin::subscribe_with).
    pub fn context(&self, operation: &str) -> TestContext {
        self.host.context(operation)
    }

    /// Calls a query or mutation anonymously. Dropping the future aborts the call.
    ///
    /// # Errors
    /// The operation's, or those that a node gives; neither schemas nor access
    /// control are looked at.
    pub async fn call(&self, operation: &str, input: impl Into<Json>) -> Result<Json, CallError> {
        self.call_with(self.context(operation), input).await
    }

    /// As [`TestPlugin::call`], with a context of the test's own.
    ///
    /// # Errors
    /// As [`TestPlugin::call`].
    pub async fn call_with(
        &self,
        context: TestContext,
        input: impl Into<Json>,
    ) -> Result<Json, CallError> {
        self.run(context).call(input.into()).await
    }

    /// Subscribes anonymously. Dropping the stream aborts the subscription.
    pub fn subscribe(&self, operation: &str, input: impl Into<Json>) -> CallStream {
        self.subscribe_with(self.context(operation), input)
    }

    /// As [`TestPlugin::subscribe`], with a context of the test's own.
    pub fn subscribe_with(&self, context: TestContext, input: impl Into<Json>) -> CallStream {
        self.run(context).subscribe(input.into())
    }

    fn run(&self, context: TestContext) -> Run {
        let operations = &self.built.manifest.operations;
        let position = operations.iter().position(|spec| spec.name == context.operation());
        Run {
            code: position.map(|position| self.built.operations[position].clone()),
            spec: position.map(|position| Arc::new(operations[position].clone())),
            context,
            abort: None,
        }
    }
}

/// How long a handler may outlive its connection.
const GRACE: Duration = Duration::from_millis(1_500);

async fn serve(
    connection: Connection,
    work: impl Future<Output = Result<(), HandlerError>> + Send,
) -> Result<(), HandlerError> {
    let work = AssertUnwindSafe(work).catch_unwind();
    let lost = {
        let closed = connection.closed();
        async move {
            closed.await;
            tokio::time::sleep(GRACE).await;
        }
    };
    let mut lost = std::pin::pin!(lost);
    let mut work = std::pin::pin!(work);
    let result = std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => lost.as_mut().poll(cx).map(|()| None),
    })
    .await;
    match result {
        Some(Ok(result)) => {
            match &result {
                Ok(()) | Err(HandlerError::ConnectionClosed) => connection.close(0, ""),
                Err(error @ HandlerError::AuthRequired) => connection.close(2, &error.to_string()),
                Err(error) if panicked(error) => connection.close(5, "handler panicked"),
                Err(error) => connection.close(1, &error.to_string()),
            }
            result
        }
        Some(Err(panic)) => {
            let text = format!("the handler panicked: {}", panic_text(&*panic));
            connection.close(5, "handler panicked");
            Err(HandlerError::internal(text))
        }
        None => Err(HandlerError::ConnectionClosed),
    }
}

/// Whether the error stands for a panic that the native boundary has caught.
fn panicked(error: &HandlerError) -> bool {
    #[cfg(not(target_family = "wasm"))]
    if let HandlerError::Internal(error) = error {
        return error.is::<crate::abi::Panicked>();
    }
    let _ = error;
    false
}

/// A handler at work. It resolves with the handler's result; a panic reads as
/// [`HandlerError::Internal`]. Dropping it lets the handler go on.
#[derive(Debug)]
pub struct Serving(tokio::task::JoinHandle<Result<(), HandlerError>>);

impl Serving {
    /// Drops the handler at its next suspension, as a node does when its drain
    /// time is over. The connection is not closed by that.
    pub fn abort(&self) {
        self.0.abort();
    }
}

impl Future for Serving {
    type Output = Result<(), HandlerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(self.0.poll_unpin(cx)).unwrap_or_else(|error| {
            Err(HandlerError::internal(format!("the handler was dropped: {error}")))
        }))
    }
}
