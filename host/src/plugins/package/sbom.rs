//! Software bills of materials, in CycloneDX's JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::{Value, json};

/// Why there is no bill of materials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SbomError {
    /// Cargo cannot be run.
    #[error("cargo cannot be run: {0}; install Rust, or give a bill of materials with `--sbom`")]
    Cargo(io::Error),
    /// Cargo does not say what the plugin is made of; it has said why.
    #[error(
        "cargo does not say what the plugin is made of; see above, or give a bill of materials with `--sbom`"
    )]
    Refused,
    /// Cargo says something else than was expected of it.
    #[error("cargo's answer is not understood: {0}; give a bill of materials with `--sbom`")]
    Answer(String),
    /// A file that is no bill of materials.
    #[error(
        "it is no bill of materials in CycloneDX's JSON, version 1.5 or newer: {0}; tools such as cargo-cyclonedx and syft write it"
    )]
    Form(String),
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
    root: Option<String>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

#[derive(Default, Deserialize)]
struct Lockfile {
    #[serde(default)]
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// What the cargo project in `folder` is made of when it is built for `target`: every
/// crate that is compiled into it or runs while it is built, but not what only its own
/// tests need.
///
/// # Errors
/// Cargo cannot tell.
pub fn of_cargo(folder: &Path, target: &str) -> Result<Vec<u8>, SbomError> {
    let answer = Command::new("cargo")
        .current_dir(folder)
        .args(["metadata", "--format-version", "1", "--filter-platform", target])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(SbomError::Cargo)?;
    if !answer.status.success() {
        return Err(SbomError::Refused);
    }
    let unknown = |what: &dyn std::fmt::Display| SbomError::Answer(what.to_string());
    let metadata: Metadata =
        serde_json::from_slice(&answer.stdout).map_err(|error| unknown(&error))?;
    let lock = std::fs::read_to_string(metadata.workspace_root.join("Cargo.lock"));
    // Without the file there are no checksums to tell.
    let lock: Lockfile = toml::from_str(&lock.unwrap_or_default()).unwrap_or_default();
    let bill = metadata.bill(&lock).ok_or_else(|| unknown(&"it names no package"))?;
    let mut text = serde_json::to_vec_pretty(&bill).map_err(|error| unknown(&error))?;
    text.push(b'\n');
    Ok(text)
}

/// Whether a file is a bill of materials that others understand.
///
/// # Errors
/// [`SbomError::Form`].
pub fn check(text: &[u8]) -> Result<(), SbomError> {
    let bill: Value =
        serde_json::from_slice(text).map_err(|error| SbomError::Form(error.to_string()))?;
    let version = bill["specVersion"].as_str().unwrap_or_default();
    let minor = version.strip_prefix("1.").and_then(|minor| minor.parse::<u32>().ok());
    match bill["bomFormat"] == "CycloneDX" && minor.is_some_and(|minor| minor >= 5) {
        true => Ok(()),
        false => Err(SbomError::Form(format!(
            "`bomFormat` is {} and `specVersion` {}",
            bill["bomFormat"], bill["specVersion"]
        ))),
    }
}

impl Metadata {
    fn bill(&self, lock: &Lockfile) -> Option<Value> {
        let packages: BTreeMap<_, _> = self.packages.iter().map(|one| (&one.id, one)).collect();
        let nodes: BTreeMap<_, _> = self.resolve.nodes.iter().map(|one| (&one.id, one)).collect();
        let root = packages.get(self.resolve.root.as_ref()?)?;
        let mut found = BTreeSet::from([&root.id]);
        let mut open = vec![&root.id];
        let mut dependencies = BTreeMap::new();
        while let Some(id) = open.pop() {
            let node = nodes.get(id)?;
            // What only its tests need is not in it.
            let used = node.deps.iter().filter(|dependency| {
                dependency.dep_kinds.iter().any(|of| of.kind.as_deref() != Some("dev"))
            });
            let used: BTreeSet<_> = used.map(|dependency| &dependency.pkg).collect();
            open.extend(used.iter().filter(|id| !found.contains(**id)));
            found.extend(&used);
            let refs: BTreeSet<_> =
                used.iter().filter_map(|id| Some(packages.get(*id)?.purl())).collect();
            dependencies.insert(packages.get(id)?.purl(), refs);
        }
        let mut components: Vec<_> = found
            .iter()
            .filter(|id| **id != &root.id)
            .filter_map(|id| packages.get(*id))
            .map(|package| package.component(lock))
            .collect();
        components.sort_by(|a, b| a["purl"].as_str().cmp(&b["purl"].as_str()));
        let dependencies: Vec<_> = dependencies
            .iter()
            .map(|(purl, refs)| json!({ "ref": purl, "dependsOn": refs }))
            .collect();
        Some(json!({
            "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {
                "component": root.component(lock),
                "tools": { "components": [{
                    "type": "application", "name": "alknet", "version": env!("CARGO_PKG_VERSION"),
                }] },
            },
            "components": components,
            "dependencies": dependencies,
        }))
    }
}

