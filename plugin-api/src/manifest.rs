//! A plugin's declaration of itself.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::code;
use crate::host::CapabilityKind;
use crate::operation::OperationSpec;

/// What a plugin is called, what it serves and what it wants. The host reads it
/// before any of the plugin's other code runs, and `alknet plugin inspect` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The plugin's name: lower-case letters, digits and `-`.
    pub name: String,
    /// The plugin's version, by semantic versioning.
    pub version: String,
    /// The plugin API it was built against: major, minor.
    pub api: (u32, u32),
    /// One sentence.
    #[serde(default)]
    pub description: String,
    /// The ALPNs it handles.
    #[serde(default)]
    pub alpns: Vec<String>,
    /// The operations it serves.
    #[serde(default)]
    pub operations: Vec<OperationSpec>,
    /// JSON Schema of its configuration; `false` where it takes none.
    pub config_schema: Value,
    /// The capabilities it wants.
    #[serde(default)]
    pub capabilities: Vec<CapabilityRequest>,
    /// Whether it makes calls on behalf of its connections' peers.
    #[serde(default)]
    pub gateway: bool,
}

/// A capability that a plugin wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CapabilityRequest {
    /// What the plugin calls it.
    pub name: String,
    /// What it will be used for.
    pub kind: CapabilityKind,
    /// Why, for the operator.
    #[serde(default)]
    pub description: String,
    /// Whether the plugin does without it.
    #[serde(default)]
    pub optional: bool,
}

/// What is wrong with a [`Manifest`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ManifestError {
    #[error("the plugin's name `{0}` is not of lower-case letters, digits and `-`")]
    Name(String),
    #[error("ALPN `{0}` must hold 1 to 255 printable ASCII characters")]
    Alpn(String),
    #[error("ALPN `{0}` is listed twice")]
    DuplicateAlpn(String),
    #[error(
        "operation `{0}`: a name has two or more segments of `[A-Za-z0-9._-]+`, without a leading slash"
    )]
    OperationName(String),
    #[error("operation `{name}`: its namespace is its first segment, not `{namespace}`")]
    Namespace { name: String, namespace: String },
    #[error("operation `{0}` is declared twice")]
    DuplicateOperation(String),
    #[error("operation `{operation}` declares `{code}`, which belongs to the protocol")]
    ProtocolCode { operation: String, code: String },
    #[error(
        "operation `{operation}`: {pointer:?} is no JSON Pointer (RFC 6901), or there is no resource_type for it"
    )]
    ResourcePointer { operation: String, pointer: String },
}

impl Manifest {
    /// A manifest that declares nothing yet. Most plugins pass
    /// `env!("CARGO_PKG_VERSION")` for the version.
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            api: crate::API_VERSION,
            description: String::new(),
            alpns: Vec::new(),
            operations: Vec::new(),
            config_schema: Value::Bool(false),
            capabilities: Vec::new(),
            gateway: false,
        }
    }

    /// One sentence about the plugin.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    /// An ALPN that the plugin handles: `alknet/<name>` or an IANA string.
    #[must_use]
    pub fn alpn(mut self, alpn: impl Into<String>) -> Self {
        self.alpns.push(alpn.into());
        self
    }

    /// An operation that the plugin serves.
    #[must_use]
    pub fn operation(mut self, spec: OperationSpec) -> Self {
        self.operations.push(spec);
        self
    }

    /// JSON Schema that the host checks the plugin's configuration against.
    #[must_use]
    pub fn config(mut self, schema: Value) -> Self {
        self.config_schema = schema;
        self
    }

    /// A capability that the plugin wants.
    #[must_use]
    pub fn capability(mut self, request: CapabilityRequest) -> Self {
        self.capabilities.push(request);
        self
    }

    /// Says that the plugin makes calls on behalf of its connections' peers.
    #[must_use]
    pub fn gateway(mut self) -> Self {
        self.gateway = true;
        self
    }

    /// Everything that is wrong with the manifest.
    pub fn problems(&self) -> Vec<ManifestError> {
        let mut problems = Vec::new();
        let name_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || !self.name.chars().all(name_ok) {
            problems.push(ManifestError::Name(self.name.clone()));
        }
        for (i, alpn) in self.alpns.iter().enumerate() {
            if alpn.is_empty() || alpn.len() > 255 || !alpn.bytes().all(|b| b.is_ascii_graphic()) {
                problems.push(ManifestError::Alpn(alpn.clone()));
            }
            if self.alpns[..i].contains(alpn) {
                problems.push(ManifestError::DuplicateAlpn(alpn.clone()));
            }
        }
        for (i, spec) in self.operations.iter().enumerate() {
            spec_problems(spec, &mut problems);
            if self.operations[..i].iter().any(|other| other.name == spec.name) {
                problems.push(ManifestError::DuplicateOperation(spec.name.clone()));
            }
        }
        problems
    }
}

impl OperationSpec {
    /// Everything that is wrong with the declaration, schemas aside.
    pub fn problems(&self) -> Vec<ManifestError> {
        let mut problems = Vec::new();
        spec_problems(self, &mut problems);
        problems
    }
}

fn spec_problems(spec: &OperationSpec, problems: &mut Vec<ManifestError>) {
    let name = &spec.name;
    let segment_ok = |segment: &str| {
        !segment.is_empty()
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if name.split('/').count() < 2 || !name.split('/').all(segment_ok) {
        problems.push(ManifestError::OperationName(name.clone()));
    }
    if name.split('/').next() != Some(&spec.namespace) {
        problems.push(ManifestError::Namespace {
            name: name.clone(),
            namespace: spec.namespace.clone(),
        });
    }
    for error in &spec.error_schemas {
        if code::is_protocol(&error.code) {
            problems.push(ManifestError::ProtocolCode {
                operation: name.clone(),
                code: error.code.clone(),
            });
        }
    }
    if let Some(pointer) = &spec.resource_id_path
        && (!is_json_pointer(pointer) || spec.access_control.resource_type.is_none())
    {
        problems.push(ManifestError::ResourcePointer {
            operation: name.clone(),
            pointer: pointer.clone(),
        });
    }
}

fn is_json_pointer(text: &str) -> bool {
    let escapes_ok =
        text.split('~').skip(1).all(|rest| rest.starts_with('0') || rest.starts_with('1'));
    (text.is_empty() || text.starts_with('/')) && escapes_ok
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_everything_that_is_wrong_with_it() {
        let manifest = Manifest::new("Bad Name", "1.0.0")
            .alpn("a")
            .alpn("a")
            .alpn("")
            .operation(OperationSpec::query("/x/y"))
            .operation(OperationSpec::query("x"))
            .operation(OperationSpec::query("x/y").error("TIMEOUT", ""))
            .operation(OperationSpec::query("x/y").resource_id_path("a~2"));
        let problems = manifest.problems();
        assert!(problems.contains(&ManifestError::Name("Bad Name".into())));
        assert!(problems.contains(&ManifestError::Alpn(String::new())));
        assert!(problems.contains(&ManifestError::DuplicateAlpn("a".into())));
        assert!(problems.contains(&ManifestError::OperationName("/x/y".into())));
        assert!(problems.contains(&ManifestError::OperationName("x".into())));
        assert!(problems.contains(&ManifestError::DuplicateOperation("x/y".into())));
        assert!(problems.iter().any(|p| matches!(p, ManifestError::ProtocolCode { .. })));
        assert!(problems.iter().any(|p| matches!(p, ManifestError::ResourcePointer { .. })));
    }
}
