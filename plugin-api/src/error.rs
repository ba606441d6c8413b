//! Errors of calls, and the codes that the protocol itself gives.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::json::Json;

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident, $retryable:literal, $http:literal;)*) => {
        /// The call protocol's own error codes. An operation may declare any
        /// others; it may not declare one of these.
        pub mod code {
            $($(#[doc = $doc])* pub const $name: &str = stringify!($name);)*

            /// Every protocol code, whether a caller may retry it, and the HTTP
            /// status it is shown as.
            pub const ALL: &[(&str, bool, u16)] = &[$(($name, $retryable, $http)),*];

            /// Whether `code` belongs to the protocol rather than to an operation.
            pub fn is_protocol(code: &str) -> bool {
                ALL.iter().any(|(name, ..)| *name == code)
            }

            /// The protocol code equal to `code`, as a static string.
            pub fn lookup(code: &str) -> Option<&'static str> {
                ALL.iter().find(|(name, ..)| *name == code).map(|(name, ..)| *name)
            }
        }
    };
}

codes! {
    /// The operation is unknown, internal, or out of the caller's reach.
    NOT_FOUND, false, 404;
    /// Access was denied, or the token did not resolve.
    FORBIDDEN, false, 403;
    /// The request is malformed, or its input violates the operation's schema.
    INVALID_INPUT, false, 422;
    /// A call of a subscription, or a subscription to something else.
    INVALID_OPERATION_TYPE, false, 400;
    /// The handler or the host failed.
    INTERNAL, false, 500;
    /// The deadline passed.
    TIMEOUT, true, 504;
    /// A limit on calls in flight, or on their rate, was reached.
    RESOURCE_EXHAUSTED, true, 429;
    /// The other side aborted the call.
    ABORTED, false, 409;
}

/// Why a call failed, as the caller sees it. Callers decide by `code`; the
/// message is for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct CallError {
    /// A protocol code (see [`code`]), `HTTP_<n>`, or one the operation declared.
    pub code: Cow<'static, str>,
    /// One sentence for a person. It holds no secrets.
    pub message: String,
    /// Whether the same call may succeed later.
    pub retryable: bool,
    /// What a program may want to know, in the shape declared for `code`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Json>,
}

impl CallError {
    /// An error with a code of the operation's own, declared in its
    /// [`OperationSpec`](crate::OperationSpec); not retryable.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let code = code.into();
        let retryable = code::ALL.iter().any(|(name, retryable, _)| *retryable && *name == code);
        Self { code, message: message.into(), retryable, details: None }
    }

    /// The operation is unknown or out of reach.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(code::NOT_FOUND, message)
    }

    /// Access was denied.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(code::FORBIDDEN, message)
    }

    /// The input is not what the operation takes.
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::new(code::INVALID_INPUT, message)
    }

    /// The handler or the host failed.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(code::INTERNAL, message)
    }

    /// The deadline passed.
    pub fn timeout() -> Self {
        Self::new(code::TIMEOUT, "the deadline passed")
    }

    /// The call was aborted.
    pub fn aborted(reason: impl Into<String>) -> Self {
        Self::new(code::ABORTED, reason)
    }

    /// Says whether the same call may succeed later.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// Adds what a program may want to know.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<Json>) -> Self {
        self.details = Some(details.into());
        self
    }
}
