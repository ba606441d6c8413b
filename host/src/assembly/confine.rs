//! What the daemon gives up before it begins: core dumps, and on request every
//! file but its own.
//!
//! A memory image of the process would hold the node's keys. And a mistake in a
//! plugin that shares the process could reach whatever the daemon's user may
//! read. With `files = true` in `[sandbox]` the kernel (Landlock) refuses every
//! file outside the node's folder, the plugins' artifacts, the cache of compiled
//! components and the paths that the section lists.
//!
//! Landlock binds a thread and those that it starts. So this comes first, while
//! the process has one thread: before the runtime, and before any plugin's code.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use landlock::PathFd;
use rustix::fs::FileType;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::config::{
    Isolation, NodeConfig, Place, PluginStanza, Problems, Unlock, VaultConfig, component_cache,
    state_folder,
};
use crate::confined::{Allowed, is, running_files};
use crate::observe::audit::AuditLog;
use crate::observe::status::Confinement;

/// What the daemon asks the system itself about, as far as it is there.
const SYSTEM: [&str; 3] = ["/proc/self/cgroup", "/proc/sys/vm", "/sys/fs/cgroup"];

static IN_FORCE: OnceLock<Confinement> = OnceLock::new();

/// What this process is confined to; `None` if nobody asked for it.
pub(super) fn confinement() -> Option<&'static Confinement> {
    IN_FORCE.get()
}

/// Has the kernel write no memory image of this process, whatever happens, and
/// keeps other processes of the same user from reading its memory.
///
/// # Errors
/// The kernel refuses.
pub fn refuse_core_dumps() -> std::io::Result<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none)?;
    // Where a program collects dumps, the limit alone does not count.
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Confines this process to the node's own files, if its configuration asks for
/// it. It cannot be undone. Threads that run already are not confined.
///
/// # Errors
/// A path that is listed and missing; a kernel that cannot, where the
/// configuration requires it.
pub fn confine(config: &NodeConfig) -> Result<(), Problems> {
    let sandbox = &config.sandbox;
    if !sandbox.files {
        return Ok(());
    }
    let confinement = allowed(config)?.restrict(sandbox.required).map_err(|error| {
        sandbox.places.table().problem(
            format!("the kernel does not confine the daemon's file access: {error}"),
            "run Linux 6.2 or newer with Landlock enabled, or remove `required`",
        )
    })?;
    match confinement.enforced {
        "none" => tracing::warn!("the kernel has no Landlock: file access is not confined"),
        enforced => {
            tracing::info!(enforced, landlock = confinement.landlock, "file access is confined");
        }
    }
    // Who is confined twice has the narrower of both, and shows the first.
    let _first = IN_FORCE.set(confinement);
    Ok(())
}

/// Paths that stay open to the daemon. What is missing of the node's own things has
/// its own problem later on.
fn allowed(config: &NodeConfig) -> Result<Allowed, Problems> {
    let folder = config.file.parent().unwrap_or(Path::new("."));
    let (cache, state) = (component_cache(&config.file), state_folder(&config.file));
    make_private(&cache);
    make_private(&state);
    let mut own: Vec<PathBuf> = SYSTEM.map(PathBuf::from).into();
    own.push(folder.to_owned());
    own.push(config.identity_key.clone());
    own.extend(config.vault.iter().flat_map(VaultConfig::reads));
    own.extend(config.plugins.iter().map(|plugin| plugin.artifact.clone()));
    let certificate = super::identity::paths(config);
    certificate.write.iter().for_each(|folder| make_private(folder));
    own.extend(certificate.read);
    let mut problems = Problems::new();
    let mut listed = |key: &str, paths: &[PathBuf]| -> Vec<PathFd> {
        let open = |path: &PathBuf| {
            let place = config.sandbox.places.of(key);
            PathFd::new(path).map_err(|error| missing(place, path, &error)).map_err(|problem| {
                problems.push(problem);
            })
        };
        paths.iter().map(open).filter_map(Result::ok).collect()
    };
    let (mut read, mut write) =
        (listed("read", &config.sandbox.read), listed("write", &config.sandbox.write));
    problems.into_result(())?;
    // Landlock takes no pipe, and keeps nobody from one: a descriptor may be one.
    let own = own.iter().filter_map(|path| PathFd::new(path).ok());
    read.extend(
        own.filter(|path| is(path, FileType::Directory) || is(path, FileType::RegularFile)),
    );
    write.extend([cache, state].iter().filter_map(|folder| PathFd::new(folder).ok()));
    write.extend(config.observe.audit.as_ref().and_then(|audit| audit_log(config, &audit.file)));
    if config.vault.as_ref().is_some_and(|vault| vault.unlock == Unlock::Prompt) {
        // The question is written there, too.
        write.extend(PathFd::new("/dev/tty").ok());
    }
    write.extend(certificate.write.iter().filter_map(|folder| PathFd::new(folder).ok()));
    let isolated = |plugin: &PluginStanza| plugin.isolation == Isolation::Process;
    let run = match config.plugins.iter().any(isolated) {
        true => running_files(),
        false => Vec::new(),
    };
    Ok(Allowed { read, write, run })
}

/// The folder of the audit log, where a rotated file is followed by a new one. Of
/// the node's own folder it is the file alone: the configuration is not written.
fn audit_log(config: &NodeConfig, file: &Path) -> Option<PathFd> {
    let folder = file.parent()?;
    if Some(folder) != config.file.parent() {
        make_private(folder);
        return PathFd::new(folder).ok();
    }
    // What keeps it from being opened is told by whoever opens it to write.
    drop(AuditLog::create(file));
    PathFd::new(file).ok()
}

/// The folder of the cache, which cannot be made later on. One that is there is
/// looked at when it is opened, and so is the lack of one.
fn make_private(folder: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    let _there_or_not = std::fs::DirBuilder::new().mode(0o700).create(folder);
}

fn missing(place: &Place, path: &Path, error: &landlock::PathFdError) -> crate::config::Problem {
    place.problem(
        format!("{} cannot be opened: {error}", path.display()),
        "create it, or remove it from the list",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_memory_image_is_written() {
        refuse_core_dumps().unwrap();
        let dumpable = rustix::process::dumpable_behavior().unwrap();
        assert!(matches!(dumpable, DumpableBehavior::NotDumpable));
        let limit = rustix::process::getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
    }
}
