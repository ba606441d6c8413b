//! Packages that are made.

use std::io;
use std::path::{Path, PathBuf};

use alknet_plugin_api::Manifest;
use sha2::{Digest as _, Sha256};

use super::archive::Writer;
use super::index::{ArtifactEntry, FileEntry, Index, is_licence, max_of};
use super::{
    COMPONENT, EXTENSION, INDEX, Package, README, SBOM, SIGNATURE, SbomError, Signer, Target,
    check_sbom,
};
use crate::config::{Digest, replace, write_new};
use crate::plugins::{Artifact, Kind, LoadError, artifact, open};

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DraftError {
    /// An artifact is no plugin, or does not load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// An artifact is not for its target.
    #[error("{}: {what}", path.display())]
    Target {
        /// The artifact.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
    /// Two artifacts for one target.
    #[error("there are two artifacts for `{0}`; give one")]
    Duplicate(Target),
    /// No artifact can be asked what it declares.
    #[error(
        "none of the artifacts runs here, so that nothing tells what the plugin declares; add the one for `{}`, or a component",
        Target::here()
    )]
    NoneHere,
    /// The artifacts are of different plugins.
    #[error(
        "the artifacts for `{first}` and `{second}` declare different things; build both from the same source"
    )]
    Manifests {
        /// A target.
        first: Target,
        /// Another.
        second: Target,
    },
    /// A file that has no place in a package.
    #[error(
        "{}: a package takes README.md, sbom.cdx.json, and licences whose names begin with LICENSE, LICENCE, COPYING or NOTICE", .0.display()
    )]
    Name(PathBuf),
    /// The bill of materials is none.
    #[error("{}: {error}", path.display())]
    Sbom {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: SbomError,
    },
    /// It would be larger than a package may be, or named as none may be.
    #[error("the package would not be read: {0}")]
    Index(String),
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// An artifact that goes into a package.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it is built for, where its contents do not tell.
    pub target: Option<Target>,
    /// The file.
    pub path: PathBuf,
}

/// A package that is not written yet.
pub struct Draft {
    manifest: Manifest,
    artifacts: Vec<(Target, Vec<u8>)>,
    files: Vec<(String, Vec<u8>)>,
}

impl Draft {
    /// A package of these. Those that run here are opened, to see what they declare.
    ///
    /// # Errors
    /// One is no plugin or not for its target, or they do not belong together.
    pub fn new(sources: &[Source]) -> Result<Self, DraftError> {
        let mut artifacts: Vec<(Target, Vec<u8>)> = Vec::new();
        let mut declared: Option<(Target, Manifest)> = None;
        for source in sources {
            let policy = artifact::Policy { allow_unpinned: true, ..Default::default() };
            let artifact = Artifact::read(&source.path, &policy)?;
            let target = target_of(source, &artifact)?;
            if artifacts.iter().any(|(other, _)| *other == target) {
                return Err(DraftError::Duplicate(target));
            }
            artifacts.push((target.clone(), artifact.bytes.clone()));
            let component = target.as_str() == COMPONENT && cfg!(feature = "components");
            if !component && target != Target::here() {
                continue;
            }
            let manifest = open(artifact)?.manifest().clone();
            match &declared {
                None => declared = Some((target, manifest)),
                Some((_, other)) if *other == manifest => {}
                Some((first, _)) => {
                    return Err(DraftError::Manifests { first: first.clone(), second: target });
                }
            }
        }
        let (_, manifest) = declared.ok_or(DraftError::NoneHere)?;
        Ok(Self { manifest, artifacts, files: Vec::new() })
    }

    /// A package that is there, all of whose contents were kept.
    pub fn of(package: &Package) -> Self {
        let content = |name: &str| package.content(name).unwrap_or_default().to_vec();
        let Index { manifest, artifacts, files, .. } = &package.index;
        let artifacts = artifacts.iter().map(|one| (one.target.clone(), content(&one.name())));
        let files = files.iter().map(|one| (one.name.clone(), content(&one.name)));
        Self { manifest: manifest.clone(), artifacts: artifacts.collect(), files: files.collect() }
    }

    /// Adds a README or a licence, by its name, or a bill of materials.
    ///
    /// # Errors
    /// It cannot be read, or has no place in a package.
    pub fn add(&mut self, name: &str, path: &Path) -> Result<(), DraftError> {
        let content = std::fs::read(path)
            .map_err(|error| DraftError::File { path: path.to_owned(), error })?;
        self.add_content(name, content).map_err(|error| match error {
            DraftError::Name(_) => DraftError::Name(path.to_owned()),
            DraftError::Sbom { error, .. } => DraftError::Sbom { path: path.to_owned(), error },
            error => error,
        })
    }

