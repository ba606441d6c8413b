//! A few answers over HTTP/1.1: the node's metrics, and the tokens that an ACME
//! server asks for. One request a connection, and nothing but `GET`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 8 << 10;

/// How long one request may take, from the connection to the answer's last byte.
const LIMIT: Duration = Duration::from_secs(5);

/// Requests served at the same time on one listener. Others wait.
const MAX_REQUESTS: usize = 16;

/// What is found at a path.
pub(crate) struct Found {
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

/// Answers requests for ever, with what `find` finds at their path, or 404.
pub(crate) async fn serve<F>(listener: &TcpListener, find: F)
where
    F: Fn(&str) -> Option<Found> + Clone + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_REQUESTS));
    // The semaphore is never closed.
    while let Ok(place) = places.clone().acquire_owned().await {
        let Ok((stream, peer)) = listener.accept().await else {
            // Too many open files, perhaps: others may close some.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let find = find.clone();
        tokio::spawn(async move {
            let answered = tokio::time::timeout(LIMIT, answer(stream, find)).await;
            tracing::debug!(%peer, ?answered, "a request over HTTP");
            drop(place);
        });
    }
}

async fn answer<F>(stream: TcpStream, find: F) -> hyper::Result<()>
where
    F: Fn(&str) -> Option<Found>,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let found = match *request.method() {
            Method::GET => find(request.uri().path()),
            _ => None,
        };
        std::future::ready(Ok::<_, Infallible>(response(found)))
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn response(found: Option<Found>) -> Response<String> {
    let mut response = Response::new(String::new());
    match found {
        Some(Found { content_type, body }) => {
            *response.body_mut() = body;
            let value = hyper::header::HeaderValue::from_static(content_type);
            response.headers_mut().insert(CONTENT_TYPE, value);
        }
        None => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_there_is_served_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let find = |path: &str| {
                (path == "/there").then(|| Found { content_type: "text/plain", body: "hi".into() })
            };
            serve(&listener, find).await;
        });
        let ask = async |request: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let _refused = stream.write_all(request.as_bytes()).await;
            let mut answer = String::new();
            // What is refused may be reset before it was sent.
            let _reset = stream.read_to_string(&mut answer).await;
            answer
        };
        let found = ask("GET /there HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(found.starts_with("HTTP/1.1 200 OK\r\n"), "{found}");
        assert!(found.contains("content-type: text/plain\r\n"), "{found}");
        assert!(found.ends_with("\r\n\r\nhi"), "{found}");
        for (request, status) in [
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", 404),
            ("POST /there HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", 404),
            ("garbage\r\n\r\n", 400),
        ] {
            let answer = ask(request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        }
        let endless = format!("GET /there HTTP/1.1\r\nx: {}", "x".repeat(3 * MAX_HEAD));
        let answer = ask(&endless).await;
        assert!(!answer.contains("200"), "{answer}");
        server.abort();
    }
}
