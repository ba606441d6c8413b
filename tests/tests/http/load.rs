//! Many clients at once, and more than the system lets the node have.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{FuturesUnordered, iter};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;

/// Requests in flight at a time.
const REQUESTS: usize = 10_000;

/// Descriptors that a process needs besides its connections.
const SPARE: u64 = 500;

/// Connections that are being opened at a time.
const OPENING: usize = 64;

/// What a connection may cost the node. TLS and HTTP keep about 50 KiB.
const BYTES_EACH: u64 = 128 << 10;

/// Takes what this process may have of descriptors, and says how many that are.
/// The node that it starts inherits them.
fn descriptors() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    maximum.unwrap_or(u64::MAX)
}

/// Clients of a node that trust its certificate.
struct Clients {
    tls: TlsConnector,
    to: SocketAddr,
}

impl Clients {
    fn new(site: &Site) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(site.certificate()).unwrap()).unwrap();
        let mut tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { tls: TlsConnector::from(Arc::new(tls)), to: site.tcp }
    }

    async fn open(&self) -> std::io::Result<Client1> {
        let stream = TcpStream::connect(self.to).await?;
        let name = ServerName::try_from("localhost").unwrap();
        Ok(Client1(self.tls.connect(name, stream).await?))
    }
}

/// A connection of HTTP/1.1 that is kept.
struct Client1(TlsStream<TcpStream>);

impl Client1 {
    /// Sends this many requests at once, and takes their answers.
    async fn ask(&mut self, requests: usize) -> std::io::Result<()> {
        let body = r#"{"operation":"echo/say","input":{"text":"there?"}}"#;
        let request = format!(
            "POST /call HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.write_all(request.repeat(requests).as_bytes()).await?;
        self.0.flush().await?;
        let (mut answers, mut buffer) = (Vec::new(), [0; 4096]);
        let count = |answers: &[u8], text: &str| {
            answers.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
        };
        while count(&answers, r#"{"text":"there?"}"#) < requests {
            let read = self.0.read(&mut buffer).await?;
            let text = String::from_utf8_lossy(&answers);
            assert!(read > 0, "the node ends the connection after {text:?}");
            answers.extend_from_slice(&buffer[..read]);
        }
        assert_eq!(count(&answers, "HTTP/1.1 200 OK\r\n"), requests);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_are_answered_at_a_time() {
    let connections = usize::try_from(descriptors().saturating_sub(SPARE)).unwrap();
    let connections = connections.min(REQUESTS);
    let each = REQUESTS.div_ceil(connections);
    // A connection waits for its turn for longer than an idle one may.
    let (node, tcp) = folder("header_timeout_ms = 120000");
    node.replace("access.toml", "connections_per_prefix = 10000", "connections_per_prefix = 20000");
    let site = start(node, tcp).await;
    let clients = Clients::new(&site);
    clients.open().await.unwrap().ask(1).await.unwrap();
    let before = site.resident_bytes();
    let begun = std::time::Instant::now();
    let mut open: Vec<Client1> = iter(0..connections)
        .map(|_| clients.open())
        .buffer_unordered(OPENING)
        .map(Result::unwrap)
        .collect()
        .await;
    let opened = begun.elapsed();
    // Twice: the second time, every connection is one that was kept.
    for _ in 0..2 {
        let mut asked: FuturesUnordered<_> =
            open.iter_mut().map(|client| client.ask(each)).collect();
        while let Some(answered) = asked.next().await {
            answered.unwrap();
        }
    }
    let grown = site.resident_bytes().saturating_sub(before);
    println!(
        "{connections} connections in {opened:?}, {} requests twice in {:?}, {} KiB each",
        connections * each,
        begun.elapsed() - opened,
        grown / connections as u64 / 1024
    );
    assert!(grown < connections as u64 * BYTES_EACH, "{} MiB", grown >> 20);
    // Everybody who is in is served, and others once there is room.
    open[0].ask(1).await.unwrap();
    drop(open);
    within(async { while clients.open().await.is_err() {} }).await;
    site.call("/echo/say", json!({ "text": "" }), &[]).await.ok();
}

#[tokio::test]
async fn a_node_without_descriptors_says_so_and_serves_once_it_has_some() {
    let site = site("").await;
    let watcher = site.client().await;
    let limit = std::fs::read_dir(format!("/proc/{}/fd", site.process().id())).unwrap().count();
    // What is open stays; a few more are to be had.
    let few = format!("--nofile={}", limit + 8);
    let limited = Command::new("prlimit")
        .args(["--pid", &site.process().id().to_string(), &few])
        .status()
        .await
        .expect("prlimit is installed");
    assert!(limited.success());
    let clients = Clients::new(&site);
    let mut held = Vec::new();
    while let Ok(Ok(client)) = tokio::time::timeout(Duration::from_secs(2), clients.open()).await {
        held.push(client);
        assert!(held.len() <= 8, "there are more connections than descriptors");
    }
    site.logged("has no file descriptor left").await;
    // Those who are in are served.
    watcher.assert_answered().await;
    held[0].ask(1).await.unwrap();
    drop(held);
    within(async { while clients.open().await.is_err() {} }).await;
    within(clients.open()).await.unwrap().ask(1).await.unwrap();
    assert_eq!(site.process().stderr().matches("has no file descriptor left").count(), 1);
}
