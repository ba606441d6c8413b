//! The HTTP client of all imports, and of requests for plugins: bounded answers,
//! redirects that stay at home, and errors that name the service and no secret.
//!
//! A call has no timer of its own here. Its deadline, its abort and its caller's
//! end all drop the future that waits, and that closes the request's connection
//! or resets its stream, so the service sees it.

use std::error::Error as _;
use std::time::Duration;

use alknet_plugin_api::{CallError, Json};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Request, Response, StatusCode, Url};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

use super::body::{essence, is_json, is_text};
use crate::endpoint::tls::provider;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Redirects that a request follows.
const MAX_REDIRECTS: usize = 5;
/// The most of an error's body that its details carry.
const MAX_ERROR_BODY: usize = 64 * 1024;

/// The client could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub(crate) enum ClientError {
    #[error("the system's certificate authorities cannot be used: {0}; install ca-certificates")]
    Authorities(rustls::Error),
    #[error("the TLS library refuses its own configuration: {0}")]
    Tls(rustls::Error),
    #[error("the HTTP client cannot be set up: {0}")]
    Client(reqwest::Error),
}

/// A client for one import's service. Clones share its connections.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient {
    client: Client,
    /// Bytes of the largest answer.
    max_response: usize,
}

impl HttpClient {
    /// A client that takes answers of up to `max_response` bytes. It believes
    /// `authorities` about services, or else the system's.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub(crate) fn new(
        max_response: usize,
        authorities: Option<RootCertStore>,
    ) -> Result<Self, ClientError> {
        Ok(Self { client: client(same_origin(), authorities)?, max_response })
    }

    /// The same connections with another limit.
    pub(super) fn with_max_response(&self, max_response: usize) -> Self {
        Self { client: self.client.clone(), max_response }
    }

    /// The client underneath.
    pub(super) fn inner(&self) -> &Client {
        &self.client
    }

    /// Bytes of the largest answer, or event of a stream.
    pub(super) fn max_response(&self) -> usize {
        self.max_response
    }

    /// Sends a request and waits for the answer's head.
    ///
    /// # Errors
    /// `INTERNAL`, retryable, when the service cannot be reached.
    pub(super) async fn send(&self, request: Request) -> Result<Response, CallError> {
        let service = service(request.url());
        self.client.execute(request).await.map_err(|error| lost(&service, &error))
    }

    /// The whole body of an answer.
    ///
    /// # Errors
    /// `INTERNAL`: the body is over the limit, or the connection broke.
    pub(super) async fn body(&self, response: Response) -> Result<Bytes, CallError> {
        let service = service(response.url());
        body(response, self.max_response).await?.ok_or_else(|| {
            CallError::internal(format!(
                "{service} answered with more than the import's limit of {} bytes; raise \
                 `max_response`",
                self.max_response
            ))
        })
    }

    /// What a call gets for an answer.
    ///
    /// # Errors
    /// `HTTP_<status>` unless the answer is a success; `INTERNAL` for a body that
    /// is too large, cut short, or not the JSON that it claims to be.
    pub(super) async fn answer(&self, response: Response) -> Result<Json, CallError> {
        if !response.status().is_success() {
            return Err(self.failure(response).await);
        }
        let service = service(response.url());
        let media_type = media_type(response.headers());
        let body = self.body(response).await?;
        value(media_type.as_deref(), body).map_err(|cause| {
            CallError::internal(format!("{service} answered with invalid JSON: {cause}"))
        })
    }

    /// The error that an answer other than a success is to its caller.
    pub(super) async fn failure(&self, response: Response) -> CallError {
        let (status, headers) = (response.status(), response.headers().clone());
        let service = service(response.url());
        let body = match self.body(response).await {
            Ok(body) if body.len() <= MAX_ERROR_BODY => error_body(&headers, body),
            // Nobody needs the whole of it to know what went wrong.
            Ok(_) | Err(_) => None,
        };
        failure(&service, status, &headers, body)
    }
}

