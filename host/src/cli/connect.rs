//! `alknet connect`: standard input and output joined to one stream of any
//! ALPN, which is what OpenSSH's ProxyCommand wants.

use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::client::{block_on, connect};
use super::failure::{Exit, Failure};
use super::{Global, Output};

/// For the node to hear that the connection is over.
const FAREWELL: Duration = Duration::from_millis(500);

/// Join standard input and output to one stream of a node
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  echo hello | alknet connect local --alpn alknet/echo")]
pub(super) struct Connect {
    /// The node: alknet://KEY@HOST:PORT, alknet://KEY, alknet://HOST:PORT with a certificate,
    /// alknet+tcp:// over TCP, or a name in `known-nodes`
    #[arg(value_name = "NODE")]
    address: String,
    /// The protocol to speak, such as alknet/echo
    #[arg(long)]
    alpn: String,
}

impl Connect {
    pub(super) fn run(self, global: &Global, _output: &Output) -> Result<(), Failure> {
        let target = global.target_of(Some(&self.address))?;
        block_on(async {
            let (connection, way) = connect(&target, &self.alpn).await?;
            let broken =
                |error: &dyn std::fmt::Display| Failure::new(Exit::Unavailable, error.to_string());
            let (send, recv) = connection.open_bi().await.map_err(|error| broken(&error))?;
            let joined = join(tokio::io::stdin(), tokio::io::stdout(), send, recv).await;
            connection.close(0, "done");
            let _lost = tokio::time::timeout(FAREWELL, way.wait_idle()).await;
            joined.map_err(|error| broken(&error))
        })
    }
}

/// Copies both ways until the node has said everything. The end of `input` is
/// passed on and does not end the other direction.
async fn join(
    mut input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
    mut send: impl AsyncWrite + Unpin,
    mut recv: impl AsyncRead + Unpin,
) -> std::io::Result<()> {
    let upwards = async {
        tokio::io::copy(&mut input, &mut send).await?;
        send.shutdown().await
    };
    let downwards = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = recv.read(&mut buffer).await?;
            if read == 0 {
                return std::io::Result::Ok(());
            }
            output.write_all(&buffer[..read]).await?;
            // Whoever reads may be waiting for just this much.
            output.flush().await?;
        }
    };
    tokio::pin!(downwards);
    tokio::select! {
        // A node that stops reading may still have something to say.
        result = upwards => {
            let answered = downwards.await;
            result.and(answered)
        }
        answered = &mut downwards => answered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_go_both_ways_until_the_node_ends() {
        let (node, mine) = tokio::io::duplex(16);
        let (recv, send) = tokio::io::split(mine);
        let echo = async move {
            let (mut read, mut write) = tokio::io::split(node);
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.write_all(b"end").await.unwrap();
            write.shutdown().await.unwrap();
        };
        let input = vec![7; 1_000];
        let mut output = Vec::new();
        let (joined, ()) = tokio::join!(join(&*input, &mut output, send, recv), echo);
        joined.unwrap();
        assert_eq!(output.len(), 1_003);
        assert!(output.ends_with(b"end"));
    }

    #[tokio::test]
    async fn a_node_that_ends_first_ends_it_all() {
        let (node, mine) = tokio::io::duplex(16);
        let (recv, send) = tokio::io::split(mine);
        let (input, _never_ends) = tokio::io::duplex(16);
        drop(node);
        let mut output = Vec::new();
        join(input, &mut output, send, recv).await.unwrap();
        assert!(output.is_empty());
    }
}
