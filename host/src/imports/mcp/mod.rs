//! `from_mcp`: the tools of an MCP server, over streamable HTTP.
//!
//! A tool is a mutation. Its output is the result's structured content, or else
//! the content blocks as they came; a result that says it is an error is one.
//! Dropping a call tells the server that it is cancelled.
//!
//! A server that starts anew has forgotten its clients, and one that changes may
//! say so or not. So the tools are asked for again when the server says that they
//! changed, now and then without that, and over a new session when the old one is
//! lost. What was imported stays registered meanwhile, and its calls fail as
//! retryable until the new session stands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alknet_plugin_api::{CallError, CallFuture, Capability, Json, OperationSpec};
use futures_util::future::BoxFuture;
use reqwest::Url;
use rmcp::ServiceError;
use rmcp::model::{CallToolRequestParams, CallToolResult, ErrorCode, JsonObject, Tool};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::http::{HttpClient, service};
use super::selection::Selection;
use super::{AdapterError, OperationAdapter, leaf};
use crate::capabilities::Lent;
use crate::registry::{Code, HandlerRegistration, HostCall, HostOperation, Provenance};

mod session;
mod transport;

use session::Session;

/// How often a server that says nothing is asked for its tools.
const LOOK: Duration = Duration::from_secs(30);
/// The error of a tool that says it failed.
const TOOL_ERROR: &str = "TOOL_ERROR";
/// The longest text of a tool's own that stands as an error's message.
const MAX_MESSAGE: usize = 1_000;

/// What an import from an MCP server needs to know.
#[derive(Clone, Debug)]
pub struct McpConfig {
    /// The import's name in the deployment file.
    pub import: String,
    /// The server's endpoint.
    pub url: Url,
    /// Which tools, and their names.
    pub selection: Selection,
    /// What the server asks for.
    pub credential: Option<Lent>,
}

impl McpConfig {
    /// The server as messages name it.
    fn server(&self) -> String {
        format!("{}{}", service(&self.url), self.url.path())
    }
}

/// Imports the tools of one server.
#[derive(Debug)]
pub struct FromMcp {
    config: McpConfig,
    client: HttpClient,
    shared: Arc<Shared>,
}

/// What the adapter shares with the calls of its tools.
#[derive(Debug)]
struct Shared {
    server: String,
    session: watch::Sender<Option<Arc<Session>>>,
}

impl Shared {
    fn session(&self) -> Option<Arc<Session>> {
        self.session.borrow().clone()
    }

    /// Lets go of `session`, if it is still the one in use.
    fn drop_session(&self, session: &Arc<Session>) {
        self.session.send_if_modified(|current| {
            let is_current = current.as_ref().is_some_and(|current| Arc::ptr_eq(current, session));
            if is_current {
                *current = None;
            }
            is_current
        });
    }
}

impl FromMcp {
    /// An adapter whose requests `client` makes.
    pub(crate) fn new(config: McpConfig, client: HttpClient) -> Self {
        let session = watch::Sender::new(None);
        let shared = Arc::new(Shared { server: config.server(), session });
        Self { config, client, shared }
    }

    async fn tools(&self) -> Result<Vec<Tool>, AdapterError> {
        let session = match self.shared.session().filter(|session| session.is_open()) {
            Some(session) => session,
            None => {
                let session = Session::open(&self.config, &self.client).await?;
                let session = Arc::new(session);
                self.shared.session.send_replace(Some(session.clone()));
                session
            }
        };
        session.list().await.map_err(|error| {
            self.shared.drop_session(&session);
            session::refused(&self.shared.server, error)
        })
    }

    fn registrations(&self, tools: Vec<Tool>) -> Result<Vec<HandlerRegistration>, AdapterError> {
        let capability = self.config.credential.as_ref().map(Capability::from);
        let mut by_name: BTreeMap<String, HandlerRegistration> = BTreeMap::new();
        for tool in tools {
            let source_name = plain_name(&tool.name);
            let Some(name) = self.config.selection.name(&source_name) else { continue };
            if by_name.contains_key(&name) {
                return Err(AdapterError::SamePeerCollision {
                    source_name: self.shared.server.clone(),
                    operation: source_name,
                });
            }
            let code = ToolCall { shared: self.shared.clone(), tool: tool.name.to_string() };
            let spec = spec(name.clone(), tool);
            let code = Code::Host(Arc::new(code));
            let import = &self.config.import;
            let leaf = leaf(spec, code, import, Provenance::FromMcp, capability.as_ref());
            by_name.insert(name, leaf);
        }
        Ok(by_name.into_values().collect())
    }

