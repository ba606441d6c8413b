//! What an operator does with secrets on the command line: a node from nothing,
//! its vault, its API keys, and who it takes its callers for.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use alknet_tests::daemon::{Ended, NodeFolder, Running, built, within};
use alknet_tests::secrets::{PHRASE, add_vault};
use alknet_vault::{CredentialStore, VaultServiceHandle};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Runs a command with this on its standard input.
async fn given(node: &NodeFolder, arguments: &[&str], input: &str) -> Ended {
    let mut command = node.command(arguments);
    command.stdin(Stdio::piped());
    let mut running = Running::spawn(&mut command);
    let mut stdin = running.stdin();
    // A command that refuses its arguments does not read.
    let _unread = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    running.ended().await
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn secrets_come_and_go() {
    let node = NodeFolder::developed();
    add_vault(&node, &[]);
    let added = given(&node, &["vault", "add", "search"], "s3cret\n").await;
    added.text();
    assert!(!format!("{added:?}").contains("s3cret"));
    let again = given(&node, &["vault", "add", "search"], "other").await;
    assert!(again.refused(78).contains("--replace"), "{again:?}");
    given(&node, &["vault", "add", "search", "--replace"], "n3w").await.text();
    given(&node, &["vault", "add", "empty"], "\n").await.refused(64);
    given(&node, &["vault", "add", "pem"], "-----BEGIN\nabc\n-----END\n").await.text();

    let list = node.alknet(["vault", "list", "--json"]).await.json();
    let expected = json!({ "entries": [
        { "name": "pem", "key_version": 2 }, { "name": "search", "key_version": 2 },
    ] });
    assert_eq!(list, expected);
    let table = node.alknet(["vault", "list"]).await;
    assert!(table.text().contains("search") && !table.text().contains("n3w"));

    let rotated = node.alknet(["vault", "rotate"]).await;
    assert!(rotated.stderr.contains("2 entries under key version 3"), "{rotated:?}");
    given(&node, &["vault", "add", "late"], "x").await.text();
    let list = node.alknet(["vault", "list", "--json"]).await.json();
    assert!(list["entries"].as_array().unwrap().iter().all(|entry| entry["key_version"] == 3));
    node.alknet(["vault", "rotate", "7"]).await.text();
    let vault = VaultServiceHandle::new();
    vault.unlock(PHRASE, "").unwrap();
    let store = CredentialStore::load(node.file("credentials.json")).unwrap();
    let open = |name: &str| vault.decrypt(name, &store.entries[name]).unwrap().to_string();
    assert_eq!(open("search"), "n3w");
    assert_eq!(open("pem"), "-----BEGIN\nabc\n-----END", "one line's end is taken off");
    assert_eq!(store.entries["late"].key_version, 7);

    node.alknet(["vault", "check"]).await.text();
    node.alknet(["vault", "remove", "late"]).await.text();
    assert!(node.alknet(["vault", "remove", "late"]).await.refused(78).contains("`late`"));
    let swapped = node.read("credentials.json").replace("\"pem\"", "\"mep\"");
    node.write("credentials.json", &swapped);
    let check = node.alknet(["vault", "check", "--json"]).await;
    check.refused(78);
    let opens: Value = serde_json::from_str(check.stdout.trim()).unwrap();
    assert_eq!(opens["entries"][0], json!({ "name": "mep", "key_version": 7, "opens": false }));
    assert_eq!(opens["entries"][1]["opens"], true);
    node.alknet(["vault", "rotate"]).await.refused(78);
    assert_eq!(node.read("credentials.json"), swapped, "all or nothing");

    let derived = node.alknet(["vault", "derive", "--public", "m/74'/0'/0'/0'"]).await;
    let public = "e78c2766a792f09bfccb51493968ac322283e8d021a30063784d806929762ecc";
    assert_eq!(derived.text().trim(), public);
    node.alknet(["vault", "derive", "--public", "m/74'/0"]).await.refused(64);
    node.write("phrase", "no phrase");
    for command in ["check", "rotate"] {
        node.alknet(["vault", command]).await.refused(69);
    }
}

#[tokio::test]
async fn k72_a_secret_is_no_argument_and_not_in_the_environment() {
    let node = NodeFolder::developed();
    add_vault(&node, &[]);
    node.alknet(["vault", "add", "name", "value"]).await.refused(64);
    node.alknet(["vault", "import", PHRASE]).await.refused(64);
    // Whatever it is called, it is not looked at.
    node.replace("node.toml", "unlock = \"file\"", "unlock = \"prompt\"");
    let mut command = node.command(["vault", "check"]);
    for name in ["ALKNET_PHRASE", "ALKNET_SEED", "ALKNET_VAULT_PHRASE", "ALKNET_MNEMONIC", "PHRASE"]
    {
        command.env(name, PHRASE);
    }
    // A session of its own has no terminal to ask.
    let output = within(detached(&command).output()).await.unwrap();
    assert_eq!(output.status.code(), Some(69), "{output:?}");
}

/// The same command without a terminal.
fn detached(command: &Command) -> Command {
    let command = command.as_std();
    let mut detached = Command::new("setsid");
    detached.arg("--wait").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => detached.env(name, value),
            None => detached.env_remove(name),
        };
    }
    detached.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    detached
}

