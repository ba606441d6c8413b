//! Nodes that call each other: real daemons, over QUIC, one of which imports what the
//! others serve.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use alknet_call_protocol::CallOptions;
use alknet_plugin_api::{AbortPolicy, CallError, Identity, code};
use alknet_tests::daemon::{Client, Daemon, NodeFolder, built, within};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Below any other deadline here, and far above what it should take.
const SOON: Duration = Duration::from_secs(5);

/// A node whose plugin `conformance` may name these operations.
fn node(reach: &[&str]) -> NodeFolder {
    let built = built();
    let node =
        NodeFolder::developed_with(&[("call", &built.call), ("conformance", &built.conformance)]);
    let authority = "authority = { label = \"conformance\", scopes = [\"inner\"] }";
    node.append("node.toml", &format!("reach = {reach:?}\n{authority}\n"));
    node
}

/// `importer` imports from `exporter` as `name`, and `exporter` knows it as `peer`.
fn join(importer: &NodeFolder, peer: &str, exporter: &NodeFolder, name: &str, more: &str) {
    let key = importer.address().key().unwrap();
    exporter.append(
        "access.toml",
        &format!("[[peer]]\npeer_id = \"{peer}\"\nfingerprints = [\"{key}\"]\nscopes = [\"p\"]\n"),
    );
    let address = exporter.address();
    importer.append(
        "node.toml",
        &format!("[[import]]\nname = \"{name}\"\nkind = \"call\"\naddress = \"{address}\"\n{more}"),
    );
}

/// Two nodes, `a` with everything that `b` serves.
async fn pair(reach: &[&str], more: &str) -> (Daemon, Daemon) {
    let (a, b) = (node(reach), node(&["/conformance/wait", "/conformance/sleep"]));
    join(&a, "a", &b, "b", more);
    let b = b.start(&[]).await;
    let a = a.start(&[]).await;
    imported(&a, "b", 1).await;
    (a, b)
}

/// Waits until `a` has imported so many times under this name.
async fn imported(a: &Daemon, name: &str, times: usize) {
    a.process().logged_times(&format!("imported import=\"{name}\""), times).await;
}

async fn compose(client: &Client, name: &str, input: Value) -> Result<Value, CallError> {
    client.ask("/conformance/compose", json!({ "name": name, "input": input })).await
}

/// The code that the handler got, which passes it on as an error of its own.
fn inner(error: CallError) -> String {
    let details: Value = error.details.map_or(Value::Null, |details| details.to().unwrap());
    details["code"].as_str().unwrap_or(&error.code).to_owned()
}

async fn import_status(client: &Client) -> Value {
    let status = client.ask("/node/status", json!({})).await.unwrap();
    status["imports"][0].clone()
}

const WAIT: &str = "peer/b/conformance/wait";
const CONTEXT: &str = "peer/b/conformance/context";

#[tokio::test]
async fn a_nodes_operations_are_called_as_if_they_were_its_own() {
    let reach = [
        "/peer/b/conformance/echo",
        "/peer/b/conformance/fail",
        "/peer/b/conformance/count",
        "/peer/b/conformance/panic",
    ];
    let (a, _b) = pair(&reach, "").await;
    let client = a.client().await;
    let value = json!({ "a": [1, null, "ü"] });
    assert_eq!(compose(&client, "peer/b/conformance/echo", value.clone()).await.unwrap(), value);

    // Declared errors, undeclared ones and protocol codes come through as they are.
    let fails =
        async |input: Value| compose(&client, "peer/b/conformance/fail", input).await.unwrap_err();
    // `compose` declares none itself.
    let declared = fails(json!("CONFORMANCE_FAILED")).await;
    assert_eq!(declared.code, code::INTERNAL);
    assert!(declared.details.unwrap().to_string().contains("CONFORMANCE_FAILED"));
    assert_eq!(fails(json!(1)).await.code, code::INVALID_INPUT);
    let panic = compose(&client, "peer/b/conformance/panic", json!(null)).await.unwrap_err();
    assert_eq!(panic.code, code::INTERNAL);

    let relay = json!({ "name": "peer/b/conformance/count", "input": { "to": 40 } });
    let items = client.ask("/conformance/relay", relay).await.unwrap();
    assert_eq!(items, json!((0..40).collect::<Vec<_>>()));

    // What is not in reach is not, though it is imported.
    let hidden = compose(&client, "peer/b/conformance/greeting", json!(null)).await;
    assert_eq!(inner(hidden.unwrap_err()), code::NOT_FOUND);

    let shown = import_status(&client).await;
    assert_eq!((&shown["state"], &shown["peer"]), (&json!("connected"), &json!("b")));
    let operations = shown["operations"].as_array().unwrap();
    assert!(operations.contains(&json!("peer/b/conformance/echo")), "{shown}");
    assert!(!shown.to_string().contains("services/list"), "{shown}");
    let status = a.alknet(["status"]).await;
    let line = status
        .text()
        .lines()
        .find(|line| line.starts_with("b "))
        .unwrap_or_else(|| panic!("{}", status.text()));
    assert!(line.contains("peer/b") && line.contains("connected"), "{line}");
    let ops = a.alknet(["ops", "--imports"]).await;
    assert!(ops.text().contains("/peer/b/conformance/echo"), "{ops:?}");
}

