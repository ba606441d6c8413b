//! Subscriptions as server-sent events.
//!
//! Each item is a message whose data is the item. The end is an event `completed`,
//! or `failed` with a problem document; whoever sees neither has lost the
//! connection. The next item is asked for once the last one is on its way, so a
//! client that does not read holds the producer up.

use std::time::Duration;

use alknet_plugin_api::{CallError, GatewayCall, GatewayEvent, Json};
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, stream};
use serde::Deserialize;

use crate::caller::{Caller, Request};
use crate::problem::Problem;
use crate::routes::{Node, Parameters};

/// Silence after which a comment shows that the connection is there.
const QUIET: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    operation: String,
    /// JSON as text; `{}` without it.
    input: Option<String>,
}

pub(crate) async fn subscribe(
    State(node): State<Node>,
    Extension(caller): Extension<Caller>,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Response, Problem> {
    let Wanted { operation, input } = wanted;
    let input = Json::parse(input.unwrap_or_else(|| "{}".into()))
        .map_err(|error| Problem::malformed(format!("`input`: {error}")))?;
    let request = Request { operation: operation.clone(), input };
    let mut call = match caller.subscribe(request).await {
        Ok(call) => call,
        Err(error) => return Err(caller.problem(&operation, error).await),
    };
    // What refuses a call does so at once, and is told by the status.
    let first = call.next().now_or_never();
    if let Some(Some(GatewayEvent::Error(error))) = first {
        return Err(caller.problem(&operation, error).await);
    }
    let drained = async move {
        node.host.shutdown().await;
        tokio::time::sleep(node.drain).await;
    };
    let events = Events { call, caller, operation, first, drained: drained.boxed() };
    let kind = HeaderValue::from_static("text/event-stream");
    Ok(([(CONTENT_TYPE, kind)], Body::from_stream(events.stream())).into_response())
}

/// The rest of a subscription.
struct Events {
    call: GatewayCall,
    caller: Caller,
    operation: String,
    first: Option<Option<GatewayEvent>>,
    drained: BoxFuture<'static, ()>,
}

impl Events {
    /// The text that the client reads. Dropping it aborts the subscription.
    fn stream(self) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
        // Opens the response for clients that wait for its first byte.
        let open = stream::once(std::future::ready(Ok(Bytes::from_static(b": open\n\n"))));
        let events = stream::unfold(Some(self), |events| async {
            let (text, rest) = events?.next().await;
            Some((Ok(text), rest))
        });
        stream::StreamExt::chain(open, events)
    }

    async fn next(mut self) -> (Bytes, Option<Self>) {
        let event = match self.first.take() {
            Some(event) => event,
            None => tokio::select! {
                biased;
                () = &mut self.drained => {
                    Some(GatewayEvent::Error(CallError::aborted("the node shuts down")))
                }
                event = self.call.next() => event,
                () = tokio::time::sleep(QUIET) => {
                    return (Bytes::from_static(b":\n\n"), Some(self));
                }
            },
        };
        match event {
            Some(GatewayEvent::Responded(item)) => (message(None, &item), Some(self)),
            Some(GatewayEvent::Error(error)) => {
                let problem = self.caller.problem(&self.operation, error).await;
                (message(Some("failed"), &problem.document()), None)
            }
            Some(GatewayEvent::Completed) | None => {
                (message(Some("completed"), &Json::empty_object()), None)
            }
        }
    }
}

/// One event. JSON may have line breaks between its tokens; a line of the text is
/// a line of the data.
fn message(event: Option<&str>, data: &Json) -> Bytes {
    let mut text = Vec::with_capacity(data.as_bytes().len() + 32);
    if let Some(event) = event {
        text.extend_from_slice(format!("event: {event}\n").as_bytes());
    }
    for line in data.as_bytes().split(|byte| matches!(byte, b'\n' | b'\r')) {
        text.extend_from_slice(b"data: ");
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.push(b'\n');
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_with_line_breaks_stays_one_event() {
        let item = Json::parse("{\r\n \"a\": 1\n}").unwrap();
        let text = message(None, &item);
        assert_eq!(text, "data: {\ndata: \ndata:  \"a\": 1\ndata: }\n\n");
        assert_eq!(
            message(Some("completed"), &Json::empty_object()),
            "event: completed\ndata: {}\n\n"
        );
    }
}
