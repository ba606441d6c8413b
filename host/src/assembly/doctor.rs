//! Whether a plugin would run here, and if not, why: one field after the other, also
//! where a start would stop at the first.
//!
//! What depends on the deployment is judged by the code of a start. Of other plugins
//! only the declarations are read; nothing is built, and no vault is asked for.

use std::path::{Path, PathBuf};

use alknet_plugin_api::{API_VERSION, Manifest};
use serde::Serialize;

use super::{importing, loading, plugins, registering};
use crate::budget::Substrate;
use crate::config::{
    AccessConfig, Digest, Mode, NodeConfig, NodeDirectory, NodeFile, PluginStanza, Problem,
    Signature,
};
use crate::operator::{self, Sources};
use crate::plugins::artifact::{Policy, SignatureSource};
use crate::plugins::package::{Package, Target, signature_file, signed_artifact};
use crate::plugins::{Artifact, Kind, LoadError, inspect, open};
use crate::registry::{RESERVED_PREFIXES, discovery_names};

/// What became of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It fits.
    Ok,
    /// It fits, or may fit, and the operator should know.
    Note,
    /// It does not fit: the node would not start with it.
    Wrong,
}

/// What is wrong, if anything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum About {
    /// The file itself, on this machine.
    File,
    /// Who vouches for it.
    Trust,
    /// What the node's files say of it.
    Deployment,
}

/// One comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// The field.
    pub field: &'static str,
    /// What it is about.
    pub about: About,
    /// What became of it.
    pub state: State,
    /// What the plugin has, or what is wrong.
    pub found: String,
    /// What this host has or asks for.
    pub expected: String,
    /// What to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

/// All comparisons of a file with a host.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Checkup {
    /// The artifact or package.
    pub file: PathBuf,
    /// What the plugin calls itself, and its version, where that could be found out.
    pub plugin: Option<String>,
    /// The stanza that it was compared with.
    pub stanza: Option<String>,
    /// The comparisons.
    pub checks: Vec<Check>,
}

impl Checkup {
    /// The first thing that is wrong, by what it is about.
    pub fn verdict(&self) -> Option<About> {
        let wrong = self.checks.iter().filter(|check| check.state == State::Wrong);
        wrong.map(|check| check.about).min()
    }

    fn add(&mut self, about: About, field: &'static str, state: State, texts: [&str; 3]) {
        let [found, expected, remedy] = texts.map(str::to_owned);
        self.checks.push(Check { field, about, state, found, expected, remedy });
    }

    fn file(&mut self, field: &'static str, state: State, texts: [&str; 3]) {
        self.add(About::File, field, state, texts);
    }

    fn deployment(&mut self, field: &'static str, state: State, texts: [&str; 3]) {
        self.add(About::Deployment, field, state, texts);
    }

    /// A field and what start-up finds wrong with it.
    fn problems(&mut self, field: &'static str, found: Vec<Problem>, deployed: bool, well: String) {
        if found.is_empty() {
            self.deployment(field, State::Ok, [&well, "", ""]);
        }
        for problem in found {
            let state = if deployed { State::Wrong } else { State::Note };
            self.deployment(field, state, [&problem.what, "", &problem.remedy]);
        }
    }
}

/// What is known of the file once it has been read.
struct Subject {
    /// Nothing where a package has no artifact for this machine.
    sha256: Option<Digest>,
    kind: Option<Kind>,
    manifest: Option<Manifest>,
    package: Option<Package>,
}

