//! `alknet subscribe`: the items of a subscription, one a line.

use clap::Args;
use futures_util::StreamExt;

use super::client::{block_on, caller};
use super::failure::Failure;
use super::input::{self, Input};
use super::output::visible_json;
use super::{Global, Output};

/// Subscribe to an operation and print each item on a line, until it ends or Ctrl-C
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  alknet subscribe /clock/ticks '{\"every_ms\":500,\"count\":3}'")]
pub(super) struct Subscribe {
    /// The operation's name, such as /clock/ticks
    name: String,
    /// The input, or - to read it from standard input
    #[arg(value_name = "JSON|-", default_value = "{}", value_parser = input::parse)]
    input: Input,
}

impl Subscribe {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let target = global.target()?;
        let input = self.input.read()?;
        block_on(async {
            let caller = caller(&target).await?;
            let mut items = caller.subscribe(&self.name, input);
            let result = loop {
                let item = tokio::select! {
                    item = items.next() => item,
                    _ = tokio::signal::ctrl_c() => None,
                };
                match item {
                    None => break Ok(()),
                    Some(Err(error)) => break Err(error.into()),
                    // JSON text may hold newlines between its values.
                    Some(Ok(json)) => {
                        let line = one_line(&json.to_string());
                        if let Err(failure) = output.line(&visible_json(&line)) {
                            break Err(failure);
                        }
                    }
                }
            };
            // Dropped first: closing then carries the abort to the node.
            drop(items);
            caller.close().await;
            result
        })
    }
}

/// JSON without the newlines between its values; inside strings there are none.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}
