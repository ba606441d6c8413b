//! Secrets in a node: the vault unlocks at start or the node does not start, and
//! what it lends reaches those it is lent to, and nobody else.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use alknet_tests::artifact;
use alknet_tests::daemon::{Daemon, Ended, NodeFolder, Running, built};
use alknet_tests::secrets::{PHRASE, add_vault, use_the_vaults_key};
use alknet_vault::VaultServiceHandle;
use alknet_vault::path::SIGNING;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

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
    refused(&node, "file descriptor 99 is not open").await;
    // Nobody gave it one of these; it opens some itself before it looks. What a test's
    // own starter has left open is closed.
    let (alknet, folder) = (built().alknet.display(), node.directory());
    let check = format!("{alknet} --node {} check", folder.path().display());
    let closed = (3..=9).map(|number| format!("{number}<&- ")).collect::<String>();
    let (mut own, mut before) = (0, 99);
    for number in 3..=9 {
        let named = |number| format!("descriptor = {number}");
        node.replace("node.toml", &named(before), &named(number));
        before = number;
        let ended = shell(format!("{check} {closed}")).await;
        let said = ended.refused(69);
        let is_own = said.contains(&format!("file descriptor {number} is one of the node's own"));
        assert!(is_own || said.contains("is not open"), "{said}");
        own += usize::from(is_own);
    }
    assert!(own > 0, "no file of the node's own was among them");
    for number in [0, 1, 2] {
        let before = format!("descriptor = {}", if number == 0 { 9 } else { number - 1 });
        node.replace("node.toml", &before, &format!("descriptor = {number}"));
        let ended = node.alknet(["check"]).await;
        assert!(ended.refused(78).contains("is the node's own input, output or log"), "{ended:?}");
    }
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

async fn shell(script: String) -> Ended {
    let mut shell = tokio::process::Command::new("sh");
    shell.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped());
    Running::spawn(shell.stderr(Stdio::piped()).kill_on_drop(true)).ended().await
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

    node.replace("node.toml", "unlock = \"file\"", "unlock = \"descriptor\"");
    let given = phrase.display();
    // From a file, and from a pipe, which is gone once it is read.
    shell(format!("{check} 3<{given}")).await.text();
    shell(format!("cat {given} | {check} 3<&0")).await.text();
    node.replace("node.toml", "file = \"phrase\"", "descriptor = 7");
    shell(format!("{check} 7<{given}")).await.text();
    // Nothing comes out of what is written to.
    let written = shell(format!("{check} 7>>{given}")).await;
    assert!(written.refused(69).contains("open for writing alone"), "{written:?}");
    // The kernel keeps a confined node from all that it does not name.
    node.append("node.toml", "[sandbox]\nfiles = true\n");
    shell(format!("{check} 7<{given}")).await.text();
    shell(format!("cat {given} | {check} 7<&0")).await.text();

    node.replace("node.toml", "unlock = \"descriptor\"", "unlock = \"credential\"");
    std::fs::rename(&phrase, node.file("alknet-phrase")).unwrap();
    let directory = folder.path().display();
    shell(format!("CREDENTIALS_DIRECTORY={directory} {check}")).await.text();
}

#[tokio::test]
async fn the_vault_gives_the_node_its_key() {
    let node = NodeFolder::developed();
    add_vault(&node, &[]);
    let public = use_the_vaults_key(&node);
    let node = node.start(&[]).await;
    assert!(node.process().stdout().contains(public), "{}", node.process().stdout());
    let status = node.alknet(["status", "--json"]).await.json();
    assert_eq!(status["node_key"], public);
}

fn vault() -> VaultServiceHandle {
    let vault = VaultServiceHandle::new();
    vault.unlock(PHRASE, "").unwrap();
    vault
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A server that answers one request a connection, and its origin and requests.
async fn service() -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let (seen, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"question") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "cut off");
            }
            let request = String::from_utf8(request).unwrap();
            let path = request.split(' ').nth(1).unwrap();
            let (head, body) = match path {
                "/away" => ("302 Found\r\nlocation: /stolen\r\ncontent-length: 0", Vec::new()),
                "/announced" => ("200 OK\r\ncontent-length: 8388609", Vec::new()),
                "/endless" => ("200 OK", vec![b'x'; 9 << 20]),
                "/broken" => ("200 OK\r\ncontent-length: 9", vec![b'x'; 1]),
                _ => ("200 OK\r\ncontent-type: text/plain\r\ncontent-length: 6", b"answer".into()),
            };
            seen.send(request).unwrap();
            let head = format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n");
            // Who asked may have seen enough.
            let _gone = stream.write_all(&[head.as_bytes(), &body].concat()).await;
        }
    });
    (origin, requests)
}

