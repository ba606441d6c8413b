//! The console: a page for operators, of files that are part of this library.
//!
//! It is a client of the gateway like any other, with the token that its user types
//! in. Nothing in it is secret, so it is served to everybody who reaches the node by
//! one of its names, and it needs nothing from anywhere else: the policy that comes
//! with each file has browsers refuse that.

use std::hash::{DefaultHasher, Hash, Hasher};

use alknet_plugin_api::BuildError;
use axum::Router;
use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;

use crate::problem::Problem;

/// What the page may do: load the files below and call this node.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! files {
    ($($name:literal $kind:ident,)*) => {
        &[$(($name, $kind, include_str!(concat!("../console/", $name)))),*]
    };
}

/// Name, media type and text of each file.
const FILES: &[(&str, &str, &str)] = files! {
    "index.html" HTML,
    "console.css" CSS,
    "icon.svg" SVG,
    "access.js" SCRIPT,
    "api.js" SCRIPT,
    "app.js" SCRIPT,
    "charts.js" SCRIPT,
    "connections.js" SCRIPT,
    "dom.js" SCRIPT,
    "explorer.js" SCRIPT,
    "form.js" SCRIPT,
    "format.js" SCRIPT,
    "live.js" SCRIPT,
    "operations.js" SCRIPT,
    "overview.js" SCRIPT,
    "plugins.js" SCRIPT,
    "recent.js" SCRIPT,
    "sse.js" SCRIPT,
};

/// The page at `/console/` and its files beside it.
pub(crate) fn router<S: Clone + Send + Sync + 'static>() -> Result<Router<S>, BuildError> {
    let mut router = Router::new()
        .route("/console", get(|| async { Redirect::permanent("/console/") }))
        .route("/console/{*path}", get(|| async { Problem::no_such_path() }));
    for (name, kind, text) in FILES {
        let path = match *name {
            "index.html" => "/console/".to_owned(),
            name => format!("/console/{name}"),
        };
        let tag = HeaderValue::from_str(&version(text))
            .map_err(|error| BuildError::new(error.to_string()))?;
        let kind = HeaderValue::from_static(kind);
        let serve = move |headers: HeaderMap| async move { file(&headers, kind, tag, text) };
        router = router.route(&path, get(serve));
    }
    Ok(router.layer(from_fn(guard)))
}

/// An entity tag that changes with the text.
fn version(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

/// A file, unless the client has this version of it. Clients ask again each time:
/// the files of a node and its operations belong together.
fn file(headers: &HeaderMap, kind: HeaderValue, tag: HeaderValue, text: &'static str) -> Response {
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let same = |one: &str| one == "*" || one.trim_start_matches("W/").as_bytes() == tag.as_bytes();
    let mut known = known.flat_map(|value| value.split(',')).map(str::trim);
    let cached = [(ETAG, tag.clone()), (CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    if known.any(same) {
        return (StatusCode::NOT_MODIFIED, cached).into_response();
    }
    (cached, [(CONTENT_TYPE, kind)], text).into_response()
}

/// Says to browsers how little the page needs, also where there is no file.
async fn guard(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/console");
        let mut there: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut served: Vec<_> = FILES.iter().map(|(name, ..)| (*name).to_owned()).collect();
        there.sort();
        served.sort();
        assert_eq!(there, served);
    }

    #[test]
    fn files_ask_for_nothing_elsewhere_and_hold_nothing_inline() {
        for (name, _, text) in FILES {
            // Names of languages are not addresses.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for forbidden in [
                "http://",
                "https://",
                "//cdn",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "localStorage",
                "sessionStorage",
                "@import",
                "url(",
            ] {
                assert!(!text.contains(forbidden), "{name}: {forbidden}");
            }
            assert!(text.lines().count() < 400, "{name}");
        }
        let (_, _, page) = FILES[0];
        for inline in ["style=", "onclick", "<style", "<script>"] {
            assert!(!page.contains(inline), "{inline}");
        }
    }
}
