//! `alknet dev`: a plugin under development, in a node that starts again whenever
//! its source changes.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::failure::{Exit, Failure};
use super::run::{NamedPlugin, named_plugin};
use super::{Global, Output};
use crate::config::NodeDirectory;
use crate::scaffold::{Profile, Project, ProjectError, Sources};

/// What a node has to end before it is killed. Its own drain takes less.
const STOP: Duration = Duration::from_secs(10);

/// Build a plugin and run a node with it, again whenever its source changes
#[derive(Debug, Args)]
pub(super) struct Dev {
    /// The plugin's folder
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Another plugin of the node; may stand several times. `call`, by which the
    /// command line calls, is taken from beside this program unless it is given
    #[arg(long, value_name = "[NAME=]FILE", value_parser = named_plugin)]
    plugin: Vec<NamedPlugin>,
    /// Where a new node listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

impl Dev {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let project = Project::open(&self.folder).map_err(refused)?;
        let node = global.node.clone().unwrap_or_else(|| self.folder.join(".node"));
        let plugins = self.plugins()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| internal("the runtime", &error))?;
        let session = Session {
            sources: project.watch().map_err(refused)?,
            directory: NodeDirectory::new(node),
            project,
            plugins,
            listen: self.listen,
            output,
            node: None,
        };
        runtime.block_on(session.run())
    }

    /// The other plugins of the node.
    fn plugins(&self) -> Result<Vec<NamedPlugin>, Failure> {
        let mut plugins = self.plugin.clone();
        if !plugins.iter().any(|plugin| plugin.name() == "call") {
            plugins.insert(0, call_beside_this_program()?);
        }
        Ok(plugins)
    }
}

/// The plugin `call` where builds and packages put it.
fn call_beside_this_program() -> Result<NamedPlugin, Failure> {
    use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
    let file = format!("{DLL_PREFIX}alknet_plugin_call{DLL_SUFFIX}");
    let program = std::env::current_exe().and_then(|program| program.canonicalize());
    let folder = program.ok().and_then(|program| program.parent().map(Path::to_owned));
    let places = folder
        .into_iter()
        .flat_map(|folder| [folder.join(&file), folder.join("../lib/alknet").join(&file)]);
    let found = places.into_iter().find(|place| place.is_file()).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("there is no {file} beside this program"))
            .remedy("name the plugin `call` with `--plugin call=FILE`")
    })?;
    Ok(NamedPlugin::new("call", found))
}

/// One run of the command.
struct Session<'a> {
    project: Project,
    sources: Sources,
    directory: NodeDirectory,
    plugins: Vec<NamedPlugin>,
    listen: SocketAddr,
    output: &'a Output,
    node: Option<Child>,
}

enum Event {
    Changed,
    Ended(io::Result<ExitStatus>),
    Interrupted,
}

impl Session<'_> {
    async fn run(mut self) -> Result<(), Failure> {
        let signals = |error: io::Error| internal("signals", &error);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
        loop {
            let changed = self.build_and_start();
            let built = tokio::select! {
                built = changed => built,
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
            };
            if let Err(failure) = built {
                self.stop().await;
                return Err(failure);
            }
            let event = loop {
                let ended = async {
                    match &mut self.node {
                        Some(node) => node.wait().await,
                        None => std::future::pending().await,
                    }
                };
                let event = tokio::select! {
                    () = self.sources.changed() => Event::Changed,
                    status = ended => Event::Ended(status),
                    _ = interrupt.recv() => Event::Interrupted,
                    _ = terminate.recv() => Event::Interrupted,
                };
                let Event::Ended(status) = event else { break event };
                self.node = None;
                let status = status.map_or_else(|error| error.to_string(), |how| how.to_string());
                self.output.note(&format!("the node has ended ({status}); waiting for a change"));
            };
            if matches!(event, Event::Interrupted) {
                break;
            }
        }
        self.stop().await;
        Ok(())
    }

    /// Builds the plugin and, if that went well, starts the node anew. Otherwise
    /// the one that runs goes on.
    async fn build_and_start(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        let artifact = match self.project.build(Profile::Dev).await {
            Ok(artifact) => artifact,
            Err(ProjectError::Build) => {
                self.output.note("it does not build; waiting for a change");
                return Ok(());
            }
            Err(error) => return Err(refused(error)),
        };
        self.refuse_other(&artifact)?;
        self.stop().await;
        let program = std::env::current_exe().map_err(|error| internal("this program", &error))?;
        let mut node = Command::new(program);
        node.arg("--node").arg(self.directory.path()).args(["run", "--dev"]);
        node.arg("--listen").arg(self.listen.to_string());
        for plugin in &self.plugins {
            node.arg("--plugin").arg(plugin.argument());
        }
        node.arg("--plugin").arg(NamedPlugin::new(self.project.name(), artifact).argument());
        let node = node.spawn().map_err(|error| internal("the node", &error))?;
        self.node = Some(node);
        let took = started.elapsed().as_secs_f64();
        self.output.note(&format!("built {} in {took:.1} s", self.project.name()));
        Ok(())
    }

    /// A node that somebody made for something else is left alone.
    fn refuse_other(&self, artifact: &Path) -> Result<(), Failure> {
        let file = self.directory.node_config();
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(internal(&file.display().to_string(), &error)),
        };
        let artifact = artifact.canonicalize().unwrap_or_else(|_| artifact.to_owned());
        if text.contains(&artifact.display().to_string()) {
            return Ok(());
        }
        let what =
            format!("{} is another node's: it has no {}", file.display(), artifact.display());
        Err(Failure::new(Exit::Config, what)
            .remedy("name another folder with `--node`, or remove this one; nothing was changed"))
    }

    /// Ends the node as a service manager would.
    async fn stop(&mut self) {
        let Some(mut node) = self.node.take() else { return };
        if let Some(pid) = node.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
        if timeout(STOP, node.wait()).await.is_err() {
            let _ = node.kill().await;
        }
    }
}

pub(super) fn refused(error: ProjectError) -> Failure {
    let exit = match error {
        ProjectError::Cargo(_) | ProjectError::Program { .. } | ProjectError::Watch(_) => {
            Exit::Unavailable
        }
        _ => Exit::Usage,
    };
    Failure::new(exit, error.to_string())
}

fn internal(what: &str, error: &io::Error) -> Failure {
    Failure::new(Exit::Internal, format!("{what}: {error}"))
}
