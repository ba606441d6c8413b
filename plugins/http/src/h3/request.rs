//! One request, from its head to the last byte of its answer.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use alknet_plugin_api::{Connection, Host};
use axum::Router;
use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING, UPGRADE};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use bytes::Bytes;
use futures_util::future::{Either, select};
use h3::error::{Code, StreamError};
use h3::ext::Protocol;
use h3::server::{RequestResolver, RequestStream};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;

use super::body::RequestBody;
use super::quic::{Outgoing, Quic, Send};
use super::sessions::Sessions;
use super::webtransport;
use crate::caller::Peer;
use crate::config::Config;
use crate::gate::Gate;
use crate::origin::{self, Origins};

/// What all requests of one connection have in common.
pub(super) struct Site {
    pub(super) host: Host,
    pub(super) connection: Connection,
    pub(super) sessions: Arc<Sessions>,
    pub(super) peer: Peer,
    pub(super) router: Router,
    pub(super) shared: Arc<Shared>,
    /// Requests that may run at a time.
    pub(super) places: Semaphore,
}

/// What all connections have in common.
pub(super) struct Shared {
    pub(super) head_timeout: Duration,
    pub(super) head_bytes: usize,
    pub(super) concurrent: usize,
    pub(super) gate: Gate,
    pub(super) origins: Origins,
    pub(super) limits: alknet_call_protocol::Limits,
}

impl Shared {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            head_timeout: Duration::from_millis(config.header_timeout_ms),
            head_bytes: config.header_bytes,
            concurrent: config.concurrent_streams as usize,
            gate: Gate::new(config),
            origins: Origins::new(config),
            limits: webtransport::limits(config),
        }
    }
}

/// Why a request came to no proper end.
pub(super) enum Broken {
    /// The client gave it up, or is gone.
    Gone,
    /// It is given up with this code.
    Reset(Code),
}

impl From<StreamError> for Broken {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::StreamError { code, .. } => Self::Reset(code),
            StreamError::RemoteTerminate { .. } | StreamError::ConnectionError { .. } => Self::Gone,
            // What this plugin's own side of h3 refuses.
            StreamError::Undefined { .. } => Self::Reset(Code::H3_EXCESSIVE_LOAD),
            _ => Self::Reset(Code::H3_INTERNAL_ERROR),
        }
    }
}

/// Serves one stream. A client that resets it, or that goes away, ends what it has
/// begun.
pub(super) async fn serve(
    site: Arc<Site>,
    resolver: RequestResolver<Quic, Bytes>,
    outgoing: Outgoing,
) {
    let served = unless_gone(&outgoing, exchange(&site, resolver, &outgoing));
    match served.await {
        Ok(()) => {
            outgoing.finish();
            // A connection that closes before the client has everything takes it away.
            let _has_it = outgoing.stopped().await;
        }
        Err(Broken::Gone) => outgoing.reset(Code::H3_REQUEST_CANCELLED),
        Err(Broken::Reset(code)) => outgoing.reset(code),
    }
}

/// Goes on until the client no longer wants to know.
async fn unless_gone(
    outgoing: &Outgoing,
    work: impl Future<Output = Result<(), Broken>>,
) -> Result<(), Broken> {
    match select(pin!(work), pin!(outgoing.stopped())).await {
        Either::Left((result, _)) => result,
        // Finished, and all there: what remains of the work is its end.
        Either::Right((Ok(None), work)) => work.await,
        Either::Right((Ok(Some(_)) | Err(_), _)) => Err(Broken::Gone),
    }
}

async fn exchange(
    site: &Arc<Site>,
    resolver: RequestResolver<Quic, Bytes>,
    outgoing: &Outgoing,
) -> Result<(), Broken> {
    let head = tokio::time::timeout(site.shared.head_timeout, resolver.resolve_request()).await;
    let (request, stream) = match head {
        Ok(Ok(head)) => head,
        // h3 has answered with 431.
        Ok(Err(StreamError::HeaderTooBig { .. })) => return Ok(()),
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => return Err(Broken::Reset(Code::H3_REQUEST_INCOMPLETE)),
    };
    let (sender, receiver) = stream.split();
    let (parts, ()) = request.into_parts();
    let body = RequestBody::new(receiver, &parts.headers)
        .map_err(|_| Broken::Reset(Code::H3_MESSAGE_ERROR))?;
    let mut request = Request::from_parts(parts, Body::new(body));
    let protocol = request.extensions().get::<Protocol>().copied();
    if request.method() == Method::CONNECT && protocol == Some(Protocol::WEB_TRANSPORT) {
        return webtransport::serve(site, request, Answer(sender), outgoing.id()).await;
    }
    let _place = site.places.acquire().await.map_err(|_| Broken::Gone)?;
    request.extensions_mut().insert(site.peer.clone());
    let response = origin::answer(site.router.clone(), request).await;
    Answer(sender).send(response).await
}

/// The way back.
pub(super) struct Answer(RequestStream<Send, Bytes>);

impl Answer {
    /// Sends the whole of a response.
    pub(super) async fn send(mut self, response: Response<Body>) -> Result<(), Broken> {
        let (parts, mut body) = response.into_parts();
        self.head(parts.status, parts.headers).await?;
        while let Some(frame) = body.frame().await {
            // What is behind the body has said what happened.
            let frame = frame.map_err(|_| Broken::Reset(Code::H3_INTERNAL_ERROR))?;
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => self.data(data).await?,
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.0.send_trailers(trailers).await?;
                    }
                }
            }
        }
        self.end().await
    }

    /// Sends a status and headers; the body is to follow.
    pub(super) async fn head(
        &mut self,
        status: StatusCode,
        mut headers: HeaderMap,
    ) -> Result<(), Broken> {
        for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
            headers.remove(name);
        }
        let now = httpdate::fmt_http_date(SystemTime::now());
        if let Ok(now) = HeaderValue::try_from(now) {
            headers.entry(DATE).or_insert(now);
        }
        if status.is_informational() || status == StatusCode::NO_CONTENT {
            headers.remove(CONTENT_LENGTH);
        }
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = headers;
        Ok(self.0.send_response(head).await?)
    }

    /// Sends a part of the body.
    pub(super) async fn data(&mut self, data: Bytes) -> Result<(), Broken> {
        Ok(self.0.send_data(data).await?)
    }

    /// Ends the body.
    pub(super) async fn end(&mut self) -> Result<(), Broken> {
        Ok(self.0.finish().await?)
    }
}
