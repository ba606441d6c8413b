//! The handler: runs the commands of all streams side by side.

use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use alknet_plugin_api::prelude::*;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;

use crate::answer::{answer, command};
use crate::command::{Command, Ended};
use crate::trouble::{Bomb, Waiting, allocate, spin};

/// What ends the handler.
type Verdict = ControlFlow<Result<(), HandlerError>>;

pub(crate) struct Handler {
    host: Host,
}

impl Handler {
    pub(crate) fn new(host: Host) -> Self {
        Self { host }
    }
}

impl ProtocolHandler for Handler {
    async fn handle(&self, connection: Connection, auth: &AuthContext) -> Result<(), HandlerError> {
        self.host.counter("connections_total", &[], 1);
        let mut streams = FuturesUnordered::new();
        let mut datagrams = pin!(echo_datagrams(&connection));
        let (mut accepting, mut datagrams_open) = (true, true);
        loop {
            tokio::select! {
                accepted = connection.accept_bi(), if accepting => match accepted {
                    Ok((send, recv)) => streams.push(self.serve(&connection, auth, send, recv)),
                    Err(_) => accepting = false,
                },
                Some(verdict) = streams.next() => {
                    if let ControlFlow::Break(result) = verdict {
                        return result;
                    }
                }
                () = &mut datagrams, if accepting && datagrams_open => datagrams_open = false,
                else => return Ok(()),
            }
        }
    }
}

impl Handler {
    /// Runs one stream's command.
    async fn serve(
        &self,
        connection: &Connection,
        auth: &AuthContext,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Verdict {
        let command = match command(&mut recv).await {
            Ok(command) => command,
            Err(error) => return Verdict::Break(Err(error)),
        };
        match command {
            Command::Return => Verdict::Break(Ok(())),
            Command::Fail => Verdict::Break(Err(HandlerError::internal("failed, as asked"))),
            Command::RequireAuth => Verdict::Break(Err(HandlerError::AuthRequired)),
            command => {
                // A stream that ends badly is the client's wish more often than not.
                let run = self.run(command, connection, auth, &mut send, &mut recv);
                if let Err(error) = run.await {
                    tracing::debug!(%error, "a command ended early");
                }
                Verdict::Continue(())
            }
        }
    }

    async fn run(
        &self,
        command: Command,
        connection: &Connection,
        auth: &AuthContext,
        send: &mut SendStream,
        recv: &mut RecvStream,
    ) -> Result<(), StreamError> {
        match command {
            Command::Echo => return echo(send, recv).await,
            Command::Count => {
                let mut bytes = 0u64;
                let mut buffer = vec![0; 64 * 1024];
                while let Some(n) = recv.read(&mut buffer).await? {
                    bytes += n as u64;
                }
                answer(send, &bytes).await?;
            }
            Command::ReportEnd => {
                // Tells the client that the command has arrived.
                send.write_all(b"!").await?;
                report(connection, &drain(recv).await).await?;
            }
            Command::ReportStop => report(connection, &fill(send).await).await?,
            Command::Reset { code } => send.reset(code),
            Command::Stop { code } => {
                recv.stop(code);
                // The answer stays open until the client has seen the code.
                send.stopped().await?;
            }
            Command::DropUnfinished => send.write_all(b"half an ans").await?,
            Command::OpenUni { count } => {
                for n in 0..count {
                    let mut uni = connection.open_uni().await?;
                    uni.write_all(n.to_string().as_bytes()).await?;
                    uni.finish()?;
                }
                answer(send, &count).await?;
            }
            Command::OpenBi { count } => {
                let same = join_all((0..count).map(|n| ask_client(connection, n))).await;
                let same = same.into_iter().filter(|same| matches!(same, Ok(true))).count();
                answer(send, &same).await?;
            }
            Command::Info => answer(send, &info(connection, auth)).await?,
            Command::Datagram { size } => {
                let sent = connection.send_datagram(Bytes::from(vec![7; size]));
                answer(send, &sent.err().map(|error| error.to_string())).await?;
            }
            Command::Identify { token } => {
                let named = self.identify(connection, &token);
                answer(send, &named).await?;
            }
            Command::Sleep { ms } => {
                self.host.sleep(Duration::from_millis(ms)).await;
                answer(send, "slept").await?;
            }
            Command::Spawn => {
                let (done, spawned) = oneshot::channel();
                self.host.spawn(async move {
                    let _ = done.send("spawned");
                });
                answer(send, spawned.await.unwrap_or("the task was dropped")).await?;
            }
            Command::SpawnAbort { mark } => {
                let (begin, begun) = oneshot::channel();
                let mut task = self.host.spawn(async move {
                    let _waiting = Waiting::begin(mark);
                    let _ = begin.send(());
                    std::future::pending::<()>().await;
                });
                let begun = begun.await.is_ok();
                task.abort();
                task.ended().await;
                answer(send, if begun { "aborted" } else { "the task was dropped" }).await?;
            }
            Command::AwaitShutdown => {
                connection.shutdown().await;
                answer(send, "draining").await?;
            }
            Command::Wait { mark } => {
                let _waiting = Waiting::begin(mark);
                std::future::pending::<()>().await;
            }
            Command::PanicInDrop => {
                let _bomb = Bomb;
                answer(send, "armed").await?;
                std::future::pending::<()>().await;
            }
            Command::Flood { bytes } => {
                let block = vec![7; 64 * 1024];
                let mut left = bytes;
                while left > 0 {
                    let n = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
                    send.write_all(&block[..n]).await?;
                    left -= n as u64;
                }
                send.finish()?;
                send.stopped().await?;
            }
            Command::Close { code, reason } => connection.close(code, &reason),
            Command::Panic => panic!("panicked in a handler, as asked"),
            Command::Spin { ms } => {
                spin(&self.host, ms.map(Duration::from_millis));
                answer(send, "spun").await?;
            }
            Command::Allocate { bytes } => answer(send, &allocate(bytes)).await?,
            // Taken care of where the handler can return.
            Command::Return | Command::Fail | Command::RequireAuth => {}
        }
        Ok(())
    }

    fn identify(&self, connection: &Connection, token: &str) -> serde_json::Value {
        let Some(identity) = self.host.resolve_token(token.as_bytes()) else {
            return json!({ "name": null });
        };
        let other = Identity { id: "somebody else".into(), ..Identity::default() };
        let first = connection.set_identity(identity).is_ok();
        let second = connection.set_identity(other).is_ok();
        let name = connection.identity().map(|identity| identity.id);
        json!({ "name": name, "first": first, "second": second })
    }
}

/// Echoes until the clean end, and passes resets and stops on.
async fn echo(send: &mut SendStream, recv: &mut RecvStream) -> Result<(), StreamError> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match recv.read(&mut buffer).await {
            Ok(Some(n)) => {
                if let Err(error) = send.write_all(&buffer[..n]).await {
                    if let StreamError::Stopped(code) = error {
                        recv.stop(code);
                    }
                    return Err(error);
                }
            }
            Ok(None) => {
                send.finish()?;
                send.stopped().await?;
                return Ok(());
            }
            Err(error) => {
                if let StreamError::Reset(code) = error {
                    send.reset(code);
                }
                return Err(error);
            }
        }
    }
}

