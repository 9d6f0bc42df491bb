//! Fail points: the process dies before or after a named action, as if killed. Tests enumerate the
//! names with a trace and then kill at each. Without the feature `failpoints` this is nothing.
//!
//! `CONSILIUM_FAILPOINT=before:persist-plan:2` dies the second time that the point is reached;
//! `CONSILIUM_FAILPOINT_TRACE=FILE` appends each point's name, a line each.

#[cfg(feature = "failpoints")]
mod armed {
    use std::fs::File;
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Mutex, OnceLock, PoisonError};

    /// The point at which to die, and how often it must be reached.
    struct Armed {
        point: String,
        nth: u64,
        reached: AtomicU64,
    }

    fn armed() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        let read = || {
            let text = std::env::var("CONSILIUM_FAILPOINT").ok()?;
            let (point, nth) = text.rsplit_once(':')?;
            let (point, nth) = match nth.parse() {
                Ok(nth) => (point.to_owned(), nth),
                Err(_) => (text.clone(), 1),
            };
            Some(Armed { point, nth, reached: AtomicU64::new(0) })
        };
        ARMED.get_or_init(read).as_ref()
    }

    fn trace() -> Option<&'static Mutex<File>> {
        static TRACE: OnceLock<Option<Mutex<File>>> = OnceLock::new();
        let open = || {
            let path = std::env::var_os("CONSILIUM_FAILPOINT_TRACE")?;
            File::options().create(true).append(true).open(path).ok().map(Mutex::new)
        };
        TRACE.get_or_init(open).as_ref()
    }

    pub(super) fn reach(when: &str, name: &str) {
        if let Some(file) = trace() {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // A trace that cannot be written shows as points that are missing from it.
            let _ = writeln!(file, "{when}:{name}");
        }
        let Some(armed) = armed() else { return };
        let here = armed.point.split_once(':') == Some((when, name));
        if here && armed.reached.fetch_add(1, Ordering::SeqCst) + 1 == armed.nth {
            std::process::abort();
        }
    }
}

/// Reached before the action `name`.
#[inline]
pub fn before(name: &str) {
    reach("before", name);
}

/// Reached after the action `name`, before anyone learns of it.
#[inline]
pub fn after(name: &str) {
    reach("after", name);
}

#[inline]
fn reach(when: &str, name: &str) {
    #[cfg(feature = "failpoints")]
    armed::reach(when, name);
    #[cfg(not(feature = "failpoints"))]
    let _ = (when, name);
}
