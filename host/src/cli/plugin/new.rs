//! `alknet plugin new`: a plugin's project.

use std::path::PathBuf;

use alknet_plugin_api::API_VERSION;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cli::Output;
use crate::cli::failure::{Exit, Failure};
use crate::plugins::Kind;
use crate::scaffold::{Api, Lang, NewPlugin, ScaffoldError};

/// Make a plugin's project, which builds and passes its own tests
#[derive(Debug, Args)]
pub(super) struct New {
    /// The plugin's name: lower-case letters, digits and hyphens
    name: String,
    /// What it is written in
    #[arg(long, value_enum, default_value_t = WrittenIn::Rust)]
    lang: WrittenIn,
    /// What it is built as [default: what is usual for the language]
    #[arg(long, value_enum)]
    kind: Option<BuiltAs>,
    /// What it has
    #[arg(
        long, value_enum, value_delimiter = ',', num_args = 1..,
        default_values_t = [Part::Handler, Part::Operations],
    )]
    with: Vec<Part>,
    /// For Rust: the folder of the crate `alknet-plugin-api` [default: the registry's crate]
    #[arg(long, value_name = "DIR")]
    api: Option<PathBuf>,
    /// Where the project goes [default: ./NAME]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WrittenIn {
    /// For both kinds, from the same source
    Rust,
    /// JavaScript, for components
    Js,
    /// For components
    Python,
    /// For native plugins
    C,
}

impl From<WrittenIn> for Lang {
    fn from(lang: WrittenIn) -> Self {
        match lang {
            WrittenIn::Rust => Self::Rust,
            WrittenIn::Js => Self::JavaScript,
            WrittenIn::Python => Self::Python,
            WrittenIn::C => Self::C,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BuiltAs {
    /// A shared library in the daemon's process
    Native,
    /// A WebAssembly component, confined
    Component,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// It serves connections of an ALPN of its own
    Handler,
    /// It answers a query and a subscription
    Operations,
}

impl New {
    pub(super) fn run(self, output: &Output) -> Result<(), Failure> {
        let lang = Lang::from(self.lang);
        let api = match self.api {
            Some(_) if lang != Lang::Rust => {
                let what = format!("a plugin in {} has no use for `--api`", lang.name());
                return Err(Failure::new(Exit::Usage, what).remedy("leave it out"));
            }
            Some(path) => Api::Path(path.canonicalize().map_err(|error| {
                Failure::new(Exit::Usage, format!("{}: {error}", path.display()))
                    .remedy("give the folder of `alknet-plugin-api` to `--api`")
            })?),
            None => Api::Version(format!("{}.{}", API_VERSION.0, API_VERSION.1)),
        };
        let folder = self.into.unwrap_or_else(|| self.name.clone().into());
        let plugin = NewPlugin {
            lang,
            kind: match self.kind {
                Some(BuiltAs::Native) => Kind::Native,
                Some(BuiltAs::Component) => Kind::Component,
                None => lang.kinds().first().copied().unwrap_or(Kind::Component),
            },
            handler: self.with.contains(&Part::Handler),
            operations: self.with.contains(&Part::Operations),
            name: self.name,
            api,
        };
        let created = plugin.create(&folder).map_err(refused)?;
        if output.is_json() {
            return output.json(&json!({
                "name": plugin.name, "kind": plugin.kind, "created": created,
                "artifact": folder.join(plugin.artifact()),
            }));
        }
        for file in created {
            output.note(&format!("created {}", file.display()));
        }
        output.line(&format!("cd {}", folder.display()))?;
        for command in lang.first_commands() {
            output.line(command)?;
        }
        output.line("alknet dev")
    }
}

fn refused(error: ScaffoldError) -> Failure {
    let exit = match error {
        ScaffoldError::File { .. } => Exit::Unavailable,
        ScaffoldError::Template { .. } => Exit::Internal,
        _ => Exit::Usage,
    };
    Failure::new(exit, error.to_string())
}
