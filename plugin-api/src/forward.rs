//! Takes a plugin's log to the host's.
//!
//! A shared library has a `tracing` dispatcher and a panic hook of its own,
//! which nobody listens to. When the host builds the plugin, both are pointed at
//! the host, which puts the plugin's name on what they say and decides what is
//! written: at each event, so that a changed filter is seen at once.
//!
//! Spans stay on the plugin's side and are not recorded.

use std::fmt::{self, Write};
use std::sync::{Arc, OnceLock};

use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::subscriber::Interest;
use tracing_core::{Dispatch, Event, Metadata, Subscriber, dispatcher};

use crate::backend::HostBackend;
use crate::host::{Level, LogRecord};

/// The target of records that tell of a panic.
const PANIC: &str = "panic";

/// Points this library's log and panic hook at `host`: the first one, where a
/// library is built more than once.
pub(crate) fn install(host: &Arc<dyn HostBackend>) {
    static HOST: OnceLock<Arc<dyn HostBackend>> = OnceLock::new();
    if HOST.set(host.clone()).is_err() {
        return;
    }
    let forwarder = Dispatch::new(Forwarder { host: host.clone() });
    // A plugin that has set its own dispatcher keeps it.
    let _ = dispatcher::set_global_default(forwarder);
    let host = host.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let message = crate::abi::panic_text(panic.payload());
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let fields =
            [("location", location.as_str()), ("thread", thread.name().unwrap_or("unnamed"))];
        host.log(&LogRecord {
            level: Level::Error,
            target: PANIC,
            message: &message,
            fields: &fields,
        });
    }));
}

/// A subscriber that hands events to a host.
pub(crate) struct Forwarder {
    host: Arc<dyn HostBackend>,
}

#[cfg(test)]
impl Forwarder {
    pub(crate) fn new(host: Arc<dyn HostBackend>) -> Self {
        Self { host }
    }
}

fn level(metadata: &Metadata<'_>) -> Level {
    match *metadata.level() {
        tracing_core::Level::ERROR => Level::Error,
        tracing_core::Level::WARN => Level::Warn,
        tracing_core::Level::INFO => Level::Info,
        tracing_core::Level::DEBUG => Level::Debug,
        tracing_core::Level::TRACE => Level::Trace,
    }
}

impl Subscriber for Forwarder {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // "Sometimes" asks `enabled` each time: the host's filter may change.
        if metadata.is_event() { Interest::sometimes() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && self.host.log_enabled(level(metadata), metadata.target())
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let pairs: Vec<_> =
            fields.others.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.host.log(&LogRecord {
            level: level(event.metadata()),
            target: event.metadata().target(),
            message: &fields.message,
            fields: &pairs,
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event's fields as texts.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.others.push((field.name(), value.to_owned()));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string does not fail; a value that cannot show itself
            // is left as far as it got.
            let _ = write!(self.message, "{value:?}");
        } else {
            self.others.push((field.name(), format!("{value:?}")));
        }
    }
}
