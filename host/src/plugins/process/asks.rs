//! What the child asks the host for. Each request has one answer, also one that is
//! given up.

use std::future::Future;
use std::sync::Arc;

use alknet_plugin_api::http::HttpRequest;
use alknet_plugin_api::{
    CallError, CallStream, Capability, GatewayCall, GatewayEvent, GatewayRequest, Host, Json,
    OperationEnv, PeerRef, SendStream, code,
};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Serialize;

use super::session::{REQUESTS, Session};
use super::wire::{Answer, Ask, GatewayHead, Id, Way, WireError, call_error, policy};

/// What a child takes one by one.
pub(super) enum Items {
    Calls(CallStream),
    Events(GatewayCall),
}

impl Items {
    async fn next(&mut self) -> (Answer, Bytes) {
        match self {
            Self::Calls(items) => items.next().await.map_or(NOTHING, |item| match item {
                Ok(json) => (Answer::Some, json.into_bytes()),
                Err(error) => refused(&error),
            }),
            Self::Events(call) => call.next().await.map_or(NOTHING, |event| match event {
                GatewayEvent::Responded(json) => (Answer::Some, json.into_bytes()),
                GatewayEvent::Completed => (Answer::Completed, Bytes::new()),
                GatewayEvent::Error(error) => refused(&error),
            }),
        }
    }
}

const NOTHING: (Answer, Bytes) = (Answer::None, Bytes::new());

fn some(bytes: impl Into<Bytes>) -> (Answer, Bytes) {
    (Answer::Some, bytes.into())
}

fn json(value: Option<&impl Serialize>) -> (Answer, Bytes) {
    value.and_then(|value| serde_json::to_vec(value).ok()).map_or(NOTHING, some)
}

fn flag(flag: bool) -> (Answer, Bytes) {
    (Answer::Flag(flag), Bytes::new())
}

fn refused(error: &CallError) -> (Answer, Bytes) {
    (Answer::CallError, call_error(error))
}

fn outcome(result: Result<Json, CallError>) -> (Answer, Bytes) {
    match result {
        Ok(json) => some(json.into_bytes()),
        Err(error) => refused(&error),
    }
}

/// A child's text, which must be what it says, as it is passed on unread.
fn input(body: Bytes) -> Result<Json, CallError> {
    Json::parse(body).map_err(|error| CallError::invalid_input(error.to_string()))
}

fn peer(peer: Option<String>) -> PeerRef {
    peer.map_or(PeerRef::Any, PeerRef::Specific)
}

fn too_many() -> CallError {
    CallError::new(
        code::RESOURCE_EXHAUSTED,
        format!("an isolated plugin may wait for {REQUESTS} answers at a time"),
    )
    .retryable(true)
}

fn no_context() -> CallError {
    CallError::not_found("the call that this belongs to is over")
}

impl Session {
    /// Answers a request, now or as soon as the answer is there.
    pub(super) fn asked(self: &Arc<Self>, request: Id, ask: Ask, body: Bytes) {
        let answer = match self.host() {
            Some(host) => self.answer_to(host, request, ask, body),
            None => Some(NOTHING),
        };
        if let Some((answer, body)) = answer {
            self.answer(request, answer, &body);
        }
    }

