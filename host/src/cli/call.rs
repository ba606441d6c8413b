//! `alknet call`: one call, one answer.

use std::time::Duration;

use clap::Args;

use super::client::{block_on, one_call};
use super::failure::{Exit, Failure};
use super::input::{self, Input};
use super::{Global, Output};

/// Call an operation and print its answer
#[derive(Debug, Args)]
pub(super) struct Call {
    /// The operation's name, such as /echo/say
    name: String,
    /// The input, or - to read it from standard input
    #[arg(value_name = "JSON|-", default_value = "{}", value_parser = input::parse)]
    input: Input,
    /// How long to wait, such as 5s; the node gives up then, too
    #[arg(long, value_parser = input::duration)]
    timeout: Option<Duration>,
}

impl Call {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let target = global.target()?;
        let input = self.input.read()?;
        let answer = block_on(one_call(&target, &self.name, input, self.timeout))?;
        answer.to::<serde_json::Value>().map_err(malformed).and_then(|value| output.json(&value))
    }
}

pub(super) fn malformed(error: alknet_plugin_api::JsonError) -> Failure {
    Failure::new(Exit::Internal, format!("the node's answer cannot be shown: {error}"))
}
