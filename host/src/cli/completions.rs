//! `alknet completions`: what a shell needs to complete this command line.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::failure::Failure;
use super::{Cli, Output};

/// Print what a shell needs to complete this command line
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alknet completions bash >~/.local/share/bash-completion/completions/alknet
  alknet completions zsh >~/.zfunc/_alknet    # where fpath has ~/.zfunc
  alknet completions fish >~/.config/fish/completions/alknet.fish")]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, output: &Output) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "alknet", &mut script);
        output.line(String::from_utf8_lossy(&script).trim_end())
    }
}
