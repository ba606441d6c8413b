//! The console: its files, whom the operations behind it answer, and the page in a
//! browser.

use super::*;

use std::collections::BTreeSet;

use alknet_tests::browser;

/// The token of an API key with the scope `observe`.
const OBSERVER: &str = "alk_obse-and-the-rest-of-a-token";

/// The policy that each file comes with.
const POLICY: [&str; 10] = [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "img-src 'self' data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
];

/// What reads the node, with an input for each.
fn readings() -> Vec<(&'static str, Value)> {
    let why = json!({ "identity": "anonymous", "operation": "/echo/say" });
    ["status", "plugins", "connections", "operations", "recent", "access", "metrics"]
        .map(|name| (name, json!({})))
        .into_iter()
        .chain([("acl-why", why)])
        .collect()
}

/// A node with the console, which an observer may look at.
async fn console() -> Site {
    let (node, tcp) = folder("console = true");
    let (prefix, hash) = (&OBSERVER[..8], stored(&digest(OBSERVER.as_bytes())));
    let key = format!(
        "\n[[api_key]]\nprefix = {prefix:?}\nhash = {hash:?}\nscopes = [\"observe\"]\n\
         description = \"the console\"\n"
    );
    node.append("access.toml", &key);
    start(node, tcp).await
}

impl Site {
    /// The output of one of the node's own operations, as the observer.
    async fn observe(&self, name: &str, input: Value) -> Value {
        let token = bearer(OBSERVER);
        let token: Vec<_> = token.iter().map(String::as_str).collect();
        self.call(&format!("node/{name}"), input, &token).await.ok()
    }
}

