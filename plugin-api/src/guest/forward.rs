//! `tracing` events of the plugin, and of what it links, to the node's log.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::host::{Host, Level, LogRecord};

/// Makes `host` the receiver of this instance's events. An instance is built
/// once; a second call changes nothing.
pub(super) fn install(host: Host) {
    let forward = Forward { host, spans: AtomicU64::new(1) };
    let _ = tracing::subscriber::set_global_default(forward);
}

/// Passes events on. Spans get numbers, which `tracing` wants, and are otherwise
/// left alone: the host has a span of its own around each connection and call.
struct Forward {
    host: Host,
    spans: AtomicU64,
}

fn level(metadata: &Metadata<'_>) -> Level {
    match *metadata.level() {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG => Level::Debug,
        tracing::Level::TRACE => Level::Trace,
    }
}

impl Subscriber for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.host.log_enabled(level(metadata), metadata.target())
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let fields: Vec<_> =
            text.fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.host.log(&LogRecord {
            level: level(event.metadata()),
            target: event.metadata().target(),
            message: &text.message,
            fields: &fields,
        });
    }

    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Text {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.fields.push((field.name(), value.to_owned()));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.fields.push((field.name(), format!("{value:?}")));
        }
    }
}
