//! Why a call would be admitted or refused: the checks of dispatch up to the
//! access decision, taken without a call.

use std::fmt;
use std::sync::Arc;

use alknet_plugin_api::{Identity, Visibility, code};

use super::Registry;
use super::access::{Allowed, Denied, Resource};
use super::dispatch::bare_name;
use super::spec::Entry;

/// What dispatch would say, and the operation it would say it of.
#[derive(Clone)]
pub struct Explanation {
    /// The operation, where the name leads to one.
    pub entry: Option<Arc<Entry>>,
    /// What would become of the call.
    pub verdict: Verdict,
}

/// What becomes of a call, as far as access is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The call is admitted, by this rule.
    Allowed(Allowed),
    /// There is no such operation.
    Unknown,
    /// There is, but the wire does not reach it.
    Internal,
    /// There is, but the composing operation may not name it.
    OutOfReach,
    /// The access decision refuses, by this rule.
    Denied(Denied),
}

impl Verdict {
    /// Whether the call is admitted.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }

    /// The error's code that the caller sees; `None` for an admitted call.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Allowed(_) => None,
            Self::Unknown | Self::Internal | Self::OutOfReach => Some(code::NOT_FOUND),
            Self::Denied(Denied::MissingResourceId) => Some(code::INVALID_INPUT),
            Self::Denied(_) => Some(code::FORBIDDEN),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed(rule) => rule.fmt(f),
            Self::Unknown => f.write_str("there is no such operation"),
            Self::Internal => f.write_str("the operation is internal: the wire does not reach it"),
            Self::OutOfReach => f.write_str("the composing operation does not have it in reach"),
            Self::Denied(rule) => rule.fmt(f),
        }
    }
}

impl Registry {
    /// Whether `subject` may call `name` from the wire. Without a `resource`,
    /// the question is whether it may call it about any.
    pub fn explain_wire(
        &self,
        name: &str,
        subject: Option<&Identity>,
        resource: Option<&str>,
    ) -> Explanation {
        let Some(entry) = self.operation(bare_name(name)) else {
            return Explanation { entry: None, verdict: Verdict::Unknown };
        };
        let verdict = match entry.spec.visibility {
            Visibility::Internal => Verdict::Internal,
            Visibility::External => self.verdict(&entry, subject, resource),
        };
        Explanation { entry: Some(entry), verdict }
    }

    /// Whether the code of `parent` may call `name`, under its own authority.
    pub fn explain_composed(
        &self,
        parent: &Entry,
        name: &str,
        resource: Option<&str>,
    ) -> Explanation {
        let name = bare_name(name);
        let Some(entry) = self.operation(name) else {
            return Explanation { entry: None, verdict: Verdict::Unknown };
        };
        let verdict = match parent.scoped_env.allowed_ops.contains(name) {
            false => Verdict::OutOfReach,
            true => self.verdict(&entry, parent.authority(), resource),
        };
        Explanation { entry: Some(entry), verdict }
    }

    /// Whether the code of `plugin` may call `name` about any resource, by what it is
    /// granted as a plugin.
    pub fn explain_granted(&self, plugin: &str, name: &str) -> Explanation {
        let Some(entry) = self.operation(name) else {
            return Explanation { entry: None, verdict: Verdict::Unknown };
        };
        let grant = self.grants.get(plugin);
        let reached = grant.is_some_and(|grant| grant.scoped_env.allowed_ops.contains(name));
        let authority = grant.and_then(|grant| grant.authority.as_deref());
        let verdict = match reached {
            false => Verdict::OutOfReach,
            true => self.verdict(&entry, authority, None),
        };
        Explanation { entry: Some(entry), verdict }
    }

    fn verdict(
        &self,
        entry: &Entry,
        subject: Option<&Identity>,
        resource: Option<&str>,
    ) -> Verdict {
        let resource = match (&entry.spec.resource_id_path, resource) {
            (None, _) => Resource::Undeclared,
            (Some(_), None) => Resource::Unknown,
            (Some(_), Some(id)) => Resource::Id(id),
        };
        match self.decide(entry, subject, resource) {
            Ok(rule) => Verdict::Allowed(rule),
            Err(rule) => Verdict::Denied(rule),
        }
    }
}
