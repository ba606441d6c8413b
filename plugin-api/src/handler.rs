//! The handler of a byte protocol.

use std::future::Future;
use std::io;

use crate::connection::{Connection, StreamError};
use crate::identity::AuthContext;

/// Serves the connections of one or more ALPNs.
///
/// The host calls [`handle`](ProtocolHandler::handle) once a connection, each in
/// a task of its own, and closes the connection when it returns. An error or a
/// panic costs that connection alone.
///
/// Handlers share threads with others: await, and leave work that blocks to a
/// thread of its own.
///
/// ```
/// use alknet_plugin_api::prelude::*;
///
/// struct Echo;
///
/// impl ProtocolHandler for Echo {
///     async fn handle(&self, connection: Connection, _auth: &AuthContext) -> Result<(), HandlerError> {
///         let (mut send, mut recv) = connection.accept_bi().await?;
///         tokio::io::copy(&mut recv, &mut send).await?;
///         send.finish()?;
///         send.stopped().await?;
///         Ok(())
///     }
/// }
/// ```
pub trait ProtocolHandler: Send + Sync + 'static {
    /// Serves one connection until it is done. The future is dropped when the
    /// connection is lost for good or the node's drain time is over.
    fn handle(
        &self,
        connection: Connection,
        auth: &AuthContext,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;
}

/// Why a handler gave a connection up. It decides the close code that the peer
/// sees.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandlerError {
    /// The connection ended under the handler; nothing is wrong.
    #[error("connection closed")]
    ConnectionClosed,
    /// A stream failed. Close code 1; of kind `InvalidData`, which says that the
    /// peer broke the protocol, close code 7.
    #[error("stream error: {0}")]
    StreamError(io::Error),
    /// The peer must authenticate and has used up its attempts. Close code 2.
    #[error("authentication required")]
    AuthRequired,
    /// Anything else. Close code 1.
    #[error("{0}")]
    Internal(Box<dyn std::error::Error + Send + Sync>),
}

impl HandlerError {
    /// An error with a text of the handler's own.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::Internal(message.into().into())
    }

    /// The peer broke the protocol's rules. Close code 7 from a handler that is
    /// linked or native; a component closes the connection itself.
    pub fn protocol(message: impl Into<String>) -> Self {
        Self::StreamError(io::Error::new(io::ErrorKind::InvalidData, message.into()))
    }
}

impl From<StreamError> for HandlerError {
    fn from(error: StreamError) -> Self {
        let (kind, text) = match error {
            StreamError::ConnectionClosed => return Self::ConnectionClosed,
            StreamError::Internal(error) => return Self::StreamError(error),
            StreamError::StreamClosed => (io::ErrorKind::ConnectionReset, "stream closed".into()),
            StreamError::Timeout => (io::ErrorKind::TimedOut, "stream timed out".into()),
            StreamError::Reset(_) | StreamError::Stopped(_) => {
                (io::ErrorKind::ConnectionReset, error.to_string())
            }
        };
        Self::StreamError(io::Error::new(kind, text))
    }
}

/// Errors that came through `AsyncRead` and `AsyncWrite` map as the
/// [`StreamError`] inside them does.
impl From<io::Error> for HandlerError {
    fn from(error: io::Error) -> Self {
        StreamError::from_io(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k07_stream_errors_map_to_handler_errors_as_the_table_says() {
        fn stream(error: StreamError) -> (io::ErrorKind, String) {
            match HandlerError::from(error) {
                HandlerError::StreamError(error) => (error.kind(), error.to_string()),
                other => panic!("{other:?}"),
            }
        }
        use io::ErrorKind::{ConnectionReset, Other, TimedOut};
        assert!(matches!(
            HandlerError::from(StreamError::ConnectionClosed),
            HandlerError::ConnectionClosed
        ));
        assert_eq!(stream(StreamError::StreamClosed), (ConnectionReset, "stream closed".into()));
        assert_eq!(stream(StreamError::Timeout), (TimedOut, "stream timed out".into()));
        let (kind, text) = stream(StreamError::Reset(0x1_0000_0001));
        assert_eq!(kind, ConnectionReset);
        assert!(text.contains("0x100000001"), "{text}");
        let (kind, text) = stream(StreamError::Stopped(9));
        assert_eq!(kind, ConnectionReset);
        assert!(text.contains("0x9"), "{text}");
        let (kind, text) = stream(StreamError::Internal(io::Error::other("disk on fire")));
        assert_eq!((kind, text.as_str()), (Other, "disk on fire"));
    }

    #[test]
    fn errors_keep_their_meaning_through_async_read() {
        let io: io::Error = StreamError::ConnectionClosed.into();
        assert!(matches!(HandlerError::from(io), HandlerError::ConnectionClosed));
        let io: io::Error = StreamError::Reset(7).into();
        assert!(matches!(StreamError::from_io(io), StreamError::Reset(7)));
    }
}
