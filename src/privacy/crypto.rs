//! The few cryptographic acts of the privacy border, each over `aws-lc-rs` and under its own label.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, hmac, rand};
use std::sync::OnceLock;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// A key of 256 bits inside the border. No `Debug`, no `Display`; wiped on drop.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct Secret {
    bytes: [u8; 32],
    /// What HMAC makes of the key, from its first use on: most keys never see one. The cryptography module wipes it.
    #[zeroize(skip)]
    mac: OnceLock<Box<hmac::Key>>,
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Secret {}

/// The operating system gives no randomness, or a cipher refuses: nothing that input can cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cryptography module refused")]
pub(super) struct Refused;

/// What does not authenticate under this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotAuthentic;

pub(super) const TAG_LEN: usize = 16;

/// Random bytes for ids and salts.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Refused> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| Refused)?;
    Ok(bytes)
}

impl Secret {
    pub(super) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self { bytes, mac: OnceLock::new() }
    }

    pub(super) fn random() -> Result<Self, Refused> {
        random().map(Self::from_bytes)
    }

    pub(super) const fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// HMAC-SHA256 over the label and the parts, each with its length in front, so that no two lists of parts collide.
    pub(super) fn mac(&self, label: &str, parts: &[&[u8]]) -> [u8; 32] {
        let key = self.mac.get_or_init(|| Box::new(hmac::Key::new(hmac::HMAC_SHA256, &self.bytes)));
        let mut context = hmac::Context::with_key(key);
        for part in [label.as_bytes()].iter().chain(parts) {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut out = [0; 32];
        out.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        out
    }

    /// Seals under a key that only this salt gives, so the nonce can be zero. The salt must be fresh.
    pub(super) fn seal(&self, salt: &[u8; 32], aad: &[u8], text: &[u8]) -> Result<Vec<u8>, Refused> {
        let key = self.once(salt)?;
        // Room for the tag from the start: a buffer that grows would leave the text behind in freed memory.
        let mut sealed = Zeroizing::new(Vec::with_capacity(text.len() + TAG_LEN));
        sealed.extend_from_slice(text);
        key.seal_in_place_append_tag(zero_nonce(), Aad::from(aad), &mut *sealed).map_err(|_| Refused)?;
        Ok(std::mem::take(&mut *sealed))
    }

    /// Opens what [`Secret::seal`] sealed with this salt.
    pub(super) fn open(
        &self,
        salt: &[u8; 32],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, NotAuthentic> {
        let key = self.once(salt).map_err(|_| NotAuthentic)?;
        let mut text = Zeroizing::new(sealed.to_vec());
        let length =
            key.open_in_place(zero_nonce(), Aad::from(aad), &mut text).map_err(|_| NotAuthentic)?.len();
        text.truncate(length);
        Ok(text)
    }

    fn once(&self, salt: &[u8; 32]) -> Result<LessSafeKey, Refused> {
        let mut key = Zeroizing::new([0; 32]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
            .extract(&self.bytes)
            .expand(&[b"chairside seal once 1"], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut *key))
            .map_err(|_| Refused)?;
        UnboundKey::new(&AES_256_GCM, &*key).map(LessSafeKey::new).map_err(|_| Refused)
    }
}

fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_only_under_the_same_key_salt_and_associated_bytes() {
        let (key, other) = (Secret::from_bytes([1; 32]), Secret::from_bytes([2; 32]));
        let sealed = key.seal(&[3; 32], b"head", b"text").unwrap();
        assert_eq!(key.open(&[3; 32], b"head", &sealed).map(|text| text.to_vec()), Ok(b"text".to_vec()));
        assert!(other.open(&[3; 32], b"head", &sealed).is_err());
        assert!(key.open(&[4; 32], b"head", &sealed).is_err());
        assert!(key.open(&[3; 32], b"tail", &sealed).is_err());
        assert!(key.open(&[3; 32], b"head", &[]).is_err());
    }

    #[test]
    fn parts_that_are_cut_elsewhere_give_another_mac() {
        let key = Secret::from_bytes([1; 32]);
        assert_ne!(key.mac("l", &[b"ab", b"c"]), key.mac("l", &[b"a", b"bc"]));
        assert_ne!(key.mac("l", &[b"ab"]), key.mac("la", &[b"b"]));
        assert_ne!(key.mac("l", &[]), key.mac("l", &[b""]));
    }
}
