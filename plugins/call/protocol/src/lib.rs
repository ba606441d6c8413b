//! The call protocol: frames, envelopes, and calls in both directions over any
//! alknet connection.
//!
//! [`CallClient::spawn_dispatch`] turns an established connection into a
//! [`CallConnection`], over which this side calls the other, and a [`Driver`],
//! the future that does the work; the caller spawns it. Both sides may call:
//! what this side serves is any [`Gateway`](alknet_plugin_api::Gateway), such as
//! the daemon's or [`LocalOperations`].
//!
//! ```no_run
//! # use alknet_call_protocol::{CallClient, Options};
//! # async fn example(connection: alknet_plugin_api::Connection,
//! #     timer: std::sync::Arc<dyn alknet_call_protocol::Timer>) -> Result<(), Box<dyn std::error::Error>> {
//! let (calls, driver) = CallClient::spawn_dispatch(connection, Options::new(timer));
//! tokio::spawn(driver);
//! let answer = calls.call("clock/now", serde_json::json!({})).await?;
//! println!("{answer}");
//! # Ok(()) }
//! ```

mod connection;
mod driver;
pub mod envelope;
pub mod frame;
#[doc(hidden)]
pub mod fuzz;
mod id;
mod imported;
mod inbound;
#[cfg(test)]
mod interleave;
mod local;
mod outbound;
mod outbox;
mod pending;
mod set;
mod slot;
mod stream;
mod sync;
mod table;
#[cfg(feature = "websocket")]
pub mod websocket;

pub use connection::{CallClient, CallConnection, CallOptions, Limits, Options, Timer};
pub use driver::Driver;
pub use local::LocalOperations;
pub use pending::{Call, Subscription};

/// The protocol's ALPN.
pub const ALPN: &str = "alknet/call";

/// The code that a connection is closed with when the other side does what the
/// protocol has no place for: a stream that no answer can come back on.
pub const PROTOCOL_ERROR: u64 = 7;

/// Codes that streams are reset with.
pub mod reset {
    /// The stream is no longer wanted.
    pub const CANCELLED: u64 = 0x00;
    /// A frame of no bytes, one above the limit, or the end inside one.
    pub const BAD_FRAME: u64 = 0x01;
    /// No JSON, an envelope that cannot be answered, or a request whose id is in
    /// flight.
    pub const BAD_ENVELOPE: u64 = 0x02;
    /// Too many requests whose answers were not read.
    pub const OVERFLOW: u64 = 0x03;
}
