//! Loading one plugin of the deployment file: verify, open, check against the
//! stanza, build.

use std::sync::Arc;
use std::time::Instant;

use alknet_plugin_api::{Host, Json, Manifest};
use ed25519_dalek::VerifyingKey;

use super::plugins;
use crate::budget::Meter;
use crate::capabilities::Bundle;
use crate::config::{Isolation, Mode, NodeConfig, Place, PluginStanza, Problem, Problems, Sandbox};
use crate::observe::status::PluginStatus;
#[cfg(feature = "components")]
use crate::plugins::component;
use crate::plugins::{Artifact, Kind, LoadError, LoadedPlugin, Opened, artifact, native, process};
use crate::services::{PluginHost, Shared};

/// The component engine of a node, made when the first component needs it.
#[cfg(feature = "components")]
#[derive(Default)]
struct Components {
    engine: Option<component::Engine>,
    cache_dir: std::path::PathBuf,
}

/// What became of a stanza.
pub(super) enum Loaded {
    /// The plugin is ready.
    Ready(Box<LoadedPlugin>),
    /// The node does without it, because the stanza says `required = false`.
    Missing(Box<PluginStatus>),
}

/// A plugin whose file is in order, and of which nothing but the manifest has run.
struct Verified {
    sha256: [u8; 32],
    meter: Arc<Meter>,
    opened: Box<dyn Opened>,
}

/// Loads plugins one after the other.
pub(super) struct Loader {
    policy: artifact::Policy,
    shared: Shared,
    sandbox: Sandbox,
    #[cfg(feature = "components")]
    components: Components,
}

impl Loader {
    /// # Errors
    /// A trusted key that is no point on the curve.
    pub(super) fn new(config: &NodeConfig, mode: Mode, shared: Shared) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut trusted_keys = Vec::new();
        for key in &config.trusted_plugin_keys {
            match VerifyingKey::from_bytes(&key.0) {
                Ok(key) => trusted_keys.push(key),
                Err(_) => problems.push(Place::file_only(&config.file).problem(
                    format!("`{key}` in `trusted_plugin_keys` is no Ed25519 public key"),
                    "write the maker's public key: 64 hexadecimal digits",
                )),
            }
        }
        let policy = artifact::Policy {
            sha256: None,
            allow_unpinned: mode == Mode::Development,
            signature: None,
            trusted_keys,
        };
        #[cfg(feature = "components")]
        let components =
            Components { engine: None, cache_dir: crate::config::component_cache(&config.file) };
        problems.into_result(Self {
            policy,
            shared,
            sandbox: config.sandbox.clone(),
            #[cfg(feature = "components")]
            components,
        })
    }

    /// Verifies, opens and builds a plugin, and lends it what is in `bundle`.
    pub(super) fn load(
        &mut self,
        stanza: &PluginStanza,
        bundle: &Bundle,
    ) -> Result<Loaded, Problems> {
        let start = Instant::now();
        let Verified { sha256, meter, opened } = match self.open(stanza) {
            Ok(verified) => verified,
            Err(error) => return self.refuse(stanza, error),
        };
        let problems = mismatches(stanza, opened.manifest());
        let problems: Problems = problems.into_iter().flat_map(|(_, found)| found).collect();
        problems.into_result(())?;
        let kind = opened.kind();
        let host = PluginHost::new(
            stanza.name.as_str(),
            self.shared.clone(),
            bundle.of_plugin(),
            stanza.gateway,
            meter.clone(),
        );
        let settings = Json::from(stanza.config.value().clone());
        match opened.build(Host::new(Arc::new(host)), settings) {
            Ok(built) => Ok(Loaded::Ready(Box::new(LoadedPlugin {
                name: stanza.name.clone(),
                kind,
                path: stanza.artifact.clone(),
                sha256,
                load_time: start.elapsed(),
                meter,
                built,
            }))),
            Err(error) => self.refuse(stanza, error),
        }
    }

    /// Whether a plugin may be loaded. The rest has been refused with the file, and no
    /// code of it runs.
    pub(super) fn admits(&self, stanza: &PluginStanza) -> bool {
        let pinned = stanza.sha256.is_some() || self.policy.allow_unpinned;
        let signed = stanza.signature.is_some() || self.policy.trusted_keys.is_empty();
        pinned && signed && !stanza.unclear
    }

    /// Checks the file of a plugin that is not loaded, as far as its stanza says what to
    /// check it against.
    pub(super) fn verify(&self, stanza: &PluginStanza) -> Problems {
        if stanza.artifact.as_os_str().is_empty() {
            return Problems::default();
        }
        let mut policy = self.policy(stanza);
        policy.allow_unpinned = true;
        if policy.signature.is_none() || policy.trusted_keys.is_empty() {
            (policy.signature, policy.trusted_keys) = (None, Vec::new());
        }
        let verified = Artifact::read(&stanza.artifact, &policy).and_then(|artifact| {
            artifact.kind()?;
            Ok(())
        });
        let refused = verified.err().map(|error| self.refuse(stanza, error));
        refused.and_then(Result::err).unwrap_or_default()
    }

    fn policy(&self, stanza: &PluginStanza) -> artifact::Policy {
        artifact::Policy {
            sha256: stanza.sha256.map(|digest| digest.0),
            signature: stanza.signature.as_ref().map(|s| artifact::SignatureSource::Bytes(s.0)),
            ..self.policy.clone()
        }
    }

    fn open(&mut self, stanza: &PluginStanza) -> Result<Verified, LoadError> {
        let artifact = Artifact::read(&stanza.artifact, &self.policy(stanza))?;
        let sha256 = artifact.sha256;
        let found = artifact.kind()?;
        if let Some(expected) = stanza.kind.filter(|kind| *kind != found) {
            return Err(LoadError::Kind { path: artifact.path, expected, found });
        }
        let meter = plugins::meter(found, stanza);
        let opened = match (found, stanza.isolation) {
            (Kind::Component, Isolation::None) => self.open_component(artifact, &meter)?,
            (Kind::Component, Isolation::Process) => {
                return Err(LoadError::Isolation { path: artifact.path });
            }
            (_, Isolation::None) => native::open(&artifact)?,
            (_, Isolation::Process) => {
                process::open(&artifact, plugins::launch(&meter, stanza, &self.sandbox))?
            }
        };
        Ok(Verified { sha256, meter, opened })
    }

    #[cfg(feature = "components")]
    fn open_component(
        &mut self,
        artifact: Artifact,
        meter: &Arc<Meter>,
    ) -> Result<Box<dyn Opened>, LoadError> {
        let limits = component::ComponentLimits::from(meter.limits());
        let engine = match &self.components.engine {
            Some(engine) => engine.clone(),
            None => {
                let options = component::EngineOptions {
                    cache_dir: Some(self.components.cache_dir.clone()),
                    ..Default::default()
                };
                let path = artifact.path.clone();
                let engine = component::Engine::new(options)
                    .map_err(|cause| LoadError::Component { path, cause })?;
                self.components.engine.insert(engine).clone()
            }
        };
        component::open_metered(artifact, &engine, limits, meter.clone())
    }

    #[cfg(not(feature = "components"))]
    fn open_component(
        &mut self,
        artifact: Artifact,
        _: &Arc<Meter>,
    ) -> Result<Box<dyn Opened>, LoadError> {
        Err(LoadError::NoComponents { path: artifact.path })
    }

    /// What follows from a plugin that cannot be loaded: nothing to serve, or a
    /// node that starts without it.
    fn refuse(&self, stanza: &PluginStanza, error: LoadError) -> Result<Loaded, Problems> {
        let text = error.to_string();
        if stanza.required || !error.may_degrade() {
            let mut problems = Problems::default();
            let key = match error {
                LoadError::Digest { .. } | LoadError::Unpinned { .. } => "sha256",
                LoadError::Signature { .. }
                | LoadError::Unsigned { .. }
                | LoadError::SignatureMalformed { .. }
                | LoadError::SignatureUnchecked { .. } => "signature",
                LoadError::Kind { .. } => "kind",
                LoadError::Isolation { .. } => "isolation",
                _ => "artifact",
            };
            let remedy = "see above; `alknet plugin inspect` shows what a file is";
            problems.push(stanza.problem(key, format!("plugin `{}`: {text}", stanza.name), remedy));
            return Err(problems);
        }
        tracing::warn!(plugin = stanza.name, "starting without it: {text}");
        Ok(Loaded::Missing(Box::new(plugins::missing(stanza, text))))
    }
}

