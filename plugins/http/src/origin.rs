//! Which pages may use the gateway, and by which names it is reached.
//!
//! A browser sends a page's origin along, and sends the client's certificate
//! without asking it. So a page of another origin is refused before anything
//! happens, not only kept from reading the answer. A page can also make a name of
//! its own lead to the node, which the header `Host` shows.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, ORIGIN, RETRY_AFTER, TRANSFER_ENCODING,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use axum::middleware::Next;
use axum::response::Response;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_service::Service;

use crate::config::Config;
use crate::gate::{self, TIMEOUT};
use crate::problem::Problem;

/// Any origin.
const ANY: &str = "*";

/// Names that lead nowhere but to the machine itself.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Where requests may come from and go to.
#[derive(Clone)]
pub(crate) struct Origins {
    allowed: Arc<[String]>,
    hosts: Option<Arc<[String]>>,
}

impl Origins {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            allowed: config.origins.iter().map(|origin| origin.to_ascii_lowercase()).collect(),
            hosts: config.hosts.as_ref().map(|hosts| lower(hosts)),
        }
    }

    /// The same, but reached by the machine's own names alone unless others are
    /// named.
    pub(crate) fn or_loopback(mut self) -> Self {
        self.hosts.get_or_insert_with(|| lower(&LOOPBACK));
        self
    }

    /// Whether a request may come from and go there.
    pub(crate) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let header = headers.get(HOST).and_then(|host| host.to_str().ok());
        let authority = uri.authority().map(|authority| authority.as_str()).or(header);
        let authority = authority.unwrap_or_default().to_ascii_lowercase();
        if let Some(hosts) = &self.hosts
            && !hosts.iter().any(|host| *host == authority || host == without_port(&authority))
        {
            return Err(Problem::misdirected(format!(
                "this node is not known as `{}`; its operator may add that to `hosts`",
                without_port(&authority)
            )));
        }
        let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let own = origin
            .strip_prefix("https://")
            .is_some_and(|from| without_default_port(from) == without_default_port(&authority));
        let allowed = || self.allowed.iter().any(|one| *one == origin || one == ANY);
        if own || allowed() {
            return Ok(());
        }
        Err(Problem::origin(format!(
            "pages of `{origin}` may not use this node; its operator may add that to `origins`"
        )))
    }
}

fn lower<T: AsRef<str>>(names: &[T]) -> Arc<[String]> {
    names.iter().map(|name| name.as_ref().to_ascii_lowercase()).collect()
}

/// The name in `name:port` or `[address]:port`.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    }
}

fn without_default_port(authority: &str) -> &str {
    authority.strip_suffix(":443").unwrap_or(authority)
}

/// Whether a request says whom it is for, and where it ends, in one way alone. A
/// proxy before the node might take another one (RFC 9112, 3.2 and 11.2).
fn ambiguity(version: Version, uri: &Uri, headers: &HeaderMap) -> Option<&'static str> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().map(|host| host.to_str().unwrap_or_default().to_ascii_lowercase());
    if hosts.next().is_some() {
        return Some("there is more than one header `host`");
    }
    match (uri.authority(), host) {
        (Some(target), Some(host)) => {
            let target = target.as_str().to_ascii_lowercase();
            if without_default_port(&target) != without_default_port(&host) {
                return Some("the header `host` and the target name different hosts");
            }
        }
        (None, None) if version == Version::HTTP_11 => {
            return Some("the header `host` is missing");
        }
        _ => {}
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    match (codings.next(), codings.next()) {
        (None, _) => None,
        (Some(one), None) if chunked(one) => None,
        _ => Some("the only transfer coding is `chunked`, once"),
    }
}

