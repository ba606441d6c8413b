//! `from_jsonschema`: one endpoint of an HTTP service, from a spec that the
//! operator writes.
//!
//! Members of the input that the path template names go into the path. The others
//! go into the query of a `GET` or `DELETE`, and as one JSON object into the body
//! of anything else.

use std::path::PathBuf;
use std::sync::Arc;

use alknet_plugin_api::{CallError, CallFuture, Capability, Json, OperationSpec, OperationType};
use futures_util::future::BoxFuture;
use reqwest::{Method, Url};
use serde_json::{Map, Value};

use super::body::{Body, Encoding};
use super::endpoint::{Endpoint, Once, PathTemplate};
use super::http::HttpClient;
use super::parameter::{Location, Parameter};
use super::selection::Selection;
use super::{AdapterError, OperationAdapter, leaf};
use crate::capabilities::Lent;
use crate::registry::{Code, HandlerRegistration, HostCall, HostOperation, Provenance};

/// The body's key in what an endpoint takes. No member of an input is called so.
const BODY: &str = "\u{0}body";

/// Where one endpoint is, and what it takes.
#[derive(Clone, Debug)]
pub struct HttpServiceConfig {
    /// The import's name in the deployment file.
    pub import: String,
    /// The file of the operation's spec: JSON, as `services/schema` shows specs.
    pub spec: PathBuf,
    /// The service.
    pub url: Url,
    /// The request's method.
    pub method: Method,
    /// The request's path, in which `{member}` stands for the input's members.
    pub path: String,
    /// The operation's name.
    pub selection: Selection,
    /// What the service asks for.
    pub credential: Option<Lent>,
}

/// Imports one endpoint.
#[derive(Debug)]
pub struct FromJsonSchema {
    config: HttpServiceConfig,
    client: HttpClient,
}

impl FromJsonSchema {
    /// An adapter whose requests `client` makes.
    pub(crate) fn new(config: HttpServiceConfig, client: HttpClient) -> Self {
        Self { config, client }
    }

    /// Reads the spec, so that a mistake shows before a start.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(&self) -> Result<(), AdapterError> {
        let text = std::fs::read_to_string(&self.config.spec);
        self.registration(&text.map_err(|error| self.unreadable(&error))?).map(drop)
    }

    fn unreadable(&self, error: &std::io::Error) -> AdapterError {
        AdapterError::DiscoveryFailed {
            source_name: self.config.spec.display().to_string(),
            cause: format!("the file cannot be read: {error}"),
            remedy: "name a file of UTF-8 text that the daemon's user may read".to_owned(),
        }
    }

    fn registration(&self, text: &str) -> Result<Vec<HandlerRegistration>, AdapterError> {
        let source_name = self.config.spec.display().to_string();
        let wrong = |cause: String, remedy: &str| AdapterError::DiscoveryFailed {
            source_name: source_name.clone(),
            cause,
            remedy: remedy.to_owned(),
        };
        let remedy = "write an operation's spec in JSON, with `name` and `input_schema` at least";
        let value: Value = serde_json::from_str(text).map_err(|e| wrong(e.to_string(), remedy))?;
        let mut spec = spec(value).map_err(|cause| wrong(cause, remedy))?;
        let expected = if self.config.method == Method::GET {
            OperationType::Query
        } else {
            OperationType::Mutation
        };
        if spec.op_type == OperationType::Subscription {
            let remedy = "describe the service with an OpenAPI document, which can say so";
            return Err(wrong("an endpoint of one answer is no subscription".into(), remedy));
        }
        spec.op_type = expected;
        let path = PathTemplate::parse(&self.config.path)
            .map_err(|cause| wrong(cause, "correct `path` in the import"))?;
        let members = spec.input_schema.get("properties").and_then(Value::as_object);
        let members: Vec<String> =
            members.into_iter().flat_map(|members| members.keys().cloned()).collect();
        if let Some(hole) = path.holes().find(|hole| !members.iter().any(|name| name == hole)) {
            return Err(wrong(
                format!("the path's `{{{hole}}}` is not among the input's properties"),
                "add it to `input_schema`, or correct `path` in the import",
            ));
        }
        let Some(name) = self.config.selection.name(&spec.name) else { return Ok(Vec::new()) };
        spec.namespace = name.split('/').next().unwrap_or_default().to_owned();
        spec.name = name;
        let code = self.code(path, members);
        let capability = self.config.credential.as_ref().map(Capability::from);
        let import = &self.config.import;
        Ok(vec![leaf(spec, code, import, Provenance::FromJsonSchema, capability.as_ref())])
    }

    fn code(&self, path: PathTemplate, members: Vec<String>) -> Code {
        let has_body = !matches!(self.config.method, Method::GET | Method::DELETE);
        let of_path: Vec<_> = path.holes().map(str::to_owned).collect();
        let mut parameters: Vec<_> =
            of_path.iter().map(|name| Parameter::new(name, Location::Path)).collect();
        if !has_body {
            let of_query = members.iter().filter(|name| !of_path.contains(name));
            parameters.extend(of_query.map(|name| Parameter::new(name, Location::Query)));
        }
        let body = Body { encoding: Encoding::Json, media_type: "application/json".to_owned() };
        let endpoint = Endpoint {
            client: self.client.clone(),
            method: self.config.method.clone(),
            base: self.config.url.as_str().trim_end_matches('/').to_owned(),
            path,
            parameters,
            body: has_body.then(|| (BODY.to_owned(), body)),
            accept: "application/json, */*;q=0.8",
            credential: self.config.credential.clone(),
        };
        let once = Once(Arc::new(endpoint));
        match has_body {
            true => Code::Host(Arc::new(Gathering { once, of_path })),
            false => Code::Host(Arc::new(once)),
        }
    }
}

