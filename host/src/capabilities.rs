//! Capabilities: secrets of the vault, lent as handles.
//!
//! The assembly takes a secret out of the vault once, before the registry is
//! frozen, and makes a [`Lent`] of it. A plugin gets it as a
//! [`Capability`], which shows the secret only where the deployment file says
//! so; the host itself uses it for what it does on a plugin's behalf. Every clone
//! is a handle on the one secret, which is wiped with the last of them.
//!
//! ```
//! use alknet::capabilities::{Lent, Use};
//! use alknet_plugin_api::{Capability, CapabilityKind};
//! use zeroize::Zeroizing;
//!
//! let entry = Zeroizing::new("s3cret".to_owned());
//! let lent = Lent::new(CapabilityKind::Bearer, Use::default(), &entry)?;
//! let (name, value) = lent.header().unwrap();
//! assert_eq!((name, &value[..]), ("authorization", &b"Bearer s3cret"[..]));
//!
//! let capability = Capability::from(&lent);
//! assert_eq!(capability.reveal(), None);
//! assert!(!format!("{lent:?} {capability:?}").contains("s3cret"));
//! # Ok::<(), alknet::capabilities::Malformed>(())
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use alknet_plugin_api::{Capability, CapabilityBackend, CapabilityKind};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use ed25519_dalek::{Signer, SigningKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// A secret lent out. Clones are handles on the one secret.
///
/// It cannot be serialised, and prints redacted:
///
/// ```compile_fail,E0277
/// fn serialise<T: serde::Serialize>() {}
/// serialise::<alknet::capabilities::Lent>();
/// ```
#[derive(Clone)]
pub struct Lent {
    kind: CapabilityKind,
    secret: Arc<Secret>,
}

/// How the deployment file says that a secret is used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Use<'a> {
    /// The header's name, for [`CapabilityKind::Header`].
    pub header: Option<&'a str>,
    /// Whether [`CapabilityKind::Bytes`] may be seen.
    pub reveal: bool,
}

enum Secret {
    /// A whole header: bearer, basic or one of any name.
    Header { name: String, value: Bytes },
    /// Bytes, and whether a plugin may see them.
    Bytes { bytes: Bytes, reveal: bool },
    /// A key that signs; it wipes itself.
    Sign(SigningKey),
    /// A certificate chain and its key, in PEM.
    TlsIdentity(Zeroizing<String>),
}

/// An entry that does not hold what its kind needs. No text shows the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Nothing in it.
    #[error("the entry is empty; add its value again")]
    Empty,
    /// Bytes that no header's value may have.
    #[error("the entry holds characters that no HTTP header takes; add its value on one line")]
    Header,
    /// A header without a name.
    #[error("a `header` capability needs the header's name; write `header = \"…\"`")]
    HeaderName,
    /// No user name.
    #[error("the entry is not `user:password`; add it in this form")]
    Basic,
    /// No private key.
    #[error(
        "the entry is no Ed25519 private key; add 64 lower-case hexadecimal digits, or PKCS#8 in PEM"
    )]
    Sign,
    /// No certificate or no key.
    #[error("the entry is no TLS identity; add the certificate chain and its key, both in PEM")]
    TlsIdentity,
    /// A kind of a later version.
    #[error("this kind of capability is not known to this version; use another")]
    Kind,
}

