//! Operations imported from HTTP services: real ones, on FastAPI and Flask, that
//! know nothing of alknet.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use alknet::auth::token::{digest, stored};
use alknet_call_protocol::CallOptions;
use alknet_tests::authority::Authority;
use alknet_tests::daemon::{Client, Daemon, NodeFolder, within};
use alknet_tests::secrets::add_vault;
use alknet_tests::service::{Service, fixture, free_port};
use serde_json::{Value, json};

/// Everything that `shelf.py` does.
const EVERYTHING: &str = r#"["book", "add", "echo", "secret", "open_door", "status", "slow",
    "ticks", "bytes", "wrong", "away", "upload", "member"]"#;

/// A node that imports from `shelf.py`.
async fn with_shelf(more: &str) -> (Service, Daemon) {
    let shelf = Service::start("shelf.py", &[]).await;
    let node =
        importing("shelf", &shelf.url("/openapi.json"), &format!("{more}\nexpose = {EVERYTHING}"));
    let node = node.start(&[]).await;
    node.logged("imported").await;
    (shelf, node)
}

fn importing(name: &str, document: &str, more: &str) -> NodeFolder {
    let node = NodeFolder::developed();
    let stanza =
        format!("[[import]]\nname = \"{name}\"\nkind = \"openapi\"\ndocument = \"{document}\"");
    node.append("node.toml", &format!("{stanza}\n{more}\n"));
    node
}

/// The import in the node's status.
async fn import(node: &NodeFolder) -> Value {
    node.alknet(["status", "--json"]).await.json()["imports"][0].clone()
}

