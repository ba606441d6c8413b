//! Plugins on their way: packed, signed, verified, installed, upgraded, taken back; what
//! keeps one from running; and what a deployment amounts to.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod doctor;
mod explain;
mod project;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use alknet_tests::artifact;
use alknet_tests::daemon::{Ended, NodeFolder, built};
use alknet_tests::secrets::add_vault;
use serde_json::Value;

/// Where the vault has the key that signs.
const SIGNING: &str = "m/74'/3'/0'/0'";

/// A publisher without a node: a folder with keys and files.
pub(crate) struct Publisher {
    pub(crate) folder: tempfile::TempDir,
    /// Whose commands are about no node.
    nobody: NodeFolder,
}

impl Publisher {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), nobody: NodeFolder::new() }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) async fn alknet(&self, arguments: &[&str]) -> Ended {
        self.nobody.alknet(arguments).await
    }

    /// The public half of a key, which is made.
    pub(crate) async fn key(&self, name: &str) -> String {
        self.alknet(&["plugin", "key", &self.path(name)]).await.text().trim().to_owned()
    }

    /// A copy of a file that the loader will read.
    pub(crate) fn copy(
        &self,
        file: &Path,
        name: &str,
        change: impl FnOnce(&mut Vec<u8>),
    ) -> String {
        let mut bytes = std::fs::read(file).unwrap();
        change(&mut bytes);
        let copy = self.path(name);
        std::fs::write(&copy, bytes).unwrap();
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o644)).unwrap();
        copy
    }

    /// A package of `echo`, native and confined, with a README, signed by `publisher.key`.
    pub(crate) async fn echo(&self, name: &str, native: &str) -> String {
        std::fs::write(self.path("README.md"), "# echo\n\nSays it back.\n").unwrap();
        let package = self.path(name);
        let component = artifact::component("alknet-plugin-echo");
        let packed = self
            .alknet(&[
                "plugin",
                "pack",
                native,
                component.to_str().unwrap(),
                "--readme",
                &self.path("README.md"),
                "--key-file",
                &self.path("publisher.key"),
                "-o",
                &package,
            ])
            .await;
        assert_eq!(packed.text().trim(), package);
        package
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The last file that was installed.
fn installed(node: &NodeFolder, extension: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(node.file("plugins")).into_iter().flatten();
    let files = files.map(|file| file.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|found| found == extension)).collect()
}

