//! Who may call what, and why: by calls, by `alknet acl why`, and by what
//! `alknet check` finds.

use super::*;

/// The line of one of the node's files that has this text first.
fn line_of(node: &NodeFolder, file: &str, text: &str) -> usize {
    let all = node.read(file);
    1 + all.lines().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}:\n{all}"))
}

/// The places of a step's grounds, as `file:line`.
fn places(step: &Value) -> Vec<String> {
    let grounds = step["grounds"].as_array().unwrap().iter();
    let placed = grounds.filter(|ground| ground["line"].is_u64());
    placed
        .map(|ground| {
            let file = ground["file"].as_str().unwrap();
            format!("{}:{}", file.rsplit('/').next().unwrap(), ground["line"])
        })
        .collect()
}

#[tokio::test]
async fn acl_why_says_who_may_call_what_by_which_rule_and_line() {
    let node = folder();
    node.replace(
        "node.toml",
        "name = \"native\"\n",
        "name = \"native\"\nhide = [\"/native/wait\"]\n",
    );
    node.append(
        "access.toml",
        "[[peer]]\npeer_id = \"gone\"\nscopes = [\"inner\"]\nenabled = false\n\
         auth_token_hash = \
         \"sha256:0000000000000000000000000000000000000000000000000000000000000001\"\n\
         [[api_key]]\nprefix = \"alk_late\"\nscopes = [\"inner\"]\n\
         expires_at = 2020-01-01T00:00:00Z\nhash = \
         \"sha256:0000000000000000000000000000000000000000000000000000000000000002\"\n",
    );
    let why = async |node: &NodeFolder, running: bool, question: &[&str]| {
        let mut arguments = vec!["--json", "acl", "why"];
        arguments.extend(question);
        if running {
            arguments.extend(["--to", "local"]);
        }
        node.alknet(arguments).await.json()
    };
    let [disabled, expires] = ["enabled = false", "expires_at"]
        .map(|text| format!("access.toml:{}", line_of(&node, "access.toml", text)));
    let native = line_of(&node, "node.toml", "name = \"native\"");
    let keys: std::collections::BTreeMap<_, _> = ["artifact", "hide", "authority", "reach"]
        .iter()
        .map(|key| {
            let all = node.read("node.toml");
            let after = all.lines().skip(native).position(|line| line.starts_with(key)).unwrap();
            (*key, format!("node.toml:{}", native + after + 1))
        })
        .collect();
    let reader = {
        let entry = line_of(&node, "access.toml", "prefix = \"alk_read\"");
        let all = node.read("access.toml");
        let after = all.lines().skip(entry).position(|line| line.starts_with("scopes")).unwrap();
        format!("access.toml:{}", entry + after + 1)
    };
    let inner: &[&str] = &["alk_read", "/native/inner"];
    let hidden: &[&str] = &["local", "native/wait"];
    let composed: &[&str] = &["alk_read", "/native/inner", "--via", "/native/compose"];
    let weak: &[&str] = &["alk_inne", "/native/inner", "--via", "/confined/compose"];
    let far: &[&str] = &["local", "/native/orphan", "--via", "/native/compose"];
    let open: &[&str] = &["anonymous", "/native/context"];
    let closed: &[&str] = &["anonymous", "/native/create"];
    let gone: &[&str] = &["gone", "/native/inner"];
    let late: &[&str] = &["alk_late", "/native/inner"];
    let note: &[&str] = &["alk_read", "/native/read", "--resource", "n1"];

    let check = async |node: &NodeFolder, running: bool| {
        let answer = why(node, running, inner).await;
        assert_eq!(answer["allowed"], false);
        let step = &answer["steps"][0];
        assert_eq!(step["rule"], "missing required scope: inner");
        assert_eq!((&step["code"], &step["subject"]), (&json!("FORBIDDEN"), &json!("alk_read")));
        assert_eq!(places(step), [reader.clone(), keys["artifact"].clone()]);

        let answer = why(node, running, hidden).await;
        assert_eq!(answer["steps"][0]["code"], "NOT_FOUND");
        assert!(places(&answer["steps"][0]).contains(&keys["hide"]), "{answer}");

        let answer = why(node, running, composed).await;
        assert_eq!(answer["allowed"], true, "{answer}");
        assert_eq!(answer["steps"][0]["operation"], "native/compose");
        assert_eq!(answer["steps"][1]["subject"], "native-tree");
        assert_eq!(answer["steps"][1]["rule"], "every required scope is held");
        assert!(
            places(&answer["steps"][1])
                .starts_with(&[keys["authority"].clone(), keys["reach"].clone()])
        );

        let answer = why(node, running, weak).await;
        assert_eq!(answer["allowed"], false);
        assert_eq!(
            (&answer["steps"][0]["allowed"], &answer["steps"][1]["code"]),
            (&json!(true), &json!("FORBIDDEN"))
        );

        let answer = why(node, running, far).await;
        assert_eq!(answer["steps"][1]["code"], "NOT_FOUND");

        let answer = why(node, running, open).await;
        assert_eq!(
            (&answer["allowed"], &answer["steps"][0]["rule"]),
            (&json!(true), &json!("the operation is unrestricted"))
        );
        assert_eq!(why(node, running, closed).await["steps"][0]["rule"], "authentication required");

        let answer = why(node, running, gone).await;
        assert_eq!(answer["steps"][0]["rule"], "authentication required");
        assert_eq!(places(&answer["steps"][0])[0], disabled);
        let answer = why(node, running, late).await;
        assert_eq!(answer["steps"][0]["rule"], "invalid token");
        assert_eq!(places(&answer["steps"][0])[0], expires);
    };
    check(&node, false).await;
    assert_eq!(why(&node, false, note).await["steps"][0]["code"], "FORBIDDEN");

    // For people.
    let text = node.alknet(["acl", "why", "alk_read", "/native/inner"]).await;
    let text = text.text();
    assert!(
        text.starts_with(
            "alk_read -> /native/inner\n  refused with FORBIDDEN: missing required scope: inner\n"
        ),
        "{text}"
    );
    assert!(text.contains(&format!("{}:", reader)), "{text}");
    let unknown = node.alknet(["acl", "why", "nobody", "/native/inner"]).await;
    assert!(
        unknown.refused(64).contains("knows neither a peer nor an API key `nobody`"),
        "{unknown:?}"
    );
    let secret = node.alknet(["acl", "why", READER, "/native/inner"]).await;
    assert!(!secret.refused(64).contains(READER), "{secret:?}");

    // A running node says the same of itself, and a call is what it says.
    let node = node.start(&[]).await;
    check(&node, true).await;
    let client = node.client().await;
    let error = ask_as(&client, READER, "/native/inner", json!(null)).await.unwrap_err();
    assert_eq!(error.message, "missing required scope: inner");
    assert_eq!(client.ask("/native/wait", json!(null)).await.unwrap_err().code, "NOT_FOUND");
    // Once the reader owns the note, it may read it, by the files too.
    ask_as(&client, READER, "/native/create", json!({ "id": "n1" })).await.unwrap();
    for running in [true, false] {
        let answer = why(&node, running, note).await;
        assert_eq!(answer["steps"][0]["rule"], "the resource is owned", "{answer}");
    }
    // It tells operators alone.
    let question = json!({ "identity": "anonymous", "operation": "/native/inner" });
    let error = ask_as(&client, READER, "/node/acl-why", question).await.unwrap_err();
    assert_eq!(error.code, "FORBIDDEN");
}

