//! `alknet plugin pin`: a digest into node.toml.

use std::path::PathBuf;

use clap::Args;

use crate::assembly::install::pin;
use crate::cli::failure::Failure;
use crate::cli::{Global, Output};
use crate::config::Signature;

/// Pin a plugin's file as it is now: write its digest, and its signature where the node
/// checks them, into its stanza of node.toml
#[derive(Debug, Args)]
pub(super) struct Pin {
    /// The plugin's file
    file: PathBuf,
    /// The stanza [default: the one that names the file, or is called as the plugin is]
    #[arg(long)]
    name: Option<String>,
    /// Its publisher's signature [default: what FILE.sig holds]
    #[arg(long, value_name = "SIGNATURE")]
    signature: Option<Signature>,
}

impl Pin {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let pinned = pin(&global.directory()?, &self.file, self.name.as_deref(), self.signature)?;
        if output.is_json() {
            return output.json(&pinned);
        }
        let signed = if pinned.signature.is_some() { ", signed" } else { "" };
        output.line(&format!("pinned {} to {}{signed}", pinned.plugin, pinned.sha256))?;
        output.note("a running node needs a restart");
        Ok(())
    }
}
