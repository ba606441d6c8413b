//! The node's certificate: looked at with everything else that may be wrong, and
//! taken up at the start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinSet;

use super::StartError;
use crate::config::{CertificateSource, NodeConfig, Problem};
#[cfg(feature = "tcp")]
use crate::endpoint::identity::{Acme, Challenges};
use crate::endpoint::identity::{CertificateFiles, CertificateKind, LiveCertificate, SelfSigned};

/// A certificate that a start would refuse. Nothing is written.
pub(super) fn problem(config: &NodeConfig) -> Option<Problem> {
    let refused = |error: &dyn std::fmt::Display, remedy: &str| {
        config.certificate_place().problem(error.to_string(), remedy)
    };
    match config.certificate.as_ref()? {
        CertificateSource::Files { cert, key } => {
            let files = CertificateFiles { cert: cert.clone(), key: key.clone() };
            let error = files.load().err()?;
            Some(refused(&error, "name a certificate and its key, both in PEM form"))
        }
        CertificateSource::SelfSigned { names, file } => {
            let own = SelfSigned { names: names.clone(), file: file.clone() };
            Some(refused(&own.check().err()?, "write DNS names in ASCII letters, or IP addresses"))
        }
        CertificateSource::Acme(acme) => {
            let authority = acme.authority.as_ref()?;
            let error = crate::endpoint::tls::authorities(authority).err()?;
            Some(refused(&error, "name the PEM file of the authority's certificate"))
        }
    }
}

/// What a certificate needs of the file system.
#[derive(Default)]
pub(super) struct Paths {
    pub(super) read: Vec<PathBuf>,
    /// Folders, which may be missing.
    pub(super) write: Vec<PathBuf>,
}

/// Where the system keeps authorities, and how it finds names: what it takes to
/// reach an ACME server.
const OUTWARD: [&str; 6] = [
    "/etc/ssl",
    "/etc/pki",
    "/usr/share/ca-certificates",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
];

/// The files of the node's certificate. A file that is replaced is a new one, so
/// that it is its folder that counts.
pub(super) fn paths(config: &NodeConfig) -> Paths {
    let folder = |file: &Path| file.parent().unwrap_or(Path::new(".")).to_owned();
    match &config.certificate {
        None => Paths::default(),
        Some(CertificateSource::Files { cert, key }) => {
            Paths { read: vec![folder(cert), folder(key)], write: Vec::new() }
        }
        Some(CertificateSource::SelfSigned { file, .. }) => {
            Paths { read: Vec::new(), write: vec![folder(file)] }
        }
        Some(CertificateSource::Acme(acme)) => Paths {
            read: OUTWARD.iter().map(PathBuf::from).chain(acme.authority.clone()).collect(),
            write: vec![acme.cache_dir.clone()],
        },
    }
}

/// What the node shows beside its key, and the task that keeps it up to date.
#[derive(Default)]
pub(super) struct TlsIdentity {
    pub(super) certificate: Option<Arc<LiveCertificate>>,
    #[cfg(feature = "tcp")]
    pub(super) challenges: Option<Arc<Challenges>>,
    /// Ends with the node.
    pub(super) followers: JoinSet<()>,
}

impl TlsIdentity {
    /// Takes the certificate up, in a tokio runtime.
    pub(super) fn take_up(config: &NodeConfig) -> Result<Self, StartError> {
        let mut identity = Self::default();
        let refused = |error: &dyn std::fmt::Display| StartError::Certificate(error.to_string());
        match &config.certificate {
            None => {}
            Some(CertificateSource::Files { cert, key }) => {
                let files = CertificateFiles { cert: cert.clone(), key: key.clone() };
                let certificate = files.load().map_err(|error| refused(&error))?;
                let live = LiveCertificate::new(CertificateKind::X509, certificate);
                let live = identity.show(live);
                identity.followers.spawn(files.follow(live));
            }
            Some(CertificateSource::SelfSigned { names, file }) => {
                let own = SelfSigned { names: names.clone(), file: file.clone() };
                let certificate = own.obtain().map_err(|error| refused(&error))?;
                let live = LiveCertificate::new(CertificateKind::SelfSigned, certificate);
                let live = identity.show(live);
                identity.followers.spawn(own.follow(live));
            }
            #[cfg(feature = "tcp")]
            Some(CertificateSource::Acme(acme)) => identity.order(acme)?,
            // Refused when the file was read.
            #[cfg(not(feature = "tcp"))]
            Some(CertificateSource::Acme(_)) => {}
        }
        Ok(identity)
    }

    fn show(&mut self, live: LiveCertificate) -> Arc<LiveCertificate> {
        self.certificate.insert(Arc::new(live)).clone()
    }

    #[cfg(feature = "tcp")]
    fn order(&mut self, acme: &crate::config::Acme) -> Result<(), StartError> {
        use crate::config::AcmeChallenge;
        use crate::endpoint::EndpointError;

        let listen = |&address: &std::net::SocketAddr| {
            let listener = std::net::TcpListener::bind(address).and_then(|listener| {
                listener.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(listener)
            });
            listener.map_err(|source| EndpointError::BindTcp { address, source })
        };
        let http: Option<Vec<_>> = match acme.challenge {
            AcmeChallenge::Http01 => {
                Some(acme.http_listen.iter().map(listen).collect::<Result<_, _>>()?)
            }
            AcmeChallenge::TlsAlpn01 => None,
        };
        let client = Acme {
            domains: acme.domains.clone(),
            contact: acme.contact.clone(),
            directory: acme.directory.clone(),
            cache: acme.cache_dir.clone(),
            authority: acme.authority.clone(),
            renew_before: acme.renew_before,
            http: http.map(Into::into),
        };
        let live = match client.cached() {
            Some(certificate) => LiveCertificate::new(CertificateKind::Acme, certificate),
            None => LiveCertificate::awaiting(CertificateKind::Acme),
        };
        let (live, challenges) = (self.show(live), Arc::<Challenges>::default());
        self.challenges = Some(challenges.clone());
        self.followers.spawn(client.follow(live, challenges));
        Ok(())
    }
}