#[tokio::test]
async fn c23_c24_internal_and_restricted_operations() {
    let node = node().await;
    let client = node.client().await;
    let stranger = Dialer::new(None).unwrap();
    let connection = node.dial(&stranger, alknet_call_protocol::ALPN).await.unwrap();
    let options =
        alknet_call_protocol::Options::new(std::sync::Arc::new(alknet_tests::daemon::Tokio));
    let (anonymous, driver) = alknet_call_protocol::CallClient::spawn_dispatch(connection, options);
    tokio::spawn(driver);
    for space in ["native", "confined"] {
        let secret = format!("/{space}/secret");
        assert_eq!(client.ask(&secret, json!(null)).await.unwrap_err().code, "NOT_FOUND", "c23");
        let schema = client.ask("/services/schema", json!({ "name": secret })).await;
        assert_eq!(schema.unwrap_err().code, "NOT_FOUND");
        let open = within(anonymous.call(&format!("/{space}/context"), json!(null))).await.unwrap();
        assert_eq!(open.to::<Value>().unwrap()["identity"], Value::Null, "c24");
        let closed = within(anonymous.call(&format!("/{space}/inner"), json!(null))).await;
        assert_eq!(closed.unwrap_err().message, "authentication required", "c24");
    }
    // c28, c29
    let token = |token: &str| CallOptions { auth_token: Some(token.into()), ..Default::default() };
    let call = |options| anonymous.call_with("/native/context", json!(null), options);
    let seen: Value = within(call(token(READER))).await.unwrap().to().unwrap();
    assert_eq!(seen["identity"]["id"], "alk_read");
    let seen: Value = within(call(CallOptions::default())).await.unwrap().to().unwrap();
    assert_eq!(seen["identity"], Value::Null);
    let error = within(call(token("alk_nobody"))).await.unwrap_err();
    assert_eq!((&*error.code, &*error.message), ("FORBIDDEN", "invalid token"));
}