#[tokio::test]
async fn c57_imports_are_internal_until_exposed_by_name() {
    let (a, _b) = pair(&[], "expose = [\"conformance/echo\", \"conformance/fail\"]\n").await;
    let client = a.client().await;
    let echo = client.ask("/peer/b/conformance/echo", json!(7)).await;
    assert_eq!(echo.unwrap(), json!(7));
    let greeting = client.ask("/peer/b/conformance/greeting", json!(null)).await;
    assert_eq!(greeting.unwrap_err().code, code::NOT_FOUND);
    let list = client.services_list().await.unwrap().to_string();
    assert!(list.contains("peer/b/conformance/echo"), "{list}");
    assert!(!list.contains("peer/b/conformance/greeting"), "{list}");
    // What the peer declares is declared here, too.
    let spec: Value =
        client.services_schema("peer/b/conformance/fail").await.unwrap().to().unwrap();
    assert_eq!(spec["error_schemas"][0]["code"], "CONFORMANCE_FAILED");
    assert_eq!(spec["namespace"], "peer");
    let failed = client.ask("/peer/b/conformance/fail", json!("CONFORMANCE_FAILED")).await;
    let failed = failed.unwrap_err();
    assert_eq!((&*failed.code, &*failed.message), ("CONFORMANCE_FAILED", "failed, as asked"));
    assert_eq!(failed.details, Some(json!({ "asked": true }).into()));
    let ops = a.alknet(["ops"]).await;
    assert!(ops.text().contains("/peer/b/conformance/echo"), "{ops:?}");
}

#[tokio::test]
async fn c52_an_abort_crosses_nodes() {
    let compose_wait = ["/peer/b/conformance/wait", "/peer/b/conformance/forever"];
    let (a, b) = pair(&compose_wait, "expose = [\"conformance/compose\"]\n").await;
    let client = a.client().await;

    // A composed call, whose root is aborted.
    let input = json!({ "name": WAIT, "input": "composed" });
    let call = client.begin("/conformance/compose", input.into(), CallOptions::default());
    let call = within(call).await.unwrap();
    b.logged("waiting: composed").await;
    drop(call);
    b.logged("stopped waiting: composed").await;

    // The connection of whoever called is lost.
    let other = a.client().await;
    let input = json!({ "name": WAIT, "input": "left" });
    let call = other.begin("/conformance/compose", input.into(), CallOptions::default());
    let _call = within(call).await.unwrap();
    b.logged("waiting: left").await;
    drop(other);
    b.logged("stopped waiting: left").await;

    // A subscription.
    let input = json!({ "name": "peer/b/conformance/forever", "input": "items" });
    let call = client.begin("/conformance/relay", input.into(), CallOptions::default());
    let call = within(call).await.unwrap();
    b.logged("waiting: items").await;
    drop(call);
    b.logged("stopped waiting: items").await;

    // The policy goes with it: what the call had started on the other node runs on.
    let begin = async |mark: &str, policy| {
        let input = json!({ "name": "conformance/wait", "input": mark });
        let options = CallOptions { timeout: Some(SOON), ..CallOptions::default() };
        let call = client.begin("/peer/b/conformance/compose", input.into(), options);
        let mut call = within(call).await.unwrap();
        b.logged(&format!("waiting: {mark}")).await;
        call.set_abort_policy(policy);
        drop(call);
    };
    begin("spared", AbortPolicy::ContinueRunning).await;
    begin("dependent", AbortPolicy::AbortDependents).await;
    b.logged("stopped waiting: dependent").await;
    let log = b.process().stderr();
    assert!(!log.contains("stopped waiting: spared"), "{log}");
    // Its deadline still holds.
    b.logged("stopped waiting: spared").await;
}

