//! Native shared libraries.
//!
//! Loading one runs its constructors, with all the rights of the daemon, so as
//! much as possible is decided before: from the file's bytes alone
//! (`elf`) that it is for this machine, complete, and exports a header of the
//! right version. Then the very bytes that were hashed are mapped (`library`),
//! the header's pointers are checked against the library's own segments, and the
//! interface that the plugin was compiled with is compared with the daemon's,
//! field by field (`layout`). A plugin in C has a fingerprint of the interface instead,
//! which is compared with the header's version, and a table that is checked like it.
//!
//! A library is never unloaded: threads, thread-locals and `'static` references
//! of the plugin may outlive any handle to it. An upgrade is a restart.

mod elf;
mod layout;
mod library;

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use alknet_plugin_api::abi::{Module, ModuleError, Panicked};
use alknet_plugin_api::{Built, Host, Json, Manifest};

use super::{Artifact, Kind, LoadError, Opened};

/// Loads a shared library and reads its manifest.
///
/// # Errors
/// The first check that fails. Up to [`LoadError::Loader`], nothing of the
/// library has run.
pub fn open(artifact: &Artifact) -> Result<Box<dyn Opened>, LoadError> {
    let image = elf::inspect(&artifact.path, &artifact.bytes)?;
    loaded(&artifact.path, sealed(artifact)?, &image)
}

/// As [`open`], of a file that [`sealed`] has made of an artifact.
///
/// # Errors
/// As for [`open`].
pub(super) fn open_sealed(path: &Path, mut file: File) -> Result<Box<dyn Opened>, LoadError> {
    let mut bytes = Vec::new();
    let unreadable = |cause| LoadError::Unreadable { path: path.to_owned(), cause };
    // Whoever had it before has read it, too.
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(unreadable)?;
    let image = elf::inspect(path, &bytes)?;
    drop(bytes);
    loaded(path, file, &image)
}

/// An anonymous file with the very bytes that were hashed, which nobody can change
/// any more.
pub(super) fn sealed(artifact: &Artifact) -> Result<File, LoadError> {
    library::sealed(&artifact.bytes).map_err(|error| LoadError::Loader {
        path: artifact.path.clone(),
        cause: format!("no anonymous file for it: {error}"),
    })
}

fn loaded(path: &Path, file: File, image: &elf::Image) -> Result<Box<dyn Opened>, LoadError> {
    let module = library::load(path, file, image)?;
    let manifest =
        module.manifest().map_err(|error| refused(path, None, "in manifest()", error))?;
    check_manifest(path, &manifest)?;
    Ok(Box::new(Native { path: path.to_owned(), manifest, module }))
}

pub(super) fn check_manifest(path: &Path, manifest: &Manifest) -> Result<(), LoadError> {
    let problems = manifest.problems();
    if problems.is_empty() {
        return Ok(());
    }
    let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
    Err(LoadError::Manifest { path: path.to_owned(), cause: texts.join("; ") })
}

fn refused(
    path: &Path,
    plugin: Option<&str>,
    during: &'static str,
    error: ModuleError,
) -> LoadError {
    match error {
        ModuleError::Panicked(panicked) => LoadError::panicked(path, during, panicked),
        ModuleError::Refused(reason) if plugin.is_some() => LoadError::Refused {
            path: path.to_owned(),
            plugin: plugin.unwrap_or_default().to_owned(),
            reason,
        },
        other => LoadError::Manifest { path: path.to_owned(), cause: other.to_string() },
    }
}

/// A loaded library.
struct Native {
    path: PathBuf,
    manifest: Manifest,
    module: Module,
}

impl Opened for Native {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn kind(&self) -> Kind {
        Kind::Native
    }

    fn build(self: Box<Self>, host: Host, config: Json) -> Result<Built, LoadError> {
        let Self { path, manifest, module } = *self;
        let name = manifest.name.clone();
        module
            .build(manifest, &host, &config)
            .map_err(|error| refused(&path, Some(&name), "in build()", error))
    }
}

/// The plugin's panic behind an error of a handler, where it is one. The
/// endpoint closes such a connection with another code.
pub fn panic_of(error: &alknet_plugin_api::HandlerError) -> Option<&Panicked> {
    match error {
        alknet_plugin_api::HandlerError::Internal(error) => error.downcast_ref(),
        alknet_plugin_api::HandlerError::StreamError(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}