/// A spec in which only name and input are required.
fn spec(value: Value) -> Result<OperationSpec, String> {
    let Value::Object(given) = value else { return Err("a spec is an object".to_owned()) };
    let name = given.get("name").and_then(Value::as_str).ok_or("`name` is missing")?.to_owned();
    if !given.contains_key("input_schema") {
        return Err("`input_schema` is missing".to_owned());
    }
    let name = name.trim_start_matches('/').to_owned();
    let blank = serde_json::to_value(OperationSpec::mutation(&*name)).map_err(|e| e.to_string())?;
    let mut whole = match blank {
        Value::Object(blank) => blank,
        _ => Map::new(),
    };
    if let Some(unknown) = given.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("`{unknown}` is not known"));
    }
    whole.extend(given);
    whole.insert("name".to_owned(), Value::String(name));
    serde_json::from_value(Value::Object(whole)).map_err(|error| error.to_string())
}

const KEYS: [&str; 13] = [
    "name",
    "namespace",
    "op_type",
    "visibility",
    "description",
    "tags",
    "examples",
    "input_schema",
    "output_schema",
    "error_schemas",
    "access_control",
    "resource_id_path",
    "$schema",
];

/// An endpoint whose body is what of the input the path does not take.
struct Gathering {
    once: Once,
    of_path: Vec<String>,
}

impl HostOperation for Gathering {
    fn call(&self, call: HostCall, input: Json) -> CallFuture {
        let members: Result<Map<String, Value>, _> = input.to();
        let mut members = match members {
            Ok(members) => members,
            Err(error) => {
                let error = CallError::invalid_input(format!("the input is no object: {error}"));
                return Box::pin(std::future::ready(Err(error)));
            }
        };
        let taken = self.of_path.iter().filter_map(|name| members.remove_entry(name));
        let mut split: Map<String, Value> = taken.collect();
        split.insert(BODY.to_owned(), Value::Object(members));
        self.once.call(call, Value::Object(split).into())
    }
}

impl OperationAdapter for FromJsonSchema {
    fn import(&self) -> BoxFuture<'_, Result<Vec<HandlerRegistration>, AdapterError>> {
        Box::pin(async move {
            let text = tokio::fs::read_to_string(&self.config.spec).await;
            self.registration(&text.map_err(|error| self.unreadable(&error))?)
        })
    }
}