/// Compares a file with this host, and with the node in `directory` if there is one:
/// with its stanza `name`, or the one that names the file or is called as the plugin is.
pub fn examine(file: &Path, directory: &NodeDirectory, name: Option<&str>) -> Checkup {
    let mut checkup = Checkup { file: file.to_owned(), ..Checkup::default() };
    let Some(subject) = read(file, &mut checkup) else { return checkup };
    if let Some(manifest) = &subject.manifest {
        checkup.plugin = Some(format!("{} {}", manifest.name, manifest.version));
        api(manifest, &mut checkup);
    }
    let path = directory.node_config();
    if !path.exists() {
        let found = format!("there is no {}", path.display());
        let remedy = "name a node's folder with `--node` to compare with what it grants";
        checkup.deployment("deployment", State::Note, [&found, "", remedy]);
        return checkup;
    }
    let (config, problems) = NodeConfig::load_partly(&path, Mode::Development);
    if !problems.is_empty() {
        let found = format!("node.toml has {} mistakes", problems.len());
        let remedy = "see them with `alknet check`; what could be read is looked at";
        checkup.deployment("deployment", State::Note, [&found, "", remedy]);
    }
    let Some(config) = config else { return checkup };
    let named = match NodeFile::load(&path) {
        Ok(node) => name.map(str::to_owned).or_else(|| node.plugin_of(file)),
        Err(_) => name.map(str::to_owned),
    };
    let named = named.or_else(|| Some(subject.manifest.as_ref()?.name.clone()));
    let stanza = config.plugins.iter().find(|stanza| Some(&stanza.name) == named.as_ref());
    match (stanza, name) {
        (Some(stanza), _) => checkup.stanza = Some(stanza.name.clone()),
        (None, Some(name)) => {
            let found = format!("node.toml has no plugin `{name}`");
            let remedy = "see those that there are with `alknet plugin list`";
            checkup.deployment("stanza", State::Wrong, [&found, "", remedy]);
        }
        (None, None) => {
            let remedy = "`alknet plugin install` adds one; what it would need is noted below";
            checkup.deployment("stanza", State::Note, ["node.toml has none for it", "", remedy]);
        }
    }
    let empty = PluginStanza::named(named.unwrap_or_default());
    pinned(file, &subject, &config, stanza, &mut checkup);
    if let Some(manifest) = &subject.manifest {
        granted(manifest, stanza.unwrap_or(&empty), stanza.is_some(), &mut checkup);
        let served = Served::of(&config, directory, &stanza.unwrap_or(&empty).name, &mut checkup);
        collisions(manifest, stanza.unwrap_or(&empty), &served, &mut checkup);
        reach(manifest, stanza.unwrap_or(&empty), &served, &mut checkup);
    }
    limits(subject.kind, stanza, &mut checkup);
    checkup
}

/// Reads the file as far as it goes; `None` where it is not to be looked at further.
fn read(file: &Path, checkup: &mut Checkup) -> Option<Subject> {
    if !Package::is_one(file) {
        let policy = Policy { allow_unpinned: true, ..Policy::default() };
        return match Artifact::read(file, &policy) {
            Ok(artifact) => {
                checkup.file(
                    "file",
                    State::Ok,
                    ["a regular file that nobody else writes to", "", ""],
                );
                Some(opened(artifact, None, checkup))
            }
            Err(error) => {
                checkup.file("file", State::Wrong, [&error.to_string(), "", ""]);
                None
            }
        };
    }
    let package = match Package::read(file, |name| name.starts_with("artifacts/")) {
        Ok(package) => package,
        Err(error) => {
            checkup.file("package", State::Wrong, [&error.fault.to_string(), "", ""]);
            return None;
        }
    };
    checkup.file("package", State::Ok, ["each entry is what its index announces", "", ""]);
    match package.choose(None) {
        Ok(chosen) => {
            let bytes = package.content(&chosen.name()).unwrap_or_default().to_vec();
            let artifact = Artifact { path: file.to_owned(), bytes, sha256: chosen.sha256.0 };
            Some(opened(artifact, Some(package), checkup))
        }
        Err(error) => {
            let targets = package.index.artifacts.iter().map(|one| one.target.as_str());
            let found = targets.collect::<Vec<_>>().join(", ");
            let expected = Target::here().to_string();
            checkup.file("target", State::Wrong, [&found, &expected, &error.fault.to_string()]);
            let manifest = Some(package.index.manifest.clone());
            Some(Subject { sha256: None, kind: None, manifest, package: Some(package) })
        }
    }
}

/// Opens the artifact as start-up would.
fn opened(artifact: Artifact, package: Option<Package>, checkup: &mut Checkup) -> Subject {
    let here = Target::here().to_string();
    let sha256 = Some(Digest(artifact.sha256));
    let declared = package.as_ref().map(|package| package.index.manifest.clone());
    let kind = match artifact.kind() {
        Ok(kind) => kind,
        Err(error) => {
            let expected = "a shared library (ELF) or a component";
            checkup.file("kind", State::Wrong, [&error.to_string(), expected, ""]);
            return Subject { sha256, kind: None, manifest: declared, package };
        }
    };
    let manifest = match open(artifact) {
        Ok(opened) => {
            let target = if kind == Kind::Component { "any".to_owned() } else { here.clone() };
            checkup.file("target", State::Ok, [&target, &here, ""]);
            checkup.file("interface", State::Ok, ["it loads, and declares itself", "", ""]);
            Some(opened.manifest().clone())
        }
        Err(error) => {
            refused(&error, &here, checkup);
            None
        }
    };
    if let (Some(manifest), Some(declared)) = (&manifest, &declared)
        && manifest != declared
    {
        let remedy = "tell its publisher, and do not install it";
        let found = "it declares something else than its package's index";
        checkup.file("manifest", State::Wrong, [found, "", remedy]);
    }
    Subject { sha256, kind: Some(kind), manifest: manifest.or(declared), package }
}

