//! Errors as RFC 9457 problem documents.

use std::borrow::Cow;
use std::time::Duration;

use alknet_plugin_api::{CallError, Json, code};
use axum::http::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use axum::http::{HeaderValue, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::ser::SerializeStruct;

/// Why a request has no other answer. Programs decide by `code`, as callers of
/// the call protocol do; `detail` is for people.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    error: Box<CallError>,
    challenge: Option<&'static str>,
    allow: Option<&'static str>,
    upgrade: bool,
}

/// What a 401 asks for: nothing came, or what came is no token.
const ASK: &str = "Bearer realm=\"alknet\"";
const INVALID: &str = "Bearer realm=\"alknet\", error=\"invalid_token\"";

impl Problem {
    /// An error of a call, with the status that it is shown as.
    pub(crate) fn of_call(status: StatusCode, error: CallError) -> Self {
        Self { status, error: Box::new(error), challenge: None, allow: None, upgrade: false }
    }

    fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        Self::of_call(status, CallError::new(code, detail))
    }

    /// The caller is nobody; a token may help.
    pub(crate) fn unauthenticated(error: CallError) -> Self {
        let challenge = Some(ASK);
        Self { challenge, ..Self::of_call(StatusCode::UNAUTHORIZED, error) }
    }

    /// The token does not stand for anybody.
    pub(crate) fn invalid_token(detail: impl Into<String>) -> Self {
        let challenge = Some(INVALID);
        Self { challenge, ..Self::new(StatusCode::UNAUTHORIZED, code::FORBIDDEN, detail) }
    }

    /// The request is not what the endpoint takes.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code::INVALID_INPUT, detail)
    }

    /// The request is not HTTP as it should be: it breaks off, or its sender may mean
    /// another one.
    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code::INVALID_INPUT, detail)
    }

    /// Nothing is at this path.
    pub(crate) fn no_such_path() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            code::NOT_FOUND,
            "nothing is served at this path; /openapi.json describes what is",
        )
    }

    /// The path takes other methods.
    pub(crate) fn method(allow: Option<&'static str>) -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self { allow, ..Self::new(status, code::INVALID_INPUT, "the path takes other methods") }
    }

    /// The path is for WebSockets alone.
    pub(crate) fn upgrade(version: Version) -> Self {
        let detail = "the path is for WebSockets (RFC 6455, version 13; over HTTP/2, RFC 8441)";
        // HTTP/2 has no such header.
        let upgrade = version < Version::HTTP_2;
        let status = StatusCode::UPGRADE_REQUIRED;
        Self { upgrade, ..Self::new(status, code::INVALID_INPUT, detail) }
    }

    /// The body is not said to be JSON.
    pub(crate) fn media_type() -> Self {
        let detail = "the body must be JSON, and its header `content-type: application/json`";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, code::INVALID_INPUT, detail)
    }

    /// The body is larger than the node takes.
    pub(crate) fn too_large(limit: usize) -> Self {
        let detail = format!("the body has more than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, code::INVALID_INPUT, detail)
    }

    /// The body took too long.
    pub(crate) fn too_slow(limit: Duration) -> Self {
        let detail = format!("the body did not come within {} ms", limit.as_millis());
        Self::new(StatusCode::REQUEST_TIMEOUT, code::TIMEOUT, detail)
    }

    /// There is no room for one more.
    pub(crate) fn too_many(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, code::RESOURCE_EXHAUSTED, detail)
    }

    /// The page that made the request is not to use the node.
    pub(crate) fn origin(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code::FORBIDDEN, detail)
    }

    /// The node has another name.
    pub(crate) fn misdirected(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::MISDIRECTED_REQUEST, code::NOT_FOUND, detail)
    }

    fn retry_after(&self) -> Option<u64> {
        #[derive(serde::Deserialize)]
        struct Details {
            retry_after: f64,
        }
        let told = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        let details = self.error.details.as_ref().filter(|_| told.contains(&self.status))?;
        let seconds = details.to::<Details>().ok()?.retry_after.ceil();
        // Also keeps out what is no number of seconds.
        (0.0..=86_400.0).contains(&seconds).then_some(seconds as u64)
    }

    /// The document, for where it is a part of something else.
    pub(crate) fn document(&self) -> Json {
        Json::of(self).unwrap_or_else(|_| Json::empty_object())
    }
}

impl Serialize for Problem {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let CallError { code, message, retryable, details } = &*self.error;
        let mut fields = serializer.serialize_struct("Problem", 7)?;
        fields.serialize_field("type", "about:blank")?;
        fields.serialize_field("title", self.status.canonical_reason().unwrap_or("Error"))?;
        fields.serialize_field("status", &self.status.as_u16())?;
        fields.serialize_field("detail", message)?;
        fields.serialize_field("code", code)?;
        fields.serialize_field("retryable", retryable)?;
        match details {
            Some(details) => fields.serialize_field("details", details)?,
            None => fields.skip_field("details")?,
        }
        fields.end()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.document().into_bytes()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(challenge) = self.challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.upgrade {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn retry_after_is_told_where_it_is_known_and_makes_sense() {
        let told = |status, details: Value| {
            let error = CallError::new(code::RESOURCE_EXHAUSTED, "busy").with_details(details);
            Problem::of_call(status, error).retry_after()
        };
        let (busy, down) = (StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(told(busy, json!({ "retry_after": 1.2 })), Some(2));
        assert_eq!(told(down, json!({ "retry_after": 7 })), Some(7));
        assert_eq!(told(StatusCode::NOT_FOUND, json!({ "retry_after": 7 })), None);
        for no_time in [json!({}), json!({ "retry_after": -3 }), json!({ "retry_after": 1e300 })] {
            assert_eq!(told(busy, no_time), None);
        }
    }
}
