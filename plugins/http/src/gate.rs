//! What every request to the gateway passes: whose it is, and its body.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, FromRequest, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use serde::de::DeserializeOwned;

use crate::caller::{Caller, Kinds, Peer};
use crate::config::Config;
use crate::origin::Origins;
use crate::problem::Problem;

/// Milliseconds that a call may take; without it, the node's default.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("alknet-timeout-ms");

/// How long, and for how many bytes, a refused request is still read.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// The gate before the gateway's endpoints.
#[derive(Clone)]
pub(crate) struct Gate {
    origins: Origins,
    kinds: Arc<Kinds>,
    body_bytes: usize,
    body_timeout: Duration,
}

impl Gate {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            origins: Origins::new(config),
            kinds: Arc::default(),
            body_bytes: config.body_bytes,
            body_timeout: Duration::from_millis(config.body_timeout_ms),
        }
    }

    /// The same, but reached by the machine's own names alone unless others are
    /// named.
    pub(crate) fn or_loopback(mut self) -> Self {
        self.origins = self.origins.or_loopback();
        self
    }

    /// The types of operations that requests have shown.
    pub(crate) fn kinds(&self) -> Arc<Kinds> {
        self.kinds.clone()
    }

    /// Who sent the request.
    pub(crate) fn caller(&self, request: &Request) -> Result<Caller, Problem> {
        let headers = request.headers();
        let peer = request.extensions().get::<Peer>().cloned().ok_or_else(Problem::no_such_path)?;
        Ok(Caller::new(peer, self.kinds.clone(), bearer(headers)?, timeout(headers)?))
    }

    /// The body, which has come as a whole before anything happens.
    async fn body(&self, body: &mut Body) -> Result<Bytes, Problem> {
        let too_large = || Problem::too_large(self.body_bytes);
        if body.size_hint().lower() > self.body_bytes as u64 {
            return Err(too_large());
        }
        let body = Limited::new(body, self.body_bytes).collect();
        match tokio::time::timeout(self.body_timeout, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(error)) => Err(Problem::bad_request(format!("the body breaks off: {error}"))),
            Err(_) => Err(Problem::too_slow(self.body_timeout)),
        }
    }
}

/// Lets a request in with its [`Caller`] and its whole body, if it comes from where it
/// may.
pub(crate) async fn enter(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let allowed = gate.origins.check(request.uri(), request.headers());
    let caller = allowed.and_then(|()| gate.caller(&request));
    let (mut parts, mut body) = request.into_parts();
    let entered = match caller {
        Ok(caller) => gate.body(&mut body).await.map(|whole| (caller, whole)),
        Err(problem) => Err(problem),
    };
    let mut response = match entered {
        Ok((caller, whole)) => {
            parts.extensions.insert(caller);
            next.run(Request::from_parts(parts, Body::from(whole))).await
        }
        Err(problem) => refuse(problem, body).await,
    };
    // Answers are this caller's alone.
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Answers without having read the whole body. What the client still sends is read
/// for a while, since one that is sending may not see an answer that comes earlier.
pub(crate) async fn refuse(problem: Problem, mut unread: Body) -> Response {
    let rest = async {
        let mut bytes = 0;
        while bytes < LINGER_BYTES
            && let Some(Ok(frame)) = unread.frame().await
        {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    let _unless_slow = tokio::time::timeout(LINGER, rest).await;
    problem.into_response()
}

/// Lets a request with a token in only if that stands for somebody.
pub(crate) async fn authenticate(
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    match caller.authenticate().await {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// The token of `Authorization: Bearer`.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::invalid_token("there is more than one header `authorization`"));
    }
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        let token = token.trim_matches(' ');
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
    });
    let expected = "the header `authorization` must be `Bearer` and a token";
    token.map(Some).ok_or_else(|| Problem::invalid_token(expected))
}

fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let milliseconds = value.to_str().ok().and_then(|text| text.parse().ok());
    let malformed = || Problem::malformed(format!("the header `{TIMEOUT}` is no number"));
    milliseconds.map(|ms| Some(Duration::from_millis(ms))).ok_or_else(malformed)
}

/// A body of JSON.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::media_type());
        }
        let body = request.into_body().collect().await;
        let body = body.map_err(|error| Problem::malformed(error.to_string()))?.to_bytes();
        let json = serde_json::from_slice(&body);
        json.map(Self).map_err(|error| Problem::malformed(format!("the body: {error}")))
    }
}

/// Whether the body is said to be JSON. A page of another origin can send this
/// type only after it has asked whether it may.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next()).unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_token_is_taken_from_one_header_of_its_scheme_alone() {
        assert_eq!(bearer(&headers(&[])).unwrap(), None);
        for good in ["Bearer alk_x", "bearer alk_x", "BEARER  alk_x "] {
            assert_eq!(bearer(&headers(&[good])).unwrap().as_deref(), Some("alk_x"), "{good}");
        }
        for bad in ["Basic dTpw", "Bearer", "Bearer ", "alk_x", ""] {
            assert!(bearer(&headers(&[bad])).is_err(), "{bad}");
        }
        assert!(bearer(&headers(&["Bearer a", "Bearer b"])).is_err());
    }
}