impl Lent {
    /// A secret from the text of a vault entry:
    ///
    /// | kind | the entry |
    /// |---|---|
    /// | bearer | the token |
    /// | basic | `user:password` |
    /// | header | the header's value |
    /// | bytes | the bytes, as text |
    /// | sign | an Ed25519 seed as 64 hexadecimal digits, or PKCS#8 in PEM |
    /// | tls-identity | the certificate chain and its key in PEM |
    ///
    /// # Errors
    /// The entry holds something else.
    pub fn new(kind: CapabilityKind, how: Use<'_>, entry: &str) -> Result<Self, Malformed> {
        if entry.is_empty() {
            return Err(Malformed::Empty);
        }
        let secret = match kind {
            CapabilityKind::Bearer => header("authorization", format!("Bearer {entry}"))?,
            CapabilityKind::Basic => {
                if !entry.contains(':') || entry.contains(char::is_control) {
                    return Err(Malformed::Basic);
                }
                let encoded = Zeroizing::new(STANDARD.encode(entry));
                header("authorization", format!("Basic {}", *encoded))?
            }
            CapabilityKind::Header => {
                let name = how.header.ok_or(Malformed::HeaderName)?;
                header(&name.to_ascii_lowercase(), entry.to_owned())?
            }
            CapabilityKind::Bytes => {
                Secret::Bytes { bytes: wiped(entry.as_bytes().to_vec()), reveal: how.reveal }
            }
            CapabilityKind::Sign => Secret::Sign(signing_key(entry).ok_or(Malformed::Sign)?),
            CapabilityKind::TlsIdentity => {
                let certificates: Result<Vec<_>, _> =
                    CertificateDer::pem_slice_iter(entry.as_bytes()).collect();
                let whole = certificates.is_ok_and(|chain| !chain.is_empty())
                    && PrivateKeyDer::from_pem_slice(entry.as_bytes()).is_ok();
                if !whole {
                    return Err(Malformed::TlsIdentity);
                }
                Secret::TlsIdentity(Zeroizing::new(entry.to_owned()))
            }
            _ => return Err(Malformed::Kind),
        };
        Ok(Self { kind, secret: Arc::new(secret) })
    }

    /// A key that signs, from its RFC 8032 seed.
    pub fn signing(seed: &[u8; 32]) -> Self {
        let secret = Secret::Sign(SigningKey::from_bytes(seed));
        Self { kind: CapabilityKind::Sign, secret: Arc::new(secret) }
    }

    /// What it can be used for.
    pub fn kind(&self) -> CapabilityKind {
        self.kind
    }

    /// The header to send, for requests that the host makes itself: the name in
    /// lower case, and the value, which must stay out of logs. `None` unless the
    /// kind is bearer, basic or header.
    ///
    /// The value is a handle, too: it is wiped with the last of them.
    pub fn header(&self) -> Option<(&str, Bytes)> {
        match &*self.secret {
            Secret::Header { name, value } => Some((name, value.clone())),
            _ => None,
        }
    }

    /// [`header`](Self::header) as reqwest takes it, with the value marked
    /// sensitive.
    #[cfg(feature = "imports")]
    pub fn http_header(
        &self,
    ) -> Option<(reqwest::header::HeaderName, reqwest::header::HeaderValue)> {
        let (name, value) = self.header()?;
        let name = reqwest::header::HeaderName::from_bytes(name.as_bytes()).ok()?;
        // Shares the bytes, so that no copy outlives them.
        let mut value = reqwest::header::HeaderValue::from_maybe_shared(value).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    }

    /// The certificate chain and its key in PEM, for connections that the host
    /// makes itself. `None` unless the kind is tls-identity.
    pub fn tls_identity(&self) -> Option<&str> {
        match &*self.secret {
            Secret::TlsIdentity(pem) => Some(pem),
            _ => None,
        }
    }
}

impl CapabilityBackend for Lent {
    fn kind(&self) -> CapabilityKind {
        self.kind
    }

    fn reveal(&self) -> Option<Bytes> {
        match &*self.secret {
            Secret::Bytes { bytes, reveal: true } => Some(bytes.clone()),
            _ => None,
        }
    }

    fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        match &*self.secret {
            Secret::Sign(key) => Some(key.sign(message).to_bytes()),
            _ => None,
        }
    }
}

impl From<&Lent> for Capability {
    fn from(lent: &Lent) -> Self {
        Self::new(Arc::new(lent.clone()))
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lent({:?}, [REDACTED])", self.kind)
    }
}

fn header(name: &str, value: String) -> Result<Secret, Malformed> {
    let value = Zeroizing::new(value);
    // Visible ASCII, blanks and what is above ASCII (RFC 9110, 5.5).
    let fits = |b: u8| b == b' ' || b == b'\t' || b.is_ascii_graphic() || b >= 0x80;
    if !value.bytes().all(fits) || value.trim() != value.as_str() {
        return Err(Malformed::Header);
    }
    if name.is_empty() {
        return Err(Malformed::HeaderName);
    }
    Ok(Secret::Header { name: name.to_owned(), value: wiped(value.as_bytes().to_vec()) })
}

