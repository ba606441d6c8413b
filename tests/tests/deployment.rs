//! What is wrong with a deployment is said before anything is bound, all of it,
//! and in the same words by `alknet check` and by a start.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use alknet_tests::daemon::{Ended, NodeFolder, Running, built, within};
use serde_json::Value;

/// A problem: its file, line and sentence.
#[derive(Debug, PartialEq)]
struct Found {
    file: String,
    line: usize,
    what: String,
}

fn problems(ended: &Ended) -> Vec<Found> {
    let text = ended.refused(78);
    // The log of a start stands before it.
    let line = text.lines().find(|line| line.starts_with("{\"error\"")).expect(text);
    let error: Value = serde_json::from_str(line).unwrap();
    let problems = error["error"]["problems"].as_array().expect(line);
    let found = problems.iter().map(|problem| {
        assert_ne!(problem["remedy"].as_str().unwrap(), "", "{problem}");
        Found {
            file: PathBuf::from(problem["file"].as_str().unwrap())
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned(),
            line: problem["line"].as_u64().unwrap_or(0).try_into().unwrap(),
            what: problem["what"].as_str().unwrap().to_owned(),
        }
    });
    found.collect()
}

/// What both a check and a start say of the node's files.
async fn refused(node: &NodeFolder) -> Vec<Found> {
    let check = problems(&node.alknet(["check", "--json"]).await);
    let start = problems(&node.alknet(["run", "--json"]).await);
    assert_eq!(check, start, "k43: the same verdict");
    // For people there is the place, too.
    let text = node.alknet(["check"]).await;
    for found in &check {
        let place = format!("{}:{}:", found.file, found.line);
        assert!(text.refused(78).contains(&place), "no {place} in {}", text.stderr);
    }
    check
}

/// What is said of a node that is in order but for one change, which has to be
/// one thing, in the line of node.toml that begins with `key`.
async fn one_problem(change: impl FnOnce(&NodeFolder), key: &str) -> String {
    let node = NodeFolder::developed();
    change(&node);
    let mut found = refused(&node).await;
    assert_eq!(found.len(), 1, "{found:?}");
    let found = found.remove(0);
    assert_eq!(found.file, "node.toml");
    let text = node.read("node.toml");
    let line = text.lines().nth(found.line - 1).unwrap_or_default();
    assert!(line.starts_with(key), "line {} is `{line}`: {}", found.line, found.what);
    found.what
}

/// `echo`'s stanza is the last one.
fn add(text: &str) -> impl FnOnce(&NodeFolder) + '_ {
    move |node| node.append("node.toml", text)
}

/// Gives `echo` a file of the test's own.
fn own_echo(node: &NodeFolder) -> PathBuf {
    let file = node.file("echo.so");
    std::fs::copy(&built().echo, &file).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    let stands = built().echo.canonicalize().unwrap();
    node.replace("node.toml", stands.to_str().unwrap(), file.to_str().unwrap());
    file
}

fn last_digest(node: &NodeFolder) -> String {
    let text = node.read("node.toml");
    let line = text.lines().rfind(|line| line.starts_with("sha256")).unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}

fn wrong_digest(node: &NodeFolder) {
    node.replace("node.toml", &last_digest(node), &"5a".repeat(32));
}

#[tokio::test]
async fn k43_a_check_binds_nothing() {
    let node = NodeFolder::developed();
    let _taken = UdpSocket::bind(node.listen()).unwrap();
    assert!(node.alknet(["check"]).await.text().contains("no problems"));
    let start = node.alknet(["run"]).await;
    assert!(start.refused(69).contains(&node.listen().to_string()), "{start:?}");
}

#[tokio::test]
async fn k42_a_wrong_digest_names_both() {
    let what = one_problem(wrong_digest, "sha256").await;
    assert!(what.contains("plugin `echo`") && what.contains(&"5a".repeat(32)), "{what}");
    // It is what somebody who swaps a file meets, whatever the node can do without.
    let change = |node: &NodeFolder| {
        wrong_digest(node);
        node.append("node.toml", "required = false");
    };
    one_problem(change, "sha256").await;
}

