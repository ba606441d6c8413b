//! Calls on behalf of a connection's peer.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use alknet_plugin_api::{
    AbortPolicy, CallError, Gateway, GatewayCall, GatewayEvent, GatewayRequest, Identity, code,
};
use futures_util::Stream;
use parking_lot::Mutex;

use super::Registry;
use super::cancel::{End, Node};
use super::dispatch::{RootRequest, bare_name};
use super::running::{Event, Running};
use crate::auth::IdentityProvider;

/// The longest request id, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// More forwarders than this make a request malformed.
const MAX_FORWARDED_FOR: usize = 8;

/// What a gateway needs to know of its connection.
#[derive(Clone)]
pub struct CallerScope {
    /// The connection's number.
    pub connection: u64,
    /// Resolves the key below and requests' tokens, afresh for each request.
    pub provider: Arc<dyn IdentityProvider>,
    /// The key that the peer has proven to hold.
    pub fingerprint: Option<String>,
}

impl Registry {
    /// A gateway for one connection. Its in-flight limit is the connection's:
    /// make one for each. Dropping it aborts every call made through it.
    pub fn gateway(self: &Arc<Self>, scope: CallerScope) -> Arc<dyn Gateway> {
        let calls = Arc::default();
        Arc::new(ConnectionGateway { registry: self.clone(), scope, calls })
    }
}

struct ConnectionGateway {
    registry: Arc<Registry>,
    scope: CallerScope,
    calls: Arc<InFlight>,
}

/// The connection's calls in flight.
#[derive(Default)]
struct InFlight(Mutex<HashMap<String, Weak<Node>>>);

/// One call's place among them, given back when dropped.
struct Place {
    calls: Arc<InFlight>,
    request_id: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.calls.0.lock().remove(&self.request_id);
    }
}

impl ConnectionGateway {
    /// Whose call this is. A token replaces the connection's identity; one that
    /// does not resolve is an error, never a fallback.
    fn caller(&self, token: Option<&str>) -> Result<Option<Arc<Identity>>, CallError> {
        let provider = &self.scope.provider;
        match token {
            Some(token) => match provider.resolve_from_token(token.as_bytes()) {
                Some(identity) => Ok(Some(identity)),
                None => {
                    if let Some(recorder) = &self.registry.recorder {
                        recorder.authentication_failed(self.scope.connection);
                    }
                    Err(CallError::forbidden("invalid token"))
                }
            },
            None => Ok(self
                .scope
                .fingerprint
                .as_deref()
                .and_then(|fingerprint| provider.resolve_from_fingerprint(fingerprint))),
        }
    }

    /// Takes a place among the calls in flight.
    fn enter(&self, request: &GatewayRequest) -> Result<Place, CallError> {
        let id = &request.request_id;
        if id.is_empty() || id.len() > MAX_REQUEST_ID {
            return Err(CallError::invalid_input("a request's id has 1 to 128 bytes"));
        }
        if request.forwarded_for.len() > MAX_FORWARDED_FOR {
            return Err(CallError::invalid_input("forwarded_for lists at most 8 identities"));
        }
        let limit = self.registry.limits.load().in_flight;
        let mut calls = self.calls.0.lock();
        let in_flight = calls.len();
        match calls.entry(id.clone()) {
            Slot::Occupied(_) => Err(CallError::invalid_input("a call with this id is in flight")),
            Slot::Vacant(_) if in_flight >= limit => Err(CallError::new(
                code::RESOURCE_EXHAUSTED,
                format!("the connection has {limit} calls in flight"),
            )),
            Slot::Vacant(slot) => {
                slot.insert(Weak::new());
                Ok(Place { calls: self.calls.clone(), request_id: id.clone() })
            }
        }
    }

    fn start(&self, request: GatewayRequest) -> Result<(Place, Running), CallError> {
        let place = self.enter(&request)?;
        let caller = self.caller(request.auth_token.as_deref()).inspect_err(|error| {
            self.registry.refused(bare_name(&request.operation), error, false, None);
        })?;
        let (call, running) = self.registry.start_root(RootRequest {
            request_id: request.request_id,
            operation: request.operation,
            input: request.input,
            caller,
            forwarded_for: request.forwarded_for,
            timeout: request.timeout,
        })?;
        if let Some(node) = self.calls.0.lock().get_mut(&place.request_id) {
            *node = Arc::downgrade(&call.node);
        }
        Ok((place, running))
    }
}

impl Gateway for ConnectionGateway {
    fn dispatch(&self, request: GatewayRequest) -> GatewayCall {
        GatewayCall::new(match self.start(request) {
            Ok((place, running)) => Events::Running { running, _place: place },
            Err(error) => Events::Refused(error),
        })
    }

    fn abort(&self, request_id: &str, policy: AbortPolicy) {
        let node = self.calls.0.lock().get(request_id).and_then(Weak::upgrade);
        if let Some(node) = node {
            node.close(End::Abort(policy));
        }
    }
}

impl Drop for ConnectionGateway {
    fn drop(&mut self) {
        let nodes: Vec<_> = self.calls.0.lock().values().filter_map(Weak::upgrade).collect();
        for node in nodes {
            node.close(End::Abort(AbortPolicy::AbortDependents));
        }
    }
}

/// The events of one request.
#[expect(clippy::large_enum_variant, reason = "refusals are rare and live shortly")]
enum Events {
    Refused(CallError),
    Running { running: Running, _place: Place },
    Ended,
}

impl Stream for Events {
    type Item = GatewayEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<GatewayEvent>> {
        let event = match &mut *self {
            Self::Running { running, .. } => ready!(running.poll_event(cx)),
            Self::Ended => return Poll::Ready(None),
            Self::Refused(_) => match std::mem::replace(&mut *self, Self::Ended) {
                Self::Refused(error) => Some(Event::Failed(error)),
                _ => None,
            },
        };
        let event = match event {
            Some(Event::Item(output)) => {
                return Poll::Ready(Some(GatewayEvent::Responded(output)));
            }
            Some(Event::Answer(output)) => Some(GatewayEvent::Responded(output)),
            Some(Event::Completed) => Some(GatewayEvent::Completed),
            Some(Event::Failed(error)) => Some(GatewayEvent::Error(error)),
            None => None,
        };
        // The id is free again before the caller sees the end.
        *self = Self::Ended;
        Poll::Ready(event)
    }
}
