//! A plugin's project, built and watched for changes.
//!
//! A project in Rust is a cargo package, and says under `[package.metadata.alknet]`
//! what it is built as. Any other has a file [`DESCRIPTION`], which says how:
//!
//! ```toml
//! name = "greeter"
//! kind = "component"
//! build = ["npm", "run", "build"]
//! artifact = "build/greeter.wasm"
//! ```
//!
//! `build` runs in the project's folder. Neither what is below the first folder of
//! `artifact` nor what package managers install is taken for a source.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use notify::event::EventKind;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::plugins::Kind;

/// Quiet after a change, before the project is built: editors write several files.
const QUIET: Duration = Duration::from_millis(100);

/// The file that describes a project of any language but Rust.
const DESCRIPTION: &str = "alknet.toml";

/// Where Python puts what it has compiled, beside the sources.
const BYTECODE: &str = "__pycache__";

/// What cargo and package managers write to, and what nobody builds from.
const NOT_SOURCES: [&str; 5] = ["target", "node_modules", ".venv", ".node", ".git"];

/// Why a project is not built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectError {
    /// There is no project.
    #[error("{}: {error}; name a plugin's folder, or make one with `alknet plugin new`", path.display())]
    Manifest {
        /// Where its `Cargo.toml` should be, or is the file that cannot be read.
        path: PathBuf,
        /// Why it cannot be read.
        error: io::Error,
    },
    /// The file that describes it is wrong.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
    /// Cargo cannot be run.
    #[error("cargo cannot be run: {0}; install Rust, see rustup.rs")]
    Cargo(io::Error),
    /// The program that builds it cannot be run.
    #[error(
        "`{program}`, which builds it, cannot be run: {error}; install it, or correct `build` in {DESCRIPTION}"
    )]
    Program {
        /// The first word of `build`.
        program: String,
        /// The system's reason.
        error: io::Error,
    },
    /// The code does not build; what builds it has said why.
    #[error("it does not build")]
    Build,
    /// Cargo made nothing to load.
    #[error("cargo made no plugin: `crate-type` under `[lib]` in Cargo.toml needs \"cdylib\"")]
    NoArtifact,
    /// What built it did not make what it should.
    #[error("it was built, but there is no {}; correct `artifact` in {DESCRIPTION}, or what `build` runs", .0.display())]
    Elsewhere(PathBuf),
    /// Changes cannot be noticed.
    #[error("changes cannot be noticed: {0}")]
    Watch(notify::Error),
}

/// How a project is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// For whoever changes it.
    Dev,
    /// For whoever runs it.
    Release,
}

/// A plugin's project.
#[derive(Clone, Debug)]
pub struct Project {
    folder: PathBuf,
    name: String,
    kind: Kind,
    builder: Builder,
}

/// What builds a project.
#[derive(Clone, Debug)]
enum Builder {
    Cargo { package: String },
    Program { words: Vec<String>, artifact: PathBuf },
}

/// A [`DESCRIPTION`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    name: String,
    kind: Kind,
    build: Vec<String>,
    artifact: PathBuf,
}

#[derive(Deserialize)]
struct CargoToml {
    package: Option<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    alknet: AlknetMetadata,
}

/// `[package.metadata.alknet]`, as far as it is looked at.
#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
struct AlknetMetadata {
    kind: Option<String>,
}

/// What cargo says of one thing that it made.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    filenames: Vec<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

impl Project {
    /// The project in `folder`.
    ///
    /// # Errors
    /// There is none, or the file that describes it is wrong.
    pub fn open(folder: &Path) -> Result<Self, ProjectError> {
        let path = folder.join(DESCRIPTION);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::described(folder, &text)
                .map_err(|what| ProjectError::Malformed { path, what }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::cargo(folder),
            Err(error) => Err(ProjectError::Manifest { path, error }),
        }
    }

    fn described(folder: &Path, text: &str) -> Result<Self, String> {
        let Description { name, kind, build, artifact } =
            toml::from_str(text).map_err(|error| error.to_string())?;
        if build.is_empty() {
            return Err("`build` names no program; say for example `build = [\"make\"]`".into());
        }
        let builder = Builder::Program { words: build, artifact };
        Ok(Self { folder: folder.into(), name, kind, builder })
    }

