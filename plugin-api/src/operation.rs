//! Operations: what they are called, what they take and give, who may call them.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::context::OperationContext;
use crate::error::CallError;
use crate::json::Json;

/// The answer to a call. Dropping it aborts the call.
pub type CallFuture = BoxFuture<'static, Result<Json, CallError>>;
/// The items of a subscription; an error is the last. Dropping it aborts.
pub type CallStream = BoxStream<'static, Result<Json, CallError>>;

/// How an operation answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationType {
    /// Once, changing nothing.
    Query,
    /// Once.
    Mutation,
    /// Any number of times.
    Subscription,
}

/// Who can name an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Callers on the wire, and operations that have it in reach.
    #[default]
    External,
    /// Only operations that have it in reach.
    Internal,
}

/// What a caller must hold. With everything empty, anybody may call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessControl {
    /// Every one of these scopes.
    pub required_scopes: Vec<String>,
    /// At least one of these scopes; an empty list cannot be satisfied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required_scopes_any: Option<Vec<String>>,
    /// A right on a resource of this type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_type: Option<String>,
    /// The action on the resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_action: Option<String>,
}

/// An error that an operation may give.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorDefinition {
    /// Its code; not one of the protocol's.
    pub code: String,
    /// When it happens.
    #[serde(default)]
    pub description: String,
    /// JSON Schema of the error's `details`.
    #[serde(default = "any_schema")]
    pub schema: Value,
    /// The HTTP status that gateways show it as; 500 without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
}

fn any_schema() -> Value {
    Value::Bool(true)
}

/// An operation's declaration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationSpec {
    /// `namespace/operation`, two or more segments of `[A-Za-z0-9._-]+`.
    pub name: String,
    /// The name's first segment.
    pub namespace: String,
    /// How it answers.
    pub op_type: OperationType,
    /// Who can name it.
    pub visibility: Visibility,
    /// One or two sentences for people and agents.
    pub description: String,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Inputs that show its use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<Value>,
    /// JSON Schema of the input.
    pub input_schema: Value,
    /// JSON Schema of the output, or of each item.
    pub output_schema: Value,
    /// The errors it may give besides the protocol's.
    pub error_schemas: Vec<ErrorDefinition>,
    /// What a caller must hold.
    pub access_control: AccessControl,
    /// Where the input holds the resource's id: an RFC 6901 JSON Pointer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_id_path: Option<String>,
}

/// An operation as a listing shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationSummary {
    /// Its name.
    pub name: String,
    /// The name's first segment.
    pub namespace: String,
    /// How it answers.
    pub op_type: OperationType,
    /// One or two sentences for people and agents.
    pub description: String,
    /// Words to find it by.
    pub tags: Vec<String>,
}

impl OperationSummary {
    /// JSON Schema of a summary.
    pub fn schema() -> Value {
        serde_json::json!({
            "type": "object",
            "required": ["name", "namespace", "op_type", "description", "tags"],
            "properties": {
                "name": { "type": "string" },
                "namespace": { "type": "string" },
                "op_type": { "enum": ["query", "mutation", "subscription"] },
                "description": { "type": "string" },
                "tags": { "type": "array", "items": { "type": "string" } },
            },
        })
    }
}

impl From<&OperationSpec> for OperationSummary {
    fn from(spec: &OperationSpec) -> Self {
        Self {
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            op_type: spec.op_type,
            description: spec.description.clone(),
            tags: spec.tags.clone(),
        }
    }
}

impl OperationSpec {
    fn new(name: impl Into<String>, op_type: OperationType) -> Self {
        let name = name.into();
        let namespace = name.split('/').next().unwrap_or_default().to_owned();
        Self {
            name,
            namespace,
            op_type,
            visibility: Visibility::External,
            description: String::new(),
            tags: Vec::new(),
            examples: Vec::new(),
            input_schema: any_schema(),
            output_schema: any_schema(),
            error_schemas: Vec::new(),
            access_control: AccessControl::default(),
            resource_id_path: None,
        }
    }

    /// An operation that answers once and changes nothing.
    pub fn query(name: impl Into<String>) -> Self {
        Self::new(name, OperationType::Query)
    }

    /// An operation that answers once.
    pub fn mutation(name: impl Into<String>) -> Self {
        Self::new(name, OperationType::Mutation)
    }

    /// An operation that answers any number of times.
    pub fn subscription(name: impl Into<String>) -> Self {
        Self::new(name, OperationType::Subscription)
    }

    /// The HTTP status that gateways show an error of this code as. `FORBIDDEN`
    /// is 403 here; a gateway shows 401 where no valid token came.
    pub fn http_status(&self, code: &str) -> u16 {
        let protocol = crate::error::code::ALL.iter().find(|(name, ..)| *name == code);
        if let Some((_, _, status)) = protocol {
            return *status;
        }
        let declared = self.error_schemas.iter().find(|error| error.code == code);
        if let Some(status) = declared.and_then(|error| error.http_status) {
            return status;
        }
        let upstream = code.strip_prefix("HTTP_").and_then(|status| status.parse().ok());
        upstream.filter(|status| (100..=599).contains(status)).unwrap_or(500)
    }

    /// One or two sentences for people and agents.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    /// A word to find it by.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// An input that shows its use.
    #[must_use]
    pub fn example(mut self, input: Value) -> Self {
        self.examples.push(input);
        self
    }

    /// JSON Schema (draft 2020-12 unless it names another) of the input.
    #[must_use]
    pub fn input(mut self, schema: Value) -> Self {
        self.input_schema = schema;
        self
    }

