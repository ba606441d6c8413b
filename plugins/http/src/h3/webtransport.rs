//! The call protocol over a session of WebTransport.
//!
//! The session is asked for with an extended `CONNECT` (draft-ietf-webtrans-http3,
//! version 02) and lives as long as the stream of that. What a browser
//! cannot say there, each request says: its token.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use alknet_call_protocol::{ALPN, CallClient, Limits, Options};
use alknet_plugin_api::Closed;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use axum::response::IntoResponse;
use h3::error::Code;
use http_body_util::BodyExt;

use super::capsule::{self, Capsules};
use super::request::{Answer, Broken, Site};
use super::session::Session;
use crate::caller::Caller;
use crate::config::Config;
use crate::gate;
use crate::problem::Problem;
use crate::session::WithToken;

/// Where the call protocol is.
const PATH: &str = "/alknet/call";

/// Calls of one session that run, or wait because their answers are not read. The
/// node has its own, lower limit on those that run.
const CALLS: usize = 1_280;

/// What Chromium looks for in the answer.
const VERSION: (&str, &str) = ("sec-webtransport-http3-draft", "draft02");

pub(super) fn limits(config: &Config) -> Limits {
    Limits {
        max_frame: config.max_frame_bytes,
        in_flight: CALLS,
        drain: Duration::from_millis(config.drain_ms),
    }
}

/// Serves the session that `request` asks for, to its end.
pub(super) async fn serve(
    site: &Arc<Site>,
    mut request: Request<Body>,
    mut answer: Answer,
    id: u64,
) -> Result<(), Broken> {
    request.extensions_mut().insert(site.peer.clone());
    let admitted = match admit(site, &request) {
        Ok((token, caller)) => caller.authenticate().await.and_then(|()| open(site, id, token)),
        Err(problem) => Err(problem),
    };
    let (session, options) = match admitted {
        Ok(admitted) => admitted,
        Err(problem) => {
            site.sessions.close(id);
            return answer.send(problem.into_response()).await;
        }
    };
    let session = Open { site: site.clone(), session };
    let session = &session.session;
    let headers = HeaderMap::from_iter([(
        axum::http::HeaderName::from_static(VERSION.0),
        HeaderValue::from_static(VERSION.1),
    )]);
    answer.head(StatusCode::OK, headers).await?;
    let mut calls = pin!(CallClient::spawn_dispatch(session.connection(), options).1);
    let told = tokio::select! {
        // Done, as a node that drains is, or the client broke the protocol.
        () = &mut calls => None,
        told = listen(request.into_body()) => Some(told?),
    };
    if let Some(closed) = told {
        session.end(closed);
        calls.await;
        return answer.end().await;
    }
    session.end(Closed { code: Some(0), reason: "done".into() });
    answer.data(capsule::close(&session.closed().await)).await?;
    answer.end().await
}

/// Whether the session may be, and whose token its requests have.
fn admit(site: &Site, request: &Request<Body>) -> Result<(Option<String>, Caller), Problem> {
    let shared = &site.shared;
    shared.origins.check(request.uri(), request.headers())?;
    if request.uri().path() != PATH {
        return Err(Problem::no_such_path());
    }
    let token = gate::bearer(request.headers())?;
    let caller = shared.gate.caller(request)?;
    Ok((token, caller))
}

fn open(site: &Site, id: u64, token: Option<String>) -> Result<(Arc<Session>, Options), Problem> {
    let gateway = site.host.gateway(&site.connection).ok_or_else(Problem::no_such_path)?;
    let session = Session::new(site.connection.clone(), id, ALPN);
    if !site.sessions.open(&session) {
        return Err(Problem::too_many("the connection has as many sessions as it may have"));
    }
    let gateway = Arc::new(WithToken { gateway, token });
    let options = Options::new(Arc::new(site.host.clone())).serve(gateway);
    Ok((session, options.limits(site.shared.limits)))
}

/// A session that has an end, whatever becomes of the request for it.
struct Open {
    site: Arc<Site>,
    session: Arc<Session>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.session.end(Closed { code: None, reason: "the client has gone".into() });
        self.site.sessions.close(self.session.id());
    }
}

/// Waits for the client to say how the session ends.
async fn listen(mut body: Body) -> Result<Closed, Broken> {
    let mut capsules = Capsules::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Broken::Gone)?;
        let Ok(data) = frame.into_data() else { continue };
        match capsules.take(data) {
            Ok(None) => {}
            Ok(Some(closed)) => return Ok(closed),
            Err(capsule::Malformed) => return Err(Broken::Reset(Code::H3_DATAGRAM_ERROR)),
        }
    }
    Ok(Closed { code: Some(0), reason: String::new() })
}
