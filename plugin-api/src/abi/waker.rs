//! Wakers across the boundary.
//!
//! A waker crosses as three words: its data, its `RawWakerVTable`, which only
//! its own side ever looks into, and a table of C functions to work it with. On
//! the other side it is wrapped once and the wrapper kept, so that a future
//! which is polled again and again with the same waker allocates nothing and
//! sees `will_wake` hold. A waker that comes home is recognised by its table
//! and used directly; one that passes through a second time is unwrapped.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::task::{RawWaker, RawWakerVTable, Waker};

use abi_stable::StableAbi;

use super::{guard, guard_drop};

/// A waker, lent for the duration of a poll.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, StableAbi)]
pub struct WakerWords {
    data: *const (),
    raw: *const (),
    table: *const WakerTable,
}

/// How to work a waker of the side that owns this table.
#[repr(C)]
#[derive(StableAbi)]
pub struct WakerTable {
    clone: unsafe extern "C" fn(data: *const (), raw: *const ()) -> WakerWords,
    wake: unsafe extern "C" fn(data: *const (), raw: *const ()),
    wake_by_ref: unsafe extern "C" fn(data: *const (), raw: *const ()),
    drop: unsafe extern "C" fn(data: *const (), raw: *const ()),
}

/// This library's table. Being a static, its address tells a waker of this
/// library from any other's.
static OURS: WakerTable = WakerTable {
    clone: clone_ours,
    wake: wake_ours,
    wake_by_ref: wake_ours_by_ref,
    drop: drop_ours,
};

/// Rebuilds a waker of this library from its words.
///
/// # Safety
/// The words came from [`WakerWords::of`] in this library and the waker behind
/// them is alive.
unsafe fn ours(data: *const (), raw: *const ()) -> ManuallyDrop<Waker> {
    // SAFETY: `raw` was a `&'static RawWakerVTable` of this library.
    let vtable: &'static RawWakerVTable = unsafe { &*raw.cast() };
    // SAFETY: data and vtable belong together, by the caller's word.
    ManuallyDrop::new(unsafe { Waker::new(data, vtable) })
}

unsafe extern "C" fn clone_ours(data: *const (), raw: *const ()) -> WakerWords {
    let cloned = guard(|| {
        // SAFETY: called through the table with words of a living waker.
        let waker = unsafe { ours(data, raw) };
        Waker::clone(&waker)
    });
    // A waker whose clone panics can wake nobody.
    let cloned = ManuallyDrop::new(cloned.unwrap_or_else(|_| Waker::noop().clone()));
    WakerWords::of_ours(&cloned)
}

unsafe extern "C" fn wake_ours(data: *const (), raw: *const ()) {
    // SAFETY: called through the table, which gives the waker up.
    guard_drop(|| ManuallyDrop::into_inner(unsafe { ours(data, raw) }).wake());
}

unsafe extern "C" fn wake_ours_by_ref(data: *const (), raw: *const ()) {
    // SAFETY: called through the table with words of a living waker.
    guard_drop(|| unsafe { ours(data, raw) }.wake_by_ref());
}

unsafe extern "C" fn drop_ours(data: *const (), raw: *const ()) {
    // SAFETY: called through the table, which gives the waker up.
    guard_drop(|| drop(ManuallyDrop::into_inner(unsafe { ours(data, raw) })));
}

impl WakerWords {
    /// Lends `waker` to a poll on the other side.
    pub(crate) fn of(waker: &Waker) -> Self {
        if std::ptr::eq(waker.vtable(), &FOREIGN) {
            // SAFETY: only `Foreign::into_waker` makes wakers with this vtable,
            // and their data points to a `Foreign` that lives as long as they do.
            return unsafe { &*waker.data().cast::<Foreign>() }.words;
        }
        Self::of_ours(waker)
    }

    fn of_ours(waker: &Waker) -> Self {
        let raw = std::ptr::from_ref(waker.vtable()).cast();
        Self { data: waker.data(), raw, table: &OURS }
    }
}

/// A waker of another library, owned.
struct Foreign {
    words: WakerWords,
}

// SAFETY: `Waker` is Send and Sync on either side, and so are its words.
unsafe impl Send for Foreign {}
// SAFETY: as above.
unsafe impl Sync for Foreign {}

static FOREIGN: RawWakerVTable =
    RawWakerVTable::new(clone_foreign, wake_foreign, wake_foreign_by_ref, drop_foreign);

unsafe fn clone_foreign(data: *const ()) -> RawWaker {
    // SAFETY: `data` came from `Arc::into_raw` in `Foreign::into_waker`.
    unsafe { Arc::increment_strong_count(data.cast::<Foreign>()) };
    RawWaker::new(data, &FOREIGN)
}

