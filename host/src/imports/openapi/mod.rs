//! `from_openapi`: the operations of an HTTP service, as its OpenAPI document
//! describes them.
//!
//! ```text
//! text ── document ──► operations ──► layout   (input schema, parameters, body)
//!                          │        ├► answers  (output schema, errors, stream)
//!                          │        └► schema   (self-contained JSON Schema)
//!                          └──► Endpoint ── http ──► the service
//! ```
//!
//! A name is the document's `operationId`, or else method and path. `GET` is a
//! query, an answer of events alone a subscription, anything else a mutation. A
//! document is read once; a service that changes is imported anew with the node.

use std::path::PathBuf;

use alknet_plugin_api::Capability;
use futures_util::future::BoxFuture;
use reqwest::header::ACCEPT;
use reqwest::{Method, Request, StatusCode, Url};

use super::endpoint::{Events, Once};
use super::http::{HttpClient, cause, service};
use super::selection::Selection;
use super::{AdapterError, OperationAdapter, leaf};
use crate::capabilities::Lent;
use crate::registry::{Code, HandlerRegistration, Provenance};

mod answers;
mod document;
mod layout;
mod operations;
mod schema;
mod security;

#[cfg(test)]
mod tests;

use document::{Document, DocumentError};
use operations::{Service, operations};

/// The longest document; the largest public ones have about 12 MB.
const MAX_DOCUMENT: usize = 32 * 1024 * 1024;

/// Where a document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocumentSource {
    /// In a file, JSON or YAML.
    File(PathBuf),
    /// At an `http` or `https` URL.
    Url(Url),
}

impl std::fmt::Display for DocumentSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            // A query may hold a key.
            Self::Url(url) => write!(f, "{}{}", service(url), url.path()),
        }
    }
}

/// What an import from an OpenAPI document needs to know.
#[derive(Clone, Debug)]
pub struct OpenApiConfig {
    /// The import's name in the deployment file.
    pub import: String,
    /// The document.
    pub document: DocumentSource,
    /// Where the service is, in the place of the document's `servers`.
    pub base_url: Option<Url>,
    /// Which operations, and their names.
    pub selection: Selection,
    /// What the service asks for.
    pub credential: Option<Lent>,
}

/// Imports the operations of one document.
#[derive(Debug)]
pub struct FromOpenApi {
    config: OpenApiConfig,
    client: HttpClient,
}

impl FromOpenApi {
    /// An adapter whose requests `client` makes.
    pub(crate) fn new(config: OpenApiConfig, client: HttpClient) -> Self {
        Self { config, client }
    }

