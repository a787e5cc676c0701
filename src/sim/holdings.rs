//! What the simulated receiver holds: each resource once by its id, as little of it as a comparison needs.

use crate::sim::resource::{self, Content, Fault, Kind};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use uuid::Uuid;

/// Type and id of a resource.
pub type Key = (Kind, Uuid);

/// Everything a receiver was given and kept.
#[derive(Debug, Default)]
pub struct Holdings {
    resources: HashMap<Key, Held>,
    words: Words,
    counts: Counts,
}

/// One resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// How often it was written.
    pub writes: u32,
    /// How many of these writes changed what it says; the first one does.
    pub versions: u32,
    /// What it says now.
    pub content: Content,
    digest: u64,
}

/// What the receiver has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Batches that were answered.
    pub batches: u64,
    /// Entries that created a resource.
    pub created: u64,
    /// Entries that wrote what was already there, word for word.
    pub repeated: u64,
    /// Entries that changed a resource.
    pub changed: u64,
    /// Entries that were refused.
    pub refused: u64,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is new.
    Created,
    /// It was there.
    Updated,
}

impl Holdings {
    /// Takes the entries of one batch. Entries may refer to what was there before the batch, not to each other: a
    /// server may take the entries of a batch in any order.
    pub fn take(&mut self, entries: &[Value]) -> Vec<(String, Result<Taken, Fault>)> {
        let judged: Vec<_> = entries.iter().map(|entry| self.judge(entry)).collect();
        self.counts.batches += 1;
        judged
            .into_iter()
            .map(|(url, judgement)| {
                let taken = judgement.map(|(key, content, digest)| self.keep(key, content, digest));
                self.counts.refused += u64::from(taken.is_err());
                (url, taken)
            })
            .collect()
    }

    /// Every resource, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Held)> {
        self.resources.iter()
    }

    /// One resource.
    #[must_use]
    pub fn get(&self, kind: Kind, id: Uuid) -> Option<&Held> {
        self.resources.get(&(kind, id))
    }

    /// How many resources there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether nothing came yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// What was counted.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// How many Observations say, under another id, what an earlier one says of the same machine, time and subject.
    #[must_use]
    pub fn duplicates(&self) -> usize {
        let mut seen = HashSet::new();
        let observations = self.resources.values().filter_map(|held| match &held.content {
            Content::Observation(it) if &*it.status == "final" => Some(it),
            _ => None,
        });
        observations.filter(|it| !seen.insert((it.device, &it.code, it.at, &it.period, &it.subject))).count()
    }

    fn judge(&mut self, entry: &Value) -> (String, Result<(Key, Content, u64), Fault>) {
        let url = entry.pointer("/request/url").and_then(Value::as_str).unwrap_or_default().to_owned();
        let judged = self.read(entry, &url);
        (url, judged)
    }

    fn read(&mut self, entry: &Value, url: &str) -> Result<(Key, Content, u64), Fault> {
        if entry.pointer("/request/method").and_then(Value::as_str) != Some("PUT") {
            return Err(Fault::unsupported("only PUT is supported"));
        }
        let body = entry.get("resource").ok_or_else(|| Fault::required("the entry has no resource"))?;
        let key = resource::key(url, body)?;
        let content = resource::read(key.0, body, &mut self.words)?;
        if content.references().any(|reference| !self.resources.contains_key(&reference)) {
            return Err(Fault::not_found("it refers to a resource that is not here"));
        }
        Ok((key, content, digest(body)))
    }

    fn keep(&mut self, key: Key, content: Content, digest: u64) -> Taken {
        if let Some(held) = self.resources.get_mut(&key) {
            held.writes += 1;
            if held.digest == digest {
                self.counts.repeated += 1;
            } else {
                self.counts.changed += 1;
                held.versions += 1;
                (held.content, held.digest) = (content, digest);
            }
            return Taken::Updated;
        }
        self.counts.created += 1;
        self.resources.insert(key, Held { writes: 1, versions: 1, content, digest });
        Taken::Created
    }
}

/// Keeps each text once: a hundred thousand Observations share some fifty codes.
#[derive(Debug, Default)]
pub(super) struct Words(HashSet<Arc<str>>);

impl Words {
    pub(super) fn keep(&mut self, word: &str) -> Arc<str> {
        if let Some(known) = self.0.get(word) {
            return known.clone();
        }
        let word: Arc<str> = word.into();
        self.0.insert(word.clone());
        word
    }
}

