//! Append-only record of access, configuration and key events: one line of JSON each, on the device before it counts.
//!
//! Who acted is a user id of this computer; no patient and no record number ever stands here.

use crate::clock;
use crate::disk::{Disk, Start, Written};
use crate::model::time::{ClockStep, Timestamp};
use crate::privacy::record::TreatmentId;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The audit file of one state directory.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    end: Mutex<End>,
}

/// The end of the file.
#[derive(Debug)]
struct End {
    file: Written,
    left: Left,
    /// Entries that could not be written yet.
    waiting: VecDeque<String>,
    /// Entries that could not even wait.
    unkept: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Left {
    /// A line was damaged, by a crash or by a disk that refused: it stays as it is, and the next entry says so.
    torn: bool,
    /// The last line has no end.
    mid_line: bool,
}

/// The word for it in the file.
const TORN: &str = "torn_line";

/// So many entries wait for a disk that takes nothing.
const WAITING: usize = 1024;

/// No entry that one process left unsynced is longer.
const LOOKED_AT: u64 = 64 * 1024;

/// The audit file cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[error("{act} the audit record at {}", path.display())]
pub struct AuditError {
    act: &'static str,
    path: PathBuf,
    /// What the operating system said.
    #[source]
    pub source: io::Error,
}

/// The user who asks, as the operating system knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user id; `None` where the system does not say.
    pub uid: Option<u32>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// The gateway started with this configuration.
    Started {
        /// Its version.
        version: &'a str,
        /// The configuration file.
        config: &'a Path,
        /// SHA-256 over the configuration and its maps.
        digest: [u8; 32],
        /// How many chairs and upstreams it names.
        chairs: usize,
        /// See `chairs`.
        upstreams: usize,
    },
    /// The gateway stopped.
    Stopped {
        /// Whether it was told to.
        asked: bool,
    },
    /// The wall clock was set while records were made.
    ClockStep(ClockStep),
    /// A new key-encryption key was drawn.
    KeyRotated {
        /// Its version.
        version: u32,
    },
    /// Keys were opened or made.
    Keyring {
        /// Version of the key-encryption key.
        version: u32,
        /// The keyring was made just now.
        created: bool,
        /// The root key was made just now.
        root_created: bool,
    },
    /// A seat was changed.
    Seat {
        /// Who asked.
        caller: Caller,
        /// seat, correct or unseat.
        act: &'static str,
        /// The chair.
        chair: &'a str,
        /// The treatment that it bound, if one ran.
        treatment: Option<TreatmentId>,
        /// A stable word for what came of it.
        outcome: &'static str,
    },
    /// Somebody looked into the spool, or did something with what was refused.
    Spool {
        /// Who asked.
        caller: Caller,
        /// What was done.
        act: &'static str,
        /// With what: names, numbers and times alone.
        about: Value,
    },
    /// Something asked for was refused.
    Denied {
        /// Who asked.
        caller: Caller,
        /// What was asked.
        act: &'static str,
        /// Why not: a stable word.
        why: &'static str,
        /// How often since the last such entry.
        times: u64,
    },
}

impl Audit {
    /// Opens the audit file of this state directory, or makes it, readable by its owner alone.
    ///
    /// # Errors
    /// [`AuditError`] with what the operating system said.
    pub fn open(state_dir: &Path) -> Result<Self, AuditError> {
        Self::open_on(&Disk::default(), state_dir)
    }

    /// Opens it on this disk.
    pub(crate) fn open_on(disk: &Disk, state_dir: &Path) -> Result<Self, AuditError> {
        let path = state_dir.join("audit.jsonl");
        let failed = |source| AuditError { act: "open", path: path.clone(), source };
        let file = disk.open(&path, Start::Appended).map_err(failed)?;
        let left = look_at_end(file.file()).map_err(failed)?;
        // A new file is only durable once its name is.
        disk.sync_folder(state_dir).map_err(failed)?;
        Ok(Self { path, end: Mutex::new(End { file, left, waiting: VecDeque::new(), unkept: 0 }) })
    }

    /// Writes an entry; it is on the device when this returns.
    ///
    /// # Errors
    /// [`AuditError`]; whoever acts decides whether the act may stand without its entry.
    pub fn note(&self, at: Timestamp, entry: &Entry<'_>) -> Result<(), AuditError> {
        let mut end = self.end();
        end.catch_up(at)
            .and_then(|()| end.write(at, &line(at, fields(entry))))
            .map_err(|source| self.failed(source))
    }

