//! Calls on behalf of a connection's peer.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use alknet_plugin_api::{
    AbortPolicy, CallError, Gateway, GatewayCall, GatewayEvent, GatewayRequest, Identity, code,
};
use futures_util::Stream;
use parking_lot::Mutex;

use super::Registry;
use super::cancel::{End, Node};
use super::dispatch::{RootRequest, bare_name};
use super::limits::IdentityPlace;
use super::relay::Started;
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
    /// A gateway for one connection that `plugin` serves. Its in-flight limit is
    /// the connection's: make one for each. Dropping it aborts every call made
    /// through it.
    ///
    /// A call that is aborted through the gateway yields `ABORTED`, if it is
    /// polled once more. Checking its input takes place in its own first poll,
    /// so that [`Gateway::dispatch`] never keeps a reader waiting.
    pub fn gateway(self: &Arc<Self>, plugin: &str, scope: CallerScope) -> Arc<dyn Gateway> {
        let confined = self.grants.get(plugin).is_some_and(|grant| grant.limited);
        let peer = Peer { registry: self.clone(), scope, confined, calls: Mutex::default() };
        let peer = Arc::new(peer);
        let number = self.gateways.add(&peer);
        Arc::new(ConnectionGateway { peer, number })
    }
}

struct ConnectionGateway {
    peer: Arc<Peer>,
    /// Its place among the registry's gateways.
    number: u64,
}

/// The gateways that there are.
#[derive(Default)]
pub(super) struct Gateways(Mutex<Numbered>);

#[derive(Default)]
struct Numbered {
    last: u64,
    by_number: HashMap<u64, Weak<Peer>>,
}

impl Gateways {
    fn add(&self, peer: &Arc<Peer>) -> u64 {
        let mut gateways = self.0.lock();
        gateways.last += 1;
        let number = gateways.last;
        gateways.by_number.insert(number, Arc::downgrade(peer));
        number
    }

    fn remove(&self, number: u64) {
        self.0.lock().by_number.remove(&number);
    }

    pub(super) fn calls(&self) -> HashMap<u64, usize> {
        let peers: Vec<_> = self.0.lock().by_number.values().filter_map(Weak::upgrade).collect();
        let mut calls = HashMap::new();
        for peer in peers {
            let in_flight = peer.calls.lock().len();
            if in_flight > 0 {
                *calls.entry(peer.scope.connection).or_default() += in_flight;
            }
        }
        calls
    }
}

/// A connection's peer, and its calls in flight by their ids.
struct Peer {
    registry: Arc<Registry>,
    scope: CallerScope,
    /// Whether a confined instance polls the calls.
    confined: bool,
    calls: Mutex<HashMap<String, InFlight>>,
}

enum InFlight {
    /// Not polled yet.
    Waiting,
    /// Aborted before it was polled.
    Aborted,
    Running(Weak<Node>),
}

/// One call's place among those in flight, given back when dropped.
struct Place {
    peer: Arc<Peer>,
    request_id: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.peer.calls.lock().remove(&self.request_id);
    }
}

impl Peer {
    /// Takes a place among the calls in flight.
    fn enter(self: &Arc<Self>, request: &GatewayRequest) -> Result<Place, CallError> {
        let id = &request.request_id;
        if id.is_empty() || id.len() > MAX_REQUEST_ID {
            return Err(CallError::invalid_input("a request's id has 1 to 128 bytes"));
        }
        if request.forwarded_for.len() > MAX_FORWARDED_FOR {
            return Err(CallError::invalid_input("forwarded_for lists at most 8 identities"));
        }
        let limit = self.registry.limits.load().in_flight;
        let mut calls = self.calls.lock();
        let in_flight = calls.len();
        match calls.entry(id.clone()) {
            Slot::Occupied(_) => Err(CallError::invalid_input("a call with this id is in flight")),
            Slot::Vacant(_) if in_flight >= limit => Err(CallError::new(
                code::RESOURCE_EXHAUSTED,
                format!("the connection has {limit} calls in flight"),
            )),
            Slot::Vacant(slot) => {
                slot.insert(InFlight::Waiting);
                Ok(Place { peer: self.clone(), request_id: id.clone() })
            }
        }
    }

    /// Whose call this is. A token replaces the connection's identity; one that
    /// does not resolve is an error, never a fallback.
    fn caller(&self, token: Option<&str>) -> Result<Option<Arc<Identity>>, CallError> {
        let provider = &self.scope.provider;
        let Some(token) = token else {
            let fingerprint = self.scope.fingerprint.as_deref();
            return Ok(
                fingerprint.and_then(|fingerprint| provider.resolve_from_fingerprint(fingerprint))
            );
        };
        let identity = provider.resolve_from_token(token.as_bytes());
        if identity.is_none()
            && let Some(recorder) = &self.registry.recorder
        {
            recorder.authentication_failed(self.scope.connection);
        }
        identity.map(Some).ok_or_else(|| CallError::forbidden("invalid token"))
    }