    /// Looks at the tools now and then, until they are others. A server that does
    /// not answer is taken for lost.
    async fn look(&self, session: &Arc<Session>) {
        loop {
            tokio::time::sleep(LOOK).await;
            match tokio::time::timeout(LOOK, session.differs()).await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => return,
                Ok(Err(_)) | Err(_) => {
                    self.shared.drop_session(session);
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

impl OperationAdapter for FromMcp {
    fn import(&self) -> BoxFuture<'_, Result<Vec<HandlerRegistration>, AdapterError>> {
        Box::pin(async move {
            let tools = self.tools().await?;
            self.registrations(tools)
        })
    }

    fn lost(&self) -> BoxFuture<'_, AdapterError> {
        Box::pin(async move {
            let mut session = self.shared.session.subscribe();
            // The sender lives as long as this adapter.
            let _gone = session.wait_for(Option::is_none).await;
            AdapterError::Transport {
                source_name: self.shared.server.clone(),
                cause: "the session is lost".to_owned(),
            }
        })
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Some(session) = self.shared.session() else {
                return std::future::pending().await;
            };
            tokio::select! {
                () = session.changed() => {
                    let import = &self.config.import;
                    tracing::info!(import, "the server says that its tools changed");
                }
                () = self.look(&session) => {}
            }
        })
    }

    fn keeps_operations(&self) -> bool {
        true
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let session = self.shared.session.send_replace(None);
            if let Some(session) = session {
                session.close().await;
            }
        })
    }
}

/// A tool's name in the characters that names may have.
fn plain_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.chars().map(|c| if plain(c) { c } else { '_' }).collect()
}

fn spec(name: String, tool: Tool) -> OperationSpec {
    let title = tool.title.or_else(|| tool.annotations.and_then(|hints| hints.title));
    let description = tool.description.map(|text| text.into_owned()).or(title).unwrap_or_default();
    let mut spec = OperationSpec::mutation(name)
        .description(description.trim())
        .input(Value::Object(JsonObject::clone(&tool.input_schema)))
        .error_definition(alknet_plugin_api::ErrorDefinition {
            code: TOOL_ERROR.to_owned(),
            description: "The tool says that it failed.".to_owned(),
            schema: json!({
                "type": "object",
                "required": ["content"],
                "properties": {"content": {"type": "array"}, "structured": true},
            }),
            http_status: Some(502),
        });
    if let Some(schema) = tool.output_schema {
        spec = spec.output(Value::Object(JsonObject::clone(&schema)));
    }
    spec
}

/// The code of one tool.
struct ToolCall {
    shared: Arc<Shared>,
    tool: String,
}

impl HostOperation for ToolCall {
    fn call(&self, _call: HostCall, input: Json) -> CallFuture {
        let (shared, tool) = (self.shared.clone(), self.tool.clone());
        Box::pin(async move {
            let arguments: JsonObject = input.to().map_err(|error| {
                CallError::invalid_input(format!("a tool takes an object: {error}"))
            })?;
            let Some(session) = shared.session().filter(|session| session.is_open()) else {
                let what = format!("{} is not connected; the node is trying again", shared.server);
                return Err(CallError::internal(what).retryable(true));
            };
            let request = CallToolRequestParams::new(tool).with_arguments(arguments);
            // Dropping this future sends the server a cancellation.
            match session.call(request).await {
                Ok(result) => output(result),
                Err(error) => {
                    let failure = failure(&shared.server, &error);
                    if session::is_lost(&error) {
                        shared.drop_session(&session);
                    }
                    Err(failure)
                }
            }
        })
    }
}

