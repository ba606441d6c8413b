//! The five endpoints.

use super::*;

#[tokio::test]
async fn c59_the_gateway_has_five_endpoints_over_both_versions_of_http() {
    let site = site("").await;
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let found = site.curl("/search?q=echo%20REVERSE", &[flag]).await;
        assert_eq!(found.version, version);
        let found = found.ok();
        assert_eq!(
            (&found["total"], &found["operations"][0]["name"]),
            (&json!(1), &json!("echo/reverse"))
        );
        let schema = site.curl("/schema?name=/echo/say", &[flag]).await.ok();
        assert_eq!((&schema["name"], &schema["op_type"]), (&json!("echo/say"), &json!("query")));
        let said = site.call("/echo/say", json!({ "text": "hi" }), &[flag]).await;
        assert_eq!(said.ok(), json!({ "text": "hi" }));
        assert_eq!(said.header("content-type"), Some("application/json"));
        assert_eq!(said.header("cache-control"), Some("no-store"));
        assert_eq!(said.header("x-content-type-options"), Some("nosniff"));
        let counted = site.curl("/subscribe?operation=native/count&input=2", &[flag]).await;
        assert_eq!(counted.header("content-type"), Some("text/event-stream"));
        let events = ": open\n\ndata: 0\n\ndata: 1\n\nevent: completed\ndata: {}\n\n";
        assert_eq!((counted.status, &*counted.body), (200, events));
        let calls = json!([
            { "operation": "echo/say", "input": { "text": "a" } },
            { "operation": "none/such", "input": {} },
            { "operation": "/echo/reverse", "input": { "text": "abc" } },
        ]);
        let results = site.post("/batch", &json!({ "calls": calls }), &[flag]).await.ok();
        let results = &results["results"];
        assert_eq!(results[0], json!({ "output": { "text": "a" } }));
        assert_eq!(results[1]["error"]["status"], 404);
        assert_eq!(results[2]["output"]["text"], "cba");
        assert_eq!(results.as_array().unwrap().len(), 3);
    }
    let document = site.curl("/openapi.json", &[]).await.ok();
    let paths: Vec<_> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths, ["/batch", "/call", "/schema", "/search", "/subscribe"]);
    for other in ["/", "/echo/say", "/services/list", "/metrics", "/call/"] {
        site.curl(other, &[]).await.problem(404, "NOT_FOUND");
    }
    for (path, method, allowed) in [
        ("/call", "GET", "POST"),
        ("/batch", "DELETE", "POST"),
        ("/search", "POST", "GET,HEAD"),
        ("/healthz", "PUT", "GET,HEAD"),
    ] {
        let refused = site.curl(path, &["--request", method]).await;
        refused.problem(405, "INVALID_INPUT");
        assert_eq!(refused.header("allow"), Some(allowed), "{path}");
    }
}

