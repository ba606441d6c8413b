//! Answering calls: a few instances, each with one call at a time.
//!
//! Instances stay for the next call. One that trapped, or whose call was given
//! up, is dropped, and the next call that finds none idle makes another.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use alknet_plugin_api::{
    CallError, CallFuture, CallStream, Json, Operation, OperationContext, Subscription, code,
};
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::bindings::alknet::plugin::types;
use super::error::Trap;
use super::imports::{Sink, SinkSlot};
use super::instance::Instance;
use super::linger::{Entered, Lingering};
use super::open::Component;
use crate::budget::Resource;

/// How many instances for nested calls there may be to one for others.
const NESTED: usize = 8;

/// The instances of one plugin that answer calls.
pub(super) struct Calls {
    plugin: Arc<Component>,
    places: Semaphore,
    /// For calls that an instance's own call composes: the one waits for the
    /// other, so the other must not wait for a place.
    nested: Semaphore,
    idle: Mutex<Vec<Instance>>,
}

impl Calls {
    /// A pool with one instance that has been built.
    pub(super) fn new(plugin: Arc<Component>, first: Instance) -> Self {
        let places = plugin.program.limits.call_instances.max(1) as usize;
        let nested = places.saturating_mul(NESTED).min(Semaphore::MAX_PERMITS);
        Self {
            plugin,
            places: Semaphore::new(places.min(Semaphore::MAX_PERMITS)),
            nested: Semaphore::new(nested),
            idle: Mutex::new(vec![first]),
        }
    }

    /// A place for one call. A call waits for it, unless calls that wait for this
    /// one may hold the places: then it is refused when there is none.
    async fn place(&self, nested: bool) -> Result<SemaphorePermit<'_>, CallError> {
        if !nested {
            if let Ok(place) = self.places.try_acquire() {
                return Ok(place);
            }
            self.plugin.program.meter.hit(Resource::CallInstances);
            let place = self.places.acquire().await;
            return place.map_err(|_| CallError::aborted("shutting down"));
        }
        self.places.try_acquire().or_else(|_| self.nested.try_acquire()).map_err(|_| {
            CallError::new(
                code::RESOURCE_EXHAUSTED,
                "too many instances of the plugin wait for one another",
            )
            .retryable(true)
        })
    }

    /// Takes an instance for one call.
    async fn take(
        &self,
        context: &OperationContext,
    ) -> Result<(SemaphorePermit<'_>, Instance), CallError> {
        let place = self.place(context.is_nested()).await?;
        let idle = self.idle.lock().pop();
        let instance = match idle {
            Some(instance) => instance,
            None => {
                let made = self.plugin.instance(None).await;
                made.map_err(|error| CallError::internal(error.to_string()))?
            }
        };
        Ok((place, instance))
    }

    fn put_back(&self, instance: Instance) {
        let mut idle = self.idle.lock();
        // What nested calls needed beyond is not kept.
        if idle.len() < self.plugin.program.limits.call_instances.max(1) as usize {
            idle.push(instance);
        }
    }

    async fn call(
        &self,
        operation: &str,
        context: OperationContext,
        input: Json,
        entered: Entered,
    ) -> Result<Json, CallError> {
        let (_place, mut instance) = self.take(&context).await?;
        let context = push(&mut instance, context)?;
        let operation = operation.to_owned();
        entered.set();
        let result = instance
            .run(async |accessor, plugin| {
                plugin.call_call(accessor, operation, context, input.into_bytes().into()).await
            })
            .await
            .map_err(stopped)?;
        self.put_back(instance);
        match result {
            Ok(output) => Json::parse(output).map_err(|error| {
                CallError::internal(format!("the operation's answer is not JSON: {error}"))
            }),
            Err(error) => Err(call_error(error)),
        }
    }

    async fn subscribe(
        self: Arc<Self>,
        operation: String,
        context: OperationContext,
        input: Json,
        slot: Arc<SinkSlot>,
        entered: Entered,
    ) -> Result<(), CallError> {
        let (_place, mut instance) = self.take(&context).await?;
        let context = push(&mut instance, context)?;
        let sink = push(&mut instance, Sink(slot))?;
        entered.set();
        let result = instance
            .run(async |accessor, plugin| {
                let input = input.into_bytes().into();
                plugin.call_subscribe(accessor, operation, context, input, sink).await
            })
            .await
            .map_err(stopped)?;
        self.put_back(instance);
        result.map_err(call_error)
    }
}

fn push<T: Send + 'static>(
    instance: &mut Instance,
    entry: T,
) -> Result<wasmtime::component::Resource<T>, CallError> {
    instance.state().table.push(entry).map_err(|error| CallError::internal(error.to_string()))
}

fn stopped(trap: Trap) -> CallError {
    CallError::internal(format!("the operation's instance was stopped: {trap}"))
}

/// A component's error, with its details checked.
pub(super) fn call_error(error: types::CallError) -> CallError {
    let mut out = CallError::new(error.code, error.message).retryable(error.retryable);
    out.details = error.details.and_then(|details| Json::parse(details).ok());
    out
}

/// The code of one query or mutation.
pub(super) struct Call {
    calls: Arc<Calls>,
    operation: Arc<str>,
}

impl Call {
    pub(super) fn new(calls: Arc<Calls>, operation: &str) -> Self {
        Self { calls, operation: operation.into() }
    }
}

impl Operation for Call {
    fn call(&self, context: OperationContext, input: Json) -> CallFuture {
        let (calls, operation) = (self.calls.clone(), self.operation.clone());
        let host = calls.plugin.host.clone();
        Box::pin(Lingering::new(host, move |entered| async move {
            calls.call(&operation, context, input, entered).await
        }))
    }
}

/// The code of one subscription.
pub(super) struct Subscribe {
    calls: Arc<Calls>,
    operation: Arc<str>,
}

impl Subscribe {
    pub(super) fn new(calls: Arc<Calls>, operation: &str) -> Self {
        Self { calls, operation: operation.into() }
    }
}

impl Subscription for Subscribe {
    fn subscribe(&self, context: OperationContext, input: Json) -> CallStream {
        let slot = Arc::new(SinkSlot::default());
        let (calls, items) = (self.calls.clone(), slot.clone());
        let operation = String::from(&*self.operation);
        let host = calls.plugin.host.clone();
        let producer = Lingering::new(host, move |entered| {
            calls.subscribe(operation, context, input, items, entered)
        });
        Box::pin(Subscribed { producer: Some(producer), failure: None, slot })
    }
}

/// A subscription: the instance runs while its consumer asks for items.
struct Subscribed {
    producer: Option<Lingering<Result<(), CallError>>>,
    failure: Option<CallError>,
    slot: Arc<SinkSlot>,
}

impl Stream for Subscribed {
    type Item = Result<Json, CallError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(producer) = &mut this.producer
            && let Poll::Ready(result) = Pin::new(producer).poll(cx)
        {
            this.producer = None;
            this.failure = result.err();
        }
        if let Some(item) = this.slot.take() {
            let item = Json::parse(item).map_err(|error| {
                CallError::internal(format!("the subscription's item is not JSON: {error}"))
            });
            if item.is_err() {
                this.producer = None;
            }
            return Poll::Ready(Some(item));
        }
        match this.producer {
            Some(_) => Poll::Pending,
            None => Poll::Ready(this.failure.take().map(Err)),
        }
    }
}