/// Bytes that are wiped with their last handle.
fn wiped(bytes: Vec<u8>) -> Bytes {
    Bytes::from_owner(Zeroizing::new(bytes))
}

fn signing_key(text: &str) -> Option<SigningKey> {
    let text = text.trim();
    if text.len() == 64 {
        let mut seed = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text, &mut seed[..]).ok()?;
        return Some(SigningKey::from_bytes(&seed));
    }
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).ok()?;
    SigningKey::from_pkcs8_der(key.secret_der()).ok()
}

/// What one plugin is lent, by the names that it uses.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    /// Each with the operations that it is lent to.
    lent: BTreeMap<String, (Lent, Vec<String>)>,
    #[cfg(feature = "imports")]
    outbound: crate::outbound::Outbound,
}

impl Bundle {
    /// Lends one more, to `operations` alone, or to the plugin as a whole where
    /// there are none.
    pub fn lend(&mut self, name: &str, lent: Lent, operations: &[String]) {
        self.lent.insert(name.to_owned(), (lent, operations.to_vec()));
    }

    /// Grants the requests that the plugin may have made with what it is lent.
    #[cfg(feature = "imports")]
    pub fn send(&mut self, outbound: crate::outbound::Outbound) {
        self.outbound = outbound;
    }

    /// What the plugin itself sees, outside its operations.
    pub fn of_plugin(&self) -> BTreeMap<String, Capability> {
        self.seen_by(|operations| operations.is_empty())
    }

    /// What one of its operations sees.
    pub fn of_operation(&self, name: &str) -> BTreeMap<String, Capability> {
        self.seen_by(|operations| operations.is_empty() || operations.iter().any(|o| o == name))
    }

    fn seen_by(&self, sees: impl Fn(&[String]) -> bool) -> BTreeMap<String, Capability> {
        let seen = self.lent.iter().filter(|(_, (_, operations))| sees(operations));
        seen.map(|(name, (lent, _))| (name.clone(), self.capability(lent))).collect()
    }

    #[cfg(feature = "imports")]
    fn capability(&self, lent: &Lent) -> Capability {
        self.outbound.capability(lent)
    }

