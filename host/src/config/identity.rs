//! The part of `[identity]` that is about certificates: what the node shows beside
//! its key.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::{Node, Table};
use super::node::optional;
use super::problem::Place;
use super::values::choice;

/// Where the node's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateSource {
    /// PEM files, read again when they change.
    Files {
        /// The chain, the leaf first.
        cert: PathBuf,
        /// The leaf's private key.
        key: PathBuf,
    },
    /// The node's own signature, for development and for browsers that are told
    /// the certificate's hash.
    SelfSigned {
        /// DNS names and IP addresses.
        names: Vec<String>,
        /// Where certificate and key are kept.
        file: PathBuf,
    },
    /// An ACME server.
    Acme(Acme),
}

/// How certificates are had from an ACME server (RFC 8555).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Acme {
    /// The DNS names of the certificate.
    pub domains: Vec<String>,
    /// Addresses such as `mailto:operator@example.org`, for the server's notices.
    pub contact: Vec<String>,
    /// The URL of the server's directory. Default: Let's Encrypt.
    pub directory: String,
    /// Where account, keys and certificates are kept; mode 0700.
    pub cache_dir: PathBuf,
    /// How the server is shown that the node holds its names.
    pub challenge: AcmeChallenge,
    /// Where [`AcmeChallenge::Http01`] is answered.
    pub http_listen: Vec<SocketAddr>,
    /// The authority of the directory's own certificate, where the system does
    /// not know it.
    pub authority: Option<PathBuf>,
    /// How long before its end a certificate is renewed. Default: a third of its
    /// validity.
    pub renew_before: Option<Duration>,
}

/// A kind of ACME validation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// A certificate of a special kind on TCP port 443 (RFC 8737), over the
    /// node's TCP listener.
    #[default]
    TlsAlpn01,
    /// A text over HTTP on TCP port 80.
    Http01,
}

/// What the table `[identity]` says of a certificate, and where.
pub(super) fn certificate(file: &Path, table: &Table<'_>) -> Option<(CertificateSource, Place)> {
    let mut sources = Vec::new();
    let mut read = |key, built, read: fn(&Path, &Table<'_>) -> CertificateSource| {
        let mut source = None;
        let on =
            optional(table, key, built, |table| source = Some((read(file, table), table.place())));
        sources.extend(source.filter(|_| on));
    };
    read("x509", true, files);
    read("self_signed", true, self_signed);
    read("acme", cfg!(feature = "tcp"), acme);
    for (_, place) in sources.iter().skip(1) {
        table.problem(place.problem(
            "the node shows one certificate, and this is another",
            "enable one of `x509`, `self_signed` and `acme`",
        ));
    }
    sources.into_iter().next()
}

fn files(_: &Path, table: &Table<'_>) -> CertificateSource {
    CertificateSource::Files {
        cert: table.required("cert", "name the PEM file of the chain, the leaf first"),
        key: table.required("key", "name the PEM file of the leaf's private key"),
    }
}

fn self_signed(file: &Path, table: &Table<'_>) -> CertificateSource {
    let names: Vec<String> =
        table.required("names", "say for which names and addresses: `names = [\"localhost\"]`");
    not_empty(table, "names", &names);
    let default = file.with_file_name("self-signed").join("certificate.pem");
    CertificateSource::SelfSigned { names, file: table.or("file", default) }
}

/// The directory that most nodes will use.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

fn acme(file: &Path, table: &Table<'_>) -> CertificateSource {
    let domains: Vec<String> =
        table.required("domains", "say for which names: `domains = [\"node.example.org\"]`");
    not_empty(table, "domains", &domains);
    for domain in &domains {
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if domain.parse::<std::net::IpAddr>().is_ok() || !domain.split('.').all(label) {
            table.problem(table.place_of("domains").problem(
                format!("`{domain}` is not a name that these challenges can prove"),
                "write whole DNS names in ASCII letters; a wildcard takes another kind of proof",
            ));
        }
    }
    let directory: String = table.or("directory", LETS_ENCRYPT.into());
    if !directory.starts_with("https://") {
        table.problem(table.place_of("directory").problem(
            "an ACME directory is reached over HTTPS only",
            format!("write its URL: `directory = \"{LETS_ENCRYPT}\"`"),
        ));
    }
    let challenges =
        [("tls-alpn-01", AcmeChallenge::TlsAlpn01), ("http-01", AcmeChallenge::Http01)];
    let challenge = table.node("challenge").and_then(|node| choice(&node, &challenges));
    let every_address = || vec![SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], 80))];
    let http_listen: Option<Vec<SocketAddr>> = table.get("http_listen");
    if let Some(listen) = &http_listen {
        not_empty(table, "http_listen", listen);
    }
    CertificateSource::Acme(Acme {
        domains,
        contact: table.or_default("contact"),
        directory,
        cache_dir: table.or("cache_dir", file.with_file_name("acme")),
        challenge: challenge.unwrap_or_default(),
        http_listen: http_listen.unwrap_or_else(every_address),
        authority: table.get("authority"),
        renew_before: table.get("renew_before"),
    })
}

