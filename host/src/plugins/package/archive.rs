//! The archive: a tar (POSIX ustar) of regular files, of which each name, size and
//! content has one encoding. Headers are not interpreted but compared.

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::Fault;
use crate::config::Digest;

const BLOCK: usize = 512;

/// The one header that an entry of this name and size has.
fn header(name: &str, size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

/// The zeros between an entry's content and the next block.
fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

/// Writes an archive.
pub(super) struct Writer<W>(W);

impl<W: Write> Writer<W> {
    pub(super) fn new(to: W) -> Self {
        Self(to)
    }

    pub(super) fn entry(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let size = content.len() as u64;
        self.0.write_all(header(name, size)?.as_bytes())?;
        self.0.write_all(content)?;
        self.0.write_all(&[0; BLOCK][..padding(size)])
    }

    pub(super) fn end(mut self) -> io::Result<W> {
        self.0.write_all(&[0; 2 * BLOCK])?;
        self.0.flush()?;
        Ok(self.0)
    }
}

/// Reads an archive from start to end.
pub(super) struct Reader<R>(R);

impl<R: Read> Reader<R> {
    pub(super) fn new(from: R) -> Self {
        Self(from)
    }

    /// The first entry, of this name; its size is in its header.
    pub(super) fn first(&mut self, name: &str, max: u64) -> Result<u64, Fault> {
        let block = self.block(name).map_err(|fault| match fault {
            Fault::Truncated { .. } => Fault::NotAPackage("it is too short"),
            fault => fault,
        })?;
        match block {
            [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [b'P', b'K', ..] => {
                return Err(Fault::NotAPackage("it is compressed; unpack it first"));
            }
            _ => {}
        }
        let found = Header::from_byte_slice(&block);
        if found.path_bytes() != name.as_bytes() {
            return Err(Fault::NotAPackage("it does not begin with an index"));
        }
        let size = found.entry_size().unwrap_or(u64::MAX);
        if size > max {
            return Err(Fault::TooLarge { entry: name.to_owned(), size, max });
        }
        same(&block, name, size)?;
        Ok(size)
    }

    /// The next entry, which must have this name and size.
    pub(super) fn entry(&mut self, name: &str, size: u64) -> Result<(), Fault> {
        same(&self.block(name)?, name, size)
    }

    /// The content of the entry whose header was read last, and its digest.
    pub(super) fn content(
        &mut self,
        name: &str,
        size: u64,
        mut into: Option<&mut Vec<u8>>,
    ) -> Result<Digest, Fault> {
        let mut hash = Sha256::new();
        let mut left = size;
        let mut chunk = vec![0; 64 << 10];
        while left > 0 {
            let len = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.fill(name, &mut chunk[..len])?;
            hash.update(&chunk[..len]);
            if let Some(into) = &mut into {
                into.extend_from_slice(&chunk[..len]);
            }
            left -= len as u64;
        }
        let padding = &mut chunk[..padding(size)];
        self.fill(name, padding)?;
        if padding.iter().any(|byte| *byte != 0) {
            let found = "something hidden behind the content".to_owned();
            return Err(Fault::Unexpected { expected: name.to_owned(), found });
        }
        Ok(Digest(hash.finalize().into()))
    }

    /// The end, behind which there is nothing.
    pub(super) fn end(mut self) -> Result<(), Fault> {
        let mut rest = Vec::new();
        let read = (&mut self.0).take(2 * BLOCK as u64 + 1).read_to_end(&mut rest);
        read.map_err(Fault::Unreadable)?;
        let zeros = rest.iter().all(|byte| *byte == 0);
        match rest.len() {
            len if len < 2 * BLOCK && zeros => Err(Fault::Truncated { entry: "the end".into() }),
            len if len == 2 * BLOCK && zeros => Ok(()),
            len if len >= BLOCK && !zeros => {
                let mut block = [0; BLOCK];
                block.copy_from_slice(&rest[..BLOCK]);
                match block.iter().all(|byte| *byte == 0) {
                    true => Err(Fault::Trailing),
                    false => Err(unexpected(&block, "the end")),
                }
            }
            _ => Err(Fault::Trailing),
        }
    }

    fn block(&mut self, entry: &str) -> Result<[u8; BLOCK], Fault> {
        let mut block = [0; BLOCK];
        self.fill(entry, &mut block)?;
        Ok(block)
    }

    fn fill(&mut self, entry: &str, into: &mut [u8]) -> Result<(), Fault> {
        self.0.read_exact(into).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Fault::Truncated { entry: entry.to_owned() },
            _ => Fault::Unreadable(error),
        })
    }
}

/// Whether a header is the one that belongs there.
fn same(found: &[u8; BLOCK], name: &str, size: u64) -> Result<(), Fault> {
    let expected = header(name, size).map_err(|error| Fault::Index(error.to_string()))?;
    match expected.as_bytes() == found {
        true => Ok(()),
        false => Err(unexpected(found, name)),
    }
}

fn unexpected(found: &[u8; BLOCK], expected: &str) -> Fault {
    Fault::Unexpected { expected: expected.to_owned(), found: described(found) }
}

/// What a header is of.
fn described(block: &[u8; BLOCK]) -> String {
    if block.iter().all(|byte| *byte == 0) {
        return "its end".into();
    }
    let header = Header::from_byte_slice(block);
    let kind = match header.entry_type() {
        EntryType::Regular => "a file",
        EntryType::Symlink => "a symbolic link",
        EntryType::Link => "a hard link",
        EntryType::Directory => "a folder",
        EntryType::Char | EntryType::Block => "a device",
        EntryType::Fifo => "a pipe",
        _ => "an entry of another kind",
    };
    let name = header.path_bytes();
    let size = header.entry_size().map_or("?".to_owned(), |size| size.to_string());
    format!("{kind} `{}` of {size} bytes", String::from_utf8_lossy(&name))
}
