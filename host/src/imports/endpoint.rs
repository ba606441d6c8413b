//! One endpoint of an HTTP service as an operation: an input becomes a request,
//! an answer becomes an output.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use alknet_plugin_api::{CallError, CallFuture, CallStream, Json};
use futures_util::StreamExt;
use reqwest::header::{ACCEPT, CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Request, Response, Url};
use serde_json::Value;

use super::body::Body;
use super::http::{HttpClient, is_event_stream, lost, service};
use super::parameter::{Location, Parameter};
use super::sse::{Event, Reader};
use crate::capabilities::Lent;
use crate::registry::{HostCall, HostOperation, HostSubscription};

/// A path with holes for parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathTemplate(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Hole(String),
}

impl PathTemplate {
    /// Reads `/pets/{id}/toys`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err(format!("the path `{text}` does not begin with `/`"));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after
                .split_once('}')
                .ok_or_else(|| format!("a brace of the path `{text}` is not closed"))?;
            if name.is_empty() || name.contains(['{', '/']) {
                return Err(format!("`{{{name}}}` in the path `{text}` is no parameter's name"));
            }
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Hole(name.to_owned()));
            rest = after;
        }
        if rest.contains('}') {
            return Err(format!("a brace of the path `{text}` is not opened"));
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self(parts))
    }

    /// The names of the holes.
    pub(super) fn holes(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Hole(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The path, with each hole filled by `value`.
    fn fill(&self, value: impl Fn(&str) -> Result<String, CallError>) -> Result<String, CallError> {
        let mut path = String::new();
        // Segments that hold a parameter, which must stay one segment.
        let mut filled = Vec::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => path.push_str(text),
                Part::Hole(name) => {
                    filled.push((path.matches('/').count(), name));
                    path.push_str(&value(name)?);
                }
            }
        }
        let segments: Vec<_> = path.split('/').collect();
        for (segment, name) in filled {
            // Dots would climb in the path, and nothing would name another one.
            let dots = segments[segment].replace("%2E", ".");
            if matches!(&*dots, "" | "." | "..") {
                return Err(CallError::invalid_input(format!(
                    "the parameter `{name}` makes a path segment that is empty, `.` or `..`"
                )));
            }
        }
        Ok(path)
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Hole(name) => write!(f, "{{{name}}}"),
        })
    }
}

/// An endpoint, ready to be called.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) client: HttpClient,
    pub(super) method: Method,
    /// The service, without a slash at its end.
    pub(super) base: String,
    pub(super) path: PathTemplate,
    pub(super) parameters: Vec<Parameter>,
    /// The body and its key in the input.
    pub(super) body: Option<(String, Body)>,
    /// What to ask for.
    pub(super) accept: &'static str,
    pub(super) credential: Option<Lent>,
}

/// What the input of a call says, by key.
type Input = HashMap<String, Json>;

impl Endpoint {
    /// The request for an input that has its schema's shape, without the
    /// credential.
    fn request(&self, input: &Json) -> Result<Request, CallError> {
        let input: Input = input.to().map_err(|error| {
            CallError::invalid_input(format!("the input is no object: {error}"))
        })?;
        let value = |parameter: &Parameter| -> Option<Value> {
            input.get(&parameter.key)?.to().ok().filter(|value| *value != Value::Null)
        };
        let path = self.path.fill(|name| {
            let mut of_path = self.parameters.iter().filter(|p| p.location == Location::Path);
            let parameter = of_path.find(|parameter| parameter.name == name);
            let filled =
                parameter.and_then(|parameter| Some(parameter.in_path(&value(parameter)?)));
            filled.ok_or_else(|| {
                CallError::invalid_input(format!("the path parameter `{name}` is missing"))
            })
        })?;
        let (mut query, mut cookies) = (Vec::new(), Vec::new());
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(self.accept));
        for parameter in &self.parameters {
            let Some(value) = value(parameter) else { continue };
            match parameter.location {
                Location::Path => {}
                Location::Query => query.extend(parameter.pairs(&value)),
                Location::Cookie => cookies.extend(parameter.pairs(&value)),
                Location::Header => {
                    let (name, value) = header(&parameter.name, &parameter.in_header(&value))?;
                    headers.insert(name, value);
                }
            }
        }
        if !cookies.is_empty() {
            headers.insert(COOKIE, header("cookie", &join(&cookies, "; "))?.1);
        }
        let mut url = format!("{}{path}", self.base);
        if !query.is_empty() {
            url = format!("{url}?{}", join(&query, "&"));
        }
        let url = Url::parse(&url).map_err(|error| {
            CallError::invalid_input(format!("the URL of the request: {error}"))
        })?;
        let mut request = Request::new(self.method.clone(), url);
        if let Some((key, body)) = &self.body
            && let Some(value) = input.get(key)
        {
            let (media_type, bytes) = body.write(value)?;
            headers.insert(CONTENT_TYPE, header("content-type", &media_type)?.1);
            *request.body_mut() = Some(bytes.into());
        }
        *request.headers_mut() = headers;
        Ok(request)
    }

    async fn send(&self, input: &Json) -> Result<Response, CallError> {
        let mut request = self.request(input)?;
        if let Some((name, value)) = self.credential.as_ref().and_then(Lent::http_header) {
            request.headers_mut().insert(name, value);
        }
        self.client.send(request).await
    }
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), CallError> {
    let wrong = |_| CallError::invalid_input(format!("no header `{name}` can hold this value"));
    let value = HeaderValue::from_str(value).map_err(wrong)?;
    let name = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| CallError::internal(format!("`{name}` is no header's name")))?;
    Ok((name, value))
}

