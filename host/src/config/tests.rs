//! What the files' readers promise, over whole files.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::document::read_tracing;
use super::*;
use crate::endpoint::{IrohConfig, Lookup, Relay};

const NODE: &str = "[endpoint.quic]\nlisten = [\"127.0.0.1:0\"]\n";

fn node(text: &str) -> Result<NodeConfig, Problems> {
    NodeConfig::parse(Path::new("node.toml"), text, Mode::Pinned)
}

fn access(text: &str) -> Result<AccessConfig, Problems> {
    AccessConfig::parse(Path::new("access.toml"), text)
}

/// What is wrong, as `line: what`.
fn wrong<T: std::fmt::Debug>(result: Result<T, Problems>) -> Vec<String> {
    let problems = result.unwrap_err();
    problems.iter().map(|p| format!("{}: {}", p.place.line(), p.what)).collect()
}

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn k42_an_unknown_key_is_shown_with_its_line_and_a_suggestion() {
    let problems = node("[endpoint.quic]\nlisten = [\"127.0.0.1:0\"]\n\tidel_timeout = \"5s\"\n");
    assert_eq!(
        problems.unwrap_err().to_string(),
        "error: unknown key `idel_timeout`\n \
          --> node.toml:3:2\n  \
           |\n\
         3 |  idel_timeout = \"5s\"\n  \
           |  ^^^^^^^^^^^^\n  \
           = help: did you mean `idle_timeout`?\n\
         \n\
         1 problem"
    );
}

