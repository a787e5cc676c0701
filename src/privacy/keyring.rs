//! The key hierarchy: root -> key-encryption key -> data keys, lookup key and pseudonym keys, in one sealed file.
//!
//! Whatever changes is on the device before the call returns, or the call fails and the old state stays in force. Only
//! where the device itself cannot say which of the two it holds, nothing more is changed or sealed until a new start.

mod file;
pub(crate) mod record_key;
pub(super) mod state;

use super::crypto::{Refused, Secret};
use super::key_source::{self, KeySourceError, Lock};
use super::record::TreatmentId;
use crate::config::settings::KeySource;
use crate::disk::{Disk, Start, Written, folder_of};
use crate::exit::Exit;
use crate::model::name::UpstreamName;
use crate::model::time::Timestamp;
use file::Kek;
use record_key::AtHand;
pub use record_key::{RecordKey, Sealing};
use state::State;
use std::collections::BTreeSet;
use std::fmt;
use std::fs::TryLockError;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Which data key seals a frame: one per treatment, and one for facility data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyId(pub [u8; 16]);

impl KeyId {
    /// The key of everything that belongs to no treatment.
    pub const FACILITY: KeyId = KeyId([0; 16]);
}

impl From<TreatmentId> for KeyId {
    fn from(treatment: TreatmentId) -> Self {
        Self(*treatment.as_bytes())
    }
}

/// A data key of 256 bits. It cannot be printed, compared or copied by accident, and is wiped on drop.
///
/// ```compile_fail,E0277
/// use chairside::privacy::keyring::DataKey;
/// let key = DataKey::from_bytes([0; 32]);
/// println!("{key:?}");
/// ```
/// ```compile_fail,E0599
/// use chairside::privacy::keyring::DataKey;
/// let key = DataKey::from_bytes([0; 32]);
/// let copy = key.clone();
/// ```
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct DataKey([u8; 32]);

impl DataKey {
    /// From its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes, for the key derivation of the spool.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Gives out data keys; the spool asks it.
pub trait DataKeys: Send + Sync {
    /// The key that seals frames of this id; made and durable when it returns.
    ///
    /// # Errors
    /// [`KeyError`] when it cannot be made durable.
    fn seal_key(&self, id: KeyId) -> Result<DataKey, KeyError>;
    /// The key that opens frames of this id; `None` when it was destroyed or never was.
    fn open_key(&self, id: KeyId) -> Option<DataKey>;
    /// What the key that seals frames of this id becomes in one store since one start. Not to be kept beyond one act.
    ///
    /// # Errors
    /// [`KeyError`] as for [`DataKeys::seal_key`], or when the cipher refuses.
    fn record_key(&self, id: KeyId, sealing: &Sealing) -> Result<Arc<RecordKey>, KeyError> {
        let key = RecordKey::derive(&self.seal_key(id)?, id, sealing);
        key.map(Arc::new).ok_or(KeyError::Cryptography)
    }
}

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The keyring could not be written.
    #[error("write the keyring")]
    Write(#[source] std::io::Error),
    /// The treatment's key was destroyed.
    #[error("the key was destroyed")]
    Destroyed,
    /// The cipher refused.
    #[error("derive a key: the cryptography module refused")]
    Cryptography,
}

/// Why the keyring cannot be opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The root key cannot be had.
    #[error("get the root key")]
    Root(#[source] KeySourceError),
    /// The root key is not the one this keyring was made with.
    #[error(
        "the root key does not open the keyring at {0}: it was made with another one; bring that key back, \
         nothing was changed"
    )]
    WrongRoot(PathBuf),
    /// The file does not authenticate.
    #[error(
        "the keyring at {0} is damaged; bring it back from your safe copy, the records in the spool need it; \
         nothing was changed"
    )]
    Damaged(PathBuf),
    /// Written by a newer program.
    #[error("the keyring at {path} has format {found}, this program knows format 1")]
    Format {
        /// Where.
        path: PathBuf,
        /// Format found.
        found: u32,
    },
    /// No keyring where records need one.
    #[error(
        "there is no keyring at {0}, and there are records that need it; bring it back from your safe copy, or \
         move the spool away to start anew"
    )]
    Missing(PathBuf),
    /// Another process holds it.
    #[error("another process holds the keyring at {0}")]
    Busy(PathBuf),
    /// Opened for reading alone.
    #[error("the keyring was opened for reading alone")]
    ReadOnly,
    /// The operating system says no.
    #[error("{act} at {path}")]
    Io {
        /// What we were doing.
        act: &'static str,
        /// Where.
        path: PathBuf,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// The file was replaced, and nobody can say whether that would survive a loss of power.
    #[error(
        "the keyring at {path} was replaced and may still fall back to what it was if the power fails; nothing more \
         is changed or sealed under it; look at the disk and start the program again, then repeat what was done last"
    )]
    Unsure {
        /// Where.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// No randomness, or a cipher refused.
    #[error("draw or seal keys: the cryptography module refused")]
    Cryptography,
}