/// Where stanza and manifest disagree, by what it is about.
pub(super) fn mismatches(
    stanza: &PluginStanza,
    manifest: &Manifest,
) -> Vec<(&'static str, Vec<Problem>)> {
    let declared = manifest.problems().into_iter().map(|error| {
        stanza.problem(
            "artifact",
            format!("plugin `{}` declares itself wrongly: {error}", stanza.name),
            "ask the plugin's author for a corrected build",
        )
    });
    vec![
        ("manifest", declared.collect()),
        ("ALPNs", alpn_problems(stanza, manifest)),
        ("gateway", gateway_problem(stanza, manifest).into_iter().collect()),
        ("capabilities", capability_problems(stanza, manifest)),
        ("configuration", settings_problems(stanza, manifest)),
    ]
}

fn alpn_problems(stanza: &PluginStanza, manifest: &Manifest) -> Vec<Problem> {
    let listed = stanza.alpn.iter().flatten();
    let missing = listed.filter(|alpn| !manifest.alpns.contains(alpn)).map(|alpn| {
        stanza.problem(
            "alpn",
            format!("plugin `{}` does not provide ALPN `{alpn}`", stanza.name),
            match manifest.alpns.is_empty() {
                true => "remove `alpn`: the plugin provides none".to_owned(),
                false => format!("choose from: {}", manifest.alpns.join(", ")),
            },
        )
    });
    missing.collect()
}

fn gateway_problem(stanza: &PluginStanza, manifest: &Manifest) -> Option<Problem> {
    (manifest.gateway && !stanza.gateway).then(|| {
        stanza.problem(
            "name",
            format!(
                "plugin `{}` makes calls on behalf of its peers, which is not granted",
                stanza.name
            ),
            "write `gateway = true` in its stanza, or leave the plugin out",
        )
    })
}

fn capability_problems(stanza: &PluginStanza, manifest: &Manifest) -> Vec<Problem> {
    let mut problems = Vec::new();
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
                format!(
                    "grant it: `capabilities.{} = {{ entry = \"…\", kind = \"…\" }}`",
                    wish.name
                ),
            )),
            _ => {}
        }
    }
    for (name, grant) in &stanza.capabilities {
        let serves = |wanted: &&String| manifest.operations.iter().any(|o| o.name == **wanted);
        for unknown in grant.operations.iter().filter(|wanted| !serves(wanted)) {
            problems.push(grant.problem(
                format!("plugin `{}` has no operation `{unknown}`", stanza.name),
                "see its operations with `alknet plugin inspect`",
            ));
        }
        if !manifest.capabilities.iter().any(|wish| wish.name == *name) {
            problems.push(stanza.problem(
                "capabilities",
                format!("plugin `{}` does not ask for capability `{name}`", stanza.name),
                "remove it: nothing is lent unasked",
            ));
        }
    }
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