#[tokio::test]
async fn k75_a_plugin_signs_and_sends_what_it_never_sees() {
    for file in [
        artifact::component("alknet-plugin-conformance"),
        artifact::native("alknet-plugin-conformance"),
    ] {
        let is_component = file.extension().unwrap() == "wasm";
        let (origin, mut requests) = service().await;
        let dead = format!("http://{}", alknet_tests::daemon::reserve_tcp());
        let node = NodeFolder::developed();
        add_vault(&node, &[("search", "s3cret-bearer"), ("shown", "s3cret-shown")]);
        node.append(
            "node.toml",
            &format!(
                "[[plugin]]\nname = \"conformance\"\nartifact = \"{}\"\n\
                 outbound = [\"{origin}\", \"{dead}\"]\n[plugin.capabilities]\n\
                 search = {{ entry = \"search\", kind = \"bearer\" }}\n\
                 secret = {{ entry = \"shown\", kind = \"bytes\", reveal = true }}\n\
                 key = {{ path = \"{SIGNING}\", kind = \"sign\" }}\n",
                file.display()
            ),
        );
        let node = node.start(&[]).await;
        let client = node.client().await;
        let signature = client.ask("/conformance/sign", json!(["key", "hello"])).await.unwrap();
        let signature: Vec<u8> = serde_json::from_value(signature).unwrap();
        let public: [u8; 32] =
            vault().derive_ed25519(SIGNING).unwrap().public_key().try_into().unwrap();
        let signature = ed25519_dalek::Signature::from_slice(&signature).unwrap();
        let public = ed25519_dalek::VerifyingKey::from_bytes(&public).unwrap();
        public.verify_strict(b"hello", &signature).unwrap();

        let send = async |capability: &str, url: Option<String>, find: &str| {
            let masked: Vec<u8> = find.bytes().map(|byte| byte + 1).collect();
            let input = json!({ "capability": capability, "url": url, "masked": masked });
            client.ask("/conformance/send", input).await.unwrap()
        };
        // Who sees a secret has it in memory, and is found to.
        let seen = send("secret", None, "s3cret-shown").await;
        assert_eq!(seen["shown"], true);
        assert_eq!(seen["holds"], if is_component { json!(true) } else { Value::Null });
        // Who sends one has not.
        for secret in ["s3cret-bearer", "Bearer s3"] {
            let sent = send("search", Some(format!("{origin}/ask")), secret).await;
            let answer = json!({ "status": 200, "kind": "text/plain", "body": "answer" });
            assert_eq!(sent["answer"], answer);
            assert_eq!(sent["shown"], false);
            assert_eq!(sent["holds"], if is_component { json!(false) } else { Value::Null });
            let request = requests.recv().await.unwrap();
            assert!(request.starts_with("POST /ask HTTP/1.1\r\n"), "{request}");
            let authorization: Vec<_> =
                request.lines().filter(|line| line.starts_with("authorization")).collect();
            assert_eq!(authorization, ["authorization: Bearer s3cret-bearer"], "and not its own");
        }

        let refused = async |capability: &str, url: String| {
            let error = send(capability, Some(url), "s3").await["answer"]["error"].clone();
            (error["code"].as_str().unwrap().to_owned(), error["retryable"] == true)
        };
        // A redirect is handed back, and nobody goes where it points.
        let away = send("search", Some(format!("{origin}/away")), "s3").await;
        assert_eq!(away["answer"]["status"], 302);
        for path in ["/announced", "/endless"] {
            let (code, _) = refused("search", format!("{origin}{path}")).await;
            assert_eq!(code, "RESOURCE_EXHAUSTED", "{path}");
        }
        let broken = refused("search", format!("{origin}/broken")).await;
        assert_eq!(broken, ("INTERNAL".to_owned(), true));
        let lost = refused("search", dead).await;
        assert_eq!(lost, ("INTERNAL".to_owned(), true));
        let elsewhere = [&origin.replace("127.0.0.1", "localhost"), "https://example.org/"];
        for url in elsewhere {
            assert_eq!(refused("search", url.into()).await, ("FORBIDDEN".to_owned(), false));
        }
        for (capability, url) in [("search", "nonsense"), ("key", &*origin), ("secret", &origin)] {
            let (code, _) = refused(capability, url.into()).await;
            assert_eq!(code, "INVALID_INPUT", "{capability} {url}");
        }
        requests.close();
        let mut paths = Vec::new();
        while let Some(request) = requests.recv().await {
            paths.push(request.split(' ').nth(1).unwrap().to_owned());
        }
        assert_eq!(paths, ["/away", "/announced", "/endless", "/broken"]);
        let all = node.process().stdout() + &node.process().stderr();
        assert!(all.contains("sent with Capability(Bearer, [REDACTED])"), "{all}");
        assert!(!all.contains("s3cret"), "{all}");
    }
}

