//! What the node tells of its calls: metrics, the audit log, spans; and what it
//! keeps to itself.

use tokio::net::TcpStream;

use super::*;

/// Stands in inputs, and must stand nowhere else.
const PAYLOAD: &str = "payload-f00dcafe";

fn lines(node: &NodeFolder, file: &str) -> Vec<Value> {
    node.read(file).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until the file has a line that fits.
pub(super) async fn written(node: &NodeFolder, file: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let found = async {
        loop {
            let exists = node.file(file).exists();
            if let Some(line) = exists.then(|| lines(node, file)).into_iter().flatten().find(&fits)
            {
                return line;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(found).await
}

#[tokio::test]
async fn decisions_are_written_down_without_payloads_and_secrets() {
    let node = folder();
    node.append(
        "node.toml",
        "[observe]\nlog = \"info,alknet=trace,plugin=trace,quinn=debug\"\n[observe.audit]\n",
    );
    let node = node.start(&[]).await;
    let client = node.client().await;
    let payload = || json!({ "secret": PAYLOAD });
    let through = json!({ "name": "confined/context", "input": payload() });
    let options = CallOptions {
        auth_token: Some(READER.to_owned()),
        forwarded_for: vec![named("emil")],
        ..CallOptions::default()
    };
    ask_with(&client, options, "/native/compose", through).await.unwrap();
    ask_as(&client, READER, "/native/inner", payload()).await.unwrap_err();
    ask_as(&client, READER, "/native/nowhere", payload()).await.unwrap_err();
    ask_as(&client, "alk_not-a-token-of-anybody", "/native/context", payload()).await.unwrap_err();

    let on = |operation: &'static str| move |line: &Value| line["operation"] == operation;
    let root = written(&node, "state/audit.jsonl", on("native/compose")).await;
    assert_eq!((&root["event"], &root["allowed"]), (&json!("access"), &json!(true)));
    assert_eq!((&root["subject"], &root["internal"]), (&json!("alk_read"), &json!(false)));
    assert_eq!(root["forwarded_for"], json!(["emil"]));
    assert!(root["time"].as_str().unwrap().ends_with('Z'));
    let child = written(&node, "state/audit.jsonl", on("confined/context")).await;
    assert_eq!((&child["subject"], &child["origin"]), (&json!("native-tree"), &json!("alk_read")));
    assert_eq!(child["internal"], true);
    let refused = written(&node, "state/audit.jsonl", on("native/inner")).await;
    assert_eq!(refused["allowed"], false);
    assert_eq!(refused["rule"], "missing required scope: inner");
    let nowhere = written(&node, "state/audit.jsonl", on("native/nowhere")).await;
    assert_eq!(nowhere["event"], "not_found");
    written(&node, "state/audit.jsonl", |line| line["event"] == "invalid_token").await;

    // Rotated as logrotate does.
    std::fs::rename(node.file("state/audit.jsonl"), node.file("state/audit.old")).unwrap();
    node.process().signal("HUP").await;
    node.logged("the audit log is opened anew").await;
    client.ask("/native/context", json!(null)).await.unwrap();
    written(&node, "state/audit.jsonl", on("native/context")).await;

    let metrics = client.ask("/node/metrics", json!({})).await.unwrap()["text"].clone();
    drop(client);
    let (files, process) = node.into_parts();
    process.signal("TERM").await;
    let ended = process.ended().await;
    assert_eq!(ended.status, Some(0));
    // Everything that the node wrote, at the most talkative level.
    let everything = [
        ended.stdout,
        ended.stderr,
        metrics.to_string(),
        files.read("state/audit.jsonl"),
        files.read("state/audit.old"),
    ]
    .concat();
    assert!(everything.contains("native/compose"));
    for secret in
        [PAYLOAD, READER, "alk_not-a-token", &files.read("client.key"), &files.read("node.key")]
    {
        assert!(!everything.contains(secret.trim()), "{secret} was written down");
    }
}

#[tokio::test]
async fn only_refusals_are_written_where_only_they_are_asked_for() {
    let node = folder();
    node.append("node.toml", "[observe.audit]\nfile = \"refused.jsonl\"\nwhat = \"refused\"\n");
    let node = node.start(&[]).await;
    let client = node.client().await;
    client.ask("/native/context", json!(null)).await.unwrap();
    client.ask("/native/inner", json!(null)).await.unwrap_err();
    written(&node, "refused.jsonl", |line| line["operation"] == "native/inner").await;
    assert!(lines(&node, "refused.jsonl").iter().all(|line| line["allowed"] != true));
}

#[tokio::test]
async fn metrics_count_calls_errors_and_time_of_each_operation() {
    let node = folder();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    node.append("node.toml", &format!("[observe]\nmetrics = \"{address}\"\n"));
    let node = node.start(&[]).await;
    let client = node.client().await;
    for _ in 0..3 {
        client.ask("/native/context", json!(null)).await.unwrap();
    }
    let fail = json!({ "steps": ["fail"] });
    assert_eq!(client.ask("/confined/plan", fail).await.unwrap_err().code, "PLANNED");
    client.ask("/native/inner", json!(null)).await.unwrap_err();

    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: node\r\n\r\n").await.unwrap();
    let mut text = String::new();
    within(stream.read_to_string(&mut text)).await.unwrap();
    let native = "{operation=\"native/context\",plugin=\"native\"}";
    let confined = "operation=\"confined/plan\",plugin=\"confined\"";
    for line in [
        "# TYPE alknet_calls_total counter".to_owned(),
        format!("alknet_calls_total{native} 3"),
        format!("alknet_calls_in_flight{native} 0"),
        "# TYPE alknet_call_seconds histogram".to_owned(),
        "alknet_call_seconds_bucket{operation=\"native/context\",plugin=\"native\",le=\"10\"} 3"
            .to_owned(),
        format!("alknet_call_seconds_count{native} 3"),
        format!("alknet_calls_total{{{confined}}} 1"),
        format!("alknet_call_errors_total{{{confined},code=\"PLANNED\"}} 1"),
        "alknet_calls_refused_total{code=\"FORBIDDEN\"} 1".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
    }
}

#[tokio::test]
async fn each_call_is_a_span_with_its_ids_and_rights() {
    let node = folder();
    node.append(
        "node.toml",
        "[observe]\nlog = \"warn,alknet::observe=debug,alknet::call=debug\"\nformat = \"json\"\n",
    );
    let node = node.start(&[]).await;
    let client = node.client().await;
    let call = json!({ "name": "native/plan", "input": { "steps": ["fail"] } });
    ask_as(&client, READER, "/native/compose", call).await.unwrap();
    node.logged("native/compose").await;
    drop(client);
    let ended = node.stop("TERM").await;
    let lines = ended.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let child = lines
        .filter(|line| line["fields"]["operation"] == "native/plan")
        .find(|line| line["span"]["name"] == "call")
        .unwrap_or_else(|| panic!("{}", ended.stderr));
    let span = &child["span"];
    assert_eq!(span["operation"], "native/plan");
    assert_eq!(
        (&span["caller"], &span["authority"]),
        (&json!("native-tree"), &json!("native-tree"))
    );
    assert_eq!(span["origin"], "alk_read");
    assert!(span["deadline_ms"].as_u64().unwrap() <= 30_000, "{child}");
    assert!(span["request_id"].is_string() && span["parent"].is_string(), "{child}");
    assert_eq!(child["fields"]["outcome"], "PLANNED", "{child}");
    // The call that composed it stands around it.
    assert_eq!(child["spans"].as_array().unwrap()[0]["operation"], "native/compose", "{child}");
}
