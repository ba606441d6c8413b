//! The gateway over HTTP/1.1: `POST /call` of the daemon, and a bare axum handler
//! that does the same work. Both speak TLS 1.3 by rustls to clients that keep their
//! connections.

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, Request, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::call::{Daemon, built};
use crate::certificate::{self, NAME};
use crate::load::{Load, Shape};
use crate::table::{Server, median};

/// Connections, with one request at a time on each.
const CONNECTIONS: usize = 64;

/// What the gateway takes.
#[derive(Deserialize, Serialize)]
struct Call {
    operation: String,
    input: Text,
}

#[derive(Deserialize, Serialize)]
struct Text {
    text: String,
}

async fn say(body: Bytes) -> impl IntoResponse {
    let answer = serde_json::from_slice(&body).and_then(|Call { input, .. }| {
        Ok(([(CONTENT_TYPE, "application/json")], serde_json::to_vec(&input)?))
    });
    answer.map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
}

/// Serves the handler.
pub(crate) async fn serve() -> Result<()> {
    let made = certificate::make()?;
    let chain = vec![CertificateDer::from_pem_slice(made.certificate.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes())?;
    let mut tls = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let router = Router::new().route("/call", post(say));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    certificate::announce(listener.local_addr()?, &made.certificate);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await?;
            let service = TowerToHyperService::new(router);
            server::Builder::new().serve_connection(TokioIo::new(stream), service).await?;
            anyhow::Ok(())
        });
    }
}

type Connection = Mutex<client::SendRequest<Full<Bytes>>>;

/// A client's side of TLS that trusts this certificate and speaks this protocol.
pub(crate) fn tls(certificate: &str, alpn: &str) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes())?)?;
    let mut tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    Ok(tls)
}

/// A connection by TLS over TCP.
pub(crate) async fn stream(address: SocketAddr, tls: ClientConfig) -> Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::new(tls));
    Ok(connector.connect(ServerName::try_from(NAME)?, stream).await?)
}

/// What asks for a call.
pub(crate) fn body(load: &Load) -> Result<Bytes> {
    let call = Call { operation: "echo/say".to_owned(), input: Text { text: load.text() } };
    Ok(serde_json::to_vec(&call)?.into())
}

async fn connect(address: SocketAddr, tls: &ClientConfig) -> Result<Connection> {
    let stream = stream(address, tls.clone()).await?;
    let (requests, connection) = client::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(Mutex::new(requests))
}

/// Sends calls over connections that are kept, one at a time on each.
pub(crate) async fn load(address: SocketAddr, load: &Load) -> Result<f64> {
    let tls = tls(&load.certificate()?, "http/1.1")?;
    let mut connections = Vec::new();
    for _ in 0..load.in_flight {
        connections.push(connect(address, &tls).await?);
    }
    let body = body(load)?;
    load.run(|number| {
        let (connection, body) = (&connections[number], body.clone());
        async move {
            let request = Request::builder()
                .method(Method::POST)
                .uri("/call")
                .header("host", NAME)
                .header(CONTENT_TYPE, "application/json")
                .body(Full::new(body))?;
            let mut connection = connection.lock().await;
            connection.ready().await?;
            let answer = connection.send_request(request).await?;
            ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
            std::hint::black_box(answer.into_body().collect().await?.to_bytes());
            Ok(())
        }
    })
    .await
}

fn rate(address: &str, certificate: &std::path::Path) -> Result<f64> {
    let connections = CONNECTIONS.to_string();
    let output = Command::new(std::env::current_exe()?)
        .args(["load", "gateway", address, "--in-flight", &connections])
        .args(["--shape", Shape::Multi.name(), "--certificate"])
        .arg(certificate)
        .stderr(Stdio::inherit())
        .output()?;
    String::from_utf8(output.stdout)?.trim().parse().context("no figure")
}

/// Compares the two in turn.
pub(crate) fn run(rounds: usize) -> Result<()> {
    let mut samples = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        let axum = Server::own("gateway", Shape::Multi)?;
        let (address, certificate) = axum.announced().context("it says where it is")?;
        samples[0].push(rate(address, certificate)?);
        drop(axum);
        let tcp = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let daemon = Daemon::start_http(tcp, &built()?.join("libalknet_plugin_echo.so"), "{}")?;
        let certificate = daemon.path().join("self-signed/certificate.pem");
        samples[1].push(rate(&tcp.to_string(), &certificate)?);
        eprintln!("gateway: round {} of {rounds}", round + 1);
    }
    let [axum, gateway] = samples.each_mut().map(|samples| median(samples));
    println!(
        "\nHTTP/1.1 over TLS, {CONNECTIONS} connections, 64 bytes of text (median of {rounds})"
    );
    println!("bare axum handler  {axum:>10.0} requests/s");
    println!("POST /call         {gateway:>10.0} requests/s  x axum {:.2}", gateway / axum);
    Ok(())
}
