//! Packages: one file `NAME-VERSION.alkp` with a plugin for several targets, what
//! it declares, and what people want to read before they install it.
//!
//! A package is a tar archive of regular files in one possible encoding. Its first
//! entry, the [`Index`], names all others with their sizes and digests, in order.
//! Whoever has checked the index, and the signature over it, knows each byte that
//! may follow, so that nothing is unpacked that was not announced: no second entry
//! of a name, no link, no path out of the folder. Nothing is compressed, so that
//! nothing grows. The format and its limits stand in `docs/packages.md`.
//!
//! * [`Package`] is one that is read and checked.
//! * [`Draft`] is one that is written.
//! * [`Signer`] signs artifacts and packages.

mod archive;
mod draft;
mod index;
mod sbom;
mod sign;
mod target;
mod verdict;

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::Kind;
use crate::config::{Digest, PublicKey};
use archive::Reader;

pub use draft::{Draft, DraftError, Source, project_files};
pub use index::{ArtifactEntry, FileEntry, Index};
pub use sbom::{SbomError, check as check_sbom, of_cargo as sbom_of_cargo};
pub use sign::{Signer, signed_artifact};
pub use target::{COMPONENT, Target};
pub use verdict::{Verdict, VerifyError, signature_file, verify};

/// What a package's name ends with.
pub const EXTENSION: &str = "alkp";

/// The first entry.
const INDEX: &str = "alkp.json";
/// The signature over the first entry.
const SIGNATURE: &str = "alkp.sig";
/// The README's entry.
pub const README: &str = "README.md";
/// The software bill of materials' entry, in CycloneDX's JSON.
pub const SBOM: &str = "sbom.cdx.json";

/// The largest index, in bytes.
const MAX_INDEX: u64 = 4 << 20;
/// The largest README or licence, in bytes.
const MAX_TEXT: u64 = 1 << 20;
/// The largest bill of materials, in bytes.
const MAX_SBOM: u64 = 16 << 20;
/// The largest package, in bytes of content.
const MAX_TOTAL: u64 = 2 << 30;
/// The most artifacts of a package, and the most other files.
const MAX_ENTRIES: usize = 16;

/// Why a file is not taken as a package.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub struct PackageError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a package.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The file is not there or cannot be read.
    #[error("cannot read the package: {0}. Check its name, and that you may read it")]
    Unreadable(std::io::Error),
    /// Something else.
    #[error("is no plugin package: {0}. `alknet plugin pack` makes one")]
    NotAPackage(&'static str),
    /// It ends too early.
    #[error("ends within `{entry}`. Copy it again and compare its digest with its publisher's")]
    Truncated {
        /// The entry that is cut off or missing.
        entry: String,
    },
    /// An entry that the index does not announce, or not there.
    #[error(
        "has {found} where `{expected}` belongs: its index announces each entry, in order, as a regular file. It was altered, or not made by `alknet plugin pack`"
    )]
    Unexpected {
        /// The entry that belongs there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Something follows its last entry.
    #[error("has something behind its end. It was altered, or not made by `alknet plugin pack`")]
    Trailing,
    /// An entry is larger than it may be.
    #[error("`{entry}` has {size} bytes, more than the {max} that it may have")]
    TooLarge {
        /// The entry.
        entry: String,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The index cannot be used.
    #[error("its index is wrong: {0}. This is its publisher's fault: tell them")]
    Index(String),
    /// An entry is not the one that the index announces.
    #[error(
        "`{entry}` was altered\n  announced sha256 {expected}\n  found     sha256 {found}\nDo not use it; get it again from its publisher"
    )]
    Altered {
        /// The entry.
        entry: String,
        /// The digest in the index.
        expected: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// A signature was not made by the key that the package names.
    #[error(
        "the signature of `{entry}` is not by {signer}, the key that the package names. Do not use it; get it again from its publisher"
    )]
    Signature {
        /// The entry.
        entry: String,
        /// The key.
        signer: PublicKey,
    },
    /// There is nothing in it for this machine.
    #[error(
        "has nothing for {wanted}: it has {found}. Get a package for this machine from its publisher"
    )]
    NoArtifact {
        /// What would run here.
        wanted: String,
        /// What it has.
        found: String,
    },
}

