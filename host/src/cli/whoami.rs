//! `alknet whoami`: as whom the node sees the command line.

use alknet_plugin_api::{Identity, Json};
use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::call::malformed;
use super::client::{block_on, one_call};
use super::failure::Failure;
use super::output::visible;
use super::{Global, Output};
use crate::endpoint::NodeKey;

/// Show as whom the node sees you, and your public key
#[derive(Debug, Args)]
pub(super) struct Whoami {}

#[derive(Deserialize)]
struct Answer {
    identity: Option<Identity>,
}

impl Whoami {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let target = global.target()?;
        let answer = block_on(one_call(&target, "/services/whoami", Json::empty_object(), None))?;
        let Answer { identity } = answer.to().map_err(malformed)?;
        // A token takes the key's place: the node answers for what was sent.
        let by = match (&target.token, &target.client_key) {
            (Some(_), _) => "token",
            (None, Some(_)) => "key",
            (None, None) => "nothing",
        };
        let seed = target.client_key.as_ref();
        let key = seed.map(|seed| NodeKey::from_seed(**seed).public().fingerprint());
        if output.is_json() {
            return output.json(&json!({ "identity": identity, "by": by, "key": key }));
        }
        let Some(identity) = identity else {
            return output.line(&match (by, key) {
                ("key", Some(key)) => format!(
                    "a stranger: the node does not know this key\n\
                     key        {key}\n\
                     its operator adds it by `alknet peer add NAME --key {key}`"
                ),
                _ => "a stranger: there is no client.key and no token".to_owned(),
            });
        };
        output.line(&visible(&format!("{}, by {by}", identity.id)))?;
        output.line(&visible(&format!("scopes     {}", identity.scopes.join(", "))))?;
        for (kind, actions) in &identity.resources {
            output.line(&visible(&format!("resources  {kind}: {}", actions.join(", "))))?;
        }
        if let Some(key) = key {
            output.line(&format!("key        {key}"))?;
        }
        Ok(())
    }
}
