//! The index: everything that is in a package.

use alknet_plugin_api::Manifest;
use serde::{Deserialize, Serialize};

use super::sign::signed_artifact;
use super::target::Target;
use super::{
    Fault, INDEX, MAX_ENTRIES, MAX_INDEX, MAX_SBOM, MAX_TEXT, MAX_TOTAL, README, SBOM, SIGNATURE,
};
use crate::config::{Digest, PublicKey, Signature};
use crate::plugins::artifact::MAX_SIZE;

/// The version of the format.
const FORMAT: u32 = 1;

/// What is in a package.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// The version of the format.
    pub format: u32,
    /// What the plugin declares, whichever its target.
    pub manifest: Manifest,
    /// The key that has signed the package and its artifacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<PublicKey>,
    /// The plugin, for each target, by the names of the targets.
    pub artifacts: Vec<ArtifactEntry>,
    /// README, licences and bill of materials, by their names.
    pub files: Vec<FileEntry>,
}

/// The plugin for a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactEntry {
    /// What it is built for.
    pub target: Target,
    /// In bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Digest,
    /// The signer's signature over it, as deployment files have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

/// A file beside the artifacts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Digest,
}

impl ArtifactEntry {
    /// The name of its entry.
    pub fn name(&self) -> String {
        format!("artifacts/{}.{}", self.target, self.target.extension())
    }
}

impl Index {
    /// An index of these, which sorts them.
    pub(super) fn new(
        manifest: Manifest,
        signer: Option<PublicKey>,
        mut artifacts: Vec<ArtifactEntry>,
        mut files: Vec<FileEntry>,
    ) -> Self {
        artifacts.sort_by(|a, b| a.target.cmp(&b.target));
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Self { format: FORMAT, manifest, signer, artifacts, files }
    }

    /// Reads an index and checks what it announces.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if format != FORMAT {
            return Err(format!("it has format {format}, and this alknet reads format {FORMAT}"));
        }
        let index: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        index.check()?;
        Ok(index)
    }

    /// Whether the names, sizes and counts may be.
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(problem) = self.manifest.problems().first() {
            return Err(format!("the manifest: {problem}"));
        }
        if !is_version(&self.manifest.version) {
            return Err(format!("`{}` is no version", self.manifest.version));
        }
        if self.artifacts.is_empty() {
            return Err("it has no artifact".into());
        }
        if self.artifacts.len() > MAX_ENTRIES || self.files.len() > MAX_ENTRIES {
            return Err(format!("it has more than {MAX_ENTRIES} artifacts or other files"));
        }
        if let Some(two) = self.artifacts.windows(2).find(|two| two[0].target >= two[1].target) {
            return Err(format!("`{}` is there twice, or out of order", two[1].target));
        }
        if let Some(two) = self.files.windows(2).find(|two| two[0].name >= two[1].name) {
            return Err(format!("`{}` is there twice, or out of order", two[1].name));
        }
        for file in &self.files {
            let max = max_of(&file.name).ok_or_else(|| {
                format!("`{}` is neither README, licence nor bill of materials", file.name)
            })?;
            within(&file.name, file.size, max)?;
        }
        for artifact in &self.artifacts {
            within(&artifact.name(), artifact.size, MAX_SIZE)?;
            if artifact.signature.is_some() != self.signer.is_some() {
                return Err("its artifacts are signed all by its signer, or none is".into());
            }
        }
        let total = self.announced().iter().try_fold(0u64, |sum, one| sum.checked_add(one.1));
        within("all of it", total.unwrap_or(u64::MAX), MAX_TOTAL)
    }

    /// The entries after the index and its signature, in order: name, size, digest.
    pub(super) fn announced(&self) -> Vec<(String, u64, Digest)> {
        let artifacts = self.artifacts.iter().map(|one| (one.name(), one.size, one.sha256));
        let files = self.files.iter().map(|one| (one.name.clone(), one.size, one.sha256));
        artifacts.chain(files).collect()
    }

    /// Whether the signer has signed each artifact.
    pub(super) fn check_signatures(&self) -> Result<(), Fault> {
        let Some(signer) = self.signer else { return Ok(()) };
        let signed = |one: &&ArtifactEntry| {
            one.signature.is_some_and(|signature| signed_artifact(&signer, &one.sha256, &signature))
        };
        match self.artifacts.iter().find(|one| !signed(one)) {
            Some(one) => Err(Fault::Signature { entry: one.name(), signer }),
            None => Ok(()),
        }
    }

    /// The index as it stands in the package.
    pub(super) fn text(&self) -> Result<Vec<u8>, String> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| error.to_string())?;
        text.push(b'\n');
        within(INDEX, text.len() as u64, MAX_INDEX)?;
        Ok(text)
    }
}

fn within(name: &str, size: u64, max: u64) -> Result<(), String> {
    match size > max {
        true => Err(format!("`{name}` has {size} bytes, more than the {max} that it may have")),
        false => Ok(()),
    }
}

/// How large a file beside the artifacts may be; `None` for one that has no place in a
/// package.
pub(super) fn max_of(name: &str) -> Option<u64> {
    match name {
        README => Some(MAX_TEXT),
        SBOM => Some(MAX_SBOM),
        INDEX | SIGNATURE => None,
        name => is_licence(name).then_some(MAX_TEXT),
    }
}

/// Whether a file is called as licences are.
pub(super) fn is_licence(name: &str) -> bool {
    let letters = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    let begins = ["LICENSE", "LICENCE", "COPYING", "NOTICE"];
    name.len() <= 64
        && name.bytes().all(letters)
        && begins.iter().any(|begin| name.starts_with(begin))
}

/// Whether a version can stand in a file's name.
fn is_version(text: &str) -> bool {
    let letters = |b: u8| b.is_ascii_alphanumeric() || b".-+".contains(&b);
    text.starts_with(|c: char| c.is_ascii_digit()) && text.len() <= 64 && text.bytes().all(letters)
}
