//! Everything a plugin author needs.
//!
//! An alknet node dispatches each QUIC connection by its ALPN to a plugin, and
//! each operation call by its name. A plugin declares both in a [`Manifest`]
//! and attaches the code for them in [`Plugin::build`]:
//!
//! ```
//! use alknet_plugin_api::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! struct Hello { name: String }
//! #[derive(Serialize)]
//! struct Greeting { text: String }
//!
//! struct Greeter;
//!
//! impl Plugin for Greeter {
//!     fn manifest() -> Manifest {
//!         Manifest::new("greeter", "1.0.0").operation(
//!             OperationSpec::query("greeter/hello")
//!                 .description("Greets somebody by name")
//!                 .input(json!({
//!                     "type": "object",
//!                     "required": ["name"],
//!                     "properties": { "name": { "type": "string" } },
//!                 })),
//!         )
//!     }
//!
//!     fn build(_host: Host, _config: Json, on: &mut Registrar) -> Result<(), BuildError> {
//!         on.operation("greeter/hello", |_ctx, hello: Hello| async move {
//!             Ok(Greeting { text: format!("hello, {}", hello.name) })
//!         });
//!         Ok(())
//!     }
//! }
//!
//! // In the plugin's own crate, built as a `cdylib` (or for `wasm32-wasip2`):
//! // alknet_plugin_api::export!(Greeter);
//! ```
//!
//! # How it is put together
//!
//! The types an author meets ([`Connection`], [`SendStream`], [`RecvStream`],
//! [`OperationContext`], [`Host`]) are thin handles over the traits in
//! [`backend`]. Four things implement those traits: the daemon, the native ABI
//! (`abi`, for shared libraries), the component bindings (for WebAssembly), and
//! [`testing`], which drives a plugin in memory. So a handler never knows, and
//! need not care, which of them it is talking to.

#[cfg(not(target_family = "wasm"))]
pub mod abi;
pub mod backend;
mod connection;
mod context;
mod error;
mod export;
#[cfg(not(target_family = "wasm"))]
mod forward;
#[doc(hidden)]
pub mod fuzz;
#[cfg(target_family = "wasm")]
pub mod guest;
mod handler;
mod host;
pub mod http;
mod identity;
mod json;
mod manifest;
mod operation;
mod ownership;
mod plugin;
#[cfg(all(feature = "rt", not(target_family = "wasm")))]
pub mod rt;
pub mod single;
#[cfg(feature = "testing")]
pub mod testing;

pub use connection::{
    BiStream, Closed, Connection, ConnectionInfo, ConnectionStats, DatagramError,
    IdentityAlreadySet, RecvStream, SendStream, Source, StreamError,
};
pub use context::{AbortPolicy, ContextInfo, OperationContext, OperationEnv, PeerRef};
pub use error::{CallError, code};
pub use handler::{HandlerError, ProtocolHandler};
pub use host::{
    Capability, CapabilityBackend, CapabilityKind, Gateway, GatewayCall, GatewayEvent,
    GatewayRequest, Host, Level, LogRecord, TaskControl, TaskHandle,
};
pub use identity::{AuthContext, Identity};
pub use json::{Json, JsonError};
pub use manifest::{CapabilityRequest, Manifest, ManifestError};
pub use operation::{
    AccessControl, CallFuture, CallStream, ErrorDefinition, ItemSink, Operation, OperationSpec,
    OperationSummary, OperationType, Subscription, Visibility,
};
pub use ownership::{Ownership, OwnershipRequest};
pub use plugin::{BuildError, Built, DynHandler, OperationCode, Plugin, Registrar};

/// The plugin API's version: plugins and hosts of one major version work
/// together, whichever is newer.
pub const API_VERSION: (u32, u32) = (1, if cfg!(feature = "abi-test-next") { 1 } else { 0 });

/// The names that most plugins use.
pub mod prelude {
    pub use crate::{
        AccessControl, AuthContext, BuildError, CallError, Connection, HandlerError, Host,
        Identity, ItemSink, Json, Manifest, OperationContext, OperationSpec, Plugin,
        ProtocolHandler, RecvStream, Registrar, SendStream, StreamError, Visibility,
    };
    pub use serde_json::json;
}