unsafe fn wake_foreign(data: *const ()) {
    // SAFETY: as in `clone_foreign`; waking by value gives the count back.
    unsafe {
        wake_foreign_by_ref(data);
        drop_foreign(data);
    }
}

unsafe fn wake_foreign_by_ref(data: *const ()) {
    // SAFETY: as in `clone_foreign`.
    let WakerWords { data, raw, table } = unsafe { &*data.cast::<Foreign>() }.words;
    // SAFETY: libraries are never unloaded, so the table lives; the words are owned.
    unsafe { ((*table).wake_by_ref)(data, raw) }
}

unsafe fn drop_foreign(data: *const ()) {
    // SAFETY: as in `clone_foreign`; the count is given back.
    drop(unsafe { Arc::from_raw(data.cast::<Foreign>()) });
}

impl Foreign {
    fn into_waker(self) -> Waker {
        let data = Arc::into_raw(Arc::new(self)).cast();
        // SAFETY: the vtable's functions take exactly such data.
        unsafe { Waker::new(data, &FOREIGN) }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let WakerWords { data, raw, table } = self.words;
        // SAFETY: the words are owned, and `drop` runs once.
        unsafe { ((*table).drop)(data, raw) }
    }
}

/// The wrapper that one exported future or stream keeps of the waker it was
/// last polled with.
#[derive(Default)]
pub(crate) struct WakerCache(Option<Waker>);

impl WakerCache {
    /// Runs `poll` with the waker that `words` lend.
    ///
    /// # Safety
    /// The words are of a waker that is alive through the call.
    pub(crate) unsafe fn with<R>(
        &mut self,
        words: WakerWords,
        poll: impl FnOnce(&Waker) -> R,
    ) -> R {
        if std::ptr::eq(words.table, &OURS) {
            // SAFETY: the table says that the words are this library's.
            let home = unsafe { ours(words.data, words.raw) };
            return poll(&home);
        }
        // The owned words are compared, not those it was cloned from: while this
        // side holds them they cannot come to mean another waker.
        let held = self.0.take().filter(|waker| WakerWords::of(waker) == words);
        let waker = held.unwrap_or_else(|| {
            // SAFETY: the caller vouches for the words.
            let owned = unsafe { ((*words.table).clone)(words.data, words.raw) };
            Foreign { words: owned }.into_waker()
        });
        poll(self.0.insert(waker))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    /// Stands for another library's table: the same functions elsewhere.
    static THEIRS: WakerTable = WakerTable {
        clone: clone_theirs,
        wake: wake_ours,
        wake_by_ref: wake_ours_by_ref,
        drop: drop_ours,
    };
    static CLONES: AtomicUsize = AtomicUsize::new(0);

    unsafe extern "C" fn clone_theirs(data: *const (), raw: *const ()) -> WakerWords {
        CLONES.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the test passes words of a living waker.
        WakerWords { table: &THEIRS, ..unsafe { clone_ours(data, raw) } }
    }

    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_foreign_waker_is_wrapped_once_and_unwrapped_when_it_passes_through() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let words = WakerWords { table: &THEIRS, ..WakerWords::of(&waker) };
        let mut cache = WakerCache::default();
        // SAFETY: `waker` lives through the test.
        let first = unsafe { cache.with(words, Waker::clone) };
        for _ in 0..100 {
            // SAFETY: as above.
            unsafe { cache.with(words, |again| assert!(again.will_wake(&first))) };
        }
        assert_eq!(CLONES.load(Ordering::SeqCst), 1, "wrapped once");
        assert!(WakerWords::of(&first) == words, "unwrapped on the way back");

        first.wake_by_ref();
        first.wake();
        assert_eq!(count.0.load(Ordering::SeqCst), 2);

        let other = Waker::from(Arc::new(Count::default()));
        let others = WakerWords { table: &THEIRS, ..WakerWords::of(&other) };
        // SAFETY: `other` lives through the test.
        unsafe { cache.with(others, |waker| assert!(WakerWords::of(waker) == others)) };
        assert_eq!(CLONES.load(Ordering::SeqCst), 2);
        drop((cache, waker, other));
        assert_eq!(Arc::strong_count(&count), 1, "every clone was given back");
    }

    #[test]
    fn a_waker_that_comes_home_is_used_directly() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut cache = WakerCache::default();
        // SAFETY: `waker` lives through the call.
        unsafe {
            cache.with(WakerWords::of(&waker), |home| {
                assert!(home.will_wake(&waker));
                assert_eq!(Arc::strong_count(&count), 2, "not cloned");
                home.wake_by_ref();
            });
        }
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(cache.0.is_none());
    }
}