/// Waits until all imports of the node stand as `state`, and shows the first.
async fn imports_once(node: &Daemon, state: &str) -> Value {
    let all = async {
        loop {
            let status = node.alknet(["status", "--json"]).await.json();
            let imports = status["imports"].as_array().unwrap().clone();
            if imports.iter().all(|import| import["state"] == state) {
                return imports[0].clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(all).await
}

#[tokio::test]
async fn c57_an_import_is_internal_until_it_is_exposed_by_name() {
    let (_shelf, node) = with_shelf("").await;
    let book = node.alknet(["call", "/shelf/book", r#"{"number": 1}"#]).await;
    assert_eq!(book.json()["sequel"]["title"], "more");
    let status = import(&node).await;
    let names = status["operations"].as_array().unwrap();
    assert!(names.contains(&json!("shelf/text")), "{status}");
    let client = node.client().await;
    let error = client.ask("/shelf/text", json!({})).await.unwrap_err();
    assert_eq!(error.code, "NOT_FOUND");
    // What is exposed shows what it is, as any operation does.
    let schema = client.services_schema("/shelf/book").await.unwrap().to::<Value>().unwrap();
    assert_eq!(schema["op_type"], "query");
    assert_eq!(schema["input_schema"]["required"], json!(["number"]));
    assert_eq!(schema["tags"], json!(["books"]));
    let codes: Vec<_> =
        schema["error_schemas"].as_array().unwrap().iter().map(|e| &e["code"]).collect();
    assert_eq!(codes, ["HTTP_404", "HTTP_422"]);
    let error = client.ask("/shelf/book", json!({"number": 0})).await.unwrap_err();
    assert_eq!(error.code, "INVALID_INPUT");
    let error = client.ask("/shelf/book", json!({"number": 1, "other": 1})).await.unwrap_err();
    assert_eq!(error.code, "INVALID_INPUT");
}

#[tokio::test]
async fn an_input_reaches_the_service_as_it_was_meant() {
    let (_shelf, node) = with_shelf("").await;
    let client = node.client().await;
    let input = json!({"first": "b ?é", "tags": ["x y", "&"], "x-trace": "t", "session": "s=1"});
    let seen = client.ask("/shelf/echo", input).await.unwrap();
    assert_eq!(
        seen,
        json!({"first": "b ?é", "tags": ["x y", "&"], "x_trace": "t", "session": "s%3D1",
            "query": "tags=x%20y&tags=%26"})
    );
    let added = client.ask("/shelf/add", json!({"dry": true, "body": {"title": "x", "pages": 1}}));
    assert_eq!(added.await.unwrap(), json!({"added": "x", "dry": true}));
    let bytes = client.ask("/shelf/bytes", json!({})).await.unwrap();
    assert_eq!(bytes, json!("AP8="));
    assert_eq!(client.ask("/shelf/upload", json!({"body": "AP8="})).await.unwrap(), json!(2));
}

#[tokio::test]
async fn c37_outputs_of_an_import_are_checked() {
    let (_shelf, node) = with_shelf("max_response = \"1 MiB\"").await;
    let client = node.client().await;
    for (kind, expected) in [
        ("shape", "violates its schema"),
        ("json", "invalid JSON"),
        ("huge", "limit of 1048576 bytes"),
    ] {
        let error = client.ask("/shelf/wrong", json!({ "kind": kind })).await.unwrap_err();
        assert_eq!(error.code, "INTERNAL", "{kind}");
        assert!(error.message.contains(expected), "{kind}: {error}");
    }
    client.assert_answered().await;
}

#[tokio::test]
async fn c36_a_status_is_an_error_with_its_number() {
    let (_shelf, node) = with_shelf("").await;
    let client = node.client().await;
    let status = async |input: Value| {
        let error = client.ask("/shelf/status", input).await.unwrap_err();
        let details = error.details.as_ref().unwrap().to::<Value>().unwrap();
        (error.code.to_string(), error.retryable, details)
    };
    let (code, retryable, details) = status(json!({"status": 418})).await;
    assert_eq!((&*code, retryable), ("HTTP_418", false));
    assert_eq!(details["body"]["detail"], "as you wish");
    let (code, retryable, details) = status(json!({"status": 503, "retry_after": 7})).await;
    assert_eq!((&*code, retryable), ("HTTP_503", true));
    assert_eq!(details["retry_after"], 7);
    let error = client.ask("/shelf/book", json!({"number": 9})).await.unwrap_err();
    assert_eq!(error.code, "HTTP_404");
}

#[tokio::test]
async fn redirects_to_elsewhere_are_not_followed() {
    let (shelf, node) = with_shelf("").await;
    let client = node.client().await;
    let home = client.ask("/shelf/away", json!({"to": "/books/1"})).await.unwrap();
    assert_eq!(home["title"], "book 1");
    let elsewhere = format!("http://localhost:{}/books/1", shelf.port());
    let error = client.ask("/shelf/away", json!({ "to": elsewhere })).await.unwrap_err();
    assert_eq!(error.code, "HTTP_307");
    assert!(error.message.contains("not followed"), "{error}");
}

#[tokio::test]
async fn a_stream_of_events_is_a_subscription() {
    let (shelf, node) = with_shelf("").await;
    let seen = node.alknet(["subscribe", "/shelf/ticks", r#"{"count": 2}"#, "--json"]).await;
    let items: Vec<Value> =
        seen.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(items[0], json!({"data": {"n": 0}, "event": "tick", "id": "0"}));
    assert_eq!(items.last().unwrap()["data"], "[DONE]");
    assert_eq!(items.len(), 3);
    // Leaving it ends it in the service.
    let client = node.client().await;
    let mut ticks = client.subscribe("/shelf/ticks", json!({"count": 1_000_000})).await.unwrap();
    within(ticks.next()).await.unwrap().unwrap();
    drop(ticks);
    shelf.said("ticks 1000000: ended").await;
}

#[tokio::test]
async fn c16_c47_a_call_that_ends_ends_its_request() {
    let (shelf, node) = with_shelf("").await;
    let client = node.client().await;
    let options =
        CallOptions { timeout: Some(Duration::from_millis(500)), ..CallOptions::default() };
    let late = client.call_with("/shelf/slow", json!({"name": "late"}), options);
    let error = within(late).await.unwrap_err();
    assert_eq!((&*error.code, error.retryable), ("TIMEOUT", true));
    shelf.said("slow late: cancelled").await;
    {
        let call = client.call("/shelf/slow", json!({"name": "left"}));
        tokio::pin!(call);
        tokio::select! {
            answer = &mut call => panic!("{answer:?}"),
            () = shelf.said("slow left: begun") => {}
        }
    }
    shelf.said("slow left: cancelled").await;
    client.assert_answered().await;
}

#[tokio::test]
async fn a_service_that_is_down_is_a_clear_and_retryable_error() {
    let (shelf, node) = with_shelf("").await;
    let client: Client = node.client().await;
    let port = shelf.killed().await;
    let error = client.ask("/shelf/book", json!({"number": 1})).await.unwrap_err();
    assert_eq!((&*error.code, error.retryable), ("INTERNAL", true));
    let service = format!("http://127.0.0.1:{port} cannot be reached");
    assert!(error.message.contains(&service), "{error}");
    let _shelf = Service::start_at(port, "shelf.py", &[]).await;
    client.ask("/shelf/book", json!({"number": 1})).await.unwrap();
}

#[tokio::test]
async fn a_node_starts_without_a_service_and_finds_it_later() {
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/openapi.json");
    let node = importing("shelf", &url, "expose = [\"book\"]").start(&[]).await;
    let waiting = imports_once(&node, "waiting").await;
    let error = waiting["last_error"].as_str().unwrap();
    assert!(error.contains(&url) && error.contains("cannot be reached"), "{error}");
    assert!(node.alknet(["status"]).await.text().contains("degraded"));
    let client = node.client().await;
    let error = client.ask("/shelf/book", json!({"number": 1})).await.unwrap_err();
    assert_eq!(error.code, "NOT_FOUND");
    let _shelf = Service::start_at(port, "shelf.py", &[]).await;
    node.logged("imported").await;
    client.ask("/shelf/book", json!({"number": 1})).await.unwrap();
}

#[tokio::test]
async fn a_document_of_3_0_in_yaml() {
    let till = Service::start("till.py", &[]).await;
    let text = std::fs::read_to_string(fixture("till.yaml")).unwrap();
    let more = "expose = [\"get_items\", \"sell\", \"item\"]";
    let node = importing("till", "till.yaml", more);
    node.write("till.yaml", &text.replace("PORT", &till.port().to_string()));
    let node = node.start(&[]).await;
    node.logged("imported").await;
    let client = node.client().await;
    let input = json!({"filter": {"max": 3}, "order": ["name", "price"]});
    let items = client.ask("/till/get_items", input).await.unwrap();
    assert_eq!(items["asked"], json!({"filter[max]": "3", "order": "name,price"}));
    assert_eq!(items["items"][0]["note"], Value::Null);
    let error = client.ask("/till/get_items", json!({"filter": {"max": 0}})).await.unwrap_err();
    assert_eq!(error.code, "INVALID_INPUT", "the bound is exclusive");
    let sold =
        client.ask("/till/sell", json!({"body": {"name": "a&b", "amount": 2}})).await.unwrap();
    assert_eq!(sold["sold"], json!({"name": ["a&b"], "amount": ["2"]}));
    let error = client.ask("/till/item", json!({"name": "tea"})).await.unwrap_err();
    assert_eq!(error.code, "HTTP_403");
    assert_eq!(error.details.unwrap().to::<Value>().unwrap()["body"]["reason"], "locked");
}

#[tokio::test]
async fn one_endpoint_from_a_spec_of_the_operators() {
    let shelf = Service::start("shelf.py", &[]).await;
    let node = NodeFolder::developed();
    let spec = |name: &str, properties: Value| {
        json!({"name": name, "description": "By hand", "input_schema":
            {"type": "object", "properties": properties, "required": ["number"]}})
    };
    node.write(
        "book.json",
        &spec("library/book", json!({"number": {"type": "integer"}})).to_string(),
    );
    let add = json!({"name": "library/add", "input_schema": {"type": "object", "properties": {}}});
    node.write("add.json", &add.to_string());
    for (name, file, method, path, exposed) in [
        ("book", "book.json", "GET", "/books/{number}", "library/book"),
        ("add", "add.json", "POST", "/books", "library/add"),
    ] {
        node.append(
            "node.toml",
            &format!(
                "[[import]]\nname = \"{name}\"\nkind = \"json-schema\"\nspec = \"{file}\"\n\
                 url = \"{}\"\nmethod = \"{method}\"\npath = \"{path}\"\nexpose = [\"{exposed}\"]\n",
                shelf.url("")
            ),
        );
    }
    let node = node.start(&[]).await;
    imports_once(&node, "connected").await;
    let client = node.client().await;
    let book = client.ask("/book/library/book", json!({"number": 2})).await.unwrap();
    assert_eq!(book["title"], "book 2");
    let error = client.ask("/book/library/book", json!({"number": "x"})).await.unwrap_err();
    assert_eq!(error.code, "INVALID_INPUT");
    let added = client.ask("/add/library/add", json!({"title": "t", "pages": 3})).await;
    assert_eq!(added.unwrap()["added"], "t");
}

#[tokio::test]
async fn a_document_that_cannot_be_used_is_told_of_before_the_start() {
    for (text, expected) in [
        ("openapi: 3.0.0\npaths: [\n  a: b: c\n", "line 3"),
        ("swagger: '2.0'\npaths: {}\n", "version 2.0"),
        (
            "openapi: 3.1.0\nservers: [{url: 'http://127.0.0.1:1'}]\npaths:\n  /a:\n    get:\n      \
             parameters: [{$ref: 'other.yaml#/p'}]\n",
            "#/paths/~1a/get/parameters/0: `other.yaml#/p` refers to another document",
        ),
    ] {
        let node = importing("broken", "broken.yaml", "");
        node.write("broken.yaml", text);
        let check = node.alknet(["check"]).await;
        assert!(check.refused(78).contains(expected), "{check:?}");
        let start = node.alknet(["run"]).await;
        assert!(start.refused(78).contains(expected), "{start:?}");
    }
}

#[tokio::test]
async fn c42_a_credential_reaches_the_service_and_nobody_else() {
    const TOKEN: &str = "s3cret-of-the-shelf";
    let shelf = Service::start("shelf.py", &[("SHELF_TOKEN", TOKEN)]).await;
    let more =
        format!("expose = {EVERYTHING}\ncredential = {{ entry = \"shelf\", kind = \"bearer\" }}");
    let node = importing("shelf", &shelf.url("/openapi.json"), &more);
    add_vault(&node, &[("shelf", TOKEN)]);
    node.append("access.toml", "[log]\nfilter = \"trace\"\n");
    let node = node.start(&[]).await;
    node.logged("imported").await;
    let client = node.client().await;
    assert_eq!(client.ask("/shelf/secret", json!({})).await.unwrap(), json!(true));
    // An operation that asks for none gets none, nor does another origin.
    assert_eq!(client.ask("/shelf/open_door", json!({})).await.unwrap(), json!(true));
    let elsewhere = format!("http://localhost:{}/secret", shelf.port());
    client.ask("/shelf/away", json!({ "to": elsewhere })).await.unwrap_err();
    let port = shelf.killed().await;
    let error = client.ask("/shelf/secret", json!({})).await.unwrap_err();
    let _shelf = Service::start_at(port, "shelf.py", &[("SHELF_TOKEN", "another")]).await;
    let refused = client.ask("/shelf/secret", json!({})).await.unwrap_err();
    assert_eq!(refused.code, "HTTP_401");
    let schema = client.services_schema("/shelf/secret").await.unwrap();
    let status = node.alknet(["status", "--json"]).await;
    let (stdout, stderr) = (node.process().stdout(), node.process().stderr());
    for seen in [&stdout, &stderr, &status.stdout, &format!("{error:?} {refused:?} {schema}")] {
        assert!(!seen.contains(TOKEN), "{seen}");
    }
}

#[tokio::test]
async fn a_key_goes_into_the_header_that_the_service_names() {
    let till = Service::start("till.py", &[]).await;
    let text = std::fs::read_to_string(fixture("till.yaml")).unwrap();
    let credential = r#"credential = { entry = "till", kind = "header", header = "X-Till-Key" }"#;
    let node = importing("till", "till.yaml", &format!("expose = [\"item\"]\n{credential}"));
    add_vault(&node, &[("till", "k3y")]);
    node.write("till.yaml", &text.replace("PORT", &till.port().to_string()));
    let node = node.start(&[]).await;
    node.logged("imported").await;
    let item = node.client().await.ask("/till/item", json!({"name": "tea"})).await.unwrap();
    assert_eq!(item["name"], "tea");
}

#[tokio::test]
async fn a_name_and_password_reach_the_service_that_asks_for_them() {
    const SHOWN: &str = "emil:pass:w0rd";
    let shelf = Service::start("shelf.py", &[("SHELF_TOKEN", SHOWN)]).await;
    let credential = r#"credential = { entry = "shelf", kind = "basic" }"#;
    let more = format!("expose = [\"member\", \"open_door\"]\n{credential}");
    let node = importing("shelf", &shelf.url("/openapi.json"), &more);
    add_vault(&node, &[("shelf", SHOWN)]);
    let node = node.start(&[]).await;
    node.logged("imported").await;
    let client = node.client().await;
    assert_eq!(client.ask("/shelf/member", json!({})).await.unwrap(), "emil");
    assert_eq!(client.ask("/shelf/open_door", json!({})).await.unwrap(), json!(true));
    let port = shelf.killed().await;
    let _shelf = Service::start_at(port, "shelf.py", &[("SHELF_TOKEN", "emil:another")]).await;
    let refused = client.ask("/shelf/member", json!({})).await.unwrap_err();
    assert_eq!(refused.code, "HTTP_401");
    assert!(!format!("{refused:?}{}", node.process().stderr()).contains("w0rd"));
}

#[tokio::test]
async fn an_imports_scopes_are_asked_of_whoever_calls() {
    const TOKEN: &str = "alk_shelf-and-the-rest-of-a-token";
    let shelf = Service::start("shelf.py", &[]).await;
    let more = "scopes = [\"shelf:read\"]\nexpose = [\"book\"]";
    let node = importing("shelf", &shelf.url("/openapi.json"), more);
    let hash = stored(&digest(TOKEN.as_bytes()));
    let key = format!("prefix = \"alk_shel\"\nhash = {hash:?}\nscopes = [\"shelf:read\"]\n");
    node.append("access.toml", &format!("[[api_key]]\n{key}"));
    let node = node.start(&[]).await;
    node.logged("imported").await;
    let client = node.client().await;
    let with = |token: Option<&str>| CallOptions {
        auth_token: token.map(str::to_owned),
        ..CallOptions::default()
    };
    let book = |token| client.call_with("/shelf/book", json!({ "number": 1 }), with(token));
    let refused = within(book(None)).await.unwrap_err();
    assert_eq!(
        (&*refused.code, &*refused.message),
        ("FORBIDDEN", "missing required scope: shelf:read")
    );
    let read = within(book(Some(TOKEN))).await.unwrap().to::<Value>().unwrap();
    assert_eq!(read["title"], "book 1");
    // Discovery says the same.
    let schema = json!({ "name": "shelf/book" });
    let hidden = client.ask("/services/schema", schema.clone()).await.unwrap_err();
    assert_eq!(hidden.code, "NOT_FOUND");
    let shown = within(client.call_with("/services/schema", schema, with(Some(TOKEN)))).await;
    let shown = shown.unwrap().to::<Value>().unwrap();
    assert_eq!(shown["access_control"]["required_scopes"], json!(["shelf:read"]));
}

#[tokio::test]
async fn a_service_is_believed_on_the_word_of_its_own_authority() {
    let authority = Authority::new();
    let files = tempfile::tempdir().unwrap();
    let [chain, key] = ["chain.pem", "key.pem"].map(|name| files.path().join(name));
    let (chain_text, key_text) = authority.issue();
    std::fs::write(&chain, chain_text).unwrap();
    std::fs::write(&key, key_text).unwrap();
    let tls =
        [("SHELF_CERTIFICATE", chain.to_str().unwrap()), ("SHELF_KEY", key.to_str().unwrap())];
    let shelf = Service::start("shelf.py", &tls).await;
    let base = format!("https://localhost:{}", shelf.port());
    let document = format!("{base}/openapi.json");

    // The system does not know the authority, and another one does not count.
    let node = importing("shelf", &document, "expose = [\"book\"]").start(&[]).await;
    node.logged("cannot be reached: invalid peer certificate").await;
    let node = importing("shelf", &document, "authority = \"ca.pem\"");
    assert!(node.alknet(["check"]).await.refused(78).contains("ca.pem"));
    Authority::new().write(&node.file("ca.pem"));
    node.start(&[]).await.logged("cannot be reached: invalid peer certificate").await;

    let node = importing("shelf", &document, "authority = \"ca.pem\"\nexpose = [\"book\"]");
    authority.write(&node.file("ca.pem"));
    node.write(
        "one.json",
        r#"{"name": "one", "input_schema": {"type": "object", "required": ["number"],
            "properties": {"number": {"type": "integer"}}}}"#,
    );
    node.append(
        "node.toml",
        &format!(
            "[[import]]\nname = \"one\"\nkind = \"json-schema\"\nspec = \"one.json\"\n\
             url = \"{base}\"\nmethod = \"GET\"\npath = \"/books/{{number}}\"\n\
             authority = \"ca.pem\"\nexpose = [\"one\"]\n"
        ),
    );
    let node = node.start(&[]).await;
    imports_once(&node, "connected").await;
    let client = node.client().await;
    for name in ["/shelf/book", "/one/one"] {
        let book = client.ask(name, json!({ "number": 1 })).await.unwrap();
        assert_eq!(book["title"], "book 1", "{name}");
    }
}
