//! The codes that a node closes connections with.

macro_rules! close_codes {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $reason:literal;)*) => {
        /// Why the node closed a connection, as the peer sees it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum CloseCode {
            $($(#[doc = $doc])* $name = $code,)*
        }

        impl CloseCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The reason sent with the code.
            pub fn reason(self) -> &'static str {
                match self { $(Self::$name => $reason,)* }
            }

            /// What a close code means; `None` for a code that nodes do not send.
            pub fn from_code(code: u64) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

close_codes! {
    /// The handler is done.
    Done = 0, "done";
    /// The handler gave up with an error.
    HandlerError = 1, "handler error";
    /// The peer must authenticate, and has used up its attempts.
    AuthRequired = 2, "authentication required";
    /// The node is shutting down.
    ShuttingDown = 3, "shutting down";
    /// The peer, or its address, has reached a limit.
    RateLimited = 4, "rate limited";
    /// The handler panicked or trapped.
    HandlerCrashed = 5, "handler panicked or trapped";
    /// The handler is not there.
    HandlerUnavailable = 6, "handler not available";
    /// The peer broke the protocol.
    ProtocolError = 7, "protocol error";
    /// The peer was removed or disabled.
    PeerRemoved = 8, "peer removed or disabled";
}

impl CloseCode {
    /// The number on the wire.
    pub fn code(self) -> u64 {
        self as u64
    }
}

/// Marks an error that stands for a crash of the handler: a panic in a shared
/// library, a trap in a component. It travels inside
/// [`HandlerError::Internal`](alknet_plugin_api::HandlerError::Internal).
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Crash(pub String);
