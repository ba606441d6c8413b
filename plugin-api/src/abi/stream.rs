//! The halves of a byte stream across the boundary: the hottest crossing, so a
//! poll takes words and returns two of them, and allocates nothing.

use std::task::{Context, Poll};

use abi_stable::StableAbi;
use abi_stable::prefix_type::WithMetadata;
use tokio::io::ReadBuf;

use super::fault::{self, Fault};
use super::guard;
use super::value::{FAULT, Handle, NONE, Table, drop_raw};
use super::waker::{WakerCache, WakerWords};
use crate::backend::{Gone, RecvBackend, SendBackend};
use crate::connection::StreamError;

/// In [`Polled`]: added to a fault's code.
pub const POLLED_FAULT: u64 = 16;

/// What a poll of a stream gives: two machine words.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct Polled {
    /// 0 ready, 1 pending, 2 nothing, or [`POLLED_FAULT`] plus a fault's code.
    status: u64,
    /// Bytes moved, or the fault's detail.
    value: u64,
}

impl Polled {
    const PENDING: Self = Self { status: 1, value: 0 };
    const FAULT: u64 = POLLED_FAULT;

    fn ready(value: u64) -> Self {
        Self { status: 0, value }
    }
}

/// A fault that two words cannot tell in full, kept until it is asked for.
type Kept = Option<Fault>;

fn failed(fault: Fault, kept: &mut Kept) -> Polled {
    let polled = Polled { status: Polled::FAULT + u64::from(fault.code), value: fault.detail };
    *kept = Some(fault);
    polled
}

/// A half of a stream, as this side exports it.
struct Exported<B: ?Sized> {
    half: Box<B>,
    /// For reads or writes.
    waker: WakerCache,
    /// For `poll_stopped`, which another task may wait in.
    stopped: WakerCache,
    kept: Kept,
}

impl<B: ?Sized> Exported<B> {
    fn new(half: Box<B>) -> Self {
        Self { half, waker: WakerCache::default(), stopped: WakerCache::default(), kept: None }
    }
}

type Sending = Exported<dyn SendBackend>;
type Receiving = Exported<dyn RecvBackend>;

/// # Safety
/// `data` came from an `Exported<B>` that is alive and that nobody else uses now:
/// importers call with `&mut self`, or with `&self` of a type that is not Sync.
unsafe fn half<'a, B: ?Sized>(data: *mut ()) -> &'a mut Exported<B> {
    // SAFETY: the caller vouches for it.
    unsafe { &mut *data.cast() }
}

/// Puts a half that panicked out of use: its state is not to be trusted.
fn polled<B: ?Sized>(
    exported: &mut Exported<B>,
    gone: impl FnOnce() -> Box<B>,
    poll: impl FnOnce(&mut Exported<B>) -> Poll<Result<Polled, StreamError>>,
) -> Polled {
    match guard(|| poll(exported)) {
        Ok(Poll::Pending) => Polled::PENDING,
        Ok(Poll::Ready(Ok(polled))) => polled,
        Ok(Poll::Ready(Err(error))) => failed(error.into(), &mut exported.kept),
        Err(text) => {
            let broken = std::mem::replace(&mut exported.half, gone());
            super::guard_drop(|| drop(broken));
            failed(Fault::panicked(text), &mut exported.kept)
        }
    }
}

/// As [`SendBackend`]. Codes and ids are 64 bits wide.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = SendRef, prefix_fields = SendPrefix)))]
#[sabi(missing_field(option))]
#[allow(missing_docs)]
pub struct SendTable {
    pub drop: unsafe extern "C" fn(data: *mut ()),
    pub id: unsafe extern "C" fn(data: *mut ()) -> u64,
    pub poll_write: unsafe extern "C" fn(
        data: *mut (),
        waker: *const WakerWords,
        bytes: *const u8,
        len: usize,
    ) -> Polled,
    pub poll_flush: unsafe extern "C" fn(data: *mut (), waker: *const WakerWords) -> Polled,
    pub finish: unsafe extern "C" fn(data: *mut ()) -> Polled,
    pub reset: unsafe extern "C" fn(data: *mut (), code: u64),
    pub poll_stopped: unsafe extern "C" fn(data: *mut (), waker: *const WakerWords) -> Polled,
    pub set_priority: unsafe extern "C" fn(data: *mut (), priority: i32),
    #[sabi(last_prefix_field)]
    pub last_fault: unsafe extern "C" fn(data: *mut (), fault: *mut Fault) -> u32,
}

