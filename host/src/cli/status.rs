//! `alknet status`: what a running node says of itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alknet_plugin_api::Json;
use clap::Args;
use serde_json::Value;
use x509_parser::time::ASN1Time;

use super::call::malformed;
use super::client::{block_on, one_call};
use super::failure::Failure;
use super::output::visible;
use super::usage::usage;
use super::{Global, Output, Table};

/// The operation that answers it; it takes the scope `admin` or `observe`.
const OPERATION: &str = "/node/status";

/// Show what a running node serves and who is connected
#[derive(Debug, Args)]
pub(super) struct Status {}

impl Status {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let target = global.target()?;
        let answer = block_on(one_call(&target, OPERATION, Json::empty_object(), None))?;
        let status: Value = answer.to().map_err(malformed)?;
        if output.is_json() {
            return output.json(&status);
        }
        output.line(&visible(&summary(&status)))?;
        for line in access(&status) {
            output.line(&visible(&line))?;
        }
        for certificate in list(&status, "certificates") {
            output.line(&visible(&certificate_line(certificate)))?;
        }
        output.line("")?;
        output.table(&plugins(&status), &())?;
        output.line("")?;
        output.table(&usage(list(&status, "plugins")), &())?;
        if !list(&status, "imports").is_empty() {
            output.line("")?;
            output.table(&imports(&status), &())?;
        }
        let connections = connections(&status);
        output.line("")?;
        output.table(&connections, &())
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(" "),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn list<'a>(status: &'a Value, name: &str) -> &'a [Value] {
    status[name].as_array().map_or(&[], Vec::as_slice)
}

fn summary(status: &Value) -> String {
    let uptime = Duration::from_secs(status["uptime_seconds"].as_u64().unwrap_or(0));
    let memory = status["resident_bytes"].as_u64().unwrap_or(0) >> 20;
    let degraded = match status["degraded"].as_bool() {
        Some(true) => ", degraded: a plugin is missing",
        _ => "",
    };
    let relay = match text(&status["relay"]) {
        relay if relay.is_empty() => relay,
        relay => format!(" and by relay {relay}"),
    };
    format!(
        "alknet {} node {} on {}{relay}, up {uptime:?}, {memory} MiB, {} operations{degraded}",
        text(&status["version"]),
        text(&status["node_key"]),
        addresses(status),
        text(&status["operations"]),
    )
}

/// What is in force of `access.toml`, and what is wrong with the file.
fn access(status: &Value) -> Vec<String> {
    let access = &status["access"];
    let count = |key: &str| access[key].as_u64().unwrap_or(0);
    let mut lines = vec![format!(
        "access.toml: {} peers, {} API keys, read {} times",
        count("peers"),
        count("api_keys"),
        count("reloads") + 1
    )];
    let problems = access["refused"]["problems"].as_array();
    if problems.is_some() {
        lines.push("access.toml is refused as it is now; what was in force stays so:".to_owned());
    }
    for problem in problems.into_iter().flatten() {
        let line = problem["line"].as_u64().map(|line| format!("line {line}: "));
        lines.push(format!(
            "  {}{}; {}",
            line.unwrap_or_default(),
            text(&problem["what"]),
            text(&problem["remedy"])
        ));
    }
    lines
}

fn addresses(status: &Value) -> String {
    let tcp = list(status, "tcp_addresses").iter().map(|address| format!(" tcp {}", text(address)));
    text(&status["addresses"]) + &tcp.collect::<String>()
}

fn certificate_line(certificate: &Value) -> String {
    let mut line = format!("certificate ({})", text(&certificate["kind"]));
    match certificate["not_after_unix"].as_i64().map(ASN1Time::from_timestamp) {
        Some(Ok(end)) => {
            let names = text(&certificate["names"]);
            let fingerprint = text(&certificate["fingerprint"]);
            line += &format!(" for {names}, until {end}, {fingerprint}");
        }
        _ => line += ": none yet",
    }
    if let Some(error) = certificate["error"].as_str() {
        line += &format!("; not replaced: {error}");
    }
    line
}

