//! Where secrets come from: a systemd credential or a file of our own. The one place that reads a key off the disk.

use super::crypto::{Refused, Secret};
use crate::config::settings::KeySource;
use crate::disk::{Disk, folder_of};
use crate::exit::Exit;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeySourceError {
    /// A credential is wanted and the service manager gave none.
    #[error(
        "no credentials were given to this program; start it as a systemd service with \
         `LoadCredentialEncrypted={0}`, or name a key file instead"
    )]
    NoCredentials(String),
    /// A credential that could be any file.
    #[error("`{0}` is no credential name; it has to be a plain name without `/`")]
    CredentialName(String),
    /// There is no such file.
    #[error("there is no key at {path}; {remedy}")]
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// Something that is no plain file.
    #[error("the key at {0} is not a plain file")]
    NotAFile(PathBuf),
    /// A secret that is none.
    #[error("the key at {path} can be read by others (mode {mode:04o}); run `chmod 600` on it")]
    OpenToOthers {
        /// Where.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A root key that is not 256 bits.
    #[error("the root key at {path} has {found} bytes and must have 32; take them from `/dev/urandom`")]
    Length {
        /// Where.
        path: PathBuf,
        /// How many bytes it has.
        found: u64,
    },
    /// A file far too long for a key.
    #[error("the key at {0} is longer than any key")]
    TooLong(PathBuf),
    /// It is there and cannot be read.
    #[error("read the key at {path}")]
    Read {
        /// Where.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be made.
    #[error("make the root key at {path}")]
    Create {
        /// Where.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A second name of the root key that cannot be removed.
    #[error("remove {path}, a second name of the root key that a crash left; remove it by hand")]
    SecondName {
        /// Which one.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// No randomness.
    #[error("draw a root key: the operating system gives no randomness")]
    Random,
}

impl KeySourceError {
    /// How the program ends over it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoCredentials(_) | Self::Missing { .. } | Self::OpenToOthers { .. } => Exit::NotPermitted,
            Self::CredentialName(_) | Self::NotAFile(_) | Self::Length { .. } | Self::TooLong(_) => {
                Exit::Refused
            }
            Self::Read { source, .. } | Self::Create { source, .. } | Self::SecondName { source, .. } => {
                exit_of(source)
            }
            Self::Random => Exit::Fault,
        }
    }
}

/// A file that is not ours to use is a matter of permission; all else is the disk's.
pub(super) fn exit_of(source: &std::io::Error) -> Exit {
    match source.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Exit::NotPermitted,
        _ => Exit::Disk,
    }
}

/// Whether there is a keyring yet that the root key has to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    /// A new root key would lock us out of it.
    Exists,
    /// A root key may be made where the configuration says so.
    IsNew,
}

/// No key file of any kind is longer (a PEM chain has a few kilobytes).
const LONGEST: u64 = 64 * 1024;

/// The bytes of a secret: a private key of an upstream, for example. A missing file is never made here.
///
/// # Errors
/// [`KeySourceError`] says what to do.
pub fn read_secret(source: &KeySource) -> Result<Zeroizing<Vec<u8>>, KeySourceError> {
    let (path, access) = place(source, std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from))?;
    read(&path, access, "put it there or correct the path")
}

/// The root key, and whether it was made just now.
pub(super) fn root_key(
    disk: &Disk,
    source: &KeySource,
    lock: Lock,
) -> Result<(Secret, bool), KeySourceError> {
    let (path, access) = place(source, std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from))?;
    let may_create = matches!(source, KeySource::File { created: true, .. });
    let remedy = match lock {
        Lock::Exists => "the keyring needs the very key it was made with: bring it back from your safe copy",
        Lock::IsNew => "put 32 random bytes there, or say `created = true` for a first run",
    };
    match read(&path, access, remedy) {
        Err(KeySourceError::Missing { .. }) if may_create && lock == Lock::IsNew => {
            create(disk, &path).map(|root| (root, true))
        }
        bytes => {
            let bytes = bytes?;
            if matches!(access, Access::OursAlone) {
                remove_second_name(disk, &path)?;
            }
            exact(&bytes, path).map(|root| (root, false))
        }
    }
}

