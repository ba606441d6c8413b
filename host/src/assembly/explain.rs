//! The effective deployment: what a start would make of the node's files, by the same
//! decisions. What `alknet check --explain` shows.

use std::collections::BTreeMap;
use std::path::PathBuf;

use alknet_plugin_api::{CapabilityKind, OperationType, Visibility};
use serde::Serialize;

use super::who::{Matrix, Part};
use super::why::{ANONYMOUS, needs};
use super::{Assembled, ImportPreview};
use crate::budget::LimitStatus;
use crate::config::{
    CapabilityGrant, CapabilitySource, ImportStanza, NodeConfig, PluginStanza, PublicKey,
};
use crate::observe::status::PluginStatus;
use crate::operator;
use crate::registry::{Entry, Limits};

/// What a node is made of, and who may do what.
#[derive(Clone, Debug, Serialize)]
pub struct Effective {
    /// The node itself.
    pub node: Node,
    /// Where it listens, and what is served there.
    pub listeners: Vec<Listener>,
    /// The plugins, in the file's order; those that are missing come last.
    pub plugins: Vec<Plugin>,
    /// The operations of the node itself.
    pub own_operations: Vec<Operation>,
    /// What is imported. Nobody has been asked for it.
    pub imports: Vec<Import>,
    /// Who is known, nobody first.
    pub identities: Vec<Caller>,
    /// What bounds all of them.
    pub limits: Ceilings,
}

/// The node itself.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// Its public key.
    pub key: PublicKey,
    /// Its file.
    pub file: PathBuf,
    /// Whether it is for development.
    pub development: bool,
    /// Whether it confines its own access to files.
    pub sandboxed: bool,
    /// Publishers whose plugins it takes; with none, it takes any that is pinned.
    pub trusted_plugin_keys: Vec<PublicKey>,
}

/// A place where the node listens.
#[derive(Clone, Debug, Serialize)]
pub struct Listener {
    /// `quic`, `iroh`, `tcp`, `metrics` or `acme-http`.
    pub transport: &'static str,
    /// An address with its port, or what stands for one.
    pub address: String,
    /// The ALPNs that are served there.
    pub alpns: Vec<String>,
}

/// A plugin and all that it is given.
#[derive(Clone, Debug, Serialize)]
pub struct Plugin {
    /// Its name in the deployment file.
    pub name: String,
    /// `native` or `component`.
    pub kind: String,
    /// How far it is trusted.
    pub trust: String,
    /// Its version.
    pub version: String,
    /// Its file.
    pub artifact: PathBuf,
    /// Its digest.
    pub sha256: String,
    /// Whether the file pins the digest.
    pub pinned: bool,
    /// Whether a trusted key has signed it.
    pub signed: bool,
    /// Why it is missing, on a node that starts without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// The ALPNs that it serves.
    pub alpns: Vec<String>,
    /// Its operations, and who may call them.
    pub operations: Vec<Operation>,
    /// Whether it makes calls on behalf of its peers, with their rights.
    pub gateway: bool,
    /// As whom it calls by itself; `None` for nobody.
    pub authority: Option<Authority>,
    /// What it may call by itself.
    pub reach: Vec<Reach>,
    /// The secrets that it is lent: never their values.
    pub secrets: Vec<Secret>,
    /// The origins that the host makes requests to for it.
    pub outbound: Vec<String>,
    /// The types of resources whose owners it keeps.
    pub owns: Vec<String>,
    /// What it is held to, and what nothing can hold it to.
    pub limits: Vec<LimitStatus>,
}

/// An operation, and who may call it.
#[derive(Clone, Debug, Serialize)]
pub struct Operation {
    /// Its name.
    pub name: String,
    /// Whether it answers once, changes something, or streams.
    pub op_type: OperationType,
    /// Whether the wire reaches it.
    pub visibility: Visibility,
    /// What it asks of its caller, in words.
    pub asks: String,
    /// The ids of those who may call it from the wire. With `anonymous` among them,
    /// everybody may.
    pub callers: Vec<String>,
    /// The plugins that have it in reach and may call it.
    pub composed_by: Vec<String>,
}

/// As whom a plugin calls by itself.
#[derive(Clone, Debug, Serialize)]
pub struct Authority {
    /// The id that the called operations see.
    pub label: String,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// Its rights, by type of resource.
    pub resources: BTreeMap<String, Vec<String>>,
}

/// An operation that a plugin may name.
#[derive(Clone, Debug, Serialize)]
pub struct Reach {
    /// As the file has it.
    pub operation: String,
    /// Who serves it; `None` where nobody does, or only an import could tell.
    pub served_by: Option<String>,
    /// Whether a call would be admitted; `None` where an import has to be asked.
    pub allowed: Option<bool>,
    /// The rule that decides.
    pub rule: String,
}

/// A secret that is lent. Only what it is called and what it is for.
#[derive(Clone, Debug, Serialize)]
pub struct Secret {
    /// The name that the plugin uses.
    pub name: String,
    /// What it may be used for.
    pub kind: CapabilityKind,
    /// The vault's entry or path that it comes from.
    pub source: String,
    /// Whether the plugin sees the bytes themselves.
    pub reveal: bool,
    /// The operations that it is lent to; empty for the plugin as a whole.
    pub operations: Vec<String>,
}

