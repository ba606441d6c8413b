//! `alknet plugin`: what plugins there are, what is in a plugin's file, and new ones.

mod new;

use std::path::{Path, PathBuf};

use alknet_plugin_api::{Json, Manifest};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::call::malformed;
use super::check::{everything, plugin_runtime};
use super::client::{block_on, one_call};
use super::failure::{Exit, Failure};
use super::usage::{defaults, usage};
use super::{Global, Output, Table};
use crate::budget::{Limits, Meter, Substrate};
use crate::config::Mode;
use crate::observe::status::PluginStatus;
use crate::plugins::{Artifact, Kind, LoadError, Opened, artifact, native};

/// The operation that tells of a running node's plugins; it takes the scope `admin` or
/// `observe`.
const PLUGINS: &str = "/node/plugins";

/// Look at plugins, and begin new ones
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
    /// Show what a plugin's file declares; a native plugin is loaded for it
    Inspect {
        /// The plugin's file
        file: PathBuf,
    },
    New(new::New),
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
            Command::New(new) => new.run(output),
            Command::Inspect { file } => {
                let (opened, sha256) = inspect(&file)?;
                let (kind, manifest) = (opened.kind(), opened.manifest());
                let digest = hex::encode(sha256);
                let substrate = match kind {
                    Kind::Native => Substrate::Native,
                    Kind::Component => Substrate::Component,
                };
                let limits = Meter::new("", substrate, Limits::default()).status();
                match output.is_json() {
                    true => output.json(&json!({
                        "kind": kind, "trust": kind.trust(), "sha256": digest, "manifest": manifest,
                        "limits": limits,
                    })),
                    false => {
                        output.line(&describe(kind, &digest, manifest))?;
                        output.line(&format!("\n{}", defaults(&limits).render(false)))
                    }
                }
            }
        }
    }
}

/// Opens a file as start-up would, without a pinned digest. Of a native plugin's
/// code only its constructors and `manifest()` run.
fn inspect(file: &Path) -> Result<(Box<dyn Opened>, [u8; 32]), Failure> {
    let refused = |error: LoadError| Failure::new(Exit::Config, error.to_string());
    let policy = artifact::Policy { allow_unpinned: true, ..artifact::Policy::default() };
    let artifact = Artifact::read(file, &policy).map_err(refused)?;
    let sha256 = artifact.sha256;
    let opened = match artifact.kind().map_err(refused)? {
        Kind::Native | Kind::Isolated => native::open(&artifact).map_err(refused)?,
        Kind::Component => open_component(artifact).map_err(refused)?,
    };
    Ok((opened, sha256))
}

#[cfg(feature = "components")]
fn open_component(artifact: Artifact) -> Result<Box<dyn Opened>, LoadError> {
    use crate::plugins::component::{ComponentLimits, Engine, EngineOptions, open};
    let options = EngineOptions { max_instances: 1, ..EngineOptions::default() };
    let engine = Engine::new(options)
        .map_err(|cause| LoadError::Component { path: artifact.path.clone(), cause })?;
    open(artifact, &engine, ComponentLimits::default())
}

#[cfg(not(feature = "components"))]
fn open_component(artifact: Artifact) -> Result<Box<dyn Opened>, LoadError> {
    Err(LoadError::NoComponents { path: artifact.path })
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

fn describe(kind: Kind, digest: &str, manifest: &Manifest) -> String {
    let trust = match kind {
        Kind::Native => "native: it can do whatever the daemon can, and could read its secrets",
        Kind::Isolated => "isolated: it can do whatever its own process can",
        Kind::Component => "confined: it sees only what its world imports",
    };
    let mut lines = vec![
        format!("{} {}", manifest.name, manifest.version),
        manifest.description.clone(),
        String::new(),
        format!("trust         {trust}"),
        format!("sha256        {digest}"),
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
        let text = describe(Kind::Component, "ab12", &manifest);
        assert!(
            text.starts_with("echo 1.2.3\nSays it \u{fffd}[31mback\n\ntrust         confined"),
            "{text}"
        );
        assert!(text.ends_with("/echo/say  query  external    Says it back"), "{text}");
    }

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
