//! Why something failed, as it crosses.

use std::io;

use abi_stable::StableAbi;

use super::Panicked;
use super::value::Blob;
use crate::connection::StreamError;
use crate::error::CallError;
use crate::handler::HandlerError;

/// Why something failed, in any of the ways that cross the boundary.
#[repr(C)]
#[derive(StableAbi)]
pub struct Fault {
    /// One of this module's constants.
    pub(crate) code: u32,
    /// What the code says: a stream's error code, an I/O error's kind, a size.
    pub(crate) detail: u64,
    /// A second number, such as a maximum.
    pub(crate) extra: u64,
    /// A text for people, or JSON.
    pub(crate) text: Blob,
}

/// The code on the other side panicked; the text is the panic's.
pub const PANICKED: u32 = 1;
/// The connection was closed, by either side.
pub const CONNECTION_CLOSED: u32 = 2;
/// The stream is finished, or the source cannot do this.
pub const STREAM_CLOSED: u32 = 3;
/// Nothing arrived in time.
pub const TIMEOUT: u32 = 4;
/// The peer reset the stream with the code in `detail`.
pub const RESET: u32 = 5;
/// The peer stopped the stream with the code in `detail`.
pub const STOPPED: u32 = 6;
/// An I/O error: `detail` is its kind, `text` its message.
pub const IO: u32 = 7;
/// A call failed: `text` is the error as JSON.
pub const CALL: u32 = 8;
/// The peer must authenticate.
pub const AUTH_REQUIRED: u32 = 9;
/// Anything else, told in `text`.
pub const INTERNAL: u32 = 10;
/// A datagram of `detail` bytes exceeds the maximum of `extra` bytes.
pub const TOO_LARGE: u32 = 11;

/// The I/O error kinds that keep their meaning; the position is the wire number,
/// so new ones go to the end.
const KINDS: &[io::ErrorKind] = &[
    io::ErrorKind::Other,
    io::ErrorKind::NotFound,
    io::ErrorKind::PermissionDenied,
    io::ErrorKind::ConnectionRefused,
    io::ErrorKind::ConnectionReset,
    io::ErrorKind::ConnectionAborted,
    io::ErrorKind::NotConnected,
    io::ErrorKind::AddrInUse,
    io::ErrorKind::AddrNotAvailable,
    io::ErrorKind::BrokenPipe,
    io::ErrorKind::AlreadyExists,
    io::ErrorKind::WouldBlock,
    io::ErrorKind::InvalidInput,
    io::ErrorKind::InvalidData,
    io::ErrorKind::TimedOut,
    io::ErrorKind::WriteZero,
    io::ErrorKind::Interrupted,
    io::ErrorKind::Unsupported,
    io::ErrorKind::UnexpectedEof,
    io::ErrorKind::OutOfMemory,
];

fn kind_number(kind: io::ErrorKind) -> u64 {
    KINDS.iter().position(|known| *known == kind).unwrap_or(0) as u64
}

fn kind_of(number: u64) -> io::ErrorKind {
    let index = usize::try_from(number).unwrap_or(usize::MAX);
    KINDS.get(index).copied().unwrap_or(io::ErrorKind::Other)
}

impl Fault {
    /// A fault that its code and number tell in full.
    pub(crate) fn plain(code: u32, detail: u64) -> Self {
        Self { code, detail, extra: 0, text: Blob::EMPTY }
    }

    fn told(code: u32, detail: u64, text: String) -> Self {
        Self { code, detail, extra: 0, text: Blob::new(text.into()) }
    }

    pub(crate) fn panicked(text: String) -> Self {
        Self::told(PANICKED, 0, text)
    }

    pub(crate) fn internal(text: &str) -> Self {
        Self::told(INTERNAL, 0, text.to_owned())
    }

    /// The text of the failure, for people.
    pub(crate) fn message(&self) -> String {
        match self.code {
            PANICKED => format!("panicked: {}", self.text.text()),
            CONNECTION_CLOSED => "connection closed".into(),
            STREAM_CLOSED => "stream closed".into(),
            _ => self.text.text(),
        }
    }

    pub(crate) fn panic(&self) -> Option<Panicked> {
        (self.code == PANICKED).then(|| Panicked(self.text.text()))
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::told(IO, kind_number(error.kind()), error.to_string())
    }
}

impl From<StreamError> for Fault {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::ConnectionClosed => Self::plain(CONNECTION_CLOSED, 0),
            StreamError::StreamClosed => Self::plain(STREAM_CLOSED, 0),
            StreamError::Timeout => Self::plain(TIMEOUT, 0),
            StreamError::Reset(code) => Self::plain(RESET, code),
            StreamError::Stopped(code) => Self::plain(STOPPED, code),
            StreamError::Internal(error) => error.into(),
        }
    }
}

impl From<Fault> for StreamError {
    fn from(fault: Fault) -> Self {
        match fault.code {
            CONNECTION_CLOSED => Self::ConnectionClosed,
            STREAM_CLOSED => Self::StreamClosed,
            TIMEOUT => Self::Timeout,
            RESET => Self::Reset(fault.detail),
            STOPPED => Self::Stopped(fault.detail),
            IO => Self::Internal(io::Error::new(kind_of(fault.detail), fault.text.text())),
            _ => Self::Internal(match fault.panic() {
                Some(panicked) => io::Error::other(panicked),
                None => io::Error::other(fault.message()),
            }),
        }
    }
}

impl From<CallError> for Fault {
    fn from(error: CallError) -> Self {
        match Blob::json(&error) {
            Ok(text) => Self { code: CALL, detail: 0, extra: 0, text },
            Err(fault) => fault,
        }
    }
}

impl From<Fault> for CallError {
    fn from(fault: Fault) -> Self {
        if fault.code == CALL {
            return fault.text.read_json().unwrap_or_else(|fault| Self::internal(fault.message()));
        }
        Self::internal(fault.message())
    }
}

impl From<HandlerError> for Fault {
    fn from(error: HandlerError) -> Self {
        match error {
            HandlerError::ConnectionClosed => Self::plain(CONNECTION_CLOSED, 0),
            HandlerError::AuthRequired => Self::plain(AUTH_REQUIRED, 0),
            HandlerError::StreamError(error) => error.into(),
            HandlerError::Internal(error) => match error.downcast::<Panicked>() {
                Ok(panicked) => Self::panicked(panicked.0),
                Err(error) => Self::internal(&error.to_string()),
            },
        }
    }
}

impl From<Fault> for HandlerError {
    fn from(fault: Fault) -> Self {
        match fault.code {
            CONNECTION_CLOSED => Self::ConnectionClosed,
            AUTH_REQUIRED => Self::AuthRequired,
            IO => Self::StreamError(io::Error::new(kind_of(fault.detail), fault.text.text())),
            _ => Self::Internal(match fault.panic() {
                Some(panicked) => Box::new(panicked),
                None => fault.message().into(),
            }),
        }
    }
}
