//! What a process cost, from /proc (Linux).

use std::fs;
use std::time::Instant;

/// CPU seconds and memory of one process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system seconds, those of ended children included.
    pub cpu_seconds: f64,
    /// Peak resident memory, MB.
    pub peak_mb: f64,
    /// Resident memory now, MB.
    pub resident_mb: f64,
}

/// What `pid` has used so far; zeros if it is gone.
#[must_use]
pub fn usage(pid: u32) -> Usage {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let megabytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        kibibytes.unwrap_or(0.0) * 1.024e-3
    };
    Usage {
        cpu_seconds: cpu_seconds(pid),
        peak_mb: megabytes("VmHWM:"),
        resident_mb: megabytes("VmRSS:"),
    }
}

/// Fields 14–17 of /proc/PID/stat (proc(5)): utime, stime, cutime, cstime in ticks of 10 ms.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The program's name is in parentheses and may hold blanks.
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(4);
    ticks.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The monotonic clock, for measuring.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "measurements read the clock")]
pub fn now() -> Instant {
    Instant::now()
}
