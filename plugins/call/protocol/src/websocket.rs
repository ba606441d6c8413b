//! The call protocol over a WebSocket: one envelope is one binary message.
//!
//! [`WebSocket::open`] takes a stream on which the handshake is done and makes a
//! [`Connection`] of one stream out of it. That stream's length prefixes, which the
//! rest of the library reads and writes, never reach the wire. A [`Socket`] beside
//! it pings a peer that is silent and closes the socket.
//!
//! A WebSocket has no streams to reset: what resets a stream elsewhere closes the
//! socket, with the code of [`CODES`].

mod backend;
mod counted;
mod state;

use std::fmt;
use std::future::{self, Future};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use alknet_plugin_api::{Connection, ConnectionInfo};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use self::backend::SocketConnection;
use self::counted::Counted;
use self::state::{Ending, Shared};
use crate::connection::Timer;
use crate::frame::{DEFAULT_MAX_FRAME, MAX_MAX_FRAME};

/// The protocol's name among a WebSocket's subprotocols.
pub const SUBPROTOCOL: &str = "alknet.call";

/// What a subprotocol begins with that is a token, in base64url without padding.
/// Browsers have no other place for it.
pub const TOKEN_SUBPROTOCOL: &str = "alknet.bearer.";

/// The codes that sockets are closed with, and why.
pub const CODES: [(u16, &str); 6] = [
    (1000, "done"),
    (1001, "shutting down; what had been asked is answered or aborted"),
    (1002, "a text message, an empty one, or one that is no envelope to be answered"),
    (1008, "no sign of life, or answers that are not read"),
    (1009, "a message above the limit"),
    (1011, "a failure of this side"),
];

/// How long a peer may take to agree to the end.
const CLOSING: Duration = Duration::from_secs(1);
/// Pings that a silent peer may leave unanswered.
const PINGS: u32 = 3;
/// Bytes that are gathered before they are written, and read at once.
const BUFFER: usize = 16 << 10;

type Signal = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// How a WebSocket is to be used.
pub struct WebSocket {
    role: Role,
    info: ConnectionInfo,
    timer: Arc<dyn Timer>,
    max_frame: usize,
    silence: Duration,
    shutdown: Signal,
}

impl WebSocket {
    /// For the side that was asked for the upgrade.
    pub fn server(info: ConnectionInfo, timer: Arc<dyn Timer>) -> Self {
        Self::new(Role::Server, info, timer)
    }

    /// For the side that asked for it.
    pub fn client(info: ConnectionInfo, timer: Arc<dyn Timer>) -> Self {
        Self::new(Role::Client, info, timer)
    }

    fn new(role: Role, info: ConnectionInfo, timer: Arc<dyn Timer>) -> Self {
        Self {
            role,
            info,
            timer,
            max_frame: DEFAULT_MAX_FRAME,
            silence: Duration::from_secs(60),
            shutdown: Box::new(|| Box::pin(future::pending())),
        }
    }

    /// The largest message in either direction, in bytes; 1 MiB without this, and at
    /// most 64 MiB. [`Limits::max_frame`](crate::Limits::max_frame) is to be the same.
    #[must_use]
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.max_frame = bytes.clamp(1, MAX_MAX_FRAME);
        self
    }

    /// How long a peer may be silent, with three pings in that time, before it is
    /// taken for dead; a minute without this. One that does not read what it is
    /// sent, or is not read from, is left to the transport.
    #[must_use]
    pub fn silence(mut self, duration: Duration) -> Self {
        self.silence = duration;
        self
    }

    /// Gives the connection a shutdown signal: `signal` makes a future that
    /// resolves when the node drains. Without one it never does.
    #[must_use]
    pub fn shutdown<F>(mut self, signal: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.shutdown = Box::new(move || Box::pin(signal()));
        self
    }

    /// The connection, and the task that tends the socket.
    pub async fn open<S>(self, stream: S) -> (Connection, Socket<S>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(BUFFER)
            // A message is only handed over when nothing waits, so what goes beyond
            // are answers to pings: those that do not fit replace each other.
            .max_write_buffer_size(self.max_frame + 2 * BUFFER)
            .max_message_size(Some(self.max_frame))
            .max_frame_size(Some(self.max_frame));
        let counted = Counted::new(stream);
        let traffic = counted.traffic();
        let socket =
            tokio_tungstenite::WebSocketStream::from_raw_socket(counted, self.role, Some(config));
        let shared = Shared::new(self.info, self.shutdown, traffic, socket.await);
        let interval = self.silence / (PINGS + 1);
        let socket = Socket {
            tick: self.timer.sleep(interval),
            until: None,
            shared: shared.clone(),
            timer: self.timer,
            interval,
            received: 0,
            silent: 0,
            unflushed: false,
        };
        (Connection::new(Arc::new(SocketConnection::new(shared))), socket)
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket").field("info", &self.info).finish_non_exhaustive()
    }
}

/// Tends a socket: pings, and the end. Poll it beside the connection's
/// [`Driver`](crate::Driver); it resolves when the socket is closed. Dropping it
/// earlier breaks the socket off.
#[must_use = "a socket is closed by this task"]
pub struct Socket<S> {
    shared: Arc<Shared<S>>,
    timer: Arc<dyn Timer>,
    interval: Duration,
    tick: BoxFuture<'static, ()>,
    /// The end of a peer's time to agree to the socket's end.
    until: Option<BoxFuture<'static, ()>>,
    /// Bytes that had come at the last tick.
    received: u64,
    /// Ticks since then without more.
    silent: u32,
    /// A ping is to be flushed.
    unflushed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Pings a silent peer, and gives it up after a while.
    fn watch(&mut self, cx: &mut Context<'_>) {
        while self.tick.as_mut().poll(cx).is_ready() {
            self.tick = self.timer.sleep(self.interval);
            let received = self.shared.traffic.received();
            let mut state = self.shared.state.lock();
            // Only who is read from, and reads, can be expected to answer.
            let silent = received == self.received && state.reading && !state.blocked;
            self.received = received;
            self.silent = if silent { self.silent + 1 } else { 0 };
            if self.silent > PINGS {
                drop(state);
                return self.shared.end(Ending::silent());
            }
            self.unflushed |= silent && state.ping(&mut self.shared.context());
        }
        if self.unflushed {
            self.shared.wakers.task_io.register(cx.waker());
            let mut state = self.shared.state.lock();
            self.unflushed = state.poll_flush(&mut self.shared.context()).is_pending();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Socket<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.shared.wakers.task.register(cx.waker());
        if this.until.is_none() {
            if !this.shared.is_ending() {
                this.watch(cx);
            }
            if !this.shared.is_ending() {
                return Poll::Pending;
            }
        }
        this.shared.wakers.task_io.register(cx.waker());
        let until = this.until.get_or_insert_with(|| this.timer.sleep(CLOSING));
        let late = until.as_mut().poll(cx).is_ready();
        let left = {
            let mut state = this.shared.state.lock();
            if late {
                state.leave();
            }
            state.poll_farewell(&mut this.shared.context())
        };
        if late || left.is_ready() {
            this.shared.end(Ending::lost("closed"));
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl<S> Drop for Socket<S> {
    fn drop(&mut self) {
        self.shared.end(Ending::lost("the socket's task was dropped"));
    }
}

impl<S> fmt::Debug for Socket<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Socket")
    }
}