/// An import and what it is given.
#[derive(Clone, Debug, Serialize)]
pub struct Import {
    /// What it is.
    #[serde(flatten)]
    pub preview: ImportPreview,
    /// The scopes that its callers need, besides what the source asks.
    pub scopes: Vec<String>,
    /// What the source is shown.
    pub credential: Option<Secret>,
}

/// Somebody whom access.toml knows, or nobody.
#[derive(Clone, Debug, Serialize)]
pub struct Caller {
    /// By which `alknet acl why` knows them.
    pub id: String,
    /// `anonymous`, `peer` or `api_key`.
    pub kind: &'static str,
    /// Whether they count: no disabled peer, no expired key.
    pub active: bool,
    /// What they hold.
    pub scopes: Vec<String>,
    /// How many operations they may call.
    pub operations: usize,
}

/// What bounds all plugins and callers.
#[derive(Clone, Debug, Serialize)]
pub struct Ceilings {
    /// Connections at the same time.
    pub connections: u32,
    /// Calls in flight on a connection.
    pub calls_per_connection: u32,
    /// Live descendants of a call from the wire.
    pub descendants_per_call: u32,
    /// Calls of one identity in flight.
    pub calls_per_identity: Option<usize>,
    /// Calls of one identity in a second.
    pub calls_per_second: Option<f64>,
    /// Milliseconds that handlers may take to finish at shutdown.
    pub drain_ms: u64,
}

impl Assembled {
    /// The effective deployment.
    pub fn effective(&self) -> Effective {
        let matrix = self.explainer.matrix(&Part { limit: usize::MAX, ..Part::default() });
        let config = self.config();
        let statuses = self.plugins();
        let plugins = statuses.iter().map(|status| self.explained(status, &matrix)).collect();
        let own = |entry: &&std::sync::Arc<Entry>| {
            [operator::NAME, "alknet"].contains(&&**entry.plugin())
        };
        let own_operations = self.registry.operations().iter().filter(own);
        Effective {
            node: Node {
                key: PublicKey(self.key.public().0),
                file: config.file.clone(),
                development: config.development,
                sandboxed: config.sandbox.files,
                trusted_plugin_keys: config.trusted_plugin_keys.clone(),
            },
            listeners: listeners(config, &statuses),
            plugins,
            own_operations: own_operations.map(|entry| self.operation(entry, &matrix)).collect(),
            imports: self.explained_imports(),
            identities: matrix.identities.iter().map(|row| caller(row, &matrix)).collect(),
            limits: ceilings(config, &self.registry.limits()),
        }
    }

    fn explained(&self, status: &PluginStatus, matrix: &Matrix) -> Plugin {
        let stanza = self.config().plugins.iter().find(|stanza| stanza.name == status.name);
        let operations = self.registry.operations().iter();
        let operations = operations.filter(|entry| **entry.plugin() == *status.name);
        let grants = &status.grants;
        Plugin {
            name: status.name.clone(),
            kind: status.kind.clone(),
            trust: status.trust.clone(),
            version: status.version.clone(),
            artifact: status.artifact.clone(),
            sha256: status.sha256.clone(),
            pinned: stanza.is_some_and(|stanza| stanza.sha256.is_some()),
            // A start refuses a signature that it cannot check.
            signed: stanza.is_some_and(|stanza| stanza.signature.is_some()),
            missing: status.failure.clone(),
            alpns: status.alpns.clone(),
            operations: operations.map(|entry| self.operation(entry, matrix)).collect(),
            gateway: grants.gateway,
            authority: grants.authority.as_ref().map(|label| Authority {
                label: label.clone(),
                scopes: grants.scopes.clone(),
                resources: grants.resources.clone(),
            }),
            reach: grants.reach.iter().map(|name| self.reach(&status.name, name)).collect(),
            secrets: stanza.map(secrets).unwrap_or_default(),
            outbound: grants.outbound.clone(),
            owns: grants.owns.clone(),
            limits: status.limits.clone(),
        }
    }

    fn operation(&self, entry: &Entry, matrix: &Matrix) -> Operation {
        let spec = entry.spec();
        let column = matrix.operations.iter().position(|name| *name == spec.name);
        let may = |row: &&super::who::Row| {
            let decision = column.and_then(|column| row.decisions.get(column));
            decision.and_then(|rule| matrix.rules.get(*rule)).is_some_and(|rule| rule.allowed)
        };
        let callers = matrix.identities.iter().filter(may).map(|row| row.id.clone()).collect();
        let stanzas = self.config().plugins.iter();
        let composing = stanzas.filter(|stanza| {
            let named = stanza.reach.contains(&spec.name);
            named && self.registry.explain_granted(&stanza.name, &spec.name).verdict.is_allowed()
        });
        Operation {
            name: spec.name.clone(),
            op_type: spec.op_type,
            visibility: spec.visibility,
            asks: needs(&spec.access_control),
            callers,
            composed_by: composing.map(|stanza| stanza.name.clone()).collect(),
        }
    }

