//! Files for browsers: a front page, and a folder.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use alknet_plugin_api::BuildError;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use tower_http::services::ServeDir;

use crate::config::Config;
use crate::problem::Problem;

/// The one hidden folder that is meant to be seen (RFC 8615).
const WELL_KNOWN: &str = ".well-known";

/// What is served besides the gateway.
pub(crate) fn router<S: Clone + Send + Sync + 'static>(
    config: &Config,
) -> Result<Router<S>, BuildError> {
    let mut router = Router::new().fallback(|| async { Problem::no_such_path() });
    if let Some(root) = &config.static_root {
        let problem =
            |error| BuildError::new(format!("`static_root`: {}: {error}", root.display()));
        let root: Arc<Path> = root.canonicalize().map_err(problem)?.into();
        if !root.is_dir() {
            return Err(BuildError::new(format!("`static_root`: {} is no folder", root.display())));
        }
        let folder = Router::new()
            .fallback_service(ServeDir::new(&root))
            .layer(from_fn_with_state(root, beneath));
        router = Router::new().fallback_service(folder);
    }
    if let Some(page) = &config.front_page {
        let text: Bytes = std::fs::read(page)
            .map_err(|error| BuildError::new(format!("`front_page`: {}: {error}", page.display())))?
            .into();
        let kind = HeaderValue::from_static("text/html; charset=utf-8");
        router = router.route("/", get(move || async move { ([(CONTENT_TYPE, kind)], text) }));
    }
    Ok(router)
}

/// Lets requests for files that lie in the folder pass. Links that lead out of it
/// and hidden files are not there for the client.
async fn beneath(State(root): State<Arc<Path>>, request: Request, next: Next) -> Response {
    let Some(path) = visible(request.uri().path()) else {
        return Problem::no_such_path().into_response();
    };
    match tokio::fs::canonicalize(root.join(path)).await {
        Ok(file) if file.starts_with(&root) => {}
        _ => return Problem::no_such_path().into_response(),
    }
    let response = next.run(request).await;
    match response.status() {
        StatusCode::NOT_FOUND => Problem::no_such_path().into_response(),
        StatusCode::METHOD_NOT_ALLOWED => Problem::method(Some("GET,HEAD")).into_response(),
        _ => response,
    }
}

/// The path relative to the folder, unless a part of it is hidden or leads up.
fn visible(path: &str) -> Option<PathBuf> {
    let decoded = percent_decode_str(path.trim_start_matches('/')).decode_utf8().ok()?;
    let path = PathBuf::from(&*decoded);
    let shown = path.components().all(|part| match part {
        Component::Normal(name) => name == WELL_KNOWN || !name.as_encoded_bytes().starts_with(b"."),
        _ => false,
    });
    (shown && !decoded.contains(['\0', '\\'])).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_parts_and_ways_out_are_not_visible() {
        for good in ["/", "/a/b.html", "/.well-known/x", "/a%20b"] {
            assert!(visible(good).is_some(), "{good}");
        }
        for bad in ["/.git/config", "/a/.env", "/../x", "/a/%2e%2e/x", "/%2fetc", "/a%00", "/%ff"] {
            assert!(visible(bad).is_none(), "{bad}");
        }
    }
}
