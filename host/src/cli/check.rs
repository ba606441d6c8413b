//! `alknet check`: everything that start-up would refuse, without starting.

use clap::Args;
use serde_json::json;

use super::explain;
use super::failure::{Exit, Failure};
use super::{Global, Output};
use crate::assembly::{Assembled, assemble, confine};
use crate::config::{KnownNodes, Mode, NodeConfig, NodeDirectory, Problems};

/// Check the node's files without starting it
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Print what the files amount to: listeners, plugins, their trust, rights and secrets'
    /// names, and who may call what
    #[arg(long)]
    explain: bool,
}

impl Check {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let directory = global.directory()?;
        // As a start would: what the daemon could not read is wrong, too.
        if let Ok(config) = NodeConfig::load(&directory.node_config(), Mode::Pinned) {
            confine(&config)?;
        }
        let runtime = plugin_runtime()?;
        let assembled = everything(&directory, Mode::Pinned, runtime.handle())?;
        let findings = assembled.findings();
        let effective = self.explain.then(|| assembled.effective());
        match output.is_json() {
            true => {
                let mut checked = json!({
                    "problems": [], "findings": findings, "plugins": assembled.plugins(),
                    "imports": assembled.imports(),
                });
                if let Some(effective) = effective {
                    checked["effective"] = json!(effective);
                }
                output.json(&checked)
            }
            false => {
                if let Some(effective) = effective {
                    explain::print(&effective, output)?;
                }
                for finding in &findings {
                    output.note(&format!("note: {finding}"));
                }
                for import in assembled.imports() {
                    output.line(&format!(
                        "import {}: {} from {} (not contacted)",
                        import.name, import.prefix, import.source
                    ))?;
                }
                output.line(&format!(
                    "{}: no problems; {} plugins, {} operations",
                    directory.node_config().display(),
                    assembled.plugins().len(),
                    assembled.registry().operations().len()
                ))
            }
        }
    }
}

/// A runtime for the tasks that plugins start when they are built.
pub(super) fn plugin_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("alknet")
        .build()
        .map_err(|error| Failure::new(Exit::Internal, format!("cannot start the runtime: {error}")))
}

/// The node of `directory`, with all that start-up would find wrong.
///
/// # Errors
/// Everything that is wrong with any of its files and plugins.
pub(super) fn everything(
    directory: &NodeDirectory,
    mode: Mode,
    runtime: &tokio::runtime::Handle,
) -> Result<Assembled, Problems> {
    let mut problems = Problems::new();
    problems.take(KnownNodes::load(&directory.known_nodes()));
    let _entered = runtime.enter();
    let assembled = problems.take(assemble(directory, mode, runtime));
    problems.into_result(())?;
    // Without problems there is one.
    assembled.ok_or_else(Problems::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::develop;

    fn check(directory: &NodeDirectory) -> Result<Assembled, Problems> {
        let runtime = plugin_runtime().unwrap();
        everything(directory, Mode::Pinned, runtime.handle())
    }

    #[test]
    fn k42_the_problems_of_all_files_come_together() {
        let folder = tempfile::tempdir().unwrap();
        let directory = NodeDirectory::new(folder.path());
        develop(&directory, "127.0.0.1:4433".parse().unwrap(), &[]).unwrap();
        assert!(check(&directory).is_ok());

        std::fs::write(
            directory.node_config(),
            "[endpoint.quic]\nlisten = [\"[::]:1\"]\n\
            [identity]\nkey = \"missing.key\"\n[limits]\nconnections = 5\n",
        )
        .unwrap();
        std::fs::write(directory.access_config(), "[limits]\nconnections = 6\n").unwrap();
        std::fs::write(directory.known_nodes(), "x\n").unwrap();
        let problems = check(&directory).unwrap_err();
        let found: Vec<_> = problems
            .iter()
            .map(|p| (p.place.file().file_name().unwrap().to_str().unwrap(), p.place.line()))
            .collect();
        assert_eq!(found, [("access.toml", 2), ("known-nodes", 1), ("node.toml", 4)]);

        std::fs::remove_file(directory.access_config()).unwrap();
        std::fs::remove_file(directory.node_config()).unwrap();
        let problems = check(&directory).unwrap_err();
        assert_eq!(problems.len(), 3, "{problems}");
    }
}
