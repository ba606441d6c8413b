//! Who owns which resource: what handlers record, and the access decision asks.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::backend::ContextBackend;
use crate::error::CallError;
use crate::json::Json;
use crate::operation::CallFuture;

/// The owners of a plugin's resources, as one call reaches them; see
/// [`OperationContext::ownership`](crate::OperationContext::ownership).
///
/// Whoever creates a resource owns it. The plugin records that, and from then on
/// the node answers operations that name the resource's type and id by it, before
/// any of the plugin's code runs. Listings declare scopes alone and show what is
/// [`owned`](Self::owned).
///
/// The deployment file says which types a plugin keeps (`owns = ["note"]`); any
/// other is refused with `INTERNAL`. What is recorded outlives the node. Each
/// method resolves once it is; a dropped future may or may not have taken effect.
///
/// ```
/// # use alknet_plugin_api::prelude::*;
/// async fn create(context: OperationContext, id: String) -> Result<Json, CallError> {
///     if !context.ownership().record("note", &id).await? {
///         return Err(CallError::new("NOTE_EXISTS", "there is a note of this id"));
///     }
///     Ok(json!({ "id": id }).into())
/// }
///
/// async fn list(context: OperationContext) -> Result<Json, CallError> {
///     let ids = context.ownership().owned("note").await?;
///     Ok(json!({ "ids": ids }).into())
/// }
/// ```
#[derive(Clone)]
pub struct Ownership(Arc<dyn ContextBackend>);

impl Ownership {
    pub(crate) fn new(backend: Arc<dyn ContextBackend>) -> Self {
        Self(backend)
    }

    /// The call's [identity](crate::OperationContext::identity) owns the resource
    /// from now on. `false` where somebody owned it before, who keeps it.
    ///
    /// # Errors
    /// `INTERNAL` when the type is not the plugin's to keep or the record cannot
    /// be kept, `FORBIDDEN` when nobody is authenticated.
    pub async fn record(&self, resource_type: &str, id: &str) -> Result<bool, CallError> {
        self.ask(OwnershipRequest::Record { resource_type: resource_type.into(), id: id.into() })
            .await
    }

    /// Nobody owns the resource any more. `false` where nobody did.
    ///
    /// # Errors
    /// `INTERNAL` as for [`record`](Self::record).
    pub async fn revoke(&self, resource_type: &str, id: &str) -> Result<bool, CallError> {
        self.ask(OwnershipRequest::Revoke { resource_type: resource_type.into(), id: id.into() })
            .await
    }

    /// Whether the call's identity owns the resource.
    ///
    /// # Errors
    /// `INTERNAL` as for [`record`](Self::record).
    pub async fn owns(&self, resource_type: &str, id: &str) -> Result<bool, CallError> {
        self.ask(OwnershipRequest::Owns { resource_type: resource_type.into(), id: id.into() })
            .await
    }

    /// The ids of this type that the call's identity owns, sorted.
    ///
    /// # Errors
    /// `INTERNAL` as for [`record`](Self::record).
    pub async fn owned(&self, resource_type: &str) -> Result<Vec<String>, CallError> {
        self.ask(OwnershipRequest::Owned { resource_type: resource_type.into() }).await
    }

    /// Asks the host in the form that crosses boundaries.
    #[doc(hidden)]
    pub fn request(&self, request: OwnershipRequest) -> CallFuture {
        self.0.ownership(request)
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        request: OwnershipRequest,
    ) -> Result<T, CallError> {
        let answer: Json = self.request(request).await?;
        answer.to().map_err(|error| CallError::internal(format!("the host's answer: {error}")))
    }
}

/// What a handler asks of the host; it crosses boundaries as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[non_exhaustive]
pub enum OwnershipRequest {
    /// See [`Ownership::record`]; the answer is a boolean.
    Record {
        /// The resource's type.
        resource_type: String,
        /// The resource.
        id: String,
    },
    /// See [`Ownership::revoke`]; the answer is a boolean.
    Revoke {
        /// The resource's type.
        resource_type: String,
        /// The resource.
        id: String,
    },
    /// See [`Ownership::owns`]; the answer is a boolean.
    Owns {
        /// The resource's type.
        resource_type: String,
        /// The resource.
        id: String,
    },
    /// See [`Ownership::owned`]; the answer is a list of strings.
    Owned {
        /// The resources' type.
        resource_type: String,
    },
}

impl OwnershipRequest {
    /// The type that it is about.
    pub fn resource_type(&self) -> &str {
        match self {
            Self::Record { resource_type, .. }
            | Self::Revoke { resource_type, .. }
            | Self::Owns { resource_type, .. }
            | Self::Owned { resource_type } => resource_type,
        }
    }
}
