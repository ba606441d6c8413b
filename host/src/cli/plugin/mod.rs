//! `alknet plugin`: what plugins there are, what is in a plugin's file, new ones, and
//! their way from a publisher into a node.

mod doctor;
mod inspect;
mod install;
mod key;
mod new;
mod pack;
mod pin;
mod sign;
mod verify;

use alknet_plugin_api::Json;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::call::malformed;
use super::check::{everything, plugin_runtime};
use super::client::{block_on, one_call};
use super::failure::Failure;
use super::usage::usage;
use super::{Global, Output, Table};
use crate::config::Mode;
use crate::observe::status::PluginStatus;
use crate::plugins::Kind;

/// The operation that tells of a running node's plugins; it takes the scope `admin` or
/// `observe`.
const PLUGINS: &str = "/node/plugins";

/// Look at plugins, make them, ship them and install them
#[derive(Debug, Args)]
pub(super) struct Plugin {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the plugins that the node's configuration names
    List {
        /// Ask the running node instead, and show what each plugin uses of its limits
        #[arg(long)]
        running: bool,
    },
    Inspect(inspect::Inspect),
    New(new::New),
    Pack(pack::Pack),
    Sign(sign::Sign),
    Key(key::Key),
    Verify(verify::Verify),
    Install(install::Install),
    Pin(pin::Pin),
    Doctor(doctor::Doctor),
}

impl Plugin {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        match self.command {
            Command::List { running: true } => {
                let target = global.target()?;
                let question = one_call(&target, PLUGINS, Json::empty_object(), None);
                let answer: Value = block_on(question)?.to().map_err(malformed)?;
                let plugins = answer["plugins"].as_array().map_or(&[][..], Vec::as_slice);
                output.table(&usage(plugins), &json!({ "plugins": plugins }))
            }
            Command::List { running: false } => {
                let runtime = plugin_runtime()?;
                let directory = global.directory()?;
                let node = everything(&directory, Mode::Pinned, runtime.handle())?;
                let plugins = node.plugins();
                output.table(&table(&plugins), &json!({ "plugins": plugins }))?;
                let native = plugins.iter().any(|plugin| plugin.trust == Kind::Native.trust());
                if native && !output.is_json() {
                    output.note(
                        "native plugins share the daemon's process and could read its secrets",
                    );
                }
                Ok(())
            }
            Command::Inspect(command) => command.run(output),
            Command::New(command) => command.run(output),
            Command::Pack(command) => command.run(global, output),
            Command::Sign(command) => command.run(global, output),
            Command::Key(command) => command.run(output),
            Command::Verify(command) => command.run(global, output),
            Command::Install(command) => command.run(global, output),
            Command::Pin(command) => command.run(global, output),
            Command::Doctor(command) => command.run(global, output),
        }
    }
}

/// Plugins as `run` and `plugin list` show them.
pub(super) fn table(plugins: &[PluginStatus]) -> Table {
    let mut table =
        Table::new(["plugin", "kind", "trust", "version", "ALPNs", "operations", "load"]);
    for plugin in plugins {
        let load = match &plugin.failure {
            Some(_) => "missing".to_owned(),
            None => format!("{:.1} ms", plugin.load_time.as_secs_f64() * 1e3),
        };
        table.row([
            &*plugin.name,
            &plugin.kind,
            &plugin.trust,
            &plugin.version,
            &plugin.alpns.join(" "),
            &plugin.operations.join(" "),
            &load,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Limits, Meter, Substrate};

    #[test]
    fn plugins_are_listed_with_what_they_serve() {
        let plugin = PluginStatus {
            name: "echo".into(),
            kind: "component".into(),
            trust: "confined".into(),
            version: "1.0.0".into(),
            api: "1.0".into(),
            alpns: vec!["alknet/echo".into()],
            operations: vec!["echo/say".into(), "echo/reverse".into()],
            load_time: std::time::Duration::from_micros(1_230),
            artifact: "echo.wasm".into(),
            sha256: "00".into(),
            limits: Vec::new(),
            usage: Default::default(),
            grants: Default::default(),
            failure: None,
            meter: Meter::new("echo", Substrate::Component, Limits::default()),
        };
        let missing = PluginStatus { failure: Some("gone".into()), ..plugin.clone() };
        let text = table(&[plugin, missing]).render(false);
        assert!(
            text.contains("confined  1.0.0    alknet/echo  echo/say echo/reverse  1.2 ms"),
            "{text}"
        );
        assert!(text.ends_with("missing"), "{text}");
    }
}
