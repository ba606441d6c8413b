//! HTTP requests that the host makes for plugins, with secrets that they never see.
//!
//! A plugin hands over a request without the secret. The request goes out if the
//! deployment file grants the plugin its origin, with the secret's header added
//! here. Redirects go back to the plugin as answers: followed, one could take the
//! secret where nobody granted it to go.
//!
//! ```
//! use alknet::capabilities::{Lent, Use};
//! use alknet::outbound::Outbound;
//! use alknet_plugin_api::CapabilityKind;
//! use alknet_plugin_api::http::HttpRequest;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let lent = Lent::new(CapabilityKind::Bearer, Use::default(), "s3cret")?;
//! let capability = Outbound::new(&["https://api.example.com".into()])?.capability(&lent);
//! let elsewhere = capability.send(HttpRequest::get("https://example.org/")).await;
//! assert_eq!(elsewhere.unwrap_err().code, "FORBIDDEN");
//! # Ok(()) }
//! ```

use std::sync::Arc;
use std::time::Duration;

use alknet_plugin_api::http::{HttpFuture, HttpRequest, HttpResponse, MAX_BODY};
use alknet_plugin_api::{CallError, Capability, CapabilityBackend, CapabilityKind, code};
use bytes::Bytes;
use reqwest::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Request, Url};

use crate::capabilities::Lent;
use crate::imports::http::{ClientError, body, client, lost, service};

/// How long an answer may take, from the connection to the body's last byte.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Headers by which a message is framed and delivered. A plugin that chose them
/// could make two requests of one, or name another host than it was granted.
const OF_THE_HOST: [HeaderName; 7] =
    [CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// There is no client for plugins' requests.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct OutboundError(#[from] ClientError);

/// The requests that one plugin may have made; by default none. Clones share
/// connections.
#[derive(Clone, Debug, Default)]
pub struct Outbound(Option<Arc<Granted>>);

#[derive(Debug)]
struct Granted {
    /// As URLs spell their origin.
    origins: Vec<String>,
    client: Client,
}

impl Outbound {
    /// Grants requests to these origins, such as `https://api.example.com`.
    ///
    /// # Errors
    /// The system's certificate authorities cannot be used.
    pub fn new(origins: &[String]) -> Result<Self, OutboundError> {
        if origins.is_empty() {
            return Ok(Self::default());
        }
        let client = client(Policy::none(), None)?;
        Ok(Self(Some(Arc::new(Granted { origins: origins.to_vec(), client }))))
    }

    /// A secret as its plugin gets it.
    pub fn capability(&self, lent: &Lent) -> Capability {
        Capability::new(Arc::new(Sendable { lent: lent.clone(), outbound: self.clone() }))
    }

    fn client(&self, origin: &str) -> Result<Client, CallError> {
        let granted = self.0.as_ref().filter(|granted| granted.origins.iter().any(|o| o == origin));
        granted.map(|granted| granted.client.clone()).ok_or_else(|| {
            CallError::forbidden(format!(
                "requests to {origin} are not granted to this plugin; its stanza grants them by \
                 `outbound`"
            ))
        })
    }

    /// The request as it goes out.
    fn prepare(&self, request: HttpRequest, lent: &Lent) -> Result<(Client, Request), CallError> {
        let wrong = |what: String| CallError::invalid_input(what);
        let url = Url::parse(&request.url)
            .map_err(|error| wrong(format!("the request's URL is none: {error}")))?;
        let client = self.client(&service(&url))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("the request's URL holds credentials; the capability is one".into()));
        }
        let method = Method::from_bytes(request.method.as_bytes())
            .map_err(|_| wrong(format!("`{}` is not a method", request.method)))?;
        if request.body.len() > MAX_BODY {
            return Err(wrong(format!("the request's body is over {MAX_BODY} bytes")));
        }
        let secret = lent.http_header().ok_or_else(|| {
            wrong("only capabilities of kind bearer, basic and header can be sent".into())
        })?;
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let (name, value) = header(name, value).map_err(wrong)?;
            headers.append(name, value);
        }
        headers.insert(secret.0, secret.1);
        let mut prepared = Request::new(method, url);
        *prepared.headers_mut() = headers;
        *prepared.timeout_mut() = Some(TIMEOUT);
        if !request.body.is_empty() {
            *prepared.body_mut() = Some(request.body.into());
        }
        Ok((client, prepared))
    }
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| format!("`{name}` is not a header's name"))?;
    if OF_THE_HOST.contains(&parsed) {
        return Err(format!("the header `{name}` is the host's to set"));
    }
    let value = HeaderValue::from_str(value)
        .map_err(|_| format!("`{name}` has a value that no header has"))?;
    Ok((parsed, value))
}

