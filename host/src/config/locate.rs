//! Which node a command is about: the folder that holds its files.
//!
//! In this order:
//!
//! 1. `--node DIR`;
//! 2. `.node` in the current folder, where `alknet run --dev` puts a
//!    development node: if it is there, it is meant;
//! 3. `$XDG_CONFIG_HOME/alknet`, or else `~/.config/alknet`.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where the node of the file `node.toml` keeps what it writes by itself, such as
/// who owns what. No configuration is in it.
pub fn state_folder(node_config: &Path) -> PathBuf {
    node_config.with_file_name("state")
}

/// Where that node keeps components that are compiled already.
pub fn component_cache(node_config: &Path) -> PathBuf {
    node_config.with_file_name("component-cache")
}

/// A node's folder and the names of the files in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeDirectory(PathBuf);

/// What is looked at to find the folder when none is given.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// The current folder.
    pub current: PathBuf,
    /// `$XDG_CONFIG_HOME`; only an absolute path counts.
    pub config_home: Option<PathBuf>,
    /// `$HOME`.
    pub home: Option<PathBuf>,
}

/// There is no folder to look into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocateError {
    /// Neither a folder nor anything to find one by.
    #[error("no node: there is no `.node` here and no home folder; name one with `--node DIR`")]
    Nowhere,
}

impl NodeDirectory {
    /// The folder at `path`, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the folder and those in it that a node writes to, for their owner
    /// alone, unless they are there.
    ///
    /// # Errors
    /// One of them cannot be made.
    pub fn create(&self) -> std::io::Result<()> {
        let make = |folder| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        let file = self.node_config();
        make(self.0.clone())?;
        make(state_folder(&file))?;
        make(component_cache(&file))
    }

    /// `node.toml`.
    pub fn node_config(&self) -> PathBuf {
        self.0.join("node.toml")
    }

    /// `access.toml`.
    pub fn access_config(&self) -> PathBuf {
        self.0.join("access.toml")
    }

    /// `known-nodes`.
    pub fn known_nodes(&self) -> PathBuf {
        self.0.join("known-nodes")
    }

    /// `client.key`, by which the command line proves who it is.
    pub fn client_key(&self) -> PathBuf {
        self.0.join("client.key")
    }
}

impl Environment {
    /// Of this process.
    pub fn of_process() -> Self {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        Self {
            current: PathBuf::from("."),
            config_home: path("XDG_CONFIG_HOME"),
            home: path("HOME"),
        }
    }
}

/// The folder that a command is about.
///
/// # Errors
/// There is nothing to find it by.
pub fn locate(
    explicit: Option<&Path>,
    environment: &Environment,
) -> Result<NodeDirectory, LocateError> {
    if let Some(path) = explicit {
        return Ok(NodeDirectory::new(path));
    }
    let local = environment.current.join(".node");
    if local.is_dir() {
        return Ok(NodeDirectory(local));
    }
    let config_home = environment.config_home.clone().filter(|path| path.is_absolute());
    let home = || environment.home.as_ref().map(|home| home.join(".config"));
    config_home
        .or_else(home)
        .map(|base| NodeDirectory(base.join("alknet")))
        .ok_or(LocateError::Nowhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_node_is_meant() {
        let folder = tempfile::tempdir().unwrap();
        let mut environment = Environment {
            current: folder.path().into(),
            config_home: Some("relative".into()),
            home: Some("/home/ada".into()),
        };
        let found = |explicit, environment: &Environment| {
            locate(explicit, environment).map(|directory| directory.path().to_owned())
        };
        assert_eq!(found(None, &environment), Ok("/home/ada/.config/alknet".into()));
        environment.config_home = Some("/conf".into());
        assert_eq!(found(None, &environment), Ok("/conf/alknet".into()));
        std::fs::create_dir(folder.path().join(".node")).unwrap();
        assert_eq!(found(None, &environment), Ok(folder.path().join(".node")));
        assert_eq!(found(Some("/x".as_ref()), &environment), Ok("/x".into()));
        let empty = tempfile::tempdir().unwrap();
        let nothing = Environment { current: empty.path().into(), ..Environment::default() };
        assert_eq!(locate(None, &nothing), Err(LocateError::Nowhere));
    }
}
