//! What people see on a terminal: colour, and that something which lasts goes on.
//! Where there is no terminal, there is neither, and the log says it in a line.

use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How often what is shown of a [`Progress`] changes.
const TICK: Duration = Duration::from_millis(120);

/// Whether to colour what goes to this stream: on a terminal, unless `NO_COLOR` is
/// set, `CLICOLOR` is 0 or `TERM` is `dumb`; anywhere with `CLICOLOR_FORCE`.
pub fn coloured(stream: &impl IsTerminal) -> bool {
    decide(stream.is_terminal(), |name| std::env::var(name).ok())
}

fn decide(terminal: bool, variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let is = |name, value: &str| set(name).is_some_and(|found| found == value);
    let forced = set("CLICOLOR_FORCE").is_some() && !is("CLICOLOR_FORCE", "0");
    let refused = is("CLICOLOR", "0") || is("TERM", "dumb");
    set("NO_COLOR").is_none() && (forced || terminal && !refused)
}

static SHOWN: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Work that may last. It is shown on the terminal until this is dropped.
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// Shows `what` goes on, and for how long; without a terminal it is logged.
    pub fn begin(what: String) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        if dumb || !io::stderr().is_terminal() {
            tracing::info!("{what}");
            return Self(None);
        }
        COUNT.fetch_add(1, Ordering::Relaxed);
        let bar = SHOWN.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar.enable_steady_tick(TICK);
        Self(Some(bar))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
            SHOWN.remove(bar);
            COUNT.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Standard error, for lines that go above what is shown of any [`Progress`].
#[derive(Clone, Copy, Debug)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match COUNT.load(Ordering::Relaxed) {
            0 => io::stderr().write(bytes),
            _ => SHOWN.suspend(|| io::stderr().write(bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_terminals_and_can_be_refused_or_forced() {
        let with = |terminal, set: &[(&str, &str)]| {
            decide(terminal, |name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(with(true, &[]) && !with(false, &[]));
        assert!(with(true, &[("TERM", "xterm"), ("NO_COLOR", ""), ("CLICOLOR", "1")]));
        for refusal in [("NO_COLOR", "1"), ("CLICOLOR", "0"), ("TERM", "dumb")] {
            assert!(!with(true, &[refusal]), "{refusal:?}");
        }
        assert!(with(false, &[("CLICOLOR_FORCE", "1"), ("TERM", "dumb")]));
        assert!(!with(false, &[("CLICOLOR_FORCE", "0")]));
        assert!(!with(true, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
    }
}
