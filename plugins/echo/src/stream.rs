//! The handler: every byte comes back on the stream that brought it.

use std::future::pending;
use std::pin::pin;

use alknet_plugin_api::prelude::*;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};

pub(crate) const ALPN: &str = "alknet/echo";

/// A stream's first buffer: most streams are short, and there may be many.
const FIRST_BUFFER: usize = 4 * 1024;
/// What a buffer grows to once reads fill it. Fewer, larger crossings between
/// plugin and host are what makes bulk transfer fast.
const BULK_BUFFER: usize = 64 * 1024;

pub(crate) struct EchoHandler {
    host: Host,
}

impl EchoHandler {
    pub(crate) fn new(host: Host) -> Self {
        Self { host }
    }
}

impl ProtocolHandler for EchoHandler {
    /// Serves all streams of the connection side by side, in this one future: when
    /// the host drops it, every stream goes with it and none reads as complete.
    async fn handle(
        &self,
        connection: Connection,
        _auth: &AuthContext,
    ) -> Result<(), HandlerError> {
        // The set wakes itself whenever it has polled all that it holds, so it holds one
        // that it has no reason to poll.
        let mut streams = FuturesUnordered::from_iter([pending().left_future()]);
        let mut datagrams = pin!(echo_datagrams(&connection));
        let mut draining = pin!(connection.shutdown());
        let (mut accepting, mut datagrams_open) = (true, true);
        let mut outcome = Ok(());
        loop {
            tokio::select! {
                accepted = connection.accept_bi(), if accepting => match accepted {
                    Ok((send, recv)) => {
                        self.host.counter("streams_total", &[], 1);
                        streams.push(echo_stream(send, recv).right_future());
                    }
                    // No more streams; those under way still finish. A source of
                    // a single stream ends up here at once.
                    Err(error) => {
                        accepting = false;
                        outcome = match error {
                            StreamError::ConnectionClosed => Ok(()),
                            error => Err(error.into()),
                        };
                    }
                },
                Some(()) = streams.next(), if streams.len() > 1 => {}
                () = &mut datagrams, if accepting && datagrams_open => datagrams_open = false,
                () = &mut draining, if accepting => accepting = false,
                else => return outcome,
            }
        }
    }
}

/// Echoes until the peer's clean end, and passes resets and stops on with their
/// codes: who resets what it sends sees its answer reset.
async fn echo_stream(mut send: SendStream, mut recv: RecvStream) {
    let mut buffer = vec![0; FIRST_BUFFER];
    loop {
        let read = tokio::select! {
            // While there is data nobody asks whether the peer still listens: the
            // next write will say.
            biased;
            read = recv.read(&mut buffer) => read,
            stopped = send.stopped() => {
                if let Ok(Some(code)) = stopped {
                    recv.stop(code);
                    send.reset(code);
                }
                return;
            }
        };
        match read {
            Ok(Some(n)) => {
                if let Err(error) = send.write_all(&buffer[..n]).await {
                    if let StreamError::Stopped(code) = error {
                        recv.stop(code);
                        send.reset(code);
                    }
                    return;
                }
                if n == buffer.len() && n < BULK_BUFFER {
                    buffer.resize(BULK_BUFFER, 0);
                }
            }
            Ok(None) => {
                if send.finish().is_ok() {
                    // The connection closes when the handler returns, so it has to
                    // know that the end arrived. A peer that left does not matter.
                    let _ = send.stopped().await;
                }
                return;
            }
            Err(StreamError::Reset(code)) => {
                send.reset(code);
                return;
            }
            // Dropping `send` resets it: this was no clean end.
            Err(_) => return,
        }
    }
}

/// Echoes datagrams until there are no more.
async fn echo_datagrams(connection: &Connection) {
    while let Ok(datagram) = connection.read_datagram().await {
        // The path may have become narrower since the datagram was sent. They may
        // get lost anyway.
        let _ = connection.send_datagram(datagram);
    }
}
