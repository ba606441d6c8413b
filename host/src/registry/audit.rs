//! What can never work: for `alknet check`, and before the node starts.

use std::fmt;
use std::sync::Arc;

use alknet_plugin_api::{Identity, Visibility};

use super::access::{Denied, Resource, is_unrestricted};
use super::spec::{Entry, ScopedPeerEnv};
use super::{Grant, Registry};

/// A grant that leads nowhere, or an operation that nothing leads to. The node
/// starts all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// The reach names something that is neither a core operation nor imported
    /// at the moment.
    Unknown {
        /// Whose reach it is.
        from: String,
        /// The plugin whose grant it is.
        plugin: String,
        /// The name in the reach.
        target: String,
    },
    /// The operation is in reach, but the authority never passes its check.
    NeverAllowed {
        /// Whose reach it is.
        from: String,
        /// The plugin whose grant it is.
        plugin: String,
        /// The name in the reach.
        target: String,
        /// The rule that refuses.
        reason: Denied,
    },
    /// The operation is internal, and in nobody's reach.
    Unreachable {
        /// The operation's name.
        operation: String,
        /// Who registers it.
        plugin: String,
    },
    /// The operation asks for one of an empty list of scopes.
    Unsatisfiable {
        /// The operation's name.
        operation: String,
        /// Who registers it.
        plugin: String,
    },
}

impl Finding {
    /// The plugin that it is about.
    pub fn plugin(&self) -> &str {
        match self {
            Self::Unknown { plugin, .. }
            | Self::NeverAllowed { plugin, .. }
            | Self::Unreachable { plugin, .. }
            | Self::Unsatisfiable { plugin, .. } => plugin,
        }
    }

    /// The key of the plugin's stanza that it is about.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "reach",
            Self::NeverAllowed { .. } => "authority",
            Self::Unreachable { .. } => "hide",
            Self::Unsatisfiable { .. } => "artifact",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { from, target, .. } => {
                write!(f, "{from} reaches `{target}`, which nothing serves; correct its `reach`")
            }
            Self::NeverAllowed { from, target, reason, .. } => write!(
                f,
                "{from} reaches `{target}` but is always refused ({reason}); extend its `authority`"
            ),
            Self::Unreachable { operation, plugin } => write!(
                f,
                "operation `{operation}` of plugin `{plugin}` is internal and in nobody's `reach`"
            ),
            Self::Unsatisfiable { operation, plugin } => write!(
                f,
                "operation `{operation}` of plugin `{plugin}` asks for one scope of an empty list"
            ),
        }
    }
}

impl Registry {
    /// Everything among core operations and grants that can never work.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for entry in &self.sorted {
            // What one stanza grants to all of a plugin is said of the plugin.
            let grant = self.grants.get(&entry.plugin);
            if grant.is_some_and(|grant| grant.scoped_env == entry.scoped_env) {
                continue;
            }
            let from = format!("operation `{}`", entry.spec.name);
            let authority = entry.authority.as_deref();
            findings.extend(self.reach_findings(
                &from,
                &entry.plugin,
                authority,
                &entry.scoped_env,
            ));
        }
        let mut grants: Vec<(&Arc<str>, &Arc<Grant>)> = self.grants.iter().collect();
        grants.sort_by_key(|(plugin, _)| *plugin);
        for (plugin, grant) in &grants {
            let from = format!("plugin `{plugin}`");
            let authority = grant.authority.as_deref();
            findings.extend(self.reach_findings(&from, plugin, authority, &grant.scoped_env));
        }
        let reached = |name: &String| {
            self.sorted.iter().any(|entry| entry.scoped_env.allowed_ops.contains(name))
                || grants.iter().any(|(_, grant)| grant.scoped_env.allowed_ops.contains(name))
        };
        for entry in &self.sorted {
            let (operation, plugin) = (entry.spec.name.clone(), entry.plugin.to_string());
            let any = &entry.spec.access_control.required_scopes_any;
            if any.as_ref().is_some_and(Vec::is_empty) {
                findings.push(Finding::Unsatisfiable { operation, plugin });
            } else if entry.spec.visibility == Visibility::Internal && !reached(&operation) {
                findings.push(Finding::Unreachable { operation, plugin });
            }
        }
        findings
    }

    fn reach_findings(
        &self,
        from: &str,
        plugin: &str,
        authority: Option<&Identity>,
        env: &ScopedPeerEnv,
    ) -> Vec<Finding> {
        let finding = |target: &String| {
            let (from, plugin) = (from.to_owned(), plugin.to_owned());
            let Some(entry) = self.operation(target) else {
                // An import's operations are there once its source has been asked.
                let imported = self.import_prefixes.iter().any(|one| target.starts_with(one));
                if imported {
                    return None;
                }
                return Some(Finding::Unknown { from, plugin, target: target.clone() });
            };
            let reason = self.never_allowed(&entry, authority)?;
            Some(Finding::NeverAllowed { from, plugin, target: target.clone(), reason })
        };
        env.allowed_ops.iter().filter_map(finding).collect()
    }

    /// Why `authority` can never pass. Ownership changes while the node runs,
    /// so that a lack of it proves nothing.
    fn never_allowed(&self, entry: &Entry, authority: Option<&Identity>) -> Option<Denied> {
        if is_unrestricted(&entry.spec.access_control) {
            return None;
        }
        match self.decide(entry, authority, Resource::Unknown) {
            Ok(_) | Err(Denied::NotOwner { .. }) => None,
            Err(denied) => Some(denied),
        }
    }
}
