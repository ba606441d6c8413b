//! A small tokio runtime of the plugin's own, for code that expects one.
//!
//! A plugin in a shared library has its own copy of tokio, which does not see
//! the host's runtime: `tokio::spawn`, timers and sockets find none. Handlers
//! that use only alknet's own types need none. For those built on hyper, axum or
//! russh, wrap the handler or the future:
//!
//! - [`entered`] polls on the host's threads, as always, with the plugin's
//!   runtime *entered*, so that spawning and timers work. It costs some tens of
//!   nanoseconds a poll.
//! - [`bridged`] moves the whole handler to the plugin's runtime. It costs two
//!   thread switches a wake-up, and keeps a handler that may block off the
//!   host's threads.
//!
//! The runtime starts with its first use and has one thread.
//!
//! ```
//! use alknet_plugin_api::{prelude::*, rt};
//!
//! struct Timed;
//! impl ProtocolHandler for Timed {
//!     async fn handle(&self, connection: Connection, _: &AuthContext) -> Result<(), HandlerError> {
//!         tokio::time::sleep(std::time::Duration::from_millis(1)).await;
//!         connection.close(0, "enough");
//!         Ok(())
//!     }
//! }
//!
//! fn attach(on: &mut Registrar) {
//!     on.handler("alknet/timed", rt::entered(Timed));
//! }
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

use crate::connection::Connection;
use crate::handler::{HandlerError, ProtocolHandler};
use crate::identity::AuthContext;

/// The plugin's runtime, started by the first call.
///
/// # Errors
/// The system has no thread or no descriptor left.
pub fn handle() -> std::io::Result<Handle> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime.handle().clone());
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("alknet-plugin-rt")
        .enable_all()
        .build()?;
    // Of two that start at once one is kept; the other ends here, and has nothing
    // to wait for.
    if let Err(spare) = RUNTIME.set(runtime) {
        spare.shutdown_background();
    }
    RUNTIME
        .get()
        .map(|runtime| runtime.handle().clone())
        .ok_or_else(|| std::io::Error::other("the plugin's runtime is gone"))
}

/// A future polled, and dropped, with the plugin's runtime entered.
pub struct Entered<F> {
    // Taken in `drop`, where the runtime must be entered too: timers and sockets
    // deregister themselves.
    future: Option<Pin<Box<F>>>,
    runtime: Option<Handle>,
}

/// Enters the plugin's runtime around `future`.
pub fn enter<F: Future>(future: F) -> Entered<F> {
    Entered { future: Some(Box::pin(future)), runtime: None }
}

impl<F: Future> Future for Entered<F> {
    type Output = std::io::Result<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let runtime = match &this.runtime {
            Some(runtime) => runtime,
            None => match handle() {
                Ok(runtime) => this.runtime.insert(runtime),
                Err(error) => return Poll::Ready(Err(error)),
            },
        };
        let _entered = runtime.enter();
        match &mut this.future {
            Some(future) => future.as_mut().poll(cx).map(Ok),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for Entered<F> {
    fn drop(&mut self) {
        let _entered = self.runtime.as_ref().map(Handle::enter);
        self.future = None;
    }
}

/// A future moved to the plugin's runtime. Dropping it aborts the task.
struct Bridged<T>(JoinHandle<T>);

impl<T> Drop for Bridged<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `future` on the plugin's runtime. Dropping the returned future aborts it
/// there.
///
/// # Errors
/// There is no runtime, or the runtime has dropped the future.
///
/// # Panics
/// Goes on with the future's own panic.
pub async fn bridge<F>(future: F) -> std::io::Result<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let mut task = Bridged(handle()?.spawn(future));
    match Pin::new(&mut task.0).await {
        Ok(output) => Ok(output),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(std::io::Error::other(error)),
        },
    }
}

/// A handler with the plugin's runtime entered around it.
pub struct EnteredHandler<H>(H);

/// Lets `handler` spawn, sleep and open sockets by tokio.
pub fn entered<H: ProtocolHandler>(handler: H) -> EnteredHandler<H> {
    EnteredHandler(handler)
}