    #[cfg(not(feature = "imports"))]
    fn capability(&self, lent: &Lent) -> Capability {
        Capability::from(lent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";

    fn lent(kind: CapabilityKind, entry: &str) -> Result<Lent, Malformed> {
        let how = Use { header: Some("X-Api-Key"), reveal: kind == CapabilityKind::Bytes };
        Lent::new(kind, how, entry)
    }

    fn header_of(lent: &Lent) -> (String, String) {
        let (name, value) = lent.header().unwrap();
        (name.to_owned(), String::from_utf8(value.to_vec()).unwrap())
    }

    #[test]
    fn each_kind_gives_what_it_is_for_and_nothing_else() {
        let bearer = lent(CapabilityKind::Bearer, "abc").unwrap();
        assert_eq!(header_of(&bearer), ("authorization".into(), "Bearer abc".into()));
        // RFC 7617, section 2.
        let basic = lent(CapabilityKind::Basic, "Aladdin:open sesame").unwrap();
        assert_eq!(header_of(&basic).1, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let header = lent(CapabilityKind::Header, "k3y").unwrap();
        assert_eq!(header_of(&header), ("x-api-key".into(), "k3y".into()));
        let bytes = lent(CapabilityKind::Bytes, "raw").unwrap();
        let sign = lent(CapabilityKind::Sign, SEED).unwrap();
        for (lent, reveals, signs) in [
            (&bearer, false, false),
            (&basic, false, false),
            (&header, false, false),
            (&bytes, true, false),
            (&sign, false, true),
        ] {
            let capability = Capability::from(lent);
            assert_eq!(capability.kind(), lent.kind());
            assert_eq!(capability.reveal().is_some(), reveals, "{lent:?}");
            assert_eq!(capability.sign(b"m").is_some(), signs, "{lent:?}");
            assert!(lent.tls_identity().is_none());
            assert_eq!(lent.header().is_none(), reveals || signs);
        }
        let hidden = Lent::new(CapabilityKind::Bytes, Use::default(), "raw").unwrap();
        assert_eq!(Capability::from(&hidden).reveal(), None);
    }

    #[test]
    fn a_signature_is_rfc_8032s() {
        // RFC 8032, 7.1, test 1: the empty message.
        let expected = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155\
                        5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";
        let sign = lent(CapabilityKind::Sign, SEED).unwrap();
        assert_eq!(hex::encode(CapabilityBackend::sign(&sign, b"").unwrap()), expected);
        let mut seed = [0; 32];
        hex::decode_to_slice(SEED, &mut seed).unwrap();
        let same = CapabilityBackend::sign(&Lent::signing(&seed), b"").unwrap();
        assert_eq!(hex::encode(same), expected);
        // The same key as PKCS#8.
        let der = crate::endpoint::NodeKey::from_seed(seed).pkcs8();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(&*der)
        );
        let same = lent(CapabilityKind::Sign, &pem).unwrap();
        assert_eq!(hex::encode(CapabilityBackend::sign(&same, b"").unwrap()), expected);
    }

    #[test]
    fn a_malformed_entry_is_refused_and_never_shown() {
        for (kind, entry, expected) in [
            (CapabilityKind::Bearer, "", Malformed::Empty),
            (CapabilityKind::Bearer, "hu\nsh", Malformed::Header),
            (CapabilityKind::Bearer, "hush\0", Malformed::Header),
            (CapabilityKind::Bearer, "hush ", Malformed::Header),
            (CapabilityKind::Basic, "hush", Malformed::Basic),
            (CapabilityKind::Header, " hush", Malformed::Header),
            (CapabilityKind::Sign, "hush", Malformed::Sign),
            (CapabilityKind::Sign, &SEED.replace('9', "g"), Malformed::Sign),
            (CapabilityKind::TlsIdentity, "hush", Malformed::TlsIdentity),
        ] {
            let error = lent(kind, entry).unwrap_err();
            assert_eq!(error, expected, "{kind:?} {entry:?}");
            assert!(!error.to_string().contains("hush"));
        }
        let error = Lent::new(CapabilityKind::Header, Use::default(), "x").unwrap_err();
        assert_eq!(error, Malformed::HeaderName);
    }

    #[test]
    fn a_tls_identity_needs_its_key() {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let both = made.cert.pem() + &made.signing_key.serialize_pem();
        let lent_both = lent(CapabilityKind::TlsIdentity, &both).unwrap();
        assert_eq!(lent_both.tls_identity(), Some(&*both));
        assert_eq!(Capability::from(&lent_both).reveal(), None);
        for half in [made.cert.pem(), made.signing_key.serialize_pem()] {
            let error = lent(CapabilityKind::TlsIdentity, &half).unwrap_err();
            assert_eq!(error, Malformed::TlsIdentity);
        }
    }

    #[test]
    fn k73_handles_print_redacted_and_share_one_secret() {
        let first = lent(CapabilityKind::Bearer, "hush").unwrap();
        let (second, third) = (first.clone(), Capability::from(&first));
        let mut bundle = Bundle::default();
        bundle.lend("key", second.clone(), &[]);
        let shown = format!("{first:?} {second:?} {third:?} {bundle:?}");
        assert!(!shown.contains("hush"), "{shown}");
        assert!(shown.contains("[REDACTED]"));
        assert!(Arc::ptr_eq(&first.secret, &second.secret));
        let held = Arc::downgrade(&first.secret);
        drop((first, second, bundle));
        assert!(held.upgrade().is_some(), "one handle is left");
        drop(third);
        assert!(held.upgrade().is_none(), "nothing keeps the secret");
    }

    #[test]
    fn k74_a_bundle_keeps_operations_apart() {
        let mut bundle = Bundle::default();
        let key = lent(CapabilityKind::Bearer, "hush").unwrap();
        bundle.lend("all", key.clone(), &[]);
        bundle.lend("one", key, &["a/b".to_owned()]);
        let names = |seen: BTreeMap<String, Capability>| seen.into_keys().collect::<Vec<_>>();
        assert_eq!(names(bundle.of_plugin()), ["all"]);
        assert_eq!(names(bundle.of_operation("a/b")), ["all", "one"]);
        assert_eq!(names(bundle.of_operation("a/c")), ["all"]);
    }
}
