//! What is registered: an operation's declaration, its code, and what the
//! deployment file grants it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use alknet_plugin_api::{
    CallError, CallFuture, CallStream, Capability, Identity, Json, JsonError, OperationCode,
    OperationSpec, OperationSummary, OperationType, Visibility, code,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::builder::RegistryError;
use super::call::Call;
use super::schema::Check;
use crate::budget::{Full, Meter, Place, Resource};

/// The rights that apply to an operation's own calls, whoever called it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompositionAuthority {
    /// What inner calls see as the caller's id.
    pub label: String,
    /// As in [`Identity`].
    #[serde(default)]
    pub scopes: Vec<String>,
    /// As in [`Identity`].
    #[serde(default)]
    pub resources: BTreeMap<String, Vec<String>>,
}

impl CompositionAuthority {
    /// The authority as the subject of access decisions.
    pub fn identity(&self) -> Identity {
        Identity {
            id: self.label.clone(),
            scopes: self.scopes.clone(),
            resources: self.resources.clone(),
        }
    }
}

/// The operations that an operation's code may name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScopedPeerEnv {
    /// Names of operations, wherever they are served.
    pub allowed_ops: BTreeSet<String>,
    /// `peer-id/operation-name` for operations of one peer alone.
    pub peer_pinned: BTreeSet<String>,
}

impl ScopedPeerEnv {
    /// An env that reaches nothing.
    pub fn is_empty(&self) -> bool {
        self.allowed_ops.is_empty() && self.peer_pinned.is_empty()
    }

    /// Whether `peer_id`'s operation `name` may be named.
    pub fn reaches_peer(&self, peer_id: &str, name: &str) -> bool {
        if self.allowed_ops.contains(name) {
            return true;
        }
        !self.peer_pinned.is_empty() && self.peer_pinned.contains(&format!("{peer_id}/{name}"))
    }
}

/// Where an operation comes from, which decides what it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Provenance {
    /// A plugin of the deployment file, or the node itself.
    Local,
    /// Imported from an OpenAPI document.
    FromOpenApi,
    /// Imported from a JSON Schema of an HTTP endpoint.
    FromJsonSchema,
    /// Imported from an MCP server.
    FromMcp,
    /// Imported from another node.
    FromCall,
    /// Written by an agent, for its session.
    Session,
    /// Written by an agent and approved by a person.
    Promoted,
}

impl Provenance {
    /// Whether operations are leaves: no authority, no reach.
    pub fn is_import(self) -> bool {
        matches!(self, Self::FromOpenApi | Self::FromJsonSchema | Self::FromMcp | Self::FromCall)
    }

    /// Whether output is always checked against its schema.
    pub fn output_is_untrusted(self) -> bool {
        self != Self::Local
    }
}

/// An operation of the node's own, which sees more of its call than a plugin
/// may: adapters use it to carry origin and deadline to another node.
pub trait HostOperation: Send + Sync + 'static {
    /// Answers one call.
    fn call(&self, call: HostCall, input: Json) -> CallFuture;
}

/// As [`HostOperation`], for a subscription.
pub trait HostSubscription: Send + Sync + 'static {
    /// Starts one subscription.
    fn subscribe(&self, call: HostCall, input: Json) -> CallStream;
}

/// A call, as the node's own operations see it.
#[derive(Clone)]
pub struct HostCall(pub(super) Arc<Call>);

/// The code behind an operation.
#[derive(Clone)]
pub enum Code {
    /// A plugin's.
    Plugin(OperationCode),
    /// The node's own: a query or mutation.
    Host(Arc<dyn HostOperation>),
    /// The node's own: a subscription.
    HostStream(Arc<dyn HostSubscription>),
}

impl Code {
    fn fits(&self, op_type: OperationType) -> bool {
        matches!(self, Self::Plugin(OperationCode::Stream(_)) | Self::HostStream(_))
            == (op_type == OperationType::Subscription)
    }
}

impl From<OperationCode> for Code {
    fn from(code: OperationCode) -> Self {
        Self::Plugin(code)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plugin(OperationCode::Once(_)) => "Once",
            Self::Plugin(OperationCode::Stream(_)) => "Stream",
            Self::Host(_) => "Host",
            Self::HostStream(_) => "HostStream",
        })
    }
}

