//! What an instance of a component can see: its memory, all of it.

/// Whether this instance's memory holds a text anywhere, used or not; `None` in a
/// shared library, whose memory is the host's as well.
///
/// `masked` is the text with every byte one higher, as nobody must bring the text
/// along to ask for it.
#[cfg(target_family = "wasm")]
pub(crate) fn holds(masked: &[u8]) -> Option<bool> {
    const PAGE: usize = 64 * 1024;
    let end = core::arch::wasm32::memory_size(0) * PAGE;
    // SAFETY: every address below the size is readable, and a volatile read takes
    // any byte as it is.
    #[allow(unsafe_code)]
    let byte = |address: usize| unsafe {
        std::ptr::with_exposed_provenance::<u8>(address).read_volatile()
    };
    let found = (1..end - masked.len())
        .any(|start| (0..masked.len()).all(|i| byte(start + i) == masked[i].wrapping_sub(1)));
    Some(found)
}

#[cfg(not(target_family = "wasm"))]
pub(crate) fn holds(_masked: &[u8]) -> Option<bool> {
    None
}
