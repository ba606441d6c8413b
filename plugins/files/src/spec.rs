//! What the plugin declares.

use alknet_plugin_api::prelude::*;
use alknet_plugin_api::{CallError, ErrorDefinition};
use serde_json::Value;

use crate::jail::Refusal;

/// The largest integer that every reader of JSON takes for what it is.
const MAX_OFFSET: u64 = (1 << 53) - 1;

pub(crate) const FILE_NOT_FOUND: &str = "FILE_NOT_FOUND";
pub(crate) const OUTSIDE_ROOT: &str = "OUTSIDE_ROOT";
pub(crate) const NOT_A_FILE: &str = "NOT_A_FILE";
pub(crate) const NOT_A_DIRECTORY: &str = "NOT_A_DIRECTORY";
pub(crate) const NOT_READABLE: &str = "NOT_READABLE";

/// How a refusal reads to a caller. None of it tells where the root is.
impl From<Refusal> for CallError {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::NotFound => Self::new(FILE_NOT_FOUND, text),
            Refusal::Outside => Self::new(OUTSIDE_ROOT, text),
            Refusal::NotAFile => Self::new(NOT_A_FILE, text),
            Refusal::NotADirectory => Self::new(NOT_A_DIRECTORY, text),
            Refusal::NotReadable => Self::new(NOT_READABLE, text),
            Refusal::NotAPath(_) => Self::invalid_input(text),
            Refusal::Busy => Self::internal(text).retryable(true),
            Refusal::Other(_) => Self::internal(text),
        }
    }
}

pub(crate) fn manifest() -> Manifest {
    Manifest::new("files", env!("CARGO_PKG_VERSION"))
        .description("Lists and reads the files of one directory")
        .config(json!({
            "type": "object",
            "required": ["root"],
            "properties": {
                "root": {
                    "description": "Absolute path of the directory whose files are shown",
                    "type": "string",
                    "pattern": "^/",
                },
                "max_read": {
                    "description": "Bytes of a file that one answer holds",
                    "type": "integer", "minimum": 1, "maximum": 8_388_608, "default": 262_144,
                },
                "max_entries": {
                    "description": "Entries of a directory that one answer holds",
                    "type": "integer", "minimum": 1, "maximum": 100_000, "default": 1000,
                },
                "threads": {
                    "description": "File operations under way at a time",
                    "type": "integer", "minimum": 1, "maximum": 64, "default": 4,
                },
            },
            "additionalProperties": false,
        }))
        .operation(list())
        .operation(read())
        .operation(stat())
}

/// A path is text, or base64 of its bytes where they are no UTF-8.
fn input(own: Value) -> Value {
    let mut properties = json!({
        "path": {
            "description": "Below the root; the root itself when left out",
            "type": "string",
        },
        "path_base64": {
            "description": "Instead of `path`: the path's bytes, for names that are not UTF-8",
            "type": "string",
        },
    });
    if let (Value::Object(all), Value::Object(own)) = (&mut properties, own) {
        all.extend(own);
    }
    json!({
        "type": "object",
        "properties": properties,
        "not": { "required": ["path", "path_base64"] },
        "additionalProperties": false,
    })
}

fn list() -> OperationSpec {
    errors(
        OperationSpec::query("files/list")
            .description("Lists a directory in the order of its names' bytes")
            .tag("files")
            .example(json!({}))
            .example(json!({ "path": "notes", "limit": 10 }))
            .input(input(json!({
                "after": { "description": "An answer's `next`, to go on", "type": "string" },
                "limit": { "type": "integer", "minimum": 1, "maximum": u32::MAX },
            })))
            .output(json!({
                "type": "object",
                "required": ["entries"],
                "properties": {
                    "entries": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["name", "kind"],
                            "properties": {
                                "name": { "type": "string" },
                                "name_base64": {
                                    "description": "The name's bytes, where `name` cannot hold them",
                                    "type": "string",
                                },
                                "kind": { "enum": KINDS },
                            },
                        },
                    },
                    "next": { "description": "Present when there is more", "type": "string" },
                },
            })),
        &[FILE_NOT_FOUND, OUTSIDE_ROOT, NOT_A_DIRECTORY, NOT_READABLE],
    )
}

fn read() -> OperationSpec {
    errors(
        OperationSpec::query("files/read")
            .description("Reads a part of a file: as text where it is UTF-8, else as base64")
            .tag("files")
            .example(json!({ "path": "notes/today.md" }))
            .example(json!({ "path": "photo.jpg", "offset": 262_144, "length": 65_536 }))
            .input(input(json!({
                "offset": {
                    "description": "In bytes", "type": "integer",
                    "minimum": 0, "maximum": MAX_OFFSET,
                },
                "length": {
                    "description": "In bytes; answers hold less at the file's end and at the node's limit",
                    "type": "integer",
                    "minimum": 0,
                    "maximum": u32::MAX,
                },
                "encoding": {
                    "description": "`base64` gives base64 even where the bytes are UTF-8",
                    "enum": ["auto", "base64"],
                },
            })))
            .output(json!({
                "type": "object",
                "required": ["offset", "length", "size"],
                "properties": {
                    "text": { "type": "string" },
                    "data": { "description": "Base64, instead of `text`", "type": "string" },
                    "offset": { "type": "integer" },
                    "length": { "description": "Bytes in this answer", "type": "integer" },
                    "size": { "description": "Bytes in the file", "type": "integer" },
                    "next": {
                        "description": "Offset to go on from; absent at the file's end",
                        "type": "integer",
                    },
                },
            })),
        &[FILE_NOT_FOUND, OUTSIDE_ROOT, NOT_A_FILE, NOT_A_DIRECTORY, NOT_READABLE],
    )
}

fn stat() -> OperationSpec {
    errors(
        OperationSpec::query("files/stat")
            .description("Says what a path leads to")
            .tag("files")
            .example(json!({ "path": "notes/today.md" }))
            .input(input(json!({})))
            .output(json!({
                "type": "object",
                "required": ["kind", "size", "modified_ms"],
                "properties": {
                    "kind": { "enum": KINDS },
                    "size": { "description": "In bytes", "type": "integer" },
                    "modified_ms": {
                        "description": "Milliseconds since the Unix epoch",
                        "type": "integer",
                    },
                },
            })),
        &[FILE_NOT_FOUND, OUTSIDE_ROOT, NOT_A_DIRECTORY, NOT_READABLE],
    )
}

const KINDS: [&str; 4] = ["file", "directory", "symlink", "other"];

fn errors(spec: OperationSpec, codes: &[&str]) -> OperationSpec {
    codes.iter().fold(spec, |spec, code| {
        let (description, status) = match *code {
            FILE_NOT_FOUND => ("Nothing is there", 404),
            OUTSIDE_ROOT => ("The path, or a link on it, leads out of the root", 403),
            NOT_A_FILE => ("A directory, a device, a pipe or a socket is there", 409),
            NOT_A_DIRECTORY => ("No directory is there, or on the way there", 409),
            _ => ("The node's user may not read it", 403),
        };
        spec.error_definition(ErrorDefinition {
            code: (*code).to_owned(),
            description: description.to_owned(),
            schema: Value::Bool(true),
            http_status: Some(status),
        })
    })
}
