//! The HTTP beneath a session: the import's own client, which puts the credential
//! on each request at the moment that it is made.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use reqwest::header::{HeaderName, HeaderValue};
use rmcp::model::ClientJsonRpcMessage;
use rmcp::transport::streamable_http_client::{
    HttpStatusError, SseError, StreamableHttpClient, StreamableHttpClientTransport,
    StreamableHttpClientTransportConfig, StreamableHttpError, StreamableHttpPostResponse,
    StreamableHttpResponseLimits,
};
use sse_stream::Sse;

use super::super::http::HttpClient;
use super::McpConfig;
use crate::capabilities::Lent;

/// Requests of one session at the same time; further ones wait.
const MAX_REQUESTS: usize = 256;

/// A transport to the server of `config`.
pub(super) fn transport(
    config: &McpConfig,
    client: &HttpClient,
) -> StreamableHttpClientTransport<Carrier> {
    let mut limits = StreamableHttpResponseLimits::default();
    limits.max_json_response_size = client.max_response();
    limits.max_sse_event_size = client.max_response();
    // Of an error's page, its beginning says enough.
    limits.max_error_response_size = 512;
    let credential = config.credential.clone();
    let carrier = Carrier { client: client.inner().clone(), credential, limits };
    let mut settings = StreamableHttpClientTransportConfig::with_uri(config.url.as_str())
        .max_concurrent_requests(MAX_REQUESTS);
    settings.max_json_response_size = limits.max_json_response_size;
    settings.max_sse_event_size = limits.max_sse_event_size;
    settings.max_error_response_size = limits.max_error_response_size;
    // A server that forgot the session may have other tools by now.
    settings.reinit_on_expired_session = false;
    StreamableHttpClientTransport::with_client(carrier, settings)
}

/// What a session's requests are made with.
#[derive(Clone, Debug)]
pub(super) struct Carrier {
    client: reqwest::Client,
    credential: Option<Lent>,
    /// For requests that come without limits of their own.
    limits: StreamableHttpResponseLimits,
}

type Headers = HashMap<HeaderName, HeaderValue>;
type Events = BoxStream<'static, Result<Sse, SseError>>;
type Answer<T> = Result<T, StreamableHttpError<reqwest::Error>>;

impl Carrier {
    fn with_credential(&self, mut headers: Headers) -> Headers {
        headers.extend(self.credential.as_ref().and_then(Lent::http_header));
        headers
    }
}

impl StreamableHttpClient for Carrier {
    type Error = reqwest::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_header: Option<String>,
        custom_headers: Headers,
    ) -> Answer<StreamableHttpPostResponse> {
        let (headers, limits) = (custom_headers, self.limits);
        self.post_message_with_response_limits(
            uri,
            message,
            session_id,
            auth_header,
            headers,
            limits,
        )
        .await
    }

    async fn post_message_with_response_limits(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_header: Option<String>,
        custom_headers: Headers,
        limits: StreamableHttpResponseLimits,
    ) -> Answer<StreamableHttpPostResponse> {
        let headers = self.with_credential(custom_headers);
        let client = &self.client;
        client
            .post_message_with_response_limits(
                uri,
                message,
                session_id,
                auth_header,
                headers,
                limits,
            )
            .await
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session_id: Arc<str>,
        auth_header: Option<String>,
        custom_headers: Headers,
    ) -> Answer<()> {
        let headers = self.with_credential(custom_headers);
        self.client.delete_session(uri, session_id, auth_header, headers).await
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_header: Option<String>,
        custom_headers: Headers,
    ) -> Answer<Events> {
        self.get_stream_with_max_sse_event_size(
            uri,
            session_id,
            last_event_id,
            auth_header,
            custom_headers,
            self.limits.max_sse_event_size,
        )
        .await
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_header: Option<String>,
        custom_headers: Headers,
        max_sse_event_size: usize,
    ) -> Answer<Events> {
        let headers = self.with_credential(custom_headers);
        let client = &self.client;
        client
            .get_stream_with_max_sse_event_size(
                uri,
                session_id,
                last_event_id,
                auth_header,
                headers,
                max_sse_event_size,
            )
            .await
    }
}

/// The errors that an error stands on, itself first.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// The HTTP status that an error is about, and the seconds that the server asks
/// to wait.
pub(super) fn status(error: &(dyn Error + 'static)) -> Option<(u16, Option<u64>)> {
    let status = chain(error).find_map(|error| error.downcast_ref::<HttpStatusError>())?;
    let wait = status.retry_after.as_ref().and_then(|wait| wait.trim().parse().ok());
    Some((status.status, wait))
}

/// Whether an answer was over the import's limit, which is no matter of the
/// session's.
pub(super) fn is_too_large(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|error| {
        let error = error.downcast_ref::<StreamableHttpError<reqwest::Error>>();
        matches!(error, Some(StreamableHttpError::ResponseBodyTooLarge { .. }))
    })
}

/// What an error comes from, in words. An HTTP client's own text would show the
/// whole URL, which may hold a key.
pub(super) fn cause(error: &(dyn Error + 'static)) -> String {
    let of_http = chain(error).find_map(|error| match error.downcast_ref()? {
        StreamableHttpError::<reqwest::Error>::Client(error) => Some(error),
        _ => None,
    });
    let root = match of_http {
        Some(error) => match error.status() {
            Some(status) => return format!("it answered {status}"),
            None => chain(error).skip(1).last(),
        },
        None => chain(error).last(),
    };
    root.map_or_else(|| "the request failed".to_owned(), ToString::to_string)
}
