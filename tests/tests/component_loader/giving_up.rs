//! Calls and connections that are given up, wherever they are: they free their
//! place and their instance, and a connection's peer hears of it.

use std::time::Duration;

use super::*;

/// Waits until the one place for connections is free: a peer may see the end of its
/// stream a moment before.
async fn serves_again(plugin: &Loaded) {
    loop {
        let (client, task) = plugin.connect("fixture/echo");
        match echoed(&client).await {
            Ok(echoed) => return assert_eq!(echoed, b"again"),
            Err(_) => assert_eq!(stopped(task).await, Trap::Instances(1)),
        }
    }
}

async fn echoed(client: &Connection) -> Result<Vec<u8>, StreamError> {
    let (mut send, mut recv) = client.open_bi().await?;
    send.write_all(b"again").await?;
    send.finish()?;
    recv.read_to_end(16).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giving_up_drops_the_instance() {
    let plugin =
        load_with(ComponentLimits { call_instances: 1, connection_instances: 1, ..limits() });
    assert_eq!(plugin.call("fixture/count", json!(null)).await.unwrap(), 1);
    {
        let hang = plugin.call("fixture/misbehave", json!("hang"));
        let mut hang = std::pin::pin!(hang);
        assert!(futures_util::poll!(&mut hang).is_pending());
    }
    assert_eq!(plugin.call("fixture/count", json!(null)).await.unwrap(), 1);

    let mut ticks = plugin.subscribe("fixture/ticks", json!(u64::MAX));
    assert_eq!(ticks.next().await.unwrap().unwrap().to_string(), "1");
    drop(ticks);
    assert_eq!(plugin.call("fixture/count", json!(null)).await.unwrap(), 1);

    let (client, task) = plugin.connect("fixture/hang");
    let (_send, mut recv) = client.open_bi().await.unwrap();
    // A second connection is one too many while the first lives.
    let (_, second) = plugin.connect("fixture/echo");
    assert_eq!(stopped(second).await, Trap::Instances(1));
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert!(recv.read(&mut [0; 8]).await.is_err());
    serves_again(&plugin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_given_up_at_any_moment_leaves_nothing() {
    const SOON: Duration = Duration::from_secs(30);
    let options = EngineOptions { max_instances: 4, ..EngineOptions::default() };
    let engine = Engine::new(options).unwrap();
    let plugin = load_on(&engine, ComponentLimits { connection_instances: 1, ..limits() });
    let before = engine.memory_used();
    for moment in 0..24 {
        // The guest waits for a stream, or for ever once it has one.
        let alpn = if moment % 2 == 0 { "fixture/echo" } else { "fixture/hang" };
        let (client, task) = plugin.connect(alpn);
        let (_send, mut recv) = client.open_bi().await.unwrap();
        match moment {
            0..12 => {
                for _ in 0..moment {
                    tokio::task::yield_now().await;
                }
            }
            _ => tokio::time::sleep(Duration::from_millis(moment - 11)).await,
        }
        task.abort();
        let gone = async {
            assert!(recv.read(&mut [0; 8]).await.is_err(), "{moment}");
            client.closed().await;
            while engine.memory_used() != before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            serves_again(&plugin).await;
            while engine.memory_used() != before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let gone = tokio::time::timeout(SOON, gone).await;
        gone.unwrap_or_else(|_| panic!("something stays of a connection given up at {moment}"));
    }
}