impl Package {
    fn purl(&self) -> String {
        let version = self.version.replace('+', "%2B");
        let purl = format!("pkg:cargo/{}@{version}", self.name);
        match self.source.as_deref().and_then(|source| source.strip_prefix("git+")) {
            Some(url) => {
                let url = url.replace('%', "%25").replace('&', "%26").replace('#', "%23");
                format!("{purl}?vcs_url=git%2B{}", url.replace('?', "%3F").replace('+', "%2B"))
            }
            None => purl,
        }
    }

    fn component(&self, lock: &Lockfile) -> Value {
        let purl = self.purl();
        let mut component = json!({
            "type": "library", "bom-ref": purl, "purl": purl,
            "name": self.name, "version": self.version,
        });
        if let Some(license) = &self.license {
            component["licenses"] = json!([{ "expression": expression(license) }]);
        }
        let locked = lock.package.iter().find(|one| {
            one.name == self.name && one.version == self.version && self.source.is_some()
        });
        if let Some(checksum) = locked.and_then(|one| one.checksum.as_deref()) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        component
    }
}

/// A licence as SPDX writes it; older crates part alternatives with a slash.
fn expression(license: &str) -> String {
    license.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bill_names_what_is_built_in_and_not_what_tests_need() {
        let registry = "registry+https://github.com/rust-lang/crates.io-index";
        let package = |name: &str, source: Option<&str>| {
            json!({ "id": name, "name": name, "version": "1.0.0+x", "license": "MIT/Apache-2.0",
                "source": source })
        };
        let to = |name: &str, kind: Option<&str>| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let metadata: Metadata = serde_json::from_value(json!({
            "packages": [package("own", None), package("a", Some(registry)),
                package("b", Some("git+https://example.org/b?rev=1#2")), package("t", None)],
            "resolve": { "root": "own", "nodes": [
                { "id": "own", "deps": [to("a", None), to("t", Some("dev"))] },
                { "id": "a", "deps": [to("b", Some("build"))] },
                { "id": "b", "deps": [] }, { "id": "t", "deps": [] },
            ] },
            "workspace_root": "/",
        }))
        .unwrap();
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0+x\"\nchecksum = \"00\"\n";
        let bill = metadata.bill(&toml::from_str(lock).unwrap()).unwrap();
        let names: Vec<_> =
            bill["components"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
        assert_eq!(names, ["a", "b"]);
        let a = &bill["components"][0];
        assert_eq!(a["purl"], "pkg:cargo/a@1.0.0%2Bx");
        assert_eq!(a["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(a["hashes"][0]["content"], "00");
        let b = bill["components"][1]["purl"].as_str().unwrap();
        assert!(b.contains("?vcs_url=git%2Bhttps://example.org/b%3Frev=1%232"), "{b}");
        assert_eq!(bill["dependencies"][0]["dependsOn"][0], b);
        check(&serde_json::to_vec(&bill).unwrap()).unwrap();
        assert!(check(br#"{"bomFormat":"CycloneDX","specVersion":"1.4"}"#).is_err());
        assert!(check(br#"{"spdxVersion":"SPDX-2.3"}"#).is_err());
    }
}
