//! `alknet ops`: what the caller may call.

use alknet_plugin_api::{Json, OperationSpec, OperationSummary};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::malformed;
use super::client::{block_on, one_call};
use super::failure::Failure;
use super::{Global, Output, Table};

/// List the operations that you may call, or describe one
#[derive(Debug, Args)]
pub(super) struct Ops {
    /// Describe this operation, with the schemas of its input and output
    name: Option<String>,
    /// List the operations that the node has from elsewhere, reached from the wire or
    /// not; needs the scope `admin` or `observe`
    #[arg(long, conflicts_with = "name")]
    imports: bool,
}

impl Ops {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let target = global.target()?;
        let ask = |name: &'static str, input: Value| {
            let input = Json::of(&input).map_err(malformed)?;
            block_on(one_call(&target, name, input, None))
        };
        if self.imports {
            let answer = ask("/node/status", json!({}))?;
            let status: Value = answer.to().map_err(malformed)?;
            return output.table(&imported(&status["imports"]), &status["imports"]);
        }
        match self.name {
            None => {
                let answer = ask("/services/list", json!({}))?;
                let list: List = answer.to().map_err(malformed)?;
                output.table(&list.table(), &answer.to::<Value>().map_err(malformed)?)
            }
            Some(name) => {
                let name = name.strip_prefix('/').unwrap_or(&name);
                let answer = ask("/services/schema", json!({ "name": name }))?;
                if output.is_json() {
                    return output.json(&answer.to::<Value>().map_err(malformed)?);
                }
                output.line(&describe(&answer.to().map_err(malformed)?))
            }
        }
    }
}

/// What `services/list` answers.
#[derive(Deserialize)]
struct List {
    operations: Vec<OperationSummary>,
}

impl List {
    fn table(mut self) -> Table {
        self.operations.sort_by(|a, b| a.name.cmp(&b.name));
        let mut table = Table::new(["name", "type", "description", "tags"]);
        for operation in self.operations {
            let name = format!("/{}", operation.name.trim_start_matches('/'));
            let tags = operation.tags.join(", ");
            let kind = json!(operation.op_type);
            let kind = kind.as_str().unwrap_or_default().to_owned();
            table.row([name, kind, operation.description, tags]);
        }
        table
    }
}

/// Each imported operation, and an import that has none as itself.
fn imported(imports: &Value) -> Table {
    let mut table = Table::new(["name", "import", "state", "exposed"]);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for import in list(imports) {
        let (name, state) = (text(&import["name"]), text(&import["state"]));
        let (operations, exposed) = (list(&import["operations"]), list(&import["exposed"]));
        if operations.is_empty() {
            let none = format!("/{}/… (none)", text(&import["prefix"]));
            table.row([none, name, state, String::new()]);
            continue;
        }
        for operation in operations {
            let is_exposed = if exposed.contains(&operation) { "yes" } else { "no" };
            let operation = format!("/{}", text(&operation));
            table.row([operation, name.clone(), state.clone(), is_exposed.to_owned()]);
        }
    }
    table
}

/// An operation's declaration on one screen.
fn describe(spec: &OperationSpec) -> String {
    let schema = |value: &Value| {
        let text = serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string());
        text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    };
    let kind = json!(spec.op_type);
    let mut blocks = vec![format!(
        "/{}  {}\n{}",
        spec.name,
        kind.as_str().unwrap_or_default(),
        spec.description
    )];
    let scopes = &spec.access_control.required_scopes;
    if !scopes.is_empty() {
        blocks.push(format!("needs the scopes {}", scopes.join(", ")));
    }
    if let Some(any) = &spec.access_control.required_scopes_any {
        blocks.push(format!("needs one of the scopes {}", any.join(", ")));
    }
    blocks.push(format!("input\n{}", schema(&spec.input_schema)));
    blocks.push(format!("output\n{}", schema(&spec.output_schema)));
    if !spec.error_schemas.is_empty() {
        let mut table = Table::new(["error", "description"]);
        for error in &spec.error_schemas {
            table.row([&*error.code, &*error.description]);
        }
        blocks.push(table.render(false));
    }
    for example in &spec.examples {
        blocks.push(format!("example\n  alknet call /{} '{example}'", spec.name));
    }
    let text = blocks.join("\n\n");
    text.lines().map(super::output::visible).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_listed_by_name() {
        let list: List = serde_json::from_value(json!({ "operations": [
            { "name": "echo/say", "namespace": "echo", "op_type": "query",
              "description": "Says it back", "tags": ["sample", "text"] },
            { "name": "clock/ticks", "namespace": "clock", "op_type": "subscription",
              "description": "Ticks", "tags": [] },
        ] }))
        .unwrap();
        assert_eq!(
            list.table().render(false),
            "NAME          TYPE          DESCRIPTION   TAGS\n\
             /clock/ticks  subscription  Ticks\n\
             /echo/say     query         Says it back  sample, text"
        );
    }

    #[test]
    fn imported_operations_are_listed_with_their_import() {
        let imports = json!([
            { "name": "b", "prefix": "peer/b", "state": "connected",
              "operations": ["peer/b/x/y"], "exposed": ["peer/b/x/y"] },
            { "name": "c", "prefix": "peer/c", "state": "waiting", "operations": [] },
        ]);
        let shown = imported(&imports).render(false);
        let rows: Vec<Vec<_>> =
            shown.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["/peer/b/x/y", "b", "connected", "yes"]);
        assert_eq!(rows[1], ["/peer/c/…", "(none)", "c", "waiting"]);
    }

    #[test]
    fn an_operation_is_described_with_its_example() {
        let spec = OperationSpec::query("echo/say")
            .description("Says it back")
            .example(json!({ "text": "hi" }))
            .error("EMPTY", "There is no text");
        let text = describe(&spec);
        assert!(text.starts_with("/echo/say  query\nSays it back\n\ninput\n  true"), "{text}");
        assert!(text.contains("EMPTY  There is no text"), "{text}");
        assert!(text.ends_with("example\n  alknet call /echo/say '{\"text\":\"hi\"}'"), "{text}");
    }
}
