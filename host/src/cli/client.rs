//! How commands reach a node: a connection of any ALPN, or the call protocol
//! over one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use alknet_call_protocol::{CallClient, CallConnection, CallOptions, Subscription, Timer};
use alknet_plugin_api::{CallError, CallFuture, CallStream, Connection, Json, OperationType};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryFutureExt};
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};
use super::target::Target;
use crate::config::{Carrier, KeyAddress, NodeAddress, Pin, Reach};
use crate::endpoint::tls::ClientIdentities;
use crate::endpoint::{DialError, Dialer, Expected, Fingerprint, IrohConfig, NodeKey, PublicKey};

/// A node to which calls can be made.
///
/// Dropping a call's future or a subscription's stream aborts it on the node,
/// as long as the caller itself lives until [`close`](Self::close) is done.
pub trait Caller: Send + Sync {
    /// Makes a call. `timeout` is sent with it, so that the node stops too.
    fn call(&self, name: &str, input: Json, timeout: Option<Duration>) -> CallFuture;

    /// What kind of operation this is; `None` where the node does not say.
    fn operation_type<'a>(
        &'a self,
        name: &'a str,
        timeout: Option<Duration>,
    ) -> BoxFuture<'a, Option<OperationType>>;

    /// Subscribes; an error is the stream's last item.
    fn subscribe(&self, name: &str, input: Json) -> CallStream;

    /// Sends what is queued, such as the abort of what was dropped, and closes
    /// the connection. It takes a second at most.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// What a connection came by, and what ends it in good order.
pub enum Way {
    /// QUIC, or TLS over TCP, to an address.
    Quic(Box<Dialer>),
    /// iroh to a key.
    #[cfg(feature = "iroh")]
    Iroh(crate::endpoint::IrohDialer),
}

impl Way {
    /// Waits until what has been closed is closed on the wire too.
    pub async fn wait_idle(&self) {
        match self {
            Self::Quic(dialer) => dialer.wait_idle().await,
            #[cfg(feature = "iroh")]
            Self::Iroh(dialer) => dialer.close().await,
        }
    }
}

/// Connects to a node with an ALPN, proving the client's key and checking the
/// node's.
///
/// # Errors
/// The node cannot be reached, is another one, or does not serve the ALPN.
pub async fn connect(target: &Target, alpn: &str) -> Result<(Connection, Way), Failure> {
    let key = target.client_key.as_ref().map(|seed| NodeKey::from_seed(**seed));
    match &target.reach {
        Reach::Address(address) => to_address(address, target, key.as_ref(), alpn).await,
        Reach::Key(address) => to_key(address, &target.iroh, key.as_ref(), alpn).await,
    }
}

fn unavailable(what: String) -> Failure {
    Failure::new(Exit::Unavailable, what)
}

async fn to_address(
    address: &NodeAddress,
    target: &Target,
    key: Option<&NodeKey>,
    alpn: &str,
) -> Result<(Connection, Way), Failure> {
    let dialer = dialer(target, key)?;
    let expected = Expected {
        pin: address.pin.map(|pin| match pin {
            Pin::Key(key) => Fingerprint::Key(PublicKey(key.0)),
            Pin::Certificate(digest) => Fingerprint::Certificate(digest),
        }),
        host: address.host.clone(),
    };
    let resolved = tokio::net::lookup_host((address.host.as_str(), address.port)).await;
    let resolved = resolved.map_err(|error| {
        unavailable(format!("cannot find {}: {error}", address.host))
            .remedy("check the host's name, or write its IP address")
    })?;
    let mut failure = unavailable(format!("{} has no address", address.host));
    for socket in resolved {
        let dialled = match address.carrier {
            Carrier::Quic => dialer.dial_expecting(socket, &expected, alpn).await,
            Carrier::Tcp => dial_tcp(&dialer, socket, &expected, alpn).await,
        };
        match dialled {
            Ok(connection) => return Ok((connection, Way::Quic(Box::new(dialer)))),
            Err(error) => failure = unavailable(error.to_string()),
        }
    }
    Err(failure.remedy("check that the node runs (`alknet run`), and its address and key"))
}

#[cfg(feature = "iroh")]
async fn to_key(
    address: &KeyAddress,
    config: &IrohConfig,
    key: Option<&NodeKey>,
    alpn: &str,
) -> Result<(Connection, Way), Failure> {
    use crate::endpoint::{IrohDialError, IrohDialer, Relay};

    let mut config = config.clone();
    // The node's relay is the one that this side can be answered by, too.
    if let Some(relay) = &address.relay {
        config.relay = Relay::Own(vec![relay.clone()]);
    }
    let failed = |error: IrohDialError| {
        let failure = unavailable(error.to_string());
        match error {
            IrohDialError::Nowhere(_) => failure.remedy(
                "write alknet://KEY?relay=URL or alknet://KEY@HOST:PORT, add the relay's URL to \
                 the node's line in `known-nodes`, or `lookup = [\"n0\"]` to `[endpoint.iroh]`",
            ),
            _ => failure.remedy("check that the node runs with `[endpoint.iroh]`, and its key"),
        }
    };
    let dialer = IrohDialer::new(key, &config).await.map_err(failed)?;
    let dialled = dialer.dial(PublicKey(address.key.0), address.relay.as_deref(), &[], alpn);
    match dialled.await {
        Ok(connection) => Ok((connection, Way::Iroh(dialer))),
        Err(error) => {
            dialer.close().await;
            Err(failed(error))
        }
    }
}

