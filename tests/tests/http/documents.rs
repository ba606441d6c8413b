//! The description, and the metrics.

use super::*;
use alknet_tests::service::run_python;

/// The operations that a document lets its reader call.
fn operations(document: &Value) -> Vec<&str> {
    let requests = document["components"]["schemas"]["Request"]["anyOf"].as_array().unwrap();
    requests.iter().map(|one| one["title"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn c30_the_description_shows_what_its_reader_may_call() {
    let site = site("").await;
    let token = bearer(INNER);
    let token: Vec<_> = token.iter().map(String::as_str).collect();
    let nobodys = site.curl("/openapi.json", &[]).await.ok();
    let inners = site.curl("/openapi.json", &token).await.ok();
    assert!(!operations(&nobodys).contains(&"native/inner"));
    assert!(operations(&inners).contains(&"native/inner"));
    for (document, more) in [(&nobodys, &[][..]), (&inners, &token)] {
        let found = site.curl("/search?limit=1000", more).await.ok();
        let mut listed: Vec<_> = found["operations"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["op_type"] != "subscription")
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        let mut shown = operations(document);
        listed.sort_unstable();
        shown.sort_unstable();
        assert_eq!(shown, listed);
        for hidden in ["native/secret", "node/metrics", "native/count"] {
            assert!(!shown.contains(&hidden), "{hidden}");
        }
        let file = site.file("openapi.json");
        std::fs::write(&file, document.to_string()).unwrap();
        let judged = run_python("openapi_valid.py", &[file.to_str().unwrap()]).await;
        assert_eq!(judged.text().trim(), "valid OpenAPI 3.1");
    }
    let refused = site.curl("/openapi.json", &["--header", "authorization: Bearer x"]).await;
    refused.problem(401, "FORBIDDEN");
}

#[tokio::test]
async fn metrics_are_there_when_enabled_for_those_who_may_read_them() {
    let site = site("metrics = true").await;
    site.curl("/metrics", &[]).await.problem(401, "FORBIDDEN");
    for (token, status) in [(INNER, 403), (ADMIN, 200)] {
        let token = bearer(token);
        let answer = site.curl("/metrics", &[&*token[0], &*token[1]]).await;
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 200 {
            assert!(answer.body.contains("alknet_calls_in_flight"), "{answer:?}");
            assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
        }
    }
}

/// The blocks of a page in this language, each with the block of JSON that follows
/// it at once, if one does.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<(&'a str, Option<&'a str>)> {
    let parts: Vec<_> = page.split("\n```").collect();
    // Text, then a block, and so on.
    let block = |n: usize| parts.get(n).and_then(|part| part.split_once('\n'));
    let of_language = (1..parts.len()).step_by(2).filter_map(|n| {
        let (_, text) = block(n).filter(|(kind, _)| *kind == language)?;
        let adjacent = parts.get(n + 1).is_some_and(|between| between.trim().is_empty());
        let answer = block(n + 2).filter(|(kind, _)| adjacent && *kind == "json");
        Some((text, answer.map(|(_, text)| text)))
    });
    of_language.collect()
}

#[tokio::test]
async fn the_pages_commands_do_what_it_says() {
    let (node, tcp) = folder_with("", &[("clock", &built().clock)]);
    let site = start(node, tcp).await;
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/http.md"));
    let page = page.unwrap();
    let commands = blocks(&page, "sh");
    assert!(commands.len() >= 6, "{commands:?}");
    let mut said = Vec::new();
    for (command, answer) in commands {
        let run = Command::new("sh")
            .args(["-euc", command])
            .env("NODE", site.url(""))
            .env("TOKEN", INNER)
            .env("CURL_CA_BUNDLE", site.certificate())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let ran = within(run).await.unwrap();
        let (text, errors) =
            (String::from_utf8(ran.stdout).unwrap(), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success() && !text.is_empty(), "{command}: {text}{errors}");
        if let Some(answer) = answer {
            let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            assert_eq!(parsed(&text), parsed(answer), "{command}");
        }
        said.push(text);
    }
    // What the page only tells of.
    let any = |text: &str| said.iter().any(|one| one.contains(text));
    assert!(any("event: completed") && any(&format!("\"id\":\"{}\"", &INNER[..8])), "{said:?}");
}
