//! `alknet plugin key`: a publisher's key in a file.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use zeroize::Zeroizing;

use crate::cli::Output;
use crate::cli::failure::{Exit, Failure};
use crate::config::{Place, Problems, read_key, write_key};
use crate::plugins::package::Signer;

/// Show the public half of a publisher's key, which is made if its file is not there
#[derive(Debug, Args)]
pub(super) struct Key {
    /// A file of mode 0600
    file: PathBuf,
}

impl Key {
    pub(super) fn run(self, output: &Output) -> Result<(), Failure> {
        let file = &self.file;
        let there = file.exists();
        let seed = match there {
            true => read_key(file, &Place::file_only(file)).map_err(Problems::from)?,
            false => {
                let mut seed = Zeroizing::new([0; 32]);
                getrandom::fill(&mut *seed).map_err(|error| {
                    Failure::new(Exit::Unavailable, format!("no random bytes for a key: {error}"))
                })?;
                write_key(file, &seed).map_err(|error| {
                    Failure::new(Exit::Usage, format!("{}: {error}", file.display()))
                        .remedy("name a file in a folder that you may write to")
                })?;
                output.note(&format!("created {}; keep a copy where it is safe", file.display()));
                seed
            }
        };
        let public = Signer::new(&seed).public();
        match output.is_json() {
            true => output.json(&json!({ "file": file, "key": public, "created": !there })),
            false => output.line(&public.to_string()),
        }
    }
}
