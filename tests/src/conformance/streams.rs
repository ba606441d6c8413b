//! Streams: bytes, ends and codes.

use alknet_plugin_api::{Connection, RecvStream, SendStream, StreamError};
use alknet_plugin_conformance::{Command, Ended};
use futures_util::future::{join, join_all};

use super::{ask, assert_echo, command, echo};
use crate::substrate::Substrate;

/// Codes from one byte's worth to the largest that QUIC can carry.
const CODES: [u64; 5] = [0, 1, 0x1_0000, 0x1_0000_0000, (1 << 62) - 1];

pub async fn echoes_nothing(substrate: &dyn Substrate) {
    assert_echo(&substrate.connect().await, b"").await;
}

pub async fn echoes_one_byte(substrate: &dyn Substrate) {
    assert_echo(&substrate.connect().await, b"x").await;
}

pub async fn echoes_64_kib(substrate: &dyn Substrate) {
    let data: Vec<u8> = (0..65_536u32).map(|n| (n % 251) as u8).collect();
    assert!(echo(&substrate.connect().await, &data).await == data);
}

pub async fn echoes_256_mib(substrate: &dyn Substrate) {
    // Blocks of a length that divides neither buffers nor packets.
    let block: Vec<u8> = (0..65_521u32).map(|n| (n % 251) as u8).collect();
    let total = 256 << 20;
    let connection = substrate.connect().await;
    let (mut send, mut recv) = command(&connection, &Command::Echo).await;
    let sending = async {
        let mut left = total;
        while left > 0 {
            let n = left.min(block.len());
            send.write_all(&block[..n]).await.unwrap();
            left -= n;
        }
        send.finish().unwrap();
    };
    let receiving = async {
        let (mut received, mut buffer) = (0, vec![0; 64 * 1024]);
        while let Some(n) = recv.read(&mut buffer).await.unwrap() {
            let mut rest = &buffer[..n];
            while !rest.is_empty() {
                let at = received % block.len();
                let same = rest.len().min(block.len() - at);
                assert!(rest[..same] == block[at..at + same], "wrong bytes after {received}");
                received += same;
                rest = &rest[same..];
            }
        }
        assert_eq!(received, total);
    };
    join(sending, receiving).await;
}

pub async fn echoes_without_an_end(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    let (mut send, mut recv) = command(&connection, &Command::Echo).await;
    for n in 0..100u8 {
        send.write_all(&[n]).await.unwrap();
        let mut back = [0];
        assert_eq!(recv.read(&mut back).await.unwrap(), Some(1));
        assert_eq!(back, [n]);
    }
}

pub async fn half_close(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    let (mut send, mut recv) = command(&connection, &Command::Count).await;
    send.write_all(&[7; 100_000]).await.unwrap();
    send.finish().unwrap();
    assert_eq!(recv.read_to_end(100).await.unwrap(), b"100000");
    assert_eq!(send.stopped().await.unwrap(), None);
}

pub async fn reset_codes_reach_the_client(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    for code in CODES {
        let (_send, mut recv) = command(&connection, &Command::Reset { code }).await;
        match recv.read_to_end(1).await {
            Err(StreamError::Reset(seen)) => assert_eq!(seen, code),
            other => panic!("{code:#x}: {other:?}"),
        }
    }
}

pub async fn stop_codes_reach_the_client(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    for code in CODES {
        let (mut send, _recv) = command(&connection, &Command::Stop { code }).await;
        assert_eq!(send.stopped().await.unwrap(), Some(code));
        match send.write_all(b"x").await {
            Err(StreamError::Stopped(seen)) => assert_eq!(seen, code),
            other => panic!("{code:#x}: {other:?}"),
        }
    }
}

pub async fn reset_codes_reach_the_plugin(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    for code in CODES {
        let (mut send, _recv) = begun(&connection, &Command::ReportEnd).await;
        send.reset(code);
        assert_eq!(report(&connection).await, Ended::Reset { code });
    }
    let (mut send, _recv) = command(&connection, &Command::ReportEnd).await;
    send.write_all(b"12345").await.unwrap();
    send.finish().unwrap();
    assert_eq!(report(&connection).await, Ended::Finished { bytes: 5 });
}