/// Answers a request, unless others could take it for another one, and keeps browsers
/// from taking the answer for something that it is not.
pub(crate) async fn answer(mut router: Router, request: Request) -> Response {
    let version = request.version();
    let mut response = match ambiguity(version, request.uri(), request.headers()) {
        None => {
            let Ok(response) = router.call(request).await;
            response
        }
        Some(ambiguity) => {
            let problem = Problem::bad_request(ambiguity);
            let mut response = gate::refuse(problem, request.into_body()).await;
            if version < Version::HTTP_2 {
                // What follows may be a part of it.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    };
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Lets a request pass, or says why not.
pub(crate) async fn check(
    State(origins): State<Origins>,
    request: Request,
    next: Next,
) -> Response {
    match origins.check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => gate::refuse(problem, request.into_body()).await,
    }
}

/// What tells browsers that pages of other origins may use the node; nothing
/// unless some are named.
pub(crate) fn cors(config: &Config) -> Option<CorsLayer> {
    if config.origins.is_empty() {
        return None;
    }
    let any = config.origins.iter().any(|origin| origin == ANY);
    let named = config.origins.iter().filter_map(|one| HeaderValue::from_str(one).ok());
    let origins = if any { AllowOrigin::any() } else { AllowOrigin::list(named) };
    let mcp = ["mcp-protocol-version", "mcp-session-id", "mcp-method", "mcp-name"];
    let headers = [AUTHORIZATION, CONTENT_TYPE, TIMEOUT].into_iter();
    let layer = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(headers.chain(mcp.map(HeaderName::from_static)).collect::<Vec<_>>())
        .expose_headers([RETRY_AFTER, WWW_AUTHENTICATE]);
    Some(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &Config, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        Origins::new(config).check(&Uri::from_static("/call"), &headers).is_ok()
    }

    #[test]
    fn pages_are_the_nodes_own_or_named() {
        let config = Config { origins: vec!["https://App.example".into()], ..Config::default() };
        for (host, origin, allowed) in [
            ("node.example", None, true),
            ("node.example", Some("https://node.example"), true),
            ("Node.example:443", Some("https://node.example"), true),
            ("node.example:8443", Some("https://node.example:8443"), true),
            ("node.example:8443", Some("https://node.example"), false),
            ("node.example", Some("http://node.example"), false),
            ("node.example", Some("https://app.example"), true),
            ("node.example", Some("https://app.example.evil"), false),
            ("node.example", Some("null"), false),
            ("node.example", Some(""), false),
        ] {
            assert_eq!(check(&config, host, origin), allowed, "{host} {origin:?}");
        }
        let all = Config { origins: vec!["*".into()], ..Config::default() };
        assert!(check(&all, "node.example", Some("https://any.example")));
        assert!(!check(&Config::default(), "node.example", Some("https://app.example")));
    }

    #[test]
    fn a_request_is_for_one_host() {
        let told = |target: &'static str, fields: &[(HeaderName, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(name, HeaderValue::from_str(value).unwrap());
            }
            ambiguity(Version::HTTP_11, &Uri::from_static(target), &headers)
        };
        for (target, host) in
            [("/", "a"), ("https://a/", "A"), ("https://a:443/", "a"), ("https://a:1/", "a:1")]
        {
            assert_eq!(told(target, &[(HOST, host)]), None, "{target} {host}");
        }
        for (target, host) in [("https://a/", "b"), ("https://a/", "a:1"), ("https://u@a/", "a")] {
            assert!(told(target, &[(HOST, host)]).is_some(), "{target} {host}");
        }
        assert!(told("/", &[]).is_some());
        assert!(told("/", &[(HOST, "a"), (HOST, "a")]).is_some());
        let coded = |coding| told("/", &[(HOST, "a"), (TRANSFER_ENCODING, coding)]);
        assert_eq!((coded("chunked"), coded("Chunked")), (None, None));
        for coding in ["gzip, chunked", "chunked, chunked", "chunked,", "identity", ""] {
            assert!(coded(coding).is_some(), "{coding}");
        }
    }

    #[test]
    fn a_node_with_names_has_no_others() {
        let config = Config { hosts: Some(vec!["Node.example".into()]), ..Config::default() };
        assert!(check(&config, "node.example:8443", None));
        for other in ["evil.example", "node.example.evil", "127.0.0.1", ""] {
            assert!(!check(&config, other, None), "{other}");
        }
        let own = Origins::new(&Config::default()).or_loopback();
        for (host, is) in [("[::1]:443", true), ("localhost", true), ("node.example", false)] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_str(host).unwrap());
            assert_eq!(own.check(&Uri::from_static("/mcp"), &headers).is_ok(), is, "{host}");
        }
    }
}