    /// Adds what is called `name` in the package; what was called so is replaced.
    ///
    /// # Errors
    /// It has no place in a package.
    pub fn add_content(&mut self, name: &str, content: Vec<u8>) -> Result<(), DraftError> {
        if max_of(name).is_none() {
            return Err(DraftError::Name(name.into()));
        }
        if name == SBOM {
            check_sbom(&content).map_err(|error| DraftError::Sbom { path: name.into(), error })?;
        }
        self.files.retain(|(other, _)| other != name);
        self.files.push((name.to_owned(), content));
        Ok(())
    }

    /// `NAME-VERSION.alkp`.
    pub fn file_name(&self) -> String {
        format!("{}-{}.{EXTENSION}", self.manifest.name, self.manifest.version)
    }

    /// What it lacks of what people look for.
    pub fn lacks(&self) -> Vec<&'static str> {
        let has = |wanted: &dyn Fn(&str) -> bool| self.files.iter().any(|(name, _)| wanted(name));
        let parts: [(&'static str, bool); 3] = [
            ("a README", has(&|name| name == README)),
            ("a licence", has(&is_licence)),
            ("a bill of materials", has(&|name| name == SBOM)),
        ];
        parts.into_iter().filter(|(_, there)| !there).map(|(what, _)| what).collect()
    }

    /// Writes the package, in place of a file that is there, and returns its index. The
    /// same contents and key make the same bytes.
    ///
    /// # Errors
    /// It cannot be written, or is larger than a package may be.
    pub fn write(&self, signer: Option<&Signer>, to: &Path) -> Result<Index, DraftError> {
        let file_error = |error| DraftError::File { path: to.to_owned(), error };
        let artifacts = self.artifacts.iter().map(|(target, content)| {
            let sha256 = digest(content);
            ArtifactEntry {
                target: target.clone(),
                size: content.len() as u64,
                sha256,
                signature: signer.map(|signer| signer.artifact(&sha256)),
            }
        });
        let files = self.files.iter().map(|(name, content)| FileEntry {
            name: name.clone(),
            size: content.len() as u64,
            sha256: digest(content),
        });
        let index = Index::new(
            self.manifest.clone(),
            signer.map(Signer::public),
            artifacts.collect(),
            files.collect(),
        );
        index.check().map_err(DraftError::Index)?;
        let text = index.text().map_err(DraftError::Index)?;
        let mut archive = Writer::new(Vec::new());
        archive.entry(INDEX, &text).map_err(file_error)?;
        if let Some(signer) = signer {
            let signature = signer.index(&digest(&text));
            archive.entry(SIGNATURE, signature.as_bytes()).map_err(file_error)?;
        }
        for entry in &index.artifacts {
            let found = self.artifacts.iter().find(|(target, _)| *target == entry.target);
            let content = found.map(|(_, content)| content.as_slice()).unwrap_or_default();
            archive.entry(&entry.name(), content).map_err(file_error)?;
        }
        for entry in &index.files {
            let found = self.files.iter().find(|(name, _)| *name == entry.name);
            let content = found.map(|(_, content)| content.as_slice()).unwrap_or_default();
            archive.entry(&entry.name, content).map_err(file_error)?;
        }
        let bytes = archive.end().map_err(file_error)?;
        match to.exists() {
            true => replace(to, &bytes),
            false => write_new(to, 0o644, &bytes),
        }
        .map_err(file_error)?;
        Ok(index)
    }
}

fn digest(content: &[u8]) -> Digest {
    Digest(Sha256::digest(content).into())
}

fn target_of(source: &Source, artifact: &Artifact) -> Result<Target, DraftError> {
    let wrong = |what: String| DraftError::Target { path: source.path.clone(), what };
    let kind = artifact.kind()?;
    match (&source.target, kind) {
        (None, Kind::Component) => Ok(Target::component()),
        (None, Kind::Native | Kind::Isolated) if Target::here().fits(&artifact.bytes) => {
            Ok(Target::here())
        }
        (None, Kind::Native | Kind::Isolated) => Err(wrong(
            "is built for another machine; say which, as in `--target \
             aarch64-unknown-linux-gnu=FILE`"
                .into(),
        )),
        (Some(target), kind) => {
            let fits = kind == Kind::Component || target.fits(&artifact.bytes);
            match target.kind() == kind && fits {
                true => Ok(target.clone()),
                false => Err(wrong(format!("is not built for `{target}`; name its own target"))),
            }
        }
    }
}

/// The README and the licences in a project's folder.
///
/// # Errors
/// The folder cannot be read.
pub fn project_files(folder: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && entry.path().is_file()
            && (name == README || is_licence(&name))
        {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}