fn output(result: CallToolResult) -> Result<Json, CallError> {
    let unreadable =
        |error: alknet_plugin_api::JsonError| CallError::internal(format!("the result: {error}"));
    if result.is_error != Some(true) {
        return match &result.structured_content {
            Some(structured) => Json::of(structured).map_err(unreadable),
            None => Json::of(&result.content).map_err(unreadable),
        };
    }
    let mut details = json!({ "content": result.content });
    let texts = details["content"].as_array().into_iter().flatten();
    let text = texts.filter_map(|block| block["text"].as_str()).next();
    let message = text.unwrap_or("the tool says that it failed");
    let end = message.char_indices().nth(MAX_MESSAGE).map_or(message.len(), |(at, _)| at);
    let message = message[..end].to_owned();
    if let Some(structured) = result.structured_content {
        details["structured"] = structured;
    }
    Err(CallError::new(TOOL_ERROR, message).with_details(details))
}

/// What an error of the session is to the caller of a tool.
fn failure(server: &str, error: &ServiceError) -> CallError {
    match error {
        ServiceError::McpError(error) if error.code == ErrorCode::INVALID_PARAMS => {
            CallError::invalid_input(error.message.to_string())
        }
        ServiceError::McpError(error) => {
            let what = format!("{server} answered with error {}: {}", error.code.0, error.message);
            CallError::internal(what)
        }
        ServiceError::UnexpectedResponse | ServiceError::InputRequiredRoundsExceeded { .. } => {
            CallError::internal(format!("{server} answered with something else than a result"))
        }
        error if transport::is_too_large(error) => {
            let what = format!("{server} answered with more than the limit; raise `max_response`");
            CallError::internal(what)
        }
        error => match transport::status(error) {
            Some((status, wait)) => {
                let mut details = json!({ "status": status });
                if let Some(wait) = wait {
                    details["retry_after"] = json!(wait);
                }
                CallError::new(format!("HTTP_{status}"), format!("{server} answered {status}"))
                    .retryable(matches!(status, 429 | 502 | 503 | 504))
                    .with_details(details)
            }
            None => {
                let cause = transport::cause(error);
                let what = format!("the session with {server} is lost: {cause}");
                CallError::internal(what).retryable(true)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(value: Value) -> CallToolResult {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_result_is_structured_content_or_else_the_blocks() {
        let blocks = json!([{"type": "text", "text": "hi"}]);
        let structured = result(json!({"content": blocks, "structuredContent": {"n": 1}}));
        assert_eq!(output(structured).unwrap().to_string(), r#"{"n":1}"#);
        let plain = output(result(json!({ "content": blocks }))).unwrap();
        assert_eq!(plain.to::<Value>().unwrap(), blocks);
    }

    #[test]
    fn a_result_that_is_an_error_is_one() {
        let failed = json!({"content": [{"type": "text", "text": "no such file"}], "isError": true,
            "structuredContent": {"errno": 2}});
        let error = output(result(failed)).unwrap_err();
        assert_eq!((&*error.code, &*error.message), ("TOOL_ERROR", "no such file"));
        let details: Value = error.details.unwrap().to().unwrap();
        assert_eq!(details["structured"]["errno"], 2);
        let long =
            json!({"content": [{"type": "text", "text": "é".repeat(5_000)}], "isError": true});
        assert_eq!(output(result(long)).unwrap_err().message.chars().count(), MAX_MESSAGE);
    }

    #[test]
    fn a_tool_becomes_a_mutation() {
        let tool: Tool = serde_json::from_value(json!({
            "name": "files/read it", "title": "Read", "description": "Read a file.",
            "inputSchema": {"type": "object"}, "outputSchema": {"type": "object"},
        }))
        .unwrap();
        assert_eq!(plain_name(&tool.name), "files_read_it");
        let spec = spec("x/read".into(), tool);
        assert_eq!(spec.op_type, alknet_plugin_api::OperationType::Mutation);
        assert_eq!(spec.description, "Read a file.");
        assert_eq!(spec.output_schema, json!({"type": "object"}));
        assert!(spec.problems().is_empty());
    }
}