impl KeyringError {
    /// Whether the disk has no room, which passes.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
    }

    /// How the program ends over it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Root(why) => why.exit(),
            Self::WrongRoot(_) | Self::Damaged(_) | Self::Format { .. } | Self::Missing(_) => Exit::Refused,
            Self::Busy(_) => Exit::NotReady,
            Self::Io { source, .. } | Self::Unsure { source, .. } => key_source::exit_of(source),
            Self::ReadOnly | Self::Cryptography => Exit::Fault,
        }
    }
}

impl From<Refused> for KeyringError {
    fn from(Refused: Refused) -> Self {
        Self::Cryptography
    }
}

/// What to do where there is no keyring yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Make one: there are no records that would need an older one.
    Create,
    /// Refuse: there are records, and only their own keyring opens them.
    Refuse,
}

/// How a keyring came to be open; the audit record says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The keyring was made just now.
    pub keyring_created: bool,
    /// The root key was made just now.
    pub root_created: bool,
}

/// All keys, the patients' rows and the bindings, behind one sealed file.
pub struct Keyring {
    current: RwLock<Arc<State>>,
    /// Derived from data keys that are in `current`, and from no other.
    derived: AtHand,
    /// Held over every change, so that changes follow each other.
    home: Mutex<Home>,
    /// Why it may not be durable, once that has happened.
    unsure: OnceLock<ErrorKind>,
    opened: Opened,
}

/// Where the keyring lives.
enum Home {
    Disk {
        path: PathBuf,
        kek: Kek,
        disk: Disk,
        /// The lock goes with it.
        _held: Written,
    },
    ReadOnly {
        version: u32,
    },
    /// Nothing is kept: tests and dry runs.
    Memory,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring(hidden)")
    }
}

impl Keyring {
    /// Opens the keyring of this state directory under the root key, or makes it.
    ///
    /// # Errors
    /// [`KeyringError`]; nothing was written where the root key or the file is refused.
    pub fn open(state_dir: &Path, root: &KeySource, absent: Absent) -> Result<Self, KeyringError> {
        Self::open_on(&Disk::default(), state_dir, root, absent)
    }

    /// Opens it on this disk.
    pub(crate) fn open_on(
        disk: &Disk,
        state_dir: &Path,
        root: &KeySource,
        absent: Absent,
    ) -> Result<Self, KeyringError> {
        let path = place(state_dir);
        let held = hold(disk, &state_dir.join("keyring.lock"))?;
        let (kek, state, opened) = match read(&path)? {
            Some(bytes) => {
                let (root, _) = key_source::root_key(disk, root, Lock::Exists).map_err(KeyringError::Root)?;
                let (kek, state) = file::open(&bytes, &root, &path)?;
                (kek, state, Opened { keyring_created: false, root_created: false })
            }
            None if absent == Absent::Refuse => return Err(KeyringError::Missing(path)),
            None => {
                let (root, root_created) =
                    key_source::root_key(disk, root, Lock::IsNew).map_err(KeyringError::Root)?;
                let (kek, state) = (Kek::new(&root, 1)?, State::new()?);
                replace(disk, &path, &kek.seal(&state)?)?;
                disk.sync_folder(folder_of(&path)).map_err(io("write the keyring", &path))?;
                (kek, state, Opened { keyring_created: true, root_created })
            }
        };
        let home = Home::Disk { path, kek, disk: disk.clone(), _held: held };
        Ok(Self::with(home, state, opened))
    }

