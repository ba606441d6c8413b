use std::time::Duration;

use alknet_call_protocol::{ALPN, CallClient, LocalOperations, Options, Timer};
use alknet_plugin_api::testing::pair;
use alknet_plugin_api::{Json, OperationSpec};
use serde_json::json;

use super::super::incoming::Incoming;
use super::super::sessions::Sessions;
use super::*;

struct Tokio;

impl Timer for Tokio {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// One end of a session, with what hands it its streams and datagrams.
fn end(connection: Connection) -> Arc<Session> {
    let sessions = Arc::<Sessions>::default();
    let session = Session::new(connection.clone(), 0, ALPN);
    assert!(sessions.open(&session));
    let patience = Duration::from_secs(60);
    let mut incoming = Incoming::new(connection.clone(), sessions.clone(), patience, 1024);
    tokio::spawn(std::future::poll_fn(move |cx| {
        let over = incoming.poll_bi(cx).is_ready() | incoming.poll_uni(cx).is_ready();
        if over { Poll::Ready(()) } else { Poll::Pending }
    }));
    tokio::spawn(async move {
        while let Ok(datagram) = connection.read_datagram().await {
            sessions.datagram(&datagram);
        }
    });
    session
}

fn ends() -> (Arc<Session>, Arc<Session>) {
    let (client, server) = pair("h3");
    (end(client), end(server))
}

#[tokio::test]
async fn c13_both_sides_open_streams_and_call() {
    let (client, server) = ends();
    let serving = |session: &Arc<Session>, side: &'static str| {
        let name = OperationSpec::query("side/name");
        let operations = LocalOperations::new()
            .operation(name, move |_| async move { Ok(Json::from(json!(side))) });
        let options = Options::new(Arc::new(Tokio)).serve(Arc::new(operations));
        let (calls, driver) = CallClient::spawn_dispatch(session.connection(), options);
        tokio::spawn(driver);
        calls
    };
    let (from_client, from_server) = (serving(&client, "client"), serving(&server, "server"));
    let asked = from_client.call("side/name", json!({})).await.unwrap();
    assert_eq!(asked.to::<String>().unwrap(), "server");
    let asked = from_server.call("side/name", json!({})).await.unwrap();
    assert_eq!(asked.to::<String>().unwrap(), "client");

    server.end(Closed { code: Some(3), reason: "enough".into() });
    let failed = from_server.call("side/name", json!({})).await.unwrap_err();
    assert!(failed.message.contains("connection closed"), "{failed}");
}

#[tokio::test]
async fn streams_have_the_sessions_codes_and_datagrams_its_number() {
    let (client, server) = ends();
    let (client, server) = (client.connection(), server.connection());
    assert_eq!((client.alpn(), client.info().source), (ALPN, Source::Nested));

    let (mut send, mut recv) = server.open_bi().await.unwrap();
    send.write_all(b"to the client").await.unwrap();
    let (mut answer, mut heard) = client.accept_bi().await.unwrap();
    let mut text = [0; 13];
    assert_eq!(heard.read(&mut text).await.unwrap(), Some(13));
    assert_eq!(&text, b"to the client");
    answer.write_all(b"x").await.unwrap();
    answer.reset(7);
    let codes = [recv.read(&mut text).await, recv.read(&mut text).await];
    assert!(codes.iter().any(|read| matches!(read, Err(StreamError::Reset(7)))), "{codes:?}");
    heard.stop(0x1_0000_0000);
    assert_eq!(send.stopped().await.unwrap(), Some(u32::MAX.into()));

    let mut send = client.open_uni().await.unwrap();
    send.write_all(b"one way").await.unwrap();
    send.finish().unwrap();
    let mut recv = server.accept_uni().await.unwrap();
    assert_eq!(recv.read_to_end(100).await.unwrap(), b"one way");

    server.send_datagram(Bytes::from_static(b"ping")).unwrap();
    assert_eq!(client.read_datagram().await.unwrap(), "ping");
    let max = server.max_datagram_size().unwrap();
    server.send_datagram(vec![0; max].into()).unwrap();
    let too_large = server.send_datagram(vec![0; max + 1].into()).unwrap_err();
    assert!(matches!(too_large, DatagramError::TooLarge { .. }), "{too_large}");
}

#[tokio::test]
async fn the_end_of_a_session_is_the_end_of_what_waits_in_it() {
    let (client, server) = ends();
    let (mut send, _recv) = client.connection().open_bi().await.unwrap();
    send.write_all(b"x").await.unwrap();
    let here = server.connection();
    let (_answer, mut heard) = here.accept_bi().await.unwrap();
    let mut text = [0; 8];
    assert_eq!(heard.read(&mut text).await.unwrap(), Some(1));
    let waiting = async {
        tokio::join!(heard.read(&mut text), here.accept_bi(), here.accept_uni(), here.closed())
    };
    let ending = async {
        tokio::task::yield_now().await;
        server.end(Closed { code: Some(5), reason: "over".into() });
        here.close(6, "too late");
    };
    let ((read, bi, uni, closed), ()) = tokio::join!(waiting, ending);
    assert!(matches!(read, Err(StreamError::ConnectionClosed)));
    assert!(matches!(bi, Err(StreamError::ConnectionClosed)));
    assert!(matches!(uni, Err(StreamError::ConnectionClosed)));
    assert_eq!(closed, Closed { code: Some(5), reason: "over".into() });
    assert!(matches!(here.open_bi().await, Err(StreamError::ConnectionClosed)));
    drop(heard);
    // Below the session the client learns that it is over.
    assert_eq!(send.stopped().await.unwrap(), Some(0));
}