/// As [`RecvBackend`].
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = RecvRef, prefix_fields = RecvPrefix)))]
#[sabi(missing_field(option))]
#[allow(missing_docs)]
pub struct RecvTable {
    pub drop: unsafe extern "C" fn(data: *mut ()),
    pub id: unsafe extern "C" fn(data: *mut ()) -> u64,
    pub poll_read: unsafe extern "C" fn(
        data: *mut (),
        waker: *const WakerWords,
        into: *mut u8,
        len: usize,
    ) -> Polled,
    pub stop: unsafe extern "C" fn(data: *mut (), code: u64),
    #[sabi(last_prefix_field)]
    pub last_fault: unsafe extern "C" fn(data: *mut (), fault: *mut Fault) -> u32,
}

impl Table for SendRef {
    fn drop_fn(self) -> unsafe extern "C" fn(*mut ()) {
        self.drop()
    }
}

impl Table for RecvRef {
    fn drop_fn(self) -> unsafe extern "C" fn(*mut ()) {
        self.drop()
    }
}

static SEND: WithMetadata<SendTable> = WithMetadata::new(SendTable {
    drop: drop_raw::<Sending>,
    id: send_id,
    poll_write,
    poll_flush,
    finish,
    reset,
    poll_stopped,
    set_priority,
    last_fault: last_fault::<dyn SendBackend>,
});

static RECV: WithMetadata<RecvTable> = WithMetadata::new(RecvTable {
    drop: drop_raw::<Receiving>,
    id: recv_id,
    poll_read,
    stop,
    last_fault: last_fault::<dyn RecvBackend>,
});

// SAFETY for the functions below: they are called through their table with the
// data of the handle that the table came in, one at a time, with pointers that
// are valid through the call.

unsafe extern "C" fn last_fault<B: ?Sized>(data: *mut (), out: *mut Fault) -> u32 {
    // SAFETY: see above.
    match unsafe { half::<B>(data) }.kept.take() {
        Some(fault) => {
            // SAFETY: see above.
            unsafe { out.write(fault) };
            FAULT
        }
        None => NONE,
    }
}

unsafe extern "C" fn send_id(data: *mut ()) -> u64 {
    // SAFETY: see above.
    let exported = unsafe { half::<dyn SendBackend>(data) };
    guard(|| exported.half.id()).unwrap_or(u64::MAX)
}

unsafe extern "C" fn poll_write(
    data: *mut (),
    waker: *const WakerWords,
    bytes: *const u8,
    len: usize,
) -> Polled {
    // SAFETY: see above.
    let exported = unsafe { half::<dyn SendBackend>(data) };
    polled(
        exported,
        || Box::new(Gone),
        |Exported { half, waker: cache, .. }| {
            // SAFETY: see above.
            let bytes = unsafe { std::slice::from_raw_parts(bytes, len) };
            // SAFETY: see above.
            unsafe {
                cache.with(*waker, |waker| {
                    half.poll_write(&mut Context::from_waker(waker), bytes)
                        .map_ok(|n| Polled::ready(n as u64))
                })
            }
        },
    )
}

unsafe extern "C" fn poll_flush(data: *mut (), waker: *const WakerWords) -> Polled {
    // SAFETY: see above.
    let exported = unsafe { half::<dyn SendBackend>(data) };
    polled(
        exported,
        || Box::new(Gone),
        |Exported { half, waker: cache, .. }| {
            // SAFETY: see above.
            unsafe {
                cache.with(*waker, |waker| {
                    half.poll_flush(&mut Context::from_waker(waker)).map_ok(|()| Polled::ready(0))
                })
            }
        },
    )
}