    /// Reads the document if it is a file, so that a mistake shows before a start.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(&self) -> Result<(), AdapterError> {
        let DocumentSource::File(file) = &self.config.document else { return Ok(()) };
        let text = std::fs::read_to_string(file).map_err(|error| self.unreadable(&error))?;
        self.found(&text).map(drop)
    }

    fn unreadable(&self, error: &std::io::Error) -> AdapterError {
        AdapterError::DiscoveryFailed {
            source_name: self.config.document.to_string(),
            cause: format!("the file cannot be read: {error}"),
            remedy: "name a file of UTF-8 text that the daemon's user may read".to_owned(),
        }
    }

    async fn text(&self) -> Result<String, AdapterError> {
        match &self.config.document {
            DocumentSource::File(file) => {
                let text = tokio::fs::read_to_string(file).await;
                text.map_err(|error| self.unreadable(&error))
            }
            DocumentSource::Url(url) => {
                let bytes = self.fetch(url).await?;
                String::from_utf8(bytes).map_err(|_| AdapterError::DiscoveryFailed {
                    source_name: self.config.document.to_string(),
                    cause: "it is not UTF-8 text".to_owned(),
                    remedy: "give the document's own address".to_owned(),
                })
            }
        }
    }

    /// Fetches the document. The credential is shown only to a server that asks
    /// for one and that is the service itself.
    async fn fetch(&self, url: &Url) -> Result<Vec<u8>, AdapterError> {
        let source_name = self.config.document.to_string();
        let is_home =
            self.config.base_url.as_ref().is_none_or(|base| base.origin() == url.origin());
        let header =
            self.config.credential.as_ref().filter(|_| is_home).and_then(Lent::http_header);
        let client = self.client.with_max_response(MAX_DOCUMENT);
        let ask = |with: Option<_>| {
            let mut request = Request::new(Method::GET, url.clone());
            let accept = "application/json, application/yaml, text/yaml, */*;q=0.8";
            request.headers_mut().insert(ACCEPT, reqwest::header::HeaderValue::from_static(accept));
            if let Some((name, value)) = with {
                request.headers_mut().insert(name, value);
            }
            client.inner().execute(request)
        };
        let lost = |error: reqwest::Error| AdapterError::Transport {
            source_name: source_name.clone(),
            cause: cause(&error),
        };
        let mut response = ask(None).await.map_err(lost)?;
        let asks = |status| matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if asks(response.status()) && header.is_some() {
            response = ask(header).await.map_err(lost)?;
        }
        let status = response.status();
        if asks(status) {
            return Err(AdapterError::Unauthorized {
                source_name,
                cause: format!("the document's server answered {status}"),
                remedy: "name the vault entry that it asks for in `credential`, or give a file"
                    .to_owned(),
            });
        }
        if !status.is_success() {
            let error = AdapterError::DiscoveryFailed {
                source_name: source_name.clone(),
                cause: format!("the document's server answered {status}"),
                remedy: "see that `document` is the address of the document itself".to_owned(),
            };
            // A server that is overloaded or starting may answer later.
            return Err(error);
        }
        match client.body(response).await {
            Ok(body) => Ok(body.to_vec()),
            Err(error) => Err(AdapterError::Transport { source_name, cause: error.message }),
        }
    }

    fn found(&self, text: &str) -> Result<Vec<operations::Found>, AdapterError> {
        let source_name = self.config.document.to_string();
        let document = Document::parse(text).map_err(|error| AdapterError::DiscoveryFailed {
            source_name: source_name.clone(),
            cause: format!("at {}: {}", error.place, error.what),
            remedy: error.remedy.to_owned(),
        })?;
        let service = Service {
            client: &self.client,
            base_url: self.config.base_url.as_ref().map(Url::as_str),
            document_url: match &self.config.document {
                DocumentSource::Url(url) => Some(url),
                DocumentSource::File(_) => None,
            },
            credential: self.config.credential.as_ref(),
        };
        operations(&document, &self.config.selection, &service)
            .map_err(|problems| refused(source_name, &problems))
    }

    fn registrations(&self, text: &str) -> Result<Vec<HandlerRegistration>, AdapterError> {
        let found = self.found(text)?;
        let doubts: Vec<_> =
            found.iter().filter_map(|one| Some((&one.spec.name, one.doubt.as_ref()?))).collect();
        if let Some((name, doubt)) = doubts.first() {
            tracing::warn!(
                import = self.config.import,
                operations = doubts.len(),
                "`{name}` {doubt}; set `base_url`, or correct `credential`, if it should not"
            );
        }
        let capability = self.config.credential.as_ref().map(Capability::from);
        let registrations = found.into_iter().map(|one| {
            let code = match one.is_stream {
                true => Code::HostStream(std::sync::Arc::new(Events(one.endpoint))),
                false => Code::Host(std::sync::Arc::new(Once(one.endpoint))),
            };
            let import = &self.config.import;
            leaf(one.spec, code, import, Provenance::FromOpenApi, capability.as_ref())
        });
        Ok(registrations.collect())
    }
}

/// At most this many problems of one document are told at once.
const MAX_PROBLEMS: usize = 8;

fn refused(source_name: String, problems: &[DocumentError]) -> AdapterError {
    let mut texts: Vec<_> =
        problems.iter().take(MAX_PROBLEMS).map(|p| format!("at {}: {}", p.place, p.what)).collect();
    if let Some(more) = problems.len().checked_sub(MAX_PROBLEMS).filter(|more| *more > 0) {
        texts.push(format!("and {more} more"));
    }
    let remedy = problems.first().map_or("have the document corrected", |problem| problem.remedy);
    AdapterError::DiscoveryFailed {
        source_name,
        cause: texts.join("; "),
        remedy: remedy.to_owned(),
    }
}

impl OperationAdapter for FromOpenApi {
    fn import(&self) -> BoxFuture<'_, Result<Vec<HandlerRegistration>, AdapterError>> {
        Box::pin(async move { self.registrations(&self.text().await?) })
    }
}
