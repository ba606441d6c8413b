//! `alknet plugin sign`: a publisher's signature over a plugin.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::failure::{Exit, Failure};
use crate::cli::{Global, Output, vault};
use crate::config::{Digest, Place, Problems, read_key};
use crate::plugins::Artifact;
use crate::plugins::artifact::Policy;
use crate::plugins::package::{Draft, Package, Signer};

/// Sign a plugin's file, and print the signature as node.toml has it; or sign a package,
/// in place of the one that is there
#[derive(Debug, Args)]
pub(super) struct Sign {
    /// The plugin's file, or a package
    file: PathBuf,
    #[command(flatten)]
    with: With,
}

/// Which key signs.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(super) struct With {
    /// Sign with the key of the node's vault at this path, such as m/74'/3'/0'/0'
    #[arg(long, value_name = "PATH")]
    vault_path: Option<String>,
    /// Sign with the key in this file of mode 0600; `alknet plugin key` makes one
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

impl With {
    /// The key, if one is named.
    pub(super) fn signer(&self, global: &Global) -> Result<Option<Signer>, Failure> {
        match (&self.vault_path, &self.key_file) {
            (Some(path), _) => vault::signer(&global.directory()?, path).map(Some),
            (None, Some(file)) => {
                let seed = read_key(file, &Place::file_only(file)).map_err(Problems::from)?;
                Ok(Some(Signer::new(&seed)))
            }
            (None, None) => Ok(None),
        }
    }
}

impl Sign {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let signer = self.with.signer(global)?.ok_or_else(|| {
            Failure::new(Exit::Usage, "no key to sign with")
                .remedy("name one with `--vault-path` or `--key-file`")
        })?;
        let by = signer.public();
        if Package::is_one(&self.file) {
            let package = Package::read(&self.file, |_| true)?;
            let index = Draft::of(&package).write(Some(&signer), &self.file)?;
            return match output.is_json() {
                true => output.json(&json!({ "file": self.file, "signer": by, "index": index })),
                false => output.line(&format!("signed {} by {by}", self.file.display())),
            };
        }
        let policy = Policy { allow_unpinned: true, ..Policy::default() };
        let artifact = Artifact::read(&self.file, &policy)?;
        artifact.kind()?;
        let sha256 = Digest(artifact.sha256);
        let signature = signer.artifact(&sha256);
        match output.is_json() {
            true => output.json(&json!({
                "file": self.file, "sha256": sha256, "signer": by, "signature": signature,
            })),
            false => {
                output.note(&format!("by {by}; keep it as {}.sig", self.file.display()));
                output.line(&signature.to_string())
            }
        }
    }
}
