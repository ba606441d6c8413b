//! The gateway as tools for models: MCP over streamable HTTP.
//!
//! There are four tools whatever the registry holds, so a model's context does not
//! grow with it: it searches, reads a schema, and calls. Each request is served on
//! its own, and the token that came with it decides. A client that leaves aborts its
//! calls; one of an earlier version may cancel them as well (`mcp_session.rs`). A batch
//! tells a client that asks for it how many of its calls have ended.

use std::sync::Arc;

use alknet_plugin_api::{CallError, Json, OperationType};
use axum::http::request::Parts;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rmcp::ErrorData;
use rmcp::handler::server::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, Implementation, ListToolsResult,
    PaginatedRequestParams, ProgressNotificationParam, ProgressToken, ServerCapabilities,
    ServerConfig, Tool, ToolAnnotations,
};
use rmcp::service::{Peer, RequestContext, RoleServer};
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::caller::{Caller, Request};
use crate::config::Config;
use crate::mcp_session::Sessions;
use crate::routes::SEARCH_LIMIT;

/// The tools at `/mcp`. Where requests may come from, their size and their caller
/// have been seen to before they get here.
pub(crate) fn service(
    config: &Config,
    sessions: Sessions,
) -> StreamableHttpService<Tools, NeverSessionManager> {
    let http = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .disable_allowed_hosts()
        .with_max_request_body_bytes(config.body_bytes);
    let tools = Tools { batch_calls: config.batch_calls, sessions };
    StreamableHttpService::new(move || Ok(tools.clone()), Arc::default(), http)
}

/// `search`, `schema`, `call` and `batch`.
#[derive(Clone)]
pub(crate) struct Tools {
    batch_calls: usize,
    sessions: Sessions,
}

/// Whom to tell how far a call is; nobody where the client does not ask.
struct Progress(Option<(Peer<RoleServer>, ProgressToken)>);

impl Progress {
    async fn tell(&self, ended: usize, of: usize) {
        if let Self(Some((peer, token))) = self {
            let told = ProgressNotificationParam::new(token.clone(), ended as f64);
            // A client that has left is noticed elsewhere.
            let _told = peer.notify_progress(told.with_total(of as f64)).await;
        }
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Search {
    query: String,
    limit: usize,
}

impl Default for Search {
    fn default() -> Self {
        Self { query: String::new(), limit: SEARCH_LIMIT }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    calls: Vec<Request>,
}

impl Tools {
    fn list(&self) -> [Tool; 4] {
        let text = json!({ "type": "string" });
        let call = json!({
            "type": "object",
            "required": ["operation", "input"],
            "additionalProperties": false,
            "properties": { "operation": text, "input": {} },
        });
        let reads = || ToolAnnotations::new().read_only(true);
        [
            Tool::new(
                "search",
                "Finds operations of this node by name, description and tags",
                object(json!({
                    "type": "object",
                    "additionalProperties": false,
                    "properties": {
                        "query": { "type": "string", "description": "Words that all must occur" },
                        "limit": { "type": "integer", "minimum": 0, "default": SEARCH_LIMIT },
                    },
                })),
            )
            .annotate(reads()),
            Tool::new(
                "schema",
                "Shows what an operation takes, gives, and may fail with",
                object(json!({
                    "type": "object",
                    "required": ["name"],
                    "additionalProperties": false,
                    "properties": { "name": text },
                })),
            )
            .annotate(reads()),
            Tool::new(
                "call",
                "Calls an operation with an input of its schema",
                object(call.clone()),
            ),
            Tool::new(
                "batch",
                "Makes calls side by side",
                object(json!({
                    "type": "object",
                    "required": ["calls"],
                    "additionalProperties": false,
                    "properties": {
                        "calls": { "type": "array", "items": call, "maxItems": self.batch_calls },
                    },
                })),
            ),
        ]
    }

    async fn run(
        &self,
        caller: &Caller,
        tool: &str,
        input: Value,
        progress: Progress,
    ) -> Result<Value, CallError> {
        match tool {
            "search" => {
                let Search { query, limit } = read(input)?;
                let callable = |kind| kind != OperationType::Subscription;
                let found = caller.search(&query, limit, callable).await?;
                value(&Json::of(&found).map_err(|error| CallError::internal(error.to_string()))?)
            }
            "schema" => {
                let Name { name } = read(input)?;
                let schema = value(&caller.schema(&name).await?)?;
                match schema["op_type"] == "subscription" {
                    true => Err(CallError::not_found(format!("there is no operation `{name}`"))),
                    false => Ok(schema),
                }
            }
            "call" => Ok(json!({ "output": value(&caller.call(read(input)?).await?)? })),
            _ => {
                let Batch { calls } = read(input)?;
                if calls.len() > self.batch_calls {
                    let text = format!("a batch has at most {} calls", self.batch_calls);
                    return Err(CallError::invalid_input(text));
                }
                let mut results = vec![Value::Null; calls.len()];
                let calls = calls.into_iter().zip(&mut results);
                let mut calls: FuturesUnordered<_> = calls
                    .map(|(request, result)| async {
                        *result = match caller.call(request).await.and_then(|out| value(&out)) {
                            Ok(output) => json!({ "output": output }),
                            Err(error) => json!({ "error": error }),
                        };
                    })
                    .collect();
                let (mut ended, total) = (0, calls.len());
                while let Some(()) = calls.next().await {
                    ended += 1;
                    progress.tell(ended, total).await;
                }
                drop(calls);
                Ok(json!({ "results": results }))
            }
        }
    }
}

impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("alknet", env!("CARGO_PKG_VERSION")))
            .with_instructions(
                "Operations of an alknet node. Search for one, read its schema, then call it.",
            )
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.list().into_iter().find(|tool| tool.name == name)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.list().into()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if self.get_tool(&request.name).is_none() {
            let text = format!("there is no tool `{}`", request.name);
            return Err(ErrorData::invalid_params(text, None));
        }
        let parts = context.extensions.get::<Parts>();
        let came = parts.and_then(|parts| Some((parts, parts.extensions.get::<Caller>()?)));
        let (parts, caller) =
            came.ok_or_else(|| ErrorData::internal_error("nobody called", None))?;
        let input = Value::Object(request.arguments.unwrap_or_default());
        let progress = context.meta.get_progress_token().map(|token| (context.peer.clone(), token));
        let call = self.run(caller, &request.name, input, Progress(progress));
        let call = self.sessions.run(&parts.headers, caller, context.id.clone(), call);
        let outcome = tokio::select! {
            outcome = call => outcome,
            () = context.ct.cancelled() => Err(CallError::aborted("the client has left")),
        };
        let result = match outcome {
            Ok(output) => CallToolResult::structured(output),
            Err(error) => CallToolResult::structured_error(json!(error)),
        };
        Ok(result.into())
    }
}

fn object(schema: Value) -> Map<String, Value> {
    match schema {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn read<T: DeserializeOwned>(input: Value) -> Result<T, CallError> {
    // By way of text: an input inside it is kept as it is.
    Json::from(input).to().map_err(|error| CallError::invalid_input(error.to_string()))
}

fn value(json: &Json) -> Result<Value, CallError> {
    json.to().map_err(|error| CallError::internal(error.to_string()))
}
