//! What a daemon frees goes back to the system, so that it is small between rounds (DESIGN.md §10).
//!
//! glibc gives large buffers mappings of their own, but raises what counts as large each time that
//! one is freed, up to 32 MiB: after the first round, sums and models would lie in its arenas, and
//! their pages stay. A threshold that was set stays as it is (mallopt(3)).

/// Buffers from this size on are mapped apart and unmapped when freed: whatever is as large as a
/// model. Chunks of transfers are smaller and used again: mapping each would cost its page faults.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES_MIN: libc::c_int = 1 << 20;
/// Arenas of small things: the runtime's threads share them.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS_MAX: libc::c_int = 2;

/// Sets the allocator up. Call it first in `main`, before there are threads.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "mallopt is a C function; see the proof")]
pub fn return_what_is_freed() {
    let settings = [(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN), (libc::M_ARENA_MAX, ARENAS_MAX)];
    for (parameter, value) in settings {
        // SAFETY: mallopt takes two integers and touches the allocator's own settings alone, under
        // its lock; a value that it does not take leaves them as they were.
        let set = unsafe { libc::mallopt(parameter, value) };
        debug_assert_eq!(set, 1, "mallopt({parameter}, {value})");
    }
}

/// Other allocators need no setting.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn return_what_is_freed() {}
