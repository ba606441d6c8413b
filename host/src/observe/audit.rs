//! The audit log: who was let in where and who was not, as lines of JSON.
//!
//! Lines go through a bounded queue to a thread that writes them, so that no call
//! waits for the disk. What does not fit into the queue, or cannot be written, is
//! counted (`alknet_audit_lost_total`), reported in the log, and said in the file
//! itself once it can be written again. [`AuditLog::reopen`] lets another program
//! rotate the file.
//!
//! A line holds names, rules and times; never an input, an output or a token.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alknet_plugin_api::code;
use serde::Serialize;

use crate::registry::{AccessDecided, CallRefused};

/// Lines that may wait for the disk.
const QUEUE: usize = 16_384;

/// Bytes of a name that a caller made up.
const MAX_NAME: usize = 256;

/// What is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum What {
    /// Every decision.
    #[default]
    All,
    /// What was refused.
    Refused,
}

/// An open audit log. Clones are handles to the same; its thread ends with the
/// last one.
#[derive(Clone)]
pub struct AuditLog(Arc<Inner>);

struct Inner {
    what: What,
    queue: SyncSender<Message>,
    reopen: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
}

enum Message {
    Line(Vec<u8>),
    /// Look at the flag for reopening.
    Wake,
    /// Tell when everything before has been written.
    Flush(SyncSender<()>),
}

/// One line.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    /// The access decision on a call.
    Access {
        time: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        operation: &'a str,
        subject: Option<&'a str>,
        origin: Option<&'a str>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        forwarded_for: Vec<&'a str>,
        internal: bool,
        allowed: bool,
        rule: String,
    },
    /// An operation that there is not, or not for this caller.
    NotFound { time: String, operation: &'a str, subject: Option<&'a str>, internal: bool },
    /// A token that resolves to nobody.
    InvalidToken { time: String, connection: u64 },
    /// Lines are missing here.
    Lost { time: String, lines: u64 },
}

impl AuditLog {
    /// Opens the file for appending, creating it for its owner alone.
    ///
    /// # Errors
    /// It cannot be opened, or there is no thread to be had.
    pub fn open(path: &Path, what: What) -> io::Result<Self> {
        let file = open(path)?;
        let (queue, messages) = sync_channel(QUEUE);
        let (reopen, lost) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let writer = Writer {
            path: path.to_owned(),
            file,
            reopen: reopen.clone(),
            lost: lost.clone(),
            torn: false,
            failing: false,
        };
        std::thread::Builder::new()
            .name("alknet-audit".to_owned())
            .spawn(move || writer.run(&messages))?;
        Ok(Self(Arc::new(Inner { what, queue, reopen, lost })))
    }

