//! The operations: answers, errors, subscriptions and trouble.

use std::time::Duration;

use alknet_plugin_api::http::HttpRequest;
use alknet_plugin_api::prelude::*;
use alknet_plugin_api::{CapabilityKind, CapabilityRequest, PeerRef};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::Value;

use crate::memory::holds;
use crate::trouble::{Bomb, Waiting, allocate, crash, spin};

/// The one error that the operations declare.
const FAILED: &str = "CONFORMANCE_FAILED";

pub(crate) fn declare(manifest: Manifest) -> Manifest {
    let query = |name: &str, description: &str| {
        OperationSpec::query(format!("conformance/{name}")).description(description)
    };
    let subscription = |name: &str, description: &str| {
        OperationSpec::subscription(format!("conformance/{name}")).description(description)
    };
    let capability = |name: &str, kind, description: &str| CapabilityRequest {
        name: name.to_owned(),
        kind,
        description: description.to_owned(),
        optional: true,
    };
    manifest
        .capability(capability("secret", CapabilityKind::Bytes, "Shown in part: it was lent"))
        .capability(capability("search", CapabilityKind::Bearer, "Sent and never seen"))
        .capability(capability("key", CapabilityKind::Sign, "Signs and is never seen"))
        .operation(query("echo", "Answers with its input"))
        .operation(query("greeting", "Answers with the configured greeting"))
        .operation(
            query("fail", "Fails with the code it is given")
                .error(FAILED, "When asked for; no other code is declared"),
        )
        .operation(query("context", "Answers with what it knows of the call"))
        .operation(query("capability", "Answers with a capability's kind and size"))
        .operation(query("sign", "Answers with a capability's signature"))
        .operation(query("send", "Has the host send a request; says if it then holds a text"))
        .operation(query("compose", "Calls the operation it is given"))
        .operation(query("peer", "Calls an operation of a peer, the named one or any"))
        .operation(query("relay", "Collects the items of the subscription it is given"))
        .operation(query("sleep", "Answers after so many milliseconds"))
        .operation(query("wait", "Never answers; logs when it is dropped"))
        .operation(query("panic", "Panics"))
        .operation(query("panic_in_drop", "Answers, and panics when its future is dropped"))
        .operation(query("spin", "Holds its thread, for so many milliseconds or for ever"))
        .operation(query("allocate", "Takes so many bytes of memory"))
        .operation(query("crash", "Ends its process: `segv`, `abort` or `exit`"))
        .operation(
            subscription("count", "Counts to a number, then ends or fails")
                .error(FAILED, "When asked for"),
        )
        .operation(subscription("forever", "Counts for ever; logs when it is dropped"))
        .operation(subscription("panic_after", "Panics after so many items"))
}

#[derive(Deserialize)]
struct Send {
    capability: String,
    url: Option<String>,
    /// The text to look for; see [`holds`].
    masked: Vec<u8>,
}

#[derive(Deserialize)]
struct Compose {
    name: String,
    #[serde(default)]
    input: Value,
}

#[derive(Deserialize)]
struct AtPeer {
    /// Any peer without one.
    peer: Option<String>,
    name: String,
    #[serde(default)]
    input: Value,
}

#[derive(Deserialize)]
struct Count {
    to: u64,
    #[serde(default)]
    fail: Option<String>,
}