    fn cargo(folder: &Path) -> Result<Self, ProjectError> {
        let path = folder.join("Cargo.toml");
        let text = std::fs::read_to_string(&path)
            .map_err(|error| ProjectError::Manifest { path: path.clone(), error })?;
        let malformed = |what: String| ProjectError::Malformed { path: path.clone(), what };
        let manifest: CargoToml =
            toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        let Some(Package { name: package, metadata }) = manifest.package else {
            return Err(malformed("there is no `[package]`; name the plugin's own folder".into()));
        };
        let kind = match metadata.alknet.kind.as_deref() {
            None | Some("native") => Kind::Native,
            Some("component") => Kind::Component,
            Some(other) => {
                let what = format!(
                    "`{other}` is no kind of plugin; say `native` or `component` under \
                     `[package.metadata.alknet]`"
                );
                return Err(malformed(what));
            }
        };
        let name = package.strip_prefix("alknet-plugin-").unwrap_or(&package).to_owned();
        Ok(Self { folder: folder.into(), name, kind, builder: Builder::Cargo { package } })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether it is cargo's.
    pub fn is_cargo(&self) -> bool {
        matches!(self.builder, Builder::Cargo { .. })
    }

    /// What the plugin is called. Of a cargo package that is its name, without the
    /// `alknet-plugin-` that such packages often begin with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is built as.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Builds the plugin and returns its file. Progress, and what is wrong with the
    /// code, is shown on standard error. Dropping the future ends the build.
    ///
    /// # Errors
    /// What builds it cannot be run, or makes no plugin.
    pub async fn build(&self, profile: Profile) -> Result<PathBuf, ProjectError> {
        match &self.builder {
            Builder::Cargo { package } => self.build_package(package, profile).await,
            Builder::Program { words, artifact } => self.run(words, artifact).await,
        }
    }

    async fn run(&self, words: &[String], artifact: &Path) -> Result<PathBuf, ProjectError> {
        let program = words.first().cloned().unwrap_or_default();
        let built = Command::new(&program)
            .args(words.iter().skip(1))
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(io::stderr())
            .kill_on_drop(true)
            .status()
            .await
            .map_err(|error| ProjectError::Program { program, error })?;
        if !built.success() {
            return Err(ProjectError::Build);
        }
        let file = self.folder.join(artifact);
        if file.is_file() { Ok(file) } else { Err(ProjectError::Elsewhere(file)) }
    }

    async fn build_package(
        &self,
        package: &str,
        profile: Profile,
    ) -> Result<PathBuf, ProjectError> {
        let mut cargo = Command::new("cargo");
        cargo
            .current_dir(&self.folder)
            .args(["build", "--lib", "--message-format=json-render-diagnostics"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if profile == Profile::Release {
            cargo.arg("--release");
        }
        if self.kind == Kind::Component {
            cargo.args(["--target", "wasm32-wasip2"]);
        }
        // `output` would take standard error away.
        let built = async { cargo.spawn()?.wait_with_output().await };
        let built = built.await.map_err(ProjectError::Cargo)?;
        if !built.status.success() {
            return Err(ProjectError::Build);
        }
        self.artifact(package, &built.stdout).ok_or(ProjectError::NoArtifact)
    }

    /// The plugin's file, by what cargo says that it made.
    fn artifact(&self, package: &str, messages: &[u8]) -> Option<PathBuf> {
        let target = package.replace('-', "_");
        let extension = match self.kind {
            Kind::Native | Kind::Isolated => std::env::consts::DLL_EXTENSION,
            Kind::Component => "wasm",
        };
        messages
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice::<Message>(line).ok())
            .filter(|message| message.reason == "compiler-artifact")
            .filter(|message| message.target.as_ref().is_some_and(|made| made.name == target))
            .flat_map(|message| message.filenames)
            .find(|file| file.extension().is_some_and(|found| found == extension))
    }

    /// Watches everything that the plugin may be built from.
    ///
    /// # Errors
    /// The system does not let it.
    pub fn watch(&self) -> Result<Sources, ProjectError> {
        let (sender, changes) = watch::channel(());
        let handler = move |event: notify::Result<notify::Event>| {
            let changes_nothing = event.is_ok_and(|event| {
                let compiled = |path: &PathBuf| path.iter().any(|part| part == BYTECODE);
                matches!(event.kind, EventKind::Access(_))
                    || (!event.paths.is_empty() && event.paths.iter().all(compiled))
            });
            if !changes_nothing {
                sender.send_replace(());
            }
        };
        let mut watcher = notify::recommended_watcher(handler).map_err(ProjectError::Watch)?;
        for (path, mode) in self.sources() {
            watcher.watch(&path, mode).map_err(ProjectError::Watch)?;
        }
        Ok(Sources { changes, _watcher: watcher })
    }

    /// Folders whole, and of the project's own only the files in it.
    fn sources(&self) -> Vec<(PathBuf, RecursiveMode)> {
        let made = match &self.builder {
            Builder::Program { artifact, .. } => artifact.components().next(),
            Builder::Cargo { .. } => None,
        };
        let made = made.map(Component::as_os_str);
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries
            .filter(|entry| !NOT_SOURCES.iter().any(|name| entry.file_name() == *name))
            .filter(|entry| made != Some(&entry.file_name()))
            .map(|entry| match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => (entry.path(), RecursiveMode::Recursive),
                false => (entry.path(), RecursiveMode::NonRecursive),
            })
            .collect()
    }
}

/// The watched sources of a project.
pub struct Sources {
    changes: watch::Receiver<()>,
    _watcher: RecommendedWatcher,
}

impl Sources {
    /// Resolves when something has changed since the last time, and then has been
    /// left alone for a moment.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        while let Ok(Ok(())) = timeout(QUIET, self.changes.changed()).await {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(manifest: &str) -> (tempfile::TempDir, Result<Project, ProjectError>) {
        with("Cargo.toml", manifest)
    }

