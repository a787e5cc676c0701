//! How fast this ward fills its spool today, and how much room an outage would find.

use crate::config::settings::Settings;
use crate::spool::space::Space;
use crate::spool::{SpoolError, pace};
use serde::Serialize;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Today.
const BACK: Duration = Duration::from_secs(86_400);
/// Less than this says nothing about a day.
const ENOUGH: Duration = Duration::from_secs(10 * 60);

/// Where the rate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Measured in the spool.
    Measured,
    /// Counted from the configuration: the spool has nothing to measure yet.
    Configured,
}

/// What this ward does in an hour.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// Where it comes from.
    pub source: Source,
    /// Over how many hours it was measured.
    pub measured_hours: f64,
    /// Chairs in the configuration.
    pub chairs: usize,
    /// Polls an hour by the configuration.
    pub polls_configured: f64,
    /// Records an hour.
    pub records: f64,
    /// Bytes on disk an hour, where they were measured.
    pub bytes: Option<f64>,
}

impl Rate {
    /// Measures it beside a running gateway or in the spool of a stopped one; nothing is locked or changed.
    ///
    /// # Errors
    /// [`SpoolError`] when the spool cannot be read.
    pub fn measure(settings: &Settings) -> Result<Self, SpoolError> {
        let chairs = settings.chairs.iter();
        let polls: f64 = chairs.map(|chair| 3600.0 / chair.every.as_secs_f64().max(0.001)).sum();
        let configured = Self {
            source: Source::Configured,
            measured_hours: 0.0,
            chairs: settings.chairs.len(),
            polls_configured: polls,
            records: polls,
            bytes: None,
        };
        let measured = pace::measure(&settings.gateway.state_dir.join("spool"), BACK)?;
        Ok(measured.filter(|pace| pace.over >= ENOUGH).map_or(configured, |pace| {
            let hours = pace.over.as_secs_f64() / 3600.0;
            Self {
                source: Source::Measured,
                measured_hours: hours,
                records: pace.records as f64 / hours,
                bytes: Some(pace.bytes as f64 / hours),
                ..configured
            }
        }))
    }

    /// How many times as seldom as configured each chair has to be asked to make this many records.
    #[must_use]
    pub fn slowdown(&self) -> f64 {
        (self.polls_configured / self.records.max(f64::MIN_POSITIVE)).clamp(0.5, 100.0)
    }
}

/// The room that an outage that begins now would find: what the live spool may still take, and what the disk has.
///
/// # Errors
/// What the operating system says about the disk.
pub fn room(settings: &Settings) -> io::Result<(Space, u64)> {
    let state = &settings.gateway.state_dir;
    let about = rustix::fs::statvfs(state)?;
    let free = about.f_bavail.saturating_mul(about.f_frsize);
    let used = used(&state.join("spool"));
    Ok((Space::of(used, settings.spool.max_bytes, free), free))
}

/// Bytes that a file, or all files under a folder, take on disk. What vanishes meanwhile takes none.
pub(super) fn used(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(about) = std::fs::symlink_metadata(path) else { return 0 };
    if !about.is_dir() {
        return about.blocks().saturating_mul(512);
    }
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries.flatten().map(|entry| used(&entry.path())).sum()
}
