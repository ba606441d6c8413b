//! A package out of a project that `alknet plugin new` has made.

use std::path::Path;
use std::process::Stdio;

use alknet_tests::daemon::{NodeFolder, built};
use tokio::process::Command;

/// What is written for an author is built, described and packed by one command.
#[tokio::test]
async fn a_new_project_is_packed_with_all_that_belongs_to_it() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("greeter");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("fixture");
    let alknet = |arguments: &[&str]| {
        let mut command = Command::new(&built().alknet);
        // What cargo tells tests of their own package is not for others.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("CARGO_")) {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .current_dir(place.path())
            .env("CARGO_TARGET_DIR", &target)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    };
    let api = repository.join("plugin-api");
    let new = ["plugin", "new", "greeter", "--kind", "component", "--with", "operations"];
    let made = alknet(&new).arg("--api").arg(&api).output().await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::copy(repository.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    std::fs::copy(repository.join("LICENSE-MIT"), folder.join("LICENSE-MIT")).unwrap();

    let packed = alknet(&["plugin", "pack", "greeter"]).output().await.unwrap();
    let log = String::from_utf8_lossy(&packed.stderr);
    assert!(packed.status.success(), "{log}");
    assert!(log.contains("Finished `release`"), "cargo shows its progress: {log}");
    assert!(log.contains("is not signed"), "{log}");
    assert_eq!(String::from_utf8_lossy(&packed.stdout), "greeter-0.1.0.alkp\n");

    let node = NodeFolder::developed_with(&[("call", &built().call)]);
    let package = place.path().join("greeter-0.1.0.alkp");
    let package = package.to_str().unwrap();
    let index = node.alknet(["plugin", "inspect", package, "--json"]).await.json();
    let files = index["index"]["files"].as_array().unwrap();
    let names: Vec<_> = files.iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["LICENSE-MIT", "README.md", "sbom.cdx.json"]);
    let bill = node.alknet(["plugin", "inspect", package, "--print", "sbom.cdx.json"]).await.json();
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    assert_eq!(bill["metadata"]["component"]["purl"], "pkg:cargo/alknet-plugin-greeter@0.1.0");
    let component = |name: &str| {
        let components = bill["components"].as_array().unwrap().iter();
        components.clone().find(|one| one["name"] == name).cloned()
    };
    let serde = component("serde_json").expect("it is built in");
    assert_eq!(serde["licenses"][0]["expression"], "MIT OR Apache-2.0");
    assert_eq!(serde["hashes"][0]["content"].as_str().unwrap().len(), 64);
    assert!(component("alknet-plugin-api").is_some());
    for other in ["wasmtime", "libloading"] {
        assert!(component(other).is_none(), "{other} is in the lock file, not in the plugin");
    }

    node.alknet(["plugin", "install", package]).await.text();
    let node = node.start(&[]).await;
    let hello = node.alknet(["call", "/greeter/hello", r#"{"name":"Ada"}"#]).await;
    assert_eq!(hello.json()["text"], "hello, Ada");
}
