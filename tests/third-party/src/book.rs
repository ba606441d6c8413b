//! The book itself, and the handler that lets it be read as text.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alknet_plugin_api::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub(crate) const ALPN: &str = "guestbook/1";

#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct Entry {
    pub(crate) name: String,
    text: String,
}

pub(crate) struct Book {
    pages: usize,
    entries: Mutex<Vec<Entry>>,
    written: watch::Sender<usize>,
}

impl Book {
    pub(crate) fn new(pages: usize) -> Self {
        Self { pages, entries: Mutex::default(), written: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sign(&self, entry: Entry) -> Result<(), CallError> {
        let mut entries = self.lock();
        if entries.len() == self.pages {
            return Err(CallError::new("BOOK_FULL", "there is no page left"));
        }
        entries.push(entry);
        self.written.send_replace(entries.len());
        Ok(())
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.lock().clone()
    }

    pub(crate) async fn follow(self: Arc<Self>, mut items: ItemSink<Entry>) -> Result<(), CallError> {
        let mut written = self.written.subscribe();
        let mut sent = *written.borrow_and_update();
        // The sender lives in the book, which lives as long as this.
        while written.changed().await.is_ok() {
            let new = self.lock()[sent..].to_vec();
            sent += new.len();
            for entry in new {
                items.send(&entry).await?;
            }
        }
        Ok(())
    }
}

/// Answers each stream with the whole book.
pub(crate) struct Reader(pub(crate) Arc<Book>);

impl ProtocolHandler for Reader {
    async fn handle(&self, connection: Connection, _: &AuthContext) -> Result<(), HandlerError> {
        while let Ok((mut send, _)) = connection.accept_bi().await {
            for Entry { name, text } in self.0.entries() {
                send.write_all(format!("{name}: {text}\n").as_bytes()).await?;
            }
            send.finish()?;
            // Until the reader has all of it.
            let _ = send.stopped().await;
        }
        Ok(())
    }
}
