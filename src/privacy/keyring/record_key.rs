//! Record keys: what a data key becomes for one store and one start of the process. Nothing is sealed under a data key itself.

use super::{DataKey, KeyError, KeyId};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of the tag behind what is sealed.
pub(crate) const TAG: usize = 16;

/// Derived keys kept at most; a ward uses a few dozen at a time.
const AT_HAND: usize = 256;

/// What record keys are derived for: a store, and a start of the process that seals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sealing {
    /// The store.
    pub store: [u8; 16],
    /// Drawn at the start.
    pub salt: [u8; 32],
}

/// The key of one treatment in one store since one start. It cannot be printed, and is wiped on drop.
pub struct RecordKey(LessSafeKey);

impl RecordKey {
    /// Derives it; `None` if the cipher refuses.
    pub(crate) fn derive(data_key: &DataKey, id: KeyId, sealing: &Sealing) -> Option<Self> {
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, &sealing.salt).extract(data_key.as_bytes());
        let purpose: [&[u8]; 3] = [b"record", &sealing.store, &id.0];
        let expanded = extracted.expand(&purpose, &AES_256_GCM).ok()?;
        Some(Self(LessSafeKey::new(UnboundKey::from(expanded))))
    }

    /// Seals the text in place and gives its tag. A count seals once.
    pub(crate) fn seal(&self, count: u64, front: &[u8], text: &mut [u8]) -> Option<[u8; TAG]> {
        let tag = self.0.seal_in_place_separate_tag(nonce(count), Aad::from(front), text).ok()?;
        tag.as_ref().try_into().ok()
    }

    /// Opens what was sealed, and its tag behind it, in place; gives the length of the text.
    pub(crate) fn open(&self, count: u64, front: &[u8], sealed: &mut [u8]) -> Option<usize> {
        let text = self.0.open_in_place(nonce(count), Aad::from(front), sealed).ok()?;
        Some(text.len())
    }
}

fn nonce(count: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes.iter_mut().rev().zip(count.to_le_bytes()).for_each(|(to, from)| *to = from);
    Nonce::assume_unique_for_key(bytes)
}

/// Record keys that seal now, so that each is derived once. They go with their data keys.
#[derive(Default)]
pub(super) struct AtHand(Mutex<HashMap<KeyId, (Sealing, Arc<RecordKey>)>>);

impl AtHand {
    /// The record key of this id. The data key is asked for, where it is needed, while nobody can take keys away, so none
    /// that was destroyed meanwhile comes in.
    pub(super) fn get(
        &self,
        id: KeyId,
        sealing: &Sealing,
        data_key: impl FnOnce() -> Result<DataKey, KeyError>,
    ) -> Result<Arc<RecordKey>, KeyError> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, key)) = keys.get(&id)
            && of == sealing
        {
            return Ok(Arc::clone(key));
        }
        let key = RecordKey::derive(&data_key()?, id, sealing).ok_or(KeyError::Cryptography)?;
        let key = Arc::new(key);
        if keys.len() >= AT_HAND {
            keys.clear();
        }
        keys.insert(id, (*sealing, Arc::clone(&key)));
        Ok(key)
    }

    /// Wipes every key but these.
    pub(super) fn keep(&self, wanted: impl Fn(KeyId) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| wanted(*id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEALING: Sealing = Sealing { store: [1; 16], salt: [2; 32] };

    fn get(keys: &AtHand, id: u8, sealing: &Sealing) -> Arc<RecordKey> {
        keys.get(KeyId([id; 16]), sealing, || Ok(DataKey::from_bytes([id; 32]))).unwrap()
    }

    #[test]
    fn what_was_sealed_opens_only_under_its_own_key_store_start_count_and_front() {
        let key = |byte, id, sealing: Sealing| {
            RecordKey::derive(&DataKey::from_bytes([byte; 32]), KeyId([id; 16]), &sealing).unwrap()
        };
        let mut sealed = b"text".to_vec();
        let tag = key(1, 1, SEALING).seal(7, b"front", &mut sealed).unwrap();
        sealed.extend_from_slice(&tag);
        let opens = |key: RecordKey, count, front: &[u8]| {
            let mut bytes = sealed.clone();
            key.open(count, front, &mut bytes).map(|length| bytes[..length].to_vec())
        };
        assert_eq!(opens(key(1, 1, SEALING), 7, b"front"), Some(b"text".to_vec()));
        assert_eq!(opens(key(2, 1, SEALING), 7, b"front"), None);
        assert_eq!(opens(key(1, 2, SEALING), 7, b"front"), None);
        assert_eq!(opens(key(1, 1, Sealing { store: [3; 16], ..SEALING }), 7, b"front"), None);
        assert_eq!(opens(key(1, 1, Sealing { salt: [3; 32], ..SEALING }), 7, b"front"), None);
        assert_eq!(opens(key(1, 1, SEALING), 8, b"front"), None);
        assert_eq!(opens(key(1, 1, SEALING), 7, b"back"), None);
    }

    #[test]
    fn a_key_is_derived_once_and_anew_for_another_start() {
        let keys = AtHand::default();
        let first = get(&keys, 1, &SEALING);
        let again = keys.get(KeyId([1; 16]), &SEALING, || Err(KeyError::Destroyed)).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        let later = Sealing { salt: [9; 32], ..SEALING };
        assert!(matches!(
            keys.get(KeyId([1; 16]), &later, || Err(KeyError::Destroyed)),
            Err(KeyError::Destroyed)
        ));
        assert!(!Arc::ptr_eq(&first, &get(&keys, 1, &later)));
    }

    #[test]
    fn what_is_not_wanted_is_gone_at_once_and_no_more_than_a_few_stay() {
        let keys = AtHand::default();
        let weak: Vec<_> = (0..=255_u8).map(|id| Arc::downgrade(&get(&keys, id, &SEALING))).collect();
        let alive = || weak.iter().filter(|key| key.strong_count() > 0).count();
        assert_eq!(alive(), AT_HAND);
        keys.keep(|id| id.0[0] < 3);
        assert_eq!(alive(), 3);
        let more = (0..1000_u16).map(|number| {
            let id = KeyId(std::array::from_fn(|place| number.to_be_bytes()[place % 2]));
            let key = keys.get(id, &SEALING, || Ok(DataKey::from_bytes([0; 32])));
            Arc::downgrade(&key.unwrap())
        });
        let more: Vec<_> = more.collect();
        assert!(more.iter().filter(|key| key.strong_count() > 0).count() <= AT_HAND);
    }
}
