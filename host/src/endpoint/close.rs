//! Close codes: what a peer learns when the node ends its connection.

use std::io::ErrorKind;

use alknet_plugin_api::{Closed, HandlerError};

/// Declares the codes once: as an enum, as text for logs, and as documentation.
macro_rules! close_codes {
    ($($code:literal $name:ident $text:literal: $doc:literal;)*) => {
        /// The application close codes of the endpoint, the same on every source.
        ///
        /// | code | text | when |
        /// |---|---|---|
        $(#[doc = concat!("| ", $code, " | ", $text, " | ", $doc, " |")])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum CloseCode {
            $(#[doc = $doc] $name = $code,)*
        }

        impl CloseCode {
            /// Every code, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason sent with the code, and its name in logs and metrics.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The code with this number.
            pub fn from_code(code: u64) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

close_codes! {
    0 Done "done": "The handler is done with the connection.";
    1 HandlerError "handler error": "The handler gave up with an error.";
    2 AuthRequired "authentication required": "The handler requires an identity that the peer did not prove.";
    3 ShuttingDown "shutting down": "The node stops, and the drain time is over.";
    4 RateLimited "rate limited": "The peer's prefix, or the node, is over a limit.";
    5 Crashed "handler crashed": "The handler panicked or trapped.";
    6 NotAvailable "handler not available": "The plugin behind this ALPN does not run.";
    7 ProtocolError "protocol error": "The peer broke the protocol's rules.";
    8 PeerRemoved "peer removed or disabled": "A reload took the peer's access away.";
}

impl CloseCode {
    /// The number on the wire.
    pub fn code(self) -> u64 {
        self as u64
    }

    /// What those learn who wait for the end of a connection that closes with it.
    pub(super) fn closed(self) -> Closed {
        Closed { code: Some(self.code()), reason: self.text().to_owned() }
    }

    /// The code for what a handler returned.
    pub fn of(result: &Result<(), HandlerError>) -> Self {
        match result {
            Ok(()) | Err(HandlerError::ConnectionClosed) => Self::Done,
            Err(HandlerError::AuthRequired) => Self::AuthRequired,
            Err(HandlerError::StreamError(error)) if error.kind() == ErrorKind::InvalidData => {
                Self::ProtocolError
            }
            Err(HandlerError::Internal(error)) if is_crash(&**error) => Self::Crashed,
            Err(_) => Self::HandlerError,
        }
    }
}

/// Marks a handler's end as a crash, not an error that it chose to return. A
/// substrate that catches a trap or panic itself returns it, or an error whose
/// source it is, in [`HandlerError::Internal`].
#[derive(Debug, thiserror::Error)]
#[error("the plugin crashed: {0}")]
pub struct Crash(pub String);

fn is_crash(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<Crash>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("wrapped")]
    struct Wrapped(#[source] Crash);

    #[test]
    fn a_crash_is_found_behind_other_errors() {
        let crash = || Crash("unreachable executed".into());
        let of = |error: Box<dyn std::error::Error + Send + Sync>| {
            CloseCode::of(&Err(HandlerError::Internal(error)))
        };
        assert_eq!(of(Box::new(crash())), CloseCode::Crashed);
        assert_eq!(of(Box::new(Wrapped(crash()))), CloseCode::Crashed);
        assert_eq!(of("plain".into()), CloseCode::HandlerError);
    }

    #[test]
    fn bad_data_is_the_peers_fault_and_other_stream_errors_the_handlers() {
        assert_eq!(CloseCode::of(&Err(HandlerError::protocol("no"))), CloseCode::ProtocolError);
        let timeout = HandlerError::from(alknet_plugin_api::StreamError::Timeout);
        assert_eq!(CloseCode::of(&Err(timeout)), CloseCode::HandlerError);
    }

    #[test]
    fn codes_are_numbered_from_zero_without_a_gap() {
        for (at, code) in CloseCode::ALL.iter().enumerate() {
            assert_eq!(code.code(), at as u64);
            assert_eq!(CloseCode::from_code(at as u64), Some(*code));
        }
        assert_eq!(CloseCode::ALL.len(), 9);
        assert_eq!(CloseCode::from_code(9), None);
    }
}