#[tokio::test]
async fn c54_the_end_user_is_named_across_nodes() {
    let (a, b, c) = (
        node(&["/peer/b/conformance/context", "/peer/b/conformance/compose"]),
        node(&["/peer/c/conformance/context"]),
        node(&[]),
    );
    join(&a, "a", &b, "b", "");
    join(&b, "b", &c, "c", "");
    let _c = c.start(&[]).await;
    let b = b.start(&[]).await;
    imported(&b, "c", 1).await;
    let a = a.start(&[]).await;
    imported(&a, "b", 1).await;
    let client = a.client().await;
    let ids = |context: &Value| -> Vec<String> {
        let chain = context["forwarded_for"].as_array().unwrap().iter();
        chain.map(|identity| identity["id"].as_str().unwrap().to_owned()).collect()
    };

    let context = compose(&client, CONTEXT, json!(null)).await.unwrap();
    assert_eq!(context["identity"]["id"], "a", "the node that calls, not the user");
    assert_eq!(context["identity"]["scopes"], json!(["p"]));
    assert_eq!(context["internal"], json!(false));
    assert_eq!(ids(&context), ["local"], "the user, not the handler");

    // What the caller claims stands before the caller.
    let dora = Identity { id: "dora".into(), ..Identity::default() };
    let options = CallOptions { forwarded_for: vec![dora.clone()], ..CallOptions::default() };
    let input = json!({ "name": CONTEXT, "input": null });
    let context = within(client.call_with("/conformance/compose", input, options)).await;
    assert_eq!(ids(&context.unwrap().to().unwrap()), ["dora", "local"]);

    // Two nodes on: each forwarder has appended the caller that it saw.
    let inner = json!({ "name": "peer/c/conformance/context", "input": null });
    let context = compose(&client, "peer/b/conformance/compose", inner).await.unwrap();
    assert_eq!(context["identity"]["id"], "b");
    assert_eq!(ids(&context), ["local", "a"]);

    // A chain that is full goes no further.
    let options = CallOptions { forwarded_for: vec![dora; 8], ..CallOptions::default() };
    let input = json!({ "name": CONTEXT, "input": null });
    let refused = within(client.call_with("/conformance/compose", input, options)).await;
    assert_eq!(refused.unwrap_err().code, code::INVALID_INPUT);
}

#[tokio::test]
async fn c54_a_node_can_be_told_nothing_of_the_user() {
    let (a, _b) = pair(&["/peer/b/conformance/context"], "withhold_origin = true\n").await;
    let client = a.client().await;
    let context = compose(&client, CONTEXT, json!(null)).await.unwrap();
    assert_eq!(context["identity"]["id"], "a");
    assert_eq!(context["forwarded_for"], json!([]));
}

#[tokio::test]
async fn c18_a_forwarded_call_has_what_is_left_of_its_time() {
    let (a, b) = pair(&["/peer/b/conformance/context", "/peer/b/conformance/wait"], "").await;
    let client = a.client().await;
    let ask = async |name: &str, input: Value, timeout: Duration| {
        let options = CallOptions { timeout: Some(timeout), ..CallOptions::default() };
        let input = json!({ "name": name, "input": input });
        within(client.call_with("/conformance/compose", input, options)).await
    };
    let context: Value =
        ask(CONTEXT, json!(null), Duration::from_secs(9)).await.unwrap().to().unwrap();
    let left = context["remaining_ms"].as_u64().unwrap();
    assert!(left < 9_000 && left > 0, "{left}");
    // Without one, the first node's own limit is what is shared.
    let context = compose(&client, CONTEXT, json!(null)).await.unwrap();
    let left = context["remaining_ms"].as_u64().unwrap();
    assert!(left < 30_000 && left > 9_000, "{left}");
    // The end comes on both nodes.
    let late = ask(WAIT, json!("late"), Duration::from_millis(1_500)).await.unwrap_err();
    assert_eq!((&*late.code, late.retryable), (code::TIMEOUT, true));
    b.logged("stopped waiting: late").await;
}