    /// The answer, unless it comes later.
    fn answer_to(
        self: &Arc<Self>,
        host: &Host,
        request: Id,
        ask: Ask,
        body: Bytes,
    ) -> Option<(Answer, Bytes)> {
        Some(match ask {
            Ask::Open { conn, way } => {
                self.open_stream(request, conn, way);
                return None;
            }
            Ask::Closed { conn } => {
                let Some(connection) = self.connection(conn) else { return Some(NOTHING) };
                let closed = connection.backend().closed();
                return self.later(request, async move { json(Some(&closed.await)) });
            }
            Ask::ConnShutdown { conn } => {
                let Some(connection) = self.connection(conn) else { return Some(NOTHING) };
                let shutdown = connection.backend().shutdown();
                return self.later(request, nothing_after(shutdown));
            }
            Ask::Stats { conn } => json(self.connection(conn).map(|c| c.stats()).as_ref()),
            Ask::MaxDatagram { conn } => {
                let max = self.connection(conn).and_then(|c| c.max_datagram_size());
                (Answer::Number(max.map(|max| max as u64)), Bytes::new())
            }
            Ask::SetIdentity { conn } => {
                let connection = self.connection(conn);
                let set = connection.zip(serde_json::from_slice(&body).ok());
                flag(set.is_some_and(|(connection, to)| connection.set_identity(to).is_ok()))
            }
            Ask::Identity { conn } => {
                json(self.connection(conn).and_then(|c| c.identity()).as_ref())
            }
            Ask::IsCancelled { call } => {
                let context = self.tables.lock().contexts.get(&call).cloned();
                flag(context.is_none_or(|context| context.is_cancelled()))
            }
            Ask::Cancelled { call } => {
                let Some(context) = self.tables.lock().contexts.get(&call).cloned() else {
                    return Some(NOTHING);
                };
                return self
                    .later(request, nothing_after(async move { context.cancelled().await }));
            }
            Ask::Ownership { call } => {
                let context = self.tables.lock().contexts.get(&call).cloned();
                let Some(context) = context else { return Some(refused(&no_context())) };
                let Ok(asked) = serde_json::from_slice(&body) else { return Some(NOTHING) };
                let answer = context.ownership().request(asked);
                return self.later(request, async move { outcome(answer.await) });
            }
            Ask::Invoke { call, name, policy: wanted } => {
                let (env, input) = match self.composing(host, call, body) {
                    Ok(both) => both,
                    Err(error) => return Some(refused(&error)),
                };
                let answer = match wanted {
                    Some(wanted) => env.invoke_with_policy(&name, input, policy(wanted)),
                    None => env.invoke(&name, input),
                };
                return self.later(request, async move { outcome(answer.await) });
            }
            Ask::InvokePeer { call, peer: of, name } => {
                let (env, input) = match self.composing(host, call, body) {
                    Ok(both) => both,
                    Err(error) => return Some(refused(&error)),
                };
                let answer = env.invoke_peer(peer(of), &name, input);
                return self.later(request, async move { outcome(answer.await) });
            }
            Ask::Subscribe { call, name, policy: wanted, items } => {
                let (env, input) = match self.composing(host, call, body) {
                    Ok(both) => both,
                    Err(error) => return Some(refused(&error)),
                };
                let stream = match wanted {
                    Some(wanted) => env.subscribe_with_policy(&name, input, policy(wanted)),
                    None => env.subscribe(&name, input),
                };
                return self.first(request, items, Items::Calls(stream));
            }
            Ask::NextItem { items } | Ask::NextEvent { items } => {
                return self.next(request, items);
            }
            Ask::Contains { call, name } => {
                flag(self.env(host, call).is_ok_and(|env| env.contains(&name)))
            }
            Ask::PeerContains { call, peer: of, name } => {
                flag(self.env(host, call).is_ok_and(|env| env.peer_contains(&peer(of), &name)))
            }
            Ask::Capability { call, name } => {
                json(self.capability(host, call, &name).map(|lent| lent.kind()).as_ref())
            }
            Ask::Reveal { call, name } => {
                let lent = self.capability(host, call, &name);
                lent.and_then(|lent| lent.reveal()).map_or(NOTHING, some)
            }
            Ask::Sign { call, name } => {
                let lent = self.capability(host, call, &name);
                let signature = lent.and_then(|lent| lent.sign(&body));
                signature.map_or(NOTHING, |signature| some(signature.to_vec()))
            }
            Ask::Send { call, name, head } => {
                let lent = self.capability(host, call, &name);
                let asked = serde_json::from_str::<HttpRequest>(&head).ok();
                let Some((lent, mut asked)) = lent.zip(asked) else { return Some(NOTHING) };
                asked.body = body;
                let answer = lent.send(asked);
                return self.later(request, async move {
                    match answer.await {
                        Ok(answer) => {
                            let head = serde_json::to_string(&answer).unwrap_or_default();
                            (Answer::Http { head }, answer.body)
                        }
                        Err(error) => refused(&error),
                    }
                });
            }
            Ask::ResolveToken => json(host.resolve_token(&body).as_ref()),
            Ask::ResolveFingerprint { fingerprint } => {
                json(host.resolve_fingerprint(&fingerprint).as_ref())
            }
            Ask::Shutdown => {
                let shutdown = host.backend().shutdown();
                return self.later(request, nothing_after(shutdown));
            }
            Ask::OpenGateway { conn, gateway } => {
                let opened = self.connection(conn).and_then(|c| host.gateway(&c));
                let mut tables = self.tables.lock();
                let opened = opened.filter(|_| tables.gateways.len() < REQUESTS);
                flag(opened.map(|opened| tables.gateways.insert(gateway, opened)).is_some())
            }
            Ask::Dispatch { gateway, request: head, items } => {
                let gateway = self.tables.lock().gateways.get(&gateway).cloned();
                let Some(gateway) = gateway else { return Some(NOTHING) };
                let asked = match dispatched(&head, body) {
                    Ok(asked) => asked,
                    Err(error) => return Some(refused(&error)),
                };
                let call = gateway.dispatch(asked);
                return self.first(request, items, Items::Events(call));
            }
        })
    }

