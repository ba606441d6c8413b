//! Plugins' projects: new ones, which build and pass their own tests at once
//! outside of any workspace, and building any.

mod project;

use std::io;
use std::path::{Path, PathBuf};

use minijinja::{Environment, UndefinedBehavior, Value, context};

use crate::plugins::Kind;

pub use project::{Profile, Project, ProjectError, Sources};

/// A project's files: the name, its template, and whether it is only there with
/// a handler or with operations.
const FILES: [(&str, &str, Needs); 7] = [
    ("Cargo.toml", include_str!("templates/rust/Cargo.toml.j2"), Needs::Nothing),
    (".gitignore", include_str!("templates/rust/gitignore.j2"), Needs::Nothing),
    ("README.md", include_str!("templates/rust/README.md.j2"), Needs::Nothing),
    ("src/lib.rs", include_str!("templates/rust/src/lib.rs.j2"), Needs::Nothing),
    ("src/stream.rs", include_str!("templates/rust/src/stream.rs.j2"), Needs::Handler),
    ("src/greet.rs", include_str!("templates/rust/src/greet.rs.j2"), Needs::Operations),
    ("tests/plugin.rs", include_str!("templates/rust/tests/plugin.rs.j2"), Needs::Nothing),
];

#[derive(Clone, Copy)]
enum Needs {
    Nothing,
    Handler,
    Operations,
}

/// Where a new plugin takes `alknet-plugin-api` from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Api {
    /// A version requirement.
    Version(String),
    /// The crate's folder.
    Path(PathBuf),
}

impl Api {
    /// The dependency as a TOML value, with these features.
    fn dependency(&self, features: &[&str]) -> String {
        let mut table = toml::Table::new();
        match self {
            Self::Version(version) => table.insert("version".into(), version.clone().into()),
            Self::Path(path) => table.insert("path".into(), path.display().to_string().into()),
        };
        if !features.is_empty() {
            table.insert("features".into(), features.to_vec().into());
        }
        toml::Value::Table(table).to_string()
    }
}

/// What a new plugin is to be.
#[derive(Clone, Debug)]
pub struct NewPlugin {
    /// Its name: lower-case letters, digits and hyphens, beginning with a letter.
    pub name: String,
    /// What it is built as.
    pub kind: Kind,
    /// Whether it serves connections of an ALPN.
    pub handler: bool,
    /// Whether it answers operations.
    pub operations: bool,
    /// The crate that it is written against.
    pub api: Api,
}

/// Why there is no new plugin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScaffoldError {
    /// The name cannot be a plugin's.
    #[error(
        "`{0}` is no name for a plugin: use lower-case letters, digits and hyphens, beginning with a letter, such as `greeter`"
    )]
    Name(String),
    /// It would do nothing.
    #[error("a plugin has a handler, operations, or both: name them with `--with`")]
    Empty,
    /// There is something already.
    #[error("{} exists already; nothing was changed", .0.display())]
    Exists(PathBuf),
    /// The crate is not there.
    #[error("{} is not the folder of `alknet-plugin-api`: there is no Cargo.toml with that name in it", .0.display())]
    NoApi(PathBuf),
    /// A file cannot be written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A template is wrong, which tests rule out.
    #[error("the template of {file}: {error}")]
    Template {
        /// The file to be made.
        file: &'static str,
        /// What is wrong.
        error: minijinja::Error,
    },
}

impl NewPlugin {
    /// The name of its package.
    pub fn package(&self) -> String {
        format!("alknet-plugin-{}", self.name)
    }

    /// Where cargo puts a release build, from the project's folder.
    pub fn artifact(&self) -> PathBuf {
        let folder = match self.kind {
            Kind::Native | Kind::Isolated => "target/release",
            Kind::Component => "target/wasm32-wasip2/release",
        };
        Path::new(folder).join(self.file())
    }

    fn file(&self) -> String {
        let stem = self.package().replace('-', "_");
        match self.kind {
            Kind::Native | Kind::Isolated => {
                use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
                format!("{DLL_PREFIX}{stem}{DLL_SUFFIX}")
            }
            Kind::Component => format!("{stem}.wasm"),
        }
    }

    /// What the templates are filled with.
    fn values(&self) -> Value {
        context! {
            name => &self.name,
            package => self.package(),
            crate => self.package().replace('-', "_"),
            type => self.name.split('-').map(capitalised).collect::<String>(),
            description => match (self.handler, self.operations) {
                (true, true) => "Greets, counts, and answers streams in capital letters",
                (true, false) => "Answers streams in capital letters",
                _ => "Greets and counts",
            },
            kind => self.kind.name(),
            handler => self.handler,
            operations => self.operations,
            api => self.api.dependency(&[]),
            testing_api => self.api.dependency(&["testing"]),
            artifact => self.artifact().display().to_string(),
            file => self.file(),
        }
    }

