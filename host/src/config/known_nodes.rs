//! Addresses of nodes, and the file that gives them names.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::node::read_text;
use super::problem::{Place, Problems};
use super::values::{PublicKey, lower_hex};

/// Where to reach a node, and by what it is known:
///
/// - `alknet://<64 hexadecimal digits>@host:port`: by its key;
/// - `alknet://SHA256:<64 hexadecimal digits>@host:port`: by its certificate;
/// - `alknet://host:port`: by its name, for which an authority must vouch.
///
/// `alknet+tcp://` goes to the node's TCP listener, with one stream, instead of
/// QUIC. The host may be a DNS name or an IP address.
///
/// ```
/// use alknet::config::NodeAddress;
///
/// let text = format!("alknet://{}@[::1]:4433", "0a".repeat(32));
/// let address: NodeAddress = text.parse()?;
/// assert_eq!((address.host.as_str(), address.port), ("::1", 4433));
/// assert_eq!(address.to_string(), text);
/// # Ok::<(), alknet::config::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// What the node must prove to hold. Without it, a certificate for `host`
    /// that an authority vouches for.
    pub pin: Option<Pin>,
    /// What carries the connection.
    pub carrier: Carrier,
    /// An IP address, without brackets, or a DNS name.
    pub host: String,
    /// The UDP or TCP port.
    pub port: u16,
}

/// What a node is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// Its Ed25519 public key.
    Key(PublicKey),
    /// The SHA-256 digest of its X.509 certificate's DER.
    Certificate([u8; 32]),
}

/// What carries a connection to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Carrier {
    /// QUIC over UDP: as many streams as both sides allow.
    #[default]
    Quic,
    /// TLS over TCP: one stream.
    Tcp,
}

impl Carrier {
    const ALL: [(Self, &'static str); 2] =
        [(Self::Quic, "alknet://"), (Self::Tcp, "alknet+tcp://")];
}

impl NodeAddress {
    /// A node known by its key, over QUIC.
    pub fn new(key: PublicKey, host: impl Into<String>, port: u16) -> Self {
        Self { pin: Some(Pin::Key(key)), carrier: Carrier::Quic, host: host.into(), port }
    }

    /// The key that the node is known by, where it is.
    pub fn key(&self) -> Option<PublicKey> {
        match self.pin {
            Some(Pin::Key(key)) => Some(key),
            _ => None,
        }
    }
}

/// What is wrong with a [`NodeAddress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Another scheme, or none.
    #[error("a node's address begins with `alknet://`, or `alknet+tcp://` for TLS over TCP")]
    Scheme,
    /// What stands before the `@` is neither a key nor a certificate's digest.
    #[error(
        "before the `@` stands the node's key, 64 lower-case hexadecimal digits, or `SHA256:` and \
         the 64 digits of its certificate's digest"
    )]
    Key,
    /// What stands alone is no key.
    #[error(
        "what stands alone is a node's key, 64 lower-case hexadecimal digits; a host takes its \
         port, too: `alknet://host:4433`"
    )]
    Alone,
    /// No relay.
    #[error(
        "after the `?` stands a relay: `relay=https://relay.example`; http:// is for this machine \
         alone"
    )]
    Relay,
    /// No host and port.
    #[error("an address ends in the host and the port: `host:4433`, `[::1]:4433`")]
    Host,
}

impl FromStr for NodeAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let schemes = Carrier::ALL.iter();
        let (carrier, rest) = schemes
            .filter_map(|(carrier, scheme)| Some((*carrier, text.strip_prefix(scheme)?)))
            .next()
            .ok_or(AddressError::Scheme)?;
        let (pin, authority) = match rest.split_once('@') {
            Some((pin, authority)) => (Some(pin.parse()?), authority),
            None => (None, rest),
        };
        let (host, port) = authority.rsplit_once(':').ok_or(AddressError::Host)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(AddressError::Host)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or(AddressError::Host)?;
                inner.parse::<std::net::Ipv6Addr>().map_err(|_| AddressError::Host)?;
                inner
            }
            None => host,
        };
        let is_v6 = host.contains(':') && authority.starts_with('[');
        let name_ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if !is_v6 && (host.is_empty() || !host.chars().all(name_ok)) {
            return Err(AddressError::Host);
        }
        Ok(Self { pin, carrier, host: host.to_owned(), port })
    }
}

impl FromStr for Pin {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let pin = match text.strip_prefix("SHA256:") {
            Some(digest) => lower_hex(digest).map(Self::Certificate),
            None => lower_hex(text).map(|key| Self::Key(PublicKey(key))),
        };
        pin.ok_or(AddressError::Key)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.write_str(&hex::encode(key.0)),
            Self::Certificate(digest) => write!(f, "SHA256:{}", hex::encode(digest)),
        }
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = Carrier::ALL.iter().find(|(carrier, _)| *carrier == self.carrier);
        f.write_str(scheme.map_or("", |(_, scheme)| scheme))?;
        if let Some(pin) = &self.pin {
            write!(f, "{pin}@")?;
        }
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// How a node is reached: where it is, or by its key alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// `alknet://KEY@host:port`, or another address with a host.
    Address(NodeAddress),
    /// `alknet://KEY` or `alknet://KEY?relay=URL`, over iroh.
    Key(KeyAddress),
}

