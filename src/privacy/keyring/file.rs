//! The keyring's one file: the root key wraps a key-encryption key, and that one seals everything else.
//!
//! Format 1: magic, format (u32, little-endian like all numbers here), root key's check value, version of the
//! key-encryption key, salt, wrapped key-encryption key, salt, sealed state. Both seals are AES-256-GCM under a key
//! that its salt makes unique, and each covers every byte in front of it.

use super::KeyringError;
use super::state::State;
use crate::privacy::bytes::Reader;
use crate::privacy::crypto::{Refused, Secret, TAG_LEN, random};
use std::path::Path;

const MAGIC: &[u8; 18] = b"chairside keyring\n";
const FORMAT: u32 = 1;
/// Magic, format, check value, version, salt, wrapped key.
const HEAD: usize = MAGIC.len() + 4 + 16 + 4 + 32 + 32 + TAG_LEN;

/// The key-encryption key with the front part of the file that wraps it. The root key is not kept.
pub(super) struct Kek {
    key: Secret,
    version: u32,
    head: Vec<u8>,
}

impl Kek {
    /// A new random key under this root key.
    pub(super) fn new(root: &Secret, version: u32) -> Result<Self, Refused> {
        let key = Secret::random()?;
        let salt = random::<32>()?;
        let mut head = Vec::with_capacity(HEAD);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&FORMAT.to_le_bytes());
        head.extend_from_slice(&check_value(root));
        head.extend_from_slice(&version.to_le_bytes());
        head.extend_from_slice(&salt);
        let wrapped = root.seal(&salt, &head, key.as_bytes())?;
        head.extend_from_slice(&wrapped);
        Ok(Self { key, version, head })
    }

    pub(super) const fn version(&self) -> u32 {
        self.version
    }

    /// The whole file for this state.
    pub(super) fn seal(&self, state: &State) -> Result<Vec<u8>, Refused> {
        let salt = random::<32>()?;
        let mut file = self.head.clone();
        file.extend_from_slice(&salt);
        let sealed = self.key.seal(&salt, &file, &state.encode())?;
        file.extend_from_slice(&sealed);
        Ok(file)
    }
}

/// Opens a keyring file.
pub(super) fn open(bytes: &[u8], root: &Secret, path: &Path) -> Result<(Kek, State), KeyringError> {
    let damaged = || KeyringError::Damaged(path.to_owned());
    let mut from = Reader::new(bytes);
    if from.array("magic").ok().as_ref() != Some(MAGIC) {
        return Err(damaged());
    }
    let format = from.array("format").map(u32::from_le_bytes).map_err(|_| damaged())?;
    if format != FORMAT {
        return Err(KeyringError::Format { path: path.to_owned(), found: format });
    }
    let check: [u8; 16] = from.array("check value").map_err(|_| damaged())?;
    if check != check_value(root) {
        return Err(KeyringError::WrongRoot(path.to_owned()));
    }
    let version = from.array("version").map(u32::from_le_bytes).map_err(|_| damaged())?;
    let salt = from.array("salt").map_err(|_| damaged())?;
    let wrapped: [u8; 32 + TAG_LEN] = from.array("wrapped key").map_err(|_| damaged())?;
    let head = bytes.get(..HEAD).ok_or_else(damaged)?;
    let before_wrapped = head.get(..HEAD - wrapped.len()).ok_or_else(damaged)?;
    let key = root.open(&salt, before_wrapped, &wrapped).map_err(|_| damaged())?;
    let key = Secret::from_bytes(<[u8; 32]>::try_from(key.as_slice()).map_err(|_| damaged())?);

    let salt = from.array("salt").map_err(|_| damaged())?;
    let (front, sealed) = bytes.split_at_checked(HEAD + 32).ok_or_else(damaged)?;
    let state = key.open(&salt, front, sealed).map_err(|_| damaged())?;
    let state = State::decode(&state).map_err(|_| damaged())?;
    Ok((Kek { key, version, head: head.to_vec() }, state))
}

/// Tells a wrong root key from a damaged file, and gives nothing of the key away.
fn check_value(root: &Secret) -> [u8; 16] {
    let mac = root.mac("chairside root key check 1", &[]);
    let mut check = [0; 16];
    check.iter_mut().zip(mac).for_each(|(to, from)| *to = from);
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> &'static Path {
        Path::new("keyring")
    }

    fn sealed() -> (Secret, State, Vec<u8>) {
        let root = Secret::from_bytes([9; 32]);
        let state = State::new().unwrap();
        let file = Kek::new(&root, 3).unwrap().seal(&state).unwrap();
        (root, state, file)
    }

    #[test]
    fn a_keyring_opens_under_its_root_key_and_can_be_sealed_again() {
        let (root, state, file) = sealed();
        let (kek, opened) = open(&file, &root, path()).unwrap();
        assert!(opened == state);
        assert_eq!(kek.version(), 3);
        let again = kek.seal(&state).unwrap();
        assert_ne!(again, file, "each seal draws a salt of its own");
        assert!(open(&again, &root, path()).unwrap().1 == state);
    }

    #[test]
    fn another_root_key_is_told_from_a_damaged_file() {
        let (_, _, file) = sealed();
        let why = open(&file, &Secret::from_bytes([8; 32]), path()).err().unwrap();
        assert!(matches!(why, KeyringError::WrongRoot(_)), "{why}");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let (root, _, file) = sealed();
        for at in 0..file.len() {
            let mut other = file.clone();
            other[at] ^= 1 << (at % 8);
            assert!(open(&other, &root, path()).is_err(), "byte {at}");
            assert!(open(&file[..at], &root, path()).is_err(), "cut to {at}");
        }
    }

    #[test]
    fn a_newer_format_is_named_and_not_called_damage() {
        let (root, _, mut file) = sealed();
        file[MAGIC.len()] = 2;
        let why = open(&file, &root, path()).err().unwrap();
        assert!(matches!(why, KeyringError::Format { found: 2, .. }), "{why}");
    }

    #[test]
    fn no_key_stands_in_the_file_in_clear() {
        let (_, state, file) = sealed();
        for key in [state.lookup.as_bytes(), state.facility.as_bytes()] {
            assert!(!file.windows(32).any(|window| window == key));
        }
    }
}
