//! Maps a library and takes the plugin's functions out of it.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::path::Path;
use std::ptr::addr_of;
use std::time::Duration;

use alknet_plugin_api::abi::c::{self, C_SYMBOL, CHeader, RawModule};
use alknet_plugin_api::abi::module::ModuleRef;
use alknet_plugin_api::abi::value::Slice;
use alknet_plugin_api::abi::{Header, Module, SYMBOL};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::elf::{Form, Image};
use super::layout;
use crate::plugins::LoadError;

/// Maps a [`sealed`] file, whose bytes [`elf::inspect`](super::elf::inspect) has
/// approved, and compares interfaces.
pub(super) fn load(path: &Path, file: File, image: &Image) -> Result<Module, LoadError> {
    let header = map(path, file, image.form.symbol())?;
    if image.form == Form::C {
        return in_c(path, header.cast(), image);
    }
    let header = header.cast::<Header>();
    let functions = check_pointers(path, header, image)?;
    // SAFETY: the pointer lies in the library's code, behind a header with the
    // right magic and version: it is the layout function of that version.
    let theirs = unsafe {
        std::mem::transmute::<usize, extern "C" fn() -> *const layout::TypeLayout>(functions.layout)
    }();
    if !functions.in_data(image, theirs as usize) {
        return Err(wrong(path, "its layout lies outside the library"));
    }
    // SAFETY: libraries are never unloaded, so what lies in one is 'static.
    layout::compare(path, unsafe { &*theirs })?;
    // SAFETY: as above, for the module function.
    let module =
        unsafe { std::mem::transmute::<usize, extern "C" fn() -> *const ()>(functions.module) }();
    if !functions.in_data(image, module as usize) {
        return Err(wrong(path, "its table of functions lies outside the library"));
    }
    // SAFETY: the pointer is not null, points into the library's data, and the
    // layouts agree; a prefix reference is that pointer.
    let module = unsafe { std::mem::transmute::<*const (), ModuleRef>(module) };
    // SAFETY: the layout has been compared, and the library stays.
    Ok(unsafe { Module::new(module) })
}

/// Takes the functions of a plugin in C, whose fingerprint says that it means this
/// interface.
fn in_c(path: &Path, header: *const CHeader, image: &Image) -> Result<Module, LoadError> {
    let wrong = |cause: &str| LoadError::Header {
        path: path.to_owned(),
        symbol: C_SYMBOL,
        cause: cause.to_owned(),
    };
    let base = base(path, header as usize, image)?;
    let inside = |address: usize, len: usize, executable: bool| {
        let offset = address.checked_sub(base);
        offset.is_some_and(|offset| image.holds(offset as u64, len as u64, executable))
    };
    if !(header as usize).is_multiple_of(align_of::<CHeader>()) {
        return Err(wrong("it is not aligned"));
    }
    // SAFETY: the header's whole range lies in a data segment of the file that was
    // mapped, at an aligned address, and every value of it is valid.
    let table: *const RawModule = unsafe { addr_of!((*header).module).read() };
    if !(table as usize).is_multiple_of(align_of::<RawModule>())
        || !inside(table as usize, size_of::<RawModule>(), false)
    {
        return Err(wrong("its table of functions lies outside the library's data"));
    }
    // SAFETY: the table lies in the library's data, at an aligned address, and is read
    // as numbers.
    let raw = unsafe { table.read() };
    if !raw.is_complete() {
        return Err(wrong("its table of functions is incomplete"));
    }
    if !raw.functions.iter().all(|function| inside(*function, 1, true)) {
        return Err(wrong("a function of its table lies outside the library's code"));
    }
    // SAFETY: the table is complete, the fingerprint is this interface's, and libraries
    // are never unloaded.
    Ok(unsafe { Module::foreign(c::module(table)) })
}

/// Where the library was mapped.
fn base(path: &Path, header: usize, image: &Image) -> Result<usize, LoadError> {
    header
        .checked_sub(usize::try_from(image.header).unwrap_or(usize::MAX))
        .ok_or_else(|| wrong(path, "it was mapped elsewhere than the file says"))
}