#[tokio::test]
async fn the_schema_shows_the_whole_declaration() {
    let node = node().await;
    let client = node.client().await;
    for space in ["native", "confined"] {
        let name = format!("{space}/create");
        let spec =
            ask_as(&client, READER, "/services/schema", json!({ "name": name })).await.unwrap();
        assert_eq!(spec["examples"], json!([{ "id": "n1" }]));
        assert_eq!(spec["tags"], json!(["notes"]));
        assert_eq!(spec["error_schemas"][0]["code"], "NOTE_EXISTS");
        assert_eq!(spec["access_control"]["required_scopes"], json!(["notes"]));
        ask_as(&client, READER, &format!("/{name}"), json!({ "id": "n" })).await.unwrap();
        let name = format!("{space}/read");
        let spec =
            ask_as(&client, READER, "/services/schema", json!({ "name": name })).await.unwrap();
        assert_eq!(spec["resource_id_path"], "/id");
        assert_eq!(spec["access_control"]["resource_type"], format!("{space}-note"));
        assert_eq!(spec["input_schema"], json!({ "type": "object" }));
        for key in ["name", "namespace", "op_type", "visibility", "description", "output_schema"] {
            assert!(!spec[key].is_null(), "{key}: {spec}");
        }
    }
}

#[tokio::test]
async fn check_finds_what_can_never_work_with_its_line() {
    let node = folder();
    let quiet = node.alknet(["check", "--json"]).await.json();
    // Everything else of the plugins can be reached and passed.
    let whats = |answer: &Value| -> Vec<String> {
        let findings = answer["findings"].as_array().unwrap().iter();
        findings.map(|finding| finding["what"].as_str().unwrap().to_owned()).collect()
    };
    let of_confined =
        |what: &&String| !what.contains("native/inner") && !what.contains("confined/inner");
    let expected: Vec<String> = ["confined", "native"]
        .map(|space| {
            format!(
                "operation `{space}/orphan` of plugin `{space}` is internal and in nobody's `reach`"
            )
        })
        .into();
    let found = whats(&quiet);
    assert_eq!(found.iter().filter(of_confined).cloned().collect::<Vec<_>>(), expected);

    node.replace("node.toml", "\"/native/context\"", "\"/native/contxt\"");
    node.replace("node.toml", "scopes = [\"inner\",\"notes\"]", "scopes = [\"notes\"]");
    let answer = node.alknet(["check", "--json"]).await.json();
    let line = line_of(&node, "node.toml", "native/contxt");
    let finding = answer["findings"].as_array().unwrap().iter().find(|finding| {
        finding["what"]
            .as_str()
            .unwrap()
            .contains("plugin `native` reaches `native/contxt`, which nothing serves")
    });
    assert_eq!(finding.unwrap_or_else(|| panic!("{answer}"))["line"], line);
    let refused = answer["findings"].as_array().unwrap().iter().find(|finding| {
        finding["what"]
            .as_str()
            .unwrap()
            .contains("plugin `native` reaches `native/inner` but is always refused")
    });
    let authority = line_of(&node, "node.toml", "label = \"native-tree\"");
    assert_eq!(refused.unwrap_or_else(|| panic!("{answer}"))["line"], authority);
    // For people.
    let text = node.alknet(["check"]).await;
    assert!(text.stderr.contains(&format!("node.toml:{line}:")), "{text:?}");
}

#[tokio::test]
async fn c32_what_a_plugin_keeps_internal_cannot_be_exposed() {
    let node = folder();
    node.replace(
        "node.toml",
        "name = \"native\"\n",
        "name = \"native\"\nexpose = [\"/native/secret\"]\n",
    );
    let check = node.alknet(["check"]).await;
    let line = line_of(&node, "node.toml", "expose = ");
    let text = check.refused(78);
    assert!(text.contains("is internal and cannot be made external"), "{text}");
    assert!(text.contains(&format!("node.toml:{line}:")), "{text}");
}