/// Why the artifact does not load, by the field that it is about.
fn refused(error: &LoadError, here: &str, checkup: &mut Checkup) {
    let api = api_text(API_VERSION);
    let text = error.to_string();
    match error {
        LoadError::Architecture { found, expected, .. } => {
            checkup.file(
                "target",
                State::Wrong,
                [found, expected, "get the build for this machine"],
            );
        }
        LoadError::Api { found, .. } => {
            checkup.file("API version", State::Wrong, [found, &api, &text]);
        }
        LoadError::Layout { .. } | LoadError::Header { .. } | LoadError::NoSymbol { .. } => {
            checkup.file("interface", State::Wrong, [&text, &api, ""]);
        }
        #[cfg(not(feature = "components"))]
        LoadError::NoComponents { .. } => {
            checkup.file("kind", State::Wrong, ["a component", "native plugins only", &text]);
        }
        #[cfg(feature = "components")]
        LoadError::Component { cause, .. } => match cause {
            crate::plugins::component::ComponentError::Version { found } => {
                checkup.file("API version", State::Wrong, [found, &api, &text]);
            }
            _ => checkup.file("interface", State::Wrong, [&text, &api, ""]),
        },
        _ => checkup.file("loads", State::Wrong, [&text, here, ""]),
    }
}

