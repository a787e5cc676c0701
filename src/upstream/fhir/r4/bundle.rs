//! Bundles that go out and answers that come back. Of an answer only codes are read; everything else is ignored.

use super::resources::Resource;
use super::types::ResourceType;
use serde::{Deserialize, Serialize, Serializer};

/// A batch Bundle of `PUT Type/<id>`, borrowed from the resources it carries.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Batch<'a> {
    resource_type: &'static str,
    #[serde(rename = "type")]
    of: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    entry: Vec<BatchEntry<'a>>,
}

impl<'a> Batch<'a> {
    /// A batch that writes these resources under their own ids.
    pub fn of_puts(resources: impl IntoIterator<Item = &'a Resource>) -> Self {
        let entry = resources.into_iter().map(BatchEntry::put).collect();
        Self { resource_type: "Bundle", of: "batch", entry }
    }
}

/// One entry of a [`Batch`].
#[derive(Clone, Debug, Serialize)]
pub struct BatchEntry<'a> {
    resource: &'a Resource,
    request: BatchRequest<'a>,
}

impl<'a> BatchEntry<'a> {
    fn put(resource: &'a Resource) -> Self {
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
