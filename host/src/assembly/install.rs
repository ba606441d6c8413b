//! Bringing plugins into a node's folder, and pinning what is there.
//!
//! An artifact is named after its digest, so that an upgrade leaves the one before it
//! where it was: going back is pinning that one again. Nothing is granted here; what a
//! plugin wants, the operator grants.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use alknet_plugin_api::Manifest;
use serde::Serialize;

use crate::config::{
    Digest, EditError, NodeDirectory, NodeFile, PinnedArtifact, PublicKey, Signature, replace,
    write_new,
};
use crate::plugins::artifact::{Policy, SignatureSource, verifying_keys};
use crate::plugins::package::{
    ArtifactEntry, COMPONENT, Package, PackageError, Target, signature_file, signed_artifact,
};
use crate::plugins::{Artifact, Kind, LoadError, inspect, open};

/// Where installed artifacts are, in the node's folder.
pub const FOLDER: &str = "plugins";

/// Why a plugin was not installed or pinned. Nothing of the node has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// The package is damaged, altered, or for other machines.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The artifact would not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// `node.toml` cannot be changed so.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// Nobody who is trusted has signed it.
    #[error(
        "{}: {found}, and only those are trusted: {}. Get it from somebody whose key is among them, or add the key that you have checked to `trusted_plugin_keys`", path.display(), keys.join(", ")
    )]
    Untrusted {
        /// The package.
        path: PathBuf,
        /// Who has signed it.
        found: String,
        /// Who is trusted.
        keys: Vec<String>,
    },
    /// The artifact is of another plugin than its package says.
    #[error("{}: declares something else than its package does. This is its publisher's fault: tell them", .0.display())]
    Declares(PathBuf),
    /// A package was given where an artifact is wanted.
    #[error("{}: is a package; `alknet plugin install` takes the artifact out of it", .0.display())]
    IsPackage(PathBuf),
    /// A file cannot be written.
    #[error("{}: {error}; run the command as a user who may write to the node's folder", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// What to install, and whom to believe.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'a> {
    /// What the node calls it; by default as it calls itself.
    pub name: Option<&'a str>,
    /// What it is made of; by default what it was made of before, and confined if it is
    /// new and there is a choice.
    pub kind: Option<Kind>,
    /// Keys one of which must have signed it, beside those that the node trusts.
    pub keys: &'a [PublicKey],
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct Installed {
    /// The plugin's name in `node.toml`.
    pub plugin: String,
    /// Whether its stanza is new.
    pub added: bool,
    /// What it is made of.
    pub kind: Kind,
    /// How far it is trusted.
    pub trust: &'static str,
    /// Its file.
    pub artifact: PathBuf,
    /// Its digest.
    pub sha256: Digest,
    /// The trusted key that has signed it.
    pub trusted: Option<PublicKey>,
    /// The key that has signed it, trusted or not.
    pub signer: Option<PublicKey>,
    /// The file that the stanza named before, if it was another.
    pub previous: Option<PathBuf>,
    /// What it declares, and wants.
    pub manifest: Manifest,
}

/// Takes the artifact for this machine out of a package and has the node use it from
/// its next start on.
///
/// # Errors
/// See [`InstallError`].
pub fn install(
    directory: &NodeDirectory,
    package: &Path,
    wanted: &Wanted<'_>,
) -> Result<Installed, InstallError> {
    let here = [Target::here(), Target::component()];
    let ours =
        |name: &str| here.iter().any(|target| name.starts_with(&format!("artifacts/{target}.")));
    let package = Package::read(package, ours)?;
    let mut file = NodeFile::load(&directory.node_config())?;
    let manifest = &package.index.manifest;
    let name = wanted.name.unwrap_or(&manifest.name);
    let before = file.artifact_of(name).map(str::to_owned);
    let kind = wanted.kind.or_else(|| before.as_deref().map(kind_of));
    let chosen = package.choose(kind)?;
    let trusted = trusted(&package, &file, wanted.keys)?;
    let sha256 = chosen.sha256;
    let bytes = package.content(&chosen.name()).unwrap_or_default().to_vec();
    let artifact = Artifact { path: package.path.clone(), bytes, sha256: sha256.0 };
    if open(artifact)?.manifest() != manifest {
        return Err(InstallError::Declares(package.path));
    }
    let relative = format!("{FOLDER}/{}", file_name(name, manifest, chosen));
    let signature = chosen.signature.filter(|_| !file.trusted_keys().is_empty());
    let pin = PinnedArtifact { artifact: relative.clone(), sha256, signature };
    let added = !file.has(name);
    match added {
        true => file.add(name, &pin),
        false => file.pin(name, &pin)?,
    }
    file.check()?;
    let path = directory.path().join(&relative);
    let bytes = package.content(&chosen.name()).unwrap_or_default();
    write(&path, bytes)?;
    if let Some(signature) = chosen.signature {
        write(&signature_file(&path), format!("{signature}\n").as_bytes())?;
    }
    // As a start will read it: its mode, its owner, its digest and its signature.
    let policy = Policy {
        sha256: Some(sha256.0),
        signature: signature.map(|signature| SignatureSource::Bytes(signature.0)),
        trusted_keys: verifying_keys(&file.trusted_keys()),
        allow_unpinned: false,
    };
    Artifact::read(&path, &policy)?;
    file.save()?;
    let previous = before.map(|before| directory.path().join(before)).filter(|old| *old != path);
    Ok(Installed {
        plugin: name.to_owned(),
        added,
        kind: chosen.target.kind(),
        trust: chosen.target.kind().trust(),
        artifact: path,
        sha256,
        trusted,
        signer: package.index.signer,
        previous,
        manifest: manifest.clone(),
    })
}

