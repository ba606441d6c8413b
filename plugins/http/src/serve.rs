//! HTTP over a connection's stream.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::{Pin, pin};
use std::time::Duration;

use alknet_plugin_api::{prelude::*, rt};
use axum::body::Body;
use axum::http::header::ALT_SVC;
use axum::http::{HeaderValue, Request};
use axum::middleware::map_response;
use axum::response::Response;
use axum::{BoxError, Router};
use futures_util::FutureExt;
use futures_util::future;
use hyper::body::Incoming;
use hyper::rt::{Executor, Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::caller::Peer;
use crate::config::Config;
use crate::idle;
use crate::origin;
use crate::websocket::{Calls, Sockets};

/// Serves the connections of both ALPNs.
pub(crate) struct HttpHandler {
    host: Host,
    router: Router,
    calls: Calls,
    http1: http1::Builder,
    http2: http2::Builder<OnHost>,
    idle_timeout: Duration,
}

impl HttpHandler {
    pub(crate) fn new(host: Host, config: &Config, router: Router) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(config.header_timeout_ms))
            .max_buf_size(config.header_bytes);
        let mut http2 = http2::Builder::new(OnHost(host.clone()));
        let header_list = u32::try_from(config.header_bytes).unwrap_or(u32::MAX);
        http2
            .timer(TokioTimer::new())
            .enable_connect_protocol()
            .max_concurrent_streams(config.concurrent_streams)
            .max_header_list_size(header_list)
            .keep_alive_interval(Duration::from_millis(config.ping_ms))
            .keep_alive_timeout(Duration::from_millis(config.header_timeout_ms));
        let calls = Calls::new(host.clone(), config);
        let idle_timeout = Duration::from_millis(config.idle_timeout_ms);
        Self { host, router, calls, http1, http2, idle_timeout }
    }
}

impl ProtocolHandler for HttpHandler {
    async fn handle(&self, connection: Connection, _: &AuthContext) -> Result<(), HandlerError> {
        let gateway = self.host.gateway(&connection).ok_or_else(|| {
            HandlerError::internal("the deployment file does not say `gateway = true` for `http`")
        })?;
        let (send, recv) = connection.accept_bi().await?;
        let io = TokioIo::new(tokio::io::join(recv, send));
        let (peer, router) = (Peer::new(gateway), self.router.clone());
        let (sockets, serving) = Sockets::new();
        let respond = move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer.clone());
            request.extensions_mut().insert(sockets.clone());
            origin::answer(router.clone(), request).map(Ok::<_, Infallible>)
        };
        let served = async {
            match connection.alpn() {
                "h2" => {
                    let (work, idle) = idle::track(self.idle_timeout);
                    let service = service_fn(move |request: Request<Incoming>| {
                        let method = request.method().clone();
                        work.clone().count(&method, respond(request))
                    });
                    let ending = async {
                        tokio::select! {
                            () = connection.shutdown() => {}
                            () = idle => {}
                        }
                    };
                    serve(ending, self.http2.serve_connection(io, service)).await
                }
                // The time for a head is also that between requests.
                _ => {
                    let serving = self.http1.serve_connection(io, service_fn(respond));
                    serve(connection.shutdown(), serving.with_upgrades()).await
                }
            }
        };
        // The sockets outlast an HTTP/1.1 connection, which ends with its upgrade.
        let (served, ()) = future::join(served, serving.run(&self.calls, &connection)).await;
        if let Err(error) = served {
            // The client knows: it got an answer, or has gone.
            tracing::debug!(%error, connection = connection.info().id, "a connection broke off");
        }
        Ok(())
    }
}

/// How long clients may remember where HTTP/3 is, in seconds.
const REMEMBERED: u32 = 86_400;

/// Tells clients of the other versions where HTTP/3 is (RFC 7838).
pub(crate) fn with_alternative(router: Router, config: &Config) -> Router {
    let Some(port) = config.h3_port else { return router };
    let told = HeaderValue::try_from(format!("h3=\":{port}\"; ma={REMEMBERED}"));
    let Ok(told) = told else { return router };
    router.layer(map_response(move |mut response: Response| {
        response.headers_mut().insert(ALT_SVC, told.clone());
        ready(response)
    }))
}

/// Serves until the client is done. From `ending` on, what is under way ends and
/// nothing new begins.
async fn serve(
    ending: impl Future<Output = ()>,
    serving: impl HttpConnection,
) -> hyper::Result<()> {
    let mut serving = pin!(serving);
    match future::select(serving.as_mut(), pin!(ending)).await {
        future::Either::Left((ended, _)) => ended,
        future::Either::Right(((), _)) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    }
}

/// A connection that can be asked to end.
trait HttpConnection: Future<Output = hyper::Result<()>> {
    fn graceful_shutdown(self: Pin<&mut Self>);
}

impl<I, S> HttpConnection for http1::UpgradeableConnection<I, S>
where
    I: Read + Write + Unpin + Send + 'static,
    S: HttpService<Incoming, ResBody = Body>,
    S::Error: Into<BoxError>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        Self::graceful_shutdown(self);
    }
}

impl<I, S> HttpConnection for http2::Connection<I, S, OnHost>
where
    I: Read + Write + Unpin + 'static,
    S: HttpService<Incoming, ResBody = Body>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        Self::graceful_shutdown(self);
    }
}

/// Runs the requests of an HTTP/2 connection on the node's threads.
#[derive(Clone)]
struct OnHost(Host);

impl<F> Executor<F> for OnHost
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, request: F) {
        self.0.spawn(async move {
            if let Err(error) = rt::enter(request).await {
                tracing::error!(%error, "no runtime for a request");
            }
        });
    }
}
