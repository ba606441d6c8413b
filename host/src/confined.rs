//! Keeping a process to some files: the kernel (Landlock) refuses all others.
//!
//! It binds the calling thread, those that it starts from then on, and whatever
//! they execute, and cannot be undone.

use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use rustix::fs::FileType;

use crate::observe::status::Confinement;

/// Below this a file could still be emptied, or moved to where it may be read.
const LEAST: ABI = ABI::V3;
/// The newest that this is written for.
const NEWEST: ABI = ABI::V7;

/// Paths that stay open.
#[derive(Default)]
pub(crate) struct Allowed {
    /// To read, and what is beneath them.
    pub(crate) read: Vec<PathFd>,
    /// To read and to change.
    pub(crate) write: Vec<PathFd>,
    /// To execute.
    pub(crate) run: Vec<PathFd>,
}

impl Allowed {
    /// As far as they are there.
    pub(crate) fn open(read: &[PathBuf], write: &[PathBuf]) -> Self {
        let open = |paths: &[PathBuf]| {
            paths.iter().filter_map(|path| PathFd::new(path).ok()).collect::<Vec<_>>()
        };
        Self { read: open(read), write: open(write), run: Vec::new() }
    }

    /// Keeps this process to them; `required` wants all of it from the kernel.
    pub(crate) fn restrict(self, required: bool) -> Result<Confinement, RulesetError> {
        let level = match required {
            true => CompatLevel::HardRequirement,
            false => CompatLevel::BestEffort,
        };
        let rules = |paths: Vec<PathFd>, access: BitFlags<AccessFs>| {
            paths.into_iter().map(move |path| {
                // A file has no entries, and asking for rights over them is a mistake.
                let access = match is(&path, FileType::Directory) {
                    true => access,
                    false => access & AccessFs::from_file(NEWEST),
                };
                Ok::<_, RulesetError>(PathBeneath::new(path, access))
            })
        };
        let status = Ruleset::default()
            .set_compatibility(level)
            .handle_access(AccessFs::from_all(LEAST))?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .create()?
            .add_rules(rules(self.read, reading()))?
            .add_rules(rules(self.write, reading() | writing()))?
            .add_rules(rules(self.run, reading() | AccessFs::Execute))?
            .restrict_self()?;
        Ok(Confinement {
            enforced: match status.ruleset {
                RulesetStatus::FullyEnforced => "full",
                RulesetStatus::PartiallyEnforced => "partial",
                RulesetStatus::NotEnforced => "none",
            },
            landlock: match status.landlock {
                LandlockStatus::Available { effective_abi, .. } => effective_abi as i32,
                _ => 0,
            },
        })
    }
}

fn reading() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

/// Everything about files and folders; no devices, and nothing is run.
fn writing() -> BitFlags<AccessFs> {
    AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::MakeSock
        | AccessFs::MakeFifo
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}

/// Whether an open path is of this kind.
pub(crate) fn is(path: &PathFd, kind: FileType) -> bool {
    rustix::fs::fstat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == kind)
}

/// What this program needs to be executed again: itself, its interpreter and its
/// libraries.
pub(crate) fn running_files() -> Vec<PathFd> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mapped = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    let mut paths: Vec<&Path> = mapped.map(Path::new).collect();
    paths.push(Path::new("/proc/self/exe"));
    paths.push(Path::new("/etc/ld.so.cache"));
    paths.sort_unstable();
    paths.dedup();
    paths.into_iter().filter_map(|path| PathFd::new(path).ok()).collect()
}
