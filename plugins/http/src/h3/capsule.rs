//! Capsules (RFC 9297): what the two sides of a session say to each other on the
//! stream that it was asked for on.

use alknet_plugin_api::Closed;
use bytes::{Buf, Bytes, BytesMut};

use super::frames::{put_varint, varint};

/// The end of the session, with a code of 32 bits and a reason.
const CLOSE_SESSION: u64 = 0x2843;

/// The longest reason, in bytes.
const MAX_REASON: usize = 1024;

/// The end of a session that says how it ends.
pub(super) fn close(closed: &Closed) -> Bytes {
    let code = u32::try_from(closed.code.unwrap_or_default()).unwrap_or(u32::MAX);
    let reason = &closed.reason[..closed.reason.floor_char_boundary(MAX_REASON)];
    let mut capsule = Vec::with_capacity(8 + reason.len());
    put_varint(&mut capsule, CLOSE_SESSION);
    put_varint(&mut capsule, 4 + reason.len() as u64);
    capsule.extend_from_slice(&code.to_be_bytes());
    capsule.extend_from_slice(reason.as_bytes());
    capsule.into()
}

/// A capsule that is no capsule.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads capsules, of which it understands the session's end.
#[derive(Default)]
pub(super) struct Capsules {
    held: BytesMut,
    /// Bytes of one that is passed over.
    passing: u64,
}

impl Capsules {
    /// Takes what has arrived. Says how the session ends if it does.
    pub(super) fn take(&mut self, mut data: Bytes) -> Result<Option<Closed>, Malformed> {
        loop {
            let passed = self.passing.min(data.len() as u64);
            self.passing -= passed;
            data.advance(passed as usize);
            if data.is_empty() && self.held.is_empty() {
                return Ok(None);
            }
            self.held.extend_from_slice(&data);
            let Some((kind, rest)) = varint(&self.held) else { return Ok(None) };
            let Some((length, payload)) = varint(rest) else { return Ok(None) };
            if kind == CLOSE_SESSION {
                return match (length as usize, payload) {
                    (length, _) if !(4..=4 + MAX_REASON).contains(&length) => Err(Malformed),
                    (length, payload) if payload.len() < length => Ok(None),
                    (length, payload) => ended(&payload[..length]).map(Some),
                };
            }
            self.passing = length;
            data = Bytes::copy_from_slice(payload);
            self.held.clear();
        }
    }
}

fn ended(payload: &[u8]) -> Result<Closed, Malformed> {
    let (code, reason) = payload.split_first_chunk().ok_or(Malformed)?;
    let reason = String::from_utf8(reason.to_vec()).map_err(|_| Malformed)?;
    Ok(Closed { code: Some(u32::from_be_bytes(*code).into()), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], size: usize) -> Result<Option<Closed>, Malformed> {
        let mut capsules = Capsules::default();
        for chunk in bytes.chunks(size) {
            if let Some(closed) = capsules.take(Bytes::copy_from_slice(chunk))? {
                return Ok(Some(closed));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_sessions_end_is_read_after_what_nobody_knows_however_it_is_cut() {
        let mut bytes = Vec::new();
        for (kind, length) in [(0x17, 3), (0x4242, 5_000), (0x1, 0)] {
            put_varint(&mut bytes, kind);
            put_varint(&mut bytes, length as u64);
            bytes.resize(bytes.len() + length, 0x28);
        }
        let told = Closed { code: Some(7), reason: "enough".into() };
        bytes.extend_from_slice(&close(&told));
        for size in [1, 2, 7, bytes.len()] {
            assert_eq!(read(&bytes, size), Ok(Some(told.clone())), "{size}");
            assert_eq!(read(&bytes[..bytes.len() - 1], size), Ok(None), "{size}");
        }
    }

    #[test]
    fn an_end_says_a_code_and_a_reason_of_a_bounded_length() {
        let long = Closed { code: Some(u64::MAX), reason: "ä".repeat(600) };
        let cut = Closed { code: Some(u32::MAX.into()), reason: "ä".repeat(512) };
        assert_eq!(read(&close(&long), 9_000), Ok(Some(cut)));
        for bad in [
            &[0x68, 0x43, 3, 0, 0, 0][..],
            &[0x68, 0x43, 0x44, 0x05],
            &[0x68, 0x43, 5, 0, 0, 0, 0, 0xff],
        ] {
            assert_eq!(read(bad, 9_000), Err(Malformed));
        }
    }
}
