//! `alknet man`: manual pages.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::failure::{Exit, Failure};
use super::{Cli, Output};

/// Write manual pages, one a command
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  alknet man ~/.local/share/man/man1 && man alknet-run")]
pub(super) struct Man {
    /// The folder that they go to; it is made if need be
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Man {
    pub(super) fn run(self, output: &Output) -> Result<(), Failure> {
        let folder = &self.folder;
        std::fs::create_dir_all(folder)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
            .map_err(|error| {
                Failure::new(Exit::Usage, format!("cannot write to {}: {error}", folder.display()))
                    .remedy("name a folder that you may write to")
            })?;
        output.note(&format!("wrote manual pages to {}", folder.display()));
        Ok(())
    }
}
