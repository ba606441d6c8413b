//! A guest book: sign it, read it, follow it.

mod book;

use std::sync::Arc;

use alknet_plugin_api::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use crate::book::{Book, Entry};

/// The plugin.
pub struct Guestbook;

alknet_plugin_api::export!(Guestbook);

/// What the deployment file may say.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    pages: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { pages: 100 }
    }
}

#[derive(Deserialize)]
struct Nothing {}

fn entry() -> Value {
    json!({
        "type": "object",
        "required": ["name", "text"],
        "properties": {
            "name": { "type": "string", "minLength": 1, "maxLength": 80 },
            "text": { "type": "string", "maxLength": 1000 },
        },
        "additionalProperties": false,
    })
}

impl Plugin for Guestbook {
    fn manifest() -> Manifest {
        Manifest::new("guestbook", env!("CARGO_PKG_VERSION"))
            .description("A guest book: sign it, read it, follow it")
            .alpn(book::ALPN)
            .config(json!({
                "type": "object",
                "properties": { "pages": { "type": "integer", "minimum": 1, "maximum": 10_000 } },
                "additionalProperties": false,
            }))
            .operation(
                OperationSpec::mutation("guestbook/sign")
                    .description("Adds an entry")
                    .input(entry())
                    .output(json!({ "type": "object" }))
                    .error("BOOK_FULL", "There is no page left"),
            )
            .operation(
                OperationSpec::query("guestbook/read")
                    .description("All entries, the first one first")
                    .input(json!({ "type": "object", "additionalProperties": false }))
                    .output(json!({ "type": "array", "items": entry() })),
            )
            .operation(
                OperationSpec::subscription("guestbook/follow")
                    .description("Entries as they are written")
                    .input(json!({ "type": "object", "additionalProperties": false }))
                    .output(entry()),
            )
    }

    fn build(_: Host, config: Json, on: &mut Registrar) -> Result<(), BuildError> {
        let config: Config = config.to()?;
        let book = Arc::new(Book::new(config.pages));
        on.handler(book::ALPN, book::Reader(book.clone()));
        let signed = book.clone();
        on.operation("guestbook/sign", move |context, entry: Entry| {
            tracing::info!(request_id = context.request_id(), name = entry.name, "signed");
            let signed = signed.sign(entry);
            async move { signed.map(|()| json!({})) }
        });
        let read = book.clone();
        on.operation("guestbook/read", move |_, _: Nothing| {
            let entries = read.entries();
            async move { Ok(entries) }
        });
        on.subscription("guestbook/follow", move |_, _: Nothing, items| {
            book.clone().follow(items)
        });
        Ok(())
    }
}
