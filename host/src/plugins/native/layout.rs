//! Compares the plugin's idea of the interface with the daemon's.
//!
//! Tables grow at their end, so either side may know fields that the other does
//! not; whichever is older must find everything it knows in the newer one. The
//! comparison is directed, and is made both ways. It also caches verdicts on
//! growing tables, so each direction gets a fresh cache: otherwise the verdict on
//! one plugin would depend on which others were loaded before.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use alknet_plugin_api::API_VERSION;
use alknet_plugin_api::abi::abi_stable::abi_stability::abi_checking::{
    AbiInstabilityErrors, CheckingGlobals, check_layout_compatibility_with_globals,
};
use alknet_plugin_api::abi::abi_stable::type_layout::TLFieldOrFunction;
pub(super) use alknet_plugin_api::abi::abi_stable::type_layout::TypeLayout;
use alknet_plugin_api::abi::module::layout as ours;

use crate::plugins::LoadError;

/// The most lines of a difference that are shown.
const LINES: usize = 24;

/// The most characters of a line that are shown.
const COLUMNS: usize = 160;

/// Accepts a plugin of the same, an older or a newer minor version.
pub(super) fn compare(path: &Path, theirs: &'static TypeLayout) -> Result<(), LoadError> {
    let refuse =
        |difference| LoadError::Layout { path: path.to_owned(), api: API_VERSION.0, difference };
    let compared = catch_unwind(AssertUnwindSafe(|| {
        let Err(newer) = directed(ours(), theirs) else { return Ok(()) };
        directed(theirs, ours()).map_err(|_| newer)
    }));
    match compared {
        Ok(Ok(())) => Ok(()),
        Ok(Err(errors)) => Err(refuse(last_block(&errors))),
        Err(_) => Err(refuse("  the description of its layout cannot be followed".into())),
    }
}

fn directed(
    interface: &'static TypeLayout,
    implementation: &'static TypeLayout,
) -> Result<(), AbiInstabilityErrors> {
    check_layout_compatibility_with_globals(interface, implementation, &CheckingGlobals::new())
}

/// The innermost difference: the field, what was expected and what was found.
/// The whole text can have more than a thousand lines.
fn last_block(errors: &AbiInstabilityErrors) -> String {
    let Some(last) = errors.errors.last() else { return String::new() };
    let mut lines = Vec::new();
    let place: Vec<_> = last
        .stack_trace
        .iter()
        .map(|step| match &step.found {
            TLFieldOrFunction::Field(field) => field.name(),
            TLFieldOrFunction::Function(function) => &*function.name,
        })
        .collect();
    if !place.is_empty() {
        lines.push(format!("  at {}", place.join(" / ")));
    }
    // The differences follow the dump of both types, each after an empty line.
    let text = last.to_string();
    let from = text.rfind("Layout of found type").unwrap_or(0);
    lines.extend(text[from..].lines().filter(|line| !line.trim().is_empty()).map(|line| {
        let cut: String = line.chars().take(COLUMNS).collect();
        format!("  {cut}")
    }));
    lines.truncate(LINES);
    lines.join("\n")
}