#[tokio::test]
async fn k70_kill_9_during_add_and_rotate_leaves_a_whole_store() {
    let node = NodeFolder::developed();
    let names: Vec<_> = (0..60).map(|n| format!("entry-{n:02}")).collect();
    let entries: Vec<_> = names.iter().map(|name| (&**name, "value")).collect();
    add_vault(&node, &entries);
    let vault = VaultServiceHandle::new();
    vault.unlock(PHRASE, "").unwrap();
    // How long one takes, so that kills fall on all of it.
    let began = std::time::Instant::now();
    node.alknet(["vault", "rotate"]).await.text();
    let whole = u64::try_from(began.elapsed().as_micros()).unwrap();
    let (mut killed, mut newest, mut added) = (0, 3, 0);
    for round in 0..30u64 {
        let name = format!("added-{round:02}");
        let adding = round % 2 == 0;
        let mut running = match adding {
            true => node.command(["vault", "add", &name]).stdin(Stdio::piped()).spawn().unwrap(),
            false => node.command(["vault", "rotate"]).spawn().unwrap(),
        };
        if let Some(mut stdin) = running.stdin.take() {
            let _unread = stdin.write_all(b"value").await;
        }
        // The moment of the kill, not a wait: any moment will do.
        tokio::time::sleep(Duration::from_micros(round * 7_919_993 % (whole + whole / 4))).await;
        let _gone = running.start_kill();
        killed += usize::from(within(running.wait()).await.unwrap().code().is_none());
        let store = CredentialStore::load(node.file("credentials.json")).unwrap();
        let versions: Vec<_> = store.entries.values().map(|entry| entry.key_version).collect();
        assert!(versions.windows(2).all(|two| two[0] == two[1]), "one version, old or new");
        assert!(versions[0] >= newest, "nothing goes back");
        newest = versions[0];
        assert!(store.entries.len() == 60 + added || store.entries.len() == 61 + added);
        added = store.entries.len() - 60;
        for (name, entry) in &store.entries {
            assert_eq!(vault.decrypt(name, entry).unwrap().as_str(), "value");
        }
    }
    assert!(killed > 0, "no command was ever killed");
    assert!(newest > 3 || added > 0, "no command ever came to its end");
}

