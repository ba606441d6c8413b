//! Why somebody may, or may not, call an operation, and which lines of the
//! node's files say so: what `alknet acl why` prints and `node/acl-why`
//! answers.
//!
//! The verdict is the registry's own. Here it gets its grounds: the entry of
//! `access.toml`, the stanza of `node.toml`, the plugin's declaration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alknet_plugin_api::{AccessControl, CallError, Identity, Visibility};
use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use super::who::Rule;
use crate::auth::{ApiKeyEntry, Policy, PolicyStore, TOKEN_PREFIX, UnixTime};
use crate::config::{EntryPlaces, Place, PluginStanza};
use crate::registry::{Entry, Explanation, Registry, Verdict, bare_name};

/// What is asked about: nobody.
pub const ANONYMOUS: &str = "anonymous";

/// Who wants to call what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// A `peer_id`, a token's first eight characters, a key's fingerprint, or
    /// [`ANONYMOUS`].
    pub identity: String,
    /// The operation's name.
    pub operation: String,
    /// The resource that the call is about; without one, any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The operation whose code makes the call, and which the identity calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
}

/// The answer: one step for the call itself, and one before it for the
/// operation that makes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether every step is allowed.
    pub allowed: bool,
    /// The calls that are made, outermost first.
    pub steps: Vec<Step>,
}

/// One call, as the access decision sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The operation's name.
    pub operation: String,
    /// Who serves it.
    pub plugin: Option<String>,
    /// Whose rights count; `None` for nobody's.
    pub subject: Option<String>,
    /// Whether another operation makes the call.
    pub composed: bool,
    /// Whether it would be admitted.
    pub allowed: bool,
    /// The error's code that the caller would see.
    pub code: Option<String>,
    /// The rule that decides.
    pub rule: String,
    /// What the rule was applied to.
    pub grounds: Vec<Ground>,
}

/// A line of the configuration, or what a plugin declares, and what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ground {
    /// What it says.
    pub says: String,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// From 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// In characters, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
}

impl Ground {
    fn new(says: impl Into<String>, place: Option<&Place>) -> Self {
        let place = place.filter(|place| !place.file().as_os_str().is_empty());
        let within = place.filter(|place| place.line() > 0);
        Self {
            says: says.into(),
            file: place.map(|place| place.file().display().to_string()),
            line: within.map(Place::line),
            column: within.map(Place::column),
        }
    }
}

/// Answers questions about access from what is in force.
pub struct Explainer {
    registry: Arc<Registry>,
    policy: Arc<PolicyStore>,
    time: UnixTime,
    stanzas: BTreeMap<String, PluginStanza>,
    entries: ArcSwap<EntryPlaces>,
}

/// An identity as the files have it.
struct Caller {
    identity: Option<Identity>,
    /// Why it is refused before anything is looked up.
    refused: Option<String>,
    grounds: Vec<Ground>,
}

impl Explainer {
    /// Explains what `registry` and `policy` decide, by the places of the files
    /// that they came from.
    pub fn new(
        registry: Arc<Registry>,
        policy: Arc<PolicyStore>,
        time: UnixTime,
        stanzas: &[PluginStanza],
        entries: EntryPlaces,
    ) -> Self {
        let stanzas = stanzas.iter().map(|stanza| (stanza.name.clone(), stanza.clone())).collect();
        Self { registry, policy, time, stanzas, entries: ArcSwap::from_pointee(entries) }
    }

    /// Takes the places of another `access.toml`, once its policy is in force.
    pub fn access_changed(&self, entries: EntryPlaces) {
        self.entries.store(Arc::new(entries));
    }

    /// Answers `question`.
    ///
    /// # Errors
    /// `INVALID_INPUT` for an identity or a composing operation that there is
    /// not.
    pub fn answer(&self, question: &Question) -> Result<Answer, CallError> {
        let caller = self.caller(&question.identity)?;
        let resource = question.resource.as_deref();
        let steps = match &question.via {
            None => vec![self.on_wire(&question.operation, caller, resource)],
            Some(via) => {
                let gate = self.on_wire(via, caller, None);
                let parent = self.registry.operation(bare_name(via)).ok_or_else(|| {
                    CallError::invalid_input(format!("there is no operation `{via}` to call from"))
                })?;
                vec![gate, self.composed(&parent, &question.operation, resource)]
            }
        };
        Ok(Answer { allowed: steps.iter().all(|step| step.allowed), steps })
    }

    /// The policy in force.
    pub(super) fn policy(&self) -> Arc<Policy> {
        self.policy.load()
    }

    /// Whether an API key does not count any more.
    pub(super) fn expired(&self, key: &ApiKeyEntry) -> bool {
        key.expires_at.is_some_and(|end| (self.time)() >= Duration::from_secs(end))
    }

