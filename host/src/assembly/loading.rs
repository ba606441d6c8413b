//! Loading one plugin of the deployment file: verify, open, check against the
//! stanza, build.

use std::collections::BTreeMap;
use std::time::Instant;

use alknet_plugin_api::{Host, Json, Manifest};

use crate::config::{Mode, NodeConfig, PluginStanza, Problem, Problems};
use crate::observe::status::PluginStatus;
#[cfg(feature = "components")]
use crate::plugins::component;
use crate::plugins::{Artifact, Kind, LoadError, LoadedPlugin, Opened, artifact, native};
use crate::services::{PluginHost, Shared};

/// What became of a stanza.
pub(super) enum Loaded {
    /// The plugin is ready.
    Ready(Box<LoadedPlugin>),
    /// The node does without it, because the stanza says `required = false`.
    Missing(Box<PluginStatus>),
}

/// Loads plugins one after the other.
pub(super) struct Loader<'a> {
    policy: artifact::Policy,
    config: &'a NodeConfig,
    shared: Shared,
    #[cfg(feature = "components")]
    engine: Option<component::Engine>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(config: &'a NodeConfig, mode: Mode, shared: Shared) -> Self {
        Self {
            policy: artifact::Policy::new(config, mode),
            config,
            shared,
            #[cfg(feature = "components")]
            engine: None,
        }
    }

    pub(super) fn load(&mut self, stanza: &PluginStanza) -> Result<Loaded, Problems> {
        let start = Instant::now();
        let opened = match self.open(stanza) {
            Ok(opened) => opened,
            Err(error) => return self.refuse(stanza, error),
        };
        let problems = mismatches(stanza, opened.1.manifest());
        if !problems.is_empty() {
            return Err(problems);
        }
        let (sha256, opened) = opened;
        let kind = opened.kind();
        let host = PluginHost::new(
            stanza.name.as_str(),
            self.shared.clone(),
            BTreeMap::new(),
            stanza.gateway,
        );
        let settings = Json::from(stanza.config.value().clone());
        match opened.build(Host::new(std::sync::Arc::new(host)), settings) {
            Ok(built) => Ok(Loaded::Ready(Box::new(LoadedPlugin {
                name: stanza.name.clone(),
                kind,
                path: stanza.artifact.clone(),
                sha256,
                load_time: start.elapsed(),
                built,
            }))),
            Err(error) => self.refuse(stanza, error),
        }
    }
}

/// Where stanza and manifest disagree.
fn mismatches(stanza: &PluginStanza, manifest: &Manifest) -> Problems {
    let mut problems = Problems::default();
    for error in manifest.problems() {
        problems.push(stanza.problem(
            "artifact",
            format!("plugin `{}` declares itself wrongly: {error}", stanza.name),
            "ask the plugin's author for a corrected build",
        ));
    }
    for alpn in stanza.alpn.iter().flatten() {
        if !manifest.alpns.contains(alpn) {
            problems.push(stanza.problem(
                "alpn",
                format!("plugin `{}` does not provide ALPN `{alpn}`", stanza.name),
                match manifest.alpns.is_empty() {
                    true => "remove `alpn`: the plugin provides none".to_owned(),
                    false => format!("choose from: {}", manifest.alpns.join(", ")),
                },
            ));
        }
    }
    if manifest.gateway && !stanza.gateway {
        problems.push(stanza.problem(
            "name",
            format!("plugin `{}` makes calls on behalf of its peers, which is not granted", stanza.name),
            "write `gateway = true` in its stanza, or leave the plugin out",
        ));
    }
    for wish in &manifest.capabilities {
        match stanza.capabilities.get(&wish.name) {
            Some(grant) if grant.kind != wish.kind => problems.push(stanza.problem(
                "capabilities",
                format!(
                    "plugin `{}` wants capability `{}` of kind {:?}, not {:?}",
                    stanza.name, wish.name, wish.kind, grant.kind
                ),
                "change its `kind`",
            )),
            None if !wish.optional => problems.push(stanza.problem(
                "capabilities",
                format!(
                    "plugin `{}` wants capability `{}`: {}",
                    stanza.name, wish.name, wish.description
                ),
                format!("grant it: `capabilities.{} = {{ entry = \"…\", kind = \"…\" }}`", wish.name),
            )),
            _ => {}
        }
    }
    for name in stanza.capabilities.keys() {
        if !manifest.capabilities.iter().any(|wish| wish.name == *name) {
            problems.push(stanza.problem(
                "capabilities",
                format!("plugin `{}` does not ask for capability `{name}`", stanza.name),
                "remove it: nothing is lent unasked",
            ));
        }
    }
    problems.extend(settings_problems(stanza, manifest));
    problems
}

/// What the plugin's own schema refuses in its configuration.
fn settings_problems(stanza: &PluginStanza, manifest: &Manifest) -> Vec<Problem> {
    let settings = stanza.config.value();
    if manifest.config_schema == serde_json::Value::Bool(false) {
        let empty = settings.as_object().is_none_or(serde_json::Map::is_empty);
        return match empty {
            true => Vec::new(),
            false => vec![stanza.problem(
                "config",
                format!("plugin `{}` takes no configuration", stanza.name),
                "remove `config`",
            )],
        };
    }
    let validator = match jsonschema::validator_for(&manifest.config_schema) {
        Ok(validator) => validator,
        Err(error) => {
            return vec![stanza.problem(
                "artifact",
                format!("plugin `{}`: its configuration's schema is broken: {error}", stanza.name),
                "ask the plugin's author for a corrected build",
            )];
        }
    };
    let refused = validator.iter_errors(settings).map(|error| {
        stanza.config_place(&error.instance_path().to_string()).problem(
            format!("plugin `{}` refuses its configuration: {error}", stanza.name),
            "see what it takes with `alknet plugin inspect`",
        )
    });
    refused.collect()
}
