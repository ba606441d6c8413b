//! What a component writes to its standard error: a panic's text above all.

use std::sync::Arc;

use alknet_plugin_api::{Host, Level, LogRecord};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Bytes kept to explain a trap with, and the longest line that is logged.
const KEPT: usize = 4096;

/// Logs each line with the plugin's name (the host service adds it) and keeps
/// the last few.
#[derive(Clone)]
pub(super) struct Stderr(Arc<Mutex<Inner>>);

struct Inner {
    host: Option<Host>,
    kept: Vec<u8>,
    line: Vec<u8>,
}

impl Stderr {
    pub(super) fn new(host: Option<Host>) -> Self {
        Self(Arc::new(Mutex::new(Inner { host, kept: Vec::new(), line: Vec::new() })))
    }

    /// The last of what was written.
    pub(super) fn last(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().kept).into_owned()
    }

    fn take(&self, bytes: &[u8]) {
        let mut inner = self.0.lock();
        inner.kept.extend_from_slice(bytes);
        if inner.kept.len() > 2 * KEPT {
            let cut = inner.kept.len() - KEPT;
            inner.kept.drain(..cut);
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            inner.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || inner.line.len() >= KEPT {
                let line = std::mem::take(&mut inner.line);
                let text = String::from_utf8_lossy(&line);
                let text = text.trim_end();
                if let (Some(host), false) = (&inner.host, text.is_empty()) {
                    host.log(&LogRecord {
                        level: Level::Warn,
                        target: "stderr",
                        message: text,
                        fields: &[],
                    });
                }
            }
        }
    }
}

impl IsTerminal for Stderr {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stderr {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

impl OutputStream for Stderr {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(KEPT)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stderr {
    async fn ready(&mut self) {}
}
