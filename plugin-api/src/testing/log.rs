//! Keeps what a plugin logs, whether through `tracing` or through its host.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::Notify;
use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Metadata, Subscriber, dispatcher, span};

use super::host::panic_text;
use crate::host::{Level, LogRecord};

/// One line that a plugin has logged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogLine {
    /// How important it is.
    pub level: Level,
    /// Where it comes from.
    pub target: String,
    /// The text.
    pub message: String,
    /// Further fields, as names and texts.
    pub fields: Vec<(String, String)>,
}

impl LogLine {
    /// The text of the field called `name`.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, text)| text.as_str())
    }
}

#[derive(Default)]
pub(super) struct Log {
    lines: Mutex<Vec<LogLine>>,
    written: Notify,
}

impl Log {
    pub(super) fn push(&self, line: LogLine) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        self.written.notify_waiters();
    }

    pub(super) fn record(&self, record: &LogRecord<'_>) {
        let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        self.push(LogLine {
            level: record.level,
            target: record.target.to_owned(),
            message: record.message.to_owned(),
            fields: record.fields.iter().map(owned).collect(),
        });
    }

    pub(super) fn lines(&self) -> Vec<LogLine> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) async fn find(&self, text: &str) -> LogLine {
        loop {
            let written = self.written.notified();
            let lines = self.lines();
            if let Some(line) = lines.into_iter().find(|line| line.message.contains(text)) {
                return line;
            }
            written.await;
        }
    }
}

/// Turns `tracing` events into [`LogLine`]s. Spans are accepted and left out, as
/// the records that cross to a node have none.
pub(super) struct Recorder {
    log: Arc<Log>,
    spans: AtomicU64,
}

impl Recorder {
    pub(super) fn dispatch(log: Arc<Log>) -> Dispatch {
        Dispatch::new(Self { log, spans: AtomicU64::new(1) })
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut texts = Texts::default();
        event.record(&mut texts);
        self.log.push(LogLine {
            level: level(*event.metadata().level()),
            target: event.metadata().target().to_owned(),
            message: texts.message,
            fields: texts.fields,
        });
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn level(level: tracing::Level) -> Level {
    match level {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG => Level::Debug,
        tracing::Level::TRACE => Level::Trace,
    }
}

#[derive(Default)]
struct Texts {
    message: String,
    fields: Vec<(String, String)>,
}

impl Texts {
    fn add(&mut self, field: &Field, text: String) {
        if field.name() == "message" {
            self.message = text;
        } else {
            self.fields.push((field.name().to_owned(), text));
        }
    }
}

impl Visit for Texts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }
}

/// A plugin's future or stream with its events going to the host's log, also
/// those of destructors that run when it is dropped.
pub(super) struct Logged<F> {
    inner: Option<Pin<Box<F>>>,
    dispatch: Dispatch,
}

impl<F> Logged<F> {
    pub(super) fn new(dispatch: &Dispatch, inner: F) -> Self {
        Self { inner: Some(Box::pin(inner)), dispatch: dispatch.clone() }
    }
}

impl<F: Future> Future for Logged<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        match &mut this.inner {
            Some(inner) => dispatcher::with_default(&this.dispatch, || inner.as_mut().poll(cx)),
            None => Poll::Pending,
        }
    }
}

impl<S: Stream> Stream for Logged<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = &mut *self;
        match &mut this.inner {
            Some(inner) => {
                dispatcher::with_default(&this.dispatch, || inner.as_mut().poll_next(cx))
            }
            None => Poll::Ready(None),
        }
    }
}

impl<F> Drop for Logged<F> {
    fn drop(&mut self) {
        let inner = self.inner.take();
        dispatcher::with_default(&self.dispatch, || {
            // As on a node, a destructor's panic costs nothing but a line.
            let dropped = std::panic::catch_unwind(AssertUnwindSafe(|| drop(inner)));
            if let Err(panic) = dropped {
                tracing::error!("a destructor panicked: {}", panic_text(&*panic));
            }
        });
    }
}
