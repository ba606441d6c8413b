//! Which part of alknet may know which: read from the packages' manifests and,
//! inside the host, from its sources.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A package of the workspace.
struct Package {
    /// Relative to the workspace.
    folder: PathBuf,
    /// What its users build with it.
    normal: Vec<String>,
    /// What its tests need, too.
    all: Vec<String>,
}

fn packages() -> BTreeMap<String, Package> {
    let metadata = Command::new(env!("CARGO"))
        .current_dir(ROOT)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let root = Path::new(metadata["workspace_root"].as_str().unwrap()).to_owned();
    let package = |package: &Value| {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let names = |wanted: &dyn Fn(&Value) -> bool| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let wanted = dependencies.filter(|dependency| wanted(dependency));
            wanted.map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect()
        };
        Package {
            folder: manifest.parent().unwrap().strip_prefix(&root).unwrap().to_owned(),
            normal: names(&|dependency| dependency["kind"].is_null()),
            all: names(&|_| true),
        }
    };
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages.map(|one| (one["name"].as_str().unwrap().to_owned(), package(one))).collect()
}

#[test]
fn k15_the_vault_knows_nothing_of_alknet() {
    let vault = &packages()["alknet-vault"];
    for dependency in &vault.all {
        assert!(!dependency.starts_with("alknet"), "the vault depends on {dependency}");
    }
    for dependency in ["tokio", "quinn", "rustls", "async-trait", "futures-util"] {
        assert!(!vault.normal.iter().any(|one| one == dependency), "it depends on {dependency}");
    }
}

#[test]
fn k15_plugins_do_not_know_the_host_nor_each_other() {
    let packages = packages();
    let plugins = packages.iter().filter(|(_, package)| {
        package.folder.starts_with("plugins") || package.folder.starts_with("tests/conformance")
    });
    let mut seen = 0;
    for (name, package) in plugins {
        seen += 1;
        for dependency in &package.all {
            let known = ["alknet-plugin-api", "alknet-call-protocol"].contains(&&**dependency);
            assert!(known || !dependency.starts_with("alknet"), "{name} depends on {dependency}");
        }
    }
    assert!(seen >= 5, "{seen} plugins were found");
    let api = &packages["alknet-plugin-api"];
    // Its tests use it with other features.
    let foreign = |one: &String| one.starts_with("alknet") && one != "alknet-plugin-api";
    assert!(!api.all.iter().any(foreign), "{:?}", api.all);
}

#[test]
fn k15_only_the_host_knows_what_it_is_built_on() {
    for (name, package) in packages() {
        // What compares or drives the host may use the same libraries as it.
        if name == "alknet" || package.folder.starts_with("tests") {
            continue;
        }
        for library in ["quinn", "quinn-proto", "rustls", "wasmtime", "libloading", "clap"] {
            assert!(!package.normal.iter().any(|one| one == library), "{name} knows {library}");
        }
    }
}

/// The Rust sources of a folder, without the modules that hold its tests.
fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        if stem == "tests" || stem.ends_with("_tests") {
            continue;
        }
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn k15_registry_and_auth_know_no_transport_and_no_plugin_format() {
    const FOREIGN: [&str; 11] = [
        "quinn",
        "rustls",
        "wasmtime",
        "libloading",
        "abi_stable",
        "crate::endpoint",
        "crate::plugins",
        "crate::assembly",
        "crate::cli",
        "crate::services",
        "std::net::UdpSocket",
    ];
    for module in ["registry", "auth"] {
        let mut files = Vec::new();
        sources(&Path::new(ROOT).join("host/src").join(module), &mut files);
        assert!(files.len() >= 2, "{module} has {} files", files.len());
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let code = text.lines().enumerate().filter(|(_, line)| {
                let line = line.trim_start();
                !line.starts_with("//")
            });
            for (number, line) in code {
                let found = FOREIGN.iter().find(|foreign| line.contains(*foreign));
                assert!(found.is_none(), "{}:{}: {line}", file.display(), number + 1);
            }
        }
    }
}

/// Building them all takes minutes, which `make check` takes and this test does not: it
/// sees that none is left out there.
#[test]
fn k13_each_combination_of_transports_is_built_by_make_check() {
    let makefile = std::fs::read_to_string(Path::new(ROOT).join("Makefile")).unwrap();
    let line = |start: &str| makefile.lines().find_map(|line| line.strip_prefix(start)).unwrap();
    let mut missing = std::collections::BTreeSet::new();
    for set in 0..8 {
        let transports = ["quinn", "iroh", "tcp"].iter().enumerate();
        let chosen = transports.filter(|(n, _)| set >> n & 1 == 1).map(|(_, name)| *name);
        missing.insert(chosen.collect::<Vec<_>>().join(","));
    }
    for listed in line("TRANSPORTS := ").split_whitespace() {
        let listed = listed.trim_matches('"');
        assert!(missing.remove(listed), "`{listed}` is no combination, or listed twice");
    }
    assert!(missing.is_empty(), "not built: {missing:?}");
    assert!(line("check: ").contains("features"));
    let built = r#"check -p alknet --no-default-features --features "$$transports""#;
    assert!(makefile.contains(built), "the list is not used");
}

/// The variables that code may read: where files are, and how to print. None of
/// them is a secret; systemd's names the folder in which it puts secrets.
const VARIABLES: [&str; 15] = [
    "\"XDG_CONFIG_HOME\"",
    "\"HOME\"",
    "\"NO_COLOR\"",
    "\"CLICOLOR\"",
    "\"CLICOLOR_FORCE\"",
    "\"TERM\"",
    "\"CREDENTIALS_DIRECTORY\"",
    // An isolated plugin's process has these from the daemon.
    "\"LANG\"",
    "\"LC_ALL\"",
    "\"TZ\"",
    "\"PATH\"",
    "\"LD_LIBRARY_PATH\"",
    "\"SSL_CERT_FILE\"",
    "\"SSL_CERT_DIR\"",
    "\"RUST_BACKTRACE\"",
];

#[test]
fn k76_no_code_reads_credentials_from_the_environment() {
    let mut files = Vec::new();
    for folder in ["host/src", "plugin-api/src", "vault/src", "plugins"] {
        sources(&Path::new(ROOT).join(folder), &mut files);
    }
    assert!(files.len() > 100, "{} files were found", files.len());
    let mut seen = std::collections::BTreeSet::<&str>::new();
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        // Modules at a file's end hold its tests.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for (at, _) in code.match_indices("env::var") {
            // The call, or that of the closure which is given the name.
            let around = &code[at..code[at..].find("\n    }").map_or(code.len(), |n| at + n)];
            let known: Vec<_> = VARIABLES.iter().filter(|name| around.contains(**name)).collect();
            let line = code[..at].lines().count();
            if known.is_empty() || around.starts_with("env::vars") {
                wrong.push(format!("{}:{line}", file.display()));
            }
            seen.extend(known);
        }
        for other in ["dotenv", "getenv(", "environ("] {
            if code.contains(other) {
                wrong.push(format!("{}: {other}", file.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(seen.len(), VARIABLES.len(), "a name that nobody reads is no exception: {seen:?}");
}