#[tokio::test]
async fn a_killed_node_fails_its_calls_soon_and_is_found_again() {
    let (a, b) = pair(
        &["/peer/b/conformance/wait", "/peer/b/conformance/echo", "/peer/b/conformance/forever"],
        "expose = [\"conformance/greeting\", \"conformance/forever\"]\n",
    )
    .await;
    let client = a.client().await;
    let input = json!({ "name": WAIT, "input": "cut" });
    let call = client.begin("/conformance/compose", input.into(), CallOptions::default());
    let call = within(call).await.unwrap();
    let mut items =
        within(client.subscribe("/peer/b/conformance/forever", json!("items"))).await.unwrap();
    within(items.next()).await.unwrap().unwrap();
    b.logged("waiting: cut").await;

    let folder = b.killed().await;
    let killed = Instant::now();
    let error = within(call).await.unwrap_err();
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
    assert_eq!((&*error.code, error.retryable), (code::INTERNAL, true), "{error:?}");
    assert!(error.message.contains("peer `b` is lost"), "{error:?}");
    let end = within(async {
        loop {
            match items.next().await {
                Some(Ok(_)) => {}
                end => break end,
            }
        }
    });
    let error = end.await.expect("it does not just end").unwrap_err();
    assert_eq!((&*error.code, error.retryable), (code::INTERNAL, true), "{error:?}");

    // Nothing of it is left, and that is shown.
    a.logged("silent").await;
    let gone = compose(&client, "peer/b/conformance/echo", json!(1)).await.unwrap_err();
    assert_eq!(inner(gone), code::NOT_FOUND);
    let gone = client.ask("/peer/b/conformance/greeting", json!(null)).await.unwrap_err();
    assert_eq!(gone.code, code::NOT_FOUND, "exposed and unattached");
    let shown = import_status(&client).await;
    assert!(["waiting", "connecting"].contains(&shown["state"].as_str().unwrap()), "{shown}");
    assert_eq!(shown["operations"], json!([]));
    assert!(shown["last_error"].as_str().unwrap().contains("import `b`"), "{shown}");

    // It comes back without one operation and with others.
    folder.append("node.toml", "hide = [\"/conformance/greeting\"]\n");
    let echo = built().echo.to_str().unwrap();
    let digest = Sha256::digest(std::fs::read(&built().echo).unwrap());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    folder.append(
        "node.toml",
        &format!("[[plugin]]\nname = \"echo\"\nartifact = {echo:?}\nsha256 = \"{digest}\"\n"),
    );
    let _b = folder.start(&[]).await;
    imported(&a, "b", 2).await;
    assert_eq!(compose(&client, "peer/b/conformance/echo", json!(1)).await.unwrap(), json!(1));
    let shown = import_status(&client).await;
    assert_eq!(shown["state"], "connected");
    let operations = shown["operations"].as_array().unwrap();
    assert!(operations.contains(&json!("peer/b/echo/say")), "{shown}");
    assert!(!operations.contains(&json!("peer/b/conformance/greeting")), "{shown}");
    assert_eq!(shown["not_offered"], json!(["conformance/greeting"]));
}

#[tokio::test]
async fn a_node_that_stops_in_good_order_takes_its_operations_along() {
    let (a, b) = pair(&["/peer/b/conformance/echo"], "").await;
    let client = a.client().await;
    assert_eq!(compose(&client, "peer/b/conformance/echo", json!(1)).await.unwrap(), json!(1));
    assert_eq!(b.stop("TERM").await.status, Some(0));
    a.logged("it closed the connection").await;
    let gone = compose(&client, "peer/b/conformance/echo", json!(1)).await.unwrap_err();
    assert_eq!(inner(gone), code::NOT_FOUND);
    // The importer itself stops without delay, connected or not.
    drop(client);
    assert_eq!(a.stop("TERM").await.status, Some(0));
}

