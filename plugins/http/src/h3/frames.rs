//! The lengths of a stream's frames, before their contents are held.
//!
//! h3 collects every frame but `DATA` as a whole, however long it says that it
//! is, and of those it does not know as well.

/// A frame that nobody has a use for says that it is this long.
#[derive(Debug, thiserror::Error)]
#[error("a frame of {0} bytes")]
pub(crate) struct TooLong(u64);

/// `DATA` is handed on as it comes.
const DATA: u64 = 0;

/// A position in a stream of frames.
pub(crate) struct Frames {
    limit: u64,
    /// Bytes of the frame at hand that are still to come.
    left: u64,
    /// The start of the next one's type and length.
    head: [u8; 16],
    length: usize,
}

impl Frames {
    /// Frames that begin after so many other bytes.
    pub(crate) fn new(before: u64, limit: usize) -> Self {
        Self { limit: limit as u64, left: before, head: [0; 16], length: 0 }
    }

    /// Goes on by these bytes.
    pub(crate) fn scan(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        loop {
            let skipped = self.left.min(bytes.len() as u64);
            self.left -= skipped;
            bytes = bytes.get(skipped as usize..).unwrap_or_default();
            let Some((&byte, rest)) = bytes.split_first() else { return Ok(()) };
            bytes = rest;
            self.head[self.length] = byte;
            self.length += 1;
            let head = &self.head[..self.length];
            let Some((kind, after)) = varint(head) else { continue };
            let Some((length, _)) = varint(after) else { continue };
            if kind != DATA && length > self.limit {
                return Err(TooLong(length));
            }
            (self.left, self.length) = (length, 0);
        }
    }
}

/// The number that `bytes` begin with (RFC 9000, section 16), and what follows it.
pub(crate) fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = 1 << (bytes.first()? >> 6);
    let (number, rest) = bytes.split_at_checked(length)?;
    let number = number.iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
    Some((number & (u64::MAX >> (66 - 8 * length)), rest))
}

/// Appends `number`, which is below 2^62.
pub(crate) fn put_varint(out: &mut Vec<u8>, number: u64) {
    match number {
        0..0x40 => out.push(number as u8),
        0x40..0x4000 => out.extend_from_slice(&(number as u16 | 0x4000).to_be_bytes()),
        0x4000..0x4000_0000 => out.extend_from_slice(&(number as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(number | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 9000, section A.1.
    #[test]
    fn numbers_are_written_as_the_standard_writes_them() {
        for (number, bytes) in [
            (151_288_809_941_952_652, &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..]),
            (494_878_333, &[0x9d, 0x7f, 0x3e, 0x7d]),
            (15_293, &[0x7b, 0xbd]),
            (37, &[0x25]),
            ((1 << 62) - 1, &[0xff; 8]),
            (0x41, &[0x40, 0x41]),
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, number);
            assert_eq!(out, bytes);
            assert_eq!(varint(bytes), Some((number, &[][..])));
            assert_eq!(varint(&bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(varint(&[0x40, 0x25, 9]), Some((37, &[9][..])), "in more bytes than needed");
    }

    #[test]
    fn only_data_may_be_long_however_it_is_cut() {
        let mut good = Vec::new();
        for (kind, length) in [(1, 10), (0, 5_000), (0x1f * 7 + 0x21, 100), (0, 0), (1, 3)] {
            put_varint(&mut good, kind);
            put_varint(&mut good, length);
            good.resize(good.len() + length as usize, 7);
        }
        for size in [1, 2, 3, 1_000, good.len()] {
            let mut frames = Frames::new(0, 100);
            assert!(good.chunks(size).all(|bytes| frames.scan(bytes).is_ok()), "{size}");
            let mut bad = Vec::new();
            put_varint(&mut bad, 1);
            put_varint(&mut bad, 101);
            let refused = bad.chunks(size).any(|bytes| frames.scan(bytes).is_err());
            assert!(refused, "{size}");
        }
    }
}
