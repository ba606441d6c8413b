//! The call protocol over WebSocket, at `/alknet/call`.
//!
//! The upgrade is a request like others, with an origin and a token; what follows
//! is the call protocol's, over a socket in the place of a connection. The sockets
//! of a connection are served by its handler, so that they end with it.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alknet_call_protocol::frame::MAX_MAX_FRAME;
use alknet_call_protocol::websocket::{SUBPROTOCOL, TOKEN_SUBPROTOCOL, WebSocket};
use alknet_call_protocol::{ALPN, CallClient, Limits, Options};
use alknet_plugin_api::{CallError, Connection, ConnectionInfo, Gateway, Host, Source, code};
use axum::extract::{Extension, Request, State};
use axum::http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, join};
use futures_util::stream::FuturesUnordered;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::caller::{Caller, Kinds, Peer};
use crate::config::Config;
use crate::gate;
use crate::problem::Problem;
use crate::session::WithToken;

/// Sockets on one connection: over HTTP/1.1 there is one, and over HTTP/2 each has
/// as many calls as a connection.
const MAX_SOCKETS: usize = 16;

/// Calls of one socket that may run, or wait for their answers to be read. The
/// node has its own, lower limit on those that run.
const MAX_CALLS: usize = 1280;

/// An upgrade that was granted.
struct Granted {
    upgrade: OnUpgrade,
    token: String,
    _place: Place,
}

/// A socket's place among those of its connection.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a connection's requests leave the sockets that they become.
#[derive(Clone)]
pub(crate) struct Sockets {
    granted: UnboundedSender<Granted>,
    open: Arc<AtomicUsize>,
}

impl Sockets {
    pub(crate) fn new() -> (Self, Serving) {
        let (granted, serving) = mpsc::unbounded_channel();
        (Self { granted, open: Arc::default() }, Serving(serving))
    }

    fn place(&self) -> Option<Place> {
        let place = Place(self.open.clone());
        (self.open.fetch_add(1, Ordering::Relaxed) < MAX_SOCKETS).then_some(place)
    }
}

/// The sockets of one connection.
pub(crate) struct Serving(UnboundedReceiver<Granted>);

impl Serving {
    /// Serves them until there are none and no request can become one.
    pub(crate) async fn run(mut self, calls: &Calls, connection: &Connection) {
        // The set wakes itself whenever it has polled all that it holds, so it holds one
        // that it has no reason to poll.
        let none: BoxFuture<'_, ()> = Box::pin(pending());
        let mut sockets = FuturesUnordered::from_iter([none]);
        loop {
            tokio::select! {
                granted = self.0.recv() => match granted {
                    Some(granted) => sockets.push(Box::pin(calls.serve(connection, granted))),
                    None => break,
                },
                Some(()) = sockets.next() => {}
            }
        }
        while sockets.len() > 1 {
            sockets.next().await;
        }
    }
}

/// How sockets are served.
pub(crate) struct Calls {
    host: Host,
    limits: Limits,
    silence: Duration,
}

impl Calls {
    pub(crate) fn new(host: Host, config: &Config) -> Self {
        let limits = Limits {
            max_frame: config.max_frame_bytes.min(MAX_MAX_FRAME),
            in_flight: MAX_CALLS,
            drain: Duration::from_millis(config.drain_ms),
        };
        Self { host, limits, silence: Duration::from_millis(config.silence_ms) }
    }

    async fn serve(&self, connection: &Connection, granted: Granted) {
        let Granted { upgrade, token, _place } = granted;
        let stream = match upgrade.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => {
                tracing::debug!(%error, "an upgrade broke off");
                return;
            }
        };
        // A gateway of its own: ids are the socket's.
        let Some(gateway) = self.host.gateway(connection) else { return };
        let gateway = Arc::new(WithToken { gateway, token: Some(token) });
        self.carry(connection, stream, gateway).await;
    }

    async fn carry<S>(&self, connection: &Connection, stream: S, gateway: Arc<dyn Gateway>)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let timer = Arc::new(self.host.clone());
        let draining = connection.clone();
        let info = ConnectionInfo {
            source: Source::Nested,
            alpn: ALPN.to_owned(),
            ..connection.info().clone()
        };
        let socket = WebSocket::server(info, timer.clone())
            .max_frame(self.limits.max_frame)
            .silence(self.silence)
            .shutdown(move || {
                let draining = draining.clone();
                async move { draining.shutdown().await }
            });
        let (connection, socket) = socket.open(stream).await;
        let options = Options::new(timer).serve(gateway).limits(self.limits);
        let (calls, driver) = CallClient::spawn_dispatch(connection, options);
        // Nobody calls the other side; the driver alone holds the connection then.
        drop(calls);
        join(driver, socket).await;
    }
}

/// What an upgrade asks for.
struct Wanted {
    /// The header that HTTP/1.1 has an answer to.
    key: Option<String>,
    subprotocol: Option<HeaderValue>,
    token: Option<String>,
}

