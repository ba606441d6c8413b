//! quinn, echoing the bytes of the call protocol's frames without looking at
//! them: the ceiling for anything on one QUIC stream.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use quinn::{ClientConfig, Endpoint, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::certificate::{self, NAME};
use crate::load::{Counter, Load};

/// What a call's frame holds besides the text: 4 bytes of length, and
/// `{"type":"call.requested","id":"<uuid>","payload":{"operationId":"/echo/say","input":{"text":""}}}`.
const ENVELOPE: usize = 4 + 130;

pub(crate) async fn serve() -> Result<()> {
    let made = certificate::make()?;
    let chain = vec![CertificateDer::from_pem_slice(made.certificate.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes())?;
    let config = ServerConfig::with_single_cert(chain, key)?;
    let endpoint = Endpoint::server(config, "127.0.0.1:0".parse()?)?;
    certificate::announce(endpoint.local_addr()?, &made.certificate);
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let connection = incoming.await?;
            loop {
                let (mut send, mut recv) = connection.accept_bi().await?;
                tokio::spawn(async move {
                    let mut buffer = vec![0; 64 * 1024];
                    while let Some(n) = recv.read(&mut buffer).await? {
                        send.write_all(&buffer[..n]).await?;
                    }
                    anyhow::Ok(())
                });
            }
            #[expect(unreachable_code, reason = "it gives the block its type")]
            anyhow::Ok(())
        });
    }
    Ok(())
}

pub(crate) async fn load(address: SocketAddr, load: &Load) -> Result<f64> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(load.certificate()?.as_bytes())?)?;
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse()?)?;
    endpoint.set_default_client_config(ClientConfig::with_root_certificates(Arc::new(roots))?);
    let connection = endpoint.connect(address, NAME)?.await?;
    let (mut send, mut recv) = connection.open_bi().await?;

    let message = ENVELOPE + load.payload;
    let burst = vec![b'x'; message * load.in_flight];
    let mut buffer = vec![0; 64 * 1024];
    let mut partial = 0;
    let clock = Counter::new(load.seconds);
    send.write_all(&burst).await?;
    loop {
        let n = recv.read(&mut buffer).await?.context("the server ended the stream")?;
        let answers = (partial + n) / message;
        partial = (partial + n) % message;
        if !clock.add(answers as u64) {
            return Ok(clock.rate());
        }
        send.write_all(&burst[..answers * message]).await?;
    }
}
