//! `alknet plugin new`: a plugin's project.

use std::path::PathBuf;

use alknet_plugin_api::API_VERSION;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cli::Output;
use crate::cli::failure::{Exit, Failure};
use crate::plugins::Kind;
use crate::scaffold::{Api, NewPlugin, ScaffoldError};

/// Make a plugin's project, which builds and passes its own tests
#[derive(Debug, Args)]
pub(super) struct New {
    /// The plugin's name: lower-case letters, digits and hyphens
    name: String,
    /// What it is built as; the source is the same
    #[arg(long, value_enum, default_value_t = BuiltAs::Native)]
    kind: BuiltAs,
    /// What it has
    #[arg(
        long, value_enum, value_delimiter = ',', num_args = 1..,
        default_values_t = [Part::Handler, Part::Operations],
    )]
    with: Vec<Part>,
    /// The folder of the crate `alknet-plugin-api` [default: the registry's crate]
    #[arg(long, value_name = "DIR")]
    api: Option<PathBuf>,
    /// Where the project goes [default: ./NAME]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
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
        let api = match self.api {
            Some(path) => Api::Path(path.canonicalize().map_err(|error| {
                Failure::new(Exit::Usage, format!("{}: {error}", path.display()))
                    .remedy("give the folder of `alknet-plugin-api` to `--api`")
            })?),
            None => Api::Version(format!("{}.{}", API_VERSION.0, API_VERSION.1)),
        };
        let folder = self.into.unwrap_or_else(|| self.name.clone().into());
        let plugin = NewPlugin {
            kind: match self.kind {
                BuiltAs::Native => Kind::Native,
                BuiltAs::Component => Kind::Component,
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
        output.line("cargo test")?;
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
