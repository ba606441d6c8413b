//! The behaviours that every substrate must show.
//!
//! Each is a function of a [`Substrate`]; [`check`] runs it and sees to it that
//! nobody else noticed: a connection that was there before still works after, a
//! new one is served, operations answer. [`conformance!`](crate::conformance!)
//! makes a test of each, for one substrate.

// The names of the behaviours say what they are.
#[allow(missing_docs)]
mod connections;
#[allow(missing_docs)]
mod operations;
#[allow(missing_docs)]
mod streams;
#[allow(missing_docs)]
mod trouble;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alknet_plugin_api::{Connection, RecvStream, SendStream};
use alknet_plugin_conformance::Command;
use futures_util::future::join;
use serde::de::DeserializeOwned;
use serde_json::json;

pub use connections::*;
pub use operations::*;
pub use streams::*;
pub use trouble::*;

use crate::substrate::Substrate;

/// More than any behaviour takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Makes one test for each behaviour in a module named after the substrate. The
/// expression names a static, or anything else that can be borrowed as a
/// [`Substrate`]: the behaviours share it as connections share a node.
#[macro_export]
macro_rules! conformance {
    ($module:ident, $substrate:expr) => {
        $crate::conformance! { @tests $module, $substrate,
            echoes_nothing echoes_one_byte echoes_64_kib echoes_256_mib echoes_without_an_end
            half_close reset_codes_reach_the_client stop_codes_reach_the_client
            reset_codes_reach_the_plugin stop_codes_reach_the_plugin
            codes_pass_through_an_echo an_unfinished_stream_reads_as_dropped
            the_plugin_opens_unidirectional_streams the_plugin_opens_bidirectional_streams
            a_thousand_streams_at_once a_slow_reader_holds_up_nobody
            datagrams_come_back an_oversize_datagram_is_refused_with_the_maximum
            the_plugin_knows_its_peer the_first_identity_is_kept
            the_plugin_closes_with_code_and_reason results_become_close_codes
            timers_and_tasks_work a_dropped_task_is_dropped
            a_vanished_peer_ends_the_handler nonsense_costs_the_connection_alone
            a_panic_costs_the_connection_alone a_panic_in_drop_is_contained
            a_busy_plugin_stops_nobody_for_good memory_is_given_or_refused
            operations_answer the_configuration_arrives errors_keep_code_and_details
            the_context_is_the_calls capabilities_are_lent the_plugin_composes
            a_deadline_drops_the_call an_aborted_call_is_dropped
            panics_in_operations_cost_the_call_alone subscriptions_end_as_they_should
            a_dropped_subscription_is_dropped a_panic_ends_the_subscription
            many_calls_at_once
        }
    };
    (@tests $module:ident, $substrate:expr, $($behaviour:ident)*) => {
        mod $module {
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    let substrate: &dyn $crate::substrate::Substrate = &*$substrate;
                    let behaviour = $crate::conformance::$behaviour(substrate);
                    $crate::conformance::check(substrate, behaviour).await;
                }
            )*
        }
    };
}

/// Runs one behaviour while others are served.
///
/// # Panics
/// If the behaviour is not shown, takes longer than two minutes, or disturbs
/// somebody else.
pub async fn check(substrate: &dyn Substrate, behaviour: impl Future<Output = ()>) {
    let connections = substrate.counter("connections_total").await;
    let bystander = substrate.connect().await;
    assert_echo(&bystander, b"before").await;
    tokio::time::timeout(LIMIT, behaviour).await.expect("the behaviour took too long");
    assert_echo(&bystander, b"after").await;
    assert_echo(&substrate.connect().await, b"newcomer").await;
    let answer = substrate.call("conformance/echo", json!(["still", "here"]), None).await;
    assert_eq!(answer.unwrap().to_string(), r#"["still","here"]"#);
    let counted = substrate.counter("connections_total").await - connections;
    assert!(counted >= 2, "the plugin counted {counted} connections");
}

/// Opens a stream and gives the plugin a command on it.
///
/// # Panics
/// If that fails.
pub async fn command(connection: &Connection, command: &Command) -> (SendStream, RecvStream) {
    let (mut send, recv) = connection.open_bi().await.unwrap();
    send.write_all(&command.line().unwrap()).await.unwrap();
    (send, recv)
}

/// Gives a command and reads its answer.
///
/// # Panics
/// If there is none.
pub async fn ask<T: DeserializeOwned>(connection: &Connection, asked: &Command) -> T {
    let (_send, mut recv) = command(connection, asked).await;
    let answer = recv.read_to_end(1 << 20).await.unwrap();
    serde_json::from_slice(&answer).unwrap()
}

/// Sends `data` through an echo and reads it back.
async fn echo(connection: &Connection, data: &[u8]) -> Vec<u8> {
    let (mut send, mut recv) = command(connection, &Command::Echo).await;
    let sending = async {
        send.write_all(data).await.unwrap();
        send.finish().unwrap();
    };
    join(sending, recv.read_to_end(data.len() + 1)).await.1.unwrap()
}

/// Makes sure that `data` comes back.
///
/// # Panics
/// If it does not.
pub async fn assert_echo(connection: &Connection, data: &[u8]) {
    assert_eq!(echo(connection, data).await, data);
}

/// A text that no other behaviour logs.
fn mark(behaviour: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{behaviour}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
