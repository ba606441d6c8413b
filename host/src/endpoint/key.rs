//! Node keys: the Ed25519 key that a node is known by, and its texts.
//!
//! One 32-byte seed is the node's identity on every source. Its public half
//! appears as a fingerprint (`ed25519:` and 64 hexadecimal digits), and in the
//! address of a node: `alknet://<key>@host:port`.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

/// PKCS#8's wrapping of an Ed25519 seed (RFC 8410): everything before the seed.
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// A node's private key. It prints as its fingerprint and is wiped when dropped.
pub struct NodeKey {
    seed: Zeroizing<[u8; 32]>,
    public: PublicKey,
}

impl NodeKey {
    /// The key of an RFC 8032 seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        let public = PublicKey(SigningKey::from_bytes(&seed).verifying_key().to_bytes());
        Self { seed, public }
    }

    /// A new key from the operating system's randomness.
    ///
    /// # Errors
    /// The operating system has none to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed)?;
        Ok(Self::from_seed(*seed))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The seed, for a library that derives the same key from it.
    #[cfg(feature = "iroh")]
    pub(super) fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The private key in PKCS#8, as TLS libraries take it.
    pub(crate) fn pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([&PKCS8_PREFIX[..], &self.seed[..]].concat())
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({}, [REDACTED])", self.public.fingerprint())
    }
}

/// The public half of a node's key. Displays as 64 hexadecimal digits; parses
/// from those or from 52 characters of base32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// `ed25519:` and 64 lower-case hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        format!("ed25519:{self}")
    }

    /// Unpadded lower-case base32 (RFC 4648), 52 characters: short enough for
    /// one label of a DNS name.
    pub fn base32(&self) -> String {
        let mut text = String::with_capacity(52);
        let (mut bits, mut held) = (0u32, 0);
        for byte in self.0 {
            bits = bits << 8 | u32::from(byte);
            held += 8;
            while held >= 5 {
                held -= 5;
                text.push(char::from(BASE32[(bits >> held & 31) as usize]));
            }
            bits &= (1 << held) - 1;
        }
        text.push(char::from(BASE32[(bits << (5 - held) & 31) as usize]));
        text
    }

    fn from_base32(text: &str) -> Option<Self> {
        let mut key = [0; 32];
        let (mut bits, mut held, mut at) = (0u32, 0, 0);
        for digit in text.bytes().map(|byte| byte.to_ascii_lowercase()) {
            let value = BASE32.iter().position(|known| *known == digit)?;
            bits = bits << 5 | value as u32;
            held += 5;
            if held >= 8 {
                held -= 8;
                *key.get_mut(at)? = (bits >> held) as u8;
                at += 1;
            }
            bits &= (1 << held) - 1;
        }
        // One text a key: the four spare bits must be zero.
        (text.len() == 52 && bits == 0).then_some(Self(key))
    }
}

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let bare = text.strip_prefix("ed25519:").unwrap_or(text);
        let mut key = [0; 32];
        match bare.len() {
            64 if hex::decode_to_slice(bare, &mut key).is_ok() => Ok(Self(key)),
            52 => Self::from_base32(bare).ok_or(()),
            _ => Err(()),
        }
        .map_err(|()| AddressError::Key(text.to_owned()))
    }
}

/// Where a node is and who it is: `alknet://<key>@host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The key that the node must prove.
    pub key: PublicKey,
    /// A host name or an IP address; IPv6 without its brackets.
    pub host: String,
    /// The UDP port.
    pub port: u16,
}

/// Why a text is no node address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Another scheme, or none.
    #[error("`{0}` does not begin with `alknet://`; write alknet://<key>@host:port")]
    Scheme(String),
    /// No key before an `@`.
    #[error(
        "`{0}` names no key, and a node is never dialled without one; write \
         alknet://<key>@host:port, with the key that the node's own status shows"
    )]
    NoKey(String),
    /// The key is not one.
    #[error("`{0}` is not a node key: 64 hexadecimal digits, or 52 characters of base32")]
    Key(String),
    /// No usable host and port.
    #[error("`{0}` is not host:port; an IPv6 address needs brackets, and the port is 1 to 65535")]
    HostPort(String),
}

impl FromStr for NodeAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest =
            text.strip_prefix("alknet://").ok_or_else(|| AddressError::Scheme(text.to_owned()))?;
        let (key, place) =
            rest.split_once('@').ok_or_else(|| AddressError::NoKey(text.to_owned()))?;
        let key = key.parse()?;
        let bad = || AddressError::HostPort(place.to_owned());
        let (host, port) = place.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
        let host = match host.strip_prefix('[').map(|inner| inner.strip_suffix(']')) {
            Some(inner) => inner.filter(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
            None => Some(host).filter(|host| !host.is_empty() && !host.contains([':', '/', '@'])),
        };
        Ok(Self { key, host: host.ok_or_else(bad)?.to_owned(), port })
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, host, port } = self;
        if host.contains(':') {
            write!(f, "alknet://{key}@[{host}]:{port}")
        } else {
            write!(f, "alknet://{key}@{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, section 7.1, test 1.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn key() -> NodeKey {
        let mut seed = [0; 32];
        hex::decode_to_slice(SEED, &mut seed).unwrap();
        NodeKey::from_seed(seed)
    }

    #[test]
    fn k36_the_fingerprint_is_exact() {
        assert_eq!(key().public().fingerprint(), format!("ed25519:{PUBLIC}"));
        let shown = format!("{:?}", key());
        assert!(shown.contains(PUBLIC) && !shown.contains(SEED), "{shown}");
    }

    #[test]
    fn keys_parse_from_each_of_their_texts() {
        let public = key().public();
        assert_eq!(public.base32().len(), 52);
        for text in [PUBLIC.to_owned(), public.fingerprint(), public.base32()] {
            assert_eq!(text.parse(), Ok(public), "{text}");
        }
        assert!(public.base32().replace(&public.base32()[51..], "b").parse::<PublicKey>().is_err());
        for text in ["", "d75a", &PUBLIC[1..], &PUBLIC.replace('d', "g")] {
            assert_eq!(text.parse::<PublicKey>(), Err(AddressError::Key(text.into())));
        }
    }

    #[test]
    fn addresses_parse_and_print() {
        for place in ["node.example:4433", "127.0.0.1:1", "[::1]:65535"] {
            let text = format!("alknet://{PUBLIC}@{place}");
            assert_eq!(text.parse::<NodeAddress>().unwrap().to_string(), text);
        }
        let parse = |text: &str| text.parse::<NodeAddress>().unwrap_err();
        assert!(matches!(parse("node:1"), AddressError::Scheme(_)));
        assert!(matches!(parse("alknet://node:1"), AddressError::NoKey(_)));
        assert!(matches!(parse("alknet://me@node:1"), AddressError::Key(_)));
        for place in ["node", "node:0", "node:65536", ":1", "::1:1", "[::1:1", "[x]:1", "a/b:1"] {
            let text = format!("alknet://{PUBLIC}@{place}");
            assert_eq!(parse(&text), AddressError::HostPort(place.into()));
        }
    }
}
