//! A receiver that keeps no resource, only marks: which reading of which machine came, once, again or under a second id.
//!
//! Three days of a ward are tens of millions of resources. A mark is two bytes, so that all of them can be held against
//! what was played.

use crate::clock::Clock;
use crate::model::time::Timestamp;
use crate::sim::pki::Files;
use crate::sim::receiver::{Door, LARGEST_BODY, ReceiverError, fhir, metadata, outcome};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use uuid::Uuid;

/// A receiver that counts; it stops when this is dropped.
#[derive(Debug)]
pub struct Counter {
    door: Door,
    tally: Arc<Mutex<Tally>>,
}

impl Counter {
    /// Starts a receiver on a free port. It shows `own` and takes clients whose certificate comes from `ca`.
    ///
    /// # Errors
    /// [`ReceiverError`]
    pub async fn start(
        own: &Files,
        ca: &Path,
        tally: Tally,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ReceiverError> {
        let tally = Arc::new(Mutex::new(tally));
        let service = axum::Router::new()
            .route("/fhir", post(batch))
            .route("/fhir/metadata", get(metadata))
            .layer(DefaultBodyLimit::max(LARGEST_BODY))
            .with_state((Arc::clone(&tally), clock));
        Ok(Self { door: Door::open(own, ca, service).await?, tally })
    }

    /// The base URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.door.url()
    }

    /// What it counted, to be looked at for a moment: nothing is taken meanwhile.
    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }
}

/// Readings that were played, or that came: how many, and a sum over their times that tells most mistakes which leave the
/// count alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readings {
    /// How many.
    pub count: u64,
    sum: u64,
}

impl Readings {
    /// One more, of this time.
    pub fn add(&mut self, at: Timestamp) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(mixed(at.as_micros() / 1000));
    }

    /// Those of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self { count: self.count + other.count, sum: self.sum.wrapping_add(other.sum) }
    }
}

/// What a counting receiver has seen.
#[derive(Debug)]
pub struct Tally {
    /// No reading is older.
    epoch: Timestamp,
    /// Two readings of one parameter of one machine are never closer than this.
    width: Duration,
    /// Readings from then on are live, and their age is told.
    live_from: Timestamp,
    younger: Duration,
    worst: Duration,
    rows: HashMap<(Uuid, String), Vec<u16>>,
    /// Resources that are no single reading.
    others: HashSet<Uuid>,
    backlog: Readings,
    live: Readings,
    ages: Vec<u32>,
    counts: Counts,
}

/// What a counting receiver has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Batches that were answered.
    pub batches: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Entries taken.
    pub entries: u64,
    /// Resources, each counted once.
    pub resources: u64,
    /// Entries that wrote a resource again.
    pub repeated: u64,
    /// Readings that came under a second id.
    pub doubled: u64,
    /// Readings from before the first one that was played, or without a usable time.
    pub strange: u64,
}