/// One operation, with all that the deployment file grants it.
#[derive(Clone, Debug)]
pub struct HandlerRegistration {
    /// The plugin's declaration.
    pub spec: OperationSpec,
    /// The plugin's code.
    pub code: Code,
    /// Who registers it, by the name in the deployment file.
    pub plugin: Arc<str>,
    /// Where it comes from.
    pub provenance: Provenance,
    /// The deployment file's override of the visibility. It may only narrow.
    pub visibility: Option<Visibility>,
    /// The rights of the operation's own calls; `None` calls as nobody.
    pub authority: Option<CompositionAuthority>,
    /// What the operation's own calls may name.
    pub scoped_env: ScopedPeerEnv,
    /// The secrets lent to this operation.
    pub capabilities: BTreeMap<String, Capability>,
    /// The types of resources whose owners this operation may record.
    pub owns: BTreeSet<String>,
    /// Whether the plugin answers so many calls at a time and lets others wait. A
    /// call that such a call composes is told, so that it does not wait in turn.
    pub limited: bool,
    /// Counts the plugin's calls, and refuses those beyond its limits.
    pub meter: Option<Arc<Meter>>,
}

impl HandlerRegistration {
    /// A local operation without any grant.
    pub fn new(spec: OperationSpec, code: impl Into<Code>, plugin: impl Into<Arc<str>>) -> Self {
        Self {
            spec,
            code: code.into(),
            plugin: plugin.into(),
            provenance: Provenance::Local,
            visibility: None,
            authority: None,
            scoped_env: ScopedPeerEnv::default(),
            capabilities: BTreeMap::new(),
            owns: BTreeSet::new(),
            limited: false,
            meter: None,
        }
    }
}

/// A registered operation, checked and compiled.
pub struct Entry {
    pub(super) spec: OperationSpec,
    pub(super) code: Code,
    pub(super) plugin: Arc<str>,
    pub(super) provenance: Provenance,
    pub(super) authority: Option<Arc<Identity>>,
    pub(super) scoped_env: ScopedPeerEnv,
    pub(super) capabilities: BTreeMap<String, Capability>,
    pub(super) owns: BTreeSet<String>,
    pub(super) limited: bool,
    pub(super) meter: Option<Arc<Meter>>,
    pub(super) input: Check,
    pub(super) output: Check,
    pub(super) errors: HashMap<String, Check>,
    /// An [`OperationSummary`], for listings.
    pub(super) summary: Json,
    /// The whole spec.
    pub(super) description: Json,
}

impl Entry {
    /// Checks a registration and compiles its schemas.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(registration: HandlerRegistration) -> Result<Self, Vec<RegistryError>> {
        let HandlerRegistration { mut spec, code, plugin, provenance, .. } = registration;
        let mut problems = Vec::new();
        let at = || Where { operation: spec.name.clone(), plugin: plugin.to_string() };
        problems.extend(
            spec.problems().into_iter().map(|cause| RegistryError::Spec { at: at(), cause }),
        );
        if !code.fits(spec.op_type) {
            problems.push(RegistryError::Kind { at: at(), op_type: spec.op_type });
        }
        let mut compile = |what: String, schema: &Value| {
            Check::compile(schema).unwrap_or_else(|cause| {
                problems.push(RegistryError::Schema { at: at(), what, cause });
                Check::Anything
            })
        };
        let input = compile("input_schema".to_owned(), &spec.input_schema);
        let output = compile("output_schema".to_owned(), &spec.output_schema);
        let errors = spec
            .error_schemas
            .iter()
            .map(|error| {
                let check = compile(format!("schema of error {}", error.code), &error.schema);
                (error.code.clone(), check)
            })
            .collect();
        if let Some(authority) = &registration.authority {
            problems.extend(authority_problem(authority, &plugin));
        }
        let leaf = registration.authority.is_none() && registration.scoped_env.is_empty();
        if provenance.is_import() && !leaf {
            problems.push(RegistryError::ImportComposes { at: at() });
        }
        match (registration.visibility, spec.visibility) {
            (Some(Visibility::External), Visibility::Internal) => {
                problems.push(RegistryError::Widening { at: at() });
            }
            (Some(visibility), _) => spec.visibility = visibility,
            (None, _) => {}
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let no_json = |error: JsonError| {
            let cause = error.to_string();
            vec![RegistryError::Schema { at: at(), what: "spec".to_owned(), cause }]
        };
        let summary = Json::of(&OperationSummary::from(&spec)).map_err(no_json)?;
        let description = Json::of(&spec).map_err(no_json)?;
        Ok(Self {
            summary,
            description,
            authority: registration.authority.map(|authority| Arc::new(authority.identity())),
            scoped_env: registration.scoped_env,
            capabilities: registration.capabilities,
            owns: registration.owns,
            limited: registration.limited,
            meter: registration.meter,
            spec,
            code,
            plugin,
            provenance,
            input,
            output,
            errors,
        })
    }

