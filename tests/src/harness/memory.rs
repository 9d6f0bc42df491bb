//! What a process maps and holds, by /proc/PID (proc_pid_maps(5), proc_pid_status(5)).

use std::fs;

/// Whether any mapped file's name contains `part`.
#[must_use]
pub fn maps(pid: u32, part: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().contains(part)
}

/// A field of /proc/PID/status in KiB: `VmRSS` (resident now), `VmHWM` (resident at most).
#[must_use]
pub fn kib(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(&format!("{field}:"))).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Files and sockets that the process has open.
#[must_use]
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Whether the process exists and is no zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z")
}

/// Processes that this one started and that run.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child =
        |child: &u32| stat(*child).is_some_and(|(state, parent)| parent == pid && state != "Z");
    pids.filter(is_child).collect()
}

/// State and parent. The name before them is in brackets and may hold anything.
fn stat(pid: u32) -> Option<(String, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}