    fn check(&self) -> Result<(), ScaffoldError> {
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let parts = |part: &str| part.starts_with(|c: char| c.is_ascii_alphanumeric());
        let well = self.name.starts_with(|c: char| c.is_ascii_lowercase())
            && self.name.chars().all(letters)
            && self.name.split('-').all(parts);
        if !well {
            return Err(ScaffoldError::Name(self.name.clone()));
        }
        if !self.handler && !self.operations {
            return Err(ScaffoldError::Empty);
        }
        match &self.api {
            Api::Path(path) if !is_api(path) => Err(ScaffoldError::NoApi(path.clone())),
            _ => Ok(()),
        }
    }

    /// Writes the project to `folder`, which must not exist, and returns its files.
    ///
    /// # Errors
    /// What is wrong with the choice, or with the place.
    pub fn create(&self, folder: &Path) -> Result<Vec<PathBuf>, ScaffoldError> {
        self.check()?;
        if folder.exists() {
            return Err(ScaffoldError::Exists(folder.into()));
        }
        let rendered = self.render()?;
        let mut written = Vec::new();
        for (name, text) in rendered {
            let path = folder.join(name);
            let file_error = |error| ScaffoldError::File { path: path.clone(), error };
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(file_error)?;
            }
            std::fs::write(&path, text).map_err(file_error)?;
            written.push(path);
        }
        Ok(written)
    }

    fn render(&self) -> Result<Vec<(&'static str, String)>, ScaffoldError> {
        let mut environment = Environment::empty();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let values = self.values();
        let wanted = FILES.into_iter().filter(|(_, _, needs)| match needs {
            Needs::Nothing => true,
            Needs::Handler => self.handler,
            Needs::Operations => self.operations,
        });
        wanted
            .map(|(file, template, _)| {
                let text = environment.render_str(template, values.clone());
                let text = text.map_err(|error| ScaffoldError::Template { file, error })?;
                Ok((file, text + "\n"))
            })
            .collect()
    }
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

fn is_api(folder: &Path) -> bool {
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    let manifest: toml::Table = manifest.parse().unwrap_or_default();
    let name = manifest.get("package").and_then(|package| package.get("name"));
    name.and_then(toml::Value::as_str) == Some("alknet-plugin-api")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str) -> NewPlugin {
        NewPlugin {
            name: name.into(),
            kind: Kind::Native,
            handler: true,
            operations: true,
            api: Api::Version("1".into()),
        }
    }

    #[test]
    fn names_become_packages_crates_and_types() {
        let files = new("two-words").render().unwrap();
        let text = |name| &files.iter().find(|(file, _)| *file == name).unwrap().1;
        let manifest = text("Cargo.toml");
        assert!(manifest.contains("name = \"alknet-plugin-two-words\""), "{manifest}");
        assert!(manifest.contains("alknet-plugin-api = { version = \"1\" }"), "{manifest}");
        assert!(text("tests/plugin.rs").contains("use alknet_plugin_two_words::TwoWords;"));
    }

    #[test]
    fn what_cannot_be_built_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("plugin");
        for name in ["", "Greeter", "1st", "-a", "a--b", "a-", "a_b", "a/b", "ä"] {
            let error = new(name).create(&target).unwrap_err();
            assert!(matches!(error, ScaffoldError::Name(_)), "{name}: {error}");
        }
        let nothing = NewPlugin { handler: false, operations: false, ..new("a") };
        assert!(matches!(nothing.create(&target), Err(ScaffoldError::Empty)));
        let elsewhere = NewPlugin { api: Api::Path(folder.path().into()), ..new("a") };
        assert!(matches!(elsewhere.create(&target), Err(ScaffoldError::NoApi(_))));
        assert!(!target.exists());
        let there = new("a").create(folder.path());
        assert!(matches!(there, Err(ScaffoldError::Exists(_))), "{there:?}");
    }

    #[test]
    fn every_choice_fills_its_templates() {
        for kind in [Kind::Native, Kind::Component] {
            for (handler, operations) in [(true, true), (true, false), (false, true)] {
                let plugin = NewPlugin { kind, handler, operations, ..new("greeter") };
                let files = plugin.render().unwrap();
                for (file, text) in &files {
                    assert!(!text.contains("{{") && !text.contains("{%"), "{file}: {text}");
                    assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{file}: {text:?}");
                    assert!(!text.contains("\n\n\n"), "{file}: {text}");
                }
                let manifest: toml::Table = files[0].1.parse().unwrap();
                let kind = manifest["package"]["metadata"]["alknet"]["kind"].as_str();
                assert_eq!(kind, Some(plugin.kind.name()));
                assert_eq!(files.iter().any(|(file, _)| *file == "src/stream.rs"), handler);
                assert_eq!(files.iter().any(|(file, _)| *file == "src/greet.rs"), operations);
            }
        }
    }
}
