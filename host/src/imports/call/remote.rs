//! The code behind an imported operation: the same call, made to the peer.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use alknet_call_protocol::{Call, CallOptions, Subscription};
use alknet_plugin_api::{AbortPolicy, CallError, CallFuture, CallStream, Json};
use futures_util::{Future, Stream, StreamExt, TryFutureExt};

use super::{Flight, FromCallConfig, Link, token};
use crate::imports::CREDENTIAL;
use crate::registry::{HostCall, HostOperation, HostSubscription};

/// Identities that a request may name; the peer refuses one with more.
const MAX_FORWARDED_FOR: usize = 8;

/// One operation of a peer.
pub(super) struct Remote {
    link: Arc<Link>,
    import: Arc<str>,
    /// The peer's own name for it.
    name: Arc<str>,
    withhold_origin: bool,
}

impl Remote {
    pub(super) fn new(link: &Arc<Link>, config: &FromCallConfig, name: &str) -> Self {
        Self {
            link: link.clone(),
            import: config.import.clone(),
            name: name.into(),
            withhold_origin: config.withhold_origin,
        }
    }

    /// What the request carries of the call that is forwarded.
    fn options(&self, call: &HostCall) -> Result<CallOptions, CallError> {
        let forwarded_for = match self.withhold_origin {
            true => Vec::new(),
            false => call.origin_chain(),
        };
        if forwarded_for.len() > MAX_FORWARDED_FOR {
            return Err(CallError::invalid_input(format!(
                "the call has passed through {MAX_FORWARDED_FOR} nodes and goes no further"
            )));
        }
        let credential = call.context().capability(CREDENTIAL);
        Ok(CallOptions {
            timeout: call.remaining(),
            auth_token: token(&self.import, credential.as_ref())?,
            forwarded_for,
            own_stream: false,
        })
    }
}

impl HostOperation for Remote {
    fn call(&self, call: HostCall, input: Json) -> CallFuture {
        let (link, name) = (self.link.clone(), self.name.clone());
        let options = self.options(&call);
        Box::pin(async move {
            let _flight = link.enter();
            let begun = link.calls.begin(&name, input, options?).await;
            let begun = begun.map_err(|error| link.explain(error))?;
            let mut sent = Sent { request: begun, call };
            let answer = poll_fn(|cx| Pin::new(&mut sent.request).poll(cx)).await;
            answer.map_err(|error| link.explain(error))
        })
    }
}

impl HostSubscription for Remote {
    fn subscribe(&self, call: HostCall, input: Json) -> CallStream {
        let (link, name) = (self.link.clone(), self.name.clone());
        let options = self.options(&call);
        let begun = async move {
            let flight = link.enter();
            let begun = link.calls.begin_subscription(&name, input, options?).await;
            let begun = begun.map_err(|error| link.explain(error))?;
            Ok(Items { sent: Sent { request: begun, call }, link, _flight: flight })
        };
        Box::pin(begun.try_flatten_stream())
    }
}

/// A subscription's items. Taking them is what makes room for more: a consumer that
/// pauses makes the peer pause.
struct Items {
    sent: Sent<Subscription>,
    link: Arc<Link>,
    _flight: Flight,
}

impl Stream for Items {
    type Item = Result<Json, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = ready!(self.sent.request.poll_next_unpin(cx));
        Poll::Ready(item.map(|item| item.map_err(|error| self.link.explain(error))))
    }
}

/// A request at the peer. When the call that it serves is cancelled, dropping it
/// carries the abort on, as far as it goes here.
struct Sent<R: Abortable> {
    request: R,
    call: HostCall,
}

impl<R: Abortable> Drop for Sent<R> {
    fn drop(&mut self) {
        self.request.set_abort_policy(self.call.abort_policy());
    }
}

trait Abortable {
    fn set_abort_policy(&mut self, policy: AbortPolicy);
}

impl Abortable for Call {
    fn set_abort_policy(&mut self, policy: AbortPolicy) {
        Call::set_abort_policy(self, policy);
    }
}

impl Abortable for Subscription {
    fn set_abort_policy(&mut self, policy: AbortPolicy) {
        Subscription::set_abort_policy(self, policy);
    }
}