    /// Writes an entry of something that happens with or without it. Where the disk takes nothing, it waits in memory for
    /// [`Audit::catch_up`] and goes out in front of whatever comes next.
    pub fn keep(&self, at: Timestamp, entry: &Entry<'_>) {
        let mut end = self.end();
        if end.waiting.len() < WAITING {
            end.waiting.push_back(line(at, fields(entry)));
        } else {
            end.unkept = end.unkept.saturating_add(1);
        }
        if let Err(source) = end.catch_up(at) {
            let error = crate::telemetry::chain(&self.failed(source));
            tracing::error!(error, "the audit record cannot be written; make room on its disk");
        }
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// [`AuditError`]; what is left goes on waiting.
    pub fn catch_up(&self, at: Timestamp) -> Result<(), AuditError> {
        self.end().catch_up(at).map_err(|source| self.failed(source))
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, source: io::Error) -> AuditError {
        AuditError { act: "write", path: self.path.clone(), source }
    }
}

impl End {
    fn catch_up(&mut self, at: Timestamp) -> io::Result<()> {
        while let Some(line) = self.waiting.front().cloned() {
            self.write(at, &line)?;
            self.waiting.pop_front();
        }
        if self.unkept > 0 {
            let unkept = line(at, json!({ "event": "entries_lost", "entries": self.unkept }));
            self.write(at, &unkept)?;
            self.unkept = 0;
        }
        Ok(())
    }

    /// Durable when it returns. In one write: a crash leaves all of it or a torn end, and the next line behind it says so.
    fn write(&mut self, at: Timestamp, entry: &str) -> io::Result<()> {
        let mut text = String::new();
        if self.left.mid_line {
            text.push('\n');
        }
        if self.left.torn || self.left.mid_line {
            text.push_str(&line(at, json!({ "event": TORN })));
        }
        text.push_str(entry);
        self.left = Left { torn: true, mid_line: true };
        self.file.write_all(text.as_bytes())?;
        self.left = Left::default();
        self.file.sync()
    }
}

fn line(at: Timestamp, fields: Value) -> String {
    let mut line = json!({ "at": clock::stamp(at) });
    if let (Some(line), Value::Object(fields)) = (line.as_object_mut(), fields) {
        line.extend(fields);
    }
    format!("{line}\n")
}

/// What the end of the file is like that an earlier process left. A power cut may take any sector of the entry that was not synced
/// yet, so a file that ends with a whole line can have a hole in front of it.
fn look_at_end(file: &File) -> io::Result<Left> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(LOOKED_AT);
    let mut bytes = vec![0; usize::try_from(length - start).unwrap_or(0)];
    file.read_exact_at(&mut bytes, start)?;
    let mut lines = bytes.split(|byte| *byte == b'\n');
    if start > 0 {
        // Where we began to read is in the middle of a line.
        lines.next();
    }
    let mut torn = false;
    for line in lines.filter(|line| !line.is_empty()) {
        torn = match serde_json::from_slice::<Value>(line) {
            Ok(entry) => torn && entry.get("event").and_then(Value::as_str) != Some(TORN),
            Err(_) => true,
        };
    }
    Ok(Left { torn, mid_line: bytes.last().is_some_and(|last| *last != b'\n') })
}

