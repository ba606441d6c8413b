//! Trouble in handlers: panics, loops, greed.

use alknet_plugin_api::StreamError;
use alknet_plugin_conformance::Command;

use super::{ask, assert_echo, command};
use crate::substrate::Substrate;

pub async fn a_panic_costs_the_connection_alone(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    let (_echo, mut other) = command(&connection, &Command::Echo).await;
    let (_send, mut recv) = command(&connection, &Command::Panic).await;
    assert!(recv.read_to_end(100).await.is_err());
    assert_eq!(connection.closed().await.code, Some(5));
    assert!(other.read_to_end(100).await.is_err(), "the stream beside it read as complete");
}

pub async fn a_panic_in_drop_is_contained(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    assert_eq!(ask::<String>(&connection, &Command::PanicInDrop).await, "armed");
    connection.close(0, "");
    substrate.logged("panicked in drop, as asked").await;
}

pub async fn a_busy_plugin_stops_nobody_for_good(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    if !substrate.confines() {
        // A loop without an end cannot be stopped here, only outlasted.
        assert_eq!(ask::<String>(&connection, &Command::Spin { ms: Some(200) }).await, "spun");
        return;
    }
    let bystander = substrate.connect().await;
    let (_send, mut recv) = command(&connection, &Command::Spin { ms: None }).await;
    for _ in 0..10 {
        assert_echo(&bystander, b"beside the loop").await;
    }
    assert!(recv.read_to_end(100).await.is_err());
    assert_eq!(connection.closed().await.code, Some(5));
}

pub async fn memory_is_given_or_refused(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    let modest = Command::Allocate { bytes: 4 << 20 };
    assert_eq!(ask::<u64>(&connection, &modest).await, 4 << 20);
    if !substrate.confines() {
        return;
    }
    let (_send, mut recv) = command(&connection, &Command::Allocate { bytes: 1 << 40 }).await;
    match recv.read_to_end(100).await {
        Err(StreamError::ConnectionClosed | StreamError::Reset(_)) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(connection.closed().await.code, Some(5));
}
