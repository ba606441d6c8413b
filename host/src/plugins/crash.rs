//! Crashes of handlers, told apart from their errors.
//!
//! A native plugin's panic, a component's trap and the end of an isolated plugin's
//! process come out of a handler as an error like any other. Whoever serves connections closes one whose handler
//! crashed with another code, and should not need to know what plugins are made
//! of: so all get one mark, of the server's choosing.

use std::error::Error;
use std::sync::Arc;

use alknet_plugin_api::{AuthContext, Connection, DynHandler, HandlerError};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

/// The text of the panic, trap or end of a process that `error` stands for, where it is one.
pub fn crash_of(error: &HandlerError) -> Option<String> {
    #[cfg(feature = "components")]
    if let Some(trap) = super::component::Trap::of(error) {
        return Some(trap.to_string());
    }
    if let Some(died) = super::process::Died::of(error) {
        return Some(died.to_string());
    }
    super::native::panic_of(error).map(ToString::to_string)
}

/// `handler`, with each crash turned into the error that `mark` makes of its
/// text.
pub fn mark_crashes<E>(handler: Arc<dyn DynHandler>, mark: fn(String) -> E) -> Arc<dyn DynHandler>
where
    E: Error + Send + Sync + 'static,
{
    Arc::new(Marked { handler, mark })
}

struct Marked<E> {
    handler: Arc<dyn DynHandler>,
    mark: fn(String) -> E,
}

impl<E: Error + Send + Sync + 'static> DynHandler for Marked<E> {
    fn handle(
        self: Arc<Self>,
        connection: Connection,
        auth: AuthContext,
    ) -> BoxFuture<'static, Result<(), HandlerError>> {
        let handling = self.handler.clone().handle(connection, auth);
        let mark = move |error| match crash_of(&error) {
            Some(text) => HandlerError::Internal(Box::new((self.mark)(text))),
            None => error,
        };
        handling.map(|result| result.map_err(mark)).boxed()
    }
}
