//! The node's log.
//!
//! Events of the daemon and of its plugins go to standard error through
//! `tracing`. A plugin's events carry `plugin=<name>` and the target `plugin`,
//! so that a filter such as `info,plugin=debug` tells them apart.

use std::sync::OnceLock;

use alknet_plugin_api::{Level, LogRecord};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use super::terminal;

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The filter does not parse.
    #[error(
        "the log filter `{filter}` is not understood: {cause}; use levels such as `info`, or `warn,plugin=debug`"
    )]
    Filter {
        /// The text given.
        filter: String,
        /// What the parser says.
        cause: String,
    },
}

/// Puts another filter in force, in whatever form the log has.
type SetFilter = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

static SET_FILTER: OnceLock<SetFilter> = OnceLock::new();

/// Sends the log to standard error. Later calls in one process change nothing.
///
/// # Errors
/// A filter that does not parse.
pub fn init(filter: &str, format: Format) -> Result<(), LogError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parse(filter)?)
        .with_writer(|| terminal::Stderr)
        .with_ansi(terminal::coloured(&std::io::stderr()));
    // A second node in one process, as tests start, shares the first one's log.
    let (first, set): (_, SetFilter) = match format {
        Format::Text => {
            let builder = builder.with_target(false).compact().with_filter_reloading();
            let handle = builder.reload_handle();
            let set = move |filter| handle.reload(filter).is_ok();
            (builder.finish().try_init().is_ok(), Box::new(set))
        }
        Format::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            let set = move |filter| handle.reload(filter).is_ok();
            (builder.finish().try_init().is_ok(), Box::new(set))
        }
    };
    if first {
        let _first = SET_FILTER.set(set);
    }
    Ok(())
}

/// Puts another filter in force, for what is logged from now on. Without a log,
/// or where somebody else has set it up, nothing changes.
///
/// # Errors
/// A filter that does not parse.
pub fn set_filter(filter: &str) -> Result<(), LogError> {
    let filter = parse(filter)?;
    if let Some(set) = SET_FILTER.get() {
        set(filter);
    }
    Ok(())
}

/// A library that tells of every message with its contents, and of failures by
/// their whole URLs, which may hold keys. Who wants to read it names it.
const TALKATIVE: &str = "rmcp";

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let quiet = match filter.contains(TALKATIVE) {
        true => filter.to_owned(),
        false => format!("{filter},{TALKATIVE}=off"),
    };
    EnvFilter::try_new(quiet)
        .map_err(|cause| LogError::Filter { filter: filter.to_owned(), cause: cause.to_string() })
}

/// Whether a plugin's record of this level would be written.
pub fn plugin_enabled(level: Level) -> bool {
    match level {
        Level::Error => tracing::enabled!(target: "plugin", tracing::Level::ERROR),
        Level::Warn => tracing::enabled!(target: "plugin", tracing::Level::WARN),
        Level::Info => tracing::enabled!(target: "plugin", tracing::Level::INFO),
        Level::Debug => tracing::enabled!(target: "plugin", tracing::Level::DEBUG),
        Level::Trace => tracing::enabled!(target: "plugin", tracing::Level::TRACE),
    }
}

/// Writes a plugin's record with its name on it.
pub fn plugin_record(plugin: &str, record: &LogRecord<'_>) {
    let fields = Fields(record.fields);
    macro_rules! write {
        ($level:ident) => {
            tracing::event!(
                target: "plugin",
                tracing::Level::$level,
                plugin,
                at = record.target,
                fields = %fields,
                "{}",
                record.message
            )
        };
    }
    match record.level {
        Level::Error => write!(ERROR),
        Level::Warn => write!(WARN),
        Level::Info => write!(INFO),
        Level::Debug => write!(DEBUG),
        Level::Trace => write!(TRACE),
    }
}

/// A plugin's own fields as `name=text` pairs.
struct Fields<'a>(&'a [(&'a str, &'a str)]);

impl std::fmt::Display for Fields<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, (name, text)) in self.0.iter().enumerate() {
            let space = if i == 0 { "" } else { " " };
            write!(f, "{space}{name}={text}")?;
        }
        Ok(())
    }
}