/// A client that believes `authorities` about services, or else the system's, and
/// takes nothing else from the environment.
///
/// # Errors
/// See [`ClientError`].
pub(crate) fn client(
    redirects: Policy,
    authorities: Option<RootCertStore>,
) -> Result<Client, ClientError> {
    let provider = provider();
    let tls = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(ClientError::Tls)?;
    let tls = match authorities {
        Some(authorities) => tls.with_root_certificates(authorities),
        None => {
            let system = rustls_platform_verifier::Verifier::new(provider)
                .map_err(ClientError::Authorities)?;
            tls.dangerous().with_custom_certificate_verifier(std::sync::Arc::new(system))
        }
    };
    let tls = tls.with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("alknet/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(redirects)
        // A proxy of the environment's would see every credential.
        .no_proxy()
        .build()
        .map_err(ClientError::Client)
}

/// The whole body of an answer; `None` if it is over `limit` bytes.
///
/// # Errors
/// `INTERNAL`, retryable: the connection broke.
pub(crate) async fn body(mut response: Response, limit: usize) -> Result<Option<Bytes>, CallError> {
    let service = service(response.url());
    if response.content_length().is_some_and(|announced| announced > limit as u64) {
        return Ok(None);
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| lost(&service, &error))? {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}

/// Redirects within the origin that was asked are followed. Anything else could
/// take a request, with what it holds, where nobody meant it to go.
fn same_origin() -> Policy {
    Policy::custom(|attempt| {
        let asked = attempt.previous().first().map(Url::origin);
        if asked != Some(attempt.url().origin()) {
            return attempt.stop();
        }
        if attempt.previous().len() > MAX_REDIRECTS {
            return attempt.error("too many redirects");
        }
        attempt.follow()
    })
}

/// A service as messages name it: without path and query, which may hold what
/// callers sent.
pub(crate) fn service(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// What an error comes from. Its own text would show the whole URL.
pub(super) fn cause(error: &reqwest::Error) -> String {
    let mut cause = "no reason given".to_owned();
    let mut source = error.source();
    while let Some(error) = source {
        cause = error.to_string();
        source = error.source();
    }
    cause
}

/// The error of a request that got no answer, or half of one.
pub(crate) fn lost(service: &str, error: &reqwest::Error) -> CallError {
    let cause = cause(error);
    let message = if error.is_redirect() {
        format!("{service} redirects without end")
    } else if error.is_connect() && error.is_timeout() {
        format!("{service} cannot be reached in {} s", CONNECT_TIMEOUT.as_secs())
    } else if error.is_connect() {
        format!("{service} cannot be reached: {cause}")
    } else if error.is_timeout() {
        format!("{service} did not answer in time")
    } else {
        format!("the connection to {service} broke: {cause}")
    };
    CallError::internal(message).retryable(true)
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(essence(value))
}

/// Whether an answer is a stream of events.
pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    media_type(headers).as_deref() == Some("text/event-stream")
}

/// A body as JSON: JSON as it is, text as a string, anything else as a string of
/// base64, and nothing as null.
fn value(media_type: Option<&str>, body: Bytes) -> Result<Json, String> {
    if body.is_empty() {
        return Ok(Json::null());
    }
    match media_type {
        Some(media_type) if is_json(media_type) => {
            Json::parse(body).map_err(|error| error.to_string())
        }
        None => Ok(Json::parse(body.clone()).unwrap_or_else(|_| text(true, &body))),
        Some(media_type) => Ok(text(is_text(media_type), &body)),
    }
}

fn text(is_text: bool, body: &[u8]) -> Json {
    let text = match std::str::from_utf8(body) {
        Ok(text) if is_text => text.to_owned(),
        _ => BASE64_STANDARD.encode(body),
    };
    Value::String(text).into()
}

fn error_body(headers: &HeaderMap, body: Bytes) -> Option<Json> {
    if body.is_empty() {
        return None;
    }
    let media_type = media_type(headers);
    // An error whose body is not what it claims to be is still that error.
    value(media_type.as_deref(), body.clone()).ok().or_else(|| Some(text(true, &body)))
}

/// An answer's status as an error. Its details are `{status, body?,
/// retry_after?, location?}`.
fn failure(
    service: &str,
    status: StatusCode,
    headers: &HeaderMap,
    body: Option<Json>,
) -> CallError {
    let mut details = json!({ "status": status.as_u16() });
    if let Some(wait) = retry_after(headers) {
        details["retry_after"] = json!(wait);
    }
    let mut message = format!("{service} answered {status}");
    if status.is_redirection()
        && let Some(location) = headers.get(LOCATION).and_then(|value| value.to_str().ok())
    {
        details["location"] = json!(location);
        message.push_str("; redirects to another origin are not followed");
    }
    if let Some(body) = body {
        // A body that nests too deep to be looked at is not passed on.
        details["body"] = body.to().unwrap_or(Value::Null);
    }
    CallError::new(format!("HTTP_{}", status.as_u16()), message)
        .retryable(matches!(status.as_u16(), 429 | 502 | 503 | 504))
        .with_details(details)
}

/// The seconds that a service asks to wait. Services write seconds; a date is
/// left to whoever knows the service's clock.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_body_is_json_text_base64_or_nothing() {
        let value = |media_type: Option<&str>, body: &'static [u8]| {
            value(media_type, Bytes::from_static(body)).map(|json| json.to_string())
        };
        assert_eq!(value(Some("application/json"), b"{\"a\":1.0}").unwrap(), "{\"a\":1.0}");
        assert_eq!(value(Some("application/problem+json"), b"[]").unwrap(), "[]");
        assert_eq!(value(Some("text/plain"), b"a \"b\"").unwrap(), "\"a \\\"b\\\"\"");
        assert_eq!(value(Some("text/plain"), b"\xff").unwrap(), "\"/w==\"");
        assert_eq!(value(Some("image/png"), b"hi").unwrap(), "\"aGk=\"");
        assert_eq!(value(None, b"{}").unwrap(), "{}");
        assert_eq!(value(None, b"hi").unwrap(), "\"hi\"");
        assert_eq!(value(Some("application/json"), b"").unwrap(), "null");
        assert!(value(Some("application/json"), b"<html>").is_err());
    }

    #[test]
    fn a_status_says_whether_and_when_to_try_again() {
        let failure = |status: u16, pairs: &[(&'static str, &'static str)]| {
            failure("http://x", StatusCode::from_u16(status).unwrap(), &headers(pairs), None)
        };
        let details = |error: &CallError| error.details.as_ref().unwrap().to::<Value>().unwrap();
        for (status, retryable) in
            [(404, false), (429, true), (500, false), (502, true), (503, true), (504, true)]
        {
            let error = failure(status, &[("retry-after", "7")]);
            assert_eq!((&*error.code, error.retryable), (&*format!("HTTP_{status}"), retryable));
            assert_eq!(details(&error), json!({"status": status, "retry_after": 7}));
        }
        let error = failure(302, &[("location", "http://elsewhere/")]);
        assert_eq!(details(&error)["location"], "http://elsewhere/");
        assert!(error.message.contains("not followed"), "{error}");
    }
}