/// A package that is in order: each entry is what the index announces and, where
/// the package names a signer, signed by that key. Whether to trust the key is
/// another question.
#[derive(Debug)]
pub struct Package {
    /// Where it was read from.
    pub path: PathBuf,
    /// What is in it.
    pub index: Index,
    /// The digest of its index, which stands for all that is in it.
    pub sha256: Digest,
    /// The contents that were to be kept.
    kept: Vec<(String, Vec<u8>)>,
}

impl Package {
    /// Whether the file says that it is a package, in order or not.
    pub fn is_one(path: &Path) -> bool {
        let mut start = [0; INDEX.len() + 1];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
        read.is_ok() && start.strip_suffix(b"\0") == Some(INDEX.as_bytes())
            || path.extension().is_some_and(|extension| extension == EXTENSION)
    }

    /// Reads and checks a package, once from start to end, and keeps the contents
    /// of those entries that `keep` chooses by their names.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn read(path: &Path, keep: impl Fn(&str) -> bool) -> Result<Self, PackageError> {
        Self::read_file(path, keep).map_err(|fault| PackageError { path: path.to_owned(), fault })
    }

    fn read_file(path: &Path, keep: impl Fn(&str) -> bool) -> Result<Self, Fault> {
        // A pipe would wait for its writer.
        let found = std::fs::metadata(path).map_err(Fault::Unreadable)?;
        if !found.is_file() {
            return Err(Fault::NotAPackage("it is not a regular file"));
        }
        let file = File::open(path).map_err(Fault::Unreadable)?;
        let mut reader = Reader::new(BufReader::new(file));
        let size = reader.first(INDEX, MAX_INDEX)?;
        let mut text = Vec::new();
        let sha256 = reader.content(INDEX, size, Some(&mut text))?;
        let index = Index::parse(&text).map_err(Fault::Index)?;
        if let Some(signer) = index.signer {
            let size = sign::TEXT_LEN as u64;
            let mut signature = Vec::new();
            reader.entry(SIGNATURE, size)?;
            reader.content(SIGNATURE, size, Some(&mut signature))?;
            if !sign::signed_index(&signer, &sha256, &signature) {
                return Err(Fault::Signature { entry: INDEX.to_owned(), signer });
            }
        }
        let mut kept = Vec::new();
        for (name, size, expected) in index.announced() {
            let mut content = Vec::new();
            reader.entry(&name, size)?;
            let into = keep(&name).then_some(&mut content);
            let wanted = into.is_some();
            let found = reader.content(&name, size, into)?;
            if found != expected {
                return Err(Fault::Altered { entry: name, expected, found });
            }
            if wanted {
                kept.push((name, content));
            }
        }
        reader.end()?;
        index.check_signatures()?;
        Ok(Self { path: path.to_owned(), index, sha256, kept })
    }

    /// The content of an entry that was to be kept.
    pub fn content(&self, name: &str) -> Option<&[u8]> {
        self.kept.iter().find(|(kept, _)| kept == name).map(|(_, content)| content.as_slice())
    }

    /// The artifact for this machine: of this kind if one is asked for, otherwise
    /// the component, which is given less.
    ///
    /// # Errors
    /// [`Fault::NoArtifact`].
    pub fn choose(&self, kind: Option<Kind>) -> Result<&ArtifactEntry, PackageError> {
        let here = Target::here();
        let runs = |wanted: Kind| {
            let target = match wanted {
                Kind::Native | Kind::Isolated => here.as_str(),
                Kind::Component => COMPONENT,
            };
            self.index.artifacts.iter().find(move |artifact| artifact.target.as_str() == target)
        };
        let components = cfg!(feature = "components");
        let found = match kind {
            Some(kind) => runs(kind),
            None => runs(Kind::Component).filter(|_| components).or_else(|| runs(Kind::Native)),
        };
        found.ok_or_else(|| {
            let wanted = match kind {
                Some(Kind::Native | Kind::Isolated) => here.to_string(),
                Some(Kind::Component) => COMPONENT.to_owned(),
                None => format!("{here} or {COMPONENT}"),
            };
            let targets = self.index.artifacts.iter().map(|artifact| artifact.target.as_str());
            let found = targets.collect::<Vec<_>>().join(", ");
            PackageError { path: self.path.clone(), fault: Fault::NoArtifact { wanted, found } }
        })
    }
}

#[cfg(test)]
mod tests;