async fn echo_datagrams(connection: &Connection) {
    while let Ok(datagram) = connection.read_datagram().await {
        let _ = connection.send_datagram(datagram);
    }
}

async fn drain(recv: &mut RecvStream) -> Ended {
    let mut buffer = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        match recv.read(&mut buffer).await {
            Ok(Some(n)) => bytes += n as u64,
            Ok(None) => return Ended::Finished { bytes },
            Err(error) => return ended(&error),
        }
    }
}

async fn fill(send: &mut SendStream) -> Ended {
    loop {
        if let Err(error) = send.write_all(&[7; 4096]).await {
            return ended(&error);
        }
    }
}

fn ended(error: &StreamError) -> Ended {
    match error {
        StreamError::Reset(code) => Ended::Reset { code: *code },
        StreamError::Stopped(code) => Ended::Stopped { code: *code },
        other => Ended::Other { error: other.to_string() },
    }
}

async fn report(connection: &Connection, ended: &Ended) -> Result<(), StreamError> {
    answer(&mut connection.open_uni().await?, ended).await
}

async fn ask_client(connection: &Connection, n: u32) -> Result<bool, StreamError> {
    let (mut send, mut recv) = connection.open_bi().await?;
    let text = n.to_string();
    send.write_all(text.as_bytes()).await?;
    send.finish()?;
    Ok(recv.read_to_end(64).await? == text.as_bytes())
}

fn info(connection: &Connection, auth: &AuthContext) -> serde_json::Value {
    json!({
        "id": connection.info().id,
        "alpn": connection.alpn(),
        "source": connection.info().source,
        "remote_addr": connection.remote_addr(),
        "peer_key": connection.peer_key(),
        "max_datagram_size": connection.max_datagram_size(),
        "bytes_received": connection.stats().bytes_received,
        "auth": {
            "identity": auth.identity().map(|identity| &identity.id),
            "alpn": auth.alpn(),
            "remote_addr": auth.remote_addr(),
            "peer_fingerprint": auth.peer_fingerprint(),
            "source": auth.source(),
        },
    })
}
