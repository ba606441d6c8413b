//! Secrets in a node: the vault unlocks at start or the node does not start, and
//! what it lends reaches those it is lent to, and nobody else.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use alknet_tests::artifact;
use alknet_tests::daemon::{Daemon, NodeFolder, Running, built};
use alknet_tests::secrets::{PHRASE, add_vault};
use serde_json::{Value, json};

/// A node with the conformance plugin as a file of each kind.
async fn with_conformance(file: &Path, grant: &str) -> Daemon {
    let node = NodeFolder::developed();
    add_vault(&node, &[("one", "s3cret-one")]);
    node.append(
        "node.toml",
        &format!(
            "[[plugin]]\nname = \"conformance\"\nartifact = \"{}\"\n\
             capabilities = {{ secret = {{ entry = \"one\", kind = \"bytes\", reveal = true{grant} }} }}\n",
            file.display()
        ),
    );
    node.start(&[]).await
}

async fn lent(node: &Daemon) -> Value {
    let client = node.client().await;
    client.ask("/conformance/capability", json!("secret")).await.unwrap()
}

#[tokio::test]
async fn k74_an_operation_sees_what_it_is_lent() {
    for file in [
        artifact::native("alknet-plugin-conformance"),
        artifact::component("alknet-plugin-conformance"),
    ] {
        let node = with_conformance(&file, "").await;
        assert_eq!(lent(&node).await, json!({ "kind": "bytes", "bytes": 10 }));
        let client = node.client().await;
        let other = client.ask("/conformance/capability", json!("one")).await.unwrap();
        assert_eq!(other, Value::Null, "its name in the vault is nobody's business");
        drop(node);

        let other = ", operations = [\"/conformance/echo\"]";
        let node = with_conformance(&file, other).await;
        assert_eq!(lent(&node).await, Value::Null, "lent to another operation");
        drop(node);

        let own = ", operations = [\"/conformance/capability\"]";
        let node = with_conformance(&file, own).await;
        assert_eq!(lent(&node).await["bytes"], 10);
    }
}

#[tokio::test]
async fn k42_what_the_vault_cannot_lend_is_told_with_its_line() {
    let node = NodeFolder::developed();
    add_vault(&node, &[("one", "no colon"), ("moved", "x")]);
    // An entry under another's name does not open.
    let store = node.read("credentials.json").replace("\"moved\"", "\"moved-here\"");
    node.write("credentials.json", &store);
    node.append(
        "node.toml",
        "[plugin.capabilities]\n\
         a = { entry = \"one\", kind = \"basic\" }\n\
         b = { entry = \"missing\", kind = \"bearer\" }\n\
         c = { entry = \"moved-here\", kind = \"bearer\" }\n\
         d = { path = \"m/1\", kind = \"sign\" }\n",
    );
    let check = node.alknet(["check"]).await;
    let said = check.refused(78);
    for what in [
        "the vault entry `one` does not fit its kind: the entry is not `user:password`",
        "the vault has no entry `missing`",
        "alknet vault add missing",
        "the vault entry `moved-here` does not open",
        "every Ed25519 index must be hardened",
        "4 problems",
    ] {
        assert!(said.contains(what), "no `{what}` in {said}");
    }
    assert!(!said.contains("no colon"), "{said}");
}

#[tokio::test]
async fn k21_a_vault_that_does_not_unlock_is_69() {
    let node = NodeFolder::developed();
    add_vault(&node, &[]);
    let refused = async |node: &NodeFolder, why: &str| {
        for command in ["check", "run"] {
            let ended = node.alknet([command]).await;
            let said = ended.refused(69);
            assert!(said.contains("the vault does not unlock") && said.contains(why), "{said}");
            assert!(!said.contains("abandon"), "{said}");
        }
    };
    node.alknet(["check"]).await.text();

    node.write("phrase", "abandon abandon about");
    refused(&node, "12, 15, 18, 21 or 24 words").await;
    node.write("phrase", &PHRASE.replace("about", "abandon"));
    refused(&node, "checksum").await;
    node.write("phrase", &PHRASE.replace("about", "abalone"));
    refused(&node, "not in the BIP39 English list").await;
    std::fs::remove_file(node.file("phrase")).unwrap();
    refused(&node, "cannot read the phrase").await;

    // Nobody to ask, and no credentials.
    node.replace("node.toml", "unlock = \"file\"", "unlock = \"credential\"");
    refused(&node, "CREDENTIALS_DIRECTORY is not set").await;
    let descriptor = "unlock = \"descriptor\"\ndescriptor = 99";
    node.replace("node.toml", "unlock = \"credential\"", descriptor);
    refused(&node, "file descriptor 99 cannot be read").await;
    // What is wrong with the files weighs more: it is not mended by trying again.
    node.append("node.toml", "nonsense = 1\n");
    node.alknet(["check"]).await.refused(78);
}

#[tokio::test]
async fn k71_a_phrase_or_store_that_others_can_read_is_refused() {
    let node = NodeFolder::developed();
    add_vault(&node, &[("one", "s3cret")]);
    node.append("node.toml", "capabilities = { a = { entry = \"one\", kind = \"bearer\" } }\n");
    let wider = |name: &str, mode| {
        std::fs::set_permissions(node.file(name), PermissionsExt::from_mode(mode)).unwrap();
    };
    wider("phrase", 0o640);
    let ended = node.alknet(["check"]).await;
    assert!(ended.refused(69).contains("0640"), "{ended:?}");
    wider("phrase", 0o600);
    wider("credentials.json", 0o604);
    let ended = node.alknet(["check"]).await;
    assert!(ended.refused(78).contains("0604"), "{ended:?}");
}

