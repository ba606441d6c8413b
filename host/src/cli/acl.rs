//! `alknet acl`: who may call what, and why.

use alknet_plugin_api::Json;
use clap::{Args, Subcommand};

use super::call::malformed;
use super::check::{everything, plugin_runtime};
use super::client::{block_on, one_call};
use super::failure::{Exit, Failure};
use super::{Global, Output};
use crate::assembly::why::{Answer, Ground, Question, Step};
use crate::config::{Mode, NodeConfig};

/// The operation that answers for a running node; it takes the scope `admin` or `observe`.
const OPERATION: &str = "/node/acl-why";

/// Ask who may call what
#[derive(Debug, Args)]
pub(super) struct Acl {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell whether a call would be admitted, by which rule, and which lines say so
    ///
    /// The answer comes from the node's files, whether it runs or not; with --to it comes from
    /// the running node.
    #[command(after_help = "\
Examples:
  alknet acl why anonymous /node/status
  alknet acl why ada /files/read --resource inbox")]
    Why(Why),
}

#[derive(Debug, Args)]
struct Why {
    /// A peer_id, a token's first 8 characters, a key's fingerprint, or `anonymous`
    identity: String,
    /// The operation's name, such as /echo/say
    operation: String,
    /// The resource that the call is about [default: any]
    #[arg(long, value_name = "ID")]
    resource: Option<String>,
    /// The operation whose code makes the call: the identity calls that one
    #[arg(long, value_name = "OPERATION")]
    via: Option<String>,
}

impl Acl {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let Command::Why(why) = self.command;
        let question = Question {
            identity: why.identity,
            operation: why.operation,
            resource: why.resource,
            via: why.via,
        };
        let answer = match global.names_a_node() {
            true => ask_node(global, &question)?,
            false => ask_files(global, &question)?,
        };
        match output.is_json() {
            true => output.json(&answer),
            false => output.line(&describe(&answer)),
        }
    }
}

fn ask_node(global: &Global, question: &Question) -> Result<Answer, Failure> {
    let input = Json::of(question).map_err(malformed)?;
    block_on(one_call(&global.target()?, OPERATION, input, None))?.to().map_err(malformed)
}

/// Asks a node that is put together for the question, and binds nothing.
fn ask_files(global: &Global, question: &Question) -> Result<Answer, Failure> {
    let directory = global.directory()?;
    // A development node does not pin its plugins, and says that it is one.
    let development =
        NodeConfig::load(&directory.node_config(), Mode::Development).is_ok_and(|c| c.development);
    let mode = if development { Mode::Development } else { Mode::Pinned };
    let runtime = plugin_runtime()?;
    let assembled = everything(&directory, mode, runtime.handle())?;
    assembled
        .explainer()
        .answer(question)
        .map_err(|error| Failure::new(Exit::Usage, error.message.to_string()))
}

fn describe(answer: &Answer) -> String {
    let blocks: Vec<_> = answer.steps.iter().map(step).collect();
    blocks.join("\n\n").lines().map(super::output::visible).collect::<Vec<_>>().join("\n")
}

fn step(step: &Step) -> String {
    let who = match (&step.subject, step.composed) {
        (Some(subject), false) => subject.clone(),
        (Some(subject), true) => format!("the authority {subject}"),
        (None, _) => "nobody".to_owned(),
    };
    let verdict = match &step.code {
        None => format!("allowed: {}", step.rule),
        Some(code) => format!("refused with {code}: {}", step.rule),
    };
    let mut lines = vec![format!("{who} -> /{}", step.operation), format!("  {verdict}")];
    lines.extend(step.grounds.iter().map(ground));
    lines.join("\n")
}

fn ground(ground: &Ground) -> String {
    let place = match (&ground.file, ground.line, ground.column) {
        (Some(file), Some(line), Some(column)) => format!("\n      {file}:{line}:{column}"),
        (Some(file), ..) => format!("\n      {file}"),
        _ => String::new(),
    };
    format!("  - {}{place}", ground.says)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_shown_with_its_grounds() {
        let answer = Answer {
            allowed: false,
            steps: vec![Step {
                operation: "notes/find".into(),
                plugin: Some("notes".into()),
                subject: Some("dora".into()),
                composed: false,
                allowed: false,
                code: Some("FORBIDDEN".into()),
                rule: "missing required scope: notes".into(),
                grounds: vec![
                    Ground {
                        says: "holds no scopes".into(),
                        file: Some("access.toml".into()),
                        line: Some(3),
                        column: Some(1),
                    },
                    Ground { says: "\x1b[31m".into(), file: None, line: None, column: None },
                ],
            }],
        };
        assert_eq!(
            describe(&answer),
            "dora -> /notes/find\n  refused with FORBIDDEN: missing required scope: notes\n  \
             - holds no scopes\n      access.toml:3:1\n  - \u{fffd}[31m"
        );
    }
}
