//! `alknet plugin install`: a plugin out of a package, into a node's folder.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::assembly::install::{Installed, Wanted, install};
use crate::cli::failure::Failure;
use crate::cli::{Global, Output};
use crate::config::PublicKey;
use crate::plugins::Kind;

/// Install a plugin out of a package, or upgrade one; the file before stays, to go back to
///
/// The node uses it from its next start on. Nothing is granted: what the plugin wants is
/// printed, to be granted in node.toml.
#[derive(Debug, Args)]
pub(super) struct Install {
    /// The package
    package: PathBuf,
    /// What the node calls the plugin [default: as it calls itself]
    #[arg(long)]
    name: Option<String>,
    /// Which artifact, where there is a choice [default: as before, or confined]
    #[arg(long, value_enum)]
    kind: Option<Made>,
    /// The key that must have signed it; may stand several times
    #[arg(long, value_name = "KEY")]
    key: Vec<PublicKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Made {
    /// A shared library in the daemon's process
    Native,
    /// A WebAssembly component, confined
    Component,
}

impl Install {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let wanted = Wanted {
            name: self.name.as_deref(),
            kind: self.kind.map(|kind| match kind {
                Made::Native => Kind::Native,
                Made::Component => Kind::Component,
            }),
            keys: &self.key,
        };
        let installed = install(&global.directory()?, &self.package, &wanted)?;
        match output.is_json() {
            true => output.json(&installed),
            false => describe(&installed, output),
        }
    }
}

fn describe(installed: &Installed, output: &Output) -> Result<(), Failure> {
    let Installed { plugin, manifest, artifact, previous, .. } = installed;
    let done = if installed.added { "installed" } else { "upgraded" };
    output.line(&format!("{done} {plugin} {}: {}", manifest.version, artifact.display()))?;
    match installed.kind {
        Kind::Native => output.line(
            "trust: native. It runs with all rights of the daemon's process, and could read its \
             secrets; `isolation = \"process\"` gives it a process of its own",
        )?,
        Kind::Isolated => output.line("trust: isolated. It can do whatever its own process can")?,
        Kind::Component => output.line("trust: confined. It sees only what it is given")?,
    }
    let signed = match (installed.trusted, installed.signer) {
        (Some(key), _) => format!("signed by {key}, which is trusted"),
        (None, Some(key)) => format!("signed by {key}, which nobody has asked to trust"),
        (None, None) => "not signed".to_owned(),
    };
    output.line(&signed)?;
    if !manifest.alpns.is_empty() {
        output.line(&format!("serves connections: {}", manifest.alpns.join(", ")))?;
    }
    for spec in &manifest.operations {
        output.line(&format!("operation /{}: {}", spec.name, spec.description))?;
    }
    if manifest.gateway {
        output.line("wants to make calls on behalf of its peers: gateway = true")?;
    }
    for wanted in &manifest.capabilities {
        let kind = json!(wanted.kind);
        let optional = if wanted.optional { ", if you like" } else { "" };
        output.line(&format!(
            "wants a secret{optional}: capabilities.{} = {{ entry = \"…\", kind = \"{}\" }}: {}",
            wanted.name,
            kind.as_str().unwrap_or_default(),
            wanted.description
        ))?;
    }
    if let Some(previous) = previous {
        let previous = previous.display();
        output.note(&format!("go back with `alknet plugin pin --name {plugin} {previous}`"));
    }
    output.note("see that all is well with `alknet check`; a running node needs a restart");
    Ok(())
}
