//! From a document to operations: names, types, and the endpoints behind them.

use std::collections::BTreeMap;
use std::sync::Arc;

use alknet_plugin_api::{OperationSpec, OperationType};
use reqwest::{Method, Url};
use serde_json::Value;

use super::answers::{Answers, answers};
use super::document::{CORRECT, Document, DocumentError, Place};
use super::layout::{Layout, layout};
use super::security::Security;
use crate::capabilities::Lent;
use crate::imports::endpoint::{Endpoint, PathTemplate};
use crate::imports::http::HttpClient;
use crate::imports::parameter::Location;
use crate::imports::selection::Selection;

const METHODS: [(&str, Method); 8] = [
    ("get", Method::GET),
    ("put", Method::PUT),
    ("post", Method::POST),
    ("delete", Method::DELETE),
    ("options", Method::OPTIONS),
    ("head", Method::HEAD),
    ("patch", Method::PATCH),
    ("trace", Method::TRACE),
];

/// An operation of the document.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) spec: OperationSpec,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) is_stream: bool,
    /// Why its requests go without the credential that there is, or with one that
    /// the document does not mention.
    pub(super) doubt: Option<String>,
}

/// Where requests go, and with what.
pub(super) struct Service<'a> {
    pub(super) client: &'a HttpClient,
    /// Where the service is; the document's own servers do not count then.
    pub(super) base_url: Option<&'a str>,
    /// Where the document came from, if it came from a URL.
    pub(super) document_url: Option<&'a Url>,
    pub(super) credential: Option<&'a Lent>,
}

/// The operations of `document` that `selection` wants.
///
/// # Errors
/// Everything that is wrong with them.
pub(super) fn operations(
    document: &Document,
    selection: &Selection,
    service: &Service<'_>,
) -> Result<Vec<Found>, Vec<DocumentError>> {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    let at = Place::root().at("paths");
    let empty = serde_json::Map::new();
    let paths = match document.root().get("paths") {
        Some(Value::Object(paths)) => paths,
        // A document of 3.1 may hold webhooks or components alone.
        None => &empty,
        Some(_) => return Err(vec![at.wrong("`paths` is an object", CORRECT)]),
    };
    let security = Security::read(document);
    for (path, item) in paths.iter().filter(|(path, _)| !path.starts_with("x-")) {
        let (item, at) = match document.resolve(item, at.at(path)) {
            Ok(resolved) => resolved,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        for (word, method) in &METHODS {
            let Some(operation) = item.get(word) else { continue };
            let (source_name, at) = (name(word, path, operation), at.at(word));
            let Some(name) = selection.name(&source_name) else { continue };
            if let Some(first) = places.insert(name.clone(), at.clone()) {
                let what = format!("the name `{source_name}` is that of {first}, too");
                problems.push(at.wrong(what, CORRECT));
                continue;
            }
            let place = Operation { path, item, operation, at: &at };
            let read = place.read(document, &name, method.clone(), service, &security);
            match read {
                Ok(operation) => found.push(operation),
                Err(problem) => problems.push(problem),
            }
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(problems) }
}

/// An operation's id, or else its method and path, in the characters that names
/// may have.
fn name(method: &str, path: &str, operation: &Value) -> String {
    let id = operation.get("operationId").and_then(Value::as_str).filter(|id| !id.is_empty());
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if let Some(id) = id {
        return id.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    }
    let mut name = method.to_owned();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        name.push('_');
        name.extend(
            segment.chars().filter(|c| !matches!(c, '{' | '}')).map(
                |c| {
                    if plain(c) { c } else { '_' }
                },
            ),
        );
    }
    name
}

struct Operation<'d> {
    path: &'d str,
    item: &'d Value,
    operation: &'d Value,
    at: &'d Place,
}

