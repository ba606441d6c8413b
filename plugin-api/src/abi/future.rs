//! Futures and streams across the boundary.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use abi_stable::StableAbi;
use futures_core::Stream;

use super::fault::Fault;
use super::value::{FAULT, NONE, PENDING, READY, drop_raw, into_raw};
use super::waker::{WakerCache, WakerWords};
use super::{guard, guard_drop};

/// A future or stream of the other side, with what it gives. Dropping it drops
/// the original.
///
/// `poll` returns [`PENDING`], [`READY`] with `out` written, [`NONE`] after the
/// last item, or [`FAULT`] with `fault` written.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(bound(T: StableAbi))]
pub struct RawTask<T> {
    data: *mut (),
    poll: unsafe extern "C" fn(
        data: *mut (),
        waker: *const WakerWords,
        out: *mut T,
        fault: *mut Fault,
    ) -> u32,
    drop: unsafe extern "C" fn(data: *mut ()),
}

// SAFETY: only futures and streams that are Send are exported, and only `&mut`
// reaches them.
unsafe impl<T: Send> Send for RawTask<T> {}
// SAFETY: there is nothing to do with a shared one.
unsafe impl<T: Send> Sync for RawTask<T> {}

/// What a future gives that gives nothing.
#[repr(C)]
#[derive(StableAbi)]
pub struct Unit(u8);

impl Unit {
    /// The only value.
    pub(crate) const UNIT: Self = Self(0);
}

/// An exported stream, dropped as soon as it has ended or panicked.
struct Exported<S> {
    stream: Option<S>,
    waker: WakerCache,
}

unsafe extern "C" fn poll<S, T>(
    data: *mut (),
    waker: *const WakerWords,
    out: *mut T,
    fault: *mut Fault,
) -> u32
where
    S: Stream<Item = Result<T, Fault>>,
{
    // SAFETY: `data` came from `RawTask::export` with this `S`, and the importer
    // polls through `&mut` alone.
    let exported = unsafe { &mut *data.cast::<Exported<S>>() };
    let Exported { stream, waker: cache } = exported;
    // SAFETY: the box that holds the stream never moves it.
    let mut slot = unsafe { Pin::new_unchecked(stream) };
    let polled = guard(|| {
        let Some(stream) = slot.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        // SAFETY: the importer lends its waker for this call.
        unsafe { cache.with(*waker, |waker| stream.poll_next(&mut Context::from_waker(waker))) }
    });
    match polled {
        Ok(Poll::Pending) => PENDING,
        Ok(Poll::Ready(Some(Ok(value)))) => {
            // SAFETY: the importer passes a place to write to.
            unsafe { out.write(value) };
            READY
        }
        Ok(Poll::Ready(Some(Err(error)))) => {
            // SAFETY: as above.
            unsafe { fault.write(error) };
            FAULT
        }
        Ok(Poll::Ready(None)) => {
            guard_drop(|| slot.set(None));
            NONE
        }
        Err(text) => {
            // SAFETY: as above.
            unsafe { fault.write(Fault::panicked(text)) };
            guard_drop(|| slot.set(None));
            FAULT
        }
    }
}

/// A future as a stream of one item. The item is its last: the importer of a
/// future does not poll again.
struct Once<F>(F);

impl<F: Future> Stream for Once<F> {
    type Item = F::Output;
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // SAFETY: a projection to the only field, which is never moved out.
        unsafe { self.map_unchecked_mut(|this| &mut this.0) }.poll(cx).map(Some)
    }
}

impl<T> RawTask<T> {
    /// Hands a stream to the other side.
    pub(crate) fn stream<S>(stream: S) -> Self
    where
        S: Stream<Item = Result<T, Fault>> + Send + 'static,
    {
        let data = into_raw(Exported { stream: Some(stream), waker: WakerCache::default() });
        Self { data, poll: poll::<S, T>, drop: drop_raw::<Exported<S>> }
    }

    /// Hands a future to the other side.
    pub(crate) fn future<F>(future: F) -> Self
    where
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        Self::stream(Once(future))
    }

    /// Polls the original.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, Fault>>> {
        let words = WakerWords::of(cx.waker());
        let mut out = std::mem::MaybeUninit::<T>::uninit();
        let mut fault = std::mem::MaybeUninit::<Fault>::uninit();
        // SAFETY: `data` belongs to `poll`, and all pointers are valid for the call.
        match unsafe { (self.poll)(self.data, &words, out.as_mut_ptr(), fault.as_mut_ptr()) } {
            PENDING => Poll::Pending,
            // SAFETY: the status says that `out` was written.
            READY => Poll::Ready(Some(Ok(unsafe { out.assume_init() }))),
            // SAFETY: the status says that `fault` was written.
            FAULT => Poll::Ready(Some(Err(unsafe { fault.assume_init() }))),
            NONE => Poll::Ready(None),
            status => Poll::Ready(Some(Err(Fault::internal(&format!("unknown status {status}"))))),
        }
    }
}

impl<T> Drop for RawTask<T> {
    fn drop(&mut self) {
        // SAFETY: `data` belongs to `drop`, which runs once.
        unsafe { (self.drop)(self.data) }
    }
}

impl<T> Unpin for RawTask<T> {}

/// A future of the other side.
pub(crate) struct Imported<T>(pub(crate) RawTask<T>);

impl<T> Future for Imported<T> {
    type Output = Result<T, Fault>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx).map(|item| {
            item.unwrap_or_else(|| Err(Fault::internal("a future was polled after its end")))
        })
    }
}

/// A stream of the other side.
pub(crate) struct ImportedStream<T>(pub(crate) RawTask<T>);

impl<T> Stream for ImportedStream<T> {
    type Item = Result<T, Fault>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll(cx)
    }
}

/// The future that a call of the other side started, or its failure to start.
pub(crate) async fn run<T>(started: Result<RawTask<T>, Fault>) -> Result<T, Fault> {
    Imported(started?).await
}