#[cfg(not(feature = "iroh"))]
async fn to_key(
    _: &KeyAddress,
    _: &IrohConfig,
    _: Option<&NodeKey>,
    _: &str,
) -> Result<(Connection, Way), Failure> {
    let what = "iroh, which reaches nodes by their keys, is not built into this binary";
    Err(Failure::new(Exit::Usage, what).remedy("write alknet://KEY@HOST:PORT"))
}

#[cfg(feature = "tcp")]
async fn dial_tcp(
    dialer: &Dialer,
    socket: SocketAddr,
    expected: &Expected,
    alpn: &str,
) -> Result<Connection, DialError> {
    dialer.dial_tcp(socket, expected, alpn).await
}

#[cfg(not(feature = "tcp"))]
async fn dial_tcp(
    _: &Dialer,
    address: SocketAddr,
    expected: &Expected,
    alpn: &str,
) -> Result<Connection, DialError> {
    Err(DialError::Handshake {
        address,
        expected: expected.clone().into(),
        alpn: alpn.to_owned(),
        source: "TLS over TCP is not built into this binary".into(),
    })
}

fn dialer(target: &Target, key: Option<&NodeKey>) -> Result<Dialer, Failure> {
    let identities = ClientIdentities::new(key)
        .map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    let identities = match &target.client_certificate {
        Some(certificate) => identities.with_certificate(certificate),
        None => identities,
    };
    let identities = match &target.authorities {
        Some(authorities) => identities.with_authorities(authorities.clone()),
        None => identities,
    };
    Ok(Dialer::with_identities(identities))
}

/// Connects to a node in order to make calls.
///
/// # Errors
/// As for [`connect`].
pub async fn caller(target: &Target) -> Result<Box<dyn Caller>, Failure> {
    let (connection, way) = connect(target, alknet_call_protocol::ALPN).await?;
    let (calls, driver) =
        CallClient::spawn_dispatch(connection, alknet_call_protocol::Options::new(Arc::new(Tokio)));
    tokio::spawn(driver);
    Ok(Box::new(ConnectedCaller { calls, way, token: target.token.clone() }))
}

/// Tokio's timers.
struct Tokio;

impl Timer for Tokio {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

struct ConnectedCaller {
    calls: CallConnection,
    way: Way,
    token: Option<Zeroizing<String>>,
}

impl ConnectedCaller {
    fn options(&self, timeout: Option<Duration>) -> CallOptions {
        let auth_token = self.token.as_ref().map(|token| token.to_string());
        CallOptions { timeout, auth_token, ..CallOptions::default() }
    }
}

impl Caller for ConnectedCaller {
    fn call(&self, name: &str, input: Json, timeout: Option<Duration>) -> CallFuture {
        let (calls, name) = (self.calls.clone(), name.to_owned());
        let options = self.options(timeout);
        async move { calls.call_with(&name, input, options).await }.boxed()
    }

    fn operation_type<'a>(
        &'a self,
        name: &'a str,
        timeout: Option<Duration>,
    ) -> BoxFuture<'a, Option<OperationType>> {
        async move {
            let options = self.options(timeout);
            self.calls.operation_type(name, &options).await.ok().flatten()
        }
        .boxed()
    }

    fn subscribe(&self, name: &str, input: Json) -> CallStream {
        let (calls, name) = (self.calls.clone(), name.to_owned());
        let options = self.options(None);
        let subscribed = async move { calls.subscribe_with(&name, input, options).await };
        let items = |subscription| {
            futures_util::stream::unfold(subscription, |mut subscription: Subscription| async {
                let item = subscription.next().await?;
                Some((item, subscription))
            })
        };
        subscribed.map_ok(items).try_flatten_stream().boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move {
            // An answer means that what was sent before, such as an abort, has
            // arrived too.
            let ping = self.calls.services_schema("services/list");
            let _too_late = tokio::time::timeout(Duration::from_millis(500), ping).await;
            self.calls.connection().close(0, "done");
            let _lost =
                tokio::time::timeout(Duration::from_millis(500), self.way.wait_idle()).await;
        }
        .boxed()
    }
}

/// Runs a command that waits for a node.
///
/// # Errors
/// The command's own, or that no runtime can be made.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Failure::new(Exit::Internal, format!("cannot start the runtime: {error}"))
    })?;
    let result = runtime.block_on(future);
    // A read of standard input that is still under way must not hold the end up.
    runtime.shutdown_background();
    result
}

/// One call over a connection of its own, which is closed in good order.
///
/// # Errors
/// The node cannot be reached, or its answer is an error.
pub(super) async fn one_call(
    target: &Target,
    name: &str,
    input: Json,
    timeout: Option<Duration>,
) -> Result<Json, Failure> {
    let caller = caller(target).await?;
    let result = until_interrupted(caller.call(name, input, timeout)).await;
    caller.close().await;
    result
}

/// A call's result, or Ctrl-C as a failure.
pub(super) async fn until_interrupted<T>(
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, Failure> {
    tokio::select! {
        result = call => result.map_err(Failure::from),
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Answer, "aborted")),
    }
}