fn plugins(status: &Value) -> Table {
    let mut table = Table::new(["plugin", "kind", "trust", "version", "ALPNs", "operations"]);
    for plugin in list(status, "plugins") {
        let columns = ["name", "kind", "trust", "version", "alpns", "operations"];
        let mut row = columns.map(|column| text(&plugin[column]));
        if let Some(failure) = plugin["failure"].as_str() {
            row[5] = format!("missing: {failure}");
        }
        table.row(row.each_ref().map(String::as_str));
    }
    table
}

fn imports(status: &Value) -> Table {
    let head = ["import", "kind", "prefix", "state", "for", "operations", "exposed", "last error"];
    let mut table = Table::new(head);
    for import in list(status, "imports") {
        let count = |key: &str| import[key].as_array().map_or(0, Vec::len).to_string();
        let state = match import["next_attempt_seconds"].as_u64() {
            Some(seconds) => format!("{}, again in {seconds}s", text(&import["state"])),
            None => text(&import["state"]),
        };
        let since = Duration::from_secs(import["since"].as_u64().unwrap_or(0));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let lasting = Duration::from_secs(now.saturating_sub(since).as_secs());
        table.row([
            text(&import["name"]),
            text(&import["kind"]),
            text(&import["prefix"]),
            state,
            format!("{lasting:?}"),
            count("operations"),
            count("exposed"),
            text(&import["last_error"]),
        ]);
    }
    table
}

fn connections(status: &Value) -> Table {
    let columns =
        ["id", "source", "peer", "address", "alpn", "plugin", "bytes_received", "bytes_sent"];
    let mut table = Table::new(["id", "source", "peer", "address", "ALPN", "plugin", "in", "out"]);
    for connection in list(status, "connections") {
        let mut row = columns.map(|column| text(&connection[column]));
        if let Some(name) = connection["identity"].as_str() {
            row[2] = name.to_owned();
        }
        table.row(row.each_ref().map(String::as_str));
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn k48_a_refused_file_shows() {
        let mut status = json!({ "access": { "peers": 2, "api_keys": 1, "reloads": 3 } });
        assert_eq!(access(&status), ["access.toml: 2 peers, 1 API keys, read 4 times"]);
        status["access"]["refused"] = json!({ "problems": [
            { "line": 3, "what": "unknown key `x`", "remedy": "remove it" },
            { "line": null, "what": "there is no such file", "remedy": "create it" },
        ] });
        assert_eq!(
            access(&status)[1..],
            [
                "access.toml is refused as it is now; what was in force stays so:",
                "  line 3: unknown key `x`; remove it",
                "  there is no such file; create it",
            ]
        );
    }

    #[test]
    fn a_certificate_shows_with_its_end_and_its_trouble() {
        let mut certificate = json!({
            "kind": "acme", "names": ["a.example", "b.example"], "not_after_unix": 1_798_761_600,
            "fingerprint": "SHA256:ab",
        });
        let good = certificate_line(&certificate);
        assert_eq!(
            good,
            "certificate (acme) for a.example b.example, until Jan  1 00:00:00 2027 +00:00, SHA256:ab"
        );
        certificate["error"] = "no answer".into();
        assert_eq!(certificate_line(&certificate), format!("{good}; not replaced: no answer"));
        let none = json!({ "kind": "acme", "names": [], "not_after_unix": null });
        assert_eq!(certificate_line(&none), "certificate (acme): none yet");
    }

    #[test]
    fn a_missing_plugin_shows() {
        let status = json!({
            "version": "1.0.0", "node_key": "ab", "addresses": ["127.0.0.1:1"], "operations": 2,
            "uptime_seconds": 61, "resident_bytes": 3 << 20, "degraded": true,
            "plugins": [{ "name": "echo", "kind": "native", "failure": "wrong machine" }],
            "connections": [{ "id": 7, "peer": "ed25519:cd", "alpn": "alknet/echo" }],
        });
        assert_eq!(
            summary(&status),
            "alknet 1.0.0 node ab on 127.0.0.1:1, up 61s, 3 MiB, 2 operations, degraded: a \
             plugin is missing"
        );
        assert!(plugins(&status).render(false).contains("missing: wrong machine"));
        assert!(connections(&status).render(false).contains("ed25519:cd"));
    }
}
