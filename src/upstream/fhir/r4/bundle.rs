//! Bundles that go out and answers that come back. Of an answer only codes are read; everything else is ignored.

use super::resources::Resource;
use super::types::ResourceType;
use serde::{Deserialize, Serialize, Serializer};

/// A batch Bundle of entries that are JSON already: a batch that has to be halved is not rendered again.
#[must_use]
pub fn batch(entries: &[impl AsRef<str>]) -> Vec<u8> {
    let length: usize = entries.iter().map(|entry| entry.as_ref().len() + 1).sum();
    let mut text = Vec::with_capacity(length + 64);
    text.extend_from_slice(br#"{"resourceType":"Bundle","type":"batch","entry":["#);
    for (index, entry) in entries.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        text.extend_from_slice(entry.as_ref().as_bytes());
    }
    text.extend_from_slice(b"]}");
    text
}

/// One entry of a batch.
#[derive(Clone, Debug, Serialize)]
pub struct BatchEntry<'a> {
    resource: &'a Resource,
    request: BatchRequest<'a>,
}

impl<'a> BatchEntry<'a> {
    /// Writes the resource under its own id.
    #[must_use]
    pub fn put(resource: &'a Resource) -> Self {
        Self { resource, request: BatchRequest { method: "PUT", url: (resource.kind(), resource.id()) } }
    }
}

/// What to do with one entry.
#[derive(Clone, Debug, Serialize)]
pub struct BatchRequest<'a> {
    method: &'static str,
    #[serde(serialize_with = "type_and_id")]
    url: (ResourceType, &'a str),
}

fn type_and_id<S: Serializer>((of, id): &(ResourceType, &str), to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{}/{id}", of.as_str()))
}

/// A server's answer to a batch.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BatchResponse {
    /// `Bundle`, where it is one.
    pub resource_type: String,
    /// `batch-response`.
    #[serde(rename = "type")]
    pub of: String,
    /// One per entry of the batch, in its order.
    pub entry: Vec<BatchResponseEntry>,
}

/// One entry of a [`BatchResponse`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct BatchResponseEntry {
    /// What became of it.
    pub response: Option<EntryResponse>,
}

/// What became of one entry.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EntryResponse {
    /// An HTTP status, with or without its words.
    pub status: String,
    /// Where it was stored.
    pub location: Option<String>,
    /// An OperationOutcome as it came. Looked at and dropped, never kept.
    pub outcome: Option<serde_json::Value>,
}

/// The coded part of an OperationOutcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OperationOutcome {
    /// `OperationOutcome`, where it is one.
    pub resource_type: String,
    /// What was wrong.
    pub issue: Vec<Issue>,
}

/// One issue: codes only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Issue {
    /// `fatal`, `error`, `warning` or `information`.
    pub severity: String,
    /// One of FHIR's `issue-type` codes.
    pub code: String,
}
