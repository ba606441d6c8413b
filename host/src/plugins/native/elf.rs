//! What the bytes of a shared library say before it is mapped.

use std::mem::{offset_of, size_of};
use std::ops::Range;
use std::path::Path;

use alknet_plugin_api::API_VERSION;
use alknet_plugin_api::abi::abi_stable::library::AbiHeader;
use alknet_plugin_api::abi::c::{C_SYMBOL, CHeader, FINGERPRINT};
use alknet_plugin_api::abi::{Header, MAGIC, SYMBOL};
use object::elf;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol};

use crate::plugins::LoadError;

/// Where things are in a library, relative to its load address.
pub(super) struct Image {
    /// The header's offset.
    pub(super) header: u64,
    /// Which of the two headers it is.
    pub(super) form: Form,
    segments: Vec<Segment>,
}

/// What a plugin's header is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// alknet-plugin-api: a [`Header`].
    Rust,
    /// Its header for C: a [`CHeader`].
    C,
}

impl Form {
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Rust => SYMBOL,
            Self::C => C_SYMBOL,
        }
    }

    fn size(self) -> usize {
        match self {
            Self::Rust => size_of::<Header>(),
            Self::C => size_of::<CHeader>(),
        }
    }
}

struct Segment {
    memory: Range<u64>,
    executable: bool,
}

impl Image {
    /// Whether `len` bytes from `offset` lie in a segment of the library, code
    /// or data as asked for.
    pub(super) fn holds(&self, offset: u64, len: u64, executable: bool) -> bool {
        let end = offset.checked_add(len);
        self.segments.iter().any(|segment| {
            segment.executable == executable
                && segment.memory.start <= offset
                && end.is_some_and(|end| end <= segment.memory.end)
        })
    }
}

/// What this daemon was compiled for.
const MACHINE: u16 = if cfg!(target_arch = "x86_64") {
    elf::EM_X86_64
} else if cfg!(target_arch = "aarch64") {
    elf::EM_AARCH64
} else if cfg!(target_arch = "riscv64") {
    elf::EM_RISCV
} else {
    elf::EM_NONE
};

fn machine_name(machine: u16) -> String {
    match machine {
        elf::EM_X86_64 => "x86_64".into(),
        elf::EM_AARCH64 => "aarch64".into(),
        elf::EM_RISCV => "riscv64".into(),
        elf::EM_386 => "x86 (32 bits)".into(),
        elf::EM_ARM => "arm (32 bits)".into(),
        elf::EM_S390 => "s390x".into(),
        elf::EM_PPC64 => "powerpc64".into(),
        other => format!("ELF machine {other}"),
    }
}

/// Decides from the file alone whether it is a plugin for this machine.
pub(super) fn inspect(path: &Path, bytes: &[u8]) -> Result<Image, LoadError> {
    let truncated =
        |cause: &str| LoadError::Truncated { path: path.to_owned(), cause: cause.to_owned() };
    let not =
        |found: &str| LoadError::NotAPlugin { path: path.to_owned(), found: found.to_owned() };

    check_ident(path, bytes)?;
    let header = elf::FileHeader64::<Endianness>::parse(bytes)
        .map_err(|_| truncated("it ends within the ELF header"))?;
    let endian = header.endian().map_err(|_| not("its byte order is unknown"))?;
    let machine = header.e_machine(endian);
    if machine != MACHINE {
        return Err(architecture(path, machine_name(machine)));
    }
    if header.e_type(endian) != elf::ET_DYN {
        return Err(not("it is an ELF file, but not a shared library"));
    }
    let programs = header
        .program_headers(endian, bytes)
        .map_err(|_| truncated("its program headers lie beyond its end"))?;
    let mut segments = Vec::new();
    for program in programs.iter().filter(|program| program.p_type(endian) == elf::PT_LOAD) {
        // Touching a mapped page beyond the file's end would kill the daemon.
        let end = program.p_offset(endian).checked_add(program.p_filesz(endian));
        if end.is_none_or(|end| end > bytes.len() as u64) {
            return Err(truncated("a segment lies beyond its end"));
        }
        let start = program.p_vaddr(endian);
        segments.push(Segment {
            memory: start..start.saturating_add(program.p_memsz(endian)),
            executable: program.p_flags(endian) & elf::PF_X != 0,
        });
    }
    let file = ElfFile64::<Endianness>::parse(bytes)
        .map_err(|_| truncated("its section headers lie beyond its end"))?;
    let (form, symbol) = [Form::Rust, Form::C]
        .into_iter()
        .find_map(|form| {
            let symbol = file
                .dynamic_symbols()
                .find(|symbol| symbol.is_definition() && symbol.name() == Ok(form.symbol()))?;
            Some((form, symbol))
        })
        .ok_or_else(|| LoadError::NoSymbol { path: path.to_owned(), symbol: SYMBOL })?;
    let image = Image { header: symbol.address(), form, segments };
    let data = symbol.elf_symbol().st_type() == elf::STT_OBJECT;
    check_header(path, bytes, endian, programs, &image, data, symbol.size())?;
    Ok(image)
}

