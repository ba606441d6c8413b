//! Serving connections: an instance each.

use std::sync::Arc;

use alknet_plugin_api::{AuthContext, Connection, DynHandler, HandlerError};
use futures_util::future::BoxFuture;

use super::bindings::alknet::plugin::types;
use super::error::{ComponentError, Trap};
use super::linger::Lingering;
use super::open::Component;
use crate::budget::Resource;

/// The handler of one of a component's ALPNs.
pub(super) struct Handler {
    plugin: Arc<Component>,
    alpn: Box<str>,
}

impl Handler {
    pub(super) fn new(plugin: Arc<Component>, alpn: &str) -> Self {
        Self { plugin, alpn: alpn.into() }
    }
}

impl DynHandler for Handler {
    fn handle(
        self: Arc<Self>,
        connection: Connection,
        auth: AuthContext,
    ) -> BoxFuture<'static, Result<(), HandlerError>> {
        let host = self.plugin.host.clone();
        Box::pin(Lingering::new(host, move |entered| async move {
            let limit = self.plugin.program.limits.connection_instances;
            let place = self.plugin.connections.clone().try_acquire_owned().map_err(|_| {
                self.plugin.program.meter.hit(Resource::Instances);
                stopped(Trap::Instances(limit))
            })?;
            let auth = serde_json::to_string(&auth)
                .map_err(|error| HandlerError::internal(error.to_string()))?;
            let mut instance =
                self.plugin.instance(Some(place)).await.map_err(|error| match error {
                    ComponentError::Trapped { trap, .. } => stopped(trap),
                    other => HandlerError::Internal(Box::new(other)),
                })?;
            let state = instance.state();
            state.connection = Some(connection.clone());
            let connection = state
                .table
                .push(connection)
                .map_err(|error| HandlerError::internal(error.to_string()))?;
            let alpn = String::from(&*self.alpn);
            entered.set();
            let result = instance
                .run(async |accessor, plugin| {
                    plugin.call_handle(accessor, alpn, connection, auth).await
                })
                .await
                .map_err(stopped)?;
            result.map_err(|error| match error {
                types::HandlerError::ConnectionClosed => HandlerError::ConnectionClosed,
                types::HandlerError::StreamError(text) => {
                    HandlerError::StreamError(std::io::Error::other(text))
                }
                types::HandlerError::AuthRequired => HandlerError::AuthRequired,
                types::HandlerError::Internal(text) => HandlerError::internal(text),
            })
        }))
    }
}

fn stopped(trap: Trap) -> HandlerError {
    HandlerError::Internal(Box::new(trap))
}