impl Tally {
    /// Counts readings from `epoch` on; `closest` is the shortest interval at which any machine is asked.
    #[must_use]
    pub fn new(epoch: Timestamp, closest: Duration, live_from: Timestamp) -> Self {
        Self {
            // Times on the wire have milliseconds, so that the first reading may seem to come before it was made.
            epoch: Timestamp::from_micros(epoch.as_micros().saturating_sub(1_000)),
            // Half, because a poll may be a little early.
            width: (closest / 2).max(Duration::from_millis(1)),
            live_from,
            younger: Duration::ZERO,
            worst: Duration::ZERO,
            rows: HashMap::new(),
            others: HashSet::new(),
            backlog: Readings::default(),
            live: Readings::default(),
            ages: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// What was counted.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Distinct readings from before the live ones.
    #[must_use]
    pub const fn backlog(&self) -> Readings {
        self.backlog
    }

    /// Distinct live readings.
    #[must_use]
    pub const fn live(&self) -> Readings {
        self.live
    }

    /// Readings from `from` on are live. Those before are this much younger than they seem: their ward stood still
    /// while it was prepared.
    pub const fn begin_live(&mut self, from: Timestamp, younger: Duration) {
        self.live_from = from;
        self.younger = younger;
    }

    /// The age of the oldest reading when it came.
    #[must_use]
    pub const fn worst_age(&self) -> Duration {
        self.worst
    }

    /// The age in milliseconds that this share of the live readings did not exceed when they came.
    #[must_use]
    pub fn live_age(&self, per_cent: usize) -> Option<u32> {
        let mut ages = self.ages.clone();
        ages.sort_unstable();
        let place = (ages.len() * per_cent / 100).min(ages.len().checked_sub(1)?);
        ages.get(place).copied()
    }

    fn take(&mut self, entry: &Entry<'_>, now: Timestamp) -> bool {
        let Some(id) = entry.request.url.rsplit_once('/').and_then(|(_, id)| Uuid::parse_str(id).ok()) else {
            return false;
        };
        self.counts.entries += 1;
        match entry.resource.reading() {
            Some((device, code, at)) => self.mark(id, device, code, at, now),
            None if self.others.insert(id) => self.counts.resources += 1,
            None => self.counts.repeated += 1,
        }
        true
    }

    fn mark(&mut self, id: Uuid, device: Uuid, code: &str, at: Timestamp, now: Timestamp) {
        let place = at.as_micros().checked_sub(self.epoch.as_micros()).filter(|since| *since >= 0);
        let place = place.and_then(|since| {
            usize::try_from(u128::try_from(since).ok()?.checked_div(self.width.as_micros())?).ok()
        });
        // A year of polls; beyond it, the time is wrong.
        let Some(place) = place.filter(|place| *place < 100_000_000) else {
            self.counts.strange += 1;
            return;
        };
        let row = self.rows.entry((device, code.to_owned())).or_default();
        if row.len() <= place {
            row.resize(place + 1, 0);
        }
        let Some(mark) = row.get_mut(place) else { return };
        let new = fingerprint(id);
        match *mark {
            0 => {
                *mark = new;
                self.counts.resources += 1;
                if at < self.live_from {
                    self.backlog.add(at);
                    self.worst = self.worst.max(now.since(at).saturating_sub(self.younger));
                } else {
                    self.live.add(at);
                    let age = now.since(at).as_millis();
                    self.ages.push(u32::try_from(age).unwrap_or(u32::MAX));
                }
            }
            known if known == new => self.counts.repeated += 1,
            _ => self.counts.doubled += 1,
        }
    }
}

/// Sixteen bits of an id, never zero: another id has the same once in 65,535.
fn fingerprint(id: Uuid) -> u16 {
    (mixed(id.as_u64_pair().1 as i64) as u16).max(1)
}

/// Spreads the bits of a number over the whole word.
const fn mixed(number: i64) -> u64 {
    let number = (number as u64).wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

#[derive(Deserialize)]
struct Bundle<'a> {
    #[serde(borrow, default)]
    entry: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    resource: Resource<'a>,
    #[serde(borrow)]
    request: Request<'a>,
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    url: Cow<'a, str>,
}

/// As much of a resource as tells one reading from another.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource<'a> {
    #[serde(borrow, default)]
    effective_date_time: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    device: Option<Reference<'a>>,
    #[serde(borrow, default)]
    code: Option<Concept<'a>>,
    #[serde(default)]
    value_quantity: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Reference<'a> {
    #[serde(borrow, default)]
    reference: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Concept<'a> {
    #[serde(borrow, default)]
    coding: Vec<Coding<'a>>,
}

#[derive(Deserialize)]
struct Coding<'a> {
    #[serde(borrow, default)]
    code: Cow<'a, str>,
}

impl Resource<'_> {
    /// The machine's part, what it measures, and when, where this is a number that was read.
    fn reading(&self) -> Option<(Uuid, &str, Timestamp)> {
        self.value_quantity?;
        let (_, device) = self.device.as_ref()?.reference.rsplit_once('/')?;
        let code = &self.code.as_ref()?.coding.first()?.code;
        let at: jiff::Timestamp = self.effective_date_time.as_ref()?.parse().ok()?;
        Some((Uuid::parse_str(device).ok()?, code, Timestamp::from_micros(at.as_microsecond())))
    }
}

type Shared = (Arc<Mutex<Tally>>, Arc<dyn Clock>);