fn api_text((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

fn api(manifest: &Manifest, checkup: &mut Checkup) {
    if checkup.checks.iter().any(|check| check.field == "API version") {
        return;
    }
    let (found, expected) = (api_text(manifest.api), api_text(API_VERSION));
    let (state, remedy) = match (manifest.api.0 == API_VERSION.0, manifest.api.1 > API_VERSION.1) {
        (false, _) => {
            (State::Wrong, "major versions must agree: get another build, or another alknet")
        }
        (true, true) => (State::Note, "it may ask for what this alknet does not have yet"),
        (true, false) => (State::Ok, ""),
    };
    checkup.file("API version", state, [&found, &expected, remedy]);
}

/// Digest and signature against what the node asks for.
fn pinned(
    file: &Path,
    subject: &Subject,
    config: &NodeConfig,
    stanza: Option<&PluginStanza>,
    checkup: &mut Checkup,
) {
    let deployed = stanza.filter(|_| subject.package.is_none());
    if let (Some(stanza), Some(found)) = (stanza, subject.sha256) {
        let (state, remedy) = match (stanza.sha256, &subject.package) {
            (Some(pinned), _) if pinned == found => (State::Ok, ""),
            (_, Some(_)) => {
                (State::Note, "it is not what runs; `alknet plugin install` upgrades to it")
            }
            (Some(_), None) => (
                State::Wrong,
                "if you replaced the plugin on purpose, `alknet plugin pin` it; otherwise find out who did",
            ),
            (None, None) => (State::Wrong, "`alknet plugin pin` it"),
        };
        let pinned = stanza.sha256.map_or("not pinned".to_owned(), |pinned| pinned.to_string());
        checkup.deployment("digest", state, [&found.to_string(), &pinned, remedy]);
    }
    if let Some(wanted) = stanza.and_then(|stanza| stanza.kind)
        && subject.kind.is_some_and(|kind| kind != wanted)
    {
        let found = subject.kind.map(Kind::name).unwrap_or_default();
        let remedy = "correct `kind` in its stanza, or leave it out";
        checkup.deployment("kind", State::Wrong, [found, wanted.name(), remedy]);
    }
    signature(file, subject, config, deployed, checkup);
}

fn signature(
    file: &Path,
    subject: &Subject,
    config: &NodeConfig,
    deployed: Option<&PluginStanza>,
    checkup: &mut Checkup,
) {
    let keys = &config.trusted_plugin_keys;
    let expected = match keys.len() {
        0 => "none asked for".to_owned(),
        1 => keys[0].to_string(),
        count => format!("one of {count} trusted keys"),
    };
    let stated = deployed.and_then(|stanza| stanza.signature);
    if keys.is_empty() {
        let (state, remedy) = match stated {
            Some(_) => (
                State::Wrong,
                "add its publisher's key to `trusted_plugin_keys`, or remove `signature`",
            ),
            None => (State::Ok, ""),
        };
        let found = match (stated, subject.package.as_ref().and_then(|one| one.index.signer)) {
            (Some(_), _) => "a signature that nothing checks".to_owned(),
            (None, Some(signer)) => format!("signed by {signer}"),
            (None, None) => "not signed".to_owned(),
        };
        checkup.add(About::Trust, "signature", state, [&found, &expected, remedy]);
        return;
    }
    let signed_by = |signature: Signature| {
        let sha256 = subject.sha256?;
        keys.iter().find(|key| signed_artifact(key, &sha256, &signature))
    };
    let beside = || {
        let source = SignatureSource::File(signature_file(file));
        source.read(file).ok().map(Signature)
    };
    let (signed, trusted) = match &subject.package {
        Some(package) => {
            let signer = package.index.signer;
            (signer.is_some(), signer.filter(|signer| keys.contains(signer)))
        }
        None => {
            let signature = stated.or_else(|| deployed.is_none().then(beside)?);
            (signature.is_some(), signature.and_then(signed_by).copied())
        }
    };
    let (state, found, remedy) = match (trusted, signed) {
        (Some(key), _) => (State::Ok, format!("signed by {key}"), ""),
        (None, true) => (
            State::Wrong,
            "signed by no trusted key".to_owned(),
            "get it from its publisher again, or add the publisher's key to `trusted_plugin_keys`",
        ),
        (None, false) => (
            State::Wrong,
            "not signed".to_owned(),
            "ask its publisher for a signature, and write it with `alknet plugin pin`",
        ),
    };
    checkup.add(About::Trust, "signature", state, [&found, &expected, remedy]);
}

/// What the plugin wants against what its stanza grants.
fn granted(manifest: &Manifest, stanza: &PluginStanza, deployed: bool, checkup: &mut Checkup) {
    for (field, problems) in loading::mismatches(stanza, manifest) {
        let well = match field {
            "capabilities" => match manifest.capabilities.len() {
                0 => "it wants none".to_owned(),
                _ => {
                    let wanted = manifest.capabilities.iter().map(|wish| wish.name.as_str());
                    format!("granted as wanted: {}", wanted.collect::<Vec<_>>().join(", "))
                }
            },
            "gateway" if manifest.gateway => "granted as wanted".to_owned(),
            "gateway" => "not wanted".to_owned(),
            "ALPNs" => manifest.alpns.join(", "),
            _ => "it fits".to_owned(),
        };
        checkup.problems(field, problems, deployed, well);
    }
    for name in manifest.capabilities.iter().filter(|wish| wish.optional).map(|wish| &wish.name) {
        if !stanza.capabilities.contains_key(name) {
            let found = format!("`{name}` is wanted, and it does without");
            let remedy = "grant it if you want what it is for; see `alknet plugin inspect`";
            checkup.deployment("capabilities", State::Note, [&found, "", remedy]);
        }
    }
    let unknown = registering::unknown(stanza, manifest);
    if !unknown.is_empty() {
        checkup.problems("hide, expose", unknown, deployed, String::new());
    }
}

/// What the rest of the deployment serves.
struct Served {
    /// ALPNs, and by whom.
    alpns: Vec<(String, String)>,
    /// Operations, and by whom.
    operations: Vec<(String, String)>,
    /// What names of imported operations begin with, and of which import.
    prefixes: Vec<(String, String)>,
    /// Whether every plugin could be looked at.
    complete: bool,
}

impl Served {
    fn of(
        config: &NodeConfig,
        directory: &NodeDirectory,
        but: &str,
        checkup: &mut Checkup,
    ) -> Self {
        let mut served = Self {
            alpns: Vec::new(),
            operations: Vec::new(),
            prefixes: Vec::new(),
            complete: true,
        };
        for stanza in config.plugins.iter().filter(|stanza| stanza.name != but) {
            let manifest = match inspect(&stanza.artifact) {
                Ok((_, opened)) => opened.manifest().clone(),
                Err(error) => {
                    served.complete = false;
                    let found = format!("plugin `{}` cannot be looked at: {error}", stanza.name);
                    checkup.deployment(
                        "deployment",
                        State::Note,
                        [&found, "", "see `alknet check`"],
                    );
                    continue;
                }
            };
            let alpns = stanza.alpn.clone().unwrap_or(manifest.alpns);
            served.alpns.extend(alpns.into_iter().map(|alpn| (alpn, stanza.name.clone())));
            let operations = manifest.operations.into_iter().map(|spec| spec.name);
            served.operations.extend(operations.map(|name| (name, stanza.name.clone())));
        }
        let own = operator::operations(&Sources::default()).manifest.operations;
        let own = own.into_iter().map(|spec| spec.name).chain(discovery_names());
        served.operations.extend(own.map(|name| (name, "the node itself".to_owned())));
        let access = AccessConfig::load(&directory.access_config()).unwrap_or_default();
        let imports = importing::plan(config, &access, None).unwrap_or_default();
        for import in imports.iter().map(super::ImportPreview::from) {
            served.prefixes.push((format!("{}/", import.prefix), import.name));
        }
        let reserved =
            RESERVED_PREFIXES.map(|prefix| (prefix.to_owned(), "the node itself".into()));
        served.prefixes.extend(reserved);
        served
    }
}

/// ALPNs and operations that somebody else serves already.
fn collisions(manifest: &Manifest, stanza: &PluginStanza, served: &Served, checkup: &mut Checkup) {
    let alpns = stanza.alpn.as_ref().unwrap_or(&manifest.alpns);
    let mut free = true;
    for (alpn, by) in served.alpns.iter().filter(|(alpn, _)| alpns.contains(alpn)) {
        free = false;
        let remedy = "leave it out of the `alpn` list of one of them";
        let (found, by) = (format!("`{alpn}`"), format!("served by `{by}`"));
        checkup.deployment("ALPN collision", State::Wrong, [&found, &by, remedy]);
    }
    for spec in &manifest.operations {
        let name = &spec.name;
        let same = served.operations.iter().find(|(other, _)| other == name);
        let below = served.prefixes.iter().find(|(prefix, _)| name.starts_with(prefix));
        let (by, remedy) = match (same, below) {
            (Some((_, by)), _) => (format!("served by `{by}`"), "leave one of them out"),
            (None, Some((prefix, by))) => (
                format!("`{prefix}…` is of `{by}`"),
                "give the import another `prefix`, or leave one out",
            ),
            (None, None) => continue,
        };
        free = false;
        let found = format!("`/{name}`");
        checkup.deployment("operation collision", State::Wrong, [&found, &by, remedy]);
    }
    if free {
        checkup.deployment("collisions", State::Ok, ["none", "", ""]);
    }
}

/// What the plugin is let reach and nobody serves.
fn reach(manifest: &Manifest, stanza: &PluginStanza, served: &Served, checkup: &mut Checkup) {
    let own = |name: &str| manifest.operations.iter().any(|spec| spec.name == name);
    let there = |name: &str| {
        own(name)
            || served.operations.iter().any(|(other, _)| other == name)
            || served.prefixes.iter().any(|(prefix, _)| name.starts_with(prefix))
    };
    let mut well = true;
    // One of a certain peer is there when the peer is.
    for name in stanza.reach.iter().filter(|name| !name.starts_with('@')) {
        if !there(name) && served.complete {
            well = false;
            let remedy = "correct its `reach`, or deploy what serves it";
            let found = format!("`/{name}` is granted");
            checkup.deployment("reach", State::Note, [&found, "nothing serves it", remedy]);
        }
    }
    if !stanza.reach.is_empty() && stanza.authority.is_none() {
        well = false;
        let remedy = "give it an `authority` with the scopes that these operations ask for";
        let found = "operations are in reach, and it calls as nobody";
        checkup.deployment("reach", State::Note, [found, "", remedy]);
    }
    if well {
        let found = match stanza.reach.len() {
            0 => "nothing is granted".to_owned(),
            _ => format!("granted: {}", stanza.reach.join(", ")),
        };
        checkup.deployment("reach", State::Ok, [&found, "", ""]);
    }
}

/// Limits that nothing would hold it to.
fn limits(kind: Option<Kind>, stanza: Option<&PluginStanza>, checkup: &mut Checkup) {
    let (Some(kind), Some(stanza)) = (kind, stanza) else { return };
    let substrate = plugins::substrate(kind, stanza.isolation);
    let loose = stanza.limits.values.unenforceable(substrate);
    let loose: Vec<_> = loose.map(|(row, _)| row.key).collect();
    match (substrate, loose.is_empty()) {
        (_, false) => {
            let found = format!("{} set, and nothing holds the plugin to it", loose.join(", "));
            let remedy = "remove them, or build the plugin as a component to have them enforced";
            checkup.deployment("limits", State::Note, [&found, "", remedy]);
        }
        (Substrate::Native, true) => {
            let found = "enforced, but memory and computing have none: a native plugin can use \
                         whatever the daemon's process can";
            checkup.deployment("limits", State::Ok, [found, "", ""]);
        }
        (Substrate::Component | Substrate::Process, true) => {
            checkup.deployment("limits", State::Ok, ["enforced", "", ""]);
        }
    }
}