#[tokio::test]
async fn c36_each_error_has_its_status() {
    let site = site("batch_calls = 2").await;
    let inner = bearer(INNER);
    let inner: Vec<_> = inner.iter().map(String::as_str).collect();
    let admin = bearer(ADMIN);
    let admin: Vec<_> = admin.iter().map(String::as_str).collect();

    // Nobody, somebody with the scope, somebody without it, and a token of nobody.
    let nobody = site.call("/native/inner", json!({}), &[]).await;
    assert_eq!(nobody.problem(401, "FORBIDDEN")["detail"], "authentication required");
    assert_eq!(nobody.header("www-authenticate"), Some("Bearer realm=\"alknet\""));
    site.call("/native/inner", json!({}), &inner).await.ok();
    let lacking = site.call("/native/inner", json!({}), &admin).await;
    lacking.problem(403, "FORBIDDEN");
    assert_eq!(lacking.header("www-authenticate"), None);
    for wrong in ["Bearer alk_guessed", "Basic dTpw", "Bearer"] {
        let header = format!("authorization: {wrong}");
        let refused = site.call("/echo/say", json!({ "text": "" }), &["--header", &header]).await;
        refused.problem(401, "FORBIDDEN");
        let challenge = "Bearer realm=\"alknet\", error=\"invalid_token\"";
        assert_eq!(refused.header("www-authenticate"), Some(challenge), "{wrong}");
        assert!(!refused.body.contains("guessed"), "{refused:?}");
    }

    // By the protocol's codes.
    site.call("/none/such", json!({}), &[]).await.problem(404, "NOT_FOUND");
    site.call("/native/secret", json!({}), &inner).await.problem(404, "NOT_FOUND");
    let invalid = site.call("/echo/say", json!({ "text": 1 }), &[]).await;
    assert_eq!(invalid.problem(422, "INVALID_INPUT")["details"][0]["path"], "/text");
    site.call("/native/count", json!(1), &[]).await.problem(400, "INVALID_OPERATION_TYPE");
    site.curl("/subscribe?operation=echo/say", &[]).await.problem(400, "INVALID_OPERATION_TYPE");
    site.curl("/subscribe?operation=none/such", &[]).await.problem(404, "NOT_FOUND");
    site.curl("/schema?name=native/inner", &[]).await.problem(404, "NOT_FOUND");
    let soon = ["--header", "alknet-timeout-ms: 50"];
    let late = site.call("/native/wait", json!({}), &soon).await;
    assert_eq!(late.problem(504, "TIMEOUT")["retryable"], true);

    // By the operation's own declaration, and without one.
    site.call("/files/stat", json!({ "path": "none" }), &[]).await.problem(404, "FILE_NOT_FOUND");
    site.call("/files/read", json!({ "path": "src" }), &[]).await.problem(409, "NOT_A_FILE");
    let refused = site.call("/echo/fail", json!({ "text": "x" }), &[]).await;
    assert_eq!(refused.problem(409, "ECHO_REFUSED")["details"], json!({ "text": "x" }));
    let plan = |step: &str| json!({ "steps": [step] });
    site.call("/native/plan", plan("fail"), &[]).await.problem(500, "PLANNED");
    site.call("/native/plan", plan("panic"), &[]).await.problem(500, "INTERNAL");

    // By the gateway itself.
    let calls = json!([1, 2, 3].map(|_| json!({ "operation": "echo/say", "input": {} })));
    site.post("/batch", &json!({ "calls": calls }), &[]).await.problem(422, "INVALID_INPUT");
    site.call("/echo/say", json!({}), &["--header", "alknet-timeout-ms: soon"])
        .await
        .problem(422, "INVALID_INPUT");
}

#[tokio::test]
async fn c36_a_caller_in_a_hurry_is_told_429() {
    let (node, tcp) = folder("");
    node.replace("access.toml", "[limits]\n", "[limits]\ncalls_per_second = 1\ncalls_burst = 3\n");
    let site = start(node, tcp).await;
    let token = bearer(INNER);
    let token: Vec<_> = token.iter().map(String::as_str).collect();
    let calls = json!([1, 2, 3, 4, 5].map(|n| json!({
        "operation": "echo/say", "input": { "text": n.to_string() },
    })));
    let results = site.post("/batch", &json!({ "calls": calls }), &token).await.ok();
    let busy: Vec<_> = results["results"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| !one["error"].is_null())
        .collect();
    assert!(!busy.is_empty(), "{results}");
    for one in busy {
        assert_eq!(
            (&one["error"]["status"], &one["error"]["code"]),
            (&json!(429), &json!("RESOURCE_EXHAUSTED"))
        );
        assert_eq!(one["error"]["retryable"], true);
    }
    let refused = async {
        loop {
            let answer = site.call("/echo/say", json!({ "text": "" }), &token).await;
            if answer.status != 200 {
                return answer;
            }
        }
    };
    within(refused).await.problem(429, "RESOURCE_EXHAUSTED");
}

#[tokio::test]
async fn c28_a_token_holds_for_one_request_of_a_connection() {
    let site = site("").await;
    let token = format!("authorization: Bearer {INNER}");
    let ask = r#"{"operation":"services/whoami","input":{}}"#;
    let one = ["--header", "content-type: application/json", "--data-binary", ask, "--http2"];
    let with = [&one[..], &["--header", &token]].concat();
    let url = site.url("/call");
    // Both requests go over one connection.
    let both = [&with[..], &[&url, "--next", "--silent", "--cacert"]].concat();
    let certificate = site.certificate();
    let rest = [&[certificate.to_str().unwrap()], &one[..]].concat();
    let output = within(site.command("/call", &[both, rest].concat()).output()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> =
        serde_json::Deserializer::from_str(&text).into_iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(answers[0]["identity"]["id"], INNER[..8], "{text}");
    assert_eq!(answers[1], json!({ "identity": null }), "{text}");
}
