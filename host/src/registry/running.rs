//! A handler under way: polled by its caller, stopped by the tree or the clock.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use alknet_plugin_api::{AbortPolicy, CallError, CallFuture, CallStream, Json, OperationCode};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::Span;

use super::call::Call;
use super::cancel::{End, State};
use super::record::{CallEnded, CallRefused, CallStarted};
use super::spec::{Code, Entry, HostCall};
use crate::budget::Place;

/// What a call yields.
pub(crate) enum Event {
    /// A query's or mutation's answer, and its end.
    Answer(Json),
    /// One item of a subscription.
    Item(Json),
    /// A subscription's clean end.
    Completed,
    /// The end, with an error.
    Failed(CallError),
}

/// A started call. It runs while it is polled. Dropping it aborts the call,
/// unless the call is a survivor of an abort: then it runs on by itself.
pub(crate) struct Running {
    call: Arc<Call>,
    work: Work,
    /// Made when the handler first has to wait.
    timer: Option<BoxFuture<'static, ()>>,
    span: Span,
    /// On the registry's clock.
    deadline: Option<Duration>,
    validate_output: bool,
    /// Among its plugin's calls, until its end.
    place: Option<Place>,
    /// Nobody takes what the call yields any more.
    orphaned: bool,
}

enum Work {
    /// The handler has not run yet.
    Start(Json),
    Once(CallFuture),
    Stream(CallStream),
    Ended,
}

impl Running {
    pub(crate) fn new(
        call: Arc<Call>,
        input: Json,
        validate_output: bool,
        place: Option<Place>,
    ) -> Self {
        let span = tracing::debug_span!(
            target: "alknet::call",
            "call",
            operation = call.operation(),
            request_id = call.request_id(),
            parent = call.parent.as_ref().map(|parent| parent.request_id()),
            caller = call.identity.as_ref().map(|identity| &*identity.id),
            authority = call.authority.as_ref().map(|identity| &*identity.id),
            origin = call.origin.caller.as_ref().map(|identity| &*identity.id),
            deadline_ms = call
                .deadline
                .map(|deadline| deadline.saturating_sub(call.started).as_millis() as u64),
            outcome = tracing::field::Empty,
        );
        Self {
            deadline: call.deadline,
            call,
            work: Work::Start(input),
            timer: None,
            span,
            validate_output,
            place,
            orphaned: false,
        }
    }

    pub(crate) fn call(&self) -> &Arc<Call> {
        &self.call
    }

