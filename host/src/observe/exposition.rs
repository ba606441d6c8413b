//! Metrics over HTTP, for Prometheus and its like: `GET /metrics` and nothing
//! else.
//!
//! Whoever can reach the address can read it: the deployment file chooses one
//! that only the monitoring reaches.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::metrics;

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 8_192;

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Requests served at the same time.
const MAX_REQUESTS: usize = 16;

/// Binds the address at once.
///
/// # Errors
/// The address is not to be had.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Answers requests for ever.
pub async fn serve(listener: TcpListener) {
    let places = Arc::new(Semaphore::new(MAX_REQUESTS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(async move {
                let _gone = tokio::time::timeout(LIMIT, answer(stream)).await;
                drop(place);
            })),
            // Too many open files, perhaps: others may close some.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let (status, body) = match std::str::from_utf8(line).unwrap_or_default() {
        line if line.starts_with("GET /metrics ") => ("200 OK", metrics::render()),
        _ => ("404 Not Found", "metrics are at /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _refused = stream.write_all(request.as_bytes()).await;
        let mut answer = String::new();
        // What is refused may be reset before it was sent.
        let _reset = stream.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn metrics_are_served_and_nothing_else() {
        metrics::init();
        ::metrics::counter!("alknet_exposition_test_total").increment(3);
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener));
        let found = ask(address, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(found.starts_with("HTTP/1.1 200 OK\r\n"), "{found}");
        assert!(found.contains("\nalknet_exposition_test_total 3\n"), "{found}");
        for other in ["GET / HTTP/1.1\r\n\r\n", "POST /metrics HTTP/1.1\r\n\r\n"] {
            assert!(ask(address, other).await.starts_with("HTTP/1.1 404"), "{other}");
        }
        let endless = "x".repeat(3 * MAX_HEAD);
        assert_eq!(ask(address, &endless).await, "");
    }
}