    /// Opens it beside a running daemon, for reading: every change is refused.
    ///
    /// # Errors
    /// [`KeyringError`] as for [`Keyring::open`].
    pub fn open_for_reading(state_dir: &Path, root: &KeySource) -> Result<Self, KeyringError> {
        let path = place(state_dir);
        let bytes = read(&path)?.ok_or_else(|| KeyringError::Missing(path.clone()))?;
        let (root, _) =
            key_source::root_key(&Disk::default(), root, Lock::Exists).map_err(KeyringError::Root)?;
        let (kek, state) = file::open(&bytes, &root, &path)?;
        let opened = Opened { keyring_created: false, root_created: false };
        Ok(Self::with(Home::ReadOnly { version: kek.version() }, state, opened))
    }

    /// A keyring with new keys that is never written down: what it sealed is gone with it. For tests and dry runs.
    ///
    /// # Errors
    /// [`KeyringError::Cryptography`] without randomness.
    pub fn in_memory() -> Result<Self, KeyringError> {
        let opened = Opened { keyring_created: true, root_created: false };
        Ok(Self::with(Home::Memory, State::new()?, opened))
    }

    fn with(home: Home, state: State, opened: Opened) -> Self {
        let (current, home) = (RwLock::new(Arc::new(state)), Mutex::new(home));
        Self { current, derived: AtHand::default(), home, unsure: OnceLock::new(), opened }
    }

    /// How it came to be open.
    #[must_use]
    pub const fn opened(&self) -> Opened {
        self.opened
    }

    /// The version of the key-encryption key; 0 for a keyring in memory.
    #[must_use]
    pub fn version(&self) -> u32 {
        match &*self.home.lock().unwrap_or_else(PoisonError::into_inner) {
            Home::Disk { kek, .. } => kek.version(),
            Home::ReadOnly { version } => *version,
            Home::Memory => 0,
        }
    }

    /// Draws a new key-encryption key and seals everything under it; no record is rewritten. Gives the new version.
    ///
    /// # Errors
    /// [`KeyringError`]; the old key stays in force.
    pub fn rotate(&self, root: &KeySource) -> Result<u32, KeyringError> {
        let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        let Home::Disk { path, kek, disk, .. } = &mut *home else { return Err(KeyringError::ReadOnly) };
        self.ensure_sure(path)?;
        let (root, _) = key_source::root_key(disk, root, Lock::Exists).map_err(KeyringError::Root)?;
        // The root key has to be the one the next start will find good.
        let bytes = read(path)?.ok_or_else(|| KeyringError::Missing(path.clone()))?;
        file::open(&bytes, &root, path)?;
        let new = Kek::new(&root, kek.version().saturating_add(1))?;
        replace(disk, path, &new.seal(&self.state())?)?;
        *kek = new;
        self.settle(disk, path)?;
        Ok(kek.version())
    }