/// A node's key, and a relay by which it can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyAddress {
    /// The node's Ed25519 public key.
    pub key: PublicKey,
    /// The relay's URL; without one, an address lookup must know the node.
    pub relay: Option<String>,
}

impl FromStr for Reach {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = text.strip_prefix("alknet://").unwrap_or(text);
        let (key, query) = match rest.split_once('?') {
            Some((key, query)) => (key, Some(query)),
            None => (rest, None),
        };
        if key.contains(['@', ':']) {
            return text.parse().map(Self::Address);
        }
        if rest.len() == text.len() {
            return Err(AddressError::Scheme);
        }
        let key = PublicKey(lower_hex(key).ok_or(AddressError::Alone)?);
        let relay = query.map(|query| {
            query.strip_prefix("relay=").and_then(relay_url).ok_or(AddressError::Relay)
        });
        let relay = relay.transpose()?;
        Ok(Self::Key(KeyAddress { key, relay }))
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Key(KeyAddress { key, relay }) => {
                write!(f, "alknet://{}", hex::encode(key.0))?;
                relay.iter().try_for_each(|relay| write!(f, "?relay={relay}"))
            }
        }
    }
}

/// A relay's URL: over TLS, or on this machine, where nobody listens in.
pub(super) fn relay_url(text: &str) -> Option<String> {
    let on_loopback =
        |rest: &str| ["127.", "localhost", "[::1]"].iter().any(|host| rest.starts_with(host));
    let rest = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => rest,
        (None, Some(rest)) if on_loopback(rest) => rest,
        _ => return None,
    };
    let host = rest.split('/').next().unwrap_or_default();
    let ok = !host.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '@');
    ok.then(|| text.to_owned())
}

/// The file `known-nodes`: a line a node, its name, its address, and for one that
/// is reached by its key perhaps its relay; what follows a `#` is a comment.
#[derive(Clone, Debug, Default)]
pub struct KnownNodes(Vec<(String, Reach)>);

impl KnownNodes {
    /// Reads a file; where there is none, no node is known.
    ///
    /// # Errors
    /// Every line that is wrong.
    pub fn load(file: &Path) -> Result<Self, Problems> {
        if !file.exists() {
            return Ok(Self::default());
        }
        Self::parse(file, &read_text(file, "create it")?)
    }