async fn send(client: Client, request: Request) -> Result<HttpResponse, CallError> {
    let service = service(request.url());
    let answer = client.execute(request).await.map_err(|error| lost(&service, &error))?;
    let mut response = HttpResponse::new(answer.status().as_u16());
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let headers = answer.headers().iter();
    response.headers = headers
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), text(value)?)))
        .collect();
    response.body = body(answer, MAX_BODY).await?.ok_or_else(|| {
        let text = format!("{service} answered with more than {MAX_BODY} bytes");
        // The same request gets the same answer.
        CallError::new(code::RESOURCE_EXHAUSTED, text).retryable(false)
    })?;
    Ok(response)
}

/// A lent secret that its plugin can also have sent.
struct Sendable {
    lent: Lent,
    outbound: Outbound,
}

impl CapabilityBackend for Sendable {
    fn kind(&self) -> CapabilityKind {
        self.lent.kind()
    }

    fn reveal(&self) -> Option<Bytes> {
        self.lent.reveal()
    }

    fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        self.lent.sign(message)
    }

    fn send(&self, request: HttpRequest) -> HttpFuture {
        let prepared = self.outbound.prepare(request, &self.lent);
        Box::pin(async move {
            let (client, request) = prepared?;
            send(client, request).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::Use;

    fn lent(kind: CapabilityKind, entry: &str) -> Lent {
        Lent::new(kind, Use { header: Some("x-key"), reveal: false }, entry).unwrap()
    }

    fn outbound() -> Outbound {
        Outbound::new(&["https://a.example".to_owned(), "http://127.0.0.1:81".to_owned()]).unwrap()
    }

    #[test]
    fn the_secret_takes_the_place_of_a_header_of_its_name() {
        let request = HttpRequest::get("https://a.example:443/x?y=1")
            .header("X-Key", "mine")
            .header("accept", "a")
            .header("accept", "b");
        let lent = lent(CapabilityKind::Header, "k3y");
        let (_, request) = outbound().prepare(request, &lent).unwrap();
        let values = |name: &str| {
            let all = request.headers().get_all(name).iter();
            all.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!((values("x-key"), values("accept").len()), (vec!["k3y".to_owned()], 2));
        assert!(request.headers()["x-key"].is_sensitive());
        assert!(!format!("{request:?}").contains("k3y"));
        assert_eq!(request.timeout(), Some(&TIMEOUT));
    }

    #[test]
    fn what_is_not_granted_or_malformed_is_refused() {
        let bearer = lent(CapabilityKind::Bearer, "s3cret");
        let refused = |request: HttpRequest, lent: &Lent| {
            let error = outbound().prepare(request, lent).unwrap_err();
            assert!(!error.message.contains("s3cret"), "{error}");
            error.code
        };
        for url in [
            "http://a.example/",
            "https://a.example:444/",
            "https://b.a.example/",
            "https://a.example.org/",
            "https://a.example@b.example/",
            "http://127.0.0.1:8/",
            "file:///etc/passwd",
            "data:,x",
        ] {
            assert_eq!(refused(HttpRequest::get(url), &bearer), "FORBIDDEN", "{url}");
        }
        let get = |name, value| HttpRequest::get("https://a.example/").header(name, value);
        for request in [
            HttpRequest::get("/x"),
            HttpRequest::get("https://me:pass@a.example/"),
            HttpRequest::new("GET /", "https://a.example/"),
            HttpRequest::post("https://a.example/", vec![0; MAX_BODY + 1]),
            get("a b", "c"),
            get("a", "c\r\nd: e"),
            get("Host", "b.example"),
            get("transfer-encoding", "chunked"),
            get("content-length", "0"),
        ] {
            let shown = format!("{request:?}");
            assert_eq!(refused(request, &bearer), "INVALID_INPUT", "{shown}");
        }
        let signs = Lent::signing(&[7; 32]);
        assert_eq!(refused(HttpRequest::get("https://a.example/"), &signs), "INVALID_INPUT");
        let nothing = Outbound::default().prepare(HttpRequest::get("https://a.example/"), &bearer);
        assert_eq!(nothing.unwrap_err().code, "FORBIDDEN");
    }
}