fn join(pairs: &[(String, String)], between: &str) -> String {
    let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(between)
}

/// An endpoint that answers once.
pub(super) struct Once(pub(super) Arc<Endpoint>);

impl HostOperation for Once {
    fn call(&self, _call: HostCall, input: Json) -> CallFuture {
        let endpoint = self.0.clone();
        Box::pin(async move {
            let response = endpoint.send(&input).await?;
            endpoint.client.answer(response).await
        })
    }
}

/// An endpoint that answers with a stream of events.
pub(super) struct Events(pub(super) Arc<Endpoint>);

/// A stream of events under way.
struct Stream {
    response: Response,
    reader: Reader,
    ready: VecDeque<Event>,
    service: String,
}

impl HostSubscription for Events {
    fn subscribe(&self, _call: HostCall, input: Json) -> CallStream {
        let endpoint = self.0.clone();
        let started = async move { endpoint.events(&input).await };
        let items = futures_util::stream::once(started).flat_map(|started| match started {
            Ok(stream) => futures_util::stream::unfold(Some(stream), next).boxed(),
            Err(error) => futures_util::stream::once(async { Err(error) }).boxed(),
        });
        items.boxed()
    }
}

impl Endpoint {
    async fn events(&self, input: &Json) -> Result<Stream, CallError> {
        let response = self.send(input).await?;
        let service = service(response.url());
        if !response.status().is_success() {
            return Err(self.client.failure(response).await);
        }
        if !is_event_stream(response.headers()) {
            let what = format!("{service} answered with something else than a stream of events");
            return Err(CallError::internal(what));
        }
        let reader = Reader::new(self.client.max_response());
        Ok(Stream { response, reader, ready: VecDeque::new(), service })
    }
}

/// The next item. Nothing is read while nobody asks for one, so a slow consumer
/// holds the service back.
async fn next(stream: Option<Stream>) -> Option<(Result<Json, CallError>, Option<Stream>)> {
    let mut stream = stream?;
    loop {
        if let Some(event) = stream.ready.pop_front() {
            return Some((Ok(item(event)), Some(stream)));
        }
        let error = match stream.response.chunk().await {
            Ok(Some(bytes)) => match stream.reader.push(&bytes, &mut stream.ready) {
                Ok(()) => continue,
                Err(_) => CallError::internal(format!(
                    "{} sent an event over the import's limit; raise `max_response`",
                    stream.service
                )),
            },
            Ok(None) => return None,
            Err(error) => lost(&stream.service, &error),
        };
        return Some((Err(error), None));
    }
}

