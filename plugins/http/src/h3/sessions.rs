//! The sessions of WebTransport on one connection, and what arrives for them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_plugin_api::SendStream;
use bytes::Bytes;
use parking_lot::Mutex;

use super::frames::varint;
use super::quic::Recv;
use super::session::Session;

/// Sessions on one connection. Each has a gateway, and so calls in flight, of its
/// own.
pub(super) const SESSIONS: usize = 8;

/// Streams that wait for a session that is not there yet, and how long they do.
const EARLY: usize = 32;
const EARLY_TIME: Duration = Duration::from_secs(10);

/// Codes of WebTransport over HTTP/3.
const BUFFERED_STREAM_REJECTED: u64 = 0x3994_bd84;
pub(super) const SESSION_GONE: u64 = 0x170d_7b68;

/// A stream of a session.
pub(super) enum Arrived {
    Bi(SendStream, Recv),
    Uni(Recv),
}

impl Arrived {
    pub(super) fn refuse(self, code: u64) {
        match self {
            Self::Bi(mut send, mut recv) => {
                send.reset(code);
                recv.stop(code);
            }
            Self::Uni(mut recv) => recv.stop(code),
        }
    }
}

/// By the number of the stream that each was asked for on.
#[derive(Default)]
pub(super) struct Sessions(Mutex<State>);

#[derive(Default)]
struct State {
    open: HashMap<u64, Arc<Session>>,
    early: VecDeque<(Instant, u64, Arrived)>,
}

impl Sessions {
    /// Lets a session in, with what came before it, unless there are too many.
    pub(super) fn open(&self, session: &Arc<Session>) -> bool {
        let mut state = self.0.lock();
        if state.open.len() >= SESSIONS {
            return false;
        }
        state.open.insert(session.id(), session.clone());
        let early = std::mem::take(&mut state.early);
        for (at, id, stream) in early {
            match id == session.id() {
                true => session.arrived(stream),
                false => state.early.push_back((at, id, stream)),
            }
        }
        true
    }

    /// Forgets a session, or one that was refused.
    pub(super) fn close(&self, id: u64) {
        let mut state = self.0.lock();
        state.open.remove(&id);
        let early = std::mem::take(&mut state.early);
        for (at, of, stream) in early {
            match of == id {
                true => stream.refuse(SESSION_GONE),
                false => state.early.push_back((at, of, stream)),
            }
        }
    }

    /// A stream of the session `id`, which may have to wait for it.
    pub(super) fn arrived(&self, id: u64, stream: Arrived) {
        let mut state = self.0.lock();
        if let Some(session) = state.open.get(&id) {
            return session.arrived(stream);
        }
        while let Some((at, ..)) = state.early.front()
            && at.elapsed() > EARLY_TIME
        {
            if let Some((_, _, stream)) = state.early.pop_front() {
                stream.refuse(BUFFERED_STREAM_REJECTED);
            }
        }
        match state.early.len() < EARLY {
            true => state.early.push_back((Instant::now(), id, stream)),
            false => stream.refuse(BUFFERED_STREAM_REJECTED),
        }
    }

    /// A datagram of HTTP/3 (RFC 9297): a quarter of the number of the stream that
    /// it belongs to, and the rest. What belongs to nothing is dropped.
    pub(super) fn datagram(&self, datagram: &Bytes) {
        let Some((quarter, rest)) = varint(datagram) else { return };
        let Some(id) = quarter.checked_mul(4) else { return };
        if let Some(session) = self.0.lock().open.get(&id) {
            session.datagram(datagram.slice_ref(rest));
        }
    }
}
