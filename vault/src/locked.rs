//! Secret bytes that are never swapped out, where the system allows it, and wiped when dropped.

use zeroize::Zeroize;

/// `N` secret bytes, alone on their page: locks do not count, so that a neighbour's end would unlock them.
///
/// The system limits how much a process may lock (`RLIMIT_MEMLOCK`). Bytes beyond that are kept unlocked:
/// a node that starts is worth more than one that does not.
pub(crate) struct Locked<const N: usize> {
    // Before the page: unlocked while it is still there.
    guard: Option<region::LockGuard>,
    page: Box<Page<N>>,
}

#[repr(C, align(4096))]
struct Page<const N: usize>([u8; N]);

impl<const N: usize> Locked<N> {
    /// Copies `bytes`; wiping the original is the caller's.
    pub(crate) fn new(bytes: &[u8; N]) -> Self {
        let mut page = Box::new(Page([0; N]));
        // Locked before the secret is there.
        let guard = region::lock(&raw const *page, size_of::<Page<N>>()).ok();
        page.0.copy_from_slice(bytes);
        Self { guard, page }
    }

    pub(crate) fn bytes(&self) -> &[u8; N] {
        &self.page.0
    }

    /// Whether the system let the bytes be locked.
    #[cfg(test)]
    pub(crate) fn is_locked(&self) -> bool {
        self.guard.is_some()
    }
}

impl<const N: usize> Drop for Locked<N> {
    fn drop(&mut self) {
        self.page.0.zeroize();
        self.guard = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that this process has locked, by the kernel's count.
    fn locked_here() -> u64 {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let locked = smaps.lines().filter_map(|line| line.strip_prefix("Locked:"));
        locked.map(|line| line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()).sum()
    }

    #[test]
    fn secrets_stay_in_memory_where_that_is_allowed() {
        let secret = Locked::new(&[7; 64]);
        assert_eq!(secret.bytes(), &[7; 64]);
        assert_eq!(secret.page.0.as_ptr().align_offset(4096), 0, "a page of its own");
        if !secret.is_locked() {
            eprintln!("this system lets a process lock no memory: nothing was tested");
            return;
        }
        assert!(locked_here() >= 4, "the kernel counts it");
        let second = Locked::new(&[8; 32]);
        drop(second);
        assert!(locked_here() >= 4, "another's end does not unlock it");
    }
}
