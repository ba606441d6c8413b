//! Which threads drive which sockets.
//!
//! With no shards, one socket of each address runs on the caller's runtime.
//! With N, N threads each have a runtime of their own and their own socket of
//! each address (`SO_REUSEPORT`); a connection and its handler stay on the
//! thread whose socket the kernel chose for it, so that no packet wakes another
//! thread.

use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;

use quinn::{EndpointConfig, ServerConfig, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use super::EndpointError;

/// What the kernel may queue for a socket in each direction: about 20 ms at
/// 1 Gbit/s. The system's limit caps it silently.
const SOCKET_BUFFER: usize = 2 * 1024 * 1024;

/// An address with the sockets that serve it.
pub(super) struct Bound {
    pub(super) address: SocketAddr,
    /// Each with the number of its shard.
    pub(super) sockets: Vec<(usize, quinn::Endpoint)>,
}

/// The runtimes that drive sockets.
pub(super) struct Shards {
    handles: Vec<Handle>,
    own_threads: bool,
    stop: CancellationToken,
}

impl Shards {
    pub(super) fn new(count: usize) -> Result<Self, EndpointError> {
        let stop = CancellationToken::new();
        if count == 0 {
            return Ok(Self { handles: vec![Handle::current()], own_threads: false, stop });
        }
        let mut handles = Vec::new();
        for number in 0..count {
            let runtime =
                Builder::new_current_thread().enable_all().build().map_err(EndpointError::Thread)?;
            handles.push(runtime.handle().clone());
            let stopped = stop.clone();
            let body = move || {
                runtime.block_on(stopped.cancelled());
                // Tasks that block would hold the thread; the process is ending.
                runtime.shutdown_background();
            };
            thread::Builder::new()
                .name(format!("alknet-net-{number}"))
                .spawn(body)
                .map_err(EndpointError::Thread)?;
        }
        Ok(Self { handles, own_threads: true, stop })
    }

    /// A socket of `address` on each shard.
    pub(super) fn bind(
        &mut self,
        mut address: SocketAddr,
        server: &ServerConfig,
    ) -> Result<Bound, EndpointError> {
        let mut sockets = Vec::new();
        for (number, handle) in self.handles.iter().enumerate() {
            let failed = |error| EndpointError::Bind { address, error };
            let socket = udp(address, self.own_threads).map_err(failed)?;
            // Later sockets share the port that the first one got.
            let bound = socket.local_addr().map_err(failed)?;
            let _entered = handle.enter();
            let endpoint = quinn::Endpoint::new(
                EndpointConfig::default(),
                Some(server.clone()),
                socket,
                Arc::new(TokioRuntime),
            )
            .map_err(failed)?;
            address = bound;
            sockets.push((number, endpoint));
        }
        Ok(Bound { address, sockets })
    }

    /// Runs `task` on a shard.
    pub(super) fn spawn(&self, shard: usize, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(handle) = self.handles.get(shard) {
            handle.spawn(task);
        }
    }

    /// Ends the shards' threads and whatever still runs on them.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        self.stop();
    }
}

fn udp(address: SocketAddr, shared: bool) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // One wildcard address serves both families where the system allows it.
        let _unsupported = socket.set_only_v6(false);
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    let _capped = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _capped = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}
