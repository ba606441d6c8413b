//! Code in pages is code that is compiled, and files in pages are files that parse.

use serde_json::Value;

use super::{Page, root};

/// Lines without what they have in common at their beginnings.
fn dedented<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let lines: Vec<_> = lines.collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let filled = lines.iter().filter(|line| !line.trim().is_empty());
    let least = filled.map(|line| indent(line)).min().unwrap_or(0);
    lines.iter().map(|line| line.get(least..).unwrap_or("").trim_end().to_owned()).collect()
}

/// Whether a file has these lines, indented as it may be, or in its documentation.
fn has(source: &str, block: &str) -> bool {
    let wanted = dedented(block.lines());
    let documentation = |line: &'static str| {
        source.lines().map(move |text| {
            let text = text.trim_start().strip_prefix(line).unwrap_or(text);
            text.strip_prefix(' ').unwrap_or(text)
        })
    };
    let plain: Vec<_> = source.lines().collect();
    let all = [plain, documentation("//!").collect(), documentation("///").collect()];
    all.iter().any(|lines| {
        lines.windows(wanted.len()).any(|window| dedented(window.iter().copied()) == wanted)
    })
}

#[test]
fn code_is_found_wherever_it_stands() {
    let source = "fn a() {\n    //! x\n    if b {\n\n        c();\n    }\n}\n//! let d = 1;\n//!\n//! e();\n";
    assert!(has(source, "if b {\n\n    c();\n}\n") && has(source, "let d = 1;\n\ne();\n"));
    assert!(!has(source, "if b {\nc();\n}\n") && !has(source, "d();\n"));
}

#[test]
fn code_is_compiled_code() {
    let mut found = 0;
    for page in Page::all().iter().filter(|page| page.in_book().is_some()) {
        for block in page.blocks().iter().filter(|block| block.kind == "rust") {
            let place = format!("{}:{}", page.name, block.line);
            let file = block.told("from").unwrap_or_else(|| panic!("{place} is from nowhere"));
            let source = std::fs::read_to_string(root().join(file)).unwrap();
            assert!(has(&source, &block.text), "{place} is not in {file}:\n{}", block.text);
            found += 1;
        }
    }
    assert!(found >= 3, "{found} blocks were found");
}

/// The keys of a table that its schema does not have.
fn unknown(value: &Value, schema: &Value, path: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                let path = format!("{path}.{key}");
                let known = schema["properties"].get(key).or(schema.get("additionalProperties"));
                match known.filter(|known| known.is_object()) {
                    Some(known) => unknown(value, known, &path, into),
                    // Such as a plugin's configuration.
                    None if schema["type"] == "object" && schema.get("properties").is_none() => {}
                    None if schema.get("$ref").is_some() => {}
                    None => into.push(path),
                }
            }
        }
        Value::Array(values) => {
            for value in values {
                unknown(value, &schema["items"], path, into);
            }
        }
        _ => {}
    }
}

fn as_json(value: toml::Value) -> Value {
    match value {
        toml::Value::Datetime(date) => Value::String(date.to_string()),
        toml::Value::Array(values) => values.into_iter().map(as_json).collect(),
        toml::Value::Table(table) => {
            table.into_iter().map(|(key, value)| (key, as_json(value))).collect()
        }
        other => serde_json::to_value(other).unwrap(),
    }
}

#[test]
fn files_in_pages_parse_and_have_known_keys() {
    let schema = |file: &str| -> Value {
        serde_json::from_slice(&std::fs::read(root().join("config").join(file)).unwrap()).unwrap()
    };
    let schemas = [schema("node.schema.json"), schema("access.schema.json")];
    let mut found = 0;
    for page in Page::all() {
        for block in page.blocks() {
            let place = format!("{}:{}", page.name, block.line);
            match &*block.kind {
                "toml" => {
                    let parsed: toml::Value = toml::from_str(&block.text)
                        .unwrap_or_else(|error| panic!("{place}: {error}"));
                    let parsed = as_json(parsed);
                    let of_cargo = parsed.get("package").or(parsed.get("dependencies")).is_some();
                    let fits = schemas.iter().any(|schema| {
                        let mut wrong = Vec::new();
                        unknown(&parsed, schema, "", &mut wrong);
                        wrong.is_empty()
                    });
                    // `[plugin.config]` alone: the end of a stanza that is not shown.
                    let part = parsed.get("plugin").is_some_and(Value::is_object);
                    assert!(fits || of_cargo || part, "{place} has keys that no file has");
                    found += 1;
                }
                "json" => {
                    let stream =
                        serde_json::Deserializer::from_str(&block.text).into_iter::<Value>();
                    for value in stream {
                        value.unwrap_or_else(|error| panic!("{place}: {error}"));
                    }
                    found += 1;
                }
                _ => {}
            }
        }
    }
    assert!(found >= 10, "{found} blocks were found");
}
