//! Certificates and TLS over TCP, as an operator and foreign clients meet them:
//! the daemon, its command line, and a client that knows nothing of alknet.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use alknet_tests::authority::Authority;
use alknet_tests::daemon::{Daemon, NodeFolder, reserve_tcp, within};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

const SAY: [&str; 3] = ["call", "/echo/say", r#"{"text":"hi"}"#];

fn write_private(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

async fn certificate(node: &Daemon) -> Value {
    node.alknet(["status", "--json"]).await.json()["certificates"][0].clone()
}

/// Waits for the status to say something else of the certificate.
async fn certificate_with(node: &Daemon, right: impl Fn(&Value) -> bool) -> Value {
    within(async {
        loop {
            let shown = certificate(node).await;
            if right(&shown) {
                return shown;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

async fn self_signed() -> (Daemon, SocketAddr) {
    let (node, tcp) = (NodeFolder::developed(), reserve_tcp());
    node.append(
        "node.toml",
        &format!(
            "[endpoint.tcp]\nlisten = [\"{tcp}\"]\n\
             [identity.self_signed]\nnames = [\"localhost\", \"127.0.0.1\"]\n"
        ),
    );
    (node.start(&[]).await, tcp)
}

#[tokio::test]
async fn a_self_signed_node_is_reached_by_key_and_by_the_hash_that_it_shows() {
    let (node, tcp) = self_signed().await;
    let shown = certificate(&node).await;
    assert_eq!(shown["kind"], "self-signed");
    assert_eq!(shown["names"], json!(["localhost", "127.0.0.1"]));
    let hash = shown["fingerprint"].as_str().unwrap();
    let screen = node.process().stdout();
    assert!(screen.contains(hash), "{screen}");
    assert!(
        screen.contains(&format!("listening on alknet+tcp://{}@{tcp}", node.key())),
        "{screen}"
    );
    let status = node.alknet(["status"]).await;
    assert!(status.text().contains(hash) && status.text().contains("until"), "{status:?}");

    let quic = node.listen();
    for to in [
        format!("alknet://{}@{quic}", node.key()),
        format!("alknet+tcp://{}@{tcp}", node.key()),
        format!("alknet://{hash}@{quic}"),
        format!("alknet+tcp://{hash}@{tcp}"),
    ] {
        let said = node.alknet([&["--to", to.as_str()][..], &SAY].concat()).await;
        assert_eq!(said.json()["text"], "hi", "{to}");
    }
    // Everything that the command line does goes over one stream as well.
    let to = format!("alknet+tcp://{hash}@{tcp}");
    for arguments in
        [&["ops"][..], &["ops", "/echo/say"], &["subscribe", "/echo/say", r#"{"text":"a"}"#]]
    {
        let ended = node.alknet([&["--to", to.as_str()], arguments].concat()).await;
        match arguments[0] {
            "subscribe" => {
                assert!(ended.refused(1).contains("INVALID_OPERATION_TYPE"), "{ended:?}");
            }
            _ => assert!(ended.text().contains("echo"), "{ended:?}"),
        }
    }
    // Neither vouched for nor expected.
    for to in [
        format!("alknet://localhost:{}", quic.port()),
        format!("alknet+tcp://localhost:{}", tcp.port()),
        format!("alknet://SHA256:{}@{quic}", "0a".repeat(32)),
        format!("alknet+tcp://{}@{tcp}", "0a".repeat(32)),
    ] {
        let refused = node.alknet([&["--to", to.as_str()][..], &SAY].concat()).await;
        refused.refused(69);
    }

    // The hash outlives a restart, or every page that names it would break.
    let hash = hash.to_owned();
    let (folder, process) = node.into_parts();
    process.signal("TERM").await;
    assert_eq!(process.ended().await.status, Some(0));
    let node = folder.start(&[]).await;
    assert_eq!(certificate(&node).await["fingerprint"], json!(hash));
}

#[tokio::test]
async fn connect_joins_standard_streams_over_tcp() {
    let (node, tcp) = self_signed().await;
    let to = format!("alknet+tcp://{}@{tcp}", node.key());
    let mut command = node.command(["connect", &to, "--alpn", "alknet/echo"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
    drop(stdin);
    let ended = within(child.wait_with_output()).await.unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.stdout.len(), 1 << 20);
}

/// Python's TLS knows neither raw keys nor alknet.
#[tokio::test]
async fn k14_a_foreign_client_speaks_a_protocol_over_tcp() {
    const CLIENT: &str = r#"
import socket, ssl, sys
host, port, authority, alpn = sys.argv[1:5]
context = ssl.create_default_context(cafile=authority)
context.set_alpn_protocols([alpn])
with socket.create_connection((host, int(port))) as plain:
    with context.wrap_socket(plain, server_hostname="localhost") as stream:
        assert stream.selected_alpn_protocol() == alpn, stream.selected_alpn_protocol()
        stream.sendall(b"hello from elsewhere")
        answer = b""
        while len(answer) < 20:
            more = stream.recv(64)
            assert more, "the end"
            answer += more
        print(answer.decode())
"#;
    let files = Files::new(&Authority::new());
    let node = files.node.start(&[]).await;
    let python = Command::new("python3")
        .args(["-c", CLIENT, "127.0.0.1", &files.tcp.port().to_string()])
        .arg(node.file("ca.pem"))
        .arg("alknet/echo")
        .kill_on_drop(true)
        .output();
    let output = within(python).await.expect("python3 is there");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "hello from elsewhere\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(node.stop("TERM").await.status, Some(0));
}

/// A node with a certificate in files, and the authority that signed it.
struct Files {
    node: NodeFolder,
    tcp: SocketAddr,
}

impl Files {
    fn new(authority: &Authority) -> Self {
        let (node, tcp) = (NodeFolder::developed(), reserve_tcp());
        authority.write(&node.file("ca.pem"));
        let (chain, key) = authority.issue();
        node.write("chain.pem", &chain);
        write_private(&node.file("key.pem"), &key);
        node.append(
            "node.toml",
            &format!(
                "[endpoint.tcp]\nlisten = [\"{tcp}\"]\n\
                 [identity.x509]\ncert = \"chain.pem\"\nkey = \"key.pem\"\n"
            ),
        );
        Self { node, tcp }
    }
}

#[tokio::test]
async fn k29_replaced_files_serve_new_connections_and_mistakes_change_nothing() {
    let authority = Authority::new();
    let files = Files::new(&authority);
    let tcp = files.tcp;
    let node = files.node.start(&[]).await;
    let old = node.client().await;
    old.assert_answered().await;
    let first = certificate(&node).await;
    assert_eq!((&first["kind"], &first["names"]), (&json!("x509"), &json!(["localhost"])));
    assert_eq!(first["error"], Value::Null);
    let first = first["fingerprint"].as_str().unwrap().to_owned();

    let ca = node.file("ca.pem");
    let ca = ca.to_str().unwrap();
    let by_name = [
        format!("alknet://localhost:{}", node.listen().port()),
        format!("alknet+tcp://localhost:{}", tcp.port()),
    ];
    for to in &by_name {
        let said = node.alknet([&["--ca", ca, "--to", to.as_str()][..], &SAY].concat()).await;
        assert_eq!(said.json()["text"], "hi", "{to}");
    }

    // Renamed over, one after the other, as tools do.
    let (chain, key) = authority.issue();
    for (name, text) in [("key.pem", &key), ("chain.pem", &chain)] {
        let draft = node.file("draft");
        write_private(&draft, text);
        std::fs::rename(draft, node.file(name)).unwrap();
    }
    let second = certificate_with(&node, |now| now["fingerprint"] != json!(first)).await;
    assert_eq!(second["error"], Value::Null);
    let second = second["fingerprint"].as_str().unwrap().to_owned();
    let pinned = |hash: &str| format!("alknet+tcp://{hash}@{tcp}");
    let to = pinned(&first);
    node.alknet([&["--to", to.as_str()][..], &SAY].concat()).await.refused(69);
    for to in by_name.iter().chain([&pinned(&second)]) {
        let said = node.alknet([&["--ca", ca, "--to", to.as_str()][..], &SAY].concat()).await;
        assert_eq!(said.json()["text"], "hi", "{to}");
    }
    old.assert_answered().await;

    // A key of another certificate, none, and one for everybody to read.
    let (_, other) = authority.issue();
    write_private(&node.file("key.pem"), &other);
    let wrong = certificate_with(&node, |now| !now["error"].is_null()).await;
    assert!(wrong["error"].as_str().unwrap().contains("is not the private key of"), "{wrong}");
    assert_eq!(wrong["fingerprint"], json!(second));
    node.logged("the certificate was not replaced").await;
    std::fs::remove_file(node.file("key.pem")).unwrap();
    let gone = certificate_with(&node, |now| now["error"] != wrong["error"]).await;
    assert!(gone["error"].as_str().unwrap().contains("cannot read"), "{gone}");
    let shown = node.alknet(["status"]).await;
    assert!(shown.text().contains("not replaced: cannot read"), "{shown:?}");
    node.write("key.pem", &key);
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(node.file("key.pem"), mode).unwrap();
    certificate_with(&node, |now| {
        now["error"].as_str().is_some_and(|error| error.contains("everybody may read"))
    })
    .await;
    let to = pinned(&second);
    let said = node.alknet([&["--to", to.as_str()][..], &SAY].concat()).await;
    assert_eq!(said.json()["text"], "hi");

    // Mended, the trouble is gone.
    write_private(&node.file("key.pem"), &key);
    let mended = certificate_with(&node, |now| now["error"].is_null()).await;
    assert_eq!(mended["fingerprint"], json!(second));
    old.assert_answered().await;
    let log = node.stop("TERM").await.stderr;
    for line in key.lines().chain(other.lines()).filter(|line| !line.starts_with("-----")) {
        assert!(!log.contains(line), "a private key is in the log");
    }
}

#[tokio::test]
async fn a_peer_is_known_by_its_certificate() {
    let authority = Authority::new();
    let files = Files::new(&authority);
    let (chain, key) = Authority::new().issue();
    write_private(&files.node.file("client.pem"), &format!("{chain}{key}"));
    let own = alknet::endpoint::identity::CertificateFiles {
        cert: files.node.file("client.pem"),
        key: files.node.file("client.pem"),
    };
    let own = own.load().unwrap().fingerprint().to_string();
    files.node.append(
        "access.toml",
        &format!(
            "[[peer]]\npeer_id = \"carol\"\nfingerprints = [\"{own}\"]\nscopes = [\"admin\"]\n"
        ),
    );
    let tcp = files.tcp;
    let node = files.node.start(&[]).await;
    let ca = node.file("ca.pem");
    for to in [
        format!("alknet://localhost:{}", node.listen().port()),
        format!("alknet+tcp://localhost:{}", tcp.port()),
    ] {
        let arguments = ["--ca", ca.to_str().unwrap(), "--to", &to, "status", "--json"];
        let status = node.alknet(arguments).await.json();
        let peers = status["connections"].as_array().unwrap();
        assert!(peers.iter().any(|one| one["peer"] == json!(own)), "{status}");
    }
    // Without it, nobody in particular.
    std::fs::remove_file(node.file("client.pem")).unwrap();
    let to = format!("alknet+tcp://localhost:{}", tcp.port());
    let refused = node.alknet(["--ca", ca.to_str().unwrap(), "--to", &to, "status"]).await;
    assert!(refused.refused(1).contains("FORBIDDEN"), "{refused:?}");
}

#[tokio::test]
async fn k42_k43_check_judges_certificates_and_tcp_as_a_start_would() {
    let files = Files::new(&Authority::new());
    let node = files.node;
    let ok = node.alknet(["check"]).await;
    assert!(ok.text().contains("no problems"), "{ok:?}");
    let (_, other) = Authority::new().issue();
    write_private(&node.file("key.pem"), &other);
    node.replace("node.toml", "[endpoint.tcp]\n", "[endpoint.tcp]\nalpn = [\"h3\", \"none\"]\n");
    node.append("node.toml", "[identity.self_signed]\nnames = [\"localhost\"]\n");
    let wrong = node.alknet(["check"]).await;
    let said = wrong.refused(78);
    assert!(said.contains("the node shows one certificate, and this is another"), "{said}");
    node.replace(
        "node.toml",
        "[identity.self_signed]\n",
        "[identity.self_signed]\nenabled = false\n",
    );
    let wrong = node.alknet(["check"]).await;
    for part in [
        "is not the private key of",
        "ALPN `h3` is a protocol over QUIC",
        "no plugin serves ALPN `none`",
        "3 problems",
    ] {
        assert!(wrong.refused(78).contains(part), "{part}: {wrong:?}");
    }
    let started = node.alknet(["run", "--dev"]).await;
    assert!(started.refused(78).contains("is not the private key of"), "{started:?}");
}

#[tokio::test]
async fn k21_a_tcp_address_that_is_taken_is_69() {
    let files = Files::new(&Authority::new());
    let _taken = TcpListener::bind(files.tcp).unwrap();
    let ended = files.node.alknet(["run", "--dev"]).await;
    assert!(
        ended.refused(69).contains(&format!("cannot listen on TCP {}", files.tcp)),
        "{ended:?}"
    );
}
