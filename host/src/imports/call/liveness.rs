//! Telling a slow operation from a lost peer.
//!
//! A peer that is killed sends nothing, and QUIC's own idle limit is made for
//! minutes of silence. So while calls are under way, a peer from which nothing came
//! is nudged: it must acknowledge that at once, however busy its operations are.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Link;

/// How long nothing may come before the peer is nudged, and again.
const TICK: Duration = Duration::from_millis(140);
/// Silent ticks in a row that make a peer lost: with the tick in which it was last
/// heard, less than the second that is promised. Counting ticks instead of time, a
/// node that slept itself does not blame its peers.
const SILENT_TICKS: u32 = 5;

/// How long a peer may be silent with a call under way.
pub(super) const PATIENCE: Duration =
    Duration::from_millis(TICK.as_millis() as u64 * SILENT_TICKS as u64);

/// Resolves when the peer is silent although calls are under way.
pub(super) async fn silence(link: &Link) {
    loop {
        link.busy.notified().await;
        let received = || link.calls.connection().stats().bytes_received;
        let mut last = received();
        let mut silent = 0;
        while link.in_flight.load(Ordering::Acquire) > 0 {
            tokio::time::sleep(TICK).await;
            let now = received();
            if now != last {
                (last, silent) = (now, 0);
                continue;
            }
            silent += 1;
            if silent >= SILENT_TICKS {
                return;
            }
            // A peer at its limit of streams cannot be nudged, and need not be: it
            // acknowledges what is being sent on them.
            let _unsent = tokio::time::timeout(TICK / 4, link.calls.nudge()).await;
        }
    }
}
