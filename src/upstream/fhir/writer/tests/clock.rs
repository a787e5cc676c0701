//! Records of a clock that was not to be trusted, once their time was found.

use super::*;
use crate::model::time::TrueTime;
use crate::model::value::Doubts;
use crate::normalise::Origin;

/// A clock that is trusted by now and knows what time it was.
#[derive(Debug)]
struct Knowing(TrueTime);

impl Clock for Knowing {
    fn tick(&self) -> Tick {
        Fixed.tick()
    }
    fn now(&self) -> (Timestamp, ClockTrust) {
        Fixed.now()
    }
    fn true_time(&self, _: Tick) -> TrueTime {
        self.0
    }
}

/// What the receiver has of a reading of an untrusted clock.
async fn delivered_with(found: TrueTime) -> Value {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-1"));
    let mut writer =
        Writer::new(Site::default().encoder(), bindings, Arc::new(Knowing(found)), Server::default());
    let (at, clock) = (Timestamp::from_micros(60_000_000), ClockTrust::Untrusted);
    let value =
        crate::model::value::Value { doubts: Doubts::CLOCK_UNTRUSTED, ..number("venous_pressure", "142") };
    let origin = Origin { at, clock, ..origin() };
    let early = stored_at(1, origin, Some(TREATMENT), Body::Values(vec![value]));
    let delivery = writer.deliver(std::slice::from_ref(&early)).await;
    assert_eq!((verdicts(&delivery), delivery.setback), (BTreeMap::from([(1, DONE)]), None));
    let known = writer.post.stored.values().filter(|it| it["resourceType"] == "Observation");
    let [observation] = &known.cloned().collect::<Vec<Value>>()[..] else { panic!() };
    observation.clone()
}

fn doubts(observation: &Value) -> Vec<&str> {
    let codes = observation["interpretation"][0]["coding"].as_array().unwrap();
    codes.iter().map(|it| it["code"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_record_of_an_untrusted_clock_goes_out_with_the_time_that_was_found_for_it() {
    let it = delivered_with(TrueTime::At(NOON)).await;
    assert!(it["effectiveDateTime"].as_str().unwrap().starts_with("2026-"), "{it}");
    assert_eq!(doubts(&it), ["time-derived"]);
}

#[tokio::test]
async fn a_record_whose_time_nobody_knows_any_more_says_between_which_times_it_was() {
    let until = NOON.after(Duration::from_secs(3600));
    let it = delivered_with(TrueTime::Between { from: NOON, until }).await;
    assert_eq!(it["effectiveDateTime"], Value::Null);
    assert_ne!(it["effectivePeriod"]["start"], it["effectivePeriod"]["end"]);
    assert_eq!(doubts(&it), ["questionable", "clock-untrusted"]);
}

/// The ids under which a process writes these records, and the times it gives them.
async fn written(batch: &[Stored], clock: Arc<dyn Clock>) -> (BTreeSet<String>, BTreeSet<String>) {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-1"));
    let mut writer = Writer::new(Site::default().encoder(), bindings, clock, Server::default());
    let delivery = writer.deliver(batch).await;
    let is_taken = |verdict: &Verdict| matches!(verdict, Verdict::Delivered { .. });
    assert!(delivery.verdicts.iter().all(|(_, verdict)| is_taken(verdict)), "{delivery:?}");
    let times = writer
        .post
        .stored
        .values()
        .map(|it| format!("{} {}", it["effectiveDateTime"], it["effectivePeriod"]));
    (writer.post.stored.keys().cloned().collect(), times.collect())
}

/// A clock that was set by hours since.
#[derive(Debug)]
struct Stepped(i64, TrueTime);

impl Clock for Stepped {
    fn tick(&self) -> Tick {
        Tick::from_micros(7)
    }
    fn now(&self) -> (Timestamp, ClockTrust) {
        (NOON.shifted(self.0 * 3_600_000_000), ClockTrust::Trusted)
    }
    fn true_time(&self, _: Tick) -> TrueTime {
        self.1
    }
}

#[tokio::test]
async fn a_clock_step_and_a_restart_between_two_deliveries_change_no_id() {
    let (at, clock) = (Timestamp::from_micros(60_000_000), ClockTrust::Untrusted);
    let untimed = Origin { at, clock, ..origin() };
    let values = || Body::Values(vec![number("venous_pressure", "142"), number("arterial_pressure", "-80")]);
    let batch = [
        stored_at(1, untimed, Some(TREATMENT), values()),
        stored(2, Some(TREATMENT), values()),
        stored(3, Some(TREATMENT), Body::TreatmentStarted),
    ];
    let first = written(&batch, Arc::new(Stepped(0, TrueTime::At(NOON)))).await;
    let until = NOON.after(Duration::from_secs(60));
    for (hours, found) in [
        (0, TrueTime::At(NOON)),
        (-26, TrueTime::At(NOON.shifted(-93_600_000_000))),
        (9_000, TrueTime::At(until)),
        (3, TrueTime::Between { from: NOON, until }),
    ] {
        let again = written(&batch, Arc::new(Stepped(hours, found))).await;
        assert_eq!(again.0, first.0, "{hours} h, {found:?}");
        assert_eq!(again.1 == first.1, hours == 0, "the times did change: {:?}", again.1);
    }
}