async fn batch(State((tally, clock)): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    if headers.contains_key(header::CONTENT_ENCODING) {
        return fhir(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            &outcome("not-supported", "bodies are taken as they are"),
        );
    }
    let Ok(bundle) = serde_json::from_slice::<Bundle<'_>>(&body) else {
        return fhir(StatusCode::BAD_REQUEST, &outcome("structure", "this is no Bundle of PUT entries"));
    };
    let (now, _) = clock.now();
    let mut tally = lock(&tally);
    tally.counts.batches += 1;
    tally.counts.bytes += body.len() as u64;
    let mut answer = String::from(r#"{"resourceType":"Bundle","type":"batch-response","entry":["#);
    for (number, entry) in bundle.entry.iter().enumerate() {
        let comma = if number > 0 { "," } else { "" };
        let status = if tally.take(entry, now) { "200 OK" } else { "400 Bad Request" };
        // Writing to a string cannot go wrong.
        let _ = write!(answer, r#"{comma}{{"response":{{"status":"{status}"}}}}"#);
    }
    answer.push_str("]}");
    drop(tally);
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/fhir+json")], answer).into_response()
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    fn tally() -> Tally {
        Tally::new(DAY, Duration::from_secs(10), DAY.after(Duration::from_secs(100)))
    }

    fn put(tally: &mut Tally, id: u128, seconds: u64, value: &str) {
        let at = crate::clock::stamp(DAY.after(Duration::from_secs(seconds)));
        let device = Uuid::from_u128(9);
        let id = Uuid::from_u128(id << 64 | id);
        let text = format!(
            r#"{{"resource":{{"resourceType":"Observation","id":"{id}","code":{{"coding":[{{"system":"s","code":"c"}}]}},
            "effectiveDateTime":"{at}","device":{{"reference":"DeviceMetric/{device}"}}{value}}},
            "request":{{"method":"PUT","url":"Observation/{id}"}}}}"#
        );
        let entry: Entry<'_> = serde_json::from_str(&text).unwrap();
        assert!(tally.take(&entry, DAY.after(Duration::from_secs(103))));
    }

    const NUMBER: &str = r#","valueQuantity":{"value":142,"unit":"mm[Hg]"}"#;

    #[test]
    fn a_reading_that_comes_again_is_repeated_and_one_under_a_second_id_is_doubled() {
        let mut tally = tally();
        put(&mut tally, 1, 10, NUMBER);
        put(&mut tally, 1, 10, NUMBER);
        put(&mut tally, 2, 10, NUMBER);
        put(&mut tally, 3, 20, NUMBER);
        // The very first instant, cut to milliseconds.
        let instant = Timestamp::from_micros(DAY.as_micros() + 999);
        let mut first = Tally::new(instant, Duration::from_secs(10), instant.after(Duration::from_secs(100)));
        put(&mut first, 1, 0, NUMBER);
        assert_eq!((first.counts().strange, first.counts().resources), (0, 1));
        let Counts { entries, resources, repeated, doubled, .. } = tally.counts();
        assert_eq!((entries, resources, repeated, doubled), (4, 2, 1, 1));
        let mut played = Readings::default();
        [10, 20].iter().for_each(|seconds| played.add(DAY.after(Duration::from_secs(*seconds))));
        assert_eq!(tally.backlog(), played);
    }

    #[test]
    fn one_missing_and_one_invented_do_not_make_up_for_each_other() {
        let mut tally = tally();
        put(&mut tally, 1, 10, NUMBER);
        put(&mut tally, 3, 30, NUMBER);
        let mut played = Readings::default();
        [10, 20].iter().for_each(|seconds| played.add(DAY.after(Duration::from_secs(*seconds))));
        assert_eq!(tally.backlog().count, played.count);
        assert_ne!(tally.backlog(), played);
    }

    #[test]
    fn live_readings_tell_their_age_and_what_is_no_number_is_counted_by_its_id() {
        let mut tally = tally();
        put(&mut tally, 1, 100, NUMBER);
        put(&mut tally, 2, 101, r#","valueCodeableConcept":{}"#);
        put(&mut tally, 2, 101, r#","valueCodeableConcept":{}"#);
        assert_eq!((tally.live().count, tally.live_age(95)), (1, Some(3000)));
        assert_eq!((tally.counts().resources, tally.counts().repeated), (2, 1));
    }
}
