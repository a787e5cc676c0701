//! The key hierarchy: root -> key-encryption key -> data keys, lookup key and pseudonym keys.

use crate::privacy::record::TreatmentId;
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
}
