//! Memory that the start and each new search index need for a moment only.
#![expect(unsafe_code, reason = "malloc_trim(3) has no safe wrapper")]

/// Gives back to the kernel what the allocator holds and nobody uses: it keeps one arena for each thread that has ever
/// built something large.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; the function may be called at any time, by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
