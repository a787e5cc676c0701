//! How fast this ward fills its spool today, and how much room an outage would find.

use crate::config::settings::Settings;
use crate::spool::space::Space;
use crate::spool::{LEFT_FREE, SpoolError, pace};
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

/// How the disk of the live spool stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disk {
    used: u64,
    max_bytes: u64,
    free: u64,
}

impl Disk {
    /// Looks at it.
    ///
    /// # Errors
    /// What the operating system says about the disk.
    pub(super) fn look(settings: &Settings) -> io::Result<Self> {
        let state = &settings.gateway.state_dir;
        let about = rustix::fs::statvfs(state)?;
        let free = about.f_bavail.saturating_mul(about.f_frsize).saturating_sub(LEFT_FREE);
        Ok(Self { used: taken(&state.join("spool")), max_bytes: settings.spool.max_bytes, free })
    }

    /// The room that an outage that begins now would find.
    pub(super) fn space(self) -> Space {
        Space::of(self.used, self.max_bytes, self.free)
    }

    /// Bytes that a rehearsal may take: at most half of what is free, and never so much that the live spool would change its ways.
    pub(super) fn lendable(self) -> u64 {
        Space::lendable(self.used, self.max_bytes, self.free).min(self.free / 2)
    }
}

/// Bytes that a spool takes, without what it holds ahead of need: that is not filled by records.
pub(super) fn taken(home: &Path) -> u64 {
    used(home).saturating_sub(used(&home.join("reserve")))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Spool as _;
    use crate::spool::store::{Options, SledSpool};
    use crate::spool::testing::{Keys, at, fast_home, record};
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    /// Two chairs, each asked once in 20 s: 360 polls an hour.
    fn settings(home: &Path) -> Settings {
        let map = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/devices/nikkiso_dbb27c.toml");
        std::fs::create_dir(home.join("devices")).unwrap();
        std::fs::copy(map, home.join("devices/nikkiso_dbb27c.toml")).unwrap();
        let mut text = "[gateway]\nname = \"ward\"\nstate_dir = \"state\"\ntime_zone = \"UTC\"\n\
                        [spool]\nmax_bytes = \"64 MiB\"\n\
                        [keys]\nroot = { file = \"root.key\", created = true }\n"
            .to_owned();
        for chair in ["chair-1", "chair-2"] {
            text += &format!(
                "[[chair]]\nname = \"{chair}\"\nmachine = \"asset-of-{chair}\"\ndriver = \"kpoll/nikkiso_dbb27c\"\n\
                 port = \"/dev/tty-{chair}\"\nevery = \"20s\"\nmap = \"nikkiso_dbb27c.toml\"\n"
            );
        }
        std::fs::write(home.join("gateway.toml"), text).unwrap();
        let loaded = crate::config::load(&home.join("gateway.toml"));
        loaded.map_err(|report| report.render(crate::config::Colours::Off)).unwrap()
    }

    #[test]
    fn the_rate_is_measured_in_a_spool_of_today_and_counted_where_there_is_too_little_of_it() {
        let home = fast_home();
        let settings = settings(home.path());
        let spool_home = settings.gateway.state_dir.join("spool");
        let none = Rate::measure(&settings).unwrap();
        assert_eq!(
            (none.source, none.records, none.bytes, none.slowdown()),
            (Source::Configured, 360.0, None, 1.0)
        );

        std::fs::create_dir_all(&settings.gateway.state_dir).unwrap();
        let keys = Arc::new(Keys::default());
        let mut spool = SledSpool::open(&spool_home, keys, &[], Options::new(64 << 20), at(0)).unwrap();
        // The volume begins with its first record.
        spool.append(&[record(0)]).unwrap();
        spool.append(&(1..90).map(record).collect::<Vec<_>>()).unwrap();
        let written = |seconds: u64| {
            let file = std::fs::File::options().write(true).open(spool_home.join("manifest")).unwrap();
            let then = UNIX_EPOCH + Duration::from_micros(at(seconds).as_micros().unsigned_abs());
            file.set_modified(then).unwrap();
        };
        written(300);
        assert_eq!(Rate::measure(&settings).unwrap(), none, "five minutes say nothing about a day");
        written(1800);
        let measured = Rate::measure(&settings).unwrap();
        // 90 records in half an hour: every second poll of what the configuration asks for.
        assert_eq!(
            (measured.source, measured.measured_hours, measured.records),
            (Source::Measured, 0.5, 180.0)
        );
        assert_eq!((measured.chairs, measured.slowdown()), (2, 2.0));
        let written = used(&spool_home.join("volume-00000001")) as f64;
        assert!(written > 0.0 && measured.bytes == Some(written * 2.0), "{measured:?}");

        let space = Disk::look(&settings).unwrap().space();
        assert_eq!((space.used, space.max), (taken(&spool_home), 64 << 20));
    }
}
