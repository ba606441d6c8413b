//! The operations themselves, on a thread that may block.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use alknet_plugin_api::CallError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use serde::{Deserialize, Serialize};

use crate::Shared;
use crate::jail::Refusal;

#[derive(Deserialize)]
pub(crate) struct Target {
    path: Option<String>,
    path_base64: Option<String>,
}

impl Target {
    fn bytes(self) -> Result<Vec<u8>, CallError> {
        match (self.path, self.path_base64) {
            (Some(_), Some(_)) => {
                Err(CallError::invalid_input("give either `path` or `path_base64`"))
            }
            (Some(path), None) => Ok(path.into_bytes()),
            (None, Some(path)) => decode("path_base64", &path),
            (None, None) => Ok(Vec::new()),
        }
    }
}

fn decode(field: &str, text: &str) -> Result<Vec<u8>, CallError> {
    BASE64
        .decode(text)
        .map_err(|error| CallError::invalid_input(format!("`{field}` is no base64: {error}")))
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    File,
    Directory,
    Symlink,
    Other,
}

impl From<FileType> for Kind {
    fn from(file_type: FileType) -> Self {
        match file_type {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            _ => Self::Other,
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct List {
    #[serde(flatten)]
    target: Target,
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
pub(crate) struct Listing {
    entries: Vec<Entry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_base64: Option<String>,
    kind: Kind,
}

pub(crate) fn list(shared: &Shared, input: List) -> Result<Listing, CallError> {
    let limit = input.limit.unwrap_or(usize::MAX).clamp(1, shared.max_entries);
    let after = input.after.as_deref().map(|after| decode("after", after)).transpose()?;
    let directory = shared.jail.directory(&input.target.bytes()?)?;
    // A directory may hold millions; only the first `limit` names are kept, and one
    // more to know that there is more.
    let mut first = BTreeMap::<Vec<u8>, FileType>::new();
    let mut entries = Dir::read_from(&directory).map_err(Refusal::from)?;
    while let Some(entry) = entries.read() {
        let entry = entry.map_err(Refusal::from)?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") || after.as_deref().is_some_and(|after| name <= after) {
            continue;
        }
        first.insert(name.to_vec(), known_type(&directory, entry.file_name(), entry.file_type()));
        if first.len() > limit + 1 {
            first.pop_last();
        }
    }
    let more = first.len() > limit;
    if more {
        first.pop_last();
    }
    let next = first.last_key_value().filter(|_| more).map(|(name, _)| BASE64.encode(name));
    let entries = first.into_iter().map(|(name, file_type)| match String::from_utf8(name) {
        Ok(name) => Entry { name, name_base64: None, kind: file_type.into() },
        Err(error) => Entry {
            name: String::from_utf8_lossy(error.as_bytes()).into_owned(),
            name_base64: Some(BASE64.encode(error.as_bytes())),
            kind: file_type.into(),
        },
    });
    Ok(Listing { entries: entries.collect(), next })
}

/// Some file systems leave it to the reader to find out.
fn known_type(directory: impl AsFd, name: &CStr, file_type: FileType) -> FileType {
    if file_type != FileType::Unknown {
        return file_type;
    }
    statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode))
}

#[derive(Serialize)]
pub(crate) struct Facts {
    kind: Kind,
    size: u64,
    modified_ms: i64,
}

pub(crate) fn stat(shared: &Shared, input: Target) -> Result<Facts, CallError> {
    let stat = shared.jail.stat(&input.bytes()?)?;
    Ok(Facts {
        kind: FileType::from_raw_mode(stat.st_mode).into(),
        size: size(&stat),
        modified_ms: stat
            .st_mtime
            .saturating_mul(1000)
            .saturating_add_unsigned(stat.st_mtime_nsec / 1_000_000),
    })
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

#[derive(Deserialize)]
pub(crate) struct Read {
    #[serde(flatten)]
    target: Target,
    #[serde(default)]
    offset: u64,
    length: Option<u64>,
    #[serde(default)]
    encoding: Encoding,
}

#[derive(Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Auto,
    Base64,
}

#[derive(Serialize)]
pub(crate) struct Part {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    offset: u64,
    length: usize,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

pub(crate) fn read(shared: &Shared, input: Read) -> Result<Part, CallError> {
    let (file, stat) = shared.jail.file(&input.target.bytes()?)?;
    let length = usize::try_from(input.length.unwrap_or(u64::MAX))
        .unwrap_or(usize::MAX)
        .min(shared.max_read);
    let bytes = read_part(&file, input.offset, length).map_err(|error| {
        tracing::warn!(%error, "reading a file failed");
        // The kernel's words alone: they name no path.
        CallError::internal(format!("reading failed: {}", error.kind()))
    })?;
    let end = input.offset.saturating_add(bytes.len() as u64);
    // The file may have grown since, or be one whose size says nothing, as in
    // /proc; a full answer is the safer sign that there is more.
    let more = end < size(&stat) || (bytes.len() == length && length > 0 && size(&stat) == 0);
    let mut part = Part {
        text: None,
        data: None,
        offset: input.offset,
        length: bytes.len(),
        size: size(&stat),
        next: more.then_some(end),
    };
    match input.encoding {
        Encoding::Auto => match String::from_utf8(bytes) {
            Ok(text) => part.text = Some(text),
            Err(error) => part.data = Some(BASE64.encode(error.as_bytes())),
        },
        Encoding::Base64 => part.data = Some(BASE64.encode(bytes)),
    }
    Ok(part)
}

fn read_part(file: &std::fs::File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        let Some(at) = offset.checked_add(filled as u64).filter(|at| i64::try_from(*at).is_ok())
        else {
            break;
        };
        match file.read_at(&mut bytes[filled..], at) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
