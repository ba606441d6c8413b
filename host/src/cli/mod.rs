//! The command line. One file a subcommand, each of which turns its arguments
//! into a call of the library and what comes back into text; none decides
//! anything itself.
//!
//! Every command takes `--node` (whose files are used), `--to` (which node is
//! called), `--json` and `-v`. What it was asked for goes to standard output,
//! everything else to standard error. Its end says what happened:
//!
//! | status | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | the operation answered with an error |
//! | 64 | the command line is wrong |
//! | 65 | a file is not what it claims to be: altered, damaged, for another machine |
//! | 69 | the node or an address cannot be reached, or the vault does not unlock |
//! | 70 | alknet itself failed |
//! | 77 | nobody who is trusted vouches for a file |
//! | 78 | the configuration is wrong |

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{Environment, NodeDirectory, locate};

mod acl;
mod call;
mod check;
pub mod client;
mod completions;
mod connect;
mod dev;
mod explain;
mod failure;
mod init;
mod input;
mod isolated;
mod man;
mod ops;
mod output;
mod peer;
mod phrase;
mod plugin;
mod reload;
mod run;
mod status;
mod subscribe;
mod target;
mod token;
mod usage;
mod vault;
mod whoami;

pub use failure::{Exit, Failure};
pub use output::{Output, Table};
pub use target::Target;

/// One UDP port, many protocols: each connection goes to a plugin by its ALPN.
#[derive(Debug, Parser)]
#[command(
    name = "alknet", version, propagate_version = true, max_term_width = 100,
    after_long_help = HELP
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
First steps:
  alknet run --dev --plugin FILE   make a development node in .node and start it
  alknet ops                       list what it offers
  alknet call /echo/say '{\"text\":\"hi\"}'

Files in the node's folder:
  node.toml      what the node is made of
  access.toml    who may do what; taken up while the node runs
  known-nodes    names of nodes, for --to
  client.key     the key that this command line proves itself by

Exit status:
  0   done
  1   the operation answered with an error
  64  the command line is wrong
  69  the node or an address cannot be reached, or the vault does not unlock
  70  alknet itself failed
  78  the configuration is wrong

Colour is for terminals; NO_COLOR, CLICOLOR and CLICOLOR_FORCE are heeded.";

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// The node's folder [default: ./.node if it is there, else ~/.config/alknet]
    #[arg(long, global = true, value_name = "DIR")]
    node: Option<PathBuf>,
    /// The node to call: alknet://KEY@HOST:PORT, alknet://HOST:PORT with a certificate,
    /// alknet+tcp:// over TCP, or a name in `known-nodes` [default: local]
    #[arg(long, global = true, value_name = "ADDRESS")]
    to: Option<String>,
    /// A file of mode 0600 with a token to call with, or - for standard input
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    certificates: target::Certificates,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// Log more to standard error; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Init),
    Run(run::Run),
    Check(check::Check),
    Ops(ops::Ops),
    Call(call::Call),
    Subscribe(subscribe::Subscribe),
    Connect(connect::Connect),
    Status(status::Status),
    Reload(reload::Reload),
    Peer(peer::Peer),
    Plugin(plugin::Plugin),
    Dev(dev::Dev),
    Vault(vault::Vault),
    Token(token::Token),
    Whoami(whoami::Whoami),
    Acl(acl::Acl),
    #[command(hide = true)]
    IsolatedPlugin(isolated::IsolatedPlugin),
    Completions(completions::Completions),
    Man(man::Man),
}

impl Global {
    /// The folder that the command is about.
    ///
    /// # Errors
    /// There is nothing to find one by.
    pub fn directory(&self) -> Result<NodeDirectory, Failure> {
        locate(self.node.as_deref(), &Environment::of_process())
            .map_err(|error| Failure::new(Exit::Usage, error.to_string()))
    }

    /// The node to call.
    ///
    /// # Errors
    /// The address is wrong, unknown, or there is no local node.
    pub fn target(&self) -> Result<Target, Failure> {
        self.target_of(self.to.as_deref())
    }

