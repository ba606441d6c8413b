//! The reference of `node.toml` and `access.toml`, made from their schemas.
//!
//! `ALKNET_WRITE_REFERENCE=1 cargo nextest run -E 'test(reference)'` writes it.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use super::root;

const FILES: [(&str, &str, &str); 2] = [
    ("node.toml", "config/node.schema.json", "docs/reference/node.md"),
    ("access.toml", "config/access.schema.json", "docs/reference/access.md"),
];

/// A value as it stands in TOML.
fn toml(value: &Value) -> String {
    format!("`{value}`").replace('|', "\\|")
}

/// What may stand as a value, in few words.
fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        return reference.rsplit('/').next().unwrap().to_owned();
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(toml).collect::<Vec<_>>().join(", ");
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        return choices.iter().map(kind).collect::<Vec<_>>().join(", or ");
    }
    if schema["format"] == "date-time" {
        return "date".to_owned();
    }
    match schema["type"].as_str() {
        Some("array") => match kind(&schema["items"]) {
            of if of.is_empty() => "list".to_owned(),
            of => format!("list of {of}"),
        },
        Some("object") => match schema.get("additionalProperties").filter(|of| of.is_object()) {
            Some(of) => format!("table of {}", kind(of)),
            None => "table".to_owned(),
        },
        Some("integer") => match schema["minimum"].as_u64() {
            Some(least @ 1..) => format!("integer from {least}"),
            _ => "integer".to_owned(),
        },
        other => other.unwrap_or_default().to_owned(),
    }
}

/// Whether a value has a section of its own.
fn section(schema: &Value) -> Option<&Value> {
    let tables = [schema, &schema["items"], &schema["additionalProperties"]];
    tables.into_iter().find(|table| table["properties"].is_object())
}

/// The heading of what is in `path`.
fn heading(path: &str, schema: &Value) -> String {
    if schema["type"] == "array" {
        return format!("[[{path}]]");
    }
    match schema["additionalProperties"].is_object() {
        true => format!("[{path}.NAME]"),
        false => format!("[{path}]"),
    }
}

fn describe(out: &mut String, path: &str, schema: &Value) {
    let table = section(schema).unwrap();
    // Whatever order the parser keeps.
    let properties: BTreeMap<_, _> = table["properties"].as_object().unwrap().iter().collect();
    let required: Vec<_> = table["required"].as_array().into_iter().flatten().collect();
    let plain: Vec<_> = properties.iter().filter(|(_, schema)| section(schema).is_none()).collect();
    let level =
        if path.is_empty() { "##" } else { &"####"[..2 + path.matches('.').count().min(2)] };
    if !plain.is_empty() || schema.get("description").is_some() {
        let title = match path {
            "" => "At the top".to_owned(),
            path => format!("`{}`", heading(path, schema)),
        };
        write!(out, "\n{level} {title}\n").unwrap();
        if let Some(text) = schema["description"].as_str() {
            write!(out, "\n{text}.\n").unwrap();
        }
    }
    if !plain.is_empty() {
        out.push_str("\n| key | value | default | meaning |\n|---|---|---|---|\n");
    }
    for (key, schema) in plain {
        let default = match schema.get("default") {
            Some(value) => toml(value),
            None if required.iter().any(|name| name.as_str() == Some(key.as_str())) => {
                "required".to_owned()
            }
            None => String::new(),
        };
        let meaning = schema["description"].as_str().unwrap_or_else(|| panic!("{path}.{key}"));
        let meaning = meaning.replace('|', "\\|").replace('<', "&lt;");
        writeln!(out, "| `{key}` | {} | {default} | {meaning} |", kind(schema)).unwrap();
    }
    for (key, schema) in properties.iter().filter(|(_, schema)| section(schema).is_some()) {
        let path = format!("{path}.{key}");
        describe(out, path.trim_start_matches('.'), schema);
    }
}

fn page(file: &str, source: &str) -> String {
    let text = std::fs::read_to_string(root().join(source)).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    let name = source.rsplit('/').next().unwrap();
    let title = schema["title"].as_str().unwrap().split(": ").nth(1).unwrap();
    let mut out = format!(
        "# Reference: {file}\n\n\
         `{file}` says {title}. This page is made from \
         [`{name}`](https://github.com/alkdev/alknet/blob/main/{source}), which editors read, \
         too; an example with every key is \
         [`{file}`](https://github.com/alkdev/alknet/blob/main/config/{file}).\n\n\
         A *duration* is text such as `\"500ms\"`, `\"30s\"`, `\"5m\"` or `\"12h\"`; a *size* is a \
         number of bytes, or text such as `\"64 MiB\"` (KiB, MiB, GiB). Paths are relative to \
         the file's folder. A key that does not stand here is refused.\n"
    );
    describe(&mut out, "", &schema);
    out
}

#[test]
fn the_reference_is_in_step_with_the_schemas() {
    for (file, source, target) in FILES {
        let made = page(file, source);
        let target = root().join(target);
        if std::env::var_os("ALKNET_WRITE_REFERENCE").is_some() {
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::write(&target, &made).unwrap();
        }
        let stands = std::fs::read_to_string(&target).unwrap_or_default();
        assert!(
            stands == made,
            "{} is not what its schema says; write it anew with \
             `ALKNET_WRITE_REFERENCE=1 cargo nextest run -E 'test(reference)'`",
            target.display()
        );
    }
}