#[tokio::test]
async fn c19_a_consumer_that_pauses_suspends_the_producer_on_another_node() {
    let (a, b) = pair(&[], "expose = [\"conformance/forever\", \"conformance/count\"]\n").await;
    let client = a.client().await;
    let mut items =
        within(client.subscribe("/peer/b/conformance/forever", json!("paused"))).await.unwrap();
    assert_eq!(within(items.next()).await.unwrap().unwrap().to_string(), "0");

    // Nobody takes an item: once all buffers are full, the producer's node is silent.
    let watcher = b.client().await;
    let key = a.address().key().unwrap().to_string();
    let sent_to_a = async || {
        let status = watcher.ask("/node/status", json!({})).await.unwrap();
        let connections = status["connections"].as_array().unwrap();
        let of_a = connections.iter().find(|one| one["peer"] == *key);
        let of_a = of_a.unwrap_or_else(|| panic!("no connection of a in {status}"));
        of_a["bytes_sent"].as_u64().unwrap()
    };
    let settled = within(async {
        let mut last = sent_to_a().await;
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = sent_to_a().await;
            // Acknowledgements alone.
            if now - last < 2_000 {
                break now;
            }
            last = now;
        }
    });
    assert!(settled.await > 0);
    // Every item is there, once and in order, when it goes on.
    for n in 1..20_000u64 {
        let item = within(items.next()).await.unwrap().unwrap();
        assert_eq!(item.to_string(), n.to_string());
    }
    drop(items);
    b.logged("stopped waiting: paused").await;
}

#[tokio::test]
async fn c55_c56_peers_are_named_or_the_first_is_taken() {
    let (a, b, c) = (node(&["/conformance/greeting", "@c/conformance/echo"]), node(&[]), node(&[]));
    b.append("node.toml", "config = { greeting = \"of b\" }\n");
    c.append("node.toml", "config = { greeting = \"of c\" }\n");
    join(&a, "a", &b, "b", "expose = [\"conformance/greeting\"]\n");
    join(&a, "a", &c, "c", "");
    a.append("node.toml", "[discovery]\nlist_peers = true\n");
    let b = b.start(&[]).await;
    let a = a.start(&[]).await;
    imported(&a, "b", 1).await;
    let _c = c.start(&[]).await;
    imported(&a, "c", 1).await;
    let client = a.client().await;
    let ask = async |peer: Option<&str>, name: &str, input: Value| {
        let input = json!({ "peer": peer, "name": name, "input": input });
        client.ask("/conformance/peer", input).await
    };
    let greeting = "conformance/greeting";
    assert_eq!(ask(Some("b"), greeting, json!(null)).await.unwrap(), "of b");
    assert_eq!(ask(Some("c"), greeting, json!(null)).await.unwrap(), "of c");
    assert_eq!(ask(None, greeting, json!(null)).await.unwrap(), "of b", "the first attached");
    // A pinned entry is enough, for that peer and no other.
    let echo = "conformance/echo";
    assert_eq!(ask(Some("c"), echo, json!(5)).await.unwrap(), json!(5));
    assert_eq!(inner(ask(Some("b"), echo, json!(5)).await.unwrap_err()), code::NOT_FOUND);
    assert_eq!(inner(ask(None, echo, json!(5)).await.unwrap_err()), code::NOT_FOUND);
    assert_eq!(inner(ask(Some("d"), greeting, json!(null)).await.unwrap_err()), code::NOT_FOUND);

    let list = client.ask("/services/list-peers", json!({})).await.unwrap();
    let peers = list["peers"].as_array().unwrap();
    let shown = |peer: &Value| {
        let names = peer["operations"].as_array().unwrap().iter();
        let names: Vec<_> = names.map(|one| one["name"].as_str().unwrap().to_owned()).collect();
        (peer["peer_id"].as_str().unwrap().to_owned(), names)
    };
    let (local, names) = shown(&peers[0]);
    assert!(local == "local" && names.contains(&"conformance/compose".to_owned()), "{list}");
    assert_eq!(shown(&peers[1]), ("b".to_owned(), vec![greeting.to_owned()]));
    assert_eq!(shown(&peers[2]), ("c".to_owned(), vec![]));

    // Any falls to the next peer when the first is gone; a named one does not.
    assert_eq!(b.stop("TERM").await.status, Some(0));
    a.logged("import `b` cannot be reached").await;
    assert_eq!(ask(None, greeting, json!(null)).await.unwrap(), "of c");
    assert_eq!(inner(ask(Some("b"), greeting, json!(null)).await.unwrap_err()), code::NOT_FOUND);
}