pub(crate) fn attach(host: Host, greeting: String, on: &mut Registrar) {
    on.operation_json("conformance/echo", |_, input| async move { Ok(input) });
    on.operation("conformance/greeting", move |_, _: Value| {
        let greeting = greeting.clone();
        async move { Ok(greeting) }
    });
    on.operation("conformance/fail", |_, code: String| async move { Err::<(), _>(failure(code)) });
    on.operation("conformance/context", |context, _: Value| async move {
        let info = context.info();
        Ok(json!({
            "request_id": info.request_id,
            "operation": info.operation,
            "identity": info.identity,
            "forwarded_for": info.forwarded_for,
            "internal": context.is_internal(),
            "cancelled": context.is_cancelled(),
            "remaining_ms": context.remaining().map(|left| left.as_millis() as u64),
        }))
    });
    on.operation("conformance/capability", |context, name: String| async move {
        Ok(context.capability(&name).map(|capability| {
            json!({
                "kind": capability.kind(),
                "bytes": capability.reveal().map(|secret| secret.len()),
            })
        }))
    });
    on.operation("conformance/sign", |context, (name, text): (String, String)| async move {
        let signature = context.capability(&name).and_then(|key| key.sign(text.as_bytes()));
        Ok(signature.map(Vec::from))
    });
    on.operation("conformance/send", |context, input: Send| async move {
        let capability = context.capability(&input.capability);
        let capability = capability.ok_or_else(|| CallError::not_found("not lent"))?;
        let shown = capability.reveal();
        let answer = match input.url {
            Some(url) => {
                let request = HttpRequest::post(url, "question").header("authorization", "mine");
                match capability.send(request).await {
                    Ok(answer) => json!({
                        "status": answer.status,
                        "kind": answer.header("content-type"),
                        "body": String::from_utf8_lossy(&answer.body),
                    }),
                    Err(error) => json!({ "error": error }),
                }
            }
            None => Value::Null,
        };
        tracing::info!("sent with {capability:?}");
        let holds = holds(&input.masked);
        Ok(json!({ "answer": answer, "shown": shown.is_some(), "holds": holds }))
    });
    on.operation_json("conformance/compose", |context, input| async move {
        let inner: Compose =
            input.to().map_err(|error| CallError::invalid_input(error.to_string()))?;
        context.invoke(&inner.name, inner.input).await
    });
    on.operation_json("conformance/peer", |context, input| async move {
        let inner: AtPeer =
            input.to().map_err(|error| CallError::invalid_input(error.to_string()))?;
        let peer = inner.peer.map_or(PeerRef::Any, PeerRef::Specific);
        context.env().invoke_peer(peer, &inner.name, inner.input.into()).await
    });
    on.operation("conformance/relay", |context, inner: Compose| async move {
        let mut items = context.subscribe(&inner.name, inner.input);
        let mut collected = Vec::new();
        while let Some(item) = items.next().await {
            collected.push(item?);
        }
        Ok(collected)
    });
    trouble(&host, on);
    subscriptions(on);
}

fn trouble(host: &Host, on: &mut Registrar) {
    let clock = host.clone();
    on.operation("conformance/sleep", move |_, ms: u64| {
        let host = clock.clone();
        async move {
            host.sleep(Duration::from_millis(ms)).await;
            Ok("slept")
        }
    });
    on.operation("conformance/wait", |_, mark: String| async move {
        let _waiting = Waiting::begin(mark);
        std::future::pending::<()>().await;
        Ok(())
    });
    on.operation("conformance/panic", |_, _: Value| async move {
        if true {
            panic!("panicked in an operation, as asked");
        }
        Ok(())
    });
    on.operation("conformance/panic_in_drop", |_, _: Value| {
        let bomb = Bomb;
        // The answer is on its way before the bomb, the future's own, goes off.
        let mut answered = false;
        std::future::poll_fn(move |_| {
            let _held = &bomb;
            assert!(!std::mem::replace(&mut answered, true), "polled after its answer");
            std::task::Poll::Ready(Ok("answered"))
        })
    });
    let clock = host.clone();
    on.operation("conformance/spin", move |_, ms: Option<u64>| {
        let host = clock.clone();
        async move {
            spin(&host, ms.map(Duration::from_millis));
            Ok("spun")
        }
    });
    on.operation("conformance/allocate", |_, bytes: u64| async move { Ok(allocate(bytes)) });
    on.operation("conformance/crash", |_, how: String| async move {
        crash(&how);
        Ok(())
    });
}

fn subscriptions(on: &mut Registrar) {
    on.subscription("conformance/count", |_, count: Count, mut items| async move {
        for n in 0..count.to {
            items.send(&n).await?;
        }
        count.fail.map_or(Ok(()), |code| Err(failure(code)))
    });
    on.subscription("conformance/forever", |_, mark: String, mut items| async move {
        let _waiting = Waiting::begin(mark);
        for n in 0u64.. {
            items.send(&n).await?;
        }
        Ok(())
    });
    on.subscription("conformance/panic_after", |_, count: u64, mut items| async move {
        for n in 0..count {
            items.send(&n).await?;
        }
        if true {
            panic!("panicked in a subscription, as asked");
        }
        Ok(())
    });
}

fn failure(code: String) -> CallError {
    CallError::new(code, "failed, as asked").with_details(json!({ "asked": true }))
}
