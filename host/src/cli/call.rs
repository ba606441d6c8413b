//! `alknet call`: one call, one answer.

use std::time::{Duration, Instant};

use alknet_plugin_api::{CallError, Json, OperationType, code};
use clap::Args;

use super::client::{Caller, block_on, caller, until_interrupted};
use super::failure::{Exit, Failure};
use super::input::{self, Input};
use super::{Global, Output};

/// Call an operation and print its answer
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alknet call /echo/say '{\"text\":\"hi\"}'
  alknet call --timeout 2s --to archive /files/list <input.json -")]
pub(super) struct Call {
    /// The operation's name, such as /echo/say
    name: String,
    /// The input, or - to read it from standard input
    #[arg(value_name = "JSON|-", default_value = "{}", value_parser = input::parse)]
    input: Input,
    /// How long to wait, such as 5s; the node gives up then, too
    #[arg(long, value_name = "TIME", value_parser = input::duration)]
    timeout: Option<Duration>,
}

impl Call {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let target = global.target()?;
        let input = self.input.read()?;
        let answer = block_on(async {
            let caller = caller(&target).await?;
            let answer = until_interrupted(answer(&*caller, &self.name, input, self.timeout)).await;
            caller.close().await;
            answer
        })?;
        answer.to::<serde_json::Value>().map_err(malformed).and_then(|value| output.json(&value))
    }
}

/// Calls, unless the node says that the operation is a subscription: the first
/// item would be taken for the answer.
async fn answer(
    caller: &dyn Caller,
    name: &str,
    input: Json,
    timeout: Option<Duration>,
) -> Result<Json, CallError> {
    let began = Instant::now();
    // Where the node tells nothing, the call's own answer says what is wrong.
    let op_type = caller.operation_type(name, timeout).await;
    if op_type == Some(OperationType::Subscription) {
        return Err(CallError::new(
            code::INVALID_OPERATION_TYPE,
            format!("{name} is a subscription; take its items with `alknet subscribe {name}`"),
        ));
    }
    let left = timeout.map(|timeout| timeout.saturating_sub(began.elapsed()));
    caller.call(name, input, left.map(|left| left.max(Duration::from_millis(1)))).await
}

pub(super) fn malformed(error: alknet_plugin_api::JsonError) -> Failure {
    Failure::new(Exit::Internal, format!("the node's answer cannot be shown: {error}"))
}
