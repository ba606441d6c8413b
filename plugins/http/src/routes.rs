//! What is served at which path.

use std::time::Duration;

use alknet_plugin_api::{BuildError, Host, Json};
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, FromRequestParts, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode, request};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use futures_util::FutureExt;
use futures_util::future::join_all;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::caller::{Caller, Request};
use crate::config::Config;
use crate::gate::{self, Gate, JsonBody};
use crate::mcp_session::{self, Sessions};
use crate::origin::{self, Origins};
use crate::problem::Problem;
use crate::{console, files, mcp, openapi, subscribe, websocket};

/// Operations that a search shows unless it says how many.
pub(crate) const SEARCH_LIMIT: usize = 50;

/// What the endpoints need besides the caller.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) host: Host,
    pub(crate) drain: Duration,
    pub(crate) batch_calls: usize,
}

/// Everything that is served. The gateway's endpoints are the five of the design,
/// and documents about them.
pub(crate) fn router(host: &Host, config: &Config) -> Result<Router, BuildError> {
    let node = Node {
        host: host.clone(),
        drain: Duration::from_millis(config.drain_ms),
        batch_calls: config.batch_calls,
    };
    let mut gateway = Router::new()
        .route("/search", get(search))
        .route("/schema", get(schema))
        .route("/call", post(call))
        .route("/batch", post(batch))
        .route("/subscribe", get(subscribe::subscribe))
        .route("/openapi.json", get(openapi::document));
    if config.metrics {
        gateway = gateway.route("/metrics", get(metrics));
    }
    let (gate, origins) = (Gate::new(config), Origins::new(config));
    let sockets = Router::new()
        .route("/alknet/call", any(websocket::upgrade))
        .layer(from_fn_with_state(origins.clone(), origin::check))
        .with_state(gate.kinds());
    gateway = gateway.layer(from_fn_with_state(gate.clone(), gate::enter));
    if config.mcp {
        let sessions = Sessions::default();
        let tools = Router::new()
            .route_service("/mcp", mcp::service(config, sessions.clone()))
            .layer(from_fn_with_state(sessions, mcp_session::follow))
            .layer(from_fn(gate::authenticate))
            .layer(from_fn_with_state(gate.or_loopback(), gate::enter));
        gateway = gateway.merge(tools);
    }
    let mut plain = Router::new().route("/healthz", get(healthy)).route("/readyz", get(ready));
    if config.console {
        let page = console::router()?.layer(from_fn_with_state(origins, origin::check));
        plain = plain.merge(page);
    }
    let router = gateway
        .merge(plain)
        .merge(sockets)
        .merge(files::router(config)?)
        .method_not_allowed_fallback(|| async { Problem::method(None) })
        .with_state(node);
    Ok(match origin::cors(config) {
        Some(cors) => router.layer(cors),
        None => router,
    })
}

/// A query string's parameters.
pub(crate) struct Parameters<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, Problem> {
        let query: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        query.map(|query| Self(query.0)).map_err(|error| Problem::malformed(error.body_text()))
    }
}

/// A response that is this JSON.
pub(crate) fn json_response(json: Json) -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(CONTENT_TYPE, kind)], json.into_bytes()).into_response()
}

/// A response that is this value as JSON.
fn json_of(value: &impl Serialize) -> Result<Response, Problem> {
    Json::of(value).map(json_response).map_err(|error| Problem::malformed(error.to_string()))
}

async fn search(
    Extension(caller): Extension<Caller>,
    Parameters(search): Parameters<Search>,
) -> Result<Response, Problem> {
    let found = caller.search(&search.q, search.limit, |_| true).await;
    match found {
        Ok(found) => json_of(&found),
        Err(error) => Err(caller.problem("services/list", error).await),
    }
}

/// What to search for.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Search {
    pub(crate) q: String,
    pub(crate) limit: usize,
}

impl Default for Search {
    fn default() -> Self {
        Self { q: String::new(), limit: SEARCH_LIMIT }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    name: String,
}

async fn schema(
    Extension(caller): Extension<Caller>,
    Parameters(Name { name }): Parameters<Name>,
) -> Result<Response, Problem> {
    match caller.schema(&name).await {
        Ok(schema) => Ok(json_response(schema)),
        Err(error) => Err(caller.problem("services/schema", error).await),
    }
}

async fn call(
    Extension(caller): Extension<Caller>,
    JsonBody(request): JsonBody<Request>,
) -> Result<Response, Problem> {
    one(&caller, request).await.map(json_response)
}

async fn one(caller: &Caller, request: Request) -> Result<Json, Problem> {
    let operation = request.operation.clone();
    match caller.call(request).await {
        Ok(output) => Ok(output),
        Err(error) => Err(caller.problem(&operation, error).await),
    }
}

/// Calls that are made side by side.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    calls: Vec<Request>,
}

#[derive(Serialize)]
struct Results {
    results: Vec<Outcome>,
}

/// What became of one call of a batch.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Output(Json),
    Error(Problem),
}

async fn batch(
    State(node): State<Node>,
    Extension(caller): Extension<Caller>,
    JsonBody(Batch { calls }): JsonBody<Batch>,
) -> Result<Response, Problem> {
    if calls.len() > node.batch_calls {
        let text = format!("a batch has at most {} calls, and this one more", node.batch_calls);
        return Err(Problem::malformed(text));
    }
    let outcomes = calls.into_iter().map(|request| async {
        match one(&caller, request).await {
            Ok(output) => Outcome::Output(output),
            Err(problem) => Outcome::Error(problem),
        }
    });
    json_of(&Results { results: join_all(outcomes).await })
}

async fn metrics(Extension(caller): Extension<Caller>) -> Result<Response, Problem> {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    match caller.metrics().await {
        Ok(text) => Ok(([(CONTENT_TYPE, kind)], text).into_response()),
        Err(error) => Err(caller.problem("node/metrics", error).await),
    }
}

async fn healthy() -> Response {
    json_response(json!({ "status": "ok" }).into())
}

async fn ready(State(node): State<Node>) -> Response {
    if node.host.shutdown().now_or_never().is_none() {
        return json_response(json!({ "status": "ready" }).into());
    }
    let body = json_response(json!({ "status": "draining" }).into());
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}