#[test]
fn k42_all_problems_are_reported_together() {
    let problems = node(
        "\
[endpoint.quic]
listen = [\"127.0.0.1\", 7]
idle_timeout = 5

[[plugin]]
nam = \"echo\"
artifact = \"echo.so\"
sha256 = \"abc\"
required = \"yes\"

[plugin.limits]
memory = \"64 MB\"

[[plugin]]
name = \"Echo\"
artifact = \"\"
authority = { scopes = [\"promote\"] }

[colour]
",
    );
    assert_eq!(
        wrong(problems),
        [
            "2: `127.0.0.1` is not an address with a port",
            "2: `listen` takes a string, not an integer",
            "3: `idle_timeout` takes a duration, not an integer",
            "5: `name` is missing",
            "6: unknown key `nam`",
            "8: a SHA-256 digest is 64 lower-case hexadecimal digits",
            "9: `required` takes a boolean, not a string",
            "12: `64 MB` is not a size",
            "14: plugin `Echo` is not pinned",
            "15: `Echo` is not a plugin's name",
            "16: the path is empty",
            "17: `label` is missing",
            "17: no plugin's authority may hold the scope `promote`",
            "19: unknown key `colour`",
        ]
    );
}

#[test]
fn k42_limits_that_let_nobody_in_are_refused() {
    let problems = node(
        "[endpoint.quic]\nlisten = [\"127.0.0.1:0\"]\nbidirectional_streams = 0\n\
         shards = 4000000000\nkeep_alive = \"30s\"\nhandshake_timeout = \"0s\"\n",
    );
    assert_eq!(
        wrong(problems),
        [
            "3: without bidirectional streams no peer can ask for anything",
            "4: 4000000000 shards are more than 1024",
            "5: connections would be dropped as idle before they are kept alive",
            "6: a limit of no time lets nothing through",
        ]
    );
    let problems = access("[limits]\nconnections = 0\nnew_burst = 0\nfailures_per_minute = 0\n");
    assert_eq!(
        wrong(problems),
        ["2: `connections = 0` lets nobody in", "3: `new_burst = 0` lets nobody in"]
    );
}

#[test]
fn k42_a_missing_file_and_bad_syntax_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.toml");
    let problems = NodeConfig::load(&file, Mode::Pinned).unwrap_err();
    let shown = problems.to_string();
    assert!(shown.starts_with("error: there is no such file\n--> "), "{shown}");
    assert!(shown.contains("= help: create it"), "{shown}");

    std::fs::write(&file, b"\xff\xfe").unwrap();
    let problems = NodeConfig::load(&file, Mode::Pinned).unwrap_err();
    assert!(problems.to_string().contains("not UTF-8"), "{problems}");

    let problems = node("a = 1\na = 2\nb = [\n[x\n").unwrap_err();
    assert!(problems.len() >= 2, "{problems}");
    assert!(problems.iter().all(|p| p.what.starts_with("this is not TOML")), "{problems}");
}

#[test]
fn k42_problems_have_a_json_form() {
    let problems = node(&format!("{NODE}[limits]\nconnections = -1\n")).unwrap_err();
    let json = serde_json::to_value(&problems).unwrap();
    assert_eq!(json[0]["file"], "node.toml");
    assert_eq!((&json[0]["line"], &json[0]["column"]), (&4.into(), &15.into()));
    assert_eq!(json[0]["what"], "-1 is out of range");
    assert_eq!(json.as_array().map(Vec::len), Some(1));
}

#[test]
fn a_minimal_node_has_the_written_defaults() {
    let config = node(NODE).unwrap();
    let quic = config.quic.unwrap();
    assert_eq!((quic.bidirectional_streams, quic.unidirectional_streams), (1_000, 100));
    let seconds = [quic.handshake_timeout, quic.idle_timeout, quic.keep_alive].map(|d| d.as_secs());
    assert_eq!(seconds, [5, 30, 10]);
    assert_eq!(config.limits, NodeLimits::default());
    assert_eq!(config.identity_key, Path::new("node.key"));
    assert_eq!((config.observe.metrics, config.observe.audit), (None, None));
    assert!(!config.development);
}

#[test]
fn paths_are_relative_to_the_file() {
    let text = format!("{NODE}[[plugin]]\nname = \"a\"\nartifact = \"p/a.so\"\n");
    let file = Path::new("/etc/alknet/node.toml");
    let config = NodeConfig::parse(file, &text, Mode::Development).unwrap();
    assert_eq!(config.plugins[0].artifact, Path::new("/etc/alknet/p/a.so"));
    assert_eq!(config.identity_key, Path::new("/etc/alknet/node.key"));
}

#[test]
fn k01_an_alpn_of_two_plugins_names_both() {
    let plugin = |name| {
        format!(
            "[[plugin]]\nname = \"{name}\"\nartifact = \"x\"\nsha256 = \"{}\"\nalpn = [\"h3\"]\n",
            "0".repeat(64)
        )
    };
    let problems = node(&format!("{NODE}{}{}", plugin("one"), plugin("two")));
    assert_eq!(wrong(problems), ["12: ALPN `h3` is served by `one` and by `two`"]);
}

#[test]
fn k44_with_trusted_keys_every_plugin_needs_a_signature() {
    let key = format!("trusted_plugin_keys = [\"ed25519:{}\"]\n", "0a".repeat(32));
    let plugin =
        format!("[[plugin]]\nname = \"a\"\nartifact = \"x\"\nsha256 = \"{}\"\n", "0".repeat(64));
    let problems = node(&format!("{key}{NODE}{plugin}"));
    assert_eq!(wrong(problems), ["4: plugin `a` is not signed"]);
    let signed = format!("signature = \"{}\"\n", "0".repeat(128));
    assert!(node(&format!("{key}{NODE}{plugin}{signed}")).is_ok());
}

#[test]
fn what_this_binary_lacks_is_refused_only_when_it_is_on() {
    let on = "[sandbox]\nmemory = 1\n";
    assert_eq!(
        wrong(node(&format!("{NODE}{on}"))),
        ["3: `memory` and `stack` limit scripts, which are not built into this binary"]
    );
    let off = "[vault]\nenabled = false\nstoer = \"x\"\n";
    assert_eq!(wrong(node(&format!("{NODE}{off}"))), ["5: unknown key `stoer`"]);
    assert_eq!(
        wrong(node("[endpoint.quic]\nenabled = false\nlisten = [\"[::]:1\"]\n")),
        ["1: the node listens nowhere"]
    );
    assert_eq!(wrong(node("")), ["1: the node listens nowhere"]);
}

#[cfg(feature = "iroh")]
#[test]
fn iroh_is_told_where_to_listen_and_by_which_relays() {
    let iroh =
        |text: &str| node(&format!("[endpoint.iroh]\n{text}")).map(|node| node.iroh.unwrap());
    assert_eq!(iroh("").unwrap(), IrohConfig::default(), "no relay, and nobody is asked");
    let full = "listen = [\"127.0.0.1:1\", \"[::1]:1\"]\nrelay = [\"https://relay.example\"]\n\
                lookup = [\"n0\"]\n";
    let full = iroh(full).unwrap();
    assert_eq!(full.listen.len(), 2);
    assert_eq!(full.relay, Relay::Own(vec!["https://relay.example".into()]));
    assert_eq!(full.lookup, [Lookup::N0]);
    assert_eq!(iroh("relay = \"n0\"").unwrap().relay, Relay::N0);
    assert_eq!(iroh("relay = \"disabled\"").unwrap().relay, Relay::Disabled);
    for (text, problem) in [
        ("relay = []", "2: the list of relays is empty"),
        ("relay = \"mine\"", "2: `mine` is not a choice here"),
        ("relay = [\"http://relay.example\"]", "2: `http://relay.example` is not a relay's URL"),
        ("lookup = [\"dht\"]", "2: `dht` is not a choice here"),
        (
            "listen = [\"127.0.0.1:1\", \"127.0.0.2:1\"]",
            "2: 127.0.0.2:1 is a second address of its family, and iroh takes one of each",
        ),
    ] {
        assert_eq!(wrong(node(&format!("[endpoint.iroh]\n{text}\n"))), [problem]);
    }
}

#[test]
fn a_sandbox_says_what_it_is_about() {
    let config = node(&format!("{NODE}[sandbox]\nfiles = true\nread = [\"a\"]\n")).unwrap();
    assert!(config.sandbox.files && !config.sandbox.required);
    assert_eq!(config.sandbox.read, [Path::new("a")]);
    let off = "[sandbox]\nenabled = false\nfiles = true\nmemory = 1\n";
    assert!(!node(&format!("{NODE}{off}")).unwrap().sandbox.files);
    assert_eq!(
        wrong(node(&format!("{NODE}[sandbox]\nrequired = true\nwrite = []\n"))),
        [
            "4: `required` says nothing without `files = true`",
            "5: `write` says nothing without `files = true`",
        ]
    );
}

#[test]
fn k53_a_rate_of_calls_is_whole() {
    let rate = |text: &str| access(&format!("[limits]\n{text}")).map(|a| a.limits.calls);
    assert_eq!(rate("").unwrap(), None);
    assert_eq!(rate("calls_per_second = 5\n").unwrap(), Some(CallRate { per_second: 5, burst: 5 }));
    assert_eq!(wrong(rate("calls_burst = 5\n")), ["2: `calls_burst` limits nothing by itself"]);
    assert_eq!(
        wrong(rate("calls_per_second = 0\n")),
        ["2: `calls_per_second = 0` lets nobody call anything"]
    );
}

fn import(text: &str) -> Result<NodeConfig, Problems> {
    node(&format!("{NODE}[[import]]\n{text}"))
}

#[test]
fn an_import_of_a_node_has_the_written_defaults() {
    let key = "0a".repeat(32);
    let address = format!("alknet://{key}@archive.example:4433");
    let config = import(&format!("name = \"archive\"\nkind = \"call\"\naddress = \"{address}\"\n"));
    let [import] = &config.unwrap().imports[..] else { panic!("there is one import") };
    let expected = ImportSource::Call { address: address.parse().unwrap(), withhold_origin: false };
    assert_eq!(import.source, expected);
    assert_eq!((import.prefix.as_deref(), import.required), (None, false));
    assert_eq!(import.timeout.as_secs(), 10);
    assert!(import.include.is_empty() && import.exclude.is_empty() && import.expose.is_empty());
    assert_eq!(import.source.place(), address);
}

#[test]
fn k42_every_mistake_in_an_import_is_reported() {
    let problems = import(
        "name = \"Archive\"\nkind = \"call\"\naddress = \"archive:4433\"\n\
         document = \"x.json\"\nprefix = \"services/x\"\ninclude = [\"a b\"]\n\
         expose = [\"notes/*\"]\ntimeout = \"0s\"\n\
         [[import]]\nname = \"weather\"\nenabled = false\nkind = \"openapi\"\n\
         base_url = \"ftp://x\"\n\
         [[import]]\nname = \"none\"\nenabled = false\nurl = \"x\"\n\
         [[import]]\nname = \"geo\"\nenabled = false\nkind = \"json-schema\"\nspec = \"s\"\n\
         url = \"http://g\"\npath = \"v1\"\nmethod = \"get\"\n",
    );
    assert_eq!(
        wrong(problems),
        [
            "4: `Archive` is not an import's name",
            "6: `archive:4433` is not a node's address",
            "7: unknown key `document`",
            "8: names that begin with `services/` are the node's own",
            "9: `a b` is not an operation's name",
            "10: `notes/*` is not an operation's name",
            "11: a source that may take no time is never heard",
            "12: `document` is missing",
            "16: `ftp://x` is not a URL of HTTP",
            "17: `kind` is missing",
            "27: `v1` is not a path",
            "28: `get` is not a choice here",
        ]
    );
}

#[test]
fn two_imports_of_one_name_are_refused() {
    let address = format!("alknet://{}@h:1", "0a".repeat(32));
    let stanza = format!("name = \"a\"\nkind = \"call\"\naddress = \"{address}\"\n");
    let problems = import(&format!("{stanza}[[import]]\n{stanza}"));
    assert_eq!(wrong(problems), ["8: two imports are called `a`"]);
}

#[test]
fn an_import_shows_no_password() {
    let text = "name = \"a\"\nenabled = false\nkind = \"mcp\"\nurl = \"https://u:sesame@h/mcp\"\n";
    let problems = import(text).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems}");
    assert!(!problems.to_string().contains("sesame"), "{problems}");
    let text = "name = \"a\"\nenabled = false\nkind = \"mcp\"\nurl = \"https://h/mcp\"\n\
                token = \"sesame\"\n";
    let problems = import(text).unwrap_err();
    assert!(!problems.to_string().contains("sesame"), "{problems}");
}

#[test]
fn an_import_borrows_only_what_its_requests_can_carry() {
    let address = format!("alknet://{}@h:1", "0a".repeat(32));
    let text = format!(
        "name = \"a\"\nenabled = false\nkind = \"call\"\naddress = \"{address}\"\n\
         credential = {{ entry = \"e\", kind = \"basic\" }}\n"
    );
    assert_eq!(wrong(import(&text)), ["8: requests to this source cannot carry such a credential"]);
}

#[test]
fn secrets_are_refused_and_not_shown() {
    let key = "5e".repeat(32);
    let text = format!("{NODE}[identity]\nkey = \"{key}\"\npassphrase = \"open sesame\"\n");
    let problems = node(&text).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems}");
    let shown = format!("{problems} {problems:?} {}", serde_json::to_string(&problems).unwrap());
    assert!(!shown.contains(&key) && !shown.contains("sesame"), "{shown}");

    let text = "[[peer]]\npeer_id = \"a\"\nauth_token_hash = \"alk_my-real-token-is-this-one\"\n";
    let problems = access(text).unwrap_err();
    assert!(!problems.to_string().contains("my-real"), "{problems}");
}