#[tokio::test]
async fn c58_no_import_takes_the_place_of_a_plugins_operations() {
    let (a, b) = (node(&[]), node(&[]));
    join(&a, "a", &b, "b", "prefix = \"conformance\"\n");
    let refused = a.alknet(["check"]).await;
    let told = refused.refused(78);
    assert!(told.contains("plugin `conformance` has operations that begin with"), "{told}");
    assert!(told.contains("prefix = \"conformance\""), "{told}");
    assert!(a.alknet(["run"]).await.refused(78).contains("choose another `prefix`"));
    a.replace("node.toml", "prefix = \"conformance\"", "prefix = \"services\"");
    assert!(a.alknet(["check"]).await.refused(78).contains("are the node's own"));
    a.replace("node.toml", "prefix = \"services\"", "prefix = \"of/b\"");
    let checked = a.alknet(["check"]).await;
    assert!(checked.text().contains("import b: of/b from alknet://"), "{checked:?}");
    // Two imports, one of whose names would be the other's.
    let c = node(&[]);
    join(&a, "a", &c, "c", "prefix = \"of\"\n");
    assert!(a.alknet(["check"]).await.refused(78).contains("lie in one another"));
}

#[tokio::test]
async fn a_required_import_is_there_before_the_node_is() {
    let (a, b) = (node(&["/peer/b/conformance/echo"]), node(&[]));
    join(&a, "a", &b, "b", "required = true\ntimeout = \"1s\"\n");
    let listen = a.listen().to_string();
    let refused = a.alknet(["run", "--dev", "--listen", &listen]).await;
    let told = refused.refused(69);
    assert!(told.contains("import `b`") && told.contains("required = true"), "{told}");
    let _b = b.start(&[]).await;
    a.replace("node.toml", "timeout = \"1s\"", "timeout = \"30s\"");
    let a = a.start(&[]).await;
    let client = a.client().await;
    assert_eq!(compose(&client, "peer/b/conformance/echo", json!(1)).await.unwrap(), json!(1));
}

#[tokio::test]
async fn another_key_than_the_pinned_one_is_no_peer() {
    let (a, b, c) = (node(&["/peer/b/conformance/echo"]), node(&[]), node(&[]));
    join(&a, "a", &b, "b", "");
    let (pinned, other) =
        (b.address().key().unwrap().to_string(), c.address().key().unwrap().to_string());
    let digits = |key: &str| key.trim_start_matches("ed25519:").to_owned();
    a.replace("node.toml", &digits(&pinned), &digits(&other));
    let _b = b.start(&[]).await;
    let a = a.start(&[]).await;
    a.logged("import `b` cannot be reached").await;
    let client = a.client().await;
    let gone = compose(&client, "peer/b/conformance/echo", json!(1)).await.unwrap_err();
    assert_eq!(inner(gone), code::NOT_FOUND);
}

#[tokio::test]
async fn a_callers_token_stays_with_the_node_that_it_is_for() {
    let (a, b) = (node(&["/peer/b/conformance/context"]), node(&[]));
    join(&a, "a", &b, "b", "");
    let token = "alk_ThisIsATokenOfTheTestAndOfNobodyElse0123456";
    let digest = Sha256::digest(token.as_bytes());
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    a.append(
        "access.toml",
        &format!(
            "[[api_key]]\nprefix = \"alk_This\"\nhash = \"sha256:{hash}\"\ndescription = \"x\"\n"
        ),
    );
    let b = b.start(&[]).await;
    let a = a.start(&[]).await;
    imported(&a, "b", 1).await;
    let client = a.client().await;
    let options = CallOptions { auth_token: Some(token.to_owned()), ..CallOptions::default() };
    let input = json!({ "name": CONTEXT, "input": null });
    let answer = within(client.call_with("/conformance/compose", input, options)).await.unwrap();
    let context: Value = answer.to().unwrap();
    assert_eq!(context["identity"]["id"], "a");
    assert_eq!(context["forwarded_for"][0]["id"], "alk_This");
    let status = client.ask("/node/status", json!({})).await.unwrap();
    for text in [
        answer.to_string(),
        status.to_string(),
        a.process().stderr(),
        b.process().stderr(),
        a.process().stdout(),
        b.process().stdout(),
    ] {
        assert!(!text.contains("TokenOfTheTest"), "{text}");
    }
}