    fn env(&self, host: &Host, call: Option<Id>) -> Result<Arc<dyn OperationEnv>, CallError> {
        let Some(call) = call else { return Ok(host.env()) };
        let context = self.tables.lock().contexts.get(&call).cloned();
        context.map(|context| context.env()).ok_or_else(no_context)
    }

    fn composing(
        &self,
        host: &Host,
        call: Option<Id>,
        body: Bytes,
    ) -> Result<(Arc<dyn OperationEnv>, Json), CallError> {
        Ok((self.env(host, call)?, input(body)?))
    }

    fn capability(&self, host: &Host, call: Option<Id>, name: &str) -> Option<Capability> {
        let Some(call) = call else { return host.capability(name) };
        let context = self.tables.lock().contexts.get(&call).cloned();
        context?.capability(name)
    }

    /// Runs what takes time, unless too much of that runs already.
    fn later(
        self: &Arc<Self>,
        request: Id,
        work: impl Future<Output = (Answer, Bytes)> + Send + 'static,
    ) -> Option<(Answer, Bytes)> {
        let session = self.clone();
        self.task(request, async move {
            let (answer, body) = work.await;
            if session.still_asked(request) {
                session.answer(request, answer, &body);
            }
        })
    }

    fn task(
        &self,
        request: Id,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Option<(Answer, Bytes)> {
        // Held until the task is entered, so that its end finds it.
        let mut tables = self.tables.lock();
        let node = self.node.get().filter(|_| tables.requests.len() < REQUESTS);
        let Some(node) = node else { return Some(refused(&too_many())) };
        tables.requests.insert(request, node.spawn(work).abort_handle());
        None
    }

    fn still_asked(&self, request: Id) -> bool {
        self.tables.lock().requests.remove(&request).is_some()
    }

    fn open_stream(self: &Arc<Self>, request: Id, conn: Id, way: Way) {
        let Some((connection, finishing)) = self.served(conn) else {
            let error = WireError::ConnectionClosed;
            return self.answer(request, Answer::StreamError(error), b"");
        };
        let session = self.clone();
        let refused = self.task(request, async move {
            let backend = connection.backend();
            let opened = match way {
                Way::Bi => backend.open_bi().await.map(|(send, recv)| (send, Some(recv))),
                Way::Uni => backend.open_uni().await.map(|send| (send, None)),
            };
            if !session.still_asked(request) {
                // Given up meanwhile: as if the plugin had dropped it.
                drop(opened.map(|(send, _)| SendStream::new(send)));
                return;
            }
            match opened {
                Ok((send, recv)) => {
                    let number = send.id();
                    session.follow(Some(send), recv, &finishing, |stream| {
                        session.answer(request, Answer::Stream { stream, number }, b"");
                    });
                }
                Err(error) => session.answer(request, Answer::StreamError(error.into()), b""),
            }
        });
        if refused.is_some() {
            let error = WireError::Internal("too many requests at a time".into());
            self.answer(request, Answer::StreamError(error), b"");
        }
    }

    /// Begins what is taken one by one, and answers with the first.
    fn first(self: &Arc<Self>, request: Id, id: Id, items: Items) -> Option<(Answer, Bytes)> {
        let mut tables = self.tables.lock();
        if tables.items.len() >= REQUESTS {
            return Some(refused(&too_many()));
        }
        tables.items.insert(id, Some(items));
        drop(tables);
        self.next(request, id)
    }

    /// Answers with the next; one request at a time.
    fn next(self: &Arc<Self>, request: Id, id: Id) -> Option<(Answer, Bytes)> {
        let taken = self.tables.lock().items.get_mut(&id).and_then(Option::take);
        let Some(mut items) = taken else { return Some(NOTHING) };
        let session = self.clone();
        self.later(request, async move {
            let next = items.next().await;
            let mut items = Some(items);
            // Given up meanwhile, it is gone for good.
            if let Some(place) = session.tables.lock().items.get_mut(&id) {
                *place = items.take();
            }
            next
        })
    }
}

async fn nothing_after(wait: impl Future<Output = ()> + Send) -> (Answer, Bytes) {
    wait.await;
    NOTHING
}

fn dispatched(head: &str, body: Bytes) -> Result<GatewayRequest, CallError> {
    let head: GatewayHead =
        serde_json::from_str(head).map_err(|error| CallError::invalid_input(error.to_string()))?;
    Ok(GatewayRequest {
        request_id: head.request_id,
        operation: head.operation,
        input: input(body)?,
        auth_token: head.auth_token,
        forwarded_for: head.forwarded_for,
        timeout: head.timeout,
        remote_addr: head.remote_addr,
    })
}