    fn reach(&self, plugin: &str, name: &str) -> Reach {
        let told = |served_by: Option<String>, allowed, rule: String| Reach {
            operation: name.to_owned(),
            served_by,
            allowed,
            rule,
        };
        if let Some((peer, _)) = name.strip_prefix('@').and_then(|name| name.split_once('/')) {
            let rule = "it depends on the peer, which was not asked".to_owned();
            return told(Some(peer.to_owned()), None, rule);
        }
        let explained = self.registry.explain_granted(plugin, name);
        if let Some(entry) = explained.entry {
            let served_by = Some(entry.plugin().to_string());
            return told(
                served_by,
                Some(explained.verdict.is_allowed()),
                explained.verdict.to_string(),
            );
        }
        let below = |import: &ImportPreview| name.starts_with(&format!("{}/", import.prefix));
        match self.imports().into_iter().find(below) {
            Some(import) => {
                let rule = "it depends on the import's source, which was not asked".to_owned();
                told(Some(import.name), None, rule)
            }
            None => told(None, Some(false), explained.verdict.to_string()),
        }
    }

    fn explained_imports(&self) -> Vec<Import> {
        let stanzas = &self.config().imports;
        let stanza = |name: &str| stanzas.iter().find(|stanza| stanza.name == name);
        let explained = self.imports().into_iter().map(|preview| {
            let stanza: Option<&ImportStanza> = stanza(&preview.name);
            let credential = stanza.and_then(|stanza| stanza.credential.as_ref());
            Import {
                scopes: stanza.map(|stanza| stanza.scopes.clone()).unwrap_or_default(),
                credential: credential.map(|grant| secret(crate::imports::CREDENTIAL, grant)),
                preview,
            }
        });
        explained.collect()
    }
}

/// Whether a caller who may call `callers` is anybody.
pub fn everybody(callers: &[String]) -> bool {
    callers.iter().any(|id| id == ANONYMOUS)
}

fn caller(row: &super::who::Row, matrix: &Matrix) -> Caller {
    let allowed = |rule: &&usize| matrix.rules.get(**rule).is_some_and(|rule| rule.allowed);
    Caller {
        id: row.id.clone(),
        kind: row.kind,
        active: row.active,
        scopes: row.scopes.clone(),
        operations: row.decisions.iter().filter(allowed).count(),
    }
}

fn secrets(stanza: &PluginStanza) -> Vec<Secret> {
    stanza.capabilities.iter().map(|(name, grant)| secret(name, grant)).collect()
}

fn secret(name: &str, grant: &CapabilityGrant) -> Secret {
    Secret {
        name: name.to_owned(),
        kind: grant.kind,
        source: match &grant.source {
            CapabilitySource::Entry(entry) => format!("entry `{entry}`"),
            CapabilitySource::Path(path) => format!("path {path}"),
        },
        reveal: grant.reveal,
        operations: grant.operations.clone(),
    }
}

fn listeners(config: &NodeConfig, plugins: &[PluginStatus]) -> Vec<Listener> {
    let all: Vec<_> = plugins.iter().flat_map(|plugin| plugin.alpns.clone()).collect();
    let mut listeners = Vec::new();
    let mut add = |transport, address: String, alpns: &[String]| {
        listeners.push(Listener { transport, address, alpns: alpns.to_vec() });
    };
    for address in config.quic.iter().flat_map(|quic| &quic.listen) {
        add("quic", address.to_string(), &all);
    }
    if let Some(iroh) = &config.iroh {
        for address in &iroh.listen {
            add("iroh", address.to_string(), &all);
        }
        if iroh.listen.is_empty() {
            add("iroh", "every address, on ports that the system chooses".to_owned(), &all);
        }
    }
    #[cfg(feature = "tcp")]
    if let Some(tcp) = &config.tcp {
        let served: Vec<_> = all.iter().map(String::as_str).collect();
        let served = super::tcp::alpns(tcp, &served);
        for address in &tcp.listen {
            add("tcp", address.to_string(), &served);
        }
    }
    if let Some(address) = config.observe.metrics {
        add("metrics", address.to_string(), &[]);
    }
    if let Some(crate::config::CertificateSource::Acme(acme)) = &config.certificate
        && acme.challenge == crate::config::AcmeChallenge::Http01
    {
        for address in &acme.http_listen {
            add("acme-http", address.to_string(), &[]);
        }
    }
    listeners
}

fn ceilings(config: &NodeConfig, limits: &Limits) -> Ceilings {
    Ceilings {
        connections: config.limits.connections,
        calls_per_connection: config.limits.calls_per_connection,
        descendants_per_call: config.limits.descendants_per_call,
        calls_per_identity: limits.in_flight_of_identity,
        calls_per_second: limits.rate.map(|rate| rate.per_second),
        drain_ms: config.limits.drain_timeout.as_millis().try_into().unwrap_or(u64::MAX),
    }
}