/// The trusted key that has signed the package; `None` where the operator trusts no key
/// in particular.
fn trusted(
    package: &Package,
    file: &NodeFile,
    keys: &[PublicKey],
) -> Result<Option<PublicKey>, InstallError> {
    let signer = package.index.signer;
    for keys in [&file.trusted_keys()[..], keys] {
        if !keys.is_empty() && !signer.is_some_and(|signer| keys.contains(&signer)) {
            let found = match signer {
                Some(signer) => format!("is signed by {signer}"),
                None => "is not signed".to_owned(),
            };
            let keys = keys.iter().map(ToString::to_string).collect();
            return Err(InstallError::Untrusted { path: package.path.clone(), found, keys });
        }
    }
    Ok(signer.filter(|_| !keys.is_empty() || !file.trusted_keys().is_empty()))
}

fn kind_of(artifact: &str) -> Kind {
    match artifact.ends_with(".wasm") {
        true => Kind::Component,
        false => Kind::Native,
    }
}

fn file_name(name: &str, manifest: &Manifest, chosen: &ArtifactEntry) -> String {
    let extension = if chosen.target.as_str() == COMPONENT { "wasm" } else { "so" };
    let digest = &chosen.sha256.to_string()[..12];
    format!("{name}-{}-{digest}.{extension}", manifest.version)
}

/// Writes a file that the loader will accept; one of the same contents may be there.
fn write(path: &Path, bytes: &[u8]) -> Result<(), InstallError> {
    let file_error = |error| InstallError::File { path: path.to_owned(), error };
    if std::fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(file_error)?;
    }
    // What is there under this name is another file: it was altered, or is a signature by
    // another key.
    match path.exists() {
        true => replace(path, bytes),
        false => write_new(path, 0o644, bytes),
    }
    .map_err(file_error)
}

/// What was pinned.
#[derive(Clone, Debug, Serialize)]
pub struct Pinned {
    /// The plugin's name in `node.toml`.
    pub plugin: String,
    /// Its file.
    pub artifact: PathBuf,
    /// Its digest.
    pub sha256: Digest,
    /// Its signature, where the node checks signatures.
    pub signature: Option<Signature>,
}

/// Has a plugin's stanza name an artifact and pin it as it is now. The stanza is the one
/// of this name, or the one that names the file, or else the one that is called as the
/// plugin calls itself.
///
/// # Errors
/// See [`InstallError`].
pub fn pin(
    directory: &NodeDirectory,
    artifact: &Path,
    name: Option<&str>,
    signature: Option<Signature>,
) -> Result<Pinned, InstallError> {
    if Package::is_one(artifact) {
        return Err(InstallError::IsPackage(artifact.to_owned()));
    }
    let mut file = NodeFile::load(&directory.node_config())?;
    let keys = file.trusted_keys();
    let policy = Policy { allow_unpinned: true, ..Policy::default() };
    let sha256 = Digest(Artifact::read(artifact, &policy)?.sha256);
    let name = match name.map(str::to_owned).or_else(|| file.plugin_of(artifact)) {
        Some(name) => name,
        None => inspect(artifact)?.1.manifest().name.clone(),
    };
    let beside = signature_file(artifact);
    let source = match signature {
        Some(signature) => Some(SignatureSource::Bytes(signature.0)),
        None if keys.is_empty() => None,
        None if beside.exists() => Some(SignatureSource::File(beside)),
        None => file
            .signature_of(&name)
            .filter(|old| keys.iter().any(|key| signed_artifact(key, &sha256, old)))
            .map(|old| SignatureSource::Bytes(old.0)),
    };
    let policy = Policy {
        signature: source.clone(),
        trusted_keys: verifying_keys(&keys),
        sha256: Some(sha256.0),
        allow_unpinned: false,
    };
    Artifact::read(artifact, &policy)?;
    let signature = match source {
        Some(source) => Some(Signature(source.read(artifact)?)),
        None => None,
    };
    let path = artifact
        .canonicalize()
        .map_err(|error| InstallError::File { path: artifact.to_owned(), error })?;
    let folder = directory.path().canonicalize().unwrap_or_else(|_| directory.path().to_owned());
    let written = path.strip_prefix(&folder).unwrap_or(&path).display().to_string();
    file.pin(&name, &PinnedArtifact { artifact: written, sha256, signature })?;
    file.save()?;
    Ok(Pinned { plugin: name, artifact: path, sha256, signature })
}
