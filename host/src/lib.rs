//! The alknet daemon, as a library.
//!
//! Read [`assembly`] first: it is the one place that knows everybody and turns
//! a deployment file into a running node.
//!
//! Dependencies point one way: `cli → assembly → {endpoint, plugins, config,
//! vault} → {registry, auth} → plugin-api`, and [`budget`] below all that run plugins. [`registry`] and [`auth`] know
//! nothing of QUIC, of shared libraries or of WebAssembly.

// Without a transport nothing drives the endpoint's common parts.
#![cfg_attr(not(feature = "quinn"), allow(dead_code, unused_imports))]

#[cfg(feature = "quinn")]
pub mod assembly;
pub mod auth;
pub mod budget;
pub mod capabilities;
#[cfg(feature = "quinn")]
pub mod cli;
pub mod config;
mod confined;
pub mod endpoint;
#[doc(hidden)]
pub mod fuzz;
pub mod imports;
pub mod observe;
pub mod operator;
#[cfg(feature = "imports")]
pub mod outbound;
pub mod ownership;
pub mod plugins;
pub mod registry;
pub mod scaffold;
pub mod services;
mod small_http;
