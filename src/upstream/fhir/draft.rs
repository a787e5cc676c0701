//! A resource on its way out: as it was made, or written down already as one entry of a batch.

use super::r4::{BatchEntry, Observation, Resource};
use serde::Deserialize;
use std::borrow::Cow;

/// One resource that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Draft {
    /// As it was made.
    Resource(Box<Resource>),
    /// An Observation, written down.
    Entry(Entry),
}

/// An Observation as one entry of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(super) id: String,
    pub(super) text: String,
}

impl From<Resource> for Draft {
    fn from(resource: Resource) -> Self {
        Self::Resource(Box::new(resource))
    }
}

impl Draft {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Resource(resource) => resource.id(),
            Self::Entry(entry) => &entry.id,
        }
    }

    /// It as one entry of a batch.
    ///
    /// # Errors
    /// None that a resource of ours could cause.
    pub fn entry(&self) -> serde_json::Result<Cow<'_, str>> {
        match self {
            Self::Resource(resource) => serde_json::to_string(&BatchEntry::put(resource)).map(Cow::Owned),
            Self::Entry(entry) => Ok(Cow::Borrowed(&entry.text)),
        }
    }

    /// It as a resource; what was written down is read back.
    ///
    /// # Errors
    /// None that what was written here could cause.
    pub fn resource(&self) -> serde_json::Result<Cow<'_, Resource>> {
        #[derive(Deserialize)]
        struct Written {
            resource: Observation,
        }
        match self {
            Self::Resource(resource) => Ok(Cow::Borrowed(resource)),
            Self::Entry(entry) => {
                let Written { resource } = serde_json::from_str(&entry.text)?;
                Ok(Cow::Owned(Resource::Observation(Box::new(resource))))
            }
        }
    }
}
