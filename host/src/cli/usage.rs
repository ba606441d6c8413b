//! What plugins use, against what they may: for `status` and `plugin list --running`,
//! out of a running node's answer.

use serde_json::Value;

use super::Table;
use crate::budget::{LimitStatus, TABLE, Unit};

/// The limits that have a column of their own, with its heading.
const COLUMNS: [(&str, &str); 7] = [
    ("memory", "memory"),
    ("instances", "instances"),
    ("call_instances", "for calls"),
    ("connections", "connections"),
    ("streams", "streams"),
    ("calls", "calls"),
    ("subscriptions", "subscriptions"),
];

/// A row for each plugin.
pub(super) fn usage(plugins: &[Value]) -> Table {
    let mut headings = vec!["plugin"];
    headings.extend(COLUMNS.map(|(_, heading)| heading));
    headings.extend(["CPU", "in", "out", "limits hit"]);
    let mut table = Table::new(headings);
    for plugin in plugins.iter().filter(|plugin| plugin["failure"].is_null()) {
        let usage = &plugin["usage"];
        let mut row = vec![plugin["name"].as_str().unwrap_or_default().to_owned()];
        row.extend(COLUMNS.map(|(name, _)| of_limit(limit(plugin, name))));
        let cpu = usage["cpu_seconds"].as_f64().map(|seconds| format!("{seconds:.2}s"));
        row.push(over_time(cpu.unwrap_or_else(|| "-".to_owned()), limit(plugin, "cpu_per_second")));
        let bytes = |key: &str| Unit::Bytes.show(usage[key].as_u64().unwrap_or(0));
        let rate = limit(plugin, "bytes_per_second");
        row.extend([over_time(bytes("bytes_in"), rate), over_time(bytes("bytes_out"), rate)]);
        row.push(hits(plugin));
        table.row(row);
    }
    table
}

fn limit<'a>(plugin: &'a Value, name: &str) -> &'a Value {
    let limits = plugin["limits"].as_array().map_or(&[][..], Vec::as_slice);
    limits.iter().find(|limit| limit["name"] == name).unwrap_or(&Value::Null)
}

fn unit(limit: &Value) -> Unit {
    let row = TABLE.iter().find(|row| limit["name"] == row.key);
    row.map_or(Unit::Count, |row| row.unit)
}

/// `3 / 100`, or `3` without a limit.
fn of_limit(limit: &Value) -> String {
    let show = |key: &str| limit[key].as_u64().map(|value| unit(limit).show(value));
    let used = match (limit["enforced"].as_bool(), show("used")) {
        (Some(false), _) => return "not enforceable".to_owned(),
        (_, Some(used)) => used,
        (_, None) => "-".to_owned(),
    };
    match (show("limit"), limit["each"].is_string()) {
        (Some(limit), true) => format!("{used} / {limit} each"),
        (Some(limit), false) => format!("{used} / {limit}"),
        (None, _) => used,
    }
}

/// What was used so far, with the limit on it in each second.
fn over_time(used: String, limit: &Value) -> String {
    match (limit["enforced"].as_bool(), limit["limit"].as_u64()) {
        (Some(true), Some(value)) => format!("{used} at {}/s", unit(limit).show(value)),
        _ => used,
    }
}

fn hits(plugin: &Value) -> String {
    let limits = plugin["limits"].as_array().into_iter().flatten();
    let hit = limits.filter_map(|limit| match limit["hits"].as_u64() {
        None | Some(0) => None,
        Some(hits) => Some(format!("{} {hits}×", limit["name"].as_str().unwrap_or_default())),
    });
    hit.collect::<Vec<_>>().join(", ")
}

/// What a plugin of one kind may use unless its stanza says otherwise.
pub(super) fn defaults(limits: &[LimitStatus]) -> Table {
    let mut table = Table::new(["limit", "default", "beyond"]);
    for limit in limits {
        let value = match (limit.enforced, limit.limit, limit.each) {
            (false, ..) => String::new(),
            (true, None, _) => "none".to_owned(),
            (true, Some(value), None) => limit.unit.show(value),
            (true, Some(value), Some(each)) => format!("{} an {each}", limit.unit.show(value)),
        };
        let beyond = match limit.why {
            Some(why) => format!("{}: {why}", limit.beyond),
            None => limit.beyond.to_owned(),
        };
        table.row([limit.name.to_owned(), value, beyond]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::budget::{Limits, Meter, Resource, Substrate};

    #[test]
    fn usage_stands_against_its_limit() {
        let written = Limits::default()
            .with(Resource::Streams, 100)
            .with(Resource::CpuPerSecond, 250)
            .with(Resource::Memory, 32 << 20);
        let meter = Meter::new("notes", Substrate::Component, written);
        let _places: Vec<_> = (0..3).map(|_| meter.enter(Resource::Streams)).collect();
        meter.grow(3 << 20);
        meter.hit(Resource::Calls);
        let plugin = |name: &str, meter: &Meter| json!({ "name": name, "limits": meter.status(), "usage": meter.usage() });
        let native =
            Meter::new("old", Substrate::Native, Limits::default().with(Resource::Memory, 1));
        let plugins = [plugin("notes", &meter), plugin("old", &native)];
        let text = usage(&plugins).render(false);
        assert!(text.contains("notes   3 MiB / 32 MiB each  0 / 512"), "{text}");
        assert!(text.contains("  3 / 100  "), "{text}");
        assert!(text.contains("  0.00s at 250ms/s  0 B  0 B  calls 1×"), "{text}");
        assert!(text.contains("old     not enforceable"), "{text}");
    }

    #[test]
    fn what_cannot_be_enforced_says_why() {
        let native = Meter::new("", Substrate::Native, Limits::default());
        let text = defaults(&native.status()).render(false);
        assert!(text.contains("not enforceable: its memory is the daemon's"), "{text}");
        let component = Meter::new("", Substrate::Component, Limits::default());
        let text = defaults(&component.status()).render(false);
        assert!(text.contains("64 MiB an instance  stopped"), "{text}");
    }
}
