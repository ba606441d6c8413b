//! The calls in flight under a scheduler that tries orders of events: shuttle.
//!
//! `outbound.rs` and `slot.rs` are compiled here a second time, with shuttle's
//! lock and atomics in place of the real ones. Seeds are fixed; a failure prints
//! its schedule, which `shuttle::replay` repeats.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize as Count;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, Wake, Waker};

use alknet_plugin_api::{CallError, Json};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner, thread};

#[path = "outbound.rs"]
#[allow(dead_code, clippy::duplicate_mod)]
mod outbound;
#[path = "slot.rs"]
#[allow(dead_code, clippy::duplicate_mod)]
mod slot;

use outbound::Outbound;
use slot::{Answer, ITEM_BUFFER, Slot};

/// What both find as their `super::sync`.
mod sync {
    pub(super) use shuttle::sync::atomic::{AtomicU64, Ordering};

    #[derive(Default)]
    pub(super) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(super) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }
}

/// Tries many orders of events, of two kinds: random ones, and such that few
/// changes of thread bring forth.
fn explore(test: impl Fn() + Clone + Send + Sync + 'static) {
    let random = RandomScheduler::new_from_seed(0x7065_6e64, 3_000);
    Runner::new(random, Config::default()).run(test.clone());
    let few_changes = PctScheduler::new_from_seed(0x69_6e67, 3, 3_000);
    Runner::new(few_changes, Config::default()).run(test);
}

fn slot(subscription: bool) -> Arc<Slot> {
    Arc::new(Slot::new(crate::outbox::Outbox::unconnected(), subscription))
}

#[derive(Default)]
struct Woken(Count);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// The next answer, asked for again only when woken.
fn next(slot: &Slot) -> Answer {
    loop {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        if let Poll::Ready(answer) = slot.poll_pop(&Context::from_waker(&waker)) {
            return answer;
        }
        while woken.0.load(SeqCst) == 0 {
            thread::yield_now();
        }
    }
}

#[test]
fn c08_a_call_is_answered_or_given_up_and_never_both() {
    explore(|| {
        let outbound = Arc::new(Outbound::default());
        let slot = slot(false);
        let (number, _) = outbound.start(&slot);
        let (reader, aborter, loser) = (outbound.clone(), outbound.clone(), outbound.clone());
        let answered = thread::spawn(move || {
            let answer = Answer::Item(Json::null(), false);
            let found = reader.slot_for(number, &answer);
            found.map(|slot| slot.push(answer)).is_some()
        });
        let given_up = thread::spawn(move || aborter.take(number).is_some());
        let failed = thread::spawn(move || loser.take_all(|_| true).len());
        let answered = answered.join().unwrap();
        let ends = [answered, given_up.join().unwrap(), failed.join().unwrap() == 1];
        assert_eq!(ends.iter().filter(|end| **end).count(), 1, "{ends:?}");
        assert!(!outbound.contains(number));
        assert_eq!(outbound.was_answered(number), answered);
        assert!(!outbound.was_answered(number));
    });
}

#[test]
fn c19_a_consumer_gets_every_item_in_order_and_holds_the_reader_up() {
    const ITEMS: usize = ITEM_BUFFER + 3;
    explore(|| {
        let slot = slot(true);
        let consumer = slot.clone();
        let reader = thread::spawn(move || {
            for n in 0..ITEMS {
                loop {
                    let woken = Arc::new(Woken::default());
                    let waker = Waker::from(woken.clone());
                    if slot.poll_room(&Context::from_waker(&waker)).is_ready() {
                        break;
                    }
                    while woken.0.load(SeqCst) == 0 {
                        thread::yield_now();
                    }
                }
                slot.push(Answer::Item(Json::of(&n).unwrap(), false));
            }
            slot.push(Answer::Completed);
        });
        for n in 0..ITEMS {
            match next(&consumer) {
                Answer::Item(item, _) => assert_eq!(item.to::<usize>().unwrap(), n),
                _ => panic!("the end before item {n}"),
            }
        }
        assert!(matches!(next(&consumer), Answer::Completed));
        reader.join().unwrap();
    });
}

#[test]
fn c50_a_consumer_that_leaves_frees_the_reader() {
    explore(|| {
        let slot = slot(true);
        for n in 0..ITEM_BUFFER {
            slot.push(Answer::Item(Json::of(&n).unwrap(), false));
        }
        let leaving = slot.clone();
        let reader = thread::spawn(move || {
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(woken.clone());
            if slot.poll_room(&Context::from_waker(&waker)).is_pending() {
                while woken.0.load(SeqCst) == 0 {
                    thread::yield_now();
                }
            }
            assert!(slot.has_room());
            slot.push(Answer::Failed(CallError::internal("late")));
        });
        let consumer = thread::spawn(move || leaving.leave());
        reader.join().unwrap();
        consumer.join().unwrap();
    });
}
