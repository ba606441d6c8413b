//! Ids of the calls that this side makes: a prefix drawn at random for each
//! connection, then a number.
//!
//! Ids are unique in both directions because the two sides' prefixes differ;
//! and an answer finds its call by number, without a string being kept or hashed.

/// Characters of the prefix, of five random bits each.
const PREFIX: usize = 11;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const HEX: &[u8; 16] = b"0123456789abcdef";

/// The prefix of all ids of one side of a connection.
#[derive(Clone, Copy)]
pub(crate) struct IdSpace([u8; PREFIX]);

/// An id as it is on the wire.
#[derive(Clone, Copy)]
pub(crate) struct CallId {
    text: [u8; PREFIX + 16],
    len: u8,
}

impl IdSpace {
    pub(crate) fn random() -> Self {
        let mut bits = uuid::Uuid::new_v4().as_u128();
        // Its version and variant are the same in every UUID: skip that part.
        bits = (bits >> 80 << 48) | (bits & 0xffff_ffff_ffff);
        let mut prefix = [0; PREFIX];
        for place in &mut prefix {
            *place = ALPHABET[(bits % 32) as usize];
            bits /= 32;
        }
        // A fixed end, so that the number's first digit is told from it.
        prefix[PREFIX - 1] = b'-';
        Self(prefix)
    }

    pub(crate) fn id(&self, number: u64) -> CallId {
        let mut id = CallId { text: [0; PREFIX + 16], len: PREFIX as u8 };
        id.text[..PREFIX].copy_from_slice(&self.0);
        let digits = (16 - number.leading_zeros() / 4).max(1);
        for digit in (0..digits).rev() {
            id.text[usize::from(id.len)] = HEX[(number >> (digit * 4) & 15) as usize];
            id.len += 1;
        }
        id
    }

    /// The number in one of this side's ids.
    pub(crate) fn number(&self, id: &str) -> Option<u64> {
        let digits = id.as_bytes().strip_prefix(&self.0)?;
        if digits.is_empty() || digits.len() > 16 || (digits[0] == b'0' && digits.len() > 1) {
            return None;
        }
        digits.iter().try_fold(0, |number, digit| {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            Some(number << 4 | u64::from(value))
        })
    }
}

impl CallId {
    pub(crate) fn as_str(&self) -> &str {
        // It holds ASCII alone.
        std::str::from_utf8(&self.text[..usize::from(self.len)]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_as_its_number_and_no_other_text_does() {
        let space = IdSpace::random();
        for number in [0, 1, 15, 16, 255, 4096, u64::MAX] {
            assert_eq!(space.number(space.id(number).as_str()), Some(number));
        }
        let prefix = std::str::from_utf8(&space.0).unwrap();
        for tail in ["", "00", "01", "A", "+1", "g", "11111111111111111"] {
            assert_eq!(space.number(&format!("{prefix}{tail}")), None, "{tail}");
        }
        assert_eq!(space.number("1"), None);
        assert_eq!(IdSpace::random().number(space.id(1).as_str()), None);
    }
}
