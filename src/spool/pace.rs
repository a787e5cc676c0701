//! How fast a spool fills, read off its folder beside whoever holds it: nothing is locked, opened or changed.

use crate::model::time::Timestamp;
use crate::spool::SpoolError;
use crate::spool::disk::{refusal, used};
use crate::spool::manifest::{Found, folder_name, read};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// What came into a spool lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Records that came.
    pub records: u64,
    /// Bytes that they take on disk.
    pub bytes: u64,
    /// Over this time, up to the spool's last write.
    pub over: Duration,
}

/// Measures the newest volumes, as many as it takes to look back this far. `None` where there is nothing to measure.
///
/// # Errors
/// [`SpoolError`] when the manifest cannot be read, or is of a newer program.
pub fn measure(home: &Path, back: Duration) -> Result<Option<Pace>, SpoolError> {
    let Found::Manifest(contents, _) = read(home)? else { return Ok(None) };
    let act = "read the age of the manifest";
    let written = std::fs::metadata(home.join("manifest")).and_then(|about| about.modified());
    let written = written.map_err(|source| refusal(act, source))?;
    let since_1970 = written.duration_since(UNIX_EPOCH).unwrap_or_default();
    let written = Timestamp::from_micros(i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX));
    let mut pace = Pace { records: 0, bytes: 0, over: Duration::ZERO };
    for volume in contents.volumes.iter().rev() {
        let Some(opened) = volume.opened else { continue };
        pace.records += volume.records();
        pace.bytes += used(&home.join(folder_name(volume.number)));
        pace.over = written.since(opened);
        if pace.over >= back {
            break;
        }
    }
    Ok((pace.records > 0 && !pace.over.is_zero()).then_some(pace))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Spool as _;
    use crate::spool::store::{Options, SledSpool};
    use crate::spool::testing::{Keys, at, record};
    use std::sync::Arc;

    #[test]
    fn it_is_measured_beside_the_process_that_holds_the_spool() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(measure(home.path(), Duration::from_secs(3600)).unwrap(), None);
        let options = Options { volume_records: 10, ..Options::new(1 << 30) };
        let mut spool = SledSpool::open(home.path(), Arc::new(Keys::default()), &[], options, at(0)).unwrap();
        for number in 0..25 {
            spool.append(&[record(number)]).unwrap();
        }
        // The manifest says when it was written last; its file is given the time of the last record.
        let file = std::fs::File::options().write(true).open(home.path().join("manifest")).unwrap();
        let last = UNIX_EPOCH + Duration::from_micros(at(24).as_micros().unsigned_abs());
        file.set_modified(last).unwrap();
        let all = measure(home.path(), Duration::from_secs(3600)).unwrap().unwrap();
        assert_eq!((all.records, all.over), (25, Duration::from_secs(24)));
        assert!(all.bytes > 0);
        let newest = measure(home.path(), Duration::from_secs(3)).unwrap().unwrap();
        assert_eq!((newest.records, newest.over), (5, Duration::from_secs(4)));
    }
}
