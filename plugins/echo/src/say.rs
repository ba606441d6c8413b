//! The operations: text in, text out.

use alknet_plugin_api::ErrorDefinition;
use alknet_plugin_api::prelude::*;
use serde::{Deserialize, Serialize};

/// What `echo/fail` always answers.
const REFUSED: &str = "ECHO_REFUSED";

/// Input and output of every operation here.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Text {
    pub(crate) text: String,
}

impl Text {
    /// The characters (Unicode scalar values) back to front.
    pub(crate) fn reversed(self) -> Self {
        Self { text: self.text.chars().rev().collect() }
    }

    pub(crate) fn refused(self) -> CallError {
        CallError::new(REFUSED, "refused, as asked").with_details(json!({ "text": self.text }))
    }
}

fn text_schema() -> serde_json::Value {
    json!({
        "type": "object",
        "required": ["text"],
        "properties": { "text": { "type": "string" } },
        "additionalProperties": false,
    })
}

/// A declaration is data: it stands beside the code, and tools print it without
/// running the plugin.
pub(crate) fn say() -> OperationSpec {
    OperationSpec::query("echo/say")
        .description("Answers with the text it was given")
        .tag("sample")
        .example(json!({ "text": "hi" }))
        .input(text_schema())
        .output(text_schema())
}

pub(crate) fn reverse() -> OperationSpec {
    OperationSpec::query("echo/reverse")
        .description("Answers with the text's characters back to front")
        .tag("sample")
        .example(json!({ "text": "hi" }))
        .input(text_schema())
        .output(text_schema())
}

pub(crate) fn fail() -> OperationSpec {
    OperationSpec::query("echo/fail")
        .description("Always fails, with an error of its own that holds the text")
        .tag("sample")
        .input(text_schema())
        .output(json!(false))
        .error_definition(ErrorDefinition {
            code: REFUSED.into(),
            description: "Always".into(),
            schema: text_schema(),
            http_status: Some(409),
        })
}
