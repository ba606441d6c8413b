//! Plugins' projects: new ones, which build and pass their own tests at once
//! outside of any workspace, and building any.

mod files;
mod project;

use std::io;
use std::path::{Path, PathBuf};

use alknet_plugin_api::API_VERSION;
use minijinja::{Environment, UndefinedBehavior, Value, context};

use self::files::{File, Needs};
use crate::plugins::Kind;

pub use project::{Profile, Project, ProjectError, Sources};

/// What a plugin is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lang {
    /// For either kind, from the same source.
    Rust,
    /// For a component that carries QuickJS.
    JavaScript,
    /// For a component that carries CPython.
    Python,
    /// For a native plugin.
    C,
}

impl Lang {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::JavaScript => "JavaScript",
            Self::Python => "Python",
            Self::C => "C",
        }
    }

    /// What it can be built as, the usual first.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Rust => &[Kind::Native, Kind::Component],
            Self::JavaScript | Self::Python => &[Kind::Component],
            Self::C => &[Kind::Native],
        }
    }

    /// The commands that come first in a new project: they install what it is built
    /// with, and test it.
    pub fn first_commands(self) -> &'static [&'static str] {
        match self {
            Self::Rust => &["cargo test"],
            Self::JavaScript => &["npm install", "npm test"],
            Self::Python | Self::C => &["make test"],
        }
    }

    /// The command that builds what is shipped.
    fn ship_command(self, kind: Kind) -> &'static str {
        match (self, kind) {
            (Self::Rust, Kind::Native | Kind::Isolated) => "cargo build --release",
            (Self::Rust, Kind::Component) => "cargo build --release --target wasm32-wasip2",
            (Self::JavaScript, _) => "npm run build",
            (Self::Python | Self::C, _) => "make",
        }
    }

    /// What `alknet dev` runs, where cargo does not say.
    fn build_words(self) -> &'static [&'static str] {
        match self {
            Self::Rust => &[],
            Self::JavaScript => &["npm", "run", "--silent", "build"],
            Self::Python | Self::C => &["make", "--silent"],
        }
    }
}

/// Where a new plugin in Rust takes `alknet-plugin-api` from.
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
    /// What it is written in.
    pub lang: Lang,
    /// What it is built as: one of the language's [`kinds`](Lang::kinds).
    pub kind: Kind,
    /// Whether it serves connections of an ALPN.
    pub handler: bool,
    /// Whether it answers operations.
    pub operations: bool,
    /// The crate that it is written against, in Rust.
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
    /// The language has no tools for that.
    #[error(
        "a plugin in {} is built as a {}: leave `--kind` out, or choose another language with `--lang`",
        .0.name(), .0.kinds().iter().map(|kind| kind.name()).collect::<Vec<_>>().join(" or ")
    )]
    Kind(Lang),
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

    /// Where the build to be shipped is put, from the project's folder.
    pub fn artifact(&self) -> PathBuf {
        let folder = match (self.lang, self.kind) {
            (Lang::Rust, Kind::Native | Kind::Isolated) => "target/release",
            (Lang::Rust, Kind::Component) => "target/wasm32-wasip2/release",
            _ => "build",
        };
        Path::new(folder).join(self.file())
    }

    fn file(&self) -> String {
        let stem = match self.lang {
            Lang::Rust => self.package().replace('-', "_"),
            _ => self.name.replace('-', "_"),
        };
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
            lang => self.lang.name(),
            kind => self.kind.name(),
            first => self.lang.first_commands().join("\n    "),
            ship => self.lang.ship_command(self.kind),
            build => toml::Value::from(self.lang.build_words().to_vec()).to_string(),
            api_major => API_VERSION.0,
            api_minor => API_VERSION.1,
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
        if !self.lang.kinds().contains(&self.kind) {
            return Err(ScaffoldError::Kind(self.lang));
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
        let wanted = files::of(self.lang).iter().filter(|file| match file.needs {
            Needs::Nothing | Needs::Verbatim => true,
            Needs::Handler => self.handler,
            Needs::Operations => self.operations,
        });
        wanted
            .map(|&File { name: file, text, needs }| {
                if let Needs::Verbatim = needs {
                    return Ok((file, text.to_owned()));
                }
                let text = environment.render_str(text, values.clone());
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
            lang: Lang::Rust,
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
        let native = NewPlugin { lang: Lang::Python, ..new("a") }.create(&target).unwrap_err();
        assert!(native.to_string().contains("in Python is built as a component"), "{native}");
        assert!(!target.exists());
        let there = new("a").create(folder.path());
        assert!(matches!(there, Err(ScaffoldError::Exists(_))), "{there:?}");
    }

    #[test]
    fn every_choice_fills_its_templates() {
        let languages = [Lang::Rust, Lang::JavaScript, Lang::Python, Lang::C];
        let both = languages.iter().flat_map(|lang| lang.kinds().iter().map(|kind| (*lang, *kind)));
        for (lang, kind) in both {
            for (handler, operations) in [(true, true), (true, false), (false, true)] {
                let plugin = NewPlugin { lang, kind, handler, operations, ..new("greeter") };
                let files = plugin.render().unwrap();
                let whole = |file: &str| file.starts_with("wit/") || file.starts_with("include/");
                for (file, text) in files.iter().filter(|(file, _)| !whole(file)) {
                    assert!(!text.contains("{{") && !text.contains("{%"), "{file}: {text}");
                    assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{file}: {text:?}");
                    let blank = if lang == Lang::Python { "\n\n\n\n" } else { "\n\n\n" };
                    assert!(!text.contains(blank), "{file}: {text}");
                }
                let names: Vec<_> = files.iter().map(|(file, _)| *file).collect();
                let has = |start: &str| names.iter().any(|file| file.starts_with(start));
                assert_eq!(has("src/stream."), handler, "{names:?}");
                assert_eq!(has("src/greet."), operations, "{names:?}");
                let folder = tempfile::tempdir().unwrap();
                plugin.create(&folder.path().join("a")).unwrap();
                let project = Project::open(&folder.path().join("a")).unwrap();
                assert_eq!((project.name(), project.kind()), ("greeter", kind));
            }
        }
    }
}
