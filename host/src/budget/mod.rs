//! What a plugin may use, what it uses, and what happens at the limit.
//!
//! [`TABLE`] is the one place where limits are defined. `[plugin.limits]` of a
//! deployment file, its schema, status, metrics, the console and `docs/limits.md` are
//! all made of it, or tested against it. A limit means the same on every [`Substrate`];
//! whether it can be enforced there is not the same, and the table says so.
//!
//! A [`Meter`] counts one plugin and holds it to its limits. Where the host sees what
//! is limited, which is for streams, calls, connections and bytes, it does so for every
//! substrate alike: [`Metered`] stands between a connection and its handler, and the registry
//! asks the meter before each call.

mod bucket;
mod connection;
mod meter;
mod table;
#[cfg(test)]
mod tests;

pub use bucket::Bucket;
pub use connection::{Metered, REFUSED};
pub use meter::{Full, Meter, Place, Timed};
pub use table::{
    Hold, Limit, LimitStatus, Limits, MAX_INSTANCE_MEMORY, PROCESS_CPU, PROCESS_MEMORY, Resource,
    Substrate, TABLE, Unit, Usage,
};
