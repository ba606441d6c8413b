//! Who a key or a token belongs to.
//!
//! A [`Policy`] is an immutable snapshot of the deployment's access file. The
//! [`PolicyStore`] holds the current one and is swapped as a whole on reload;
//! whoever decides something loads it once and keeps to that snapshot.

mod policy;
mod provider;
pub mod token;

pub use policy::{ApiKeyEntry, PeerEntry, Policy, PolicyError};
pub use provider::{IdentityProvider, PolicyStore, UnixTime, system_unix_time};
pub use token::TOKEN_PREFIX;