    fn refuse(&self, operation: &str, error: &CallError) {
        self.registry.refused(bare_name(operation), error, false, None);
    }

    /// Everything up to the handler.
    fn start(
        &self,
        request: GatewayRequest,
        at: Duration,
    ) -> Result<(Running, Option<IdentityPlace>), CallError> {
        let id = request.request_id.clone();
        if let Some(InFlight::Aborted) = self.calls.lock().get(&id) {
            return Err(CallError::aborted("the call was aborted"));
        }
        let caller = self
            .caller(request.auth_token.as_deref())
            .inspect_err(|error| self.refuse(&request.operation, error))?;
        let place = self
            .enter_identity(caller.as_ref())
            .inspect_err(|error| self.refuse(&request.operation, error))?;
        let running = self.registry.start_root(RootRequest {
            request_id: request.request_id,
            operation: request.operation,
            input: request.input,
            caller,
            forwarded_for: request.forwarded_for,
            timeout: request.timeout,
            at,
        })?;
        let node = &running.call().node;
        let known = self.calls.lock().insert(id, InFlight::Running(Arc::downgrade(node)));
        if let Some(InFlight::Aborted) = known {
            node.close(End::Abort(AbortPolicy::AbortDependents));
        }
        Ok((running, place))
    }

    /// Takes a place among the calls of `caller`, where they are limited.
    fn enter_identity(
        &self,
        caller: Option<&Arc<Identity>>,
    ) -> Result<Option<IdentityPlace>, CallError> {
        let limit = self.registry.limits.load().in_flight_of_identity;
        let (Some(limit), Some(caller)) = (limit, caller) else { return Ok(None) };
        self.registry.identity_calls.enter(caller, limit).map(Some).ok_or_else(|| {
            let text = format!("`{}` has {limit} calls in flight", caller.id);
            CallError::new(code::RESOURCE_EXHAUSTED, text)
        })
    }
}

impl InFlight {
    /// The call to abort, where it runs already.
    fn abort(&mut self) -> Option<Arc<Node>> {
        match self {
            Self::Running(node) => node.upgrade(),
            Self::Waiting | Self::Aborted => {
                *self = Self::Aborted;
                None
            }
        }
    }
}

impl Gateway for ConnectionGateway {
    fn dispatch(&self, request: GatewayRequest) -> GatewayCall {
        let registry = self.peer.registry.clone();
        let events = match self.peer.enter(&request) {
            Ok(place) => Events::Waiting { request, at: registry.clock.now(), place },
            Err(error) => {
                self.peer.refuse(&request.operation, &error);
                Events::Refused(error)
            }
        };
        GatewayCall::new(Anywhere { registry, events })
    }

    fn abort(&self, request_id: &str, policy: AbortPolicy) {
        let node = self.peer.calls.lock().get_mut(request_id).and_then(InFlight::abort);
        if let Some(node) = node {
            node.close(End::Abort(policy));
        }
    }
}

impl Drop for ConnectionGateway {
    fn drop(&mut self) {
        self.peer.registry.gateways.remove(self.number);
        let nodes: Vec<_> =
            self.peer.calls.lock().values_mut().filter_map(InFlight::abort).collect();
        for node in nodes {
            node.close(End::Abort(AbortPolicy::AbortDependents));
        }
    }
}

/// Events that any thread may poll and drop.
struct Anywhere {
    registry: Arc<Registry>,
    events: Events,
}

impl Stream for Anywhere {
    type Item = GatewayEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<GatewayEvent>> {
        let Self { registry, events } = &mut *self;
        let _entered = registry.spawner.enter();
        Pin::new(events).poll_next(cx)
    }
}

impl Drop for Anywhere {
    fn drop(&mut self) {
        let _entered = self.registry.spawner.enter();
        self.events = Events::Ended;
    }
}

/// The events of one request.
enum Events {
    Waiting { request: GatewayRequest, at: Duration, place: Place },
    Running { call: Started, _place: Place, _of_identity: Option<IdentityPlace> },
    Refused(CallError),
    Ended,
}

impl Stream for Events {
    type Item = GatewayEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<GatewayEvent>> {
        if !matches!(*self, Self::Running { .. }) {
            *self = match std::mem::replace(&mut *self, Self::Ended) {
                Self::Waiting { request, at, place } => match place.peer.start(request, at) {
                    Ok((running, _of_identity)) => {
                        let call = Started::root(running, place.peer.confined);
                        Self::Running { call, _place: place, _of_identity }
                    }
                    Err(error) => return Poll::Ready(Some(GatewayEvent::Error(error))),
                },
                Self::Refused(error) => return Poll::Ready(Some(GatewayEvent::Error(error))),
                started_or_ended => started_or_ended,
            };
        }
        let Self::Running { call, .. } = &mut *self else { return Poll::Ready(None) };
        let event = match ready!(call.poll_event(cx)) {
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