    /// Creates the file for its owner alone, where there is none.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn create(path: &Path) -> io::Result<()> {
        open(path).map(drop)
    }

    /// Opens the file anew, for lines from here on.
    pub fn reopen(&self) {
        self.0.reopen.store(true, Ordering::Release);
        // A full queue wakes the writer anyway.
        let _woken = self.0.queue.try_send(Message::Wake);
    }

    /// Waits, at most `limit`, until what has been recorded is written. It blocks.
    pub fn flush(&self, limit: Duration) {
        let (done, written) = sync_channel(1);
        if self.0.queue.try_send(Message::Flush(done)).is_ok() {
            let _too_slow = written.recv_timeout(limit);
        }
    }

    /// Records a decision.
    pub(super) fn access_decided(&self, decision: &AccessDecided<'_>) {
        let (allowed, rule) = match decision.decision {
            Ok(_) if self.0.what == What::Refused => return,
            Ok(rule) => (true, rule.to_string()),
            Err(rule) => (false, rule.to_string()),
        };
        self.record(&Line::Access {
            time: now(),
            request_id: decision.request_id,
            operation: decision.operation,
            subject: decision.subject.map(|subject| &*subject.id),
            origin: decision.origin.map(|origin| &*origin.id),
            forwarded_for: decision.forwarded_for.iter().map(|one| cut(&one.id)).collect(),
            internal: decision.internal,
            allowed,
            rule,
        });
    }

    /// Records a call that found nothing to decide about.
    pub(super) fn call_refused(&self, call: &CallRefused<'_>) {
        if call.code == code::NOT_FOUND {
            self.record(&Line::NotFound {
                time: now(),
                operation: cut(call.operation),
                subject: call.caller,
                internal: call.internal,
            });
        }
    }

    /// Records a token that did not resolve.
    pub(super) fn invalid_token(&self, connection: u64) {
        self.record(&Line::InvalidToken { time: now(), connection });
    }

    fn record(&self, line: &Line<'_>) {
        let sent =
            text(line).is_some_and(|text| self.0.queue.try_send(Message::Line(text)).is_ok());
        if !sent {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("alknet_audit_lost_total").increment(1);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        let _there_or_not = DirBuilder::new().mode(0o700).create(folder);
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn text(line: &Line<'_>) -> Option<Vec<u8>> {
    let mut text = serde_json::to_vec(line).ok()?;
    text.push(b'\n');
    Some(text)
}

/// The beginning of a name of any length.
pub(super) fn cut(name: &str) -> &str {
    let mut end = name.len().min(MAX_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

struct Writer {
    path: PathBuf,
    file: File,
    reopen: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
    /// The file ends within a line.
    torn: bool,
    /// The last write failed, which has been reported.
    failing: bool,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        let mut batch = Vec::new();
        while let Ok(first) = messages.recv() {
            let mut lines = 0;
            let mut flushed = None;
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Line(line) => {
                        batch.extend_from_slice(&line);
                        lines += 1;
                    }
                    Message::Wake => {}
                    Message::Flush(done) => flushed = Some(done),
                }
                let full = lines >= 256 || flushed.is_some();
                next = if full { None } else { messages.try_recv().ok() };
            }
            self.reopen_if_asked();
            self.write(&batch, lines);
            batch.clear();
            if let Some(done) = flushed {
                let _nobody_waits = done.send(());
            }
        }
    }

    fn reopen_if_asked(&mut self) {
        if !self.reopen.swap(false, Ordering::AcqRel) {
            return;
        }
        match open(&self.path) {
            Ok(file) => {
                self.file = file;
                self.torn = false;
                tracing::info!(file = %self.path.display(), "the audit log is opened anew");
            }
            Err(error) => {
                let file = self.path.display();
                tracing::error!(%file, %error, "the audit log cannot be opened anew; the old file goes on");
            }
        }
    }

    /// Writes whole lines, and before them how many are missing.
    fn write(&mut self, batch: &[u8], lines: u64) {
        if lines == 0 {
            return;
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let missing = (lost > 0).then(|| text(&Line::Lost { time: now(), lines: lost })).flatten();
        let mut out = Vec::with_capacity(batch.len() + 128);
        if self.torn {
            out.push(b'\n');
        }
        out.extend(missing.unwrap_or_default());
        out.extend_from_slice(batch);
        match self.file.write_all(&out) {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!(file = %self.path.display(), "the audit log is written again");
                }
                self.torn = false;
            }
            Err(error) => {
                // Some of it may have been written.
                self.torn = true;
                self.lost.fetch_add(lost + lines, Ordering::Relaxed);
                metrics::counter!("alknet_audit_lost_total").increment(lines);
                if !std::mem::replace(&mut self.failing, true) {
                    let file = self.path.display();
                    tracing::error!(%file, %error, "the audit log cannot be written; calls go on");
                }
            }
        }
    }
}

/// The time in UTC, to the millisecond, as RFC 3339 writes it.
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(since)
}