pub async fn stop_codes_reach_the_plugin(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    for code in CODES {
        let (_send, mut recv) = command(&connection, &Command::ReportStop).await;
        assert!(recv.read(&mut [0; 16]).await.unwrap().is_some());
        recv.stop(code);
        assert_eq!(report(&connection).await, Ended::Stopped { code });
    }
}

pub async fn codes_pass_through_an_echo(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    let (mut send, mut recv) = begun(&connection, &Command::Echo).await;
    send.reset(0xfee1_dead);
    match recv.read_to_end(1).await {
        Err(StreamError::Reset(code)) => assert_eq!(code, 0xfee1_dead),
        other => panic!("{other:?}"),
    }
}

pub async fn an_unfinished_stream_reads_as_dropped(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    let (_send, mut recv) = command(&connection, &Command::DropUnfinished).await;
    match recv.read_to_end(100).await {
        Err(StreamError::Reset(code)) => assert_eq!(code, SendStream::DROPPED),
        other => panic!("{other:?}"),
    }
}

pub async fn the_plugin_opens_unidirectional_streams(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    let (_send, mut recv) = command(&connection, &Command::OpenUni { count: 200 }).await;
    for n in 0..200 {
        let text = connection.accept_uni().await.unwrap().read_to_end(100).await.unwrap();
        assert_eq!(text, n.to_string().as_bytes());
    }
    assert_eq!(recv.read_to_end(100).await.unwrap(), b"200");
}

pub async fn the_plugin_opens_bidirectional_streams(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    let (_send, mut answer) = command(&connection, &Command::OpenBi { count: 50 }).await;
    let echoes = join_all((0..50).map(|_| async {
        let (mut send, mut recv) = connection.accept_bi().await.unwrap();
        let text = recv.read_to_end(100).await.unwrap();
        send.write_all(&text).await.unwrap();
        send.finish().unwrap();
        send.stopped().await.unwrap();
    }));
    let (_, answer) = join(echoes, answer.read_to_end(100)).await;
    assert_eq!(answer.unwrap(), b"50");
}

pub async fn a_thousand_streams_at_once(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    // All are open before the first is used.
    let streams = join_all((0..1000).map(|_| command(&connection, &Command::Echo))).await;
    join_all(streams.into_iter().enumerate().map(|(n, (mut send, mut recv))| async move {
        let text = format!("stream {n}");
        send.write_all(text.as_bytes()).await.unwrap();
        send.finish().unwrap();
        assert_eq!(recv.read_to_end(100).await.unwrap(), text.as_bytes());
    }))
    .await;
}

pub async fn a_slow_reader_holds_up_nobody(substrate: &dyn Substrate) {
    let connection = substrate.connect().await;
    let bytes = 16 << 20;
    let (_send, mut flood) = command(&connection, &Command::Flood { bytes }).await;
    assert!(flood.read(&mut [0; 1]).await.unwrap().is_some());
    // The flood stands, unread, and this connection goes on all the same.
    for n in 0..100u32 {
        assert_echo(&connection, &n.to_be_bytes()).await;
    }
    let rest = flood.read_to_end(1 << 30).await.unwrap();
    assert_eq!(rest.len() as u64 + 1, bytes);
    let answer: String = ask(&connection, &Command::Sleep { ms: 0 }).await;
    assert_eq!(answer, "slept");
}

/// Gives a command and waits until the plugin has read it, since a reset overtakes
/// what is still under way.
async fn begun(connection: &Connection, asked: &Command) -> (SendStream, RecvStream) {
    let (mut send, mut recv) = command(connection, asked).await;
    send.write_all(b"x").await.unwrap();
    assert_eq!(recv.read(&mut [0; 1]).await.unwrap(), Some(1));
    (send, recv)
}

/// What the plugin reports on a stream of its own.
async fn report(connection: &Connection) -> Ended {
    let report = connection.accept_uni().await.unwrap().read_to_end(1000).await.unwrap();
    serde_json::from_slice(&report).unwrap()
}