impl Operation<'_> {
    fn read(
        &self,
        document: &Document,
        name: &str,
        method: Method,
        service: &Service<'_>,
        security: &Security<'_>,
    ) -> Result<Found, DocumentError> {
        let Self { operation, at, .. } = *self;
        // The path's own parameters stand one level up.
        let item_at = Place::root().at("paths").at(self.path);
        let Layout { parameters, body, schema, example } =
            layout(document, (self.item, &item_at), (operation, at))?;
        let path = PathTemplate::parse(self.path).map_err(|what| at.wrong(what, CORRECT))?;
        let of_path = |name: &str| {
            parameters.iter().any(|one| one.location == Location::Path && one.name == name)
        };
        if let Some(missing) = path.holes().find(|name| !of_path(name)) {
            let what = format!("the path's `{{{missing}}}` is not among the parameters");
            return Err(at.wrong(what, CORRECT));
        }
        let Answers { output, errors, is_stream, accept } = answers(document, operation, at)?;
        let mut spec = match is_stream {
            true => OperationSpec::subscription(name),
            false if method == Method::GET => OperationSpec::query(name),
            false => OperationSpec::mutation(name),
        };
        let is_deprecated = operation.get("deprecated") == Some(&Value::Bool(true));
        spec.description = description(operation, is_deprecated);
        spec.tags = tags(operation, is_deprecated);
        spec.examples = example.into_iter().collect();
        spec.input_schema = schema;
        spec.output_schema = output;
        spec.error_schemas = errors;
        debug_assert_eq!(is_stream, spec.op_type == OperationType::Subscription);
        let base = self.base(document, service)?;
        let mut credential = service.credential.filter(|_| security.asks(operation));
        let mut doubt = None;
        if let Some(lent) = credential {
            if !base.is_home {
                credential = None;
                doubt = Some(format!("goes to {} without the credential", base.url));
            } else if let Some(schemes) = security.mismatch(operation, lent) {
                doubt = Some(format!("asks for {schemes}, which the credential is not"));
            }
        }
        let endpoint = Endpoint {
            client: service.client.clone(),
            method,
            base: base.url,
            path,
            parameters,
            body,
            accept,
            credential: credential.cloned(),
        };
        Ok(Found { spec, endpoint: Arc::new(endpoint), is_stream, doubt })
    }

    fn base(&self, document: &Document, service: &Service<'_>) -> Result<Base, DocumentError> {
        if let Some(url) = service.base_url {
            return Ok(Base { url: url.trim_end_matches('/').to_owned(), is_home: true });
        }
        let whole = Place::root();
        let path_at = Place::root().at("paths").at(self.path);
        let home = server(document.root(), &whole, service.document_url)?;
        let own = match server(self.operation, self.at, service.document_url)? {
            Some(own) => Some(own),
            None => server(self.item, &path_at, service.document_url)?,
        };
        // A service is where its document is, if it does not say otherwise.
        let from_document = service.document_url.and_then(|url| url.join("/").ok());
        let home = home.or_else(|| from_document.clone());
        let Some(url) = own.or_else(|| home.clone()) else {
            return Err(whole.at("servers").wrong(
                "the document does not say where the service is",
                "write it in the import: `base_url = \"https://…\"`",
            ));
        };
        // Who serves a document could name any server in it.
        let trusted = service.document_url.map(Url::origin).or(home.map(|url| url.origin()));
        let is_home = trusted == Some(url.origin());
        Ok(Base { url: url.as_str().trim_end_matches('/').to_owned(), is_home })
    }
}

struct Base {
    url: String,
    /// Whether the credential may go there.
    is_home: bool,
}

/// The first server that `holder` names.
fn server(
    holder: &Value,
    at: &Place,
    document_url: Option<&Url>,
) -> Result<Option<Url>, DocumentError> {
    const REMEDY: &str = "write where the service is in the import: `base_url = \"https://…\"`";
    let Some(server) = holder.get("servers").and_then(|servers| servers.get(0)) else {
        return Ok(None);
    };
    let at = at.at("servers").at(0).at("url");
    let Some(template) = server.get("url").and_then(Value::as_str) else {
        return Err(at.wrong("a server needs `url`", REMEDY));
    };
    let mut text = template.to_owned();
    let variables = server.get("variables").and_then(Value::as_object);
    for (name, variable) in variables.into_iter().flatten() {
        if let Some(value) = variable.get("default").and_then(Value::as_str) {
            text = text.replace(&format!("{{{name}}}"), value);
        }
    }
    if text.contains(['{', '}']) {
        let what = format!("the server `{template}` has a variable without a default");
        return Err(at.wrong(what, REMEDY));
    }
    let parsed = match document_url {
        Some(url) => url.join(&text),
        None => Url::parse(&text),
    };
    match parsed {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.query().is_none() => {
            Ok(Some(url))
        }
        _ => Err(at.wrong(format!("`{text}` does not say where the service is"), REMEDY)),
    }
}

/// Summary and description as sentences, one after the other.
fn description(operation: &Value, is_deprecated: bool) -> String {
    let text = |key: &str| operation.get(key).and_then(Value::as_str).map(str::trim);
    let mut parts: Vec<&str> = Vec::new();
    parts.extend(is_deprecated.then_some("Deprecated."));
    for text in ["summary", "description"].into_iter().filter_map(text) {
        if !text.is_empty() && !parts.contains(&text) {
            parts.push(text);
        }
    }
    let mut whole = String::new();
    for part in parts {
        if !whole.is_empty() {
            whole.push_str(if whole.ends_with(['.', '!', '?', ':']) { " " } else { ". " });
        }
        whole.push_str(part);
    }
    whole
}

fn tags(operation: &Value, is_deprecated: bool) -> Vec<String> {
    let tags = operation.get("tags").and_then(Value::as_array).into_iter().flatten();
    let mut tags: Vec<_> = tags.filter_map(Value::as_str).map(str::to_owned).collect();
    tags.extend(is_deprecated.then(|| "deprecated".to_owned()));
    tags
}