    /// The names of all operations that the wire reaches.
    pub(super) fn on_the_wire(&self) -> Vec<String> {
        let imported = self.registry.imported();
        let entries = self.registry.operations().iter().chain(&imported);
        let external = entries.filter(|entry| entry.spec().visibility == Visibility::External);
        external.map(|entry| entry.spec().name.clone()).collect()
    }

    /// What would become of a call of each of these by `identity`, as [`answer`]
    /// would say it.
    ///
    /// [`answer`]: Self::answer
    pub(super) fn outcomes(&self, identity: &str, operations: &[String]) -> Vec<Rule> {
        // Gone since it was listed: a stranger.
        let caller = self.caller(identity).ok();
        let subject = caller.as_ref().and_then(|caller| caller.identity.as_ref());
        let refused = caller.as_ref().and_then(|caller| caller.refused.as_deref());
        let outcome = |name: &String| match refused {
            Some(rule) => refusal(rule),
            None => Rule::from(self.registry.explain_wire(name, subject, None).verdict),
        };
        operations.iter().map(outcome).collect()
    }

    fn caller(&self, name: &str) -> Result<Caller, CallError> {
        if name == ANONYMOUS {
            let says = "nobody: a caller without a known key and without a token";
            let grounds = vec![Ground::new(says, None)];
            return Ok(Caller { identity: None, refused: None, grounds });
        }
        if name.starts_with(TOKEN_PREFIX) && name.len() > 8 {
            return Err(CallError::invalid_input(
                "write a token's first 8 characters alone; the whole of it is a secret",
            ));
        }
        let policy = self.policy.load();
        let entries = self.entries.load();
        let place = |id: &str, key| entries.place(id, key);
        let id =
            match policy.peers().iter().find(|peer| peer.fingerprints.iter().any(|f| f == name)) {
                Some(peer) => &peer.peer_id,
                None => name,
            };
        if let Some(peer) = policy.peers().iter().find(|peer| peer.peer_id == *id) {
            if !peer.enabled {
                let says = format!(
                    "peer `{id}` is disabled: its key is a stranger's, and its token is refused"
                );
                let grounds = vec![Ground::new(says, place(id, "enabled"))];
                return Ok(Caller { identity: None, refused: None, grounds });
            }
        } else if let Some(key) = policy.api_keys().iter().find(|key| key.prefix == *id) {
            if self.expired(key) {
                let says = format!("API key `{id}` has expired");
                let grounds = vec![Ground::new(says, place(id, "expires_at"))];
                let refused = Some("invalid token".to_owned());
                return Ok(Caller { identity: None, refused, grounds });
            }
        } else if name.contains(':') {
            let says = "no peer has this key: its holder is a stranger";
            return Ok(Caller {
                identity: None,
                refused: None,
                grounds: vec![Ground::new(says, None)],
            });
        }
        let Some(identity) = policy.identity(id) else {
            return Err(CallError::invalid_input(format!(
                "access.toml knows neither a peer nor an API key `{name}`; write its `peer_id`, \
                 its token's first 8 characters, or `{ANONYMOUS}`"
            )));
        };
        let mut grounds =
            vec![Ground::new(holds("holds", &identity.scopes, "scopes"), place(id, "scopes"))];
        if !identity.resources.is_empty() {
            let says = format!("may, on resources: {}", rights(&identity));
            grounds.push(Ground::new(says, place(id, "resources")));
        }
        Ok(Caller { identity: Some(identity), refused: None, grounds })
    }

    fn on_wire(&self, name: &str, caller: Caller, resource: Option<&str>) -> Step {
        let subject = caller.identity.as_ref();
        let explained = self.registry.explain_wire(name, subject, resource);
        let subject = subject.map(|identity| identity.id.clone());
        let mut step = self.step(name, explained, subject, false, caller.grounds, resource);
        if let Some(refused) = caller.refused {
            let Rule { allowed, code, rule } = refusal(&refused);
            (step.allowed, step.code, step.rule) = (allowed, code, rule);
        }
        step
    }

    fn composed(&self, parent: &Entry, name: &str, resource: Option<&str>) -> Step {
        let explained = self.registry.explain_composed(parent, name, resource);
        let stanza = self.stanzas.get(&**parent.plugin());
        let place = |key| stanza.map(|stanza| stanza.place(key));
        let mut grounds = vec![match parent.authority() {
            Some(authority) => Ground::new(
                format!(
                    "`{}` calls as `{}`, which {}",
                    parent.spec().name,
                    authority.id,
                    holds("holds", &authority.scopes, "scopes")
                ),
                place("authority"),
            ),
            None => Ground::new(
                format!("`{}` has no authority: it calls as nobody", parent.spec().name),
                place("name"),
            ),
        }];
        let reach = &parent.scoped_env().allowed_ops;
        let reach = match reach.len() {
            0 => format!("`{}` reaches nothing", parent.spec().name),
            _ => format!("`{}` reaches {}", parent.spec().name, listed(reach.iter())),
        };
        grounds.push(Ground::new(reach, place("reach")));
        let subject = parent.authority().map(|authority| authority.id.clone());
        self.step(name, explained, subject, true, grounds, resource)
    }