    /// Reads the text of a file, whose path stands in messages.
    ///
    /// # Errors
    /// Every line that is wrong.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Problems> {
        let file = file.into();
        let mut nodes: Vec<(String, Reach)> = Vec::new();
        let mut problems = Problems::new();
        for (index, line) in text.lines().enumerate() {
            let content = line.split('#').next().unwrap_or_default();
            let mut words = content.split_whitespace();
            let Some(name) = words.next() else { continue };
            let place = |word: &str| {
                // Both are slices of the same text, so the distance is the offset.
                let offset = word.as_ptr() as usize - line.as_ptr() as usize;
                let column = line[..offset].chars().count() + 1;
                Place::new(
                    std::sync::Arc::clone(&file),
                    index + 1,
                    column,
                    word.chars().count(),
                    line,
                )
            };
            let (Some(address), relay, None) = (words.next(), words.next(), words.next()) else {
                problems.push(place(name).problem(
                    "a line holds a name and an address",
                    "write `name alknet://<key>@host:port`, or `name alknet://<key> RELAY-URL`",
                ));
                continue;
            };
            if name.contains("://") {
                problems.push(place(name).problem(
                    "a node's name is not an address",
                    "write the name first: `name alknet://<key>@host:port`",
                ));
            } else if nodes.iter().any(|(other, _)| other == name) {
                problems.push(
                    place(name)
                        .problem(format!("two nodes are called `{name}`"), "rename one of them"),
                );
            }
            let parsed = address.parse().and_then(|reach| match (reach, relay) {
                (reach, None) => Ok(reach),
                (Reach::Key(known), Some(relay)) if known.relay.is_none() => {
                    let relay = Some(relay_url(relay).ok_or(AddressError::Relay)?);
                    Ok(Reach::Key(KeyAddress { relay, ..known }))
                }
                // A relay is no use where the address stands, or another relay.
                (_, Some(_)) => Err(AddressError::Relay),
            });
            match parsed {
                Ok(reach) => nodes.push((name.to_owned(), reach)),
                Err(error) => problems.push(
                    place(address)
                        .problem(format!("`{address}` is not a node's address"), error.to_string()),
                ),
            }
        }
        problems.into_result(Self(nodes))
    }

    /// How a node is reached.
    pub fn find(&self, name: &str) -> Option<&Reach> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, reach)| reach)
    }

    /// The address of a node that has one.
    pub fn get(&self, name: &str) -> Option<&NodeAddress> {
        match self.find(name)? {
            Reach::Address(address) => Some(address),
            Reach::Key(_) => None,
        }
    }

    /// Names, and how they are reached, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Reach)> {
        self.0.iter().map(|(name, reach)| (name.as_str(), reach))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_exact() {
        let key = "0a".repeat(32);
        for good in ["127.0.0.1:1", "[::1]:4433", "node.example.org:4433", "localhost:65535"] {
            for known in [format!("{key}@"), format!("SHA256:{key}@"), String::new()] {
                for scheme in ["alknet", "alknet+tcp"] {
                    let text = format!("{scheme}://{known}{good}");
                    assert_eq!(text.parse::<NodeAddress>().unwrap().to_string(), text);
                }
            }
        }
        for (bad, error) in [
            (format!("http://{key}@h:1"), AddressError::Scheme),
            (format!("alknet+udp://{key}@h:1"), AddressError::Scheme),
            (format!("alknet://{key}"), AddressError::Host),
            ("alknet://@h:1".to_owned(), AddressError::Key),
            (format!("alknet://sha256:{key}@h:1"), AddressError::Key),
            (format!("alknet://ed25519:{key}@h:1"), AddressError::Key),
            ("alknet://0a@h:1".to_owned(), AddressError::Key),
            (format!("alknet://{}@h:1", key.to_uppercase()), AddressError::Key),
            (format!("alknet://{key}@h"), AddressError::Host),
            (format!("alknet://{key}@h:0"), AddressError::Host),
            (format!("alknet://{key}@:1"), AddressError::Host),
            (format!("alknet://{key}@::1:1"), AddressError::Host),
            (format!("alknet://{key}@[h]:1"), AddressError::Host),
            (format!("alknet://{key}@[::1:1"), AddressError::Host),
            (format!("alknet://{key}@h/x:1"), AddressError::Host),
        ] {
            assert_eq!(bad.parse::<NodeAddress>(), Err(error), "{bad}");
        }
    }

    #[test]
    fn a_key_alone_is_an_address_and_may_have_a_relay() {
        let key = "0a".repeat(32);
        for good in ["", "?relay=https://relay.example", "?relay=http://127.0.0.1:3340/"] {
            let text = format!("alknet://{key}{good}");
            let reach: Reach = text.parse().unwrap();
            assert!(matches!(&reach, Reach::Key(by) if by.relay.is_some() != good.is_empty()));
            assert_eq!(reach.to_string(), text);
        }
        for address in [&*format!("alknet://{key}@h:1"), "alknet://h:1", "alknet+tcp://[::1]:1"] {
            assert!(matches!(address.parse(), Ok(Reach::Address(_))), "{address}");
        }
        for bad in ["?relay=http://relay.example", "?relay=https://", "?relay=r", "?r=https://r"] {
            let text = format!("alknet://{key}{bad}");
            assert_eq!(text.parse::<Reach>(), Err(AddressError::Relay), "{bad}");
        }
        assert_eq!("alknet://0a".parse::<Reach>(), Err(AddressError::Alone));
        assert_eq!("node.example.org".parse::<Reach>(), Err(AddressError::Scheme));

        let text = format!(
            "home alknet://{key} https://relay.example\nfar alknet://{key}\n\
             bad alknet://{key}@h:1 https://relay.example\n"
        );
        let problems = KnownNodes::parse("known-nodes".as_ref(), &text).unwrap_err();
        assert_eq!(problems.iter().map(|p| p.place.line()).collect::<Vec<_>>(), [3]);
        let good = text.rsplit_once("bad").unwrap().0;
        let nodes = KnownNodes::parse("known-nodes".as_ref(), good).unwrap();
        let relay = |name| match nodes.find(name) {
            Some(Reach::Key(by)) => by.relay.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(relay("home").as_deref(), Some("https://relay.example"));
        assert_eq!(relay("far"), None);
        assert!(nodes.get("home").is_none(), "it has no address");
    }

    #[test]
    fn every_wrong_line_is_reported() {
        let key = "0a".repeat(32);
        let text = format!(
            "# nodes\n\nhome alknet://{key}@h:1  # at home\nhome alknet://{key}@h:2\nalone\n  far alknet://x\n"
        );
        let problems = KnownNodes::parse("known-nodes".as_ref(), &text).unwrap_err();
        let places: Vec<_> = problems.iter().map(|p| (p.place.line(), p.place.column())).collect();
        assert_eq!(places, [(4, 1), (5, 1), (6, 7)]);

        let text = format!("home alknet://{key}@h:1\naway alknet://{key}@h:2");
        let nodes = KnownNodes::parse("known-nodes".as_ref(), &text).unwrap();
        assert_eq!(nodes.get("away").map(|address| address.port), Some(2));
        assert!(nodes.get("nowhere").is_none());
        assert_eq!(nodes.iter().count(), 2);
    }
}