#[tokio::test]
async fn k41_a_token_is_printed_once_and_whoami_knows_it() {
    let node = NodeFolder::developed();
    let before = node.read("access.toml");
    let arguments = ["token", "new", "--scopes", "notes:read,notes:write", "--expires", "30d"];
    let made = node.alknet(arguments).await;
    let token = made.text().trim().to_owned();
    assert_eq!((token.len(), &token[..4]), (47, "alk_"));
    assert_eq!(made.stdout.lines().count(), 1);
    let access = node.read("access.toml");
    assert!(access.starts_with(&before), "what was there stays");
    assert!(!access.contains(&token[8..]) && access.contains(&token[..8]), "{access}");
    node.write("token", &token);
    std::fs::set_permissions(node.file("token"), PermissionsExt::from_mode(0o600)).unwrap();
    let list = node.alknet(["token", "list", "--json"]).await.json();
    assert_eq!(list["api_keys"][0]["prefix"], token[..8]);
    assert_eq!(list["api_keys"][0]["expired"], false);
    node.alknet(["token", "new", "--scopes", "a", "--expires", "1s"]).await.text();

    let node = node.start(&[]).await;
    let file = node.file("token");
    let file = file.to_str().unwrap();
    let mine = node.alknet(["whoami", "--json"]).await.json();
    assert_eq!(mine["by"], "key");
    assert_eq!(mine["identity"]["id"], "local");
    assert!(node.read("access.toml").contains(mine["key"].as_str().unwrap()), "{mine}");
    let tokens = node.alknet(["whoami", "--json", "--token-file", file]).await.json();
    let identity =
        json!({ "id": token[..8], "scopes": ["notes:read", "notes:write"], "resources": {} });
    assert_eq!(tokens, json!({ "by": "token", "identity": identity, "key": mine["key"] }));
    let said = node.alknet(["whoami", "--token-file", file]).await;
    assert!(said.text().starts_with(&format!("{}, by token\n", &token[..8])), "{said:?}");
    // With it comes what it may do, and nothing of what the key may.
    node.alknet(["status", "--token-file", file]).await.refused(1);
    let piped = given(&node, &["whoami", "--json", "--token-file", "-"], &token).await;
    assert_eq!(piped.json()["by"], "token");

    node.write("token", &token.replace("alk_", "alk-"));
    assert!(node.alknet(["whoami", "--token-file", file]).await.refused(1).contains("token"));
    std::fs::set_permissions(file, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(node.alknet(["whoami", "--token-file", file]).await.refused(64).contains("0644"));
    std::fs::remove_file(node.file("client.key")).unwrap();
    let stranger = node.alknet(["whoami", "--json"]).await.json();
    assert_eq!(stranger, json!({ "by": "nothing", "identity": null, "key": null }));
    assert!(!node.process().stderr().contains(&token[8..]), "not in the log");
    node.alknet(["token", "revoke", &token[..8]]).await.text();
    node.alknet(["token", "revoke", &token[..8]]).await.refused(64);
}

#[tokio::test]
async fn init_makes_a_node_that_runs() {
    let node = NodeFolder::new();
    let listen = node.listen().to_string();
    let (call, echo) = (built().call.display().to_string(), built().echo.display().to_string());
    let arguments = [
        "init",
        "--import",
        "--unlock",
        "file",
        "--listen",
        &listen,
        "--plugin",
        &call,
        "--plugin",
        &echo,
        "--operator",
        "ada",
    ];
    given(&node, &arguments, "no phrase at all\n").await.refused(64);
    assert!(!node.directory().path().exists(), "nothing is written before the phrase is right");
    let made = given(&node, &arguments, PHRASE).await;
    let public = "e78c2766a792f09bfccb51493968ac322283e8d021a30063784d806929762ecc";
    assert_eq!(made.text().trim(), format!("node key {public}"));
    assert_eq!(mode(node.directory().path()), 0o700);
    for entry in std::fs::read_dir(node.directory().path()).unwrap() {
        let path = entry.unwrap().path();
        let private = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), private, "{}", path.display());
    }
    let again = given(&node, &arguments, PHRASE).await;
    assert!(again.refused(78).contains("there is a node already"), "{again:?}");

    node.alknet(["check"]).await.text();
    let running = Running::spawn(&mut node.command(["run"]));
    running.said("listening on").await;
    let me = node.alknet(["whoami"]).await;
    assert!(me.text().starts_with("ada, by key\n"), "{me:?}");
    let said = node.alknet(["call", "/echo/say", r#"{"text":"hi"}"#]).await;
    assert_eq!(said.json()["text"], "hi");
    // Nobody but root may look into a process with secrets, nor at its core.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().rev().nth(1), Some("0"), "{core}");
    running.signal("TERM").await;
    assert_eq!(running.ended().await.status, Some(0));
}

/// Runs a command on a terminal of its own, and types the phrase that it shows.
const TYPIST: &str = r#"
import os, pty, re, sys
answer, arguments = sys.argv[1], sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(arguments[0], arguments)
seen, asked = "", 0
while True:
    try:
        data = os.read(terminal, 4096)
    except OSError:
        break
    if not data:
        break
    seen += data.decode()
    if re.search(r"passphrase( again| of the vault| \(it is not shown\)): $", seen):
        os.write(terminal, b" open sesame\n")
        seen += "typed"
    if seen.endswith("phrase of the vault: ") and "passphrase of" not in seen:
        os.write(terminal, answer.encode() + b"\n")
        seen += "typed"
    if seen.count("the phrase again") > asked:
        asked = seen.count("the phrase again")
        words = re.findall(r"\d+ ([a-z]+)", seen)
        typed = " ".join(words) if answer == "right" else answer
        os.write(terminal, typed.encode() + b"\n")
print(seen)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

async fn typist(node: &NodeFolder, answer: &str, arguments: &[&str]) -> Ended {
    let mut command = Command::new("python3");
    command.args(["-c", TYPIST, answer]).arg(&built().alknet).arg("--node");
    command.arg(node.directory().path()).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running::spawn(command.kill_on_drop(true)).ended().await
}

#[tokio::test]
async fn a_new_phrase_is_shown_on_the_terminal_and_asked_back() {
    let node = NodeFolder::new();
    let wrong = typist(&node, "wrong", &["vault", "init", "--words", "12"]).await;
    assert_eq!(wrong.status, Some(64), "{wrong:?}");
    assert!(wrong.stdout.contains("nothing was written"), "{wrong:?}");
    assert!(!node.file("credentials.json").exists());

    let right = typist(&node, "right", &["vault", "init"]).await;
    assert_eq!(right.status, Some(0), "{right:?}");
    assert!(right.stdout.contains("  24 "), "{}", right.stdout);
    assert_eq!(mode(&node.file("credentials.json")), 0o600);
    // The phrase is nowhere but on the screen.
    assert_eq!(node.read("credentials.json").trim(), "{}");
    let entries = std::fs::read_dir(node.directory().path()).unwrap();
    let files = entries.filter(|entry| entry.as_ref().unwrap().path().is_file());
    assert_eq!(files.count(), 1, "the phrase is on no disk");
    assert!(typist(&node, "right", &["vault", "init"]).await.stdout.contains("a vault already"));

    // Without a terminal there is nowhere to show it.
    let other = NodeFolder::new();
    let output = within(detached(&other.command(["vault", "init"])).output()).await.unwrap();
    assert_eq!(output.status.code(), Some(64), "{output:?}");
}

/// The vault that a phrase opens with a passphrase, and with no other.
fn with_passphrase(phrase: &str, passphrase: &str) -> String {
    let vault = VaultServiceHandle::new();
    vault.unlock(phrase, passphrase).unwrap();
    let key = vault.derive_ed25519("m/74'/0'/0'/0'").unwrap();
    key.public_key().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_passphrase_stands_on_the_line_below_its_phrase() {
    let node = NodeFolder::developed();
    add_vault(&node, &[]);
    let derived = async |node: &NodeFolder| {
        let derived = node.alknet(["vault", "derive", "--public", "m/74'/0'/0'/0'"]).await;
        derived.text().trim().to_owned()
    };
    assert_eq!(derived(&node).await, with_passphrase(PHRASE, ""));
    node.replace("node.toml", "[vault]", "[vault]\npassphrase = true");
    for command in [&["check"][..], &["run"], &["vault", "check"]] {
        let refused = node.alknet(command).await;
        assert!(refused.refused(69).contains("does not hold a passphrase"), "{refused:?}");
    }
    // Blanks are its own, the line's end is not.
    for end in ["", "\n", "\r\n", "\nnotes\n"] {
        node.write("phrase", &format!("{PHRASE}\n open sesame {end}"));
        assert_eq!(derived(&node).await, with_passphrase(PHRASE, " open sesame "), "{end:?}");
    }
    node.alknet(["check"]).await.text();

    // A new vault from both lines, which is opened by what it has written.
    std::fs::remove_file(node.file("phrase")).unwrap();
    std::fs::remove_file(node.file("credentials.json")).unwrap();
    let without = given(&node, &["vault", "import"], PHRASE).await;
    assert!(without.refused(64).contains("no passphrase on the line below"), "{without:?}");
    given(&node, &["vault", "import"], &format!("{PHRASE}\nopen sesame\n")).await.text();
    assert_eq!(node.read("phrase"), format!("{PHRASE}\nopen sesame\n"));
    assert_eq!(derived(&node).await, with_passphrase(PHRASE, "open sesame"));
}

#[tokio::test]
async fn a_new_passphrase_is_asked_for_twice_and_written_where_the_phrase_is() {
    let node = NodeFolder::new();
    let made = typist(&node, "right", &["init", "--with-passphrase", "--unlock", "file"]).await;
    assert_eq!(made.status, Some(0), "{made:?}");
    let both = node.read("phrase");
    let (phrase, passphrase) = both.trim_end_matches('\n').split_once('\n').unwrap();
    assert_eq!(passphrase, " open sesame");
    assert!(made.stdout.contains(&with_passphrase(phrase, passphrase)), "{made:?}");
    node.alknet(["check"]).await.text();
    // Asked for on the terminal, it opens the same vault.
    node.replace("node.toml", "unlock = \"file\"\nfile = \"phrase\"", "unlock = \"prompt\"");
    let asked = typist(&node, phrase, &["vault", "derive", "--public", "m/74'/0'/0'/0'"]).await;
    assert!(asked.stdout.contains(&with_passphrase(phrase, passphrase)), "{asked:?}");
}
