//! What the node answers when an ACME server asks whether it holds a name.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rcgen::{CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::ClientHello;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::net::TcpListener;

use super::AcmeError;
use crate::endpoint::tls;
use crate::small_http::{self, Found};

/// The protocol of a server that only wants to see a certificate (RFC 8737).
const ALPN: &[u8] = b"acme-tls/1";

/// Where a server looks over HTTP, before the token.
const PATH: &str = "/.well-known/acme-challenge/";

/// The answers to the questions that are open now.
#[derive(Default)]
pub struct Challenges {
    tls: Mutex<HashMap<String, Arc<ServerConfig>>>,
    http: Mutex<HashMap<String, String>>,
}

/// The answer to one question.
pub(super) enum Answer {
    /// A configuration with the certificate to show under a name.
    Tls(String, Arc<ServerConfig>),
    /// The text under a token.
    Http(String, String),
}

impl Answer {
    pub(super) fn over_http(token: String, proof: String) -> Self {
        Self::Http(token, proof)
    }

    /// A certificate for `domain` that carries the proof's digest.
    pub(super) fn over_tls(domain: String, digest: &[u8]) -> Result<Self, AcmeError> {
        let mut params = CertificateParams::new([domain.clone()])?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = tls::provider();
        // Not checked against each other, as rustls would do: the certificate has a
        // critical extension that no verifier but an ACME server's knows.
        let signer = provider.key_provider.load_private_key(key)?;
        let own = CertifiedKey::new(vec![certificate.into()], signer);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self::Tls(domain, Arc::new(config)))
    }
}

/// An answer that is given until this is dropped.
pub(super) struct Offered<'c> {
    challenges: &'c Challenges,
    answer: Answer,
}

impl Challenges {
    pub(super) fn offer(&self, answer: Answer) -> Offered<'_> {
        match &answer {
            Answer::Tls(domain, config) => {
                self.tls.lock().insert(domain.to_ascii_lowercase(), config.clone());
            }
            Answer::Http(token, proof) => {
                self.http.lock().insert(token.clone(), proof.clone());
            }
        }
        Offered { challenges: self, answer }
    }

    /// The configuration for a client that speaks the challenge's protocol and
    /// asks for a name with an open question. Nobody else is ever shown it.
    pub fn answer(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let asks = hello.alpn()?.eq([ALPN]);
        let name = hello.server_name().filter(|_| asks)?;
        self.tls.lock().get(&name.to_ascii_lowercase()).cloned()
    }

    fn proof(&self, token: &str) -> Option<String> {
        self.http.lock().get(token).cloned()
    }
}

impl Drop for Offered<'_> {
    fn drop(&mut self) {
        match &self.answer {
            Answer::Tls(domain, _) => {
                drop(self.challenges.tls.lock().remove(&domain.to_ascii_lowercase()))
            }
            Answer::Http(token, _) => drop(self.challenges.http.lock().remove(token)),
        }
    }
}

/// Answers questions over HTTP on every listener. It never ends.
pub(super) async fn answer_http(listeners: &[TcpListener], challenges: &Arc<Challenges>) {
    let each = listeners.iter().map(|listener| {
        let challenges = challenges.clone();
        small_http::serve(listener, move |path| {
            let body = challenges.proof(path.strip_prefix(PATH)?)?;
            Some(Found { content_type: "application/octet-stream", body })
        })
    });
    futures_util::future::join_all(each).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_given_over_http_as_long_as_it_is_offered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let challenges = Arc::<Challenges>::default();
        let served = challenges.clone();
        let server = tokio::spawn(async move { answer_http(&[listener], &served).await });
        let ask = async |path: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let path = format!("{PATH}token");
        assert!(ask(&path).await.starts_with("HTTP/1.1 404"));
        let offered = challenges.offer(Answer::over_http("token".into(), "token.proof".into()));
        let answer = ask(&path).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\ntoken.proof"));
        assert!(ask(&format!("{PATH}other")).await.starts_with("HTTP/1.1 404"));
        drop(offered);
        assert!(ask(&path).await.starts_with("HTTP/1.1 404"));
        server.abort();
    }
}
