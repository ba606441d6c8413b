//! `[sandbox]` of `node.toml`: what the daemon and its scripts keep to.

use std::path::PathBuf;

use super::document::Table;
use super::node::optional;
use super::problem::Places;
use super::values::Bytes;

/// What the daemon confines itself to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sandbox {
    /// Whether the daemon has access to its own files only. Default no.
    pub files: bool,
    /// Whether it refuses to start where the kernel cannot see to that.
    pub required: bool,
    /// Further files and folders that it may read.
    pub read: Vec<PathBuf>,
    /// Further files and folders that it may read and change.
    pub write: Vec<PathBuf>,
    /// Where the section and its keys stand.
    pub(crate) places: Places,
}

/// The daemon's own confinement, and the limits of scripts, which are not built
/// in yet.
pub(super) fn sandbox(table: &Table<'_>) -> Sandbox {
    let mut sandbox = Sandbox::default();
    let enabled = optional(table, "sandbox", true, |table| {
        sandbox = Sandbox {
            files: table.or("files", false),
            required: table.or("required", false),
            read: table.or_default("read"),
            write: table.or_default("write"),
            places: table.places(),
        };
        let limits = [table.get::<Bytes>("memory"), table.get::<Bytes>("stack")];
        if !table.or("enabled", true) {
            return;
        }
        if limits.iter().any(Option::is_some) {
            table.problem(table.place().problem(
                "`memory` and `stack` limit scripts, which are not built into this binary",
                "remove both",
            ));
        }
        for key in ["required", "read", "write"] {
            if table.has(key) && !sandbox.files {
                table.problem(table.place_of(key).problem(
                    format!("`{key}` says nothing without `files = true`"),
                    "write `files = true` too, or remove it",
                ));
            }
        }
    });
    match enabled {
        true => sandbox,
        false => Sandbox::default(),
    }
}