#[tokio::test]
async fn a_plugin_is_packed_verified_installed_run_upgraded_and_taken_back() {
    let publisher = Publisher::new();
    let key = publisher.key("publisher.key").await;
    assert_eq!(publisher.key("publisher.key").await, key, "a key that is there is kept");
    let package = publisher.echo("echo.alkp", text(&built().echo)).await;

    let inspected = publisher.alknet(&["plugin", "inspect", &package]).await;
    for expected in ["echo 0.1.0", &key, "x86_64", "wasm32-wasip2", "README.md", "/echo/say"] {
        let expected = if expected == "x86_64" { std::env::consts::ARCH } else { expected };
        assert!(inspected.text().contains(expected), "no {expected}: {}", inspected.stdout);
    }
    let readme = publisher.alknet(&["plugin", "inspect", &package, "--print", "README.md"]).await;
    assert_eq!(readme.text(), "# echo\n\nSays it back.\n");
    let index = publisher.alknet(&["plugin", "inspect", &package, "--json"]).await.json();
    assert_eq!(index["index"]["manifest"]["name"], "echo");

    // Whole, and vouched for by nobody until its key is trusted.
    let verified = publisher.alknet(&["plugin", "verify", &package]).await;
    assert!(verified.refused(77).contains(&key), "{verified:?}");
    let other = publisher.key("other.key").await;
    publisher.alknet(&["plugin", "verify", &package, "--key", &other]).await.refused(77);
    let trusting = ["plugin", "verify", &package, "--key", &other, "--key", &key, "--json"];
    assert_eq!(publisher.alknet(&trusting).await.json()["trusted"], key.as_str());

    // A node that takes what this publisher has signed alone.
    let node = NodeFolder::developed_with(&[("call", &built().call)]);
    let keys = format!("# Whom we trust.\ntrusted_plugin_keys = [\"{key}\"]\n\n[endpoint.quic]");
    node.replace("node.toml", "[endpoint.quic]", &keys);
    let call = text(&built().call);
    node.alknet(["plugin", "pin", call]).await.refused(77);
    let signing = ["plugin", "sign", call, "--key-file", &publisher.path("publisher.key")];
    let signature = publisher.alknet(&signing).await.text().trim().to_owned();
    assert!(signature.starts_with("ed25519:") && signature.len() == 136, "{signature}");
    node.alknet(["plugin", "pin", call, "--signature", &signature]).await.text();
    assert!(node.read("node.toml").contains("# Whom we trust."));

    let install = node.alknet(["plugin", "install", &package]).await;
    for expected in ["installed echo 0.1.0", "trust: confined", &key, "/echo/say", "alknet/echo"] {
        assert!(install.text().contains(expected), "no {expected}: {}", install.stdout);
    }
    assert_eq!(installed(&node, "wasm").len(), 1);
    assert!(node.alknet(["check"]).await.text().contains("no problems"));
    let node = node.start(&[]).await;
    let said = node.alknet(["call", "/echo/say", r#"{"text":"hi"}"#]).await;
    assert_eq!(said.json()["text"], "hi");
    let (node, running) = node.into_parts();
    running.killed().await;

    // The same again changes nothing; the other kind is another file.
    let before = node.read("node.toml");
    let again = node.alknet(["plugin", "install", &package, "--json"]).await.json();
    assert_eq!((&again["added"], &again["previous"]), (&false.into(), &Value::Null));
    assert_eq!(node.read("node.toml"), before);
    let native = node.alknet(["plugin", "install", &package, "--kind", "native"]).await;
    assert!(native.text().contains("trust: native"), "{}", native.stdout);
    assert!(native.stderr.contains("go back with"), "{}", native.stderr);

    // An upgrade stays what it was, and leaves what it replaces.
    let changed = publisher.copy(&built().echo, "changed.so", |bytes| bytes.push(0));
    let newer = publisher.echo("newer.alkp", &changed).await;
    let upgraded = node.alknet(["plugin", "install", &newer, "--json"]).await.json();
    assert_eq!((&upgraded["kind"], &upgraded["trusted"]), (&"native".into(), &key.clone().into()));
    let files = installed(&node, "so");
    assert_eq!(files.len(), 2, "{files:?}");
    let (old, new) = (&upgraded["previous"], &upgraded["artifact"]);
    assert!(old != new && old.is_string(), "{upgraded}");
    assert!(node.alknet(["check"]).await.text().contains("no problems"));
    node.alknet(["plugin", "pin", old.as_str().unwrap(), "--name", "echo"]).await.text();
    let file = node.read("node.toml");
    assert!(file.contains(Path::new(old.as_str().unwrap()).file_name().unwrap().to_str().unwrap()));
    assert!(node.alknet(["check"]).await.text().contains("no problems"));
}

#[tokio::test]
async fn what_was_altered_is_refused_whatever_it_is() {
    let publisher = Publisher::new();
    publisher.key("publisher.key").await;
    let package = publisher.echo("echo.alkp", text(&built().echo)).await;
    let bytes = std::fs::read(&package).unwrap();
    let node = NodeFolder::developed_with(&[("call", &built().call)]);
    let before = node.read("node.toml");
    let find = |text: &[u8]| bytes.windows(text.len()).position(|found| found == text).unwrap();
    let parts = [
        ("the index", find(b"Echoes streams")),
        ("the signature", find(b"alkp.sig") + 512 + 20),
        ("an artifact", find(b"\x7fELF") + 4000),
        ("the README", find(b"Says it back.")),
        ("a header", find(b"README.md\0") + 100),
    ];
    for (what, at) in parts {
        let altered = publisher.copy(Path::new(&package), "altered.alkp", |bytes| bytes[at] ^= 1);
        for command in ["verify", "inspect", "install"] {
            let refused = node.alknet(["plugin", command, &altered]).await;
            assert_eq!(refused.status, Some(65), "{command} of {what}: {refused:?}");
        }
    }
    assert_eq!(node.read("node.toml"), before);
    assert!(!node.file("plugins").exists());
}

#[tokio::test]
async fn whom_nobody_trusts_is_not_installed() {
    let publisher = Publisher::new();
    let key = publisher.key("publisher.key").await;
    let other = publisher.key("other.key").await;
    let package = publisher.echo("echo.alkp", text(&built().echo)).await;
    let node = NodeFolder::developed_with(&[("call", &built().call)]);
    let refused = node.alknet(["plugin", "install", &package, "--key", &other]).await;
    assert!(refused.refused(77).contains(&key), "{refused:?}");
    // Without keys the digest alone is pinned: a signature would be checked by nothing.
    let install = node.alknet(["plugin", "install", &package]).await;
    assert!(install.text().contains("which nobody has asked to trust"), "{}", install.stdout);
    assert!(!node.read("node.toml").contains("signature"));
    assert!(node.alknet(["check"]).await.text().contains("no problems"));

    // Signed by somebody else, as a whole.
    let (file, with) = (package.as_str(), publisher.path("other.key"));
    publisher.alknet(&["plugin", "sign", file, "--key-file", &with]).await.text();
    publisher.alknet(&["plugin", "verify", file, "--key", &key]).await.refused(77);
    publisher.alknet(&["plugin", "verify", file, "--key", &other]).await.text();
    // A key that others could read signs nothing.
    std::fs::set_permissions(&with, PermissionsExt::from_mode(0o644)).unwrap();
    let open = publisher.alknet(&["plugin", "sign", file, "--key-file", &with]).await;
    assert!(open.refused(78).contains("chmod 600"), "{open:?}");
}

#[tokio::test]
async fn the_vaults_key_signs() {
    let publisher = Publisher::new();
    let node = NodeFolder::developed();
    add_vault(&node, &[]);
    let derived = node.alknet(["vault", "derive", "--public", SIGNING, "--json"]).await.json();
    let key = derived["fingerprint"].as_str().unwrap();
    let file = publisher.copy(&built().echo, "echo.so", |_| {});
    let signing = ["plugin", "sign", &file, "--vault-path", SIGNING, "--json"];
    let signed = node.alknet(signing).await.json();
    assert_eq!(signed["signer"], key);
    let verify = ["plugin", "verify", &file, "--key", key];
    publisher.alknet(&verify).await.refused(77);
    std::fs::write(format!("{file}.sig"), signed["signature"].as_str().unwrap()).unwrap();
    publisher.alknet(&verify).await.text();
    // The file, and not its signature, is another one.
    publisher.copy(&built().echo, "echo.so", |bytes| bytes.push(0));
    publisher.alknet(&verify).await.refused(77);
}

#[tokio::test]
async fn other_machines_and_other_files_are_told_apart() {
    let publisher = Publisher::new();
    // The same file, for another processor.
    let arm = publisher.copy(&built().echo, "arm.so", |bytes| {
        bytes[18..20].copy_from_slice(&183u16.to_le_bytes());
    });
    let out = publisher.path("echo.alkp");
    let pack = |rest: Vec<String>| {
        let mut arguments = vec!["plugin".to_owned(), "pack".to_owned()];
        arguments.extend(rest);
        arguments.extend(["-o".to_owned(), out.clone()]);
        arguments
    };
    let run = async |rest: Vec<String>| {
        let arguments = pack(rest);
        publisher.alknet(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    let target = format!("--target=aarch64-unknown-linux-gnu={arm}");
    let component = text(&artifact::component("alknet-plugin-echo")).to_owned();
    assert!(run(vec![arm.clone()]).await.refused(65).contains("another machine"));
    assert!(
        run(vec![target.clone()]).await.refused(65).contains("none of the artifacts runs here")
    );
    let wrong = format!("--target=x86_64-unknown-linux-gnu={arm}");
    assert!(run(vec![wrong, component.clone()]).await.refused(65).contains("is not built for"));
    let twice = vec![component.clone(), component.clone()];
    assert!(run(twice).await.refused(64).contains("two artifacts"));
    let clock = text(&built().clock).to_owned();
    let native = text(&built().echo).to_owned();
    assert!(run(vec![native.clone(), clock]).await.refused(65).contains("different things"));
    let readme = vec![component.clone(), "--licence".into(), arm.clone()];
    assert!(run(readme).await.refused(64).contains("LICENSE"));
    let bill = publisher.path("bill.json");
    std::fs::write(&bill, r#"{"spdxVersion":"SPDX-2.3"}"#).unwrap();
    let bill = vec![component.clone(), "--sbom".into(), bill];
    assert!(run(bill).await.refused(65).contains("CycloneDX"));

    run(vec![target, component]).await.text();
    let node = NodeFolder::developed_with(&[("call", &built().call)]);
    if cfg!(target_arch = "x86_64") {
        let install = node.alknet(["plugin", "install", &out, "--kind", "native"]).await;
        assert!(install.refused(65).contains("has nothing for x86_64"), "{install:?}");
    }
    assert!(node.alknet(["plugin", "pin", &out]).await.refused(64).contains("plugin install"));
    let install = node.alknet(["plugin", "install", &native]).await;
    assert!(install.refused(65).contains("is no plugin package"), "{install:?}");
}
