//! `alknet plugin verify`: whether somebody vouches for a plugin.

use std::path::PathBuf;

use clap::Args;

use crate::cli::failure::{Exit, Failure};
use crate::cli::{Global, Output};
use crate::config::{NodeFile, PublicKey, Signature};
use crate::plugins::package::verify;

/// Check a package, or a plugin's file and its signature, against publishers' keys
///
/// Ends with 0 when a trusted key has signed it, with 65 when it is altered or damaged,
/// and with 77 when it is whole and nobody who is trusted has signed it.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// A package, or a plugin's file
    file: PathBuf,
    /// A key that is trusted, as `ed25519:` and 64 digits; may stand several times
    /// [default: `trusted_plugin_keys` of the node]
    #[arg(long, value_name = "KEY")]
    key: Vec<PublicKey>,
    /// The signature of a plugin's file [default: what FILE.sig holds]
    #[arg(long, value_name = "SIGNATURE")]
    signature: Option<Signature>,
}

impl Verify {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let keys = match self.key.is_empty() {
            false => self.key,
            true => trusted_keys(global)?,
        };
        let verdict = verify(&self.file, &keys, self.signature)?;
        if output.is_json() {
            output.json(&verdict)?;
        } else {
            output.line(&format!("{} sha256 {}", verdict.kind, verdict.sha256))?;
        }
        let file = self.file.display();
        let (what, remedy) = match (verdict.trusted, verdict.signer, verdict.signed) {
            (Some(key), ..) => {
                return match output.is_json() {
                    true => Ok(()),
                    false => output.line(&format!("signed by {key}, which is trusted")),
                };
            }
            (None, Some(signer), _) => (
                format!("{file}: is signed by {signer}, which is not trusted"),
                "if it is the publisher's, trust it: `--key`, or `trusted_plugin_keys` in node.toml",
            ),
            (None, None, true) => (
                format!("{file}: none of {} trusted keys has signed it", keys.len()),
                "name its publisher's key: `--key`, or `trusted_plugin_keys` in node.toml",
            ),
            (None, None, false) => (
                format!("{file}: is not signed"),
                "compare its digest with its publisher's, or ask for a signature",
            ),
        };
        Err(Failure::new(Exit::Untrusted, what).remedy(remedy))
    }
}

/// The keys that the node trusts; none without a node.
fn trusted_keys(global: &Global) -> Result<Vec<PublicKey>, Failure> {
    let file = global.directory()?.node_config();
    match file.exists() {
        true => Ok(NodeFile::load(&file)?.trusted_keys()),
        false => Ok(Vec::new()),
    }
}