unsafe extern "C" fn poll_stopped(data: *mut (), waker: *const WakerWords) -> Polled {
    // SAFETY: see above.
    let exported = unsafe { half::<dyn SendBackend>(data) };
    polled(
        exported,
        || Box::new(Gone),
        |Exported { half, stopped: cache, .. }| {
            // SAFETY: see above.
            unsafe {
                cache.with(*waker, |waker| {
                    half.poll_stopped(&mut Context::from_waker(waker)).map_ok(|code| match code {
                        Some(code) => Polled::ready(code),
                        None => Polled { status: u64::from(NONE), value: 0 },
                    })
                })
            }
        },
    )
}

unsafe extern "C" fn finish(data: *mut ()) -> Polled {
    // SAFETY: see above.
    let exported = unsafe { half::<dyn SendBackend>(data) };
    polled(
        exported,
        || Box::new(Gone),
        |exported| Poll::Ready(exported.half.finish().map(|()| Polled::ready(0))),
    )
}

unsafe extern "C" fn reset(data: *mut (), code: u64) {
    // SAFETY: see above.
    let exported = unsafe { half::<dyn SendBackend>(data) };
    super::guard_drop(|| exported.half.reset(code));
}

unsafe extern "C" fn set_priority(data: *mut (), priority: i32) {
    // SAFETY: see above.
    let exported = unsafe { half::<dyn SendBackend>(data) };
    super::guard_drop(|| exported.half.set_priority(priority));
}

unsafe extern "C" fn recv_id(data: *mut ()) -> u64 {
    // SAFETY: see above.
    let exported = unsafe { half::<dyn RecvBackend>(data) };
    guard(|| exported.half.id()).unwrap_or(u64::MAX)
}

unsafe extern "C" fn poll_read(
    data: *mut (),
    waker: *const WakerWords,
    into: *mut u8,
    len: usize,
) -> Polled {
    // SAFETY: see above.
    let exported = unsafe { half::<dyn RecvBackend>(data) };
    polled(
        exported,
        || Box::new(Gone),
        |Exported { half, waker: cache, .. }| {
            // SAFETY: see above; the memory may be uninitialised, which the type says.
            let into = unsafe { std::slice::from_raw_parts_mut(into.cast(), len) };
            let mut buffer = ReadBuf::uninit(into);
            // SAFETY: see above.
            let poll = unsafe {
                cache.with(*waker, |waker| {
                    half.poll_read(&mut Context::from_waker(waker), &mut buffer)
                })
            };
            poll.map_ok(|()| Polled::ready(buffer.filled().len() as u64))
        },
    )
}

unsafe extern "C" fn stop(data: *mut (), code: u64) {
    // SAFETY: see above.
    let exported = unsafe { half::<dyn RecvBackend>(data) };
    super::guard_drop(|| exported.half.stop(code));
}

/// Hands a sending half to the other side.
pub(crate) fn export_send(half: Box<dyn SendBackend>) -> Handle<SendRef> {
    Handle::new(Sending::new(half), SendRef(SEND.static_as_prefix()))
}

/// Hands a receiving half to the other side.
pub(crate) fn export_recv(half: Box<dyn RecvBackend>) -> Handle<RecvRef> {
    Handle::new(Receiving::new(half), RecvRef(RECV.static_as_prefix()))
}