    fn with(file: &str, text: &str) -> (tempfile::TempDir, Result<Project, ProjectError>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(file), text).unwrap();
        let project = Project::open(folder.path());
        (folder, project)
    }

    #[test]
    fn a_project_says_what_it_is_built_as() {
        let head = "[package]\nname = \"alknet-plugin-greeter\"\n";
        let (_folder, native) = project(head);
        let native = native.unwrap();
        assert_eq!((native.name(), native.kind()), ("greeter", Kind::Native));
        let component = format!("{head}[package.metadata.alknet]\nkind = \"component\"\n");
        assert_eq!(project(&component).1.unwrap().kind(), Kind::Component);
    }

    #[test]
    fn what_is_no_project_is_refused_with_a_reason() {
        let nowhere = Project::open(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(nowhere.contains("alknet plugin new"), "{nowhere}");
        let workspace = project("[workspace]\n").1.unwrap_err().to_string();
        assert!(workspace.contains("the plugin's own folder"), "{workspace}");
        let kind = project("[package]\nname = \"a\"\nmetadata.alknet.kind = \"jar\"\n").1;
        let kind = kind.unwrap_err().to_string();
        assert!(kind.contains("`jar`") && kind.contains("`native`"), "{kind}");
        assert!(matches!(project("[package").1, Err(ProjectError::Malformed { .. })));
    }

    #[tokio::test]
    async fn any_program_may_build_a_project() {
        let described = |build: &str| {
            let text =
                format!("kind = \"component\"\nartifact = \"build/a.wasm\"\nbuild = {build}\n");
            with(DESCRIPTION, &format!("name = \"a\"\n{text}"))
        };
        let (folder, project) = described(r#"["sh", "-c", "mkdir build && echo > build/a.wasm"]"#);
        let project = project.unwrap();
        assert_eq!((project.name(), project.kind()), ("a", Kind::Component));
        assert_eq!(project.build(Profile::Dev).await.unwrap(), folder.path().join("build/a.wasm"));
        assert!(project.sources().iter().all(|(path, _)| !path.ends_with("build")));

        let failing = described(r#"["false"]"#);
        assert!(matches!(failing.1.unwrap().build(Profile::Dev).await, Err(ProjectError::Build)));
        let elsewhere = described(r#"["true"]"#);
        assert!(matches!(
            elsewhere.1.unwrap().build(Profile::Dev).await,
            Err(ProjectError::Elsewhere(_))
        ));
        let missing = described(r#"["no-such-program"]"#).1.unwrap().build(Profile::Dev).await;
        let missing = missing.unwrap_err().to_string();
        assert!(missing.contains("`no-such-program`") && missing.contains("install"), "{missing}");
        let empty = described("[]").1.unwrap_err().to_string();
        assert!(empty.contains("`build`"), "{empty}");
        let unknown = with(DESCRIPTION, "name = \"a\"\nlang = \"c\"\n").1;
        assert!(matches!(unknown, Err(ProjectError::Malformed { .. })));
    }

    #[tokio::test]
    async fn a_change_is_noticed_and_what_building_writes_is_not() {
        let (folder, project) = project("[package]\nname = \"a\"\n");
        for name in ["src", "target"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let mut sources = project.unwrap().watch().unwrap();
        std::fs::write(folder.path().join("target/out"), "").unwrap();
        std::fs::create_dir(folder.path().join("src/__pycache__")).unwrap();
        std::fs::write(folder.path().join("src/__pycache__/a.pyc"), "").unwrap();
        let unchanged = timeout(4 * QUIET, sources.changed()).await;
        assert!(unchanged.is_err());
        std::fs::write(folder.path().join("src/lib.rs"), "").unwrap();
        sources.changed().await;
    }
}
