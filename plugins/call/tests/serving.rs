//! The plugin in a host: what it is configured with, and whose calls it serves.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use alknet_call_protocol::{ALPN, CallClient, CallConnection, Options, Timer};
use alknet_plugin_api::testing::{Pair, TestHost, TestPlugin};
use alknet_plugin_api::{Connection, Json};
use alknet_plugin_call::Call;
use futures_util::future::BoxFuture;
use serde_json::json;

struct Tokio;
impl Timer for Tokio {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

fn host() -> TestHost {
    TestHost::new()
        .gateway()
        .operation("t/echo", |_, input: serde_json::Value| async move { Ok(input) })
        .operation("t/never", |_, _: serde_json::Value| {
            std::future::pending::<Result<serde_json::Value, _>>()
        })
}

fn client(connection: Connection) -> CallConnection {
    let (calls, driver) = CallClient::spawn_dispatch(connection, Options::new(Arc::new(Tokio)));
    tokio::spawn(driver);
    calls
}

#[tokio::test]
async fn a_peer_calls_the_hosts_operations() {
    let plugin = TestPlugin::build::<Call>(host(), json!({})).unwrap();
    let calls = client(plugin.connect(ALPN));
    let answer = calls.call("t/echo", json!({"a": 1})).await.unwrap();
    assert_eq!(answer.to_string(), r#"{"a":1}"#);
    let error = calls.call("t/none", Json::null()).await.unwrap_err();
    assert_eq!(error.code, "NOT_FOUND");
}

#[tokio::test(start_paused = true)]
async fn a_drain_aborts_what_still_runs_before_the_connection_closes() {
    let plugin = TestPlugin::build::<Call>(host(), json!({"drain_ms": 50})).unwrap();
    let (connection, control, _serving) = plugin.connect_over(Pair::new(ALPN), None);
    let calls = client(connection);
    let never = calls.call("t/never", Json::null());
    let drain = async {
        calls.call("t/echo", Json::null()).await.unwrap();
        control.begin_shutdown();
        std::future::pending::<()>().await;
    };
    let error = tokio::select! { r = never => r.unwrap_err(), () = drain => unreachable!() };
    assert_eq!((&*error.code, &*error.message), ("ABORTED", "shutting down"));
}

#[tokio::test]
async fn the_configured_frame_limit_holds_for_its_connections() {
    let plugin = TestPlugin::build::<Call>(host(), json!({"max_frame_bytes": 1024})).unwrap();
    let connection = plugin.connect(ALPN);
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&1025u32.to_be_bytes()).await.unwrap();
    let end = recv.read_to_end(100).await;
    assert!(matches!(end, Err(alknet_plugin_api::StreamError::Reset(1))), "{end:?}");
}

#[test]
fn wrong_configuration_is_refused() {
    for config in [json!({"max_frame_bytes": "x"}), json!({"frames": 1}), json!({"drain_ms": -1})] {
        assert!(TestPlugin::build::<Call>(host(), config.clone()).is_err(), "{config}");
    }
}
