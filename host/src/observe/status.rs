//! A node's status: what `alknet status` and `alknet plugin list` show, and what
//! the operations `node/status`, `node/plugins` and `node/metrics` answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alknet_plugin_api::CapabilityKind;
use serde::Serialize;

use crate::budget::{LimitStatus, Meter, Usage};
use crate::config::Problems;
use crate::endpoint::ConnectionRecord;
use crate::endpoint::identity::CertificateStatus;
use crate::imports::ImportStatus;

/// A node at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// The node's public key, 64 hexadecimal digits.
    pub node_key: String,
    /// The daemon's version.
    pub version: String,
    /// Addresses that it listens on for QUIC.
    pub addresses: Vec<SocketAddr>,
    /// The relay by which it is reached by its key, once it has found one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// Addresses that it listens on for TLS over TCP.
    pub tcp_addresses: Vec<SocketAddr>,
    /// The certificates that it shows beside its key: one at most.
    pub certificates: Vec<CertificateStatus>,
    /// Seconds since its start.
    pub uptime_seconds: u64,
    /// Whether every plugin of the deployment file is there.
    pub degraded: bool,
    /// Its plugins.
    pub plugins: Vec<PluginStatus>,
    /// Its imports.
    pub imports: Vec<ImportStatus>,
    /// Its connections.
    pub connections: Vec<ConnectionRecord>,
    /// Operations that can be called from the wire, by somebody.
    pub operations: usize,
    /// Tasks, on the runtime that answers, that have not ended.
    pub tasks: usize,
    /// Resident memory in bytes, where the kernel tells.
    pub resident_bytes: Option<u64>,
    /// What is in force of `access.toml`.
    pub access: AccessStatus,
    /// How far the kernel confines the daemon's file access, where that was
    /// asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confinement: Option<Confinement>,
}

/// How far the kernel confines the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Confinement {
    /// `full`; `partial` where the kernel lacks part of what was asked for;
    /// `none` where it lacks Landlock.
    pub enforced: &'static str,
    /// The version of Landlock that is used; 0 without it.
    pub landlock: i32,
}

/// What is in force of `access.toml`, and whether it is what the file says.
#[derive(Clone, Debug, Serialize)]
pub struct AccessStatus {
    /// Peers, disabled ones among them.
    pub peers: usize,
    /// API keys, expired ones among them.
    pub api_keys: usize,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
    /// Readings of the file since the start that were in order.
    pub reloads: u64,
    /// Why the file as it is now is not in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedAccess>,
}

/// An `access.toml` that is not taken up.
#[derive(Clone, Debug, Serialize)]
pub struct RefusedAccess {
    /// Since when, in milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
    /// What is wrong with it.
    pub problems: Problems,
}

/// A plugin of a running node.
#[derive(Clone, Debug, Serialize)]
pub struct PluginStatus {
    /// The name in the deployment file.
    pub name: String,
    /// `native` or `component`.
    pub kind: String,
    /// How far it is trusted: `native` shares the daemon's process and could
    /// read anything in it, `isolated` has a process of its own, `confined` sees only what it is given.
    pub trust: String,
    /// Its own version.
    pub version: String,
    /// The plugin API that it was built against.
    pub api: String,
    /// The ALPNs that it serves here.
    pub alpns: Vec<String>,
    /// The operations that it serves here.
    pub operations: Vec<String>,
    /// From the first byte read to the end of its build.
    pub load_time: Duration,
    /// Its artifact.
    pub artifact: PathBuf,
    /// The artifact's SHA-256 digest in hexadecimal digits.
    pub sha256: String,
    /// What it may use, and how much of that it does.
    pub limits: Vec<LimitStatus>,
    /// What it has used.
    pub usage: Usage,
    /// What the deployment file grants it.
    pub grants: PluginGrants,
    /// Why it is not there, on a node that started degraded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What it is counted by.
    #[serde(skip)]
    pub meter: Arc<Meter>,
}

impl PluginStatus {
    /// The same plugin at this moment.
    #[must_use]
    pub fn now(&self) -> Self {
        Self { limits: self.meter.status(), usage: self.meter.usage(), ..self.clone() }
    }
}

/// What the deployment file grants a plugin. Names alone: no secret is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PluginGrants {
    /// What its own calls see as the caller's id; `None` where they call as nobody.
    pub authority: Option<String>,
    /// The scopes of its own calls.
    pub scopes: Vec<String>,
    /// The rights of its own calls, by type of resource.
    pub resources: BTreeMap<String, Vec<String>>,
    /// The operations that its own calls may name.
    pub reach: Vec<String>,
    /// The secrets that it is lent.
    pub capabilities: Vec<LentCapability>,
    /// The origins that the host makes requests to for it.
    pub outbound: Vec<String>,
    /// The types of resources whose owners it keeps.
    pub owns: Vec<String>,
    /// Operations that must be for the wire.
    pub expose: Vec<String>,
    /// Operations that the wire does not reach.
    pub hide: Vec<String>,
    /// Whether it makes calls on behalf of its connections' peers.
    pub gateway: bool,
    /// Whether the node refuses to start without it.
    pub required: bool,
}

/// A secret that is lent to a plugin, without the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LentCapability {
    /// The name that the plugin uses.
    pub name: String,
    /// What it may be used for.
    pub kind: CapabilityKind,
    /// Whether the plugin sees the bytes themselves.
    pub reveal: bool,
    /// The operations that it is lent to; empty for the plugin as a whole.
    pub operations: Vec<String>,
}
