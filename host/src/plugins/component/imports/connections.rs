//! Connections and streams. Bytes go straight between the transport and the
//! instance's memory.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use alknet_plugin_api::{Connection, DatagramError, RecvStream, SendStream, StreamError};
use parking_lot::Mutex;
use tokio::io::ReadBuf;
use wasmtime::component::{
    Access, Accessor, Destination, Resource, Source, StreamConsumer, StreamProducer, StreamReader,
    StreamResult,
};
use wasmtime::{Result, StoreContextMut};

use super::super::bindings::alknet::plugin::connections as wit;
use super::super::bindings::alknet::plugin::types;
use super::super::instance::State;
use super::{Imports, nanos, stream_error};

/// A stream's sending half: the resource and its pipe share it.
pub struct SendHalf(Arc<Mutex<Sending>>);

struct Sending {
    stream: SendStream,
    failure: Option<types::StreamError>,
}

/// A stream's receiving half: the resource and its pipe share it.
pub struct RecvHalf(Arc<Mutex<Receiving>>);

struct Receiving {
    stream: RecvStream,
    failure: Option<types::StreamError>,
    /// Whether the pipe has been handed out.
    piped: bool,
}

impl SendHalf {
    fn new(stream: SendStream) -> Self {
        Self(Arc::new(Mutex::new(Sending { stream, failure: None })))
    }
}

impl RecvHalf {
    fn new(stream: RecvStream) -> Self {
        Self(Arc::new(Mutex::new(Receiving { stream, failure: None, piped: false })))
    }
}

/// Takes bytes out of an instance.
struct Outgoing(Arc<Mutex<Sending>>);

impl StreamConsumer<State> for Outgoing {
    type Item = u8;

