//! Wire protocols of dialysis machines. Bytes and time come in, values come out: no IO, no clock, no thread, no log.
//!
//! [`MODELS`] lists every machine. Adding one is a folder, a device map and a line there.
#![no_std]
#![deny(clippy::indexing_slicing)]

extern crate alloc;

pub mod kit;
pub mod kpoll;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use kit::driver::{Evidence, Model, ModelId};

/// One machine model that chairside can talk to.
#[derive(Debug)]
pub struct Entry {
    /// `family/model`.
    pub id: ModelId,
    /// Maker and model in the maker's words.
    pub title: &'static str,
    /// What our knowledge rests on.
    pub evidence: Evidence,
    /// The source behind that label, for people.
    pub source: &'static str,
    /// The file name of the shipped device map.
    pub default_map: &'static str,
    /// Builds the model from the `[options]` of a device map.
    pub build: fn(&Options) -> Result<Box<dyn Model>, OptionError>,
}

/// The `[options]` table of a device map.
pub type Options = BTreeMap<String, OptionValue>;

/// One option's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionValue {
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(String),
    /// A switch.
    Switch(bool),
}

/// Why a model cannot be built from these options.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// A key this model does not have.
    #[error("this model has no option `{key}`")]
    Unknown {
        /// The key as written.
        key: String,
        /// The keys it does have.
        known: &'static [&'static str],
    },
    /// A value this key cannot have.
    #[error("option `{key}` must be {expected}")]
    Wrong {
        /// The key as written.
        key: String,
        /// What is expected, in words.
        expected: &'static str,
    },
}

/// Every machine. One entry per model.
pub static MODELS: &[Entry] =
    &[kpoll::NIKKISO_DBB27C, kpoll::TORAY_TR8000, kpoll::TORAY_TR321, kpoll::TORAY_TR3000];

/// The entry of a model id.
#[must_use]
pub fn find(id: &str) -> Option<&'static Entry> {
    MODELS.iter().find(|entry| entry.id.as_str() == id)
}