/// Tells two contents of one resource apart; nobody has a reason to make them collide here.
fn digest(body: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.to_string().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DEVICE: &str = "00000000-0000-4000-8000-000000000001";

    fn put(kind: &str, id: &str, rest: Value) -> Value {
        let mut resource = rest;
        resource["resourceType"] = json!(kind);
        resource["id"] = json!(id);
        resource["meta"] = json!({"security": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}]});
        json!({"resource": resource, "request": {"method": "PUT", "url": format!("{kind}/{id}")}})
    }

    fn device() -> Value {
        put(
            "Device",
            DEVICE,
            json!({"modelNumber": "kpoll/toray_tr321", "type": {"coding": [{"system": "s", "code": "c"}]}}),
        )
    }

    fn observation(last: char, value: &str) -> Value {
        let number: Value = serde_json::from_str(value).unwrap();
        put(
            "Observation",
            &format!("00000000-0000-4000-8000-00000000010{last}"),
            json!({
                "status": "final",
                "code": {"coding": [{"system": "urn:iso:std:iso:11073:10101", "code": "158776"}]},
                "subject": {"reference": format!("Device/{DEVICE}")},
                "device": {"reference": format!("Device/{DEVICE}")},
                "effectiveDateTime": "2026-03-02T09:14:30.000+01:00",
                "valueQuantity": {"value": number, "code": "mm[Hg]", "system": "http://unitsofmeasure.org"},
            }),
        )
    }

    fn only(holdings: &mut Holdings, entry: Value) -> Result<Taken, Fault> {
        holdings.take(&[entry]).pop().unwrap().1
    }

    #[test]
    fn a_resource_written_again_stays_one_and_only_changes_make_versions() {
        let mut holdings = Holdings::default();
        assert_eq!(only(&mut holdings, device()), Ok(Taken::Created));
        assert_eq!(only(&mut holdings, observation('1', "12.10")), Ok(Taken::Created));
        assert_eq!(only(&mut holdings, observation('1', "12.10")), Ok(Taken::Updated));
        assert_eq!(only(&mut holdings, observation('1', "12.1")), Ok(Taken::Updated));
        assert_eq!(holdings.len(), 2);
        assert_eq!(holdings.counts(), Counts { batches: 4, created: 2, repeated: 1, changed: 1, refused: 0 });
        assert_eq!(holdings.duplicates(), 0);
    }

    #[test]
    fn the_same_reading_under_another_id_is_a_duplicate() {
        let mut holdings = Holdings::default();
        only(&mut holdings, device()).unwrap();
        only(&mut holdings, observation('1', "120")).unwrap();
        only(&mut holdings, observation('2', "120")).unwrap();
        assert_eq!(holdings.duplicates(), 1);
    }

    #[test]
    fn an_entry_that_refers_to_its_own_batch_or_to_nothing_is_refused_alone() {
        let mut holdings = Holdings::default();
        let taken = holdings.take(&[device(), observation('1', "120")]);
        assert_eq!(taken[0].1, Ok(Taken::Created));
        assert_eq!(taken[1].1.as_ref().unwrap_err().code, "not-found");
        assert_eq!(only(&mut holdings, observation('1', "120")), Ok(Taken::Created));
    }

    #[test]
    fn what_is_not_branded_as_a_test_is_refused() {
        let mut entry = device();
        entry["resource"]["meta"] = json!({});
        assert_eq!(only(&mut Holdings::default(), entry).unwrap_err().code, "security");
    }

    #[test]
    fn an_id_or_type_that_is_not_the_url_s_is_refused() {
        let mut holdings = Holdings::default();
        for (path, value) in [("id", "00000000-0000-4000-8000-000000000002"), ("resourceType", "Patient")] {
            let mut entry = device();
            entry["resource"][path] = json!(value);
            assert_eq!(only(&mut holdings, entry).unwrap_err().code, "invalid");
        }
        assert!(holdings.is_empty());
    }

    #[test]
    fn an_observation_without_what_r4_asks_for_is_refused() {
        let mut holdings = Holdings::default();
        only(&mut holdings, device()).unwrap();
        for field in ["status", "code", "subject", "effectiveDateTime", "valueQuantity"] {
            let mut entry = observation('1', "120");
            entry["resource"].as_object_mut().unwrap().remove(field);
            assert_eq!(only(&mut holdings, entry).unwrap_err().code, "required", "{field}");
        }
        let mut both = observation('1', "120");
        both["resource"]["dataAbsentReason"] = json!({"coding": [{"system": "s", "code": "error"}]});
        assert_eq!(only(&mut holdings, both).unwrap_err().code, "invariant");
    }
}
