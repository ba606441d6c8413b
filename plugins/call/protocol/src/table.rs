//! The calls in flight on a connection, in both directions.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use alknet_plugin_api::{CallError, Gateway, RecvStream, SendStream};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::connection::{Limits, Options, Timer};
use crate::id::{CallId, IdSpace};
use crate::inbound::Inbound;
use crate::outbound::Outbound;
use crate::outbox::Outbox;
use crate::slot::{Answer, Slot};
use crate::stream::StreamTask;

/// What a connection's streams, its driver and its clients have in common.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) gateway: Option<Arc<dyn Gateway>>,
    pub(crate) timer: Arc<dyn Timer>,
    pub(crate) ids: IdSpace,
    next_stream: AtomicU64,
    draining: AtomicBool,
    lost: AtomicBool,
    /// Bytes of unfinished frames, of all streams.
    held: AtomicUsize,
    inbound: Mutex<HashMap<Box<str>, Arc<Inbound>>>,
    outbound: Outbound,
    opened: Mutex<Opened>,
    /// The first stream of the other side, once it is known whether there is one.
    first: watch::Sender<Option<Option<Arc<Outbox>>>>,
}

/// Streams that the driver has not taken over yet.
#[derive(Default)]
struct Opened {
    streams: Vec<StreamTask>,
    driver: Option<Waker>,
    closed: bool,
}

impl Shared {
    /// Notes that a stream which held `before` bytes of an unfinished frame now
    /// holds `now`; what all of them hold.
    pub(crate) fn hold(&self, before: usize, now: usize) -> usize {
        match now >= before {
            true => self.held.fetch_add(now - before, Ordering::Relaxed) + (now - before),
            false => self.held.fetch_sub(before - now, Ordering::Relaxed) - (before - now),
        }
    }

    pub(crate) fn new(options: Options) -> Self {
        Self {
            limits: options.limits,
            gateway: options.gateway,
            timer: options.timer,
            ids: IdSpace::random(),
            next_stream: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            inbound: Mutex::default(),
            outbound: Outbound::default(),
            opened: Mutex::default(),
            first: watch::Sender::new(None),
        }
    }

    pub(crate) fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn is_in_flight(&self, id: &str) -> bool {
        let ours = |number| self.outbound.contains(number);
        self.inbound.lock().contains_key(id) || self.ids.number(id).is_some_and(ours)
    }

    // The other side's calls.

    pub(crate) fn has_inbound_room(&self) -> bool {
        self.inbound.lock().len() < self.limits.in_flight
    }

    pub(crate) fn insert_inbound(&self, inbound: &Arc<Inbound>) {
        self.inbound.lock().insert(inbound.id.clone(), inbound.clone());
    }

    pub(crate) fn take_inbound(&self, id: &str) -> Option<Arc<Inbound>> {
        self.inbound.lock().remove(id)
    }

    /// Removes exactly this call, as its id may since be another's.
    pub(crate) fn forget_inbound(&self, inbound: &Arc<Inbound>) {
        let mut table = self.inbound.lock();
        if table.get(&inbound.id).is_some_and(|found| Arc::ptr_eq(found, inbound)) {
            table.remove(&inbound.id);
        }
    }

    pub(crate) fn serves_nothing_now(&self) -> bool {
        self.inbound.lock().is_empty()
    }

    // This side's calls.

    /// Enters a call: its number, its id, and whether no other is in flight.
    pub(crate) fn start(&self, slot: &Arc<Slot>) -> (u64, CallId, bool) {
        let (number, alone) = self.outbound.start(slot);
        (number, self.ids.id(number), alone)
    }

    pub(crate) fn take_outbound(&self, number: u64) -> Option<Arc<Slot>> {
        self.outbound.take(number)
    }

    /// The call that an answer belongs to, forgotten with its last answer.
    pub(crate) fn slot_for(&self, number: u64, answer: &Answer) -> Option<Arc<Slot>> {
        self.outbound.slot_for(number, answer)
    }

    /// Whether this call had its answer lately; said once.
    pub(crate) fn was_answered(&self, number: u64) -> bool {
        self.outbound.was_answered(number)
    }

    /// Fails the calls whose answers were to come on this stream.
    pub(crate) fn stream_ended(&self, stream: u64) {
        self.fail(|slot| slot.outbox.stream == stream);
    }

    /// From here on, ends of streams are told as the end of the connection. What
    /// has arrived on them is still to be read.
    pub(crate) fn connection_lost(&self) {
        self.lost.store(true, Ordering::Release);
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Why a call on a stream that has ended fails.
    pub(crate) fn why_closed(&self) -> CallError {
        CallError::internal(if self.is_lost() { "connection closed" } else { "stream ended" })
    }

    fn fail(&self, which: impl Fn(&Slot) -> bool) {
        for slot in self.outbound.take_all(which) {
            slot.push(Answer::Failed(self.why_closed()));
        }
    }

    // Streams.

    /// Hands a stream to the driver; `None` once that is gone.
    pub(crate) fn add(
        self: &Arc<Self>,
        (send, recv): (SendStream, RecvStream),
    ) -> Option<Arc<Outbox>> {
        let number = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let outbox = Arc::new(Outbox::new(number, send));
        let task = StreamTask::new(self.clone(), outbox.clone(), recv);
        let driver = {
            let mut opened = self.opened.lock();
            if opened.closed {
                return None;
            }
            opened.streams.push(task);
            opened.driver.take()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
        Some(outbox)
    }

    /// The first stream that the other side opened, or there is none.
    pub(crate) fn set_first(&self, stream: Option<Arc<Outbox>>) {
        self.first.send_if_modified(|first| {
            let unknown = first.is_none();
            first.get_or_insert(stream);
            unknown
        });
    }

    /// The first stream that the other side opened; `None` at the connection's end.
    pub(crate) async fn first(&self) -> Option<Arc<Outbox>> {
        let mut first = self.first.subscribe();
        first.wait_for(Option::is_some).await.ok()?.clone().flatten()
    }

    /// What was added since; more wakes the driver.
    pub(crate) fn opened(&self, driver: &Waker) -> Vec<StreamTask> {
        let mut opened = self.opened.lock();
        match &mut opened.driver {
            Some(known) => known.clone_from(driver),
            unknown => *unknown = Some(driver.clone()),
        }
        std::mem::take(&mut opened.streams)
    }

    /// The driver is gone, and with it whoever would run a stream.
    pub(crate) fn close(&self) {
        let unstarted = {
            let mut opened = self.opened.lock();
            opened.closed = true;
            std::mem::take(&mut opened.streams)
        };
        self.connection_lost();
        self.set_first(None);
        self.fail(|_| true);
        drop(unstarted);
    }
}
