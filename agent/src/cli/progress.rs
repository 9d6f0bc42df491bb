//! A progress bar on a terminal; nothing elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

use crate::worker::Moved;

/// One bar for the phases of a task. Hidden by itself where standard error is no terminal.
#[derive(Debug)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// A bar for what `title` says.
    pub(super) fn new(title: String) -> Self {
        let bar = ProgressBar::new(1);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {msg:9} [{wide_bar}] {pos}/{len}")
        {
            bar.set_style(style);
        }
        bar.set_prefix(title);
        Self(bar)
    }

    /// Shows where the worker is.
    pub(super) fn moved(&self, moved: &Moved) {
        self.0.set_message(format!("{:?}", moved.phase).to_lowercase());
        self.0.set_length(moved.total.max(1));
        self.0.set_position(moved.done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
