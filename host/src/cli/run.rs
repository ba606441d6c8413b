//! `alknet run`: the daemon.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alknet_plugin_api::Json;
use clap::Args;

use super::check::{everything, plugin_runtime};
use super::client::one_call;
use super::failure::{Exit, Failure};
use super::plugin::table;
use super::{Global, Output, target};
use crate::assembly::{Node, StartError, confine, refuse_core_dumps};
use crate::config::{
    DevelopPlugin, Developed, LogFormat, Mode, NodeConfig, NodeDirectory, develop,
};
use crate::endpoint::EndpointError;
use crate::endpoint::identity::CertificateStatus;
use crate::observe::{log, metrics};

/// Start the node and serve until Ctrl-C or SIGTERM
#[derive(Debug, Args)]
pub(super) struct Run {
    /// Make a development node if there is none, and take plugins that were built again
    #[arg(long)]
    dev: bool,
    /// A plugin of a new development node; may stand several times
    #[arg(long, value_name = "[NAME=]FILE", requires = "dev", value_parser = named_plugin)]
    plugin: Vec<NamedPlugin>,
    /// Where a new development node listens
    #[arg(long, value_name = "ADDRESS", requires = "dev", default_value = "127.0.0.1:4433")]
    listen: SocketAddr,
}

/// A plugin's file, and what the node is to call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedPlugin {
    name: String,
    file: PathBuf,
}

impl NamedPlugin {
    pub(super) fn new(name: &str, file: PathBuf) -> Self {
        Self { name: name.to_owned(), file }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// As it is written on the command line.
    pub(super) fn argument(&self) -> OsString {
        let mut argument = OsString::from(format!("{}=", self.name));
        argument.push(&self.file);
        argument
    }

    pub(super) fn develop(&self) -> DevelopPlugin {
        DevelopPlugin::new(&self.name, &self.file)
    }
}

impl Run {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let (directory, mode) = match self.dev {
            true => {
                let directory = global.node.clone().unwrap_or_else(|| PathBuf::from(".node"));
                let directory = NodeDirectory::new(directory);
                let done = self.develop(&directory)?;
                announce(&directory, &done, output);
                (directory, Mode::Development)
            }
            false => (global.directory()?, Mode::Pinned),
        };
        serve(&directory, mode, self.dev, output)
    }

    fn develop(&self, directory: &NodeDirectory) -> Result<Developed, Failure> {
        let plugins: Vec<_> = self.plugin.iter().map(NamedPlugin::develop).collect();
        develop(directory, self.listen, &plugins)
            .map_err(|error| Failure::new(Exit::Config, error.to_string()))
    }
}

/// Starts the node of `directory` and serves until a signal.
fn serve(
    directory: &NodeDirectory,
    mode: Mode,
    greet: bool,
    output: &Output,
) -> Result<(), Failure> {
    refuse_core_dumps().map_err(|error| {
        Failure::new(Exit::Internal, format!("the kernel does not rule out core dumps: {error}"))
    })?;
    // The filter is part of the configuration, which logs nothing when read. What
    // is wrong with it is told with everything else that is wrong.
    let config = NodeConfig::load(&directory.node_config(), mode);
    let observe = config.as_ref().map(|config| config.observe.clone()).unwrap_or_default();
    let format = match observe.format {
        LogFormat::Json => log::Format::Json,
        _ => log::Format::Text,
    };
    log::init(&observe.log, format)
        .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    metrics::init();
    if let Ok(config) = &config {
        confine(config)?;
    }
    let runtime = plugin_runtime()?;
    let assembled = everything(directory, mode, runtime.handle())?;
    let result = runtime.block_on(async {
        let node = assembled.start().await.map_err(start_failure)?;
        node.required_imports().await.map_err(start_failure)?;
        show(&node, output)?;
        if greet {
            call_itself(directory, &node, output).await?;
        }
        node.serve().await;
        Ok(())
    });
    // A plugin that blocks a thread must not keep the process.
    runtime.shutdown_background();
    result
}

fn start_failure(error: StartError) -> Failure {
    let exit = match &error {
        StartError::Endpoint(EndpointError::Bind { .. } | EndpointError::BindTcp { .. })
        | StartError::Import(_)
        | StartError::Metrics { .. } => Exit::Unavailable,
        StartError::Signals(_) => Exit::Internal,
        _ => Exit::Config,
    };
    Failure::new(exit, error.to_string())
}

