//! Which operations ask for a credential.
//!
//! A document names schemes, and an operation which of them it takes. The import
//! has one credential; it goes with the operations that take one of its kind, and
//! with all where the document says nothing of security.

use alknet_plugin_api::CapabilityKind;
use serde_json::Value;

use super::document::{Document, Place};
use crate::capabilities::Lent;

/// What a document says of security.
#[derive(Debug)]
pub(super) struct Security<'d> {
    document: &'d Document,
}

impl<'d> Security<'d> {
    pub(super) fn read(document: &'d Document) -> Self {
        Self { document }
    }

    /// Whether requests of `operation` carry a credential at all.
    pub(super) fn asks(&self, operation: &Value) -> bool {
        let own = operation.get("security").or_else(|| self.document.root().get("security"));
        match own.and_then(Value::as_array) {
            // A document that knows of no scheme does not say, and whoever wrote the
            // import does.
            None => self.schemes().is_none(),
            Some(alternatives) => alternatives.iter().any(|alternative| {
                alternative.as_object().is_some_and(|schemes| !schemes.is_empty())
            }),
        }
    }

    /// The schemes of `operation` that `credential` is not one of, if none of its
    /// alternatives takes it.
    pub(super) fn mismatch(&self, operation: &Value, credential: &Lent) -> Option<String> {
        let own = operation.get("security").or_else(|| self.document.root().get("security"));
        let alternatives = own?.as_array()?;
        let names: Vec<&String> =
            alternatives.iter().filter_map(Value::as_object).flat_map(|one| one.keys()).collect();
        if names.is_empty() || names.iter().any(|name| self.takes(name, credential)) {
            return None;
        }
        let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        Some(names.join(", "))
    }

    fn schemes(&self) -> Option<&Value> {
        self.document.root().pointer("/components/securitySchemes")
    }

    fn takes(&self, name: &str, credential: &Lent) -> bool {
        let Some(scheme) = self.schemes().and_then(|all| all.get(name)) else { return false };
        let Ok((scheme, _)) = self.document.resolve(scheme, Place::root()) else { return false };
        let text = |key: &str| scheme.get(key).and_then(Value::as_str).unwrap_or_default();
        let http = text("scheme").to_ascii_lowercase();
        match (text("type"), credential.kind()) {
            ("http", CapabilityKind::Bearer) => http == "bearer",
            ("http", CapabilityKind::Basic) => http == "basic",
            ("oauth2" | "openIdConnect", CapabilityKind::Bearer) => true,
            ("apiKey", _) => {
                let header = credential.header().map(|(name, _)| name);
                text("in") == "header" && header == Some(&text("name").to_ascii_lowercase())
            }
            _ => false,
        }
    }
}
