//! Certificates from an ACME server (RFC 8555).
//!
//! One task orders a certificate when there is none for the names, and again
//! before it expires. The server asks whether the node holds its names, over TLS
//! (RFC 8737) or HTTP, and the node's listeners answer from [`Challenges`]. Every
//! failure leaves the certificate in use, shows in status, and is tried again
//! after a while that grows: seconds at first where the server could not be
//! reached, minutes where it said no, because servers limit how often they are
//! asked.

mod challenges;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use zeroize::Zeroizing;

pub use challenges::Challenges;
use challenges::{Answer, answer_http};

use super::live::{Certificate, CertificateError, LiveCertificate};
use super::{unix_now, write_private};
use crate::endpoint::tls;

/// How a certificate is ordered.
#[derive(Clone, Debug)]
pub struct Acme {
    /// The DNS names of the certificate.
    pub domains: Vec<String>,
    /// Addresses for the server's notices.
    pub contact: Vec<String>,
    /// The URL of the server's directory.
    pub directory: String,
    /// Where account, keys and certificates are kept.
    pub cache: PathBuf,
    /// The authority of the directory's own certificate; `None` means the
    /// system's.
    pub authority: Option<PathBuf>,
    /// How long before its end a certificate is renewed; `None` means a third of
    /// its validity.
    pub renew_before: Option<Duration>,
    /// Where challenges are answered over HTTP; `None` means over TLS.
    pub http: Option<Arc<[TcpListener]>>,
}

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcmeError {
    /// The server said no, or nothing that can be understood.
    #[error("the ACME server: {0}")]
    Server(#[from] Error),
    /// The server could not see that the node holds a name.
    #[error(
        "the ACME server could not validate {domain}: {reason}; check that the name leads here, and \
         that {port} is open to the world"
    )]
    Rejected {
        /// The name.
        domain: String,
        /// The server's words.
        reason: String,
        /// Where it looks.
        port: &'static str,
    },
    /// The server does not do this kind of validation.
    #[error("the ACME server offers no challenge of the kind {0} for {1}")]
    NoChallenge(&'static str, String),
    /// The request or the answer to a challenge could not be made.
    #[error("cannot make a certificate request: {0}")]
    Request(#[from] rcgen::Error),
    /// TLS refuses the answer to a challenge.
    #[error("cannot answer the challenge: {0}")]
    Answer(#[from] rustls::Error),
    /// What was issued cannot serve.
    #[error("the ACME server issued something else: {0}")]
    Issued(#[from] CertificateError),
    /// Nothing can be kept.
    #[error("cannot use the folder {folder}: {source}; make it the daemon's own, mode 0700")]
    Cache {
        /// Which folder.
        folder: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The account kept there cannot be read.
    #[error("the ACME account in {0} is damaged; restore it, or remove it for a new account")]
    Account(PathBuf),
}

impl AcmeError {
    /// Whether the server answered, so that asking again soon is a burden to it.
    fn is_answer(&self) -> bool {
        matches!(self, Self::Server(Error::Api(_)) | Self::Rejected { .. } | Self::NoChallenge(..))
    }
}

/// How long an order may take from each step to the next.
const PATIENCE: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(120));

/// How often the clock is looked at: it may be set, and the machine may sleep.
const LOOK: Duration = Duration::from_secs(60 * 60);

/// The least part of its validity for which a certificate is kept, whatever
/// `renew_before` asks.
const KEPT: u64 = 10;

impl Acme {
    /// The certificate that an earlier run was issued, if it is for these names.
    pub fn cached(&self) -> Option<Certificate> {
        let file = self.file("certificate.pem");
        let pem = Zeroizing::new(std::fs::read(&file).ok()?);
        let origin = file.display().to_string();
        let kept = Certificate::from_pem((&pem, &origin), (&pem, &origin)).ok()?;
        (self.is_for(kept.names()) && kept.not_after() > unix_now()).then_some(kept)
    }

    fn is_for(&self, names: &[String]) -> bool {
        let sorted = |names: &[String]| {
            let mut names: Vec<_> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
            names.sort_unstable();
            names
        };
        sorted(names) == sorted(&self.domains)
    }

    /// Keeps `live` at a certificate that has not expired. It never ends.
    pub async fn follow(self, live: Arc<LiveCertificate>, challenges: Arc<Challenges>) {
        // The client library asks for the process's provider.
        let _already_chosen = (*tls::provider()).clone().install_default();
        let answering = async {
            match &self.http {
                Some(listeners) => answer_http(listeners, &challenges).await,
                None => std::future::pending().await,
            }
        };
        tokio::join!(answering, self.renew(&live, &challenges));
    }

    async fn renew(&self, live: &LiveCertificate, challenges: &Challenges) {
        let mut pause = Pause::default();
        loop {
            while let Some(rest) = live.current().and_then(|current| self.due_in(&current)) {
                tokio::time::sleep(rest.min(LOOK)).await;
            }
            match self.obtain(challenges).await {
                Ok(certificate) => {
                    live.replace(certificate);
                    pause = Pause::default();
                }
                Err(error) => {
                    live.failed(&error);
                    let pause = pause.after(error.is_answer());
                    tracing::info!(?pause, "the ACME server is asked again after a pause");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// How long until the certificate is to be renewed; `None` when it is now.
    fn due_in(&self, certificate: &Certificate) -> Option<Duration> {
        let lifetime = certificate.lifetime();
        let before = self.renew_before.map_or(lifetime / 3, |before| before.as_secs());
        let before = before.min(lifetime - lifetime / KEPT);
        let due = certificate.not_after().saturating_sub(before);
        due.checked_sub(unix_now()).filter(|rest| *rest > 0).map(Duration::from_secs)
    }

    async fn obtain(&self, challenges: &Challenges) -> Result<Certificate, AcmeError> {
        self.make_cache()?;
        let account = self.account().await?;
        let identifiers: Vec<_> = self.domains.iter().cloned().map(Identifier::Dns).collect();
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
        // Withdrawn when this ends, whichever way.
        let mut answers = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            let domain = authorization.identifier().to_string();
            match authorization.status {
                AuthorizationStatus::Pending => {}
                AuthorizationStatus::Valid => continue,
                other => return Err(self.rejected(domain, format!("it is {other:?} already"))),
            }
            let (kind, name) = self.kind();
            let mut challenge = authorization
                .challenge(kind)
                .ok_or_else(|| AcmeError::NoChallenge(name, domain.clone()))?;
            let proof = challenge.key_authorization();
            let answer = match self.http {
                Some(_) => Answer::over_http(challenge.token.clone(), proof.as_str().to_owned()),
                None => Answer::over_tls(domain, proof.digest().as_ref())?,
            };
            answers.push(challenges.offer(answer));
            challenge.set_ready().await?;
        }
        match order.poll_ready(&PATIENCE).await {
            Ok(OrderStatus::Ready) => {}
            Ok(_) => return Err(self.reason(&mut order, None).await),
            Err(instant_acme::Error::Api(said)) => {
                return Err(self.reason(&mut order, Some(said.to_string())).await);
            }
            Err(error) => return Err(error.into()),
        }
        drop(answers);

        let mut request = CertificateParams::new(self.domains.clone())?;
        request.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let request = request.serialize_request(&key)?;
        order.finalize_csr(request.der()).await?;
        let chain = order.poll_certificate(&PATIENCE).await?;
        let pem = Zeroizing::new(chain + &Zeroizing::new(key.serialize_pem()));
        let certificate =
            Certificate::from_pem((pem.as_bytes(), "the chain"), (pem.as_bytes(), "its key"))?;
        // One that cannot be kept still serves, until the next start.
        if let Err(source) = write_private(&self.file("certificate.pem"), pem.as_bytes()) {
            let folder = self.cache.clone();
            tracing::error!(error = %AcmeError::Cache { folder, source }, "the certificate is not kept");
        }
        Ok(certificate)
    }

    fn kind(&self) -> (ChallengeType, &'static str) {
        match self.http {
            Some(_) => (ChallengeType::Http01, "http-01"),
            None => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
        }
    }

    fn rejected(&self, domain: String, reason: String) -> AcmeError {
        let port = if self.http.is_some() { "TCP port 80" } else { "TCP port 443" };
        AcmeError::Rejected { domain, reason, port }
    }

    /// What the server says about the name that it could not validate, or else
    /// what it said about the order.
    async fn reason(&self, order: &mut Order, said: Option<String>) -> AcmeError {
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            if let Err(error) = authorization.refresh().await {
                return error.into();
            }
            let said = authorization.challenges.iter().find_map(|one| one.error.as_ref());
            if let Some(said) = said {
                return self.rejected(authorization.identifier().to_string(), said.to_string());
            }
        }
        let said = said.unwrap_or_else(|| "it does not say why".into());
        self.rejected(self.domains.join(", "), said)
    }

    async fn account(&self) -> Result<Account, AcmeError> {
        let builder = match &self.authority {
            Some(authority) => Account::builder_with_root(authority)?,
            None => Account::builder()?,
        };
        let file = self.file("account.json");
        let cache = |source| AcmeError::Cache { folder: self.cache.clone(), source };
        match std::fs::read(&file).map(Zeroizing::new) {
            Ok(kept) => {
                let credentials: AccountCredentials =
                    serde_json::from_slice(&kept).map_err(|_| AcmeError::Account(file.clone()))?;
                return Ok(builder.from_credentials(credentials).await?);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(cache(error)),
        }
        let contact: Vec<&str> = self.contact.iter().map(String::as_str).collect();
        let account = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let (account, credentials) = builder.create(&account, self.directory.clone(), None).await?;
        let credentials = serde_json::to_vec(&credentials).map(Zeroizing::new);
        let credentials = credentials.map_err(|error| cache(error.into()))?;
        write_private(&file, &credentials).map_err(cache)?;
        tracing::info!(directory = self.directory, "made an ACME account");
        Ok(account)
    }

    fn make_cache(&self) -> Result<(), AcmeError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.cache);
        made.map_err(|source| AcmeError::Cache { folder: self.cache.clone(), source })
    }

    /// A file of this server's: what a test server issued is not for the world.
    fn file(&self, name: &str) -> PathBuf {
        let digest = hex::encode(Sha256::digest(&self.directory));
        self.cache.join(format!("{}-{name}", &digest[..8]))
    }
}

/// The time from a failure to the next attempt.
#[derive(Default)]
struct Pause(u32);

impl Pause {
    const UNREACHED: (u64, u64) = (5, 60 * 60);
    const REFUSED: (u64, u64) = (10 * 60, 6 * 60 * 60);

    fn after(&mut self, refused: bool) -> Duration {
        let (first, longest) = if refused { Self::REFUSED } else { Self::UNREACHED };
        let seconds = (first << self.0.min(16)).min(longest);
        self.0 += 1;
        Duration::from_secs(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k30_pauses_grow_to_a_limit_and_are_longer_where_the_server_said_no() {
        let seconds = |refused| {
            let mut pause = Pause::default();
            (0..24).map(|_| pause.after(refused).as_secs()).collect::<Vec<_>>()
        };
        assert_eq!(seconds(false)[..4], [5, 10, 20, 40]);
        assert_eq!(seconds(false)[23], 60 * 60);
        assert_eq!(seconds(true)[..3], [600, 1_200, 2_400]);
        assert_eq!(seconds(true)[23], 6 * 60 * 60);
    }
}
