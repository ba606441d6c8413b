//! The cancellation tree under a scheduler that tries orders of events: shuttle.
//!
//! `cancel.rs` is compiled here a second time, with shuttle's lock and atomics in
//! place of the real ones. Seeds are fixed; a failure prints its schedule, which
//! `shuttle::replay` repeats.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize as Count;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Wake, Waker};

use alknet_plugin_api::AbortPolicy;
use futures_util::FutureExt;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner, thread};

#[path = "../cancel.rs"]
#[allow(dead_code, clippy::duplicate_mod)]
mod cancel;

use cancel::{End, Node, Refused, State};

/// What `cancel.rs` finds as its `super::sync`.
mod sync {
    pub(super) use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

    #[derive(Default)]
    pub(super) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(super) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }
}

const DEPENDENTS: AbortPolicy = AbortPolicy::AbortDependents;
const CONTINUE: AbortPolicy = AbortPolicy::ContinueRunning;

/// Tries many orders of events, of two kinds: random ones, and such that few
/// changes of thread bring forth.
fn explore(test: impl Fn() + Clone + Send + Sync + 'static) {
    let random = RandomScheduler::new_from_seed(0x6361_6c6c, 3_000);
    Runner::new(random, Config::default()).run(test.clone());
    let few_changes = PctScheduler::new_from_seed(0x7472_6565, 3, 3_000);
    Runner::new(few_changes, Config::default()).run(test);
}

#[derive(Default)]
struct Woken(Count);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn c48_a_child_that_starts_as_its_parent_is_aborted_is_aborted_or_never_starts() {
    explore(|| {
        let root = Node::root();
        let (parent, aborted) = (root.clone(), root.clone());
        let starter = thread::spawn(move || {
            let woken = Arc::new(Woken::default());
            let child = match parent.child(DEPENDENTS, 8) {
                Ok(child) => child,
                Err(refused) => return assert_eq!(refused, Refused::Closed),
            };
            let seen = child.watch(&Waker::from(woken.clone()));
            // Its own poll sees the abort, or another one is asked for.
            if seen == State::Open {
                let below = child.child(DEPENDENTS, 8);
                if let Ok(below) = &below {
                    below.watch(Waker::noop());
                }
                while child.state() == State::Open {
                    thread::yield_now();
                }
                while woken.0.load(SeqCst) == 0 {
                    thread::yield_now();
                }
                if let Ok(below) = below {
                    while below.state() == State::Open {
                        thread::yield_now();
                    }
                    assert_eq!(below.state(), State::Aborted);
                }
            }
            assert_eq!(child.state(), State::Aborted);
        });
        let aborter = thread::spawn(move || aborted.close(End::Abort(DEPENDENTS)));
        starter.join().unwrap();
        aborter.join().unwrap();
        assert_eq!((root.state(), root.live()), (State::Aborted, 0));
    });
}

#[test]
fn c49_a_child_that_is_to_continue_survives_or_never_starts() {
    explore(|| {
        let root = Node::root();
        let (parent, aborted) = (root.clone(), root.clone());
        let starter = thread::spawn(move || {
            let Ok(child) = parent.child(CONTINUE, 8) else { return };
            child.watch(Waker::noop());
            let below = child.child(DEPENDENTS, 8);
            if let Ok(below) = &below {
                below.watch(Waker::noop());
            }
            while child.state() == State::Open {
                thread::yield_now();
            }
            assert_eq!(child.state(), State::Survivor);
            assert_eq!(child.child(CONTINUE, 8).err(), Some(Refused::Closed));
            if let Ok(below) = below {
                while below.state() == State::Open {
                    thread::yield_now();
                }
                assert_eq!(below.state(), State::Survivor);
                below.close(End::Done);
            }
            child.close(End::Done);
        });
        let aborter = thread::spawn(move || aborted.close(End::Abort(DEPENDENTS)));
        starter.join().unwrap();
        aborter.join().unwrap();
        assert_eq!(root.live(), 0);
    });
}

#[test]
fn c21_places_are_given_back_once_whoever_ends_the_call() {
    explore(|| {
        let root = Node::root();
        let middle = root.child(DEPENDENTS, 3).unwrap();
        let leaf = middle.child(CONTINUE, 3).unwrap();
        for node in [&middle, &leaf] {
            node.watch(Waker::noop());
        }
        let ends = [
            (root.clone(), End::Deadline),
            (middle.clone(), End::Abort(CONTINUE)),
            (leaf.clone(), End::Done),
            (leaf.clone(), End::Abort(DEPENDENTS)),
        ];
        let enders = ends.map(|(node, end)| thread::spawn(move || node.close(end)));
        for ender in enders {
            ender.join().unwrap();
        }
        assert_eq!(root.live(), 0, "{:?} {:?}", middle.state(), leaf.state());
        assert!(!leaf.state().is_live() && !middle.state().is_live());
    });
}

#[test]
fn c47_whoever_waits_for_the_abort_hears_of_it() {
    explore(|| {
        let root = Node::root();
        let child = root.child(DEPENDENTS, 8).unwrap();
        child.watch(Waker::noop());
        let (waits, aborted) = (child.clone(), root.clone());
        let waiter = thread::spawn(move || waits.cancelled());
        let aborter = thread::spawn(move || aborted.close(End::Deadline));
        let cancelled = waiter.join().unwrap();
        aborter.join().unwrap();
        assert_eq!(child.state(), State::Aborted);
        assert!(cancelled.now_or_never().is_some(), "nobody told it");
    });
}