/// What `polled` says, in this side's terms. `last` fetches what two words
/// cannot hold.
fn read(
    polled: Polled,
    last: impl FnOnce(*mut Fault) -> u32,
) -> Poll<Result<Option<u64>, StreamError>> {
    let code = match polled.status {
        0 => return Poll::Ready(Ok(Some(polled.value))),
        1 => return Poll::Pending,
        2 => return Poll::Ready(Ok(None)),
        status => status.saturating_sub(Polled::FAULT) as u32,
    };
    let error = match code {
        fault::CONNECTION_CLOSED
        | fault::STREAM_CLOSED
        | fault::TIMEOUT
        | fault::RESET
        | fault::STOPPED => Fault::plain(code, polled.value),
        _ => {
            let mut kept = std::mem::MaybeUninit::uninit();
            if last(kept.as_mut_ptr()) == FAULT {
                // SAFETY: the status says that it was written.
                unsafe { kept.assume_init() }
            } else {
                Fault::plain(code, polled.value)
            }
        }
    };
    Poll::Ready(Err(error.into()))
}

/// A sending half of the other side.
pub(crate) struct ImportedSend(pub(crate) Handle<SendRef>);

impl ImportedSend {
    fn read(&self, polled: Polled) -> Poll<Result<Option<u64>, StreamError>> {
        // SAFETY: the handle is alive.
        read(polled, |fault| unsafe { self.0.table.last_fault()(self.0.data, fault) })
    }
}

impl SendBackend for ImportedSend {
    fn id(&self) -> u64 {
        // SAFETY: the handle is alive.
        unsafe { self.0.table.id()(self.0.data) }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        let words = WakerWords::of(cx.waker());
        // SAFETY: the handle is alive, the pointers are valid through the call.
        let polled =
            unsafe { self.0.table.poll_write()(self.0.data, &words, data.as_ptr(), data.len()) };
        // Never more than was offered, whatever the other side says.
        self.read(polled)
            .map_ok(|n| usize::try_from(n.unwrap_or(0)).unwrap_or(usize::MAX).min(data.len()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let words = WakerWords::of(cx.waker());
        // SAFETY: as above.
        let polled = unsafe { self.0.table.poll_flush()(self.0.data, &words) };
        self.read(polled).map_ok(drop)
    }

    fn finish(&mut self) -> Result<(), StreamError> {
        // SAFETY: the handle is alive.
        let polled = unsafe { self.0.table.finish()(self.0.data) };
        match self.read(polled) {
            Poll::Ready(result) => result.map(drop),
            Poll::Pending => Ok(()),
        }
    }

    fn reset(&mut self, code: u64) {
        // SAFETY: the handle is alive.
        unsafe { self.0.table.reset()(self.0.data, code) }
    }

    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, StreamError>> {
        let words = WakerWords::of(cx.waker());
        // SAFETY: as above.
        let polled = unsafe { self.0.table.poll_stopped()(self.0.data, &words) };
        self.read(polled)
    }

    fn set_priority(&mut self, priority: i32) {
        // SAFETY: the handle is alive.
        unsafe { self.0.table.set_priority()(self.0.data, priority) }
    }
}

/// A receiving half of the other side.
pub(crate) struct ImportedRecv(pub(crate) Handle<RecvRef>);

impl RecvBackend for ImportedRecv {
    fn id(&self) -> u64 {
        // SAFETY: the handle is alive.
        unsafe { self.0.table.id()(self.0.data) }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>> {
        let words = WakerWords::of(cx.waker());
        // SAFETY: the other side treats the memory as uninitialised.
        let into = unsafe { buffer.unfilled_mut() };
        let (ptr, len) = (into.as_mut_ptr().cast(), into.len());
        // SAFETY: the handle is alive, the pointers are valid through the call.
        let polled = unsafe { self.0.table.poll_read()(self.0.data, &words, ptr, len) };
        // SAFETY: the handle is alive.
        read(polled, |fault| unsafe { self.0.table.last_fault()(self.0.data, fault) }).map_ok(|n| {
            let n = usize::try_from(n.unwrap_or(0)).unwrap_or(usize::MAX).min(len);
            // SAFETY: the other side says that it has written so many bytes.
            unsafe { buffer.assume_init(n) };
            buffer.advance(n);
        })
    }

    fn stop(&mut self, code: u64) {
        // SAFETY: the handle is alive.
        unsafe { self.0.table.stop()(self.0.data, code) }
    }
}
