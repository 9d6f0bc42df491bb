//! A worker's standard error, line by line into this program's log: bounded, so that a worker that
//! screams fills neither memory nor journal.

use tokio::process::ChildStderr;

use crate::lines::{Line, LineReader};

/// A longer line is cut here.
const LINE_BYTES_MAX: usize = 2 << 10;
/// Lines of one task that are logged; the rest is read and dropped.
const LINES_MAX: usize = 2_000;

/// Logs until the worker closes its end. Returns the last line that was not empty.
pub(super) async fn pass_on(stderr: ChildStderr, pid: u32) -> Option<String> {
    let mut reader = LineReader::new(stderr, LINE_BYTES_MAX);
    let (mut lines, mut last) = (0_usize, None);
    loop {
        let bytes = match reader.next().await {
            Ok(Line::Whole(bytes) | Line::TooLong(bytes)) => bytes,
            Ok(Line::End) | Err(_) => return last,
        };
        let text = readable(&bytes);
        if text.is_empty() {
            continue;
        }
        lines += 1;
        if lines <= LINES_MAX {
            tracing::info!(target: "consilium_worker", pid, "{text}");
        } else if lines == LINES_MAX + 1 {
            tracing::warn!(pid, "this worker has logged {LINES_MAX} lines: no more are shown");
        }
        last = Some(text);
    }
}

/// At most [`LINE_BYTES_MAX`] bytes on one line, without control characters.
fn readable(bytes: &[u8]) -> String {
    let cut = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes);
    let text: String =
        String::from_utf8_lossy(cut).chars().filter(|c| !c.is_control() || *c == '\t').collect();
    text.trim_end().to_owned()
}
