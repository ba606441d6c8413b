//! HTTP requests that the host makes for a plugin, with a secret that it lends.
//!
//! The plugin says what to ask. The host sees whether the deployment file grants
//! the plugin that origin, adds the secret of a [`Capability`](crate::Capability),
//! and hands the answer back. So the secret is never in the plugin's memory.
//!
//! ```
//! use alknet_plugin_api::http::HttpRequest;
//! use alknet_plugin_api::prelude::*;
//!
//! async fn search(context: OperationContext, query: Json) -> Result<Json, CallError> {
//!     let key = context.capability("search").ok_or_else(|| CallError::internal("not lent"))?;
//!     let request = HttpRequest::post("https://api.example.com/v1/search", query.into_bytes())
//!         .header("content-type", "application/json");
//!     let answer = key.send(request).await?;
//!     Json::parse(answer.body).map_err(|error| CallError::internal(error.to_string()))
//! }
//! ```

use std::fmt;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::error::CallError;

/// Bytes of the largest body, of a request as of an answer.
pub const MAX_BODY: usize = 8 << 20;

/// An answer under way. Dropping it gives the request up.
pub type HttpFuture = BoxFuture<'static, Result<HttpResponse, CallError>>;

/// What to ask.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HttpRequest {
    /// Such as `GET`, in capitals.
    pub method: String,
    /// The whole address. It holds no user name and no password.
    pub url: String,
    /// Names and values. The secret's header takes the place of one of its name;
    /// `host` and those that frame a message are the host's alone.
    pub headers: Vec<(String, String)>,
    /// At most [`MAX_BODY`] bytes.
    #[serde(skip)]
    pub body: Bytes,
}

/// An answer, of any status: the host follows no redirects.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// Names in lower case, and values. One that is not ASCII text is left out.
    pub headers: Vec<(String, String)>,
    /// At most [`MAX_BODY`] bytes.
    #[serde(skip)]
    pub body: Bytes,
}

impl HttpRequest {
    /// A request without headers or body.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self { method: method.into(), url: url.into(), headers: Vec::new(), body: Bytes::new() }
    }

    /// A `GET` request.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// A `POST` request.
    pub fn post(url: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::new("POST", url) }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl HttpResponse {
    /// An answer without headers or body.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// The first header of this name, which is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

/// Shows the names of the headers alone: a value may be a secret of the plugin's own.
impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequest")
            .field("method", &self.method)
            .field("url", &self.url)
            .field("headers", &names(&self.headers))
            .field("body", &self.body.len())
            .finish()
    }
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpResponse")
            .field("status", &self.status)
            .field("headers", &names(&self.headers))
            .field("body", &self.body.len())
            .finish()
    }
}

fn names(headers: &[(String, String)]) -> Vec<&str> {
    headers.iter().map(|(name, _)| &**name).collect()
}

/// The answer of a host that makes no requests.
pub(crate) fn unavailable() -> HttpFuture {
    let text = "this host makes no HTTP requests for plugins; update it";
    Box::pin(std::future::ready(Err(CallError::internal(text))))
}

/// How both cross the native boundary: the length of the head in four bytes, the
/// head as JSON, the body as it is.
#[cfg(not(target_family = "wasm"))]
pub(crate) mod frame {
    use serde::de::DeserializeOwned;

    use super::*;

    pub(crate) fn write(head: &impl Serialize, body: &[u8]) -> Result<Bytes, CallError> {
        let head = serde_json::to_vec(head).map_err(malformed)?;
        let length = u32::try_from(head.len()).map_err(malformed)?;
        Ok([&length.to_be_bytes()[..], &head, body].concat().into())
    }

    /// The head, and the body, which shares its bytes with the frame.
    pub(crate) fn read<T: DeserializeOwned>(frame: &Bytes) -> Result<(T, Bytes), CallError> {
        let cut = || malformed("it is cut off");
        let (length, rest) = frame.split_first_chunk().ok_or_else(cut)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(malformed)?;
        let head = serde_json::from_slice(rest.get(..length).ok_or_else(cut)?);
        Ok((head.map_err(malformed)?, frame.slice_ref(&rest[length..])))
    }

    fn malformed(why: impl fmt::Display) -> CallError {
        CallError::internal(format!("an HTTP message that crossed is malformed: {why}"))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_message_crosses_unchanged_and_a_cut_one_is_an_error() {
            let request =
                HttpRequest::post("https://a.example/", &b"\0\xffbody"[..]).header("x-a", "\u{e9}");
            let frame = write(&request, &request.body).unwrap();
            let (head, body) = read::<HttpRequest>(&frame).unwrap();
            assert_eq!(HttpRequest { body, ..head }, request);
            for end in 0..frame.len() - request.body.len() {
                assert!(read::<HttpRequest>(&frame.slice(..end)).is_err(), "{end}");
            }
            let (empty, body) =
                read::<HttpResponse>(&write(&HttpResponse::new(204), b"").unwrap()).unwrap();
            assert_eq!((empty.status, body.len()), (204, 0));
        }

        #[test]
        fn a_request_shows_no_header_value() {
            let request = HttpRequest::get("https://a.example/").header("x-key", "hush");
            let shown = format!("{request:?}");
            assert!(shown.contains("x-key") && !shown.contains("hush"), "{shown}");
        }
    }
}