fn wrong(path: &Path, cause: &str) -> LoadError {
    LoadError::Header { path: path.to_owned(), symbol: SYMBOL, cause: cause.to_owned() }
}

/// Maps the file and finds the header.
fn map(path: &Path, file: File, symbol: &str) -> Result<*const (), LoadError> {
    let refused = |cause: String| LoadError::Loader { path: path.to_owned(), cause };
    tracing::debug!(path = %path.display(), "mapping a native plugin");
    // The descriptor stays open: a later plugin whose file got the same number
    // would otherwise bear the same name, and be taken for this one.
    let name = format!("/proc/self/fd/{}", file.into_raw_fd());
    // SAFETY: constructors run here. That is what trusting a native plugin means:
    // its digest and signature have been checked, and that it is a plugin.
    let library = unsafe { Library::open(Some(&name), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|error| refused(text_of(&error)))?;
    // SAFETY: only the address is used here.
    let header = unsafe { library.get::<*const ()>(symbol) }
        .map_err(|error| refused(text_of(&error)))?
        .as_raw_ptr();
    // Never unloaded; see the module's documentation.
    std::mem::forget(library);
    Ok(header.cast())
}

fn text_of(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// How often sealing is tried.
const SEALING: u32 = 50;

/// An anonymous file with these bytes that nobody can change any more.
pub(super) fn sealed(bytes: &[u8]) -> io::Result<File> {
    const NAME: &CStr = c"alknet-plugin";
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string; the call returns a descriptor or -1.
    let mut fd = unsafe { libc::memfd_create(NAME.as_ptr(), flags | libc::MFD_EXEC) };
    if fd < 0 {
        // Kernels before 6.3 do not know MFD_EXEC, and need none.
        // SAFETY: as above.
        fd = unsafe { libc::memfd_create(NAME.as_ptr(), flags) };
    }
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is fresh and nobody else's.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes)?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    for left in (0..SEALING).rev() {
        // SAFETY: the descriptor is open, the seals are flags.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if left == 0 || error.kind() != io::ErrorKind::ResourceBusy {
            return Err(error);
        }
        // The kernel is moving a page of it, and is soon done.
        std::thread::sleep(Duration::from_millis(10));
    }
    file.rewind()?;
    Ok(file)
}

/// The addresses of the header's functions.
struct Functions {
    base: usize,
    layout: usize,
    module: usize,
}

impl Functions {
    fn in_data(&self, image: &Image, address: usize) -> bool {
        address.checked_sub(self.base).is_some_and(|offset| image.holds(offset as u64, 8, false))
    }
}

/// Checks that every pointer in the header leads into the library itself, where
/// it should: code to code, text to data.
fn check_pointers(
    path: &Path,
    header: *const Header,
    image: &Image,
) -> Result<Functions, LoadError> {
    let base = base(path, header as usize, image)?;
    if !(header as usize).is_multiple_of(align_of::<Header>()) {
        return Err(wrong(path, "it is not aligned"));
    }
    // SAFETY: the header's whole range lies in a data segment of the file that
    // was mapped, at an aligned address. The functions are read as numbers, since
    // nothing says yet that they are functions.
    let (layout, module, info) = unsafe {
        (
            addr_of!((*header).layout).cast::<usize>().read(),
            addr_of!((*header).module).cast::<usize>().read(),
            addr_of!((*header).build_info).cast::<Slice>().read(),
        )
    };
    let inside = |address: usize, len: usize, executable: bool| {
        let offset = address.checked_sub(base);
        offset.is_some_and(|offset| image.holds(offset as u64, len as u64, executable))
    };
    for (name, address) in [("layout", layout), ("module", module)] {
        if !inside(address, 1, true) {
            return Err(wrong(
                path,
                &format!("its {name} function lies outside the library's code"),
            ));
        }
    }
    let (text, len) = info.range();
    if !inside(text as usize, len, false) {
        return Err(wrong(path, "its build information lies outside the library's data"));
    }
    Ok(Functions { base, layout, module })
}
