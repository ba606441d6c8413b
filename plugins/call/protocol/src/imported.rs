//! The other side's operations as an [`OperationEnv`], for calls over this
//! connection alone.
//!
//! Nothing here reaches the node's registry: a peer without an id, such as a
//! browser, brings its operations along for whoever holds its connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use alknet_plugin_api::{
    AbortPolicy, CallError, CallFuture, CallStream, Json, OperationEnv, OperationSpec,
    OperationType, PeerRef, code,
};
use futures_util::{StreamExt, TryFutureExt, TryStreamExt, stream};
use serde::Deserialize;

use crate::connection::{CallConnection, CallOptions};

/// Schemas that are asked for at a time.
const AT_ONCE: usize = 32;

/// What was imported over a connection, by name.
pub(crate) type Imported = BTreeMap<String, OperationType>;

impl CallConnection {
    /// Imports one of the other side's operations into [`CallConnection::overlay_env`],
    /// in the place of what it had under that name.
    ///
    /// # Errors
    /// `NOT_FOUND` where it offers none of that name, and as for
    /// [`CallConnection::call`].
    pub async fn register_imported(&self, name: &str) -> Result<OperationSpec, CallError> {
        let spec = self.spec(name).await?;
        self.imported().lock().insert(spec.name.clone(), spec.op_type);
        Ok(spec)
    }

    /// Imports all that the other side lists, in the place of everything that was
    /// imported before.
    ///
    /// # Errors
    /// `INTERNAL` where it lists one name twice, and as for [`CallConnection::call`];
    /// what was imported before stays.
    pub async fn register_imported_all(&self) -> Result<Vec<OperationSpec>, CallError> {
        #[derive(Deserialize)]
        struct List {
            operations: Vec<Named>,
        }
        #[derive(Deserialize)]
        struct Named {
            name: String,
        }
        let list: List = self.services_list().await?.to().map_err(|error| {
            CallError::internal(format!("services/list gave no operations: {error}"))
        })?;
        let specs: Vec<_> = list.operations.iter().map(|named| self.spec(&named.name)).collect();
        let specs: Vec<_> = stream::iter(specs).buffered(AT_ONCE).try_collect().await?;
        let mut imported = Imported::new();
        for spec in &specs {
            if imported.insert(spec.name.clone(), spec.op_type).is_some() {
                let message = format!("the other side lists {} twice", spec.name);
                return Err(CallError::internal(message));
            }
        }
        *self.imported().lock() = imported;
        Ok(specs)
    }

    /// What was imported, to compose with. Calls go over this connection, with the
    /// rights that this side has there.
    pub fn overlay_env(&self) -> Arc<dyn OperationEnv> {
        Arc::new(OverlayEnv(self.clone()))
    }

    async fn spec(&self, name: &str) -> Result<OperationSpec, CallError> {
        let name = name.strip_prefix('/').unwrap_or(name);
        let spec: OperationSpec = self.services_schema(name).await?.to().map_err(|error| {
            CallError::internal(format!("services/schema gave no spec of {name}: {error}"))
        })?;
        if spec.name == name {
            return Ok(spec);
        }
        Err(CallError::internal(format!("services/schema gave {} for {name}", spec.name)))
    }
}

struct OverlayEnv(CallConnection);

impl OverlayEnv {
    fn check(&self, name: &str, subscription: bool) -> Result<(), CallError> {
        let imported = self.0.imported().lock();
        let op_type = imported
            .get(name)
            .ok_or_else(|| CallError::not_found(format!("operation {name} is not imported")))?;
        if (*op_type == OperationType::Subscription) == subscription {
            return Ok(());
        }
        let message = format!("operation {name} is a {op_type:?}");
        Err(CallError::new(code::INVALID_OPERATION_TYPE, message))
    }
}

fn bare(name: &str) -> String {
    name.strip_prefix('/').unwrap_or(name).to_owned()
}

fn no_peers() -> CallError {
    CallError::not_found("a connection's imports are of its own peer; call them by name")
}

impl OperationEnv for OverlayEnv {
    fn invoke(&self, name: &str, input: Json) -> CallFuture {
        self.invoke_with_policy(name, input, AbortPolicy::default())
    }

    fn invoke_with_policy(&self, name: &str, input: Json, policy: AbortPolicy) -> CallFuture {
        let (name, checked) = (bare(name), self.check(&bare(name), false));
        let calls = self.0.clone();
        Box::pin(async move {
            checked?;
            let mut call = calls.begin(&name, input, CallOptions::default()).await?;
            call.set_abort_policy(policy);
            call.await
        })
    }

    fn subscribe(&self, name: &str, input: Json) -> CallStream {
        self.subscribe_with_policy(name, input, AbortPolicy::default())
    }

    fn subscribe_with_policy(&self, name: &str, input: Json, policy: AbortPolicy) -> CallStream {
        let (name, checked) = (bare(name), self.check(&bare(name), true));
        let calls = self.0.clone();
        let begun = async move {
            checked?;
            let options = CallOptions::default();
            let mut subscription = calls.begin_subscription(&name, input, options).await?;
            subscription.set_abort_policy(policy);
            Ok::<_, CallError>(subscription)
        };
        Box::pin(begun.try_flatten_stream())
    }

    fn invoke_peer(&self, _: PeerRef, _: &str, _: Json) -> CallFuture {
        Box::pin(std::future::ready(Err(no_peers())))
    }

    fn contains(&self, name: &str) -> bool {
        self.0.imported().lock().contains_key(&bare(name))
    }

    fn peer_contains(&self, _: &PeerRef, _: &str) -> bool {
        false
    }
}
