//! `alknet reload`: a running node takes up its `access.toml` now, and says what
//! has changed.

use alknet_plugin_api::Json;
use clap::Args;
use serde_json::Value;

use super::call::malformed;
use super::client::{block_on, one_call};
use super::failure::Failure;
use super::output::visible;
use super::{Global, Output};

/// The operation that does it; it takes the scope `admin`.
const OPERATION: &str = "/node/reload";

/// Have a running node read its access.toml now
#[derive(Debug, Args)]
pub(super) struct Reload {}

impl Reload {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let target = global.target()?;
        let answer = block_on(one_call(&target, OPERATION, Json::empty_object(), None))?;
        let reloaded: Value = answer.to().map_err(malformed)?;
        match output.is_json() {
            true => output.json(&reloaded),
            false => output.line(&visible_lines(&summary(&reloaded))),
        }
    }
}

fn visible_lines(text: &str) -> String {
    text.lines().map(visible).collect::<Vec<_>>().join("\n")
}

/// A line for each kind of change.
fn summary(reloaded: &Value) -> String {
    let mut lines = Vec::new();
    for (key, what) in [("peers", "peers"), ("api_keys", "API keys")] {
        for change in ["added", "removed", "changed"] {
            let names = reloaded[key][change].as_array().map_or(&[][..], Vec::as_slice);
            let names: Vec<_> = names.iter().filter_map(Value::as_str).collect();
            if !names.is_empty() {
                lines.push(format!("{what} {change}: {}", names.join(", ")));
            }
        }
    }
    for (key, what) in [("limits", "limits changed"), ("log", "log filter changed")] {
        if reloaded[key] == Value::Bool(true) {
            lines.push(what.to_owned());
        }
    }
    if let Some(closed) = reloaded["closed"].as_u64().filter(|closed| *closed > 0) {
        lines.push(format!("connections closed: {closed}"));
    }
    match lines.is_empty() {
        true => "nothing has changed".to_owned(),
        false => lines.join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_changed_is_told() {
        let reloaded = json!({
            "peers": { "added": ["ada", "emil"], "removed": [], "changed": ["dora"] },
            "api_keys": { "added": [], "removed": ["alk_1234"], "changed": [] },
            "limits": true, "log": false, "closed": 2,
        });
        assert_eq!(
            summary(&reloaded),
            "peers added: ada, emil\npeers changed: dora\nAPI keys removed: alk_1234\n\
             limits changed\nconnections closed: 2"
        );
        assert_eq!(summary(&json!({})), "nothing has changed");
    }
}
