//! A request that is alone leaves from its caller's task; others gather.

use std::future::Future;
use std::pin::pin;

use alknet_call_protocol::{ALPN, CallClient, CallConnection, Driver};
use alknet_plugin_api::testing::pair;
use futures_util::future::{Either, select};
use futures_util::poll;
use serde_json::{Value, json};

use crate::peer::{Peer, options};

/// A client whose driver moves only inside [`Client::with`], and its peer.
struct Client {
    calls: CallConnection,
    driver: Driver,
    peer: Peer,
}

impl Client {
    /// Connected, with a stream open and its task at rest.
    async fn at_rest() -> Self {
        let (near, far) = pair(ALPN);
        let (calls, mut driver) = CallClient::spawn_dispatch(near, options());
        let exchange = async {
            let answered = async {
                let mut peer = Peer::accept(&far).await;
                let asked = peer.next().await.unwrap();
                peer.write(response(&asked, json!("open"))).await;
                peer
            };
            let (answer, peer) = tokio::join!(calls.call("t/first", json!(0)), answered);
            assert_eq!(answer.unwrap().to_string(), "\"open\"");
            peer
        };
        let peer = Self::with(&mut driver, exchange).await;
        Self { calls, driver, peer }
    }

    /// Runs the driver beside `work` until that is done.
    async fn with<T>(driver: &mut Driver, work: impl Future<Output = T>) -> T {
        match select(driver, pin!(work)).await {
            Either::Right((output, _)) => output,
            Either::Left(_) => panic!("the driver ended"),
        }
    }
}

fn response(asked: &Value, output: Value) -> Value {
    json!({"type": "call.responded", "id": asked["id"], "payload": {"output": output}})
}

fn operation(asked: &Value) -> &str {
    asked["payload"]["operationId"].as_str().unwrap()
}

#[tokio::test]
async fn a_lone_request_leaves_without_the_driver_and_a_second_gathers() {
    let Client { calls, mut driver, mut peer } = Client::at_rest().await;
    let mut lone = pin!(calls.call("t/lone", json!(1)));
    assert!(poll!(&mut lone).is_pending());
    let asked = peer.next().await.unwrap();
    assert_eq!(operation(&asked), "/t/lone");

    // Beside it, requests wait for the driver, which writes them together.
    let mut second = pin!(calls.call("t/second", json!(2)));
    let mut third = pin!(calls.call("t/third", json!(3)));
    assert!(poll!(&mut second).is_pending());
    assert!(poll!(&mut third).is_pending());
    {
        let mut next = pin!(peer.next());
        for _ in 0..100 {
            assert!(poll!(&mut next).is_pending());
            tokio::task::yield_now().await;
        }
    }
    Client::with(&mut driver, async {
        for (expected, call) in [("/t/second", &mut second), ("/t/third", &mut third)] {
            let asked = peer.next().await.unwrap();
            assert_eq!(operation(&asked), expected);
            peer.write(response(&asked, json!(expected))).await;
            assert_eq!(call.await.unwrap().to_string(), format!("\"{expected}\""));
        }
        peer.write(response(&asked, json!("late"))).await;
        assert_eq!(lone.await.unwrap().to_string(), "\"late\"");
    })
    .await;
}

#[tokio::test]
async fn what_the_transport_does_not_take_at_once_follows_in_order() {
    let Client { calls, mut driver, mut peer } = Client::at_rest().await;
    // More than the peer lets this side send before it reads.
    let text = "x".repeat(900_000);
    let mut large = pin!(calls.call("t/large", json!(text)));
    assert!(poll!(&mut large).is_pending());
    // It waits for room behind the other.
    let mut small = pin!(calls.call("t/small", json!(2)));
    assert!(poll!(&mut small).is_pending());
    let answering = async {
        for (operation_id, input) in [("/t/large", json!(text)), ("/t/small", json!(2))] {
            let asked = peer.next().await.unwrap();
            assert_eq!(operation(&asked), operation_id);
            assert_eq!(asked["payload"]["input"], input);
            peer.write(response(&asked, json!(operation_id))).await;
        }
    };
    let all = async { tokio::join!(large, small, answering) };
    let (large, small, ()) = Client::with(&mut driver, all).await;
    assert_eq!(large.unwrap().to_string(), "\"/t/large\"");
    assert_eq!(small.unwrap().to_string(), "\"/t/small\"");
}

#[tokio::test]
async fn a_lone_request_that_is_dropped_is_aborted() {
    let Client { calls, mut driver, mut peer } = Client::at_rest().await;
    {
        let mut lone = pin!(calls.call("t/lone", json!(1)));
        assert!(poll!(&mut lone).is_pending());
    }
    let (asked, aborted) =
        Client::with(&mut driver, async { (peer.next().await, peer.next().await) }).await;
    let (asked, aborted) = (asked.unwrap(), aborted.unwrap());
    assert_eq!(aborted["type"], "call.aborted");
    assert_eq!(aborted["id"], asked["id"]);
}

#[tokio::test]
async fn a_lone_request_on_a_stopped_stream_fails_as_any_other() {
    let Client { calls, mut driver, mut peer } = Client::at_rest().await;
    peer.recv.stop(7);
    let mut lone = pin!(calls.call("t/lone", json!(1)));
    let _first = poll!(&mut lone);
    let error = Client::with(&mut driver, lone).await.unwrap_err();
    assert_eq!(error.code, "INTERNAL");
    assert_eq!(error.message, "stream ended");
}
