//! The calls that this side has in flight, by their numbers.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::slot::{Answer, Slot};
use super::sync::{AtomicU64, Mutex, Ordering};

/// Numbers of answered calls that are kept to notice a second answer.
const ANSWERED_KEPT: usize = 256;

/// Calls of this side that have not had their last answer.
#[derive(Default)]
pub(crate) struct Outbound {
    next: AtomicU64,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    calls: HashMap<u64, Arc<Slot>, BuildHasherDefault<Number>>,
    answered: VecDeque<u64>,
}

/// Hashes this side's own consecutive numbers, which nobody else chooses.
#[derive(Default)]
struct Number(u64);

impl Hasher for Number {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Outbound {
    /// Enters a call: its number, and whether no other is in flight.
    pub(crate) fn start(&self, slot: &Arc<Slot>) -> (u64, bool) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut table = self.table.lock();
        let alone = table.calls.is_empty();
        table.calls.insert(number, slot.clone());
        (number, alone)
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.table.lock().calls.contains_key(&number)
    }

    /// Forgets a call, for whoever gives it up.
    pub(crate) fn take(&self, number: u64) -> Option<Arc<Slot>> {
        self.table.lock().calls.remove(&number)
    }

    /// The call that an answer belongs to, forgotten with its last answer.
    pub(crate) fn slot_for(&self, number: u64, answer: &Answer) -> Option<Arc<Slot>> {
        let item = matches!(answer, Answer::Item(..));
        let mut table = self.table.lock();
        let slot = table.calls.get(&number)?;
        if slot.subscription && item {
            return Some(slot.clone());
        }
        let slot = table.calls.remove(&number)?;
        if item {
            if table.answered.len() == ANSWERED_KEPT {
                table.answered.pop_front();
            }
            table.answered.push_back(number);
        }
        Some(slot)
    }

    /// Whether this call had its answer lately; said once.
    pub(crate) fn was_answered(&self, number: u64) -> bool {
        let answered = &mut self.table.lock().answered;
        let Some(at) = answered.iter().position(|known| *known == number) else { return false };
        answered.remove(at);
        true
    }

    /// Forgets the calls that `which` says, and returns them.
    pub(crate) fn take_all(&self, which: impl Fn(&Slot) -> bool) -> Vec<Arc<Slot>> {
        let mut table = self.table.lock();
        table.calls.extract_if(|_, slot| which(slot)).map(|(_, slot)| slot).collect()
    }
}
