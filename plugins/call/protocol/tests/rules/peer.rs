//! The two sides of a test: the library's, or one that speaks bytes.

use std::sync::Arc;
use std::time::Duration;

use alknet_call_protocol::frame::FrameDecoder;
use alknet_call_protocol::{ALPN, CallClient, CallConnection, LocalOperations, Options, Timer};
use alknet_plugin_api::testing::pair;
use alknet_plugin_api::{
    CallError, Connection, Json, OperationSpec, RecvStream, SendStream, StreamError,
};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

pub(crate) struct Tokio;
impl Timer for Tokio {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Echoes, waits for ever, fails, and counts as far as it is told.
pub(crate) fn operations() -> LocalOperations {
    LocalOperations::new()
        .operation(OperationSpec::query("t/echo"), |input| async move { Ok(input) })
        .operation(OperationSpec::query("t/never"), |_| std::future::pending())
        .operation(OperationSpec::query("t/fail"), |_| async {
            Err(CallError::new("LOCKED", "held").retryable(true))
        })
        .operation(OperationSpec::query("t/long"), |size: Json| async move {
            Ok(Json::from(json!("x".repeat(size.to().unwrap()))))
        })
        .subscription(OperationSpec::subscription("t/count"), |to: Json| {
            let to: u32 = to.to().unwrap();
            stream::iter(0..to).map(|n| Ok(Json::from(json!(n))))
        })
        .subscription(OperationSpec::subscription("t/break"), |_| {
            stream::iter([Ok(Json::null()), Err(CallError::internal("broke"))])
        })
}

pub(crate) fn serving(operations: LocalOperations) -> Options {
    Options::new(Arc::new(Tokio)).serve(Arc::new(operations))
}

pub(crate) fn options() -> Options {
    serving(operations())
}

pub(crate) fn run(connection: Connection, options: Options) -> CallConnection {
    let (calls, driver) = CallClient::spawn_dispatch(connection, options);
    tokio::spawn(driver);
    calls
}

/// A client and a server.
pub(crate) fn both(server: Options) -> (CallConnection, CallConnection) {
    let (near, far) = pair(ALPN);
    (run(near, options()), run(far, server))
}

/// A connection to a server.
pub(crate) fn server(options: Options) -> Connection {
    let (near, far) = pair(ALPN);
    run(far, options);
    near
}

pub(crate) fn framed(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u32).to_be_bytes(), text].concat()
}

pub(crate) fn request(id: &str, operation: &str, input: Value) -> Value {
    json!({"type": "call.requested", "id": id,
           "payload": {"operationId": operation, "input": input}})
}

/// One stream, by the byte.
pub(crate) struct Peer {
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
    decoder: FrameDecoder,
}

impl Peer {
    pub(crate) async fn open(connection: &Connection) -> Self {
        Self::of(connection.open_bi().await.unwrap())
    }

    pub(crate) async fn accept(connection: &Connection) -> Self {
        Self::of(connection.accept_bi().await.unwrap())
    }

    fn of((send, recv): (SendStream, RecvStream)) -> Self {
        Self { send, recv, decoder: FrameDecoder::new(1 << 26) }
    }

    pub(crate) async fn write(&mut self, envelope: Value) {
        self.send.write_all(&framed(envelope.to_string())).await.unwrap();
    }

    /// The next envelope; `None` at a clean end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(serde_json::from_slice(&frame).unwrap());
            }
            let mut chunk = [0; 4096];
            match self.recv.read(&mut chunk).await.unwrap() {
                Some(n) => self.decoder.buffer().extend_from_slice(&chunk[..n]),
                None => return None,
            }
        }
    }

    /// Everything up to the clean end.
    pub(crate) async fn rest(mut self) -> Vec<Value> {
        self.send.finish().unwrap();
        let mut all = Vec::new();
        while let Some(envelope) = self.next().await {
            all.push(envelope);
        }
        all
    }

    /// The code that the stream is reset with.
    pub(crate) async fn reset(mut self) -> u64 {
        let mut chunk = [0; 4096];
        loop {
            match self.recv.read(&mut chunk).await {
                Ok(Some(_)) => {}
                Err(StreamError::Reset(code)) => return code,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Lets everything run that can, for as long as `seen` goes on changing.
pub(crate) async fn settle<T: PartialEq>(seen: impl Fn() -> T) -> T {
    loop {
        let before = seen();
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        if seen() == before {
            return before;
        }
    }
}
