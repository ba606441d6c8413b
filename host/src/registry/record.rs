//! What the node's metrics and audit log learn of calls.

use std::time::Duration;

use alknet_plugin_api::Identity;

use super::access::{Allowed, Denied};

/// Hears of every call. Methods run on the call's own path: they must be quick
/// and must not block. Nothing handed over holds inputs, outputs or secrets.
pub trait Recorder: Send + Sync + 'static {
    /// A call passed its checks and its handler starts.
    fn call_started(&self, _call: &CallStarted<'_>) {}
    /// A call that had started has ended.
    fn call_ended(&self, _call: &CallEnded<'_>) {}
    /// A call was refused before its handler started.
    fn call_refused(&self, _call: &CallRefused<'_>) {}
    /// The access decision was taken for a call.
    fn access_decided(&self, _decision: &AccessDecided<'_>) {}
    /// A token did not resolve, on the connection with this number.
    fn authentication_failed(&self, _connection: u64) {}
}

/// See [`Recorder::call_started`].
#[derive(Clone, Copy, Debug)]
pub struct CallStarted<'a> {
    /// The operation's name.
    pub operation: &'a str,
    /// Who serves it.
    pub plugin: &'a str,
    /// Whether another operation composed the call.
    pub internal: bool,
}

/// See [`Recorder::call_ended`].
#[derive(Clone, Copy, Debug)]
pub struct CallEnded<'a> {
    /// The operation's name.
    pub operation: &'a str,
    /// Who serves it.
    pub plugin: &'a str,
    /// Whether another operation composed the call.
    pub internal: bool,
    /// The error's code; `None` on success.
    pub code: Option<&'a str>,
    /// From dispatch to the end.
    pub duration: Duration,
    /// Whose rights admitted the call.
    pub caller: Option<&'a str>,
    /// Whose request set the call tree off.
    pub origin: Option<&'a str>,
}

/// See [`Recorder::call_refused`].
#[derive(Clone, Copy, Debug)]
pub struct CallRefused<'a> {
    /// The operation's name as the caller gave it, without a leading slash. It
    /// need not exist: do not make it a metric's label.
    pub operation: &'a str,
    /// The error's code.
    pub code: &'a str,
    /// Whether another operation composed the call.
    pub internal: bool,
    /// Whose rights the call was checked against, where that was known.
    pub caller: Option<&'a str>,
}

/// See [`Recorder::access_decided`].
#[derive(Clone, Copy, Debug)]
pub struct AccessDecided<'a> {
    /// The request's id; `None` for a composed call, which may not have one yet.
    pub request_id: Option<&'a str>,
    /// The operation's name.
    pub operation: &'a str,
    /// Whose rights were checked.
    pub subject: Option<&'a Identity>,
    /// Who set the call tree off.
    pub origin: Option<&'a Identity>,
    /// Who a forwarding peer says it acts for. A claim.
    pub forwarded_for: &'a [Identity],
    /// Whether another operation composed the call.
    pub internal: bool,
    /// The decision with its rule.
    pub decision: &'a Result<Allowed, Denied>,
}
