//! Imports of services that are reached over HTTP: their adapters, and what can be
//! said of them before anybody is contacted.

use std::sync::Arc;

use reqwest::{Method, Url};

use crate::capabilities::Lent;
use crate::config::{Document, ImportSource, ImportStanza, Problem};
use crate::endpoint::tls;
use crate::imports::http::{ClientError, HttpClient};
use crate::imports::json_schema::{FromJsonSchema, HttpServiceConfig};
use crate::imports::mcp::{FromMcp, McpConfig};
use crate::imports::openapi::{DocumentSource, FromOpenApi, OpenApiConfig};
use crate::imports::{AdapterError, OperationAdapter, Selection};

/// The adapter of a stanza whose kind is not `call`, with what files say of it
/// already looked at.
///
/// # Errors
/// A file of the import's, or an address, cannot be used.
pub(super) fn adapter(
    stanza: &ImportStanza,
    selection: Selection,
    credential: Option<Lent>,
) -> Result<Option<Arc<dyn OperationAdapter>>, Problem> {
    let limit = usize::try_from(stanza.max_response).unwrap_or(usize::MAX);
    let authorities = stanza.authority.as_deref().map(tls::authorities).transpose();
    let authorities = authorities.map_err(|error| {
        let remedy = "name a file of certificates in PEM: those of the service's authorities";
        stanza.problem("authority", error.to_string(), remedy)
    })?;
    let client = HttpClient::new(limit, authorities).map_err(|error| no_client(stanza, &error))?;
    let url = |key: &str, text: &str| {
        Url::parse(text).map_err(|error| {
            stanza.problem(key, format!("`{text}` is not a URL: {error}"), "correct it")
        })
    };
    let import = stanza.name.clone();
    Ok(Some(match &stanza.source {
        ImportSource::Call { .. } => return Ok(None),
        ImportSource::OpenApi { document, base_url } => {
            let config = OpenApiConfig {
                import,
                document: match document {
                    Document::File(file) => DocumentSource::File(file.clone()),
                    Document::Url(text) => DocumentSource::Url(url("document", text)?),
                },
                base_url: base_url.as_deref().map(|text| url("base_url", text)).transpose()?,
                selection,
                credential,
            };
            let adapter = FromOpenApi::new(config, client);
            adapter.check().map_err(|error| refused(stanza, "document", &error))?;
            Arc::new(adapter)
        }
        ImportSource::JsonSchema { spec, url: service, method, path } => {
            let config = HttpServiceConfig {
                import,
                spec: spec.clone(),
                url: url("url", service)?,
                method: method.parse().unwrap_or(Method::POST),
                path: path.clone(),
                selection,
                credential,
            };
            let adapter = FromJsonSchema::new(config, client);
            adapter.check().map_err(|error| refused(stanza, "spec", &error))?;
            Arc::new(adapter)
        }
        ImportSource::Mcp { url: server } => {
            let config = McpConfig { import, url: url("url", server)?, selection, credential };
            Arc::new(FromMcp::new(config, client))
        }
    }))
}

fn no_client(stanza: &ImportStanza, error: &ClientError) -> Problem {
    stanza.problem("kind", error.to_string(), "an import over HTTP cannot do without")
}

fn refused(stanza: &ImportStanza, key: &str, error: &AdapterError) -> Problem {
    match error {
        AdapterError::DiscoveryFailed { source_name, cause, remedy } => {
            stanza.problem(key, format!("{source_name}: {cause}"), remedy)
        }
        error => stanza.problem(key, error.to_string(), "correct the file, or name another"),
    }
}