#[tokio::test]
async fn k04_an_alpn_that_the_plugin_does_not_provide() {
    let what = one_problem(add(r#"alpn = ["alknet/echo", "h3"]"#), "alpn").await;
    assert!(what.contains("`echo` does not provide ALPN `h3`"), "{what}");
}

#[tokio::test]
async fn k01_c31_two_plugins_that_provide_the_same() {
    let node = NodeFolder::developed();
    let text = node.read("node.toml");
    let echo = &text[text.rfind("[[plugin]]").unwrap()..];
    let second = echo.replace("name = \"echo\"", "name = \"second\"");
    node.append("node.toml", &second);
    let found = refused(&node).await;
    let about = |name: &str| found.iter().filter(|one| one.what.contains(name)).count();
    assert_eq!(about("ALPN `alknet/echo`"), 1, "{found:?}");
    for operation in ["echo/say", "echo/reverse", "echo/fail"] {
        assert_eq!(about(operation), 1, "{operation}: {found:?}");
    }
    assert_eq!(found.len(), 4, "{found:?}");
    for one in &found {
        let names_both = one.what.contains("`echo`") && one.what.contains("`second`");
        assert!(names_both, "{one:?}");
    }
}

#[tokio::test]
async fn k42_a_configuration_that_the_plugin_refuses() {
    let change = |node: &NodeFolder| {
        let config = "gateway = true\n[plugin.config]\nmax_frame_bytes = 65536\ndrain_ms = -1\n";
        node.replace("node.toml", "gateway = true\n", config);
    };
    let what = one_problem(change, "drain_ms").await;
    assert!(what.contains("plugin `call` refuses its configuration"), "{what}");
}

#[tokio::test]
async fn what_is_not_granted_is_refused() {
    let change = |node: &NodeFolder| node.replace("node.toml", "gateway = true\n", "");
    let what = one_problem(change, "name = \"call\"").await;
    assert!(what.contains("on behalf of its peers"), "{what}");
    let what = one_problem(add(r#"hide = ["/echo/shout"]"#), "hide").await;
    assert!(what.contains("no operation `echo/shout`"), "{what}");
    let authority = r#"authority = { label = "echo", scopes = ["promote"] }"#;
    let what = one_problem(add(authority), "authority").await;
    assert!(what.contains("promote"), "{what}");
}

#[tokio::test]
async fn k45_files_that_others_could_change() {
    let writable = |node: &NodeFolder| {
        let file = own_echo(node);
        std::fs::set_permissions(file, PermissionsExt::from_mode(0o666)).unwrap();
        node.append("node.toml", "required = false");
    };
    let what = one_problem(writable, "artifact").await;
    assert!(what.contains("chmod go-w"), "{what}");
    let linked = |node: &NodeFolder| {
        let file = own_echo(node);
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(&built().echo, file).unwrap();
    };
    let what = one_problem(linked, "artifact").await;
    assert!(what.contains("symbolic link"), "{what}");
}

#[tokio::test]
async fn k42_everything_at_once() {
    let node = NodeFolder::developed();
    wrong_digest(&node);
    node.append("node.toml", "alpn = [\"alknet/nothing\"]\nlimts = {}\n");
    node.replace("node.toml", "gateway = true\n", "");
    node.append("access.toml", "[[peer]]\npeer_id = \"local\"\nfingerprints = [\"x\"]\n");
    node.append("known-nodes", "alone\n");
    let found = refused(&node).await;
    let files: Vec<_> = found.iter().map(|one| one.file.as_str()).collect();
    for file in ["access.toml", "known-nodes", "node.toml"] {
        assert!(files.contains(&file), "{found:?}");
    }
    assert!(found.len() >= 4, "{found:?}");
    assert!(found.iter().any(|one| one.what.contains("limts")), "{found:?}");
    assert!(found.iter().all(|one| one.line > 0), "{found:?}");
}

#[tokio::test]
async fn k42_many_mistakes_are_found_in_one_run() {
    let node = NodeFolder::developed_with(&[
        ("call", &built().call),
        ("echo", &built().echo),
        ("conformance", &built().conformance),
    ]);
    alknet_tests::secrets::add_vault(&node, &[("key", "s3cret")]);
    let text = node.read("node.toml");
    let echo = &text[text.find("name = \"echo\"").unwrap()..];
    let echo = &echo.split("sha256 = \"").nth(1).unwrap()[..64];
    node.replace("node.toml", echo, &"5a".repeat(32));
    node.replace("node.toml", "gateway = true\n", "gateway = true\nreach = [\"/no/where\"]\n");
    node.append(
        "node.toml",
        "limts = {}\n\
         capabilities.nonsense = { entry = \"key\", kind = \"bearer\" }\n\
         [[plugin]]\nname = \"gone\"\nartifact = \"gone.so\"\nsha256 = \"00\"\n\
         [[plugin]]\nname = \"bare\"\nartifact = \"bare.so\"\n\
         [[plugin]]\nname = \"echo\"\nartifact = \"other.so\"\nkind = \"jar\"\n",
    );
    node.replace("node.toml", "key = \"node.key\"", "key = \"lost.key\"");
    node.append(
        "access.toml",
        "[[peer]]\npeer_id = \"local\"\nfingerprints = [\"x\"]\nscope = []\n",
    );
    node.append("known-nodes", "alone\n");
    let found = refused(&node).await;
    let all = format!("{found:#?}");
    for expected in [
        "`limts`",
        "a SHA-256 digest is 64",
        "plugin `bare` is not pinned",
        "two plugins are called `echo`",
        "`jar` is not a choice",
        "lost.key",
        "plugin `echo`: ",
        "gone.so: cannot read the plugin",
        "bare.so: cannot read the plugin",
        "other.so: cannot read the plugin",
        "does not ask for capability `nonsense`",
        "reaches `no/where`, which nothing serves",
        "`scope`",
    ] {
        let count = found.iter().filter(|one| one.what.contains(expected)).count();
        assert!(count > 0, "no {expected}: {all}");
    }
    let in_file = |name: &str| found.iter().filter(|one| one.file == name).count();
    assert!(in_file("access.toml") >= 2 && in_file("known-nodes") == 1, "{all}");
    // Nothing is said twice, and what only follows from something else is not said.
    let mut said: Vec<_> = found.iter().map(|one| (&one.file, one.line, &one.what)).collect();
    said.sort_unstable();
    let count = said.len();
    said.dedup();
    assert_eq!(said.len(), count, "{all}");
    assert!(!all.contains("no `sha256` is pinned"), "{all}");
    let text = node.alknet(["check"]).await;
    assert!(text.refused(78).contains("note: plugin `call` reaches"), "{}", text.stderr);
    assert!(text.stderr.trim_end().ends_with(", 1 note"), "{}", text.stderr);
}

#[tokio::test]
async fn k42_plugins_are_looked_at_although_another_is_wrong() {
    let node = NodeFolder::developed();
    wrong_digest(&node);
    node.replace("node.toml", "gateway = true\n", "");
    let found = refused(&node).await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].what.contains("`call`") && found[1].what.contains("`echo`"), "{found:?}");
}

#[tokio::test]
async fn k46_a_node_may_start_without_what_it_does_not_require() {
    let node = NodeFolder::developed();
    let file = own_echo(&node);
    std::fs::remove_file(file).unwrap();
    let missing = refused(&node).await;
    assert!(missing[0].what.contains("cannot read the plugin"), "{missing:?}");

    node.append("node.toml", "required = false\nalpn = [\"alknet/echo\"]\n");
    let check = node.alknet(["check"]).await;
    assert!(check.text().contains("no problems"), "{check:?}");
    let node = node.start(&[]).await;
    assert!(node.process().stderr().contains("echo is missing"), "{}", node.process().stderr());
    let status = node.alknet(["status"]).await;
    assert!(status.text().contains("degraded"), "{status:?}");
    let status = node.alknet(["status", "--json"]).await.json();
    assert_eq!(status["degraded"], true);
    assert!(status["plugins"][1]["failure"].as_str().unwrap().contains("cannot read"), "{status}");
    // The protocol is there, and its plugin is not.
    let (connection, _dialer) = node.connect("alknet/echo").await;
    assert_eq!(within(connection.closed()).await.code, Some(6));
}

#[tokio::test]
async fn a_node_in_service_serves_without_dev() {
    let node = NodeFolder::developed();
    node.replace("node.toml", "development = true\n", "");
    let running = Running::spawn(&mut node.command(["run"]));
    running.said("listening on").await;
    let said = node.alknet(["call", "/echo/say", r#"{"text":"hi"}"#]).await;
    assert_eq!(said.json()["text"], "hi");
    running.signal("TERM").await;
    assert_eq!(running.ended().await.status, Some(0));
}
