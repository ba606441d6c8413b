//! Asking a node what it offers, and mirroring it.

use std::collections::HashSet;
use std::sync::Arc;

use alknet_plugin_api::{CallError, OperationSpec, OperationType, code};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;

use super::remote::Remote;
use super::{FromCallConfig, Link, request, token};
use crate::imports::{AdapterError, leaf};
use crate::registry::{Code, HandlerRegistration, Provenance};

/// Schemas that are asked for at a time.
const AT_ONCE: usize = 32;
/// More operations than any node should have.
const MAX_OPERATIONS: usize = 4096;
/// Bytes of specs that a node may have this one keep.
const MAX_SPECS: usize = 32 << 20;

/// Names that a peer offers and that are never imported: discovery, which this node
/// has itself, and what the peer has from others: imports go one hop.
const NOT_ITS_OWN: [&str; 3] = ["services/", "peer/", "session/"];

#[derive(Deserialize)]
struct List {
    operations: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// The operations of the peer at the other end, as this node's own.
///
/// # Errors
/// The peer does not say what it offers, or offers what this node cannot have.
pub async fn from_call(
    link: &Arc<Link>,
    config: &FromCallConfig,
) -> Result<Vec<HandlerRegistration>, AdapterError> {
    let source_name = config.source_name();
    let failed = |error: CallError| refused(config, &error);
    let token = token(&config.import, config.credential.as_ref()).map_err(failed)?;
    let options = request(config, token);
    let listed = link
        .calls
        .call_with("services/list", alknet_plugin_api::Json::empty_object(), options.clone())
        .await
        .map_err(failed)?;
    let list: List = listed.to().map_err(|error| AdapterError::SchemaParse {
        source_name: source_name.clone(),
        operation: "services/list".to_owned(),
        cause: error.to_string(),
    })?;
    let names = wanted(config, list)?;
    let asked: Vec<_> = names
        .iter()
        .map(|(own, _)| {
            let (options, input) = (options.clone(), serde_json::json!({ "name": own }));
            link.calls.call_with("services/schema", input, options)
        })
        .collect();
    let answers: Vec<_> =
        stream::iter(asked).buffered(AT_ONCE).try_collect().await.map_err(failed)?;
    let size: usize = answers.iter().map(|answer| answer.as_bytes().len()).sum();
    if size > MAX_SPECS {
        return Err(too_much(config, format!("its specs have {} MiB together", size >> 20)));
    }
    let mut operations = Vec::with_capacity(names.len());
    for ((own, name), answer) in names.into_iter().zip(answers) {
        let bad = |cause: String| AdapterError::SchemaParse {
            source_name: source_name.clone(),
            operation: own.clone(),
            cause,
        };
        let spec: OperationSpec = answer.to().map_err(|error| bad(error.to_string()))?;
        if spec.name != own {
            return Err(bad(format!("it is described as `{}`", spec.name)));
        }
        operations.push(mirror(link, config, spec, name));
    }
    Ok(operations)
}

/// The peer's names of what is wanted, with the node's.
fn wanted(config: &FromCallConfig, list: List) -> Result<Vec<(String, String)>, AdapterError> {
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    for Named { name } in list.operations {
        if NOT_ITS_OWN.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let Some(local) = config.selection.name(&name) else { continue };
        if !seen.insert(name.clone()) {
            let source_name = config.source_name();
            return Err(AdapterError::SamePeerCollision { source_name, operation: name });
        }
        names.push((name, local));
    }
    if names.len() > MAX_OPERATIONS {
        return Err(too_much(config, format!("it offers {} operations", names.len())));
    }
    Ok(names)
}

fn too_much(config: &FromCallConfig, cause: String) -> AdapterError {
    AdapterError::DiscoveryFailed {
        source_name: config.source_name(),
        cause,
        remedy: "choose fewer with `include`".to_owned(),
    }
}

fn refused(config: &FromCallConfig, error: &CallError) -> AdapterError {
    let (source_name, cause) = (config.source_name(), error.to_string());
    match &*error.code {
        code::FORBIDDEN => AdapterError::Unauthorized {
            source_name,
            cause,
            remedy: "store a token that the peer's access.toml knows under the credential's \
                     vault entry"
                .to_owned(),
        },
        _ => AdapterError::DiscoveryFailed {
            source_name,
            cause,
            remedy: "look at the peer's log; this node asks again".to_owned(),
        },
    }
}

/// The peer's spec under this node's name. Its visibility is the deployment file's
/// affair.
fn mirror(
    link: &Arc<Link>,
    config: &FromCallConfig,
    mut spec: OperationSpec,
    name: String,
) -> HandlerRegistration {
    let remote = Arc::new(Remote::new(link, config, &spec.name));
    let code = match spec.op_type {
        OperationType::Subscription => Code::HostStream(remote),
        OperationType::Query | OperationType::Mutation => Code::Host(remote),
    };
    spec.namespace = name.split('/').next().unwrap_or_default().to_owned();
    spec.name = name;
    leaf(spec, code, &config.import, Provenance::FromCall, config.credential.as_ref())
}