    /// JSON Schema of the output, or of each item of a subscription.
    #[must_use]
    pub fn output(mut self, schema: Value) -> Self {
        self.output_schema = schema;
        self
    }

    /// An error that the operation may give; any other becomes `INTERNAL`.
    #[must_use]
    pub fn error(mut self, code: impl Into<String>, description: impl Into<String>) -> Self {
        self.error_schemas.push(ErrorDefinition {
            code: code.into(),
            description: description.into(),
            schema: any_schema(),
            http_status: None,
        });
        self
    }

    /// An error with a schema for its details, or an HTTP status.
    #[must_use]
    pub fn error_definition(mut self, definition: ErrorDefinition) -> Self {
        self.error_schemas.push(definition);
        self
    }

    /// Requires a scope.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.access_control.required_scopes.push(scope.into());
        self
    }

    /// What a caller must hold.
    #[must_use]
    pub fn access(mut self, access: AccessControl) -> Self {
        self.access_control = access;
        self
    }

    /// Hides the operation from the wire.
    #[must_use]
    pub fn internal(mut self) -> Self {
        self.visibility = Visibility::Internal;
        self
    }

    /// Where the input holds the resource's id.
    #[must_use]
    pub fn resource_id_path(mut self, pointer: impl Into<String>) -> Self {
        self.resource_id_path = Some(pointer.into());
        self
    }
}

/// The code of a query or mutation. Closures of
/// [`Registrar::operation`](crate::Registrar::operation) become one.
pub trait Operation: Send + Sync + 'static {
    /// Answers one call. The future is dropped when the call is aborted or its
    /// deadline passes; a panic costs that call alone.
    fn call(&self, context: OperationContext, input: Json) -> CallFuture;
}

/// The code of a subscription.
pub trait Subscription: Send + Sync + 'static {
    /// Starts one subscription. The stream is dropped when it is aborted or its
    /// deadline passes, and not polled while the consumer is behind.
    fn subscribe(&self, context: OperationContext, input: Json) -> CallStream;
}

/// Where a subscription written as an async function puts its items.
///
/// [`ItemSink::send`] returns once the host has taken the item, so a slow
/// consumer slows the producer and nothing piles up.
pub struct ItemSink<T = Json> {
    slot: Arc<Mutex<Slot>>,
    _item: PhantomData<fn(T)>,
}

/// Room for the one item on its way from the producer to the host.
#[derive(Default)]
struct Slot {
    item: Option<Json>,
    sender: Option<Waker>,
}

impl<T: Serialize> ItemSink<T> {
    /// Hands one item over, waiting until the host has taken it.
    ///
    /// # Errors
    /// `INTERNAL` when JSON cannot hold the item.
    pub async fn send(&mut self, item: &T) -> Result<(), CallError> {
        let json = Json::of(item).map_err(|error| CallError::internal(error.to_string()))?;
        let mut json = Some(json);
        std::future::poll_fn(|cx| {
            let mut slot = lock(&self.slot);
            if slot.item.is_none() && json.is_none() {
                return Poll::Ready(());
            }
            if slot.item.is_none() {
                slot.item = json.take();
            }
            slot.sender = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        Ok(())
    }
}

/// An async function that fills an [`ItemSink`], as a stream.
pub(crate) struct SinkStream<F> {
    producer: Option<Pin<Box<F>>>,
    failure: Option<CallError>,
    slot: Arc<Mutex<Slot>>,
}

impl<F: Future<Output = Result<(), CallError>>> SinkStream<F> {
    pub(crate) fn new<T>(start: impl FnOnce(ItemSink<T>) -> F) -> Self {
        let slot = Arc::<Mutex<Slot>>::default();
        let sink = ItemSink { slot: slot.clone(), _item: PhantomData };
        Self { producer: Some(Box::pin(start(sink))), failure: None, slot }
    }
}

impl<F: Future<Output = Result<(), CallError>>> Stream for SinkStream<F> {
    type Item = Result<Json, CallError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(producer) = &mut this.producer
            && let Poll::Ready(result) = producer.as_mut().poll(cx)
        {
            this.producer = None;
            this.failure = result.err();
        }
        let mut slot = lock(&this.slot);
        if let Some(item) = slot.item.take() {
            if let Some(sender) = slot.sender.take() {
                sender.wake();
            }
            return Poll::Ready(Some(Ok(item)));
        }
        match this.producer {
            Some(_) => Poll::Pending,
            None => Poll::Ready(this.failure.take().map(Err)),
        }
    }
}

fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_sink_yields_each_item_and_then_the_error() {
        let stream = SinkStream::new(|mut sink: ItemSink<u32>| async move {
            for n in 0..3 {
                sink.send(&n).await?;
            }
            Err(CallError::new("DONE", "no more"))
        });
        let items: Vec<_> = stream.collect().await;
        let texts: Vec<_> =
            items[..3].iter().map(|item| item.as_ref().unwrap().to_string()).collect();
        assert_eq!(texts, ["0", "1", "2"]);
        assert_eq!(items[3].as_ref().unwrap_err().code, "DONE");
        assert_eq!(items.len(), 4);
    }

    #[tokio::test]
    async fn an_item_whose_send_was_given_up_is_still_delivered() {
        let stream = SinkStream::new(|mut sink: ItemSink<u32>| async move {
            let mut send = Box::pin(sink.send(&1));
            let first = futures_util::poll!(&mut send);
            assert!(first.is_pending());
            Ok(())
        });
        let items: Vec<_> = stream.collect().await;
        assert_eq!(items.len(), 1);
    }
}