fn architecture(path: &Path, found: String) -> LoadError {
    LoadError::Architecture { path: path.to_owned(), found, expected: machine_name(MACHINE) }
}

fn check_ident(path: &Path, bytes: &[u8]) -> Result<(), LoadError> {
    let (Some(&class), Some(&order)) = (bytes.get(4), bytes.get(5)) else {
        return Err(LoadError::Truncated {
            path: path.to_owned(),
            cause: "it ends within the ELF header".into(),
        });
    };
    if !bytes.starts_with(&elf::ELFMAG) {
        return Err(LoadError::NotAPlugin {
            path: path.to_owned(),
            found: "it is not an ELF file".into(),
        });
    }
    if class != elf::ELFCLASS64 {
        return Err(architecture(path, "a machine of 32 bits".into()));
    }
    let ours = if cfg!(target_endian = "little") { elf::ELFDATA2LSB } else { elf::ELFDATA2MSB };
    if order != ours {
        return Err(architecture(path, "a machine of the other byte order".into()));
    }
    Ok(())
}

/// Reads the part of the plugin's header that needs no relocation.
fn check_header(
    path: &Path,
    bytes: &[u8],
    endian: Endianness,
    programs: &[elf::ProgramHeader64<Endianness>],
    image: &Image,
    data: bool,
    size: u64,
) -> Result<(), LoadError> {
    let symbol = image.form.symbol();
    let wrong = |cause: String| LoadError::Header { path: path.to_owned(), symbol, cause };
    let needed = image.form.size() as u64;
    if !data {
        return Err(wrong("it is not data".into()));
    }
    if size < needed {
        return Err(wrong(format!("it has {size} bytes of at least {needed}")));
    }
    if !image.holds(image.header, needed, false) {
        return Err(wrong("it lies outside the library's data".into()));
    }
    let content = programs
        .iter()
        .filter(|program| program.p_type(endian) == elf::PT_LOAD)
        .find_map(|program| {
            let within = image.header.checked_sub(program.p_vaddr(endian))?;
            let end = within.checked_add(needed)?;
            if end > program.p_filesz(endian) {
                return None;
            }
            let start = usize::try_from(program.p_offset(endian) + within).ok()?;
            bytes.get(start..start + image.form.size())
        })
        .ok_or_else(|| wrong("it has no content in the file".into()))?;
    if content[..MAGIC.len()] != MAGIC {
        return Err(wrong("it does not begin as a plugin header does".into()));
    }
    let number = |at: usize| {
        let mut word = [0; 4];
        word.copy_from_slice(&content[at..at + 4]);
        u32::from_ne_bytes(word)
    };
    // Both forms have these in the same place.
    let major = number(offset_of!(Header, api_major));
    let minor = number(offset_of!(Header, api_minor));
    if major != API_VERSION.0 {
        return Err(LoadError::Api {
            path: path.to_owned(),
            found: format!("{major}.{minor}"),
            expected: format!("{}.{}", API_VERSION.0, API_VERSION.1),
        });
    }
    if image.form == Form::C {
        return check_fingerprint(path, &content[offset_of!(CHeader, fingerprint)..][..64]);
    }
    let abi = offset_of!(Header, abi);
    let theirs = &content[abi + offset_of!(AbiHeader, magic_string)..][..32];
    let (abi_major, abi_minor) = (
        number(abi + offset_of!(AbiHeader, abi_major)),
        number(abi + offset_of!(AbiHeader, abi_minor)),
    );
    let ours = AbiHeader::VALUE;
    if theirs != ours.magic_string
        || abi_major != ours.abi_major
        || (abi_major == 0 && abi_minor != ours.abi_minor)
    {
        return Err(wrong(format!(
            "its layout is described in the form of abi_stable {abi_major}.{abi_minor}, and \
             this daemon reads {}.{}",
            ours.abi_major, ours.abi_minor
        )));
    }
    Ok(())
}

/// Whether a plugin in C was compiled with this interface.
fn check_fingerprint(path: &Path, theirs: &[u8]) -> Result<(), LoadError> {
    if theirs == FINGERPRINT {
        return Ok(());
    }
    let difference = format!(
        "  at the fingerprint of alknet_plugin.h\n  expected {}\n  found    {}",
        String::from_utf8_lossy(FINGERPRINT),
        theirs.escape_ascii()
    );
    Err(LoadError::Layout { path: path.to_owned(), api: API_VERSION.0, difference })
}