    fn step(
        &self,
        name: &str,
        explained: Explanation,
        subject: Option<String>,
        composed: bool,
        mut grounds: Vec<Ground>,
        resource: Option<&str>,
    ) -> Step {
        let Explanation { entry, verdict } = explained;
        if let Some(entry) = &entry {
            grounds.extend(self.operation_grounds(entry, &verdict, resource));
        }
        Step {
            operation: bare_name(name).to_owned(),
            plugin: entry.map(|entry| entry.plugin().to_string()),
            subject,
            composed,
            allowed: verdict.is_allowed(),
            code: verdict.code().map(str::to_owned),
            rule: verdict.to_string(),
            grounds,
        }
    }

    /// What the operation asks for, and who says so.
    fn operation_grounds(
        &self,
        entry: &Entry,
        verdict: &Verdict,
        resource: Option<&str>,
    ) -> Vec<Ground> {
        let spec = entry.spec();
        let stanza = self.stanzas.get(&**entry.plugin());
        let place = |key| stanza.map(|stanza| stanza.place(key));
        let mut grounds = Vec::new();
        if spec.visibility == Visibility::Internal {
            let hidden = stanza.is_some_and(|stanza| stanza.hide.contains(&spec.name));
            grounds.push(match hidden {
                true => Ground::new(format!("`{}` is hidden", spec.name), place("hide")),
                false => Ground::new(
                    format!("`{}` declares `{}` internal", entry.plugin(), spec.name),
                    place("artifact"),
                ),
            });
        }
        if !matches!(verdict, Verdict::Internal | Verdict::OutOfReach) {
            let says = format!(
                "`{}` declares that `{}` {}",
                entry.plugin(),
                spec.name,
                needs(&spec.access_control)
            );
            grounds.push(Ground::new(says, place("artifact")));
            match (&spec.resource_id_path, resource) {
                (Some(_), None) => grounds.push(Ground::new(
                    "no resource was named: the question is about any; a call names one",
                    None,
                )),
                (None, Some(_)) => grounds.push(Ground::new(
                    "the operation looks at no resource id: the one named does not matter",
                    None,
                )),
                _ => {}
            }
        }
        grounds
    }
}

impl From<Verdict> for Rule {
    fn from(verdict: Verdict) -> Self {
        Self {
            allowed: verdict.is_allowed(),
            code: verdict.code().map(str::to_owned),
            rule: verdict.to_string(),
        }
    }
}

/// A refusal before anything is looked up.
fn refusal(rule: &str) -> Rule {
    let code = Some(alknet_plugin_api::code::FORBIDDEN.to_owned());
    Rule { allowed: false, code, rule: rule.to_owned() }
}

fn listed<T: std::fmt::Display>(names: impl Iterator<Item = T>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn holds(verb: &str, scopes: &[String], what: &str) -> String {
    match scopes {
        [] => format!("{verb} no {what}"),
        scopes => format!("{verb} the {what} {}", listed(scopes.iter())),
    }
}

fn rights(identity: &Identity) -> String {
    let lists = identity.resources.iter().map(|(kind, actions)| {
        let actions = if actions.is_empty() { "nothing".to_owned() } else { actions.join(", ") };
        format!("{actions} on `{kind}`")
    });
    lists.collect::<Vec<_>>().join("; ")
}

/// What an operation asks of its caller, as the end of a sentence.
pub(super) fn needs(access: &AccessControl) -> String {
    let mut needs = Vec::new();
    if !access.required_scopes.is_empty() {
        needs.push(holds("needs", &access.required_scopes, "scopes"));
    }
    match access.required_scopes_any.as_deref() {
        Some([]) => needs.push("needs one scope of an empty list".to_owned()),
        Some(any) => needs.push(format!("needs one of the scopes {}", listed(any.iter()))),
        None => {}
    }
    let action = access.resource_action.as_deref();
    match (&access.resource_type, action) {
        (Some(kind), Some(action)) => needs.push(format!("needs `{action}` on a `{kind}`")),
        (Some(kind), None) => needs.push(format!("needs a right on a `{kind}`")),
        (None, Some(action)) => needs.push(format!("needs `{action}` on any resource")),
        (None, None) => {}
    }
    match needs.is_empty() {
        true => "asks for nothing".to_owned(),
        false => needs.join(" and "),
    }
}