    /// A place for one call among those of its plugin.
    ///
    /// # Errors
    /// The plugin is at its limit.
    pub(super) fn enter(&self) -> Result<Option<Place>, CallError> {
        let Some(meter) = &self.meter else { return Ok(None) };
        let resource = match self.spec.op_type {
            OperationType::Subscription => Resource::Subscriptions,
            _ => Resource::Calls,
        };
        let full = |full: Full| CallError::new(code::RESOURCE_EXHAUSTED, full.to_string());
        meter.enter(resource).map(Some).map_err(full)
    }

    /// The declaration, with the visibility in force.
    pub fn spec(&self) -> &OperationSpec {
        &self.spec
    }

    /// Who registered it.
    pub fn plugin(&self) -> &Arc<str> {
        &self.plugin
    }

    /// Where it comes from.
    pub fn provenance(&self) -> Provenance {
        self.provenance
    }

    /// The rights of its own calls.
    pub fn authority(&self) -> Option<&Identity> {
        self.authority.as_deref()
    }

    /// What its own calls may name.
    pub fn scoped_env(&self) -> &ScopedPeerEnv {
        &self.scoped_env
    }

    /// What a handler's error becomes for the caller: declared codes pass once
    /// their details have the declared shape, as do the refusal of an input and
    /// a plain failure; codes of other nodes pass through imports unchanged, and
    /// that there is no instance free is no failure of the operation's.
    pub(super) fn caller_error(&self, error: CallError) -> CallError {
        use alknet_plugin_api::code;
        if let Some(check) = self.errors.get(error.code.as_ref()) {
            let details = error.details.as_ref().map(Json::to::<Value>);
            let fits = check.accepts_anything()
                || match details {
                    None => check.validate(&Value::Null).is_ok(),
                    Some(Ok(value)) => check.validate(&value).is_ok(),
                    Some(Err(_)) => false,
                };
            if fits {
                return error;
            }
        }
        let plain = matches!(&*error.code, code::INTERNAL | code::INVALID_INPUT);
        let no_instance = self.limited && error.code == code::RESOURCE_EXHAUSTED;
        let passes = match self.provenance {
            Provenance::Local => matches!(self.code, Code::Host(_) | Code::HostStream(_)),
            Provenance::FromCall => code::is_protocol(&error.code) || is_http_code(&error.code),
            provenance => provenance.is_import() && is_http_code(&error.code),
        };
        if plain || no_instance || passes {
            return error;
        }
        tracing::warn!(
            operation = self.spec.name,
            plugin = &*self.plugin,
            code = &*error.code,
            "an operation failed with an error that it does not declare"
        );
        CallError::internal("the operation failed with an error that it does not declare")
            .with_details(serde_json::json!({ "code": error.code }))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("name", &self.spec.name)
            .field("plugin", &self.plugin)
            .finish_non_exhaustive()
    }
}

/// The registration that a problem was found in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Where {
    /// The operation's name.
    pub operation: String,
    /// Who registers it.
    pub plugin: String,
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation `{}` of plugin `{}`", self.operation, self.plugin)
    }
}

/// No composition may approve what an agent wrote: that right is for people.
pub(super) fn authority_problem(
    authority: &CompositionAuthority,
    plugin: &str,
) -> Option<RegistryError> {
    authority
        .scopes
        .iter()
        .any(|scope| scope == "promote")
        .then(|| RegistryError::Promote { plugin: plugin.to_owned() })
}

fn is_http_code(code: &str) -> bool {
    code.strip_prefix("HTTP_").is_some_and(|status| {
        status.len() == 3 && status.bytes().all(|digit| digit.is_ascii_digit())
    })
}
