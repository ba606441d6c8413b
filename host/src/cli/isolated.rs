//! `alknet isolated-plugin`: what the daemon runs for a plugin with
//! `isolation = "process"`.

use clap::Args;

use super::failure::{Exit, Failure};
use crate::plugins::process::child;

/// Run one plugin for a daemon, which starts this itself
#[derive(Debug, Args)]
pub(super) struct IsolatedPlugin {
    /// The plugin's name, for who lists processes
    #[arg(value_name = "NAME")]
    _name: String,
}

impl IsolatedPlugin {
    pub(super) fn run(self) -> Result<(), Failure> {
        child::run().map_err(|error| Failure::new(Exit::Internal, error))
    }
}
