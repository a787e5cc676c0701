//! Append-only record of access, configuration and key events: one line of JSON each, on the device before it counts.
//!
//! Who acted is a user id of this computer; no patient and no record number ever stands here.

use crate::clock;
use crate::model::time::Timestamp;
use crate::privacy::record::TreatmentId;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The audit file of one state directory.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    file: Mutex<File>,
}

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
    /// Something asked for was refused.
    Denied {
        /// Who asked.
        caller: Caller,
        /// What was asked.
        act: &'static str,
        /// Why not: a stable word.
        why: &'static str,
    },
}

impl Audit {
    /// Opens the audit file of this state directory, or makes it, readable by its owner alone.
    ///
    /// # Errors
    /// [`AuditError`] with what the operating system said.
    pub fn open(state_dir: &Path) -> Result<Self, AuditError> {
        let path = state_dir.join("audit.jsonl");
        let failed = |source| AuditError { act: "open", path: path.clone(), source };
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        end_torn_line(&mut file).map_err(failed)?;
        Ok(Self { path, file: Mutex::new(file) })
    }

    /// Writes an entry; it is on the device when this returns.
    ///
    /// # Errors
    /// [`AuditError`]; whoever acts decides whether the act may stand without its entry.
    pub fn note(&self, at: Timestamp, entry: &Entry<'_>) -> Result<(), AuditError> {
        let mut line = json!({ "at": clock::stamp(at) });
        if let (Some(line), Value::Object(fields)) = (line.as_object_mut(), fields(entry)) {
            line.extend(fields);
        }
        let mut text = line.to_string();
        text.push('\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        written.map_err(|source| AuditError { act: "write", path: self.path.clone(), source })
    }
}

/// A crash in the middle of a line leaves it without an end; the next entry starts on its own line all the same.
fn end_torn_line(file: &mut File) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(());
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
}

fn fields(entry: &Entry<'_>) -> Value {
    match entry {
        Entry::Started { version, config, digest, chairs, upstreams } => json!({
            "event": "started", "version": version, "config": config.display().to_string(), "digest": hex(digest),
            "chairs": chairs, "upstreams": upstreams,
        }),
        Entry::Stopped { asked } => json!({ "event": "stopped", "asked": asked }),
        Entry::Keyring { version, created, root_created } => {
            json!({ "event": "keyring", "version": version, "created": created, "root_created": root_created })
        }
        Entry::Seat { caller, act, chair, treatment, outcome } => json!({
            "event": act, "uid": caller.uid, "chair": chair, "outcome": outcome,
            "treatment": treatment.map(|treatment| hex(treatment.as_bytes())),
        }),
        Entry::Denied { caller, act, why } => {
            json!({ "event": "denied", "uid": caller.uid, "act": act, "why": why })
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn a_line_torn_by_a_crash_does_not_swallow_the_next_entry() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("audit.jsonl"), "{\"at\":\"2027").unwrap();
        Audit::open(dir.path()).unwrap().note(AT, &Entry::Stopped { asked: false }).unwrap();
        let text = std::fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.ends_with("\"event\":\"stopped\"}\n"));
    }

    #[test]
    fn an_audit_file_that_cannot_be_opened_names_itself() {
        let refused = Audit::open(Path::new("/nowhere")).unwrap_err();
        assert_eq!(refused.to_string(), "open the audit record at /nowhere/audit.jsonl");
    }
}