/// One screen: who the node is, where it listens, what it serves.
fn show(node: &Node, output: &Output) -> Result<(), Failure> {
    let Some(status) = node.status() else { return Ok(()) };
    if output.is_json() {
        return output.json(&status);
    }
    output.line(&format!("alknet {}  node {}", status.version, status.node_key))?;
    for address in &status.addresses {
        output.line(&format!("listening on alknet://{}@{address}", status.node_key))?;
    }
    if let Some(relay) = &status.relay {
        output.line(&format!("reached by alknet://{}?relay={relay}", status.node_key))?;
    }
    for address in &status.tcp_addresses {
        output.line(&format!("listening on alknet+tcp://{}@{address}", status.node_key))?;
    }
    for certificate in &status.certificates {
        output.line(&describe(certificate))?;
    }
    output.line("")?;
    output.table(&table(node.plugins()), &())?;
    for plugin in node.plugins() {
        if let Some(failure) = &plugin.failure {
            output.note(&format!("degraded: {} is missing: {failure}", plugin.name));
        }
    }
    for import in &status.imports {
        output.line(&format!("imports {} from {}", import.prefix, import.source))?;
    }
    output.line("")
}

/// The certificate that clients see who do not know raw keys.
fn describe(certificate: &CertificateStatus) -> String {
    let kind = certificate.kind.text();
    match &certificate.fingerprint {
        Some(fingerprint) => {
            format!("certificate ({kind}) for {}: {fingerprint}", certificate.names.join(", "))
        }
        None => format!("certificate ({kind}): none yet"),
    }
}

/// Calls the node as the command line would, and shows the answer.
async fn call_itself(
    directory: &NodeDirectory,
    node: &Node,
    output: &Output,
) -> Result<(), Failure> {
    let target = target::resolve(directory, None)?;
    let says = node.plugins().iter().any(|plugin| plugin.operations.iter().any(|o| o == ECHO));
    let (name, input) = match says {
        true => (ECHO, r#"{"text":"hello, node"}"#),
        false => ("services/list", "{}"),
    };
    let answer = one_call(&target, name, Json::from_checked(input), Some(PATIENCE)).await;
    let answer = answer?;
    if !output.is_json() {
        output.line(&format!("alknet call /{name} '{input}'\n{answer}"))?;
        output.line("\nserving until Ctrl-C")?;
    }
    Ok(())
}

/// What a node with the sample plugins is called with.
const ECHO: &str = "echo/say";

/// How long a node may take to answer itself.
const PATIENCE: Duration = Duration::from_secs(5);

fn announce(directory: &NodeDirectory, done: &Developed, output: &Output) {
    for file in &done.created {
        output.note(&format!("created {}", file.display()));
    }
    for change in &done.repinned {
        output.note(&format!(
            "{} was built again; pinned in {} to {}",
            change.name,
            directory.node_config().display(),
            change.to
        ));
    }
}

/// `NAME=FILE`, or a file whose name says what it is, such as
/// `libalknet_plugin_echo.so`.
pub(super) fn named_plugin(text: &str) -> Result<NamedPlugin, String> {
    if let Some((name, file)) = text.split_once('=') {
        return Ok(NamedPlugin { name: name.into(), file: file.into() });
    }
    let file = PathBuf::from(text);
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let stem = stem.strip_prefix("lib").unwrap_or(stem);
    let stem = stem.strip_prefix("alknet_plugin_").unwrap_or(stem);
    match stem {
        "" => Err(format!("{} is not a plugin's file", Path::new(text).display())),
        stem => Ok(NamedPlugin { name: stem.to_lowercase().replace('_', "-"), file }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_named_by_its_file() {
        let name = |text| named_plugin(text).map(|plugin| plugin.name);
        assert_eq!(name("t/libalknet_plugin_echo.so"), Ok("echo".into()));
        assert_eq!(name("t/my_thing.wasm"), Ok("my-thing".into()));
        assert_eq!(name("other=t/libx.so"), Ok("other".into()));
        assert!(name("..").is_err());
    }
}