impl<H: ProtocolHandler> ProtocolHandler for EnteredHandler<H> {
    async fn handle(&self, connection: Connection, auth: &AuthContext) -> Result<(), HandlerError> {
        enter(self.0.handle(connection, auth)).await?
    }
}

/// A handler on the plugin's runtime.
pub struct BridgedHandler<H>(Arc<H>);

/// Moves `handler` to the plugin's runtime, where it may block.
pub fn bridged<H: ProtocolHandler>(handler: H) -> BridgedHandler<H> {
    BridgedHandler(Arc::new(handler))
}

impl<H: ProtocolHandler> ProtocolHandler for BridgedHandler<H> {
    async fn handle(&self, connection: Connection, auth: &AuthContext) -> Result<(), HandlerError> {
        let (handler, auth) = (self.0.clone(), auth.clone());
        bridge(async move { handler.handle(connection, &auth).await }).await?
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    /// Needs a runtime to make and to drop its timer.
    struct Sleeper(tokio::sync::mpsc::UnboundedSender<Option<String>>);

    impl ProtocolHandler for Sleeper {
        async fn handle(&self, _: Connection, _: &AuthContext) -> Result<(), HandlerError> {
            let task = tokio::spawn(tokio::time::sleep(Duration::from_millis(1)));
            task.await.map_err(|error| HandlerError::internal(error.to_string()))?;
            let thread = std::thread::current().name().map(str::to_owned);
            let _ = self.0.send(thread);
            Ok(())
        }
    }

    fn serve(handler: impl ProtocolHandler) {
        let (_client, server) = crate::testing::pair("alknet/test");
        let auth = AuthContext::new(None, "alknet/test", None, None, crate::Source::Memory);
        // No tokio runtime drives it, as in a host with another copy of tokio.
        futures_util::future::FutureExt::boxed(async move { handler.handle(server, &auth).await })
            .now_or_later()
            .unwrap();
    }

    trait NowOrLater: Future + Sized {
        /// Blocks this thread on the future, without tokio.
        fn now_or_later(self) -> Self::Output {
            struct Unpark(std::thread::Thread);
            impl std::task::Wake for Unpark {
                fn wake(self: Arc<Self>) {
                    self.0.unpark();
                }
            }
            let waker = Arc::new(Unpark(std::thread::current())).into();
            let mut future = std::pin::pin!(self);
            loop {
                if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
                {
                    return output;
                }
                std::thread::park();
            }
        }
    }
    impl<F: Future> NowOrLater for F {}

    #[test]
    fn tokio_works_inside_an_entered_handler_on_the_hosts_thread() {
        let (threads, mut seen) = tokio::sync::mpsc::unbounded_channel();
        serve(entered(Sleeper(threads)));
        let thread = seen.try_recv().unwrap();
        assert_ne!(thread.as_deref(), Some("alknet-plugin-rt"));
    }

    #[test]
    fn a_bridged_handler_runs_on_the_plugins_thread() {
        let (threads, mut seen) = tokio::sync::mpsc::unbounded_channel();
        serve(bridged(Sleeper(threads)));
        assert_eq!(seen.try_recv().unwrap().as_deref(), Some("alknet-plugin-rt"));
    }

    #[test]
    fn a_future_dropped_half_way_has_its_runtime_to_drop_in() {
        let mut future = Box::pin(enter(async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }));
        assert!(future.as_mut().now_or_never().is_none());
        drop(future);
    }

    #[test]
    fn dropping_a_bridged_future_aborts_it_and_its_panic_comes_home() {
        struct Told(std::sync::mpsc::Sender<()>);
        impl Drop for Told {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let (dropped, was_dropped) = std::sync::mpsc::channel();
        let told = Told(dropped);
        let mut future = Box::pin(bridge(async move {
            let _told = told;
            std::future::pending::<()>().await;
        }));
        assert!(future.as_mut().now_or_never().is_none());
        drop(future);
        was_dropped.recv().unwrap();

        let panicked = std::panic::AssertUnwindSafe(bridge(async { panic!("over there") }));
        let result: Result<std::io::Result<()>, _> = panicked.catch_unwind().now_or_later();
        assert_eq!(result.unwrap_err().downcast_ref::<&str>(), Some(&"over there"));
    }
}
