//! Why a command ends without having done what it was asked for.

use std::fmt;
use std::process::ExitCode;

use alknet_plugin_api::{CallError, code};
use alknet_vault::{StoreError, VaultError};
use serde_json::{Value, json};

use crate::assembly::install::InstallError;
use crate::config::{EditError, Problems};
use crate::plugins::LoadError;
use crate::plugins::package::{PackageError, VerifyError};

/// The exit statuses, after the BSD `sysexits` where they have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// Done.
    Done = 0,
    /// The operation answered with an error.
    Answer = 1,
    /// The command line is wrong.
    Usage = 64,
    /// A file is not what it claims to be: altered, damaged, or for another machine.
    Data = 65,
    /// The node or an address cannot be reached, or the vault does not unlock.
    Unavailable = 69,
    /// alknet itself failed.
    Internal = 70,
    /// Nobody who is trusted vouches for a file.
    Untrusted = 77,
    /// The configuration is wrong.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure with its exit status and what to tell the user.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    report: Report,
}

#[derive(Debug)]
enum Report {
    Text { what: String, remedy: Option<String> },
    Problems(Problems),
    Call(CallError),
}

impl Failure {
    /// A failure in one sentence.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, report: Report::Text { what: what.into(), remedy: None } }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn remedy(mut self, text: impl Into<String>) -> Self {
        if let Report::Text { remedy, .. } = &mut self.report {
            *remedy = Some(text.into());
        }
        self
    }

    /// The status that the process ends with.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// For `--json`: `{"error": …}` with what the text says.
    pub fn to_json(&self) -> Value {
        let error = match &self.report {
            Report::Text { what, remedy } => json!({ "what": what, "remedy": remedy }),
            Report::Problems(problems) => json!({ "problems": problems }),
            Report::Call(error) => json!(error),
        };
        json!({ "error": error })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.report {
            Report::Text { what, remedy } => {
                write!(f, "error: {what}")?;
                match remedy {
                    Some(remedy) => write!(f, "\n = help: {remedy}"),
                    None => Ok(()),
                }
            }
            Report::Problems(problems) => write!(f, "{problems}"),
            Report::Call(error) => {
                write!(f, "error: {error}")?;
                if let Some(details) = &error.details {
                    match details.to::<Value>() {
                        Ok(value) if value["problems"].is_array() => {
                            write_problems(f, &value["problems"])?;
                        }
                        _ => write!(f, "\n = details: {details}")?,
                    }
                }
                let help = match &*error.code {
                    code::INVALID_INPUT => "`alknet ops NAME` shows what an operation takes",
                    code::NOT_FOUND => "`alknet ops` lists what the node offers to you",
                    _ if error.retryable => "the same call may succeed later",
                    _ => return Ok(()),
                };
                write!(f, "\n = help: {help}")
            }
        }
    }
}

/// Problems as a node tells them.
fn write_problems(f: &mut fmt::Formatter<'_>, problems: &Value) -> fmt::Result {
    for problem in problems.as_array().into_iter().flatten() {
        let text = |key: &str| problem[key].as_str().unwrap_or_default();
        write!(f, "\n{}", text("file"))?;
        if let (Some(line), Some(column)) = (problem["line"].as_u64(), problem["column"].as_u64()) {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}\n = help: {}", text("what"), text("remedy"))?;
    }
    Ok(())
}

impl From<EditError> for Failure {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Invalid(problems) | EditError::Refused(problems) => problems.into(),
            error @ (EditError::File { .. } | EditError::Changed(_)) => {
                Self::new(Exit::Config, error.to_string())
            }
            error => Self::new(Exit::Usage, error.to_string()),
        }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let exit = match error {
            LoadError::Unsigned { .. }
            | LoadError::Signature { .. }
            | LoadError::SignatureUnchecked { .. } => Exit::Untrusted,
            _ => Exit::Data,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<PackageError> for Failure {
    fn from(error: PackageError) -> Self {
        Self::new(Exit::Data, error.to_string())
    }
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        Self::new(Exit::Data, error.to_string())
    }
}

impl From<InstallError> for Failure {
    fn from(error: InstallError) -> Self {
        match error {
            InstallError::Edit(error) => error.into(),
            InstallError::Load(error) => error.into(),
            InstallError::Untrusted { .. } => Self::new(Exit::Untrusted, error.to_string()),
            InstallError::IsPackage(_) => Self::new(Exit::Usage, error.to_string()),
            InstallError::File { .. } => Self::new(Exit::Config, error.to_string()),
            error => Self::new(Exit::Data, error.to_string()),
        }
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        let exit = match problems.is_a_locked_vault() {
            true => Exit::Unavailable,
            false => Exit::Config,
        };
        Self { exit, report: Report::Problems(problems) }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(Exit::Config, error.to_string())
    }
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        let exit = match error {
            VaultError::Mnemonic(_) | VaultError::InvalidPath(_) => Exit::Usage,
            _ => Exit::Config,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self { exit: Exit::Answer, report: Report::Call(error) }
    }
}
