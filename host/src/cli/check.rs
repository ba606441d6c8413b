//! `alknet check`: everything that start-up would refuse, without starting.

use clap::Args;

use super::failure::Failure;
use super::{Global, Output};
use crate::config::{
    AccessConfig, KnownNodes, Mode, NodeConfig, NodeDirectory, Problems, read_key,
};

/// Check the node's files without starting it
#[derive(Debug, Args)]
pub(super) struct Check {}

impl Check {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let directory = global.directory()?;
        let (node, _) = files(&directory, Mode::Pinned)?;
        match output.is_json() {
            true => output.json(&serde_json::json!({ "problems": [] })),
            false => output.line(&format!(
                "{}: no problems; {} plugins",
                directory.node_config().display(),
                node.plugins.len()
            )),
        }
    }
}

/// The node's files, read as start-up reads them.
///
/// # Errors
/// Everything that is wrong with any of them.
pub(super) fn files(
    directory: &NodeDirectory,
    mode: Mode,
) -> Result<(NodeConfig, AccessConfig), Problems> {
    let mut problems = Problems::new();
    let node = problems.take(NodeConfig::load(&directory.node_config(), mode));
    let access = problems.take(AccessConfig::load(&directory.access_config()));
    problems.take(KnownNodes::load(&directory.known_nodes()));
    if let Some(node) = &node {
        if let Err(problem) = read_key(&node.identity_key, node.identity_place()) {
            problems.push(problem);
        }
        if let Some(access) = &access {
            problems.extend(access.over(&node.limits));
        }
    }
    problems.into_result(())?;
    // Without problems there are both.
    node.zip(access).ok_or_else(Problems::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::develop;

    #[test]
    fn k42_the_problems_of_all_files_come_together() {
        let folder = tempfile::tempdir().unwrap();
        let directory = NodeDirectory::new(folder.path());
        develop(&directory, "127.0.0.1:4433".parse().unwrap(), &[]).unwrap();
        assert!(files(&directory, Mode::Pinned).is_ok());

        std::fs::write(
            directory.node_config(),
            "[endpoint.quic]\nlisten = [\"[::]:1\"]\n\
            [identity]\nkey = \"missing.key\"\n[limits]\nconnections = 5\n",
        )
        .unwrap();
        std::fs::write(directory.access_config(), "[limits]\nconnections = 6\n").unwrap();
        std::fs::write(directory.known_nodes(), "x\n").unwrap();
        let problems = files(&directory, Mode::Pinned).unwrap_err();
        let found: Vec<_> = problems
            .iter()
            .map(|p| (p.place.file().file_name().unwrap().to_str().unwrap(), p.place.line()))
            .collect();
        assert_eq!(found, [("access.toml", 2), ("known-nodes", 1), ("node.toml", 4)]);

        std::fs::remove_file(directory.access_config()).unwrap();
        std::fs::remove_file(directory.node_config()).unwrap();
        let problems = files(&directory, Mode::Pinned).unwrap_err();
        assert_eq!(problems.len(), 3, "{problems}");
    }
}
