//! `alknet run`: the daemon.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use super::check::files;
use super::failure::{Exit, Failure};
use super::{Global, Output};
use crate::config::{DevelopPlugin, Developed, Mode, NodeDirectory, develop};

/// Start the node and serve until Ctrl-C or SIGTERM
#[derive(Debug, Args)]
pub(super) struct Run {
    /// Make a development node if there is none, and take plugins that were built again
    #[arg(long)]
    dev: bool,
    /// A plugin of a new development node; may stand several times
    #[arg(long, value_name = "[NAME=]FILE", requires = "dev", value_parser = named_plugin)]
    plugin: Vec<NamedPlugin>,
    /// Where a new development node listens
    #[arg(long, value_name = "ADDRESS", requires = "dev", default_value = "127.0.0.1:4433")]
    listen: SocketAddr,
}

/// A plugin's file, and what the node is to call it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NamedPlugin {
    name: String,
    file: PathBuf,
}

impl Run {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let (directory, mode) = match self.dev {
            true => {
                let directory = global.node.clone().unwrap_or_else(|| PathBuf::from(".node"));
                let directory = NodeDirectory::new(directory);
                let done = self.develop(&directory)?;
                announce(&directory, &done, output);
                (directory, Mode::Development)
            }
            false => (global.directory()?, Mode::Pinned),
        };
        let (node, _access) = files(&directory, mode)?;
        let what = format!("cannot serve {} plugins", node.plugins.len());
        Err(Failure::new(Exit::Internal, what).remedy("this binary is built without an endpoint"))
    }

    fn develop(&self, directory: &NodeDirectory) -> Result<Developed, Failure> {
        let plugins: Vec<_> = self
            .plugin
            .iter()
            .map(|plugin| DevelopPlugin::new(&plugin.name, &plugin.file))
            .collect();
        develop(directory, self.listen, &plugins)
            .map_err(|error| Failure::new(Exit::Config, error.to_string()))
    }
}

fn announce(directory: &NodeDirectory, done: &Developed, output: &Output) {
    for file in &done.created {
        output.note(&format!("created {}", file.display()));
    }
    for change in &done.repinned {
        output.note(&format!(
            "{} was built again; pinned in {} to {}",
            change.name,
            directory.node_config().display(),
            change.to
        ));
    }
}

/// `NAME=FILE`, or a file whose name says what it is, such as
/// `libalknet_plugin_echo.so`.
fn named_plugin(text: &str) -> Result<NamedPlugin, String> {
    if let Some((name, file)) = text.split_once('=') {
        return Ok(NamedPlugin { name: name.into(), file: file.into() });
    }
    let file = PathBuf::from(text);
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let stem = stem.strip_prefix("lib").unwrap_or(stem);
    let stem = stem.strip_prefix("alknet_plugin_").unwrap_or(stem);
    match stem {
        "" => Err(format!("{} is not a plugin's file", Path::new(text).display())),
        stem => Ok(NamedPlugin { name: stem.to_lowercase().replace('_', "-"), file }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_named_by_its_file() {
        let name = |text| named_plugin(text).map(|plugin| plugin.name);
        assert_eq!(name("t/libalknet_plugin_echo.so"), Ok("echo".into()));
        assert_eq!(name("t/my_thing.wasm"), Ok("my-thing".into()));
        assert_eq!(name("other=t/libx.so"), Ok("other".into()));
        assert!(name("..").is_err());
    }
}
