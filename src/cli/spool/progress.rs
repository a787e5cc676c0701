//! A bar on standard error while work takes long; nothing where that is no terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// The bar. It leaves nothing behind.
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new(unit: &'static str) -> Self {
        let bar = ProgressBar::new(0);
        let shape = format!("[{{bar:40}}] {{pos}} of {{len}} {unit}, {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&shape) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(bar)
    }

    pub(super) fn set(&self, done: u64, all: u64) {
        self.0.set_length(all);
        self.0.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
