//! HTTP/3 against HTTP/2: the same gateway, and the same file, over either.

use std::future::poll_fn;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, Request, StatusCode};
use bytes::Buf;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};

use crate::call::{Daemon, built};
use crate::certificate::NAME;
use crate::gateway;
use crate::load::{Load, Shape};
use crate::table::median;

/// The file that is downloaded, in bytes.
const FILE: usize = 64 << 20;

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Version {
    /// HTTP/2 over TLS over TCP.
    H2,
    /// HTTP/3 over QUIC.
    H3,
}

impl Version {
    const fn name(self) -> &'static str {
        match self {
            Self::H2 => "h2",
            Self::H3 => "h3",
        }
    }
}

/// One connection.
enum Client {
    H2(http2::SendRequest<Full<Bytes>>),
    H3 {
        requests: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
        /// Has the connection go on while it is there.
        _endpoint: Endpoint,
    },
}

impl Client {
    async fn connect(version: Version, address: SocketAddr, certificate: &str) -> Result<Self> {
        let tls = gateway::tls(certificate, version.name())?;
        match version {
            Version::H2 => {
                let stream = gateway::stream(address, tls).await?;
                let io = TokioIo::new(stream);
                let (requests, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Ok(Self::H2(requests))
            }
            Version::H3 => {
                let mut endpoint = Endpoint::client("127.0.0.1:0".parse()?)?;
                let tls = QuicClientConfig::try_from(tls)?;
                endpoint.set_default_client_config(ClientConfig::new(Arc::new(tls)));
                let connection = endpoint.connect(address, NAME)?.await?;
                let connection = h3_quinn::Connection::new(connection);
                let (mut driver, requests) = h3::client::new(connection).await?;
                tokio::spawn(async move { poll_fn(|cx| driver.poll_close(cx)).await });
                Ok(Self::H3 { requests, _endpoint: endpoint })
            }
        }
    }

    /// Sends a request, and returns how many bytes its answer has.
    async fn send(&self, request: Request<Bytes>) -> Result<usize> {
        let mut bytes = 0;
        let status = match self {
            Self::H2(requests) => {
                let mut requests = requests.clone();
                requests.ready().await?;
                let mut answer = requests.send_request(request.map(Full::new)).await?;
                while let Some(frame) = answer.frame().await {
                    bytes += frame?.data_ref().map_or(0, Bytes::len);
                }
                answer.status()
            }
            Self::H3 { requests, .. } => {
                let (parts, body) = request.into_parts();
                let mut requests = requests.clone();
                let mut stream = requests.send_request(Request::from_parts(parts, ())).await?;
                if !body.is_empty() {
                    stream.send_data(body).await?;
                }
                stream.finish().await?;
                let answer = stream.recv_response().await?;
                while let Some(data) = stream.recv_data().await? {
                    bytes += data.remaining();
                }
                answer.status()
            }
        };
        ensure!(status == StatusCode::OK, "{status}");
        Ok(bytes)
    }
}

fn request(method: Method, path: &str, body: Bytes) -> Result<Request<Bytes>> {
    Ok(Request::builder()
        .method(method)
        .uri(format!("https://{NAME}{path}"))
        .header(CONTENT_TYPE, "application/json")
        .body(body)?)
}

/// Sends calls over one connection.
pub(crate) async fn load(version: Version, address: SocketAddr, load: &Load) -> Result<f64> {
    let client = Client::connect(version, address, &load.certificate()?).await?;
    let body = gateway::body(load)?;
    load.run(|_| async {
        client.send(request(Method::POST, "/call", body.clone())?).await?;
        Ok(())
    })
    .await
}

/// Downloads the file, and returns MiB/s.
pub(crate) async fn download(
    version: Version,
    address: SocketAddr,
    certificate: &Path,
) -> Result<f64> {
    let certificate = std::fs::read_to_string(certificate)?;
    let client = Client::connect(version, address, &certificate).await?;
    let get = || request(Method::GET, "/file", Bytes::new());
    // The first one warms up the file and the connection's windows.
    ensure!(client.send(get()?).await? == FILE, "the file is not whole");
    let begun = Instant::now();
    client.send(get()?).await?;
    Ok(FILE as f64 / f64::from(1 << 20) / begun.elapsed().as_secs_f64())
}

/// Runs this program as a client.
fn measure(arguments: &[&str], address: SocketAddr, certificate: &Path) -> Result<f64> {
    let output = Command::new(std::env::current_exe()?)
        .args(arguments)
        .arg(address.to_string())
        .arg("--certificate")
        .arg(certificate)
        .stderr(Stdio::inherit())
        .output()?;
    String::from_utf8(output.stdout)?.trim().parse().context("no figure")
}

/// Compares the two in turn.
pub(crate) fn run(rounds: usize) -> Result<()> {
    let site = tempfile::tempdir()?;
    std::fs::File::create(site.path().join("file"))?.write_all(&vec![b'x'; FILE])?;
    let versions = [Version::H2, Version::H3];
    let mut requests = [Vec::new(), Vec::new()];
    let mut bulk = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        let tcp = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let echo = built()?.join("libalknet_plugin_echo.so");
        let config = format!("{{ static_root = {:?} }}", site.path());
        let daemon = Daemon::start_http(tcp, &echo, &config)?;
        let certificate = daemon.path().join("self-signed/certificate.pem");
        for (index, version) in versions.into_iter().enumerate() {
            let address = match version {
                Version::H2 => tcp,
                Version::H3 => daemon.quic,
            };
            let shape = ["--shape", Shape::Multi.name()];
            let load = [&["load", version.name()], &shape[..]].concat();
            requests[index].push(measure(&load, address, &certificate)?);
            let download = ["download", version.name()];
            bulk[index].push(measure(&download, address, &certificate)?);
        }
        eprintln!("HTTP/2 and HTTP/3: round {} of {rounds}", round + 1);
    }
    let [h2, h3] = requests.each_mut().map(|samples| median(samples));
    println!("\nPOST /call, 64 in flight on one connection (median of {rounds})");
    println!("HTTP/2  {h2:>10.0} requests/s");
    println!("HTTP/3  {h3:>10.0} requests/s  x HTTP/2 {:.2}", h3 / h2);
    let [h2, h3] = bulk.each_mut().map(|samples| median(samples));
    println!("\na file of {} MiB (median of {rounds})", FILE >> 20);
    println!("HTTP/2  {h2:>10.0} MiB/s");
    println!("HTTP/3  {h3:>10.0} MiB/s  x HTTP/2 {:.2}", h3 / h2);
    Ok(())
}