/// The names in quotation marks behind `before`.
fn named(text: &str, before: &str) -> Vec<String> {
    let parts = text.split(before).skip(1);
    parts.filter_map(|part| part.split('"').next()).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_page_and_all_that_it_loads_come_with_a_strict_policy() {
    let site = console().await;
    let moved = site.curl("/console", &[]).await;
    assert_eq!((moved.status, moved.header("location")), (308, Some("/console/")));
    let mut waiting = vec![String::new()];
    let mut seen = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let path = format!("/console/{name}");
        let file = site.curl(&path, &[]).await;
        assert_eq!(file.status, 200, "{path}");
        let policy = file.header("content-security-policy").unwrap();
        assert_eq!(policy.split("; ").collect::<Vec<_>>(), POLICY, "{path}");
        for (header, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-cache"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            assert_eq!(file.header(header), Some(value), "{path}");
        }
        let kind = match name.rsplit('.').next().unwrap() {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(file.header("content-type"), Some(kind), "{path}");
        // A name of a language is no address.
        let text = file.body.replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http:") && !text.contains("https:"), "{path}");
        let tag = file.header("etag").unwrap();
        let again = site.curl(&path, &["--header", &format!("if-none-match: {tag}")]).await;
        assert_eq!((again.status, &*again.body), (304, ""), "{path}");
        let loads = [named(&text, "href=\""), named(&text, "src=\""), named(&text, "from \"./")];
        let local = loads.concat().into_iter().filter(|name| !name.starts_with('#'));
        waiting.extend(local);
    }
    assert!(seen.len() > 15, "the page has modules: {seen:?}");
    let missing = site.curl("/console/none.js", &[]).await;
    missing.problem(404, "NOT_FOUND");
    assert!(missing.header("content-security-policy").is_some());
    site.curl("/console/%2e%2e/node.toml", &["--path-as-is"]).await.problem(404, "NOT_FOUND");
    site.curl("/console/", &["--request", "POST"]).await.problem(405, "INVALID_INPUT");
}

#[tokio::test]
async fn without_being_asked_for_there_is_no_console() {
    let site = site("").await;
    for path in ["/console", "/console/", "/console/app.js"] {
        site.curl(path, &[]).await.problem(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn a_node_with_names_shows_the_console_by_no_other() {
    let site = site("console = true, hosts = [\"node.test\"]").await;
    assert_eq!(site.curl("/console/", &[]).await.status, 421);
}

#[tokio::test]
async fn k52_an_observer_reads_everything_and_changes_nothing() {
    let site = console().await;
    let (observer, inner, admin) = (bearer(OBSERVER), bearer(INNER), bearer(ADMIN));
    let [observer, inner, admin] =
        [&observer, &inner, &admin].map(|token| token.each_ref().map(String::as_str));
    for (name, input) in readings() {
        let operation = format!("node/{name}");
        for (token, status) in [(&observer, 200), (&admin, 200), (&inner, 403)] {
            let answer = site.call(&operation, input.clone(), token).await;
            assert_eq!(answer.status, status, "{operation}: {answer:?}");
        }
        site.call(&operation, input, &[]).await.problem(401, "FORBIDDEN");
    }
    for (token, status) in [(&observer, 403), (&inner, 403), (&admin, 200)] {
        assert_eq!(site.call("node/reload", json!({}), token).await.status, status);
    }
    let input = "/subscribe?operation=node/events&input=%7B%22interval_ms%22%3A250%7D";
    site.curl(input, &inner).await.problem(403, "FORBIDDEN");
    // It goes on for ever: curl leaves it after a while.
    let leaving = [&observer[..], &["--max-time", "3"]].concat();
    let output = within(site.command(input, &leaving).output()).await;
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let items: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .collect();
    assert!(items.len() >= 2, "{text}");
    assert_eq!(items[0]["seconds"], 0.0, "{text}");
    assert!(items[1]["seconds"].as_f64().unwrap() > 0.2, "{text}");
    assert!(items[1]["connections"].as_u64().unwrap() >= 1, "{text}");
    assert_eq!(items[1]["operations"]["node/events"]["in_flight"], 1, "{text}");
}

#[tokio::test]
async fn what_is_called_and_what_goes_wrong_shows() {
    let site = console().await;
    let input = json!({ "prefix": "echo/", "buckets": false });
    let find = |echo: &Value, name: &str| {
        let all = echo["operations"].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap().clone()
    };
    let before = find(&site.observe("operations", input.clone()).await, "echo/say");
    for _ in 0..3 {
        site.call("echo/say", json!({ "text": "hunter2" }), &[]).await.ok();
    }
    site.call("echo/fail", json!({ "text": "hunter2" }), &[]).await.problem(409, "ECHO_REFUSED");
    site.call("none/such", json!({}), &[]).await.problem(404, "NOT_FOUND");
    site.call("native/inner", json!({}), &[]).await.problem(401, "FORBIDDEN");
    let wrong = ["--header", "authorization: Bearer alk_hunter2"];
    site.call("echo/say", json!({ "text": "" }), &wrong).await.problem(401, "FORBIDDEN");

    let count = |calls: &Value| calls["calls"]["count"].as_u64().unwrap();
    // An answer may be a fifth of a second old.
    let echo = within(async {
        loop {
            let echo = site.observe("operations", input.clone()).await;
            if count(&find(&echo, "echo/fail")) > 0 {
                return echo;
            }
        }
    })
    .await;
    assert_eq!(echo["operations"].as_array().unwrap().len(), 3, "{echo}");
    let (say, fail) = (find(&echo, "echo/say"), find(&echo, "echo/fail"));
    assert_eq!((count(&say) - count(&before), &say["plugin"]), (3, &json!("echo")));
    assert!(say["calls"]["p99"].as_f64().unwrap() > 0.0, "{say}");
    assert_eq!(fail["calls"]["errors"], json!({ "ECHO_REFUSED": 1 }));

    let recent = site.observe("recent", json!({})).await;
    let text = recent.to_string();
    assert!(!text.contains("hunter2"), "neither inputs nor tokens: {text}");
    let incidents = recent["incidents"].as_array().unwrap();
    let has = |code: &str, operation: Value| {
        incidents.iter().any(|one| one["code"] == code && one["operation"] == operation)
    };
    assert!(has("ECHO_REFUSED", json!("echo/fail")), "{text}");
    assert!(has("NOT_FOUND", json!("none/such")), "{text}");
    assert!(has("FORBIDDEN", json!("native/inner")), "{text}");
    assert!(has("FORBIDDEN", Value::Null), "the wrong token: {text}");
    let errors = site.observe("recent", json!({ "kind": "error", "limit": 1 })).await;
    assert_eq!(errors["incidents"][0]["kind"], "error");
    assert_eq!(errors["incidents"].as_array().unwrap().len(), 1);

    // Who asks is connected, and its question in flight.
    let connections = site.observe("connections", json!({})).await;
    let own = connections["connections"].as_array().unwrap().iter().find(|one| {
        one["plugin"] == "http" && one["calls_in_flight"] == 1 && one["source"] == "tls"
    });
    assert!(own.is_some(), "{connections}");

    let plugins = site.observe("plugins", json!({})).await;
    let http = plugins["plugins"].as_array().unwrap().iter().find(|one| one["name"] == "http");
    let http = http.unwrap();
    assert_eq!(http["grants"]["gateway"], true);
    let limit = |name: &str| http["limits"].as_array().unwrap().iter().find(|l| l["name"] == name);
    assert_eq!(limit("memory").unwrap()["beyond"], "not enforceable");
    assert!(limit("connections").unwrap()["used"].as_u64().unwrap() >= 1, "{http}");
    assert!(http["usage"]["bytes_in"].as_u64().unwrap() > 0, "{http}");
    assert_eq!(plugins["call_limits"]["default_timeout_ms"], 30_000);
}

#[tokio::test]
async fn the_matrix_says_what_acl_why_says() {
    let site = console().await;
    let matrix = site.observe("access", json!({})).await;
    let text = matrix.to_string();
    for token in [OBSERVER, INNER, ADMIN] {
        let hash = stored(&digest(token.as_bytes()));
        assert!(!text.contains(&hash["sha256:".len()..]), "no hash of a token: {text}");
    }
    let operations = matrix["operations"].as_array().unwrap();
    let identities = matrix["identities"].as_array().unwrap();
    assert_eq!(identities[0]["id"], "anonymous");
    assert_eq!(matrix["total"], identities.len());
    let (mut allowed, mut refused) = (0, 0);
    for identity in identities {
        for (operation, rule) in operations.iter().zip(identity["decisions"].as_array().unwrap()) {
            // All that differ in rights, and of each namespace a few.
            let name = operation.as_str().unwrap();
            if !name.starts_with("node/") && !["native/inner", "echo/say"].contains(&name) {
                continue;
            }
            let rule = &matrix["rules"][usize::try_from(rule.as_u64().unwrap()).unwrap()];
            let question = json!({ "identity": identity["id"], "operation": operation });
            let why = site.observe("acl-why", question).await;
            assert_eq!(why["allowed"], rule["allowed"], "{identity} {operation}");
            assert_eq!(why["steps"][0]["rule"], rule["rule"], "{identity} {operation}");
            match rule["allowed"].as_bool().unwrap() {
                true => allowed += 1,
                false => refused += 1,
            }
        }
    }
    assert!(allowed > 10 && refused > 10, "{allowed} {refused}");
    let second =
        site.observe("access", json!({ "offset": 1, "limit": 1, "prefix": "echo/" })).await;
    assert_eq!(second["identities"].as_array().unwrap().len(), 1);
    assert_eq!(second["identities"][0]["id"], identities[1]["id"]);
    assert_eq!(second["operations"].as_array().unwrap().len(), 3);
}

/// Pictures of what it saw are in `target/console`.
#[tokio::test]
async fn the_console_works_in_a_browser() {
    let site = console().await;
    site.call("none/such", json!({}), &[]).await.problem(404, "NOT_FOUND");
    let (url, process) = (site.url("/console/"), site.process().id().to_string());
    let seen = browser::run("console.mjs", &[&url, OBSERVER, &process]).await;
    assert!(seen.text().contains("all seen"), "{}", seen.text());
}