    fn poll_consume(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'_, State>,
        source: Source<'_, u8>,
        finish: bool,
    ) -> Poll<Result<StreamResult>> {
        if source.remaining(&mut store) == 0 {
            // The instance asks whether it could write; the transport can only
            // say so to bytes.
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        store.data_mut().cpu.refill();
        let mut sending = self.0.lock();
        let mut source = source.as_direct(store);
        match sending.stream.poll_write(cx, source.remaining()) {
            Poll::Ready(Ok(n)) => {
                source.mark_read(n);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Poll::Ready(Err(error)) => {
                sending.failure = Some(stream_error(error));
                Poll::Ready(Ok(StreamResult::Dropped))
            }
            Poll::Pending if finish => Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Puts bytes into an instance.
struct Incoming(Arc<Mutex<Receiving>>);

impl StreamProducer<State> for Incoming {
    type Item = u8;
    type Buffer = Option<u8>;

    fn poll_produce<'a>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, State>,
        destination: Destination<'a, u8, Self::Buffer>,
        finish: bool,
    ) -> Poll<Result<StreamResult>> {
        if destination.remaining(&mut store) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let cpu = store.data_mut().cpu.clone();
        let mut receiving = self.0.lock();
        let mut destination = destination.as_direct(store, 64 * 1024);
        let mut buffer = ReadBuf::new(destination.remaining());
        match receiving.stream.poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => {
                let n = buffer.filled().len();
                if n == 0 {
                    return Poll::Ready(Ok(StreamResult::Dropped));
                }
                cpu.refill();
                destination.mark_written(n);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Poll::Ready(Err(error)) => {
                receiving.failure = Some(stream_error(error));
                Poll::Ready(Ok(StreamResult::Dropped))
            }
            Poll::Pending if finish => Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl wit::Host for State {}

impl wit::HostSendStream for State {
    fn id(&mut self, stream: Resource<SendHalf>) -> Result<u64> {
        Ok(self.table.get(&stream)?.0.lock().stream.id())
    }

    fn failure(&mut self, stream: Resource<SendHalf>) -> Result<Option<types::StreamError>> {
        Ok(self.table.get(&stream)?.0.lock().failure.clone())
    }

    fn finish(&mut self, stream: Resource<SendHalf>) -> Result<Result<(), types::StreamError>> {
        Ok(self.table.get(&stream)?.0.lock().stream.finish().map_err(stream_error))
    }

    fn reset(&mut self, stream: Resource<SendHalf>, code: u64) -> Result<()> {
        self.table.get(&stream)?.0.lock().stream.reset(code);
        Ok(())
    }

    fn set_priority(&mut self, stream: Resource<SendHalf>, priority: i32) -> Result<()> {
        self.table.get(&stream)?.0.lock().stream.set_priority(priority);
        Ok(())
    }

    fn drop(&mut self, stream: Resource<SendHalf>) -> Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

impl wit::HostSendStreamWithStore<State> for Imports {
    fn connect(
        mut host: Access<'_, State, Self>,
        stream: Resource<SendHalf>,
        data: StreamReader<u8>,
    ) -> Result<()> {
        let half = host.get().table.get(&stream)?.0.clone();
        data.pipe(&mut host, Outgoing(half))
    }

    async fn stopped(
        host: &Accessor<State, Self>,
        stream: Resource<SendHalf>,
    ) -> Result<Result<Option<u64>, types::StreamError>> {
        let half = host
            .with(|mut host| Ok::<_, wasmtime::Error>(host.get().table.get(&stream)?.0.clone()))?;
        let stopped = std::future::poll_fn(|cx| half.lock().stream.poll_stopped(cx)).await;
        Ok(stopped.map_err(stream_error))
    }
}

impl wit::HostRecvStream for State {
    fn id(&mut self, stream: Resource<RecvHalf>) -> Result<u64> {
        Ok(self.table.get(&stream)?.0.lock().stream.id())
    }

    fn failure(&mut self, stream: Resource<RecvHalf>) -> Result<Option<types::StreamError>> {
        Ok(self.table.get(&stream)?.0.lock().failure.clone())
    }

    fn stop(&mut self, stream: Resource<RecvHalf>, code: u64) -> Result<()> {
        self.table.get(&stream)?.0.lock().stream.stop(code);
        Ok(())
    }

    fn drop(&mut self, stream: Resource<RecvHalf>) -> Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

impl wit::HostRecvStreamWithStore<State> for Imports {
    fn data(
        mut host: Access<'_, State, Self>,
        stream: Resource<RecvHalf>,
    ) -> Result<StreamReader<u8>> {
        let half = host.get().table.get(&stream)?.0.clone();
        if std::mem::replace(&mut half.lock().piped, true) {
            return Err(wasmtime::format_err!("a stream has one pipe"));
        }
        StreamReader::new(&mut host, Incoming(half))
    }
}

impl wit::HostConnection for State {
    fn info(&mut self, connection: Resource<Connection>) -> Result<String> {
        Ok(serde_json::to_string(self.table.get(&connection)?.info())?)
    }

    fn send_datagram(
        &mut self,
        connection: Resource<Connection>,
        data: Vec<u8>,
    ) -> Result<Result<(), wit::DatagramError>> {
        let sent = self.table.get(&connection)?.send_datagram(data.into());
        Ok(sent.map_err(|error| match error {
            DatagramError::TooLarge { max, .. } => wit::DatagramError::TooLarge(max as u64),
            DatagramError::Stream(error) => wit::DatagramError::Failed(stream_error(error)),
            other => wit::DatagramError::Failed(types::StreamError::Internal(other.to_string())),
        }))
    }

    fn max_datagram_size(&mut self, connection: Resource<Connection>) -> Result<Option<u64>> {
        Ok(self.table.get(&connection)?.max_datagram_size().map(|size| size as u64))
    }

    fn close(&mut self, connection: Resource<Connection>, code: u64, reason: String) -> Result<()> {
        self.table.get(&connection)?.close(code, &reason);
        Ok(())
    }

    fn stats(&mut self, connection: Resource<Connection>) -> Result<wit::ConnectionStats> {
        let stats = self.table.get(&connection)?.stats();
        Ok(wit::ConnectionStats {
            rtt: nanos(stats.rtt),
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
            packets_lost: stats.packets_lost,
            mtu: stats.mtu,
        })
    }

    fn set_identity(&mut self, connection: Resource<Connection>, identity: String) -> Result<bool> {
        let identity = serde_json::from_str(&identity)?;
        Ok(self.table.get(&connection)?.set_identity(identity).is_ok())
    }

    fn identity(&mut self, connection: Resource<Connection>) -> Result<Option<String>> {
        let identity = self.table.get(&connection)?.identity();
        Ok(identity.map(|identity| serde_json::to_string(&identity)).transpose()?)
    }

    fn drop(&mut self, connection: Resource<Connection>) -> Result<()> {
        self.table.delete(connection)?;
        Ok(())
    }
}

type Streams = (Resource<SendHalf>, Resource<RecvHalf>);

impl wit::HostConnectionWithStore<State> for Imports {
    async fn accept_bi(
        host: &Accessor<State, Self>,
        connection: Resource<Connection>,
    ) -> Result<Result<Streams, types::StreamError>> {
        let accepted = get(host, &connection)?.accept_bi().await;
        halves(host, accepted)
    }

    async fn open_bi(
        host: &Accessor<State, Self>,
        connection: Resource<Connection>,
    ) -> Result<Result<Streams, types::StreamError>> {
        let opened = get(host, &connection)?.open_bi().await;
        halves(host, opened)
    }

    async fn accept_uni(
        host: &Accessor<State, Self>,
        connection: Resource<Connection>,
    ) -> Result<Result<Resource<RecvHalf>, types::StreamError>> {
        match get(host, &connection)?.accept_uni().await {
            Ok(recv) => host.with(|mut host| Ok(Ok(host.get().table.push(RecvHalf::new(recv))?))),
            Err(error) => Ok(Err(stream_error(error))),
        }
    }

    async fn open_uni(
        host: &Accessor<State, Self>,
        connection: Resource<Connection>,
    ) -> Result<Result<Resource<SendHalf>, types::StreamError>> {
        match get(host, &connection)?.open_uni().await {
            Ok(send) => host.with(|mut host| Ok(Ok(host.get().table.push(SendHalf::new(send))?))),
            Err(error) => Ok(Err(stream_error(error))),
        }
    }

    async fn read_datagram(
        host: &Accessor<State, Self>,
        connection: Resource<Connection>,
    ) -> Result<Result<Vec<u8>, types::StreamError>> {
        let datagram = get(host, &connection)?.read_datagram().await;
        Ok(datagram.map(Vec::from).map_err(stream_error))
    }

    async fn closed(
        host: &Accessor<State, Self>,
        connection: Resource<Connection>,
    ) -> Result<wit::CloseReason> {
        let closed = get(host, &connection)?.closed().await;
        Ok(wit::CloseReason { code: closed.code, reason: closed.reason })
    }

    async fn shutdown(
        host: &Accessor<State, Self>,
        connection: Resource<Connection>,
    ) -> Result<()> {
        get(host, &connection)?.shutdown().await;
        Ok(())
    }
}

fn get(host: &Accessor<State, Imports>, connection: &Resource<Connection>) -> Result<Connection> {
    host.with(|mut host| Ok(host.get().table.get(connection)?.clone()))
}

fn halves(
    host: &Accessor<State, Imports>,
    streams: std::result::Result<(SendStream, RecvStream), StreamError>,
) -> Result<Result<Streams, types::StreamError>> {
    match streams {
        Ok((send, recv)) => host.with(|mut host| {
            let table = &mut host.get().table;
            Ok(Ok((table.push(SendHalf::new(send))?, table.push(RecvHalf::new(recv))?)))
        }),
        Err(error) => Ok(Err(stream_error(error))),
    }
}
