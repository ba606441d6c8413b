//! `alknet check --explain`: what a deployment amounts to.

use alknet_tests::daemon::{NodeFolder, built};
use alknet_tests::secrets::add_vault;
use serde_json::{Value, json};

const ACCESS: &str = "
[[peer]]
peer_id = \"ada\"
fingerprints = [\"ed25519:0101010101010101010101010101010101010101010101010101010101010101\"]
scopes = [\"observe\"]

[[peer]]
peer_id = \"bob\"
enabled = false
fingerprints = [\"ed25519:0202020202020202020202020202020202020202020202020202020202020202\"]
scopes = [\"admin\"]
";

/// A node with something to tell of each kind.
fn node() -> NodeFolder {
    let node = NodeFolder::developed_with(&[
        ("call", &built().call),
        ("clock", &built().clock),
        ("conformance", &built().conformance),
    ]);
    add_vault(&node, &[("search-key", "s3cr3t-value"), ("raw", "r4w-value")]);
    node.append(
        "node.toml",
        "authority = { label = \"agent\", scopes = [\"observe\"] }\n\
         reach = [\"/node/status\", \"/node/reload\", \"/no/where\"]\n\
         outbound = [\"https://api.example.com\"]\n\
         hide = [\"/conformance/fail\"]\n\
         [plugin.config]\ngreeting = \"hi\"\n\
         [plugin.capabilities.search]\nentry = \"search-key\"\nkind = \"bearer\"\n\
         [plugin.capabilities.secret]\nentry = \"raw\"\nkind = \"bytes\"\nreveal = true\n\
         operations = [\"/conformance/capability\"]\n",
    );
    node.append("access.toml", ACCESS);
    node
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|one| one["name"] == name).expect(name)
}

#[tokio::test]
async fn the_json_says_who_may_what_and_why() {
    let node = node();
    let checked = node.alknet(["check", "--explain", "--json"]).await;
    assert!(!checked.stdout.contains("s3cr3t") && !checked.stdout.contains("r4w"));
    let effective = &checked.json()["effective"];
    assert_eq!(effective["node"]["development"], true);
    let listener = &effective["listeners"][0];
    assert_eq!(listener["transport"], "quic");
    assert_eq!(listener["address"], node.listen().to_string());
    assert_eq!(listener["alpns"][0], "alknet/call");

    let clock = named(&effective["plugins"], "clock");
    assert_eq!((&clock["trust"], &clock["authority"]), (&"confined".into(), &Value::Null));
    let memory = named(&clock["limits"], "memory");
    assert_eq!((&memory["enforced"], &memory["limit"]), (&true.into(), &(64 << 20).into()));
    assert_eq!(named(&clock["operations"], "clock/now")["callers"][0], "anonymous");
    assert_eq!(named(&effective["plugins"], "call")["gateway"], true);

    let conformance = named(&effective["plugins"], "conformance");
    let enforced = &named(&conformance["limits"], "memory")["enforced"];
    assert_eq!((&conformance["trust"], enforced), (&"native".into(), &false.into()));
    assert_eq!(conformance["authority"]["label"], "agent");
    assert_eq!(conformance["outbound"], json!(["https://api.example.com"]));
    let secrets = conformance["secrets"].as_array().unwrap();
    assert_eq!(secrets.len(), 2);
    assert_eq!(
        secrets[1],
        json!({ "name": "secret", "kind": "bytes", "source": "entry `raw`", "reveal": true,
            "operations": ["conformance/capability"] })
    );
    let reach: Vec<_> = conformance["reach"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["operation"].as_str().unwrap(), &one["served_by"], &one["allowed"]))
        .collect();
    assert_eq!(
        reach,
        [
            ("node/status", &json!("node"), &json!(true)),
            ("node/reload", &json!("node"), &json!(false)),
            ("no/where", &Value::Null, &json!(false)),
        ]
    );
    let hidden = named(&conformance["operations"], "conformance/fail");
    assert_eq!((&hidden["visibility"], &hidden["callers"]), (&"internal".into(), &json!([])));

    // The very decisions of `acl why`.
    let own = &effective["own_operations"];
    assert_eq!(named(own, "node/status")["callers"], json!(["local", "ada"]));
    assert_eq!(named(own, "node/status")["composed_by"], json!(["conformance"]));
    assert_eq!(named(own, "node/reload")["callers"], json!(["local"]));
    for who in ["anonymous", "local", "ada", "bob"] {
        let why = node.alknet(["acl", "why", who, "/node/status", "--json"]).await.json();
        let callers = named(own, "node/status")["callers"].as_array().unwrap();
        assert_eq!(why["allowed"], callers.contains(&json!(who)), "{who}");
    }
    let identities = effective["identities"].as_array().unwrap();
    let bob = identities.iter().find(|one| one["id"] == "bob").unwrap();
    // Who is disabled is a stranger.
    let nobody = &identities[0];
    assert_eq!((&nobody["id"], &bob["active"]), (&"anonymous".into(), &false.into()));
    assert_eq!(bob["operations"], nobody["operations"]);
    assert_eq!(effective["limits"]["calls_per_connection"], 256);
}

#[tokio::test]
async fn the_text_says_the_same_to_people() {
    let node = node();
    let checked = node.alknet(["check", "--explain"]).await;
    let text = checked.text();
    assert!(!text.contains("s3cr3t") && !text.contains("r4w") && !text.contains('\x1b'));
    for expected in [
        "development node ed25519:",
        "trust      native: it can do whatever the daemon's process can",
        "trust      confined: it sees only what it is given",
        "authority  agent: observe",
        "reach      /node/status of node: allowed",
        "/node/reload of node: refused",
        "/no/where served by nobody: refused, there is no such operation",
        "secrets    search (bearer) from entry `search-key`",
        "secret (bytes) from entry `raw`, which the plugin sees, for conformance/capability",
        "outbound   https://api.example.com",
        "memory 64 MiB, cpu 1s",
        "nobody from the wire",
        "no problems",
    ] {
        assert!(text.contains(expected), "no `{expected}` in\n{text}");
    }
    let line = |start: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(start));
        line.unwrap_or_else(|| panic!("no {start} in\n{text}")).trim_end()
    };
    assert!(line("/clock/now").ends_with("everybody"), "{text}");
    assert!(line("/node/status").ends_with("local, ada; plugins: conformance"), "{text}");
    assert!(line("bob").contains("  no  "), "{text}");
}
