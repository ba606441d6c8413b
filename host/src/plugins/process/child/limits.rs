//! What the child gives up before it loads anything.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use rustix::process::{
    Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};

use super::super::wire::Setup;
use crate::confined::Allowed;

/// Bytes that the process needs before the plugin's code runs, most of them for
/// its threads' stacks.
const OWN: u64 = 64 << 20;
/// Addresses that are reserved beyond what is used: libraries, and what the
/// allocator sets aside for each thread.
const ADDRESSES: u64 = 1 << 30;
/// Files and sockets that a plugin may have open.
const FILES: u64 = 4096;

/// Puts nothing where the plugin looks for input, and standard error, which the
/// host reads, where it writes.
pub(super) fn replace_standard_streams() -> io::Result<()> {
    // Its only writer is gone at the end of this function.
    let (nothing, _writer) = io::pipe()?;
    for (from, to) in [(nothing.as_raw_fd(), 0), (2, 1)] {
        // SAFETY: both are numbers of descriptors; nothing of Rust owns the second,
        // which becomes what the first is.
        if unsafe { libc::dup2(from, to) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Takes the limits, gives up rights, and says what confines its file access.
pub(super) fn take(setup: &Setup) -> Result<Option<String>, String> {
    let step = |what: &str, result: io::Result<()>| {
        result.map_err(|error| format!("the kernel refuses {what}: {error}"))
    };
    step("to limit memory", limit(Resource::Data, setup.memory.saturating_add(OWN)))?;
    step("to limit memory", limit(Resource::As, setup.memory.saturating_add(ADDRESSES)))?;
    step("to limit open files", limit(Resource::Nofile, FILES))?;
    step("to give up what root may", drop_capabilities())?;
    step("to rule out new rights", no_new_privileges())?;
    let dies = set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from);
    step("to end the process with its host", dies)?;
    // It may have gone just before.
    if getppid().map(|host| host.as_raw_nonzero().get().cast_unsigned()) != Some(setup.host) {
        return Err("the host is gone".into());
    }
    let Some(files) = &setup.files else { return Ok(None) };
    let paths = |texts: &[String]| texts.iter().map(PathBuf::from).collect::<Vec<_>>();
    let confinement = Allowed::open(&paths(&files.read), &paths(&files.write))
        .restrict(files.required)
        .map_err(|error| format!("the kernel does not confine its file access: {error}"))?;
    Ok(Some(confinement.enforced.to_owned()))
}

/// Sets both limits, and never above what the host has.
fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let hard = getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
    Ok(setrlimit(resource, Rlimit { current: Some(hard), maximum: Some(hard) })?)
}

fn no_new_privileges() -> io::Result<()> {
    // SAFETY: the call takes numbers.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Of root's rights only that to its own files stays: with the others it could
/// read the daemon's memory, or take its limits back.
fn drop_capabilities() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let none = [0u32; 6];
    // SAFETY: the header and the three sets have the layout that version 3 has: two
    // words, and twice three words.
    match unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