fn not_empty<T>(table: &Table<'_>, key: &'static str, list: &[T]) {
    // A list whose elements were refused has its problems already.
    let none = |node: Node<'_>| node.elements().is_some_and(|list| list.is_empty());
    if list.is_empty() && table.node(key).is_some_and(none) {
        table.problem(
            table.place_of(key).problem(format!("`{key}` is empty"), "write at least one entry"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Mode, NodeConfig};
    use super::*;

    const QUIC: &str = "[endpoint.quic]\nlisten = [\"127.0.0.1:0\"]\n";

    fn node(text: &str) -> Result<NodeConfig, Vec<String>> {
        let file = Path::new("/etc/alknet/node.toml");
        NodeConfig::parse(file, &format!("{QUIC}{text}"), Mode::Pinned).map_err(|problems| {
            problems.iter().map(|p| format!("{}: {}", p.place.line(), p.what)).collect()
        })
    }

    #[test]
    fn each_source_has_its_defaults() {
        assert_eq!(node("").unwrap().certificate, None);
        let own = node("[identity.self_signed]\nnames = [\"localhost\"]\n").unwrap();
        let file = "/etc/alknet/self-signed/certificate.pem".into();
        let names = vec!["localhost".into()];
        assert_eq!(own.certificate, Some(CertificateSource::SelfSigned { names, file }));
        let files = node("[identity.x509]\ncert = \"c.pem\"\nkey = \"/k.pem\"\n").unwrap();
        let (cert, key) = ("/etc/alknet/c.pem".into(), "/k.pem".into());
        assert_eq!(files.certificate, Some(CertificateSource::Files { cert, key }));
        let off = "[identity.x509]\nenabled = false\ncert = \"c\"\nkey = \"k\"\n";
        assert_eq!(node(off).unwrap().certificate, None);
    }

    #[cfg(all(feature = "tcp", feature = "quinn"))]
    #[test]
    fn an_acme_server_must_find_somebody_who_answers() {
        let acme = "[identity.acme]\ndomains = [\"a.example\"]\n";
        assert_eq!(
            node(acme).unwrap_err(),
            ["3: the challenge `tls-alpn-01` is answered over TCP, where the node does not listen"]
        );
        let tcp = "[endpoint.tcp]\nlisten = [\"127.0.0.1:443\"]\n";
        let config = node(&format!("{tcp}{acme}")).unwrap();
        let Some(CertificateSource::Acme(found)) = config.certificate else { panic!() };
        assert_eq!(found.directory, LETS_ENCRYPT);
        assert_eq!(found.cache_dir, Path::new("/etc/alknet/acme"));
        assert_eq!(found.http_listen, ["[::]:80".parse().unwrap()]);
        assert!(node(&format!("{acme}challenge = \"http-01\"\n")).is_ok());
    }

    #[cfg(feature = "tcp")]
    #[test]
    fn what_no_server_would_issue_is_refused() {
        let wrong = node(
            "[identity.acme]\nchallenge = \"http-01\"\ndirectory = \"http://a\"\n\
             domains = [\"*.a.example\", \"127.0.0.1\", \"a..b\", \"good.example\"]\n\
             [identity.self_signed]\nnames = []\n",
        );
        assert_eq!(
            wrong.unwrap_err(),
            [
                "3: the node shows one certificate, and this is another",
                "5: an ACME directory is reached over HTTPS only",
                "6: `*.a.example` is not a name that these challenges can prove",
                "6: `127.0.0.1` is not a name that these challenges can prove",
                "6: `a..b` is not a name that these challenges can prove",
                "8: `names` is empty",
            ]
        );
    }

    #[test]
    fn an_unfinished_section_is_told() {
        assert_eq!(node("[identity.x509]\ncert = \"c\"\n").unwrap_err(), ["3: `key` is missing"]);
    }
}