/// An event as an item: `{data, event?, id?}`, where data that is JSON stands as
/// such.
fn item(event: Event) -> Json {
    let data = match Json::parse(event.data.clone()) {
        Ok(data) => data,
        Err(_) => Value::String(event.data).into(),
    };
    let mut text = b"{\"data\":".to_vec();
    text.extend_from_slice(data.as_bytes());
    for (key, value) in [("event", event.name), ("id", event.id)] {
        if let Some(value) = value {
            text.extend_from_slice(format!(",\"{key}\":{}", Value::String(value)).as_bytes());
        }
    }
    text.push(b'}');
    Json::from_checked(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::imports::body::Encoding;
    use crate::imports::parameter::Style;

    fn endpoint(path: &str, parameters: Vec<Parameter>) -> Endpoint {
        let body = Body { encoding: Encoding::Json, media_type: "application/json".into() };
        Endpoint {
            client: HttpClient::new(1024, None).unwrap(),
            method: Method::POST,
            base: "http://127.0.0.1:9/v1".into(),
            path: PathTemplate::parse(path).unwrap(),
            parameters,
            body: Some(("body".into(), body)),
            accept: "application/json",
            credential: None,
        }
    }

    #[tokio::test]
    async fn an_input_becomes_a_request() {
        let keyed = |key: &str, name: &str, location| Parameter {
            key: key.to_owned(),
            ..Parameter::new(name, location)
        };
        let endpoint = endpoint(
            "/pets/{id}/toys.{ext}",
            vec![
                keyed("path.id", "id", Location::Path),
                keyed("ext", "ext", Location::Path),
                keyed("query.id", "id", Location::Query),
                Parameter { style: Style::Json, ..Parameter::new("filter", Location::Query) },
                Parameter::new("X-Trace", Location::Header),
                Parameter::new("session", Location::Cookie),
                Parameter::new("absent", Location::Query),
            ],
        );
        let input = json!({
            "path.id": 7, "ext": "a b", "query.id": ["x", "y"], "filter": {"a": 1},
            "X-Trace": "t1", "session": "s;1", "absent": null, "body": {"n": 1.50},
        });
        let request = endpoint.request(&input.into()).unwrap();
        assert_eq!(
            request.url().as_str(),
            "http://127.0.0.1:9/v1/pets/7/toys.a%20b?id=x&id=y&filter=%7B%22a%22%3A1%7D"
        );
        let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("x-trace"), "t1");
        assert_eq!(header("cookie"), "session=s%3B1");
        assert_eq!(header("content-type"), "application/json");
        assert_eq!(request.body().unwrap().as_bytes().unwrap(), br#"{"n":1.5}"#);
    }

    #[tokio::test]
    async fn the_body_is_passed_on_untouched() {
        let endpoint = endpoint("/x", Vec::new());
        let input = Json::parse(r#"{"body": {"n": 12345678901234567890123, "a":  [] } }"#).unwrap();
        let request = endpoint.request(&input).unwrap();
        let body = request.body().unwrap().as_bytes().unwrap();
        assert_eq!(body, br#"{"n": 12345678901234567890123, "a":  [] }"#);
        // Without a body there is no content type either.
        let request = endpoint.request(&Json::empty_object()).unwrap();
        assert!(request.body().is_none() && !request.headers().contains_key("content-type"));
    }

    #[tokio::test]
    async fn no_value_leaves_its_place_in_the_request() {
        let endpoint = endpoint(
            "/a/{id}/b",
            vec![Parameter::new("id", Location::Path), Parameter::new("X-A", Location::Header)],
        );
        for id in ["..", ".", "", "%2e%2e"] {
            let outcome = endpoint.request(&json!({ "id": id }).into());
            match outcome {
                // The percent sign itself is encoded, so this one is harmless.
                Ok(request) => assert!(request.url().path().ends_with("/a/%252e%252e/b"), "{id}"),
                Err(error) => assert_eq!(error.code, "INVALID_INPUT"),
            }
        }
        let error = endpoint.request(&json!({ "id": 1, "X-A": "a\r\nb: c" }).into()).unwrap_err();
        assert_eq!(error.code, "INVALID_INPUT");
        let error = endpoint.request(&json!({}).into()).unwrap_err();
        assert!(error.message.contains("`id` is missing"), "{error}");
        let request = endpoint.request(&json!({ "id": "a/../../c?d#e" }).into()).unwrap();
        assert_eq!(request.url().path(), "/v1/a/a%2F..%2F..%2Fc%3Fd%23e/b");
    }

    #[test]
    fn paths_without_sense_are_refused() {
        for path in ["pets", "/{", "/{}", "/a}", "/{a/b}", "/{a{b}}"] {
            assert!(PathTemplate::parse(path).is_err(), "{path}");
        }
        let path = PathTemplate::parse("/{a}/{b}").unwrap();
        assert_eq!(path.holes().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn an_item_has_its_data_as_json_where_it_is() {
        let event = |name: Option<&str>, data: &str| Event {
            name: name.map(str::to_owned),
            id: None,
            data: data.to_owned(),
        };
        assert_eq!(item(event(None, "[1, 2]")).to_string(), r#"{"data":[1, 2]}"#);
        let named = item(event(Some("a\"b"), "[DONE]"));
        assert_eq!(named.to_string(), r#"{"data":"[DONE]","event":"a\"b"}"#);
        Json::parse(named.into_bytes()).unwrap();
    }
}