/// Removes the draft that a crash left while the key was made. It is the very same file under another name; any other
/// file of that name is somebody's, and stays.
fn remove_second_name(disk: &Disk, path: &Path) -> Result<(), KeySourceError> {
    let draft = draft_of(path);
    let (Ok(key), Ok(other)) = (std::fs::metadata(path), std::fs::symlink_metadata(&draft)) else {
        return Ok(());
    };
    if (key.dev(), key.ino()) != (other.dev(), other.ino()) {
        return Ok(());
    }
    disk.remove(&draft)
        .and_then(|()| disk.sync_folder(folder_of(path)))
        .map_err(|source| KeySourceError::SecondName { path: draft, source })
}

#[derive(Clone, Copy)]
enum Access {
    /// Mode 0600 or stricter.
    OursAlone,
    /// The service manager guards it, with an access list that shows up in the group bits.
    Guarded,
}

fn place(source: &KeySource, credentials: Option<PathBuf>) -> Result<(PathBuf, Access), KeySourceError> {
    match source {
        KeySource::File { path, .. } => Ok((path.clone(), Access::OursAlone)),
        KeySource::Credential(name) => {
            if name.is_empty() || name.contains('/') || name == "." || name == ".." {
                return Err(KeySourceError::CredentialName(name.clone()));
            }
            let folder = credentials.ok_or_else(|| KeySourceError::NoCredentials(name.clone()))?;
            Ok((folder.join(name), Access::Guarded))
        }
    }
}

fn read(path: &Path, access: Access, remedy: &'static str) -> Result<Zeroizing<Vec<u8>>, KeySourceError> {
    let refused = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => KeySourceError::Missing { path: path.to_owned(), remedy },
        _ => KeySourceError::Read { path: path.to_owned(), source },
    };
    let file = File::open(path).map_err(refused)?;
    // Asked of the open file, so that nobody can swap it between the look and the read.
    let metadata = file.metadata().map_err(refused)?;
    if !metadata.is_file() {
        return Err(KeySourceError::NotAFile(path.to_owned()));
    }
    let mode = metadata.mode() & 0o7777;
    if matches!(access, Access::OursAlone) && mode & 0o077 != 0 {
        return Err(KeySourceError::OpenToOthers { path: path.to_owned(), mode });
    }
    if metadata.len() > LONGEST {
        return Err(KeySourceError::TooLong(path.to_owned()));
    }
    // Room from the start: a buffer that grows would leave the key behind in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
    (&file).take(LONGEST).read_to_end(&mut bytes).map_err(refused)?;
    Ok(bytes)
}

fn exact(bytes: &[u8], path: PathBuf) -> Result<Secret, KeySourceError> {
    match <[u8; 32]>::try_from(bytes) {
        Ok(root) => Ok(Secret::from_bytes(root)),
        Err(_) => Err(KeySourceError::Length { path, found: bytes.len() as u64 }),
    }
}

/// Written under another name and linked into place, so that a crash leaves no half key.
fn create(disk: &Disk, path: &Path) -> Result<Secret, KeySourceError> {
    let root = Secret::random().map_err(|Refused| KeySourceError::Random)?;
    let draft = draft_of(path);
    let made = disk
        .write_new(&draft, root.as_bytes())
        .and_then(|()| disk.link(&draft, path))
        .and_then(|()| disk.remove(&draft))
        .and_then(|()| disk.sync_folder(folder_of(path)));
    match made {
        Ok(()) => Ok(root),
        Err(source) => Err(KeySourceError::Create { path: path.to_owned(), source }),
    }
}

