//! What a service manager is told: systemd, and whatever speaks its protocol.
//!
//! The manager names a datagram socket in the environment; without one nothing
//! is told. A message that does not get through is logged and costs nothing
//! else.

use std::time::Duration;

use sd_notify::NotifyState;

/// The node serves.
pub(super) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// A reload that was asked for by signal has begun.
pub(super) fn reloading() {
    // The manager tells this reload's messages from those of one before by time.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager is not told of the reload"),
    }
}

/// That reload is over, with or without success.
pub(super) fn reloaded(taken_up: bool) {
    let status = match taken_up {
        true => "serving",
        false => "serving; access.toml is refused, see `alknet status`",
    };
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The node drains.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Tells the manager that the node is alive, twice in each of its intervals, for
/// as long as the runtime that serves connections runs tasks. Does nothing where
/// the manager does not watch.
pub(super) fn watchdog() {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    tokio::spawn(async move {
        let mut interval = tokio::time::interval((interval / 2).max(Duration::from_millis(1)));
        loop {
            interval.tick().await;
            tell(&[NotifyState::Watchdog]);
        }
    });
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
