//! HTTP/3, and the call protocol over WebTransport.
//!
//! h3 speaks the protocol; `quic.rs` is what it speaks it over, and `incoming.rs`
//! keeps from it what is not its own. Each request is a task on the node's threads
//! (`request.rs`) before the same router as the other versions' requests. A session
//! of WebTransport (`webtransport.rs`) is a connection of its own (`session.rs`).

mod body;
mod capsule;
mod frames;
mod incoming;
mod quic;
mod request;
mod session;
mod sessions;
mod webtransport;

use std::pin::pin;
use std::sync::Arc;

use alknet_plugin_api::{prelude::*, rt};
use axum::Router;
use h3::error::Code;
use tokio::sync::{Semaphore, mpsc};

use self::incoming::Incoming;
use self::quic::Quic;
use self::request::{Shared, Site};
use self::sessions::{SESSIONS, Sessions};
use crate::caller::Peer;
use crate::config::Config;

/// A head that is longer than this many times the limit is not even read to be
/// refused.
const REFUSABLE: usize = 4;

/// Serves the connections of HTTP/3.
pub(crate) struct H3Handler {
    host: Host,
    router: Router,
    shared: Arc<Shared>,
}

impl H3Handler {
    pub(crate) fn new(host: Host, config: &Config, router: Router) -> Self {
        Self { host, router, shared: Arc::new(Shared::new(config)) }
    }
}

impl ProtocolHandler for H3Handler {
    async fn handle(&self, connection: Connection, _: &AuthContext) -> Result<(), HandlerError> {
        let gateway = self.host.gateway(&connection).ok_or_else(|| {
            HandlerError::internal("the deployment file does not say `gateway = true` for `http`")
        })?;
        let sessions = Arc::<Sessions>::default();
        let site = Arc::new(Site {
            host: self.host.clone(),
            connection: connection.clone(),
            sessions: sessions.clone(),
            peer: Peer::new(gateway),
            router: self.router.clone(),
            shared: self.shared.clone(),
            places: Semaphore::new(self.shared.concurrent),
        });
        if let Err(error) = serve(site).await {
            // The client knows: it was told a code, or has gone.
            tracing::debug!(%error, connection = connection.info().id, "a connection broke off");
        }
        Ok(())
    }
}

/// Serves until the client is done. When the node drains, what is under way ends
/// and nothing new begins.
async fn serve(site: Arc<Site>) -> Result<(), h3::error::ConnectionError> {
    let Site { host, connection, sessions, shared, .. } = &*site;
    let longest = shared.head_bytes.saturating_mul(REFUSABLE);
    let incoming =
        Incoming::new(connection.clone(), sessions.clone(), shared.head_timeout, longest);
    let (quic, handed) = Quic::new(connection.clone(), incoming);
    let mut settings = h3::server::builder();
    settings
        .max_field_section_size(shared.head_bytes as u64)
        .enable_extended_connect(true)
        .enable_webtransport(true)
        .enable_datagram(true)
        .max_webtransport_sessions(SESSIONS as u64);
    // A client must let the node open three streams, and may not.
    let built = tokio::time::timeout(shared.head_timeout, settings.build(quic)).await;
    let Ok(built) = built else {
        let code = Code::H3_GENERAL_PROTOCOL_ERROR.value();
        connection.close(code, "no room for the streams that HTTP/3 needs");
        return Ok(());
    };
    let mut h3 = built?;
    let mut draining = pin!(connection.shutdown());
    let mut datagrams = pin!(datagrams(connection, sessions));
    // Each request has a sender; once the node drains, the end of all is the end.
    let (running, mut all_ended) = mpsc::channel::<()>(1);
    let place = running.downgrade();
    let mut running = Some(running);
    // Streams come about in the order of their numbers.
    let (mut last, mut highest, mut first_refused) = (0, None, None);
    loop {
        tokio::select! {
            accepted = h3.accept() => {
                let Some(resolver) = accepted? else { break };
                let Some(outgoing) = handed.lock().take() else { continue };
                last = outgoing.id();
                let refused = first_refused.is_some_and(|first| last >= first);
                let Some(place) = place.upgrade().filter(|_| !refused) else {
                    outgoing.reset(Code::H3_REQUEST_REJECTED);
                    continue;
                };
                highest = highest.max(Some(last));
                let site = site.clone();
                host.spawn(async move {
                    let request = request::serve(site, resolver, outgoing);
                    if let Err(error) = rt::enter(request).await {
                        tracing::error!(%error, "no runtime for a request");
                    }
                    drop(place);
                });
            }
            () = &mut draining, if running.is_some() => {
                running = None;
                first_refused = Some(highest.map_or(0, |highest| highest + 4));
                let more = highest.map_or(0, |highest| (highest - last) / 4 + 1);
                h3.shutdown(more as usize).await?;
            }
            _ = all_ended.recv(), if running.is_none() => break,
            () = &mut datagrams => {}
        }
    }
    // The last answers may still be on their way.
    drop(running);
    let _all_ended = all_ended.recv().await;
    connection.close(Code::H3_NO_ERROR.value(), "");
    Ok(())
}

/// Hands datagrams to their sessions.
async fn datagrams(connection: &Connection, sessions: &Sessions) {
    while let Ok(datagram) = connection.read_datagram().await {
        sessions.datagram(&datagram);
    }
    std::future::pending().await
}
