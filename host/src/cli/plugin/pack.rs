//! `alknet plugin pack`: a package out of a plugin's project, or of files.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use serde_json::json;

use super::sign::With;
use crate::cli::check::plugin_runtime;
use crate::cli::dev::refused;
use crate::cli::failure::{Exit, Failure};
use crate::cli::{Global, Output};
use crate::plugins::Kind;
use crate::plugins::package::{
    COMPONENT, Draft, DraftError, README, SBOM, Source, Target, project_files, sbom_of_cargo,
};
use crate::scaffold::{Profile, Project};

/// Put a plugin into one file: for several targets, with its README, licences, bill of
/// materials and signature
#[derive(Debug, Args)]
pub(super) struct Pack {
    /// A plugin's project, which is built for release, or plugins' files
    #[arg(value_name = "DIR|FILE", required_unless_present = "target")]
    sources: Vec<PathBuf>,
    /// A plugin's file and what it is built for; may stand several times
    #[arg(long, value_name = "TRIPLE=FILE", value_parser = targeted)]
    target: Vec<(Target, PathBuf)>,
    /// Where the package goes [default: ./NAME-VERSION.alkp]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A README [default: the project's]
    #[arg(long, value_name = "FILE")]
    readme: Option<PathBuf>,
    /// A licence; may stand several times [default: the project's]
    #[arg(long, alias = "license", value_name = "FILE")]
    licence: Vec<PathBuf>,
    /// A bill of materials in CycloneDX's JSON [default: what cargo says of the project]
    #[arg(long, value_name = "FILE")]
    sbom: Option<PathBuf>,
    #[command(flatten)]
    with: With,
}

fn targeted(text: &str) -> Result<(Target, PathBuf), String> {
    let (target, file) =
        text.split_once('=').ok_or("write a target and a file, as in `wasm32-wasip2=a.wasm`")?;
    Ok((Target::from_str(target)?, file.into()))
}

impl Pack {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let signer = self.with.signer(global)?;
        let (folders, files): (Vec<_>, Vec<_>) =
            self.sources.iter().partition(|source| source.is_dir());
        let project = match folders[..] {
            [] => None,
            [folder] => Some(Project::open(folder).map_err(refused)?),
            _ => return Err(Failure::new(Exit::Usage, "a package has one project")),
        };
        let mut sources: Vec<_> =
            files.into_iter().map(|path| Source { target: None, path: path.clone() }).collect();
        sources.extend(
            self.target
                .iter()
                .map(|(target, path)| Source { target: Some(target.clone()), path: path.clone() }),
        );
        if let Some(project) = &project {
            let building = project.build(Profile::Release);
            let path = plugin_runtime()?.block_on(building).map_err(refused)?;
            sources.push(Source { target: None, path });
        }
        let mut draft = Draft::new(&sources)?;
        self.add_files(&mut draft, project.as_ref())?;
        for missing in draft.lacks() {
            output.note(&format!("note: the package lacks {missing}"));
        }
        let to = self.output.unwrap_or_else(|| draft.file_name().into());
        let index = draft.write(signer.as_ref(), &to)?;
        if output.is_json() {
            return output.json(&json!({ "file": to, "index": index }));
        }
        if index.signer.is_none() {
            output.note("note: the package is not signed; `alknet plugin sign` signs it");
        }
        for artifact in &index.artifacts {
            output.note(&format!("packed {} ({} bytes)", artifact.target, artifact.size));
        }
        output.line(&to.display().to_string())
    }

    fn add_files(&self, draft: &mut Draft, project: Option<&Project>) -> Result<(), Failure> {
        if let Some(project) = project {
            let folder = project.folder();
            let unreadable = |error| DraftError::File { path: folder.to_owned(), error };
            for name in project_files(folder).map_err(unreadable)? {
                draft.add(&name, &folder.join(&name))?;
            }
            if self.sbom.is_none() && project.is_cargo() {
                let target = match project.kind() {
                    Kind::Native | Kind::Isolated => Target::here().to_string(),
                    Kind::Component => COMPONENT.to_owned(),
                };
                let bill = sbom_of_cargo(folder, &target)
                    .map_err(|error| Failure::new(Exit::Data, error.to_string()))?;
                draft.add_content(SBOM, bill)?;
            }
        }
        if let Some(file) = &self.readme {
            draft.add(README, file)?;
        }
        for file in &self.licence {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            draft.add(&name, file)?;
        }
        if let Some(file) = &self.sbom {
            draft.add(SBOM, Path::new(file))?;
        }
        Ok(())
    }
}

impl From<DraftError> for Failure {
    fn from(error: DraftError) -> Self {
        match error {
            DraftError::Load(error) => error.into(),
            DraftError::File { .. } | DraftError::Name(_) | DraftError::Duplicate(_) => {
                Self::new(Exit::Usage, error.to_string())
            }
            error => Self::new(Exit::Data, error.to_string()),
        }
    }
}