fn draft_of(path: &Path) -> PathBuf {
    path.with_added_extension("new")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn file(path: PathBuf, created: bool) -> KeySource {
        KeySource::File { path, created }
    }

    #[test]
    fn a_first_run_makes_a_root_key_that_only_we_can_read_and_the_next_run_finds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let (made, fresh) = root_key(&Disk::default(), &file(path.clone(), true), Lock::IsNew).unwrap();
        assert!(fresh);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left behind");
        let (found, fresh) = root_key(&Disk::default(), &file(path, true), Lock::Exists).unwrap();
        assert!(!fresh);
        assert!(found == made);
    }

    #[test]
    fn a_second_name_of_the_root_key_that_a_crash_left_is_removed_and_any_other_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (path, draft) = (folder.path().join("root.key"), folder.path().join("root.key.new"));
        root_key(&Disk::default(), &file(path.clone(), true), Lock::IsNew).unwrap();
        std::fs::hard_link(&path, &draft).unwrap();
        root_key(&Disk::default(), &file(path.clone(), true), Lock::Exists).unwrap();
        assert!(path.exists() && !draft.exists());
        std::fs::write(&draft, b"the next root key, made ready by hand").unwrap();
        root_key(&Disk::default(), &file(path, true), Lock::Exists).unwrap();
        assert!(draft.exists());
    }

    #[test]
    fn a_lost_root_key_is_never_replaced_while_a_keyring_needs_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let why = root_key(&Disk::default(), &file(path.clone(), true), Lock::Exists).err().unwrap();
        assert_eq!(why.exit(), Exit::NotPermitted);
        assert!(why.to_string().contains("safe copy"), "{why}");
        assert!(!path.exists());
    }

    #[test]
    fn without_created_nothing_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let why = root_key(&Disk::default(), &file(path.clone(), false), Lock::IsNew).err().unwrap();
        assert!(why.to_string().contains("created = true"), "{why}");
        assert!(!path.exists());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        std::fs::write(&path, [7; 32]).unwrap();
        for mode in [0o640, 0o604, 0o660] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let why = root_key(&Disk::default(), &file(path.clone(), true), Lock::IsNew).err().unwrap();
            assert_eq!(why.exit(), Exit::NotPermitted);
            assert!(why.to_string().contains("chmod 600"), "{why}");
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        assert!(root_key(&Disk::default(), &file(path, false), Lock::IsNew).is_ok());
    }

    #[test]
    fn a_root_key_of_another_length_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        for length in [0, 31, 33, 64] {
            let _ = std::fs::remove_file(&path);
            Disk::default().write_new(&path, &vec![7; length]).unwrap();
            let why = root_key(&Disk::default(), &file(path.clone(), true), Lock::IsNew).err().unwrap();
            assert_eq!(why.exit(), Exit::Refused);
            assert!(why.to_string().contains(&format!("has {length} bytes")), "{why}");
        }
    }

    #[test]
    fn a_folder_is_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let why = read_secret(&file(folder.path().to_owned(), false)).err().unwrap();
        assert_eq!(why.exit(), Exit::Refused);
    }

    #[test]
    fn a_credential_is_found_in_the_folder_of_the_service_manager_whatever_its_group_bits() {
        let folder = tempfile::tempdir().unwrap();
        let source = KeySource::Credential("chairside-root".to_owned());
        let path = folder.path().join("chairside-root");
        std::fs::write(&path, [7; 32]).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o440)).unwrap();
        let (found, access) = place(&source, Some(folder.path().to_owned())).unwrap();
        assert_eq!(found, path);
        assert_eq!(read(&found, access, "").unwrap().len(), 32);
    }

    #[test]
    fn without_a_service_manager_the_error_says_what_to_add_to_the_unit() {
        let why = place(&KeySource::Credential("chairside-root".to_owned()), None).err().unwrap();
        assert_eq!(why.exit(), Exit::NotPermitted);
        assert!(why.to_string().contains("LoadCredentialEncrypted=chairside-root"), "{why}");
    }

    #[test]
    fn a_credential_name_cannot_leave_its_folder() {
        for name in ["", "..", "../root", "a/b"] {
            assert!(place(&KeySource::Credential(name.to_owned()), Some(PathBuf::from("/run"))).is_err());
        }
    }
}
