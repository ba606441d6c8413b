//! What no plugin should do.

use std::time::Duration;

use alknet_plugin_api::Host;

/// Logs when it is dropped: a future that waits holds one.
pub(crate) struct Waiting {
    mark: String,
}

impl Waiting {
    pub(crate) fn begin(mark: String) -> Self {
        tracing::info!("waiting: {mark}");
        Self { mark }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        tracing::info!("stopped waiting: {}", self.mark);
    }
}

/// Panics when it is dropped.
pub(crate) struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        // A second panic in an unwinding thread would end the process, which is
        // beyond what any host can contain.
        if !std::thread::panicking() {
            panic!("panicked in drop, as asked");
        }
    }
}

/// Holds the thread without ever awaiting.
pub(crate) fn spin(host: &Host, limit: Option<Duration>) {
    let started = host.now();
    while limit.is_none_or(|limit| host.now() - started < limit) {
        std::hint::spin_loop();
    }
}

/// Takes `bytes` and writes to every page, so that they are really there. The
/// sum keeps the compiler from seeing through it.
pub(crate) fn allocate(bytes: u64) -> u64 {
    const STEP: usize = 1 << 20;
    let mut taken: Vec<Vec<u8>> = Vec::new();
    let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
    while left > 0 {
        let mut block = vec![1u8; left.min(STEP)];
        block.iter_mut().step_by(4096).for_each(|byte| *byte = byte.wrapping_add(1));
        left -= block.len();
        taken.push(std::hint::black_box(block));
    }
    taken.iter().map(|block| block.len() as u64).sum()
}

/// Ends the process that the plugin is in.
pub(crate) fn crash(how: &str) {
    match how {
        "abort" => std::process::abort(),
        "exit" => std::process::exit(3),
        #[cfg(not(target_family = "wasm"))]
        "segv" => {
            let nowhere = std::ptr::with_exposed_provenance_mut::<u8>(64);
            // SAFETY: there is none; the kernel ends the process for it, as asked.
            #[allow(unsafe_code)]
            unsafe {
                nowhere.write_volatile(1);
            }
        }
        other => tracing::warn!("no such end: {other}"),
    }
}
