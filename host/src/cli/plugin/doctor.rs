//! `alknet plugin doctor`: why a plugin does not run here.

use std::path::PathBuf;

use clap::Args;

use crate::assembly::doctor::{About, Checkup, State, examine};
use crate::cli::failure::{Exit, Failure};
use crate::cli::{Global, Output, Table};

/// Compare a plugin's file, or a package, with this machine and this node, field by field
///
/// Ends with 0 when nothing keeps it from running, with 65 when the file does not fit this
/// machine, with 77 when nobody who is trusted vouches for it, and with 78 when it does not
/// fit the node's files.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// The plugin's file, or a package
    file: PathBuf,
    /// The stanza [default: the one that names the file, or is called as the plugin is]
    #[arg(long)]
    name: Option<String>,
}

impl Doctor {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let checkup = examine(&self.file, &global.directory()?, self.name.as_deref());
        match output.is_json() {
            true => output.json(&checkup)?,
            false => describe(&checkup, output)?,
        }
        let exit = match checkup.verdict() {
            None => return Ok(()),
            Some(About::File) => Exit::Data,
            Some(About::Trust) => Exit::Untrusted,
            Some(About::Deployment) => Exit::Config,
        };
        let wrong = checkup.checks.iter().filter(|check| check.state == State::Wrong).count();
        let what = match wrong {
            1 => "1 thing keeps it from running here".to_owned(),
            wrong => format!("{wrong} things keep it from running here"),
        };
        Err(Failure::new(exit, what))
    }
}

fn describe(checkup: &Checkup, output: &Output) -> Result<(), Failure> {
    if let Some(plugin) = &checkup.plugin {
        let stanza = checkup.stanza.as_ref();
        let stanza = stanza.map_or(String::new(), |name| format!(", plugin `{name}` of the node"));
        output.line(&format!("{plugin}{stanza}"))?;
    }
    let mut table = Table::new(["", "field", "plugin", "this host"]);
    for check in &checkup.checks {
        let state = match check.state {
            State::Ok => "ok",
            State::Note => "note",
            State::Wrong => "WRONG",
        };
        table.row([state, check.field, in_cell(&check.found), &check.expected]);
    }
    output.table(&table, checkup)?;
    for check in checkup.checks.iter().filter(|check| check.state != State::Ok) {
        let long = in_cell(&check.found) != check.found;
        let found = if long { check.found.as_str() } else { "" };
        let told = [found, &check.remedy].into_iter().filter(|text| !text.is_empty());
        let told = told.collect::<Vec<_>>().join("\n");
        if !told.is_empty() {
            output.note(&format!("{}: {}", check.field, told.replace('\n', "\n  ")));
        }
    }
    Ok(())
}

/// What a sentence says stands below the table.
fn in_cell(text: &str) -> &str {
    match text.len() > 80 || text.contains('\n') {
        true => "see below",
        false => text,
    }
}