/// Turns a request into a socket.
pub(crate) async fn upgrade(
    State(kinds): State<Arc<Kinds>>,
    Extension(peer): Extension<Peer>,
    Extension(sockets): Extension<Sockets>,
    mut request: Request,
) -> Result<Response, Problem> {
    let Wanted { key, subprotocol, token } = Wanted::of(&request)?;
    let missing = || CallError::new(code::FORBIDDEN, "a WebSocket needs a token");
    let token = token.ok_or_else(|| Problem::unauthenticated(missing()))?;
    Caller::new(peer, kinds, Some(token.clone()), None).authenticate().await?;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or_else(|| Problem::upgrade(request.version()))?;
    let place = sockets.place().ok_or_else(|| {
        let text = format!("the connection has {MAX_SOCKETS} sockets; close one, or open another");
        Problem::of_call(
            StatusCode::TOO_MANY_REQUESTS,
            CallError::new(code::RESOURCE_EXHAUSTED, text).retryable(true),
        )
    })?;
    let mut response = match key {
        Some(key) => {
            let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()));
            let accept = accept.map_err(|error| Problem::malformed(error.to_string()))?;
            let upgrade = [
                (CONNECTION, HeaderValue::from_static("upgrade")),
                (UPGRADE, HeaderValue::from_static("websocket")),
                (SEC_WEBSOCKET_ACCEPT, accept),
            ];
            (StatusCode::SWITCHING_PROTOCOLS, upgrade).into_response()
        }
        None => StatusCode::OK.into_response(),
    };
    if let Some(name) = subprotocol {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, name);
    }
    // Nobody is there to serve it only where the connection has gone.
    let _ = sockets.granted.send(Granted { upgrade, token, _place: place });
    Ok(response)
}

impl Wanted {
    fn of(request: &Request) -> Result<Self, Problem> {
        let headers = request.headers();
        let version = request.version();
        let key = if version == Version::HTTP_2 {
            // RFC 8441.
            let protocol = request.extensions().get::<Protocol>().map(Protocol::as_str);
            if request.method() != Method::CONNECT || protocol != Some("websocket") {
                return Err(Problem::upgrade(version));
            }
            None
        } else {
            let asked = request.method() == Method::GET
                && has(headers, &CONNECTION, "upgrade")
                && has(headers, &UPGRADE, "websocket");
            if !asked {
                return Err(Problem::upgrade(version));
            }
            let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
            let key = key.ok_or_else(|| Problem::malformed("`sec-websocket-key` is missing"))?;
            Some(key.to_owned())
        };
        if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(Problem::upgrade(version));
        }
        let (subprotocol, hidden) = subprotocols(headers)?;
        let token = match (gate::bearer(headers)?, hidden) {
            (Some(_), Some(_)) => {
                return Err(Problem::invalid_token("a token came twice; send it once"));
            }
            (shown, hidden) => shown.or(hidden),
        };
        Ok(Self { key, subprotocol, token })
    }
}

/// The elements of a header that is a list.
fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

fn has(headers: &HeaderMap, name: &HeaderName, element: &str) -> bool {
    elements(headers, name).any(|one| one.eq_ignore_ascii_case(element))
}

/// The subprotocol to answer with, and the token that is hidden among those asked
/// for.
fn subprotocols(headers: &HeaderMap) -> Result<(Option<HeaderValue>, Option<String>), Problem> {
    let (mut named, mut others, mut token) = (false, false, None);
    for one in elements(headers, &SEC_WEBSOCKET_PROTOCOL) {
        let Some(text) = one.strip_prefix(TOKEN_SUBPROTOCOL) else {
            named |= one == SUBPROTOCOL;
            others |= one != SUBPROTOCOL;
            continue;
        };
        let text = BASE64_URL_SAFE_NO_PAD.decode(text).ok().map(String::from_utf8);
        let Some(Ok(text)) = text else {
            return Err(Problem::invalid_token(format!(
                "what follows `{TOKEN_SUBPROTOCOL}` must be the token in base64url"
            )));
        };
        if token.replace(text).is_some() {
            return Err(Problem::invalid_token("a token came twice; send it once"));
        }
    }
    // A browser takes an answer without a subprotocol for a refusal.
    if (others || token.is_some()) && !named {
        return Err(Problem::malformed(format!(
            "the subprotocols must have `{SUBPROTOCOL}` among them"
        )));
    }
    Ok((named.then(|| HeaderValue::from_static(SUBPROTOCOL)), token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(values: &[&str]) -> Result<(bool, Option<String>), StatusCode> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(value).unwrap());
        }
        let asked = subprotocols(&headers).map(|(name, token)| (name.is_some(), token));
        asked.map_err(|problem| problem.into_response().status())
    }

    #[test]
    fn c04_a_token_may_come_as_a_subprotocol() {
        let token = Some("alk_x".to_owned());
        assert_eq!(asked(&[]), Ok((false, None)));
        assert_eq!(asked(&["alknet.call"]), Ok((true, None)));
        assert_eq!(asked(&["alknet.call, alknet.bearer.YWxrX3g"]), Ok((true, token.clone())));
        assert_eq!(asked(&["alknet.bearer.YWxrX3g", "x,alknet.call"]), Ok((true, token)));
        for bad in ["alknet.call, alknet.bearer.YWxrX3g=", "alknet.call, alknet.bearer.%"] {
            assert_eq!(asked(&[bad]), Err(StatusCode::UNAUTHORIZED), "{bad}");
        }
        let twice = ["alknet.call, alknet.bearer.YQ, alknet.bearer.Yg"];
        assert_eq!(asked(&twice), Err(StatusCode::UNAUTHORIZED));
        for other in ["graphql-ws", "alknet.bearer.YWxrX3g"] {
            assert_eq!(asked(&[other]), Err(StatusCode::UNPROCESSABLE_ENTITY), "{other}");
        }
    }
}