/// What a node shows of itself to whoever measures it.
async fn metrics(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn k73_no_log_status_metric_audit_or_error_holds_a_secret() {
    let node = NodeFolder::developed();
    let pem = "s3cret-pem";
    add_vault(&node, &[("bytes", "s3cret-bytes"), ("bearer", "s3cret-bearer"), ("pem", pem)]);
    let shown = alknet_tests::daemon::reserve_tcp();
    let (origin, mut requests) = service().await;
    let file = artifact::component("alknet-plugin-conformance");
    use_the_vaults_key(&node);
    node.append(
        "node.toml",
        &format!(
            "[observe]\nlog = \"trace,wasmtime=info,cranelift=info\"\n\
             metrics = \"{shown}\"\n[observe.audit]\nwhat = \"all\"\n\
             [[plugin]]\nname = \"conformance\"\nartifact = \"{}\"\noutbound = [\"{origin}\"]\n\
             [plugin.capabilities]\n\
             search = {{ entry = \"bearer\", kind = \"bearer\" }}\n\
             secret = {{ entry = \"bytes\", kind = \"bytes\", reveal = true }}\n\
             key = {{ path = \"{SIGNING}\", kind = \"sign\" }}\n",
            file.display()
        ),
    );
    let token = node.alknet(["token", "new", "--scopes", "a"]).await.text().trim().to_owned();
    node.write("token", &token);
    std::fs::set_permissions(node.file("token"), PermissionsExt::from_mode(0o600)).unwrap();
    let node = node.start(&[]).await;
    let client = node.client().await;
    let mut all = lent(&node).await.to_string();
    client.ask("/conformance/sign", json!(["key", "hello"])).await.unwrap();
    for url in [&*origin, "https://example.org/"] {
        let send = json!({ "capability": "search", "url": url, "masked": [0] });
        all += &client.ask("/conformance/send", send).await.unwrap().to_string();
    }
    assert!(requests.recv().await.unwrap().contains("Bearer s3cret-bearer"));
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
    all += &metrics(shown).await;
    all += &node.read("state/audit.jsonl");
    // A grant that does not fit is told without what it holds.
    node.append("node.toml", "secret2 = { entry = \"pem\", kind = \"tls-identity\" }\n");
    all += &format!("{:?}", node.alknet(["check"]).await);
    all += &(node.process().stdout() + &node.process().stderr());
    let seen = ["TRACE", "key_version", "alknet_calls", "\"operation\":", "FORBIDDEN"];
    for what in seen {
        assert!(all.contains(what), "{what} was not looked at");
    }
    let vault = vault();
    let mut secrets = vec!["s3cret".to_owned(), "abandon abandon".into(), token[8..].to_owned()];
    for path in ["m/74'/0'/0'/0'", "m/74'/2'/0'/0'", SIGNING] {
        secrets.push(hex(&*vault.derive_ed25519(path).unwrap().expose_secret()));
    }
    secrets.push(node.read("client.key").trim().to_owned());
    for secret in secrets {
        assert!(!all.contains(&secret), "{secret} is shown");
    }
}