fn rfc3339(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    let millis = since_epoch.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day so many days after 1970-01-01, in the Gregorian calendar:
/// counted in eras of 400 years that begin on the 1st of March, so that the leap
/// day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (400 * era + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use alknet_plugin_api::Identity;
    use serde_json::Value;

    use super::*;
    use crate::registry::access::{Allowed, Denied};

    const LIMIT: Duration = Duration::from_secs(10);

    fn decide(log: &AuditLog, decision: Result<Allowed, Denied>) {
        let dora = Identity { id: "dora".into(), ..Identity::default() };
        log.access_decided(&AccessDecided {
            request_id: Some("c-1"),
            operation: "notes/find",
            subject: Some(&dora),
            origin: Some(&dora),
            forwarded_for: &[],
            internal: false,
            decision: &decision,
        });
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn times_are_written_for_people() {
        let at = |seconds: u64| rfc3339(Duration::from_millis(seconds * 1000 + 7));
        assert_eq!(at(0), "1970-01-01T00:00:00.007Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.007Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59.007Z");
        assert_eq!(at(4_102_444_800), "2100-01-01T00:00:00.007Z");
    }

    #[test]
    fn decisions_are_written_all_or_the_refused_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        for (what, expected) in [(What::All, 2), (What::Refused, 1)] {
            let log = AuditLog::open(&path, what).unwrap();
            decide(&log, Ok(Allowed::Scopes));
            decide(&log, Err(Denied::MissingScope("notes".into())));
            log.flush(LIMIT);
            let written = lines(&path);
            assert_eq!(written.len(), expected);
            let last = &written[expected - 1];
            assert_eq!(last["event"], "access");
            assert_eq!(last["allowed"], false);
            assert_eq!(last["rule"], "missing required scope: notes");
            assert_eq!((&last["subject"], &last["request_id"]), (&"dora".into(), &"c-1".into()));
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn made_up_names_are_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let log = AuditLog::open(&path, What::All).unwrap();
        let operation = &format!("{}\u{e9}", "x".repeat(MAX_NAME - 1));
        log.call_refused(&CallRefused {
            operation,
            code: code::NOT_FOUND,
            internal: false,
            caller: None,
        });
        log.flush(LIMIT);
        assert_eq!(lines(&path)[0]["operation"], "x".repeat(MAX_NAME - 1));
    }

    #[test]
    fn a_rotated_file_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("audit.jsonl"), folder.path().join("old"));
        let log = AuditLog::open(&path, What::All).unwrap();
        decide(&log, Ok(Allowed::Scopes));
        log.flush(LIMIT);
        std::fs::rename(&path, &old).unwrap();
        log.reopen();
        decide(&log, Ok(Allowed::Owner));
        log.flush(LIMIT);
        assert_eq!((lines(&old).len(), lines(&path).len()), (1, 1));
        assert_eq!(lines(&path)[0]["rule"], "the resource is owned");
    }

    #[test]
    fn a_full_disk_is_counted_and_said_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        // Everything written to this device fails as on a full disk.
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let log = AuditLog::open(&path, What::All).unwrap();
        for _ in 0..3 {
            decide(&log, Ok(Allowed::Scopes));
        }
        log.flush(LIMIT);
        assert_eq!(log.0.lost.load(Ordering::Relaxed), 3);
        std::fs::remove_file(&path).unwrap();
        log.reopen();
        decide(&log, Ok(Allowed::Scopes));
        log.flush(LIMIT);
        let written = lines(&path);
        assert_eq!((&written[0]["event"], &written[0]["lines"]), (&"lost".into(), &3.into()));
        assert_eq!(written[1]["event"], "access");
    }

    #[test]
    fn a_slow_disk_delays_no_call_and_bounds_the_queue() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.fifo");
        // A pipe that nobody reads: writing blocks once it is full.
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let reader = {
            let path = path.clone();
            std::thread::spawn(move || File::open(path).unwrap())
        };
        let log = AuditLog::open(&path, What::All).unwrap();
        let reader = reader.join().unwrap();
        for _ in 0..3 * QUEUE {
            decide(&log, Ok(Allowed::Scopes));
        }
        assert!(log.0.lost.load(Ordering::Relaxed) > 0, "the queue is bounded");
        drop(reader);
    }
}