    /// The next event; nothing after the last.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if matches!(self.work, Work::Ended) {
            return Poll::Ready(None);
        }
        let span = self.span.clone();
        let _entered = span.enter();
        let first = matches!(self.work, Work::Start(_));
        if first && self.call.node.state() == State::Survivor {
            // It was aborted before its first turn: only what has started survives.
            self.call.node.close(End::Abort(AbortPolicy::AbortDependents));
        }
        if let Some(error) = self.stopped(self.call.node.state()) {
            return Poll::Ready(Some(Event::Failed(error)));
        }
        // A subscription that always has an item would never look at its timer.
        if (!first || self.is_past_deadline()) && self.deadline_passed(cx) {
            return Poll::Ready(Some(self.time_out()));
        }
        match self.poll_work(cx) {
            Poll::Ready(event) => Poll::Ready(Some(event)),
            Poll::Pending => {
                if let Some(error) = self.stopped(self.call.node.watch(cx.waker())) {
                    return Poll::Ready(Some(Event::Failed(error)));
                }
                if self.deadline_passed(cx) {
                    return Poll::Ready(Some(self.time_out()));
                }
                Poll::Pending
            }
        }
    }

    fn is_past_deadline(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= self.call.registry.clock.now())
    }

    /// Polls the timer, making it if there is none yet.
    fn deadline_passed(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.deadline else { return false };
        let clock = &self.call.registry.clock;
        if deadline <= clock.now() {
            return true;
        }
        let timer = self.timer.get_or_insert_with(|| clock.sleep_until(deadline));
        timer.poll_unpin(cx).is_ready()
    }

    fn time_out(&mut self) -> Event {
        self.call.node.close(End::Deadline);
        Event::Failed(self.finish(Err(CallError::timeout())))
    }

    /// Drops the handler of a call that the tree has stopped.
    fn stopped(&mut self, state: State) -> Option<CallError> {
        let error = match state {
            State::Open | State::Survivor => return None,
            State::TimedOut => CallError::timeout(),
            State::Aborted | State::Done => CallError::aborted("the call was aborted"),
        };
        Some(self.finish(Err(error)))
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let Some(entry) = self.call.entry.clone() else {
            return Poll::Ready(Event::Completed);
        };
        // The handler is dropped after a panic and never touched again.
        let polled = catch_unwind(AssertUnwindSafe(|| match &entry.meter {
            Some(meter) => meter.poll(|| self.poll_handler(&entry, cx)),
            None => self.poll_handler(&entry, cx),
        }));
        let outcome = match polled {
            Ok(polled) => ready!(polled),
            Err(_) => {
                tracing::error!(
                    operation = entry.spec.name,
                    plugin = &*entry.plugin,
                    "an operation's handler panicked; the call fails alone"
                );
                Some(Err(CallError::internal("the operation's handler panicked")))
            }
        };
        let outcome = match outcome {
            Some(Ok(output)) => Some(self.check_output(&entry, output)),
            Some(Err(error)) => Some(Err(entry.caller_error(error))),
            None => None,
        };
        Poll::Ready(match outcome {
            Some(Ok(output)) if matches!(self.work, Work::Stream(_)) => Event::Item(output),
            Some(Ok(output)) => {
                self.end(None);
                Event::Answer(output)
            }
            Some(Err(error)) => Event::Failed(self.finish(Err(error))),
            None => {
                self.end(None);
                Event::Completed
            }
        })
    }

    fn poll_handler(
        &mut self,
        entry: &Entry,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Json, CallError>>> {
        if let Work::Start(input) = &mut self.work {
            let input = std::mem::replace(input, Json::null());
            if let Some(recorder) = &self.call.registry.recorder {
                recorder.call_started(&CallStarted {
                    operation: &entry.spec.name,
                    plugin: &entry.plugin,
                    internal: self.call.internal,
                });
            }
            self.work = Work::Once(Box::pin(std::future::pending()));
            self.work = match &entry.code {
                Code::Plugin(OperationCode::Once(code)) => {
                    Work::Once(code.call(self.call.context(), input))
                }
                Code::Plugin(OperationCode::Stream(code)) => {
                    Work::Stream(code.subscribe(self.call.context(), input))
                }
                Code::Host(code) => Work::Once(code.call(HostCall(self.call.clone()), input)),
                Code::HostStream(code) => {
                    Work::Stream(code.subscribe(HostCall(self.call.clone()), input))
                }
            };
        }
        match &mut self.work {
            Work::Once(future) => future.as_mut().poll(cx).map(Some),
            Work::Stream(stream) => stream.as_mut().poll_next(cx),
            Work::Start(_) | Work::Ended => Poll::Ready(None),
        }
    }

    fn check_output(&self, entry: &Entry, output: Json) -> Result<Json, CallError> {
        if !self.validate_output || entry.output.accepts_anything() {
            return Ok(output);
        }
        let violations = match output.to() {
            Ok(value) => match entry.output.validate(&value) {
                Ok(()) => return Ok(output),
                Err(violations) => serde_json::json!(violations),
            },
            Err(_) => serde_json::json!([{"path": "", "message": "the output is too deep"}]),
        };
        Err(CallError::internal("the operation's output violates its schema")
            .with_details(violations))
    }

    /// Ends the call with an error, which it returns.
    fn finish(&mut self, outcome: Result<std::convert::Infallible, CallError>) -> CallError {
        let Err(error) = outcome;
        self.end(Some(&error.code));
        error
    }

    /// Ends the call: in the tree, in the records, and by dropping the handler.
    /// The tree comes first, so that survivors below are known as such when the
    /// handler that holds them is dropped.
    fn end(&mut self, code: Option<&str>) {
        self.call.node.close(End::Done);
        self.timer = None;
        let work = std::mem::replace(&mut self.work, Work::Ended);
        let never_started = matches!(work, Work::Start(_));
        if catch_unwind(AssertUnwindSafe(|| drop(work))).is_err() {
            tracing::error!(operation = self.call.operation(), "a handler panicked when dropped");
        }
        self.place = None;
        self.span.record("outcome", code.unwrap_or("OK"));
        let registry = &self.call.registry;
        let (Some(recorder), Some(entry)) = (&registry.recorder, &self.call.entry) else { return };
        if never_started {
            recorder.call_refused(&CallRefused {
                operation: &entry.spec.name,
                code: code.unwrap_or_default(),
                internal: self.call.internal,
                caller: self.call.identity.as_ref().map(|identity| &*identity.id),
            });
        } else {
            recorder.call_ended(&CallEnded {
                operation: &entry.spec.name,
                plugin: &entry.plugin,
                internal: self.call.internal,
                code,
                duration: registry.clock.now().saturating_sub(self.call.started),
                caller: self.call.identity.as_ref().map(|identity| &*identity.id),
                origin: self.call.origin.caller.as_ref().map(|identity| &*identity.id),
            });
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.work, Work::Ended) {
            return;
        }
        if self.call.node.state() == State::Survivor && !self.orphaned {
            let registry = &self.call.registry;
            // Nobody is left to end an orphaned subscription: it gets a deadline
            // if it has none.
            let latest = registry.clock.now() + registry.limits.load().max_timeout;
            let orphan = Orphan(Self {
                call: self.call.clone(),
                work: std::mem::replace(&mut self.work, Work::Ended),
                timer: self.timer.take(),
                span: self.span.clone(),
                deadline: self.deadline.or(Some(latest)),
                validate_output: false,
                place: self.place.take(),
                orphaned: true,
            });
            registry.spawner.spawn(Box::pin(orphan));
            return;
        }
        self.call.node.close(End::Abort(AbortPolicy::AbortDependents));
        self.end(Some(alknet_plugin_api::code::ABORTED));
    }
}

/// A survivor whose caller is gone, run to its end.
struct Orphan(Running);

impl Future for Orphan {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // The task gives way after so many items, as tokio's own streams do.
        for _ in 0..32 {
            match ready!(self.0.poll_event(cx)) {
                Some(Event::Item(_)) => {}
                _ => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
