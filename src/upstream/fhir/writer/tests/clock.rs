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
