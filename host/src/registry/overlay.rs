//! Tiers above the core: operations that come and go.
//!
//! Composition looks names up in the session tier, then among imports, then in
//! the core. Nothing here alters the frozen core, and nothing may take one of
//! its names.

use std::collections::HashMap;
use std::sync::Arc;

use alknet_plugin_api::{OperationContext, Visibility};
use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::Registry;
use super::builder::RegistryError;
use super::spec::{Entry, HandlerRegistration};

/// A set of operations laid over the core for some calls.
pub trait Overlay: Send + Sync + 'static {
    /// The operation of this name.
    fn get(&self, name: &str) -> Option<Arc<Entry>>;
}

/// Supplies the session tier. Dispatch asks it for composed calls alone: the
/// wire never reaches a session's operations.
pub trait SessionOverlaySource: Send + Sync + 'static {
    /// The operations of the session that the composing call belongs to.
    fn overlay_for(&self, context: &OperationContext) -> Option<Arc<dyn Overlay>>;
}

/// Operations imported from elsewhere, by the import that owns them.
#[derive(Default)]
pub(crate) struct Imports {
    by_name: ArcSwap<HashMap<String, Imported>>,
    /// Writers take turns; readers never wait.
    writing: Mutex<()>,
}

#[derive(Clone)]
struct Imported {
    owner: Arc<str>,
    entry: Arc<Entry>,
}

impl Imports {
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Entry>> {
        self.by_name.load().get(name).map(|imported| imported.entry.clone())
    }

    /// Every import's operations, in the order of their names.
    pub(crate) fn sorted(&self) -> Vec<Arc<Entry>> {
        let by_name = self.by_name.load();
        let mut entries: Vec<_> = by_name.values().map(|imported| imported.entry.clone()).collect();
        entries.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        entries
    }
}

impl Registry {
    /// Puts `operations` in the place of everything that the import `owner` has
    /// registered so far, in one step. They are Internal unless `exposed` holds
    /// their name.
    ///
    /// # Errors
    /// Everything that is wrong with them; nothing changes then.
    pub fn attach_import(
        &self,
        owner: &str,
        operations: Vec<HandlerRegistration>,
        exposed: &dyn Fn(&str) -> bool,
    ) -> Result<(), Vec<RegistryError>> {
        let _turn = self.imports.writing.lock();
        let owner: Arc<str> = owner.into();
        let mut by_name = HashMap::clone(&self.imports.by_name.load());
        by_name.retain(|_, imported| imported.owner != owner);
        let mut problems = Vec::new();
        for mut registration in operations {
            let name = registration.spec.name.clone();
            registration.visibility = None;
            registration.spec.visibility =
                if exposed(&name) { Visibility::External } else { Visibility::Internal };
            if self.core.contains_key(&name) {
                problems
                    .push(RegistryError::Shadows { name: name.clone(), plugin: owner.to_string() });
            }
            if let Some(first) = by_name.get(&name) {
                problems.push(RegistryError::Duplicate {
                    name: name.clone(),
                    first: first.owner.to_string(),
                    second: owner.to_string(),
                });
            }
            match Entry::compile(registration) {
                Ok(entry) => {
                    let entry = Arc::new(entry);
                    by_name.insert(name, Imported { owner: owner.clone(), entry });
                }
                Err(more) => problems.extend(more),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        self.imports.by_name.store(Arc::new(by_name));
        Ok(())
    }

    /// Removes everything that the import `owner` has registered. Calls under
    /// way are left alone.
    pub fn detach_import(&self, owner: &str) {
        let _turn = self.imports.writing.lock();
        let mut by_name = HashMap::clone(&self.imports.by_name.load());
        by_name.retain(|_, imported| &*imported.owner != owner);
        self.imports.by_name.store(Arc::new(by_name));
    }
}
