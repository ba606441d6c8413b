//! Whether somebody vouches for a file.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Package, PackageError, signed_artifact};
use crate::config::{Digest, PublicKey, Signature};
use crate::plugins::artifact::{Policy, SignatureSource};
use crate::plugins::{Artifact, LoadError};

/// What a file is, and who vouches for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// `package` or `artifact`.
    pub kind: &'static str,
    /// An artifact's digest, or that of a package's index.
    pub sha256: Digest,
    /// Whether there is a signature.
    pub signed: bool,
    /// The key that a package names, and that has signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<PublicKey>,
    /// The trusted key that has signed it.
    pub trusted: Option<PublicKey>,
}

/// Why a file is not what it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A package that is damaged or altered.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// An artifact that no node would read.
    #[error(transparent)]
    Artifact(#[from] LoadError),
}

/// Where an artifact's signature stands beside it.
pub fn signature_file(artifact: &Path) -> PathBuf {
    let mut name = artifact.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// Checks a package or an artifact against keys. An artifact's signature is
/// `signature`, or stands in [`signature_file`].
///
/// # Errors
/// The file is not what it claims to be. That nobody vouches for it is none.
pub fn verify(
    file: &Path,
    keys: &[PublicKey],
    signature: Option<Signature>,
) -> Result<Verdict, VerifyError> {
    if Package::is_one(file) {
        let package = Package::read(file, |_| false)?;
        let signer = package.index.signer;
        return Ok(Verdict {
            kind: "package",
            sha256: package.sha256,
            signed: signer.is_some(),
            signer,
            trusted: signer.filter(|signer| keys.contains(signer)),
        });
    }
    let policy = Policy { allow_unpinned: true, ..Policy::default() };
    let sha256 = Digest(Artifact::read(file, &policy)?.sha256);
    let beside = signature_file(file);
    let signature = match signature {
        None if beside.exists() => Some(Signature(SignatureSource::File(beside).read(file)?)),
        given => given,
    };
    let signed_by = |key: &&PublicKey| {
        signature.is_some_and(|signature| signed_artifact(key, &sha256, &signature))
    };
    Ok(Verdict {
        kind: "artifact",
        sha256,
        signed: signature.is_some(),
        signer: None,
        trusted: keys.iter().find(signed_by).copied(),
    })
}
