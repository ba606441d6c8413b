//! Frames: a 4-byte big-endian length, then that many bytes.

use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Largest frame that a side accepts unless it is configured otherwise: 1 MiB.
pub const DEFAULT_MAX_FRAME: usize = 1 << 20;
/// Largest frame that a side may be configured to accept: 64 MiB.
pub const MAX_MAX_FRAME: usize = 64 << 20;
/// Bytes of a frame's length prefix.
pub const PREFIX: usize = 4;
/// Bytes that one read asks for. Frames up to this size share read buffers;
/// larger ones have a buffer to themselves, so that none is kept alive by
/// another frame's content.
pub const READ_CHUNK: usize = 16 * 1024;

/// What is wrong with a frame; the stream is reset with `BAD_FRAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The prefix says zero.
    #[error("a frame of no bytes; every frame holds one envelope")]
    Empty,
    /// The prefix says more than the limit.
    #[error(
        "a frame of {size} bytes exceeds the limit of {limit}; send less, or raise `max_frame_bytes`"
    )]
    TooLarge {
        /// What the prefix says, in bytes.
        size: usize,
        /// The most that is accepted, in bytes.
        limit: usize,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
}

/// Cuts a byte stream into frames without copying them.
///
/// The buffer grows as bytes arrive: what a prefix claims is never allocated.
///
/// ```
/// use alknet_call_protocol::frame::FrameDecoder;
/// let mut decoder = FrameDecoder::new(1024);
/// decoder.buffer().extend_from_slice(b"\0\0\0\x02{}\0\0");
/// assert_eq!(decoder.next_frame()?.as_deref(), Some(&b"{}"[..]));
/// assert_eq!(decoder.next_frame()?, None);
/// assert!(decoder.finish().is_err());
/// # Ok::<(), alknet_call_protocol::frame::FrameError>(())
/// ```
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: BytesMut,
    limit: usize,
}

impl FrameDecoder {
    /// A decoder for frames of at most `limit` bytes, itself at most
    /// [`MAX_MAX_FRAME`].
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit: limit.clamp(1, MAX_MAX_FRAME) }
    }

    /// Where arriving bytes are appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Where to read what arrives next. A large frame's buffer at most doubles
    /// with each read and takes nothing that follows the frame.
    pub fn room(&mut self) -> Limit<&mut BytesMut> {
        let held = self.buffer.len();
        let whole = self
            .buffer
            .first_chunk::<PREFIX>()
            .map_or(0, |prefix| PREFIX + self.limit.min(u32::from_be_bytes(*prefix) as usize));
        let limit = if whole > READ_CHUNK {
            whole.saturating_sub(held).clamp(1, held.max(READ_CHUNK))
        } else {
            READ_CHUNK
        };
        if self.buffer.capacity() - held < limit.min(READ_CHUNK / 4) {
            self.buffer.reserve(limit);
        }
        let limit = limit.min(self.buffer.capacity() - held);
        (&mut self.buffer).limit(limit)
    }

    /// The next whole frame, without its prefix; `None` until more has arrived.
    ///
    /// # Errors
    /// A prefix of zero or above the limit. The stream is then of no more use.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else { return Ok(None) };
        let size = u32::from_be_bytes(*prefix) as usize;
        if size == 0 {
            return Err(FrameError::Empty);
        }
        if size > self.limit {
            return Err(FrameError::TooLarge { size, limit: self.limit });
        }
        if self.buffer.len() - PREFIX < size {
            return Ok(None);
        }
        if PREFIX + size > READ_CHUNK && self.buffer.len() == PREFIX + size {
            let mut whole = std::mem::take(&mut self.buffer).freeze();
            whole.advance(PREFIX);
            return Ok(Some(whole));
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(size).freeze()))
    }

    /// Checks that the stream may end here.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] when a part of a frame is left.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.buffer.is_empty() { Ok(()) } else { Err(FrameError::Truncated) }
    }
}

/// Appends one frame, whose content `write` appends. Where that is longer than
/// `limit`, nothing is appended and the content's size is the error.
///
/// # Errors
/// [`FrameError::TooLarge`].
pub fn write_frame(
    out: &mut BytesMut,
    limit: usize,
    write: impl FnOnce(&mut BytesMut),
) -> Result<(), FrameError> {
    let start = out.len();
    out.put_u32(0);
    write(out);
    let size = out.len() - start - PREFIX;
    match u32::try_from(size) {
        Ok(prefix) if size <= limit => {
            out[start..start + PREFIX].copy_from_slice(&prefix.to_be_bytes());
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(FrameError::TooLarge { size, limit })
        }
    }
}