fn fields(entry: &Entry<'_>) -> Value {
    match entry {
        Entry::Started { version, config, digest, chairs, upstreams } => json!({
            "event": "started", "version": version, "config": config.display().to_string(), "digest": hex(digest),
            "chairs": chairs, "upstreams": upstreams,
        }),
        Entry::Stopped { asked } => json!({ "event": "stopped", "asked": asked }),
        Entry::ClockStep(ClockStep { expected, found }) => json!({
            "event": "clock_step", "expected": clock::stamp(*expected), "found": clock::stamp(*found),
        }),
        Entry::KeyRotated { version } => json!({ "event": "key_rotated", "version": version }),
        Entry::Keyring { version, created, root_created } => {
            json!({ "event": "keyring", "version": version, "created": created, "root_created": root_created })
        }
        Entry::Seat { caller, act, chair, treatment, outcome } => json!({
            "event": act, "uid": caller.uid, "chair": chair, "outcome": outcome,
            "treatment": treatment.map(|treatment| hex(treatment.as_bytes())),
        }),
        Entry::Spool { caller, act, about } => {
            json!({ "event": act, "uid": caller.uid, "about": about })
        }
        Entry::Denied { caller, act, why, times } => {
            let mut fields = json!({ "event": "denied", "uid": caller.uid, "act": act, "why": why });
            if let Some(fields) = fields.as_object_mut().filter(|_| *times > 1) {
                fields.insert("times".to_owned(), json!(times));
            }
            fields
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::simulated::{Fault, under_every_fault};
    use std::os::unix::fs::PermissionsExt;

    const AT: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    #[test]
    fn entries_are_lines_that_only_the_owner_reads() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        let caller = Caller { uid: Some(1000) };
        audit.note(AT, &Entry::Keyring { version: 1, created: true, root_created: false }).unwrap();
        let treatment = Some(TreatmentId::from_bytes([7; 16]));
        let seat = Entry::Seat { caller, act: "seat", chair: "chair-1", treatment, outcome: "seated" };
        audit.note(AT, &seat).unwrap();
        drop(audit);
        Audit::open(dir.path()).unwrap().note(AT, &Entry::Stopped { asked: true }).unwrap();

        let path = dir.path().join("audit.jsonl");
        insta::assert_snapshot!(std::fs::read_to_string(&path).unwrap(), @r#"
        {"at":"2027-01-15T08:00:00.000Z","created":true,"event":"keyring","root_created":false,"version":1}
        {"at":"2027-01-15T08:00:00.000Z","chair":"chair-1","event":"seat","outcome":"seated","treatment":"07070707070707070707070707070707","uid":1000}
        {"asked":true,"at":"2027-01-15T08:00:00.000Z","event":"stopped"}
        "#);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_line_torn_by_a_crash_is_marked_and_never_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        std::fs::write(&path, "{\"at\":\"2027").unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"at\":\"2027", "opening changes nothing");
        audit.note(AT, &Entry::Stopped { asked: false }).unwrap();
        audit.note(AT, &Entry::KeyRotated { version: 2 }).unwrap();
        insta::assert_snapshot!(std::fs::read_to_string(&path).unwrap(), @r#"
        {"at":"2027
        {"at":"2027-01-15T08:00:00.000Z","event":"torn_line"}
        {"asked":false,"at":"2027-01-15T08:00:00.000Z","event":"stopped"}
        {"at":"2027-01-15T08:00:00.000Z","event":"key_rotated","version":2}
        "#);
    }

    #[test]
    fn an_entry_that_was_acknowledged_is_there_and_whole_whatever_the_disk_does() {
        let note = |audit: &Audit, version| audit.note(AT, &Entry::KeyRotated { version }).is_ok();
        // Long enough to lie in several sectors.
        let config = PathBuf::from("c".repeat(1300));
        let long = Entry::Started { version: "1", config: &config, digest: [1; 32], chairs: 1, upstreams: 1 };
        under_every_fault(
            20,
            |disk, home| {
                let mut noted = Vec::new();
                for start in 0..2 {
                    let Ok(audit) = Audit::open_on(disk, home) else { continue };
                    noted.extend((1..=3).map(|n| 10 * start + n).filter(|version| note(&audit, *version)));
                    let _ = audit.note(AT, &long);
                }
                noted
            },
            |home, noted| {
                let audit = Audit::open(home).unwrap();
                assert!(note(&audit, 99));
                let bytes = std::fs::read(home.join("audit.jsonl")).unwrap();
                let lines: Vec<_> =
                    bytes.split(|byte| *byte == b'\n').map(serde_json::from_slice::<Value>).collect();
                let whole = || lines.iter().flatten();
                let versions: Vec<u32> =
                    whole().filter_map(|line| u32::try_from(line["version"].as_u64()?).ok()).collect();
                assert!(noted.iter().chain(&[99]).all(|version| versions.contains(version)), "{versions:?}");
                assert!(versions.is_sorted(), "{versions:?}");
                // Behind what is cut there is a line that says so; behind the last line there is nothing.
                let (end, lines) = lines.split_last().unwrap();
                assert!(end.is_err());
                let cut = lines.iter().rposition(Result::is_err);
                let said =
                    lines.iter().rposition(|line| line.as_ref().is_ok_and(|line| line["event"] == TORN));
                assert!(cut.is_none() || cut < said, "{lines:?}");
            },
        );
    }

    #[test]
    fn entries_that_a_full_disk_does_not_take_come_later_in_their_order_and_each_once() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::simulated(&[]);
        let audit = Audit::open_on(&disk, dir.path()).unwrap();
        let rotated = |version| Entry::KeyRotated { version };
        (0..3).for_each(|_| disk.fail_next("append", Fault::Full));
        audit.keep(AT, &rotated(1));
        audit.keep(AT, &rotated(2));
        assert!(audit.note(AT, &rotated(3)).is_err(), "whoever waits for the answer is told");
        audit.catch_up(AT).unwrap();
        audit.note(AT, &rotated(4)).unwrap();
        (0..WAITING + 2).for_each(|_| {
            disk.fail_next("append", Fault::Full);
            audit.keep(AT, &rotated(5));
        });
        audit.catch_up(AT).unwrap();
        let text = std::fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
        let lines: Vec<Value> = text.lines().flat_map(serde_json::from_str).collect();
        let versions: Vec<u64> = lines.iter().filter_map(|line| line["version"].as_u64()).collect();
        assert_eq!(versions[..3], [1, 2, 4]);
        assert_eq!(versions[3..], vec![5; WAITING]);
        assert_eq!(lines.iter().filter_map(|line| line["entries"].as_u64()).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn an_audit_file_that_cannot_be_opened_names_itself() {
        let refused = Audit::open(Path::new("/nowhere")).unwrap_err();
        assert_eq!(refused.to_string(), "open the audit record at /nowhere/audit.jsonl");
    }
}
