//! `alknet plugin`: what plugins there are, and what is in a plugin's file.

use std::path::PathBuf;

use alknet_plugin_api::Manifest;
use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::{Exit, Failure};
use super::{Global, Output, Table};
use crate::config::{Mode, NodeConfig, PluginStanza};
use crate::plugins::Kind;

/// Look at plugins
#[derive(Debug, Args)]
pub(super) struct Plugin {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the plugins that the node's configuration names
    List,
    /// Show what a plugin's file declares; a native plugin is loaded for it
    Inspect {
        /// The plugin's file
        file: PathBuf,
    },
}

impl Plugin {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        match self.command {
            Command::List => {
                let file = global.directory()?.node_config();
                let config = NodeConfig::load(&file, Mode::Development)?;
                let plugins: Vec<_> = config.plugins.iter().map(listed).collect();
                output.table(&list(&config.plugins), &json!({ "plugins": plugins }))
            }
            Command::Inspect { file } => {
                let (kind, manifest) = inspect(&file)?;
                match output.is_json() {
                    true => output.json(
                        &json!({ "kind": kind, "trust": kind.trust(), "manifest": manifest }),
                    ),
                    false => output.line(&describe(kind, &manifest)),
                }
            }
        }
    }
}

/// What the loader says of a file.
fn inspect(file: &std::path::Path) -> Result<(Kind, Manifest), Failure> {
    let what = format!("cannot inspect {}", file.display());
    Err(Failure::new(Exit::Internal, what).remedy("this binary is built without a plugin loader"))
}

fn listed(plugin: &PluginStanza) -> serde_json::Value {
    json!({
        "name": plugin.name,
        "artifact": plugin.artifact,
        "kind": plugin.kind,
        "trust": plugin.kind.map(Kind::trust),
        "sha256": plugin.sha256.map(|digest| digest.to_string()),
        "signed": plugin.signature.is_some(),
        "required": plugin.required,
        "gateway": plugin.gateway,
    })
}

fn list(plugins: &[PluginStanza]) -> Table {
    let yes = |value: bool| if value { "yes" } else { "no" };
    let mut table = Table::new(["name", "trust", "sha256", "signed", "required", "artifact"]);
    for plugin in plugins {
        let digest = plugin.sha256.map(|digest| digest.to_string());
        table.row([
            &*plugin.name,
            plugin.kind.map_or("", Kind::trust),
            digest.as_deref().map_or("not pinned", |digest| &digest[..12]),
            yes(plugin.signature.is_some()),
            yes(plugin.required),
            &plugin.artifact.display().to_string(),
        ]);
    }
    table
}

fn describe(kind: Kind, manifest: &Manifest) -> String {
    let trust = match kind {
        Kind::Native => "native: it can do whatever the daemon can, and could read its secrets",
        Kind::Component => "confined: it sees only what its world imports",
    };
    let mut lines = vec![
        format!("{} {}", manifest.name, manifest.version),
        manifest.description.clone(),
        String::new(),
        format!("trust         {trust}"),
        format!("API           {}.{}", manifest.api.0, manifest.api.1),
        format!("ALPNs         {}", manifest.alpns.join(", ")),
        format!("gateway       {}", if manifest.gateway { "yes" } else { "no" }),
    ];
    for wanted in &manifest.capabilities {
        let kind = json!(wanted.kind);
        lines.push(format!(
            "capability    {} ({}{}) {}",
            wanted.name,
            kind.as_str().unwrap_or_default(),
            if wanted.optional { ", optional" } else { "" },
            wanted.description
        ));
    }
    lines.push(format!("configuration {}", manifest.config_schema));
    if !manifest.operations.is_empty() {
        let mut table = Table::new(["operation", "type", "visibility", "description"]);
        for spec in &manifest.operations {
            let (op_type, visibility) = (json!(spec.op_type), json!(spec.visibility));
            table.row([
                &*format!("/{}", spec.name),
                op_type.as_str().unwrap_or_default(),
                visibility.as_str().unwrap_or_default(),
                &spec.description,
            ]);
        }
        lines.push(String::new());
        lines.extend(table.render(false).lines().map(str::to_owned));
    }
    lines.iter().map(|line| super::output::visible(line)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use alknet_plugin_api::OperationSpec;

    use super::*;

    #[test]
    fn a_manifest_fits_one_screen() {
        let manifest = Manifest::new("echo", "1.2.3")
            .description("Says it \x1b[31mback")
            .alpn("alknet/echo")
            .operation(OperationSpec::query("echo/say").description("Says it back"));
        let text = describe(Kind::Component, &manifest);
        assert!(text.starts_with("echo 1.2.3\nSays it \u{fffd}[31mback\n\ntrust         confined"));
        assert!(text.ends_with("/echo/say  query  external    Says it back"), "{text}");
    }

    #[test]
    fn plugins_are_listed_with_how_they_are_pinned() {
        let text = "[endpoint.quic]\nlisten = [\"[::]:1\"]\n\
            [[plugin]]\nname = \"a\"\nartifact = \"a.wasm\"\nkind = \"component\"\n\
            [[plugin]]\nname = \"b\"\nartifact = \"b.so\"\nrequired = false\n";
        let config = NodeConfig::parse("/n/node.toml".as_ref(), text, Mode::Development).unwrap();
        assert_eq!(
            list(&config.plugins).render(false),
            "NAME  TRUST     SHA256      SIGNED  REQUIRED  ARTIFACT\n\
             a     confined  not pinned  no      yes       /n/a.wasm\n\
             b               not pinned  no      no        /n/b.so"
        );
    }
}
