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