    /// Draws a pseudonym key for each recipient that has none. To be called with every upstream before it is served.
    ///
    /// # Errors
    /// [`KeyringError`] when the new keys cannot be made durable.
    pub fn ensure_recipients<'a>(
        &self,
        recipients: impl IntoIterator<Item = &'a UpstreamName>,
    ) -> Result<(), KeyringError> {
        self.change(|state| {
            for name in recipients {
                if !state.recipients.contains_key(name) {
                    state.recipients.insert(name.clone(), Secret::random()?);
                }
            }
            Ok(())
        })
    }

    /// Treatments that ended before this time. The caller finds out which of them have no record left anywhere.
    #[must_use]
    pub fn treatments_ended_before(&self, time: Timestamp) -> Vec<TreatmentId> {
        let ended = |ended: Option<Timestamp>| ended.is_some_and(|ended| ended < time);
        let state = self.state();
        let treatments = state.treatments.iter().filter(|(_, treatment)| ended(treatment.ended));
        treatments.map(|(id, _)| *id).collect()
    }

    /// Destroys the keys and bindings of these treatments and says how many there were; a running one stays. Rows of
    /// patients stay too: the next treatment of a patient has to get the same pseudonym.
    ///
    /// # Errors
    /// [`KeyringError`] when the change cannot be made durable.
    pub fn forget_treatments(&self, treatments: &[TreatmentId]) -> Result<usize, KeyringError> {
        let wanted: BTreeSet<TreatmentId> = treatments.iter().copied().collect();
        self.change(|state| {
            let before = state.treatments.len();
            state.treatments.retain(|id, treatment| treatment.ended.is_none() || !wanted.contains(id));
            for chair in state.chairs.values_mut() {
                chair.last = chair.last.filter(|last| state.treatments.contains_key(last));
            }
            state.untold.retain(|correction| state.treatments.contains_key(&correction.treatment));
            Ok(before - state.treatments.len())
        })
    }

    pub(super) fn state(&self) -> Arc<State> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a change durable, then puts it in force. Where it fails, nothing has changed; only after
    /// [`KeyringError::Unsure`] what the file says now is in force, and it is the last change before a new start.
    pub(super) fn change<T, E: From<KeyringError>>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T, E>,
    ) -> Result<T, E> {
        let home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.state();
        let mut new = State::clone(&old);
        let value = change(&mut new)?;
        if new == *old {
            return Ok(value);
        }
        match &*home {
            Home::Disk { path, kek, disk, .. } => {
                self.ensure_sure(path)?;
                replace(disk, path, &kek.seal(&new).map_err(KeyringError::from)?)?;
                self.put(new);
                self.settle(disk, path)?;
            }
            Home::ReadOnly { .. } => return Err(KeyringError::ReadOnly.into()),
            Home::Memory => self.put(new),
        }
        Ok(value)
    }

    fn ensure_sure(&self, path: &Path) -> Result<(), KeyringError> {
        match self.unsure.get() {
            Some(kind) => Err(KeyringError::Unsure { path: path.to_owned(), source: (*kind).into() }),
            None => Ok(()),
        }
    }

    /// A frame whose key may be gone after a loss of power could never be read.
    fn ensure_sealing(&self) -> Result<(), KeyError> {
        self.unsure.get().map_or(Ok(()), |kind| Err(KeyError::Write((*kind).into())))
    }

    /// Makes the replaced file's name durable. Where that fails nobody can say which file a loss of power would leave.
    fn settle(&self, disk: &Disk, path: &Path) -> Result<(), KeyringError> {
        disk.sync_folder(folder_of(path)).map_err(|source| {
            self.unsure.get_or_init(|| source.kind());
            KeyringError::Unsure { path: path.to_owned(), source }
        })
    }

    /// Puts a state in force. What was derived from a key that is not in it any more is gone when this returns.
    fn put(&self, state: State) {
        let new = Arc::new(state);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, Arc::clone(&new));
        drop(current);
        self.derived.keep(|id| new.data_key(id).is_some() && new.data_key(id) == old.data_key(id));
    }
}

impl DataKeys for Keyring {
    fn seal_key(&self, id: KeyId) -> Result<DataKey, KeyError> {
        self.ensure_sealing()?;
        // A treatment's key is drawn, and durable, before the treatment's id is known to anyone.
        self.open_key(id).ok_or(KeyError::Destroyed)
    }

    fn open_key(&self, id: KeyId) -> Option<DataKey> {
        Some(DataKey::from_bytes(*self.state().data_key(id)?.as_bytes()))
    }

    fn record_key(&self, id: KeyId, sealing: &Sealing) -> Result<Arc<RecordKey>, KeyError> {
        self.ensure_sealing()?;
        self.derived.get(id, sealing, || self.seal_key(id))
    }
}

fn place(state_dir: &Path) -> PathBuf {
    state_dir.join("keyring")
}

fn io(act: &'static str, path: &Path) -> impl Fn(std::io::Error) -> KeyringError {
    move |source| KeyringError::Io { act, path: path.to_owned(), source }
}

/// The kernel lets go of the lock when the process ends, however it ends.
fn hold(disk: &Disk, path: &Path) -> Result<Written, KeyringError> {
    let lock = disk.open(path, Start::Appended).map_err(io("open the keyring's lock", path))?;
    match lock.file().try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(KeyringError::Busy(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(io("lock the keyring", path)(source)),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, KeyringError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(None),
        Err(why) => Err(io("read the keyring", path)(why)),
    }
}

/// Replaces the file in one step: whoever reads it after a crash finds the old one or the new one. Which of them is certain
/// only once its folder is synced.
fn replace(disk: &Disk, path: &Path, bytes: &[u8]) -> Result<(), KeyringError> {
    let draft = path.with_added_extension("new");
    disk.write_new(&draft, bytes)
        .and_then(|()| disk.rename(&draft, path))
        .map_err(io("write the keyring", path))
}

#[cfg(test)]
mod tests;