#[tokio::test]
async fn a_phrase_comes_from_a_descriptor_or_a_credential() {
    let node = NodeFolder::developed();
    add_vault(&node, &[]);
    let phrase = node.file("given");
    std::fs::rename(node.file("phrase"), &phrase).unwrap();
    let alknet = built().alknet.display();
    let folder = node.directory();
    let check = format!("{alknet} --node {} check", folder.path().display());
    let shell = async |script: String| {
        let mut shell = tokio::process::Command::new("sh");
        shell.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped());
        Running::spawn(shell.stderr(Stdio::piped()).kill_on_drop(true)).ended().await
    };

    node.replace("node.toml", "unlock = \"file\"", "unlock = \"descriptor\"");
    let given = phrase.display();
    // From a file, and from a pipe, which is gone once it is read.
    shell(format!("{check} 3<{given}")).await.text();
    node.replace("node.toml", "file = \"phrase\"", "descriptor = 0");
    shell(format!("cat {given} | {check}")).await.text();

    node.replace("node.toml", "unlock = \"descriptor\"", "unlock = \"credential\"");
    std::fs::rename(&phrase, node.file("alknet-phrase")).unwrap();
    let directory = folder.path().display();
    shell(format!("CREDENTIALS_DIRECTORY={directory} {check}")).await.text();
}

#[tokio::test]
async fn the_vault_gives_the_node_its_key() {
    let node = NodeFolder::developed();
    add_vault(&node, &[]);
    // m/74'/0'/0'/0' of the phrase, by Python, from the two specifications.
    let public = "e78c2766a792f09bfccb51493968ac322283e8d021a30063784d806929762ecc";
    node.replace("node.toml", "key = \"node.key\"", "vault = \"node\"");
    let address = node.address();
    node.replace("known-nodes", &hex(&address.key().unwrap().0), public);
    let node = node.start(&[]).await;
    assert!(node.process().stdout().contains(public), "{}", node.process().stdout());
    let status = node.alknet(["status", "--json"]).await.json();
    assert_eq!(status["node_key"], public);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn k73_no_log_status_or_error_holds_a_secret() {
    let node = NodeFolder::developed();
    let pem = "s3cret-pem";
    add_vault(&node, &[("bytes", "s3cret-bytes"), ("bearer", "s3cret-bearer"), ("pem", pem)]);
    let file = artifact::component("alknet-plugin-conformance");
    node.replace("node.toml", "key = \"node.key\"", "vault = \"node\"");
    let public = "e78c2766a792f09bfccb51493968ac322283e8d021a30063784d806929762ecc";
    let address = node.address();
    node.replace("known-nodes", &hex(&address.key().unwrap().0), public);
    node.append(
        "node.toml",
        &format!(
            "[observe]\nlog = \"info,alknet=trace,quinn=debug,rustls=debug\"\naudit = {{}}\n\
             [[plugin]]\nname = \"conformance\"\nartifact = \"{}\"\n\
             [plugin.capabilities]\n\
             secret = {{ entry = \"bytes\", kind = \"bytes\", reveal = true }}\n",
            file.display()
        ),
    );
    let token = node.alknet(["token", "new", "--scopes", "a"]).await.text().trim().to_owned();
    node.write("token", &token);
    std::fs::set_permissions(node.file("token"), PermissionsExt::from_mode(0o600)).unwrap();
    let node = node.start(&[]).await;
    let client = node.client().await;
    let mut all = lent(&node).await.to_string();
    for _panic in 0..2 {
        all += &format!("{:?}", client.ask("/conformance/panic", json!(null)).await);
    }
    let file = node.file("token");
    for arguments in [
        &["whoami", "--token-file", file.to_str().unwrap()][..],
        &["status"],
        &["status", "--json"],
        &["plugin", "list", "--json"],
        &["check", "--json"],
        &["vault", "check", "--json"],
        &["vault", "list", "--json"],
        &["token", "list", "--json"],
        &["ops", "--json"],
    ] {
        all += &format!("{:?}", node.alknet(arguments).await);
    }
    // A grant that does not fit is told without what it holds.
    node.append("node.toml", "secret2 = { entry = \"pem\", kind = \"tls-identity\" }\n");
    all += &format!("{:?}", node.alknet(["check"]).await);
    all += &(node.process().stdout() + &node.process().stderr());
    assert!(all.contains("DEBUG") && all.contains("key_version"), "it was looked at");
    let vault = alknet_vault::VaultServiceHandle::new();
    vault.unlock(PHRASE, "").unwrap();
    let mut secrets = vec!["s3cret".to_owned(), "abandon abandon".into(), token[8..].to_owned()];
    for path in ["m/74'/0'/0'/0'", "m/74'/2'/0'/0'", "m/74'/3'/0'/0'"] {
        secrets.push(hex(&*vault.derive_ed25519(path).unwrap().expose_secret()));
    }
    secrets.push(node.read("client.key").trim().to_owned());
    for secret in secrets {
        assert!(!all.contains(&secret), "{secret} is shown");
    }
}