    /// The node that an address or a name means.
    ///
    /// # Errors
    /// As for [`target`](Self::target).
    pub fn target_of(&self, to: Option<&str>) -> Result<Target, Failure> {
        let target = target::resolve_with(&self.directory()?, to, &self.certificates)?;
        let token = self.token_file.as_deref().map(target::read_token).transpose()?;
        Ok(Target { token, ..target })
    }

    /// Whether the command line names the node to call.
    pub fn names_a_node(&self) -> bool {
        self.to.is_some()
    }

    /// How often `-v` was given.
    pub fn verbose(&self) -> u8 {
        self.verbose
    }
}

/// Runs the command line of this process and gives its exit status.
pub fn main() -> ExitCode {
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no failure. A
            // closed standard stream leaves nobody to tell about it.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let output = Output::of_process(cli.global.json);
    // Any command may come to hold a key.
    if let Err(error) = crate::assembly::refuse_core_dumps() {
        output.note(&format!("core dumps cannot be forbidden: {error}"));
    }
    let Cli { global, command } = cli;
    let result = match command {
        Command::Init(command) => command.run(&global, &output),
        Command::Run(command) => command.run(&global, &output),
        Command::Check(command) => command.run(&global, &output),
        Command::Ops(command) => command.run(&global, &output),
        Command::Call(command) => command.run(&global, &output),
        Command::Subscribe(command) => command.run(&global, &output),
        Command::Connect(command) => command.run(&global, &output),
        Command::Status(command) => command.run(&global, &output),
        Command::Reload(command) => command.run(&global, &output),
        Command::Peer(command) => command.run(&global, &output),
        Command::Plugin(command) => command.run(&global, &output),
        Command::Dev(command) => command.run(&global, &output),
        Command::Vault(command) => command.run(&global, &output),
        Command::Token(command) => command.run(&global, &output),
        Command::Whoami(command) => command.run(&global, &output),
        Command::Acl(command) => command.run(&global, &output),
        Command::IsolatedPlugin(command) => command.run(),
        Command::Completions(command) => command.run(&output),
        Command::Man(command) => command.run(&output),
    };
    match result {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit().into()
        }
    }
}

fn parse<I>(arguments: I) -> Result<Cli, clap::Error>
where
    I: IntoIterator,
    I::Item: Into<std::ffi::OsString> + Clone,
{
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn k21_a_wrong_command_line_is_64_and_help_is_0() {
        for wrong in [
            vec!["alknet"],
            vec!["alknet", "cal", "/x"],
            vec!["alknet", "call"],
            vec!["alknet", "call", "/x/y", "{}", "--timeout", "5"],
            vec!["alknet", "call", "/x/y", "{", "--json"],
            vec!["alknet", "connect", "home"],
            vec!["alknet", "plugin"],
        ] {
            let error = parse(&wrong).expect_err(&wrong.join(" "));
            assert!(error.use_stderr(), "{wrong:?}");
        }
        assert!(!parse(["alknet", "--help"]).unwrap_err().use_stderr());
        assert!(!parse(["alknet", "run", "--version"]).unwrap_err().use_stderr());
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        let before = parse(["alknet", "--json", "--node", "n", "ops"]).unwrap();
        let after = parse(["alknet", "ops", "--node", "n", "--json", "-vv"]).unwrap();
        assert!(before.global.json && after.global.json);
        assert_eq!(before.global.node, after.global.node);
        assert_eq!(after.global.verbose, 2);
    }

    #[test]
    fn k72_no_option_takes_a_secret() {
        fn long_options(command: &clap::Command, into: &mut Vec<String>) {
            // A flag takes nothing.
            let taking = command.get_arguments().filter(|a| a.get_action().takes_values());
            into.extend(taking.filter_map(|a| a.get_long().map(str::to_owned)));
            for subcommand in command.get_subcommands() {
                long_options(subcommand, into);
            }
        }
        let mut options = Vec::new();
        long_options(&Cli::command(), &mut options);
        assert!(options.contains(&"node".to_owned()));
        // `peer add --key` takes a public key, and refuses what could be another; a
        // token's file must be its owner's alone, and so must a publisher's key.
        options.retain(|option| !["key", "token-file", "key-file"].contains(&&**option));
        for secret in ["seed", "mnemonic", "passphrase", "password", "token", "key", "secret"] {
            assert!(!options.iter().any(|option| option.contains(secret)), "{options:?}");
        }
    }
}