#[test]
fn k34_names_keys_and_tokens_belong_to_one_entry() {
    let (key, hash) = ("0a".repeat(32), "0b".repeat(32));
    let text = format!(
        "\
[[peer]]
peer_id = \"ada\"
fingerprints = [\"ed25519:{key}\"]
auth_token_hash = \"sha256:{hash}\"

[[peer]]
peer_id = \"ada\"
fingerprints = [\"SHA256:{key}\", \"ed25519:{key}\"]

[[api_key]]
prefix = \"alk_0123\"
hash = \"sha256:{hash}\"

[[api_key]]
prefix = \"alk_0123\"
hash = \"sha256:{key}\"
"
    );
    let mut lines = wrong(access(&text));
    for line in &mut lines {
        *line = line.replace(&key, "KEY").replace(&hash, "HASH");
    }
    assert_eq!(
        lines,
        [
            "7: peer_id `ada` stands twice",
            "8: fingerprint `ed25519:KEY` stands twice",
            "12: token hash `sha256:HASH` stands twice",
            "15: prefix `alk_0123` stands twice",
        ]
    );
}

#[test]
fn entries_that_can_never_match_are_refused() {
    let text = "\
[[peer]]
peer_id = \"alk_ada\"
fingerprints = [\"ED25519:00\"]

[[peer]]
peer_id = \"bob\"

[[api_key]]
prefix = \"alk_\"

[limits]
half_open_retry = 9
half_open_refuse = 8
";
    assert_eq!(
        wrong(access(text)),
        [
            "2: `alk_ada` begins as API keys do",
            "3: `ED25519:00` is not a fingerprint",
            "5: peer `bob` has neither a key nor a token",
            "8: `hash` is missing",
            "9: `alk_` is not a token's prefix",
            "12: handshakes would be refused before clients are asked to prove their address",
        ]
    );
}

#[test]
fn a_reload_cannot_raise_a_ceiling() {
    let config = access("[limits]\nconnections = 20000\n").unwrap();
    let problems = config.over(&NodeLimits::default());
    let place = &problems.iter().next().unwrap().place;
    assert_eq!((problems.len(), place.line()), (1, 2));

    // A ceiling below the default asks nothing of a file that is silent about it.
    let low = NodeLimits { connections: 5, ..NodeLimits::default() };
    let silent = access("").unwrap();
    assert!(silent.over(&low).is_empty());
    assert_eq!(silent.limits_under(&low).connections, 5);
}

#[test]
fn an_empty_access_file_lets_only_strangers_in() {
    let config = access("").unwrap();
    assert!(config.peers.is_empty() && config.api_keys.is_empty());
    assert_eq!(config.limits, AccessLimits::default());
}

/// Every key that a schema describes, in the notation of [`read_tracing`].
fn schema_keys(schema: &Value, path: &str, keys: &mut BTreeSet<String>) {
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        keys.insert(path.clone());
        schema_keys(value, &path, keys);
        schema_keys(&value["items"], &format!("{path}[]"), keys);
        schema_keys(&value["additionalProperties"], &format!("{path}.*"), keys);
    }
}

/// The schema takes the example, and describes exactly the keys that the reader
/// asks for. `asked` must come from a file with every table in it.
fn agrees(schema: &str, example_text: &str, asked: &BTreeSet<String>) {
    let schema: Value = serde_json::from_str(&example(schema)).unwrap();
    let document: toml::Value = toml::from_str(example_text).unwrap();
    let document = without_dates(document);
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<_> = validator.iter_errors(&document).map(|e| e.to_string()).collect();
    assert_eq!(errors, Vec::<String>::new());
    let mut described = BTreeSet::new();
    schema_keys(&schema, "", &mut described);
    assert_eq!(&described, asked);
}

fn without_dates(value: toml::Value) -> Value {
    match value {
        toml::Value::Datetime(date) => Value::String(date.to_string()),
        toml::Value::Array(values) => values.into_iter().map(without_dates).collect(),
        toml::Value::Table(table) => {
            table.into_iter().map(|(key, value)| (key, without_dates(value))).collect()
        }
        other => serde_json::to_value(other).unwrap(),
    }
}

#[test]
fn the_example_node_is_valid_and_its_schema_in_step() {
    let file = Path::new("node.toml");
    let text = example("node.toml");
    let config = node(&text).unwrap();
    assert_eq!(config.plugins.len(), 2);

    let grant = &config.plugins[1].capabilities["search"];
    assert_eq!(grant.operations, ["notes/find"]);

    let (result, asked) =
        read_tracing(file, &text, |table| NodeConfig::read(file, table, Mode::Pinned));
    result.unwrap();
    agrees("node.schema.json", &text, &asked);
}

#[test]
fn the_example_access_is_valid_and_its_schema_in_step() {
    let text = example("access.toml");
    let (config, asked) = read_tracing(Path::new("access.toml"), &text, AccessConfig::read);
    let config = config.unwrap();
    assert_eq!((config.peers.len(), config.api_keys.len()), (1, 1));
    let calls = Some(CallRate { per_second: 200, burst: 400 });
    let origin_calls = Some(CallRate { per_second: 20, burst: 40 });
    let calls_per_identity = Some(1_024);
    let defaults = AccessLimits {
        calls,
        origin_calls,
        calls_per_identity,
        handshake_timeout: Some(Duration::from_secs(5)),
        idle_timeout: Some(Duration::from_secs(30)),
        bidirectional_streams: Some(1_000),
        unidirectional_streams: Some(100),
        ..AccessLimits::default()
    };
    assert_eq!(config.limits, defaults, "the example shows the defaults");
    agrees("access.schema.json", &text, &asked);
}

#[test]
fn a_key_file_must_be_private_and_hold_a_key() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.key");
    let place = Place::file_only(Path::new("node.toml"));
    let error = |file: &Path| read_key(file, &place).unwrap_err().what;
    assert!(error(&file).contains("cannot be read"));
    assert!(error(folder.path()).contains("not a regular file"));
    write_key(&file, &[7; 32]).unwrap();
    assert_eq!(*read_key(&file, &place).unwrap(), [7; 32]);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o604)).unwrap();
    assert!(error(&file).contains("its mode is 0604"));
    std::fs::write(&file, "07").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(error(&file).contains("does not hold a key"));
}
