//! Days of one chair of which it is known who really was on the machine: no reading ends with somebody else.
//!
//! Taken for granted: between two patients' treatments lie fifteen minutes or more. A nurse names the right patient, or
//! mends it with a correction while that patient is the last who was treated. She reads what she is told: where the
//! treatment that she is told of is not her patient's, she gives it back with a correction and seats again; where she is told
//! that none runs although the patient before is still treated, she takes the seat back. A patient who
//! leaves while the seat still waits is unseated. Not promised, and left out below: a mistake of which a silence, a restart or an unseat has put a piece out of a correction's reach; a correction that
//! was wrong itself where it reached two pieces; a seat for the next treatment in the first two minutes of the one before
//! it, which takes the seat while the machine still shows the total of an earlier one.

use super::tests::{Settable, ehr, settings};
use super::*;
use crate::config::settings::Unseated;
use crate::control::Correct;
use crate::gateway::seating;
use crate::normalise::testing as machine;
use crate::privacy::keyring::Keyring;
use crate::privacy::record::Body;
use crate::privacy::seats::{SeatError, SeatOutcome, Seated};
use crate::spool::memory::MemorySpool;
use crate::spool::{BatchLimit, Lane, StoreId, handle};
use crate::upstream::Identities;
use chairside_drivers::kit::sensitive::Sensitive;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

const MINUTE: u64 = 60;
const KEEP: Duration = Duration::from_secs(3 * 24 * 3600);
/// From the patient who comes in to the treatment that begins, and from its end to the patient who leaves.
const AROUND: u64 = 5 * MINUTE;

/// One patient's treatment as it is planned.
#[derive(Clone, Debug)]
struct Plan {
    patient: u8,
    /// Minutes since the treatment before ended.
    turnover: u64,
    minutes: u64,
    /// How many seconds after its start the machine clears the total of the one before.
    clears: u64,
    /// When the patient is seated, in minutes from the start of the treatment.
    seated: Option<i64>,
    /// Somebody else's number is typed, and mended so many minutes later.
    mistake: Option<(u8, u64)>,
}

#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// The machine does not answer for so many minutes.
    Silent(u64),
    /// The gateway is down for so many minutes, after an orderly stop or a crash.
    Down(u64, bool),
    /// The wall clock is set by so many minutes.
    Set(i64),
    /// Nobody is known to sit there.
    Unseat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Seat(u8),
    Correct(u8),
    Unseat,
}

/// A treatment as it was, in seconds of the day.
#[derive(Clone, Copy, Debug)]
struct Course {
    patient: u8,
    start: u64,
    end: u64,
    clears: u64,
}

impl Course {
    const fn comes(self) -> u64 {
        self.start - AROUND
    }

    const fn leaves(self) -> u64 {
        self.end + AROUND
    }
}

/// What a nurse means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meant {
    Next,
    Now,
    Last,
}

/// What a nurse still has to do.
#[derive(Clone, Copy, Debug)]
enum Due {
    Seat { course: usize, typed: u8 },
    Mend { course: usize },
    Leave { course: usize },
    Unseat,
}

/// One chair's day.
struct Day {
    has_flag: bool,
    courses: Vec<Course>,
    second: u64,
    clock: Arc<Settable>,
    keyring: Arc<Keyring>,
    spool: SpoolHandle,
    machine: machine::Chair,
    gateway: Option<Sealing>,
    silent_until: u64,
    /// Whose course it really was when the gateway first knew of a treatment.
    begun: BTreeMap<TreatmentId, usize>,
    due: Vec<Due>,
    /// For whose course the last word was.
    last_word: Option<usize>,
    /// Mistakes that nobody has mended yet.
    mistaken: Vec<usize>,
    /// Whether a wrong correction reached two pieces, of which the next one reaches the last.
    is_beyond_mending: bool,
    /// Seats for the next treatment that nothing came between, and when they were told.
    promised: BTreeMap<usize, (u64, u8)>,
    story: Vec<String>,
}

impl Day {
    fn new(has_flag: bool, plans: &[Plan]) -> Self {
        let mut end = MINUTE;
        let courses = plans
            .iter()
            .map(|plan| {
                let start = end + plan.turnover * MINUTE;
                end = start + plan.minutes * MINUTE;
                Course { patient: plan.patient, start, end, clears: plan.clears }
            })
            .collect();
        let clock = Arc::new(Settable {
            tick: AtomicU64::new(0),
            ahead: AtomicI64::new(0),
            trusted: AtomicBool::new(true),
        });
        let keyring = Arc::new(Keyring::in_memory().unwrap());
        keyring.ensure_recipients([&ehr()]).unwrap();
        let (spool, _thread) = handle::start(MemorySpool::new(StoreId([7; 16]), &[ehr()])).unwrap();
        Self {
            has_flag,
            courses,
            second: 0,
            clock,
            keyring,
            spool,
            machine: if has_flag { machine::Chair::nikkiso() } else { machine::Chair::toray() },
            gateway: None,
            silent_until: 0,
            begun: BTreeMap::new(),
            due: Vec::new(),
            last_word: None,
            mistaken: Vec::new(),
            is_beyond_mending: false,
            promised: BTreeMap::new(),
            story: Vec::new(),
        }
    }

    async fn start_gateway(&mut self) {
        let shared = Arc::new(Shared {
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            seats: Arc::new(Seats::new(Arc::clone(&self.keyring), Unseated::Hold)),
            border: Pseudonymiser::new(Arc::clone(&self.keyring)),
            spool: self.spool.clone(),
            spool_home: "/nowhere".into(),
            board: Arc::default(),
            left: BTreeMap::new(),
            last_alive: None,
            steps: Steps::default(),
            simulated: false,
        });
        let settings = if self.has_flag {
            settings("chair-1")
        } else {
            ChairSettings {
                model: Arc::from(machine::model("kpoll/toray_tr8000")),
                map: Arc::new(machine::toray_map()),
                ..settings("chair-1")
            }
        };
        let mut sealing = Sealing::new(shared, settings, Pulse::default());
        sealing.take_up().await.unwrap();
        self.gateway = Some(sealing);
    }

    /// The course that runs now, or the last one that did.
    fn course(&self) -> Option<usize> {
        self.courses.iter().rposition(|course| course.start <= self.second)
    }

    fn meant(&self, course: usize) -> Option<Meant> {
        let Course { start, .. } = self.courses[course];
        let follower = self.courses.get(course + 1).map_or(u64::MAX, |next| next.comes());
        match self.second {
            second if second < start => (self.course() == course.checked_sub(1)).then_some(Meant::Next),
            second if second < self.courses[course].leaves() => Some(Meant::Now),
            second if second < follower => Some(Meant::Last),
            _ => None,
        }
    }

    /// Whether a treatment has begun that the machine does not show yet: a seat for the one after it goes to this one.
    fn still_shows_the_total_before(&self) -> bool {
        let course = self.course().map(|index| self.courses[index]);
        course.is_some_and(|course| self.second < course.start + course.clears + MINUTE)
    }

    /// What the machine shows now.
    fn show(&mut self) {
        let Some(index) = self.course() else {
            let off = if self.has_flag { "M" } else { "D" };
            return self.machine.show_all(&[(off, "0"), ("D", "0"), ("K", "0")]);
        };
        let Course { start, end, clears, .. } = self.courses[index];
        let is_on = self.second < end;
        let total = |index: usize, second: u64| {
            let Course { start, end, .. } = self.courses[index];
            (second.min(end) - start) / MINUTE
        };
        let shown = if self.second < start + clears {
            index.checked_sub(1).map_or(0, |before| total(before, u64::MAX))
        } else {
            total(index, self.second)
        };
        self.machine.show("K", &shown.to_string());
        self.machine.show("D", if is_on { "200" } else { "0" });
        if self.has_flag {
            self.machine.show("M", if is_on { "1" } else { "0" });
        }
    }

    async fn poll(&mut self) {
        if self.second < self.silent_until || self.gateway.is_none() {
            return;
        }
        self.show();
        self.machine.now = self.clock.tick();
        self.machine.slot += 1;
        let (slot, samples) = (Slot(self.machine.slot), self.machine.samples());
        let Some(gateway) = &mut self.gateway else { return };
        let (moment, chair) = (gateway.moment(), gateway.chair.name.clone());
        gateway
            .hear(ChairEvent { chair, event: LineEvent::Answered { slot, samples }, moment })
            .await
            .unwrap();
        gateway.write().await.unwrap();
        self.learn();
    }

    fn learn(&mut self) {
        let Some(gateway) = &self.gateway else { return };
        let running = gateway.shared.seats.running(&gateway.chair.name).map(|running| running.id);
        if let (Some(id), Some(course)) = (running, self.course()) {
            self.begun.entry(id).or_insert(course);
        }
    }

    async fn say(&mut self, said: Said) -> Result<Seated, SeatError> {
        let act = match said {
            Said::Unseat => seating::Act::Unseat,
            Said::Seat(patient) | Said::Correct(patient) => seating::Act::Seat {
                record_number: Sensitive::new(format!("record {patient}")),
                correct: if matches!(said, Said::Seat(_)) { Correct::No } else { Correct::Yes },
                keep_delivered: KEEP,
            },
        };
        let gateway = self.gateway.as_mut().unwrap();
        let (answer, answered) = oneshot::channel();
        gateway.seat(SeatRequest { act, claim: seating::Claim::default(), answer }).await.unwrap();
        gateway.write().await.unwrap();
        let told = answered.await.unwrap();
        self.learn();
        self.story.push(format!("{}: {said:?} -> {told:?}", self.second / MINUTE));
        self.promised.clear();
        told
    }

    /// A nurse seats, or corrects, and goes on until what she is told is right. False where she has to come again.
    async fn seat(&mut self, course: usize, mut said: Said) -> bool {
        let (Said::Seat(typed) | Said::Correct(typed)) = said else { return true };
        for _ in 0..4 {
            let Some(meant) = self.meant(course) else { return true };
            self.last_word = Some(course);
            let seated = match self.say(said).await {
                Ok(seated) => seated,
                Err(SeatError::Unsettled(_)) => return false,
                Err(_) => return true,
            };
            let wrong = seated.rebound().find_map(|rebound| {
                let whose = *self.begun.get(&rebound.treatment)?;
                (whose != course).then_some(whose)
            });
            if let Some(whose) = wrong {
                self.is_beyond_mending |= seated.also.is_some();
                let whose = self.courses[whose].patient;
                let _ = self.say(Said::Correct(whose)).await;
                said = Said::Seat(typed);
                continue;
            }
            match (seated.outcome, meant) {
                (SeatOutcome::Waiting { .. }, Meant::Last) => {
                    let _ = self.say(Said::Unseat).await;
                }
                // Told that none runs although somebody is on the machine: its treatment would take the seat.
                (SeatOutcome::Waiting { .. }, Meant::Next)
                    if self.course().is_some_and(|before| self.second < self.courses[before].end) =>
                {
                    let _ = self.say(Said::Unseat).await;
                }
                // What nobody can see begin is promised to nobody.
                (SeatOutcome::Waiting { .. } | SeatOutcome::Changed { until: Some(_) }, Meant::Next)
                    if self.second >= self.silent_until && !self.still_shows_the_total_before() =>
                {
                    self.promised.insert(course, (self.second, typed));
                }
                (SeatOutcome::Changed { .. }, Meant::Now | Meant::Last) => {
                    said = Said::Correct(typed);
                    continue;
                }
                _ => {}
            }
            return true;
        }
        true
    }

    async fn nurse(&mut self) {
        for due in std::mem::take(&mut self.due) {
            let done = match due {
                _ if self.gateway.is_none() => false,
                Due::Seat { course, typed } => {
                    let is_mistake = typed != self.courses[course].patient;
                    if is_mistake && self.meant(course).is_some() {
                        self.mistaken.push(course);
                    }
                    self.seat(course, Said::Seat(typed)).await
                }
                Due::Mend { course } => {
                    let patient = self.courses[course].patient;
                    let said = match self.meant(course) {
                        Some(Meant::Next) | None => Said::Seat(patient),
                        Some(Meant::Now | Meant::Last) => Said::Correct(patient),
                    };
                    let is_possible = self.meant(course).is_some();
                    let done = self.seat(course, said).await;
                    let is_elsewhere = self.begun.iter().any(|(treatment, begun)| {
                        *begun == course && self.whose(*treatment).is_some_and(|whose| whose != patient)
                    });
                    if done && is_possible && !is_elsewhere {
                        self.mistaken.retain(|mistaken| *mistaken != course);
                    }
                    done
                }
                Due::Leave { course } => {
                    let gateway = self.gateway.as_ref().unwrap();
                    let at = gateway.moment().at;
                    let waits = gateway.shared.seats.waiting(&gateway.chair.name, at).is_some();
                    if waits && self.last_word.is_some_and(|word| word <= course) {
                        let _ = self.say(Said::Unseat).await;
                    }
                    true
                }
                Due::Unseat => {
                    let _ = self.say(Said::Unseat).await;
                    true
                }
            };
            if !done {
                self.due.push(due);
            }
        }
    }

    /// Lets the day go by, with what is planned for it.
    async fn go_by(&mut self, plans: &[Plan], troubles: &[(u64, Trouble)]) {
        let mut events: Vec<(u64, Due)> = Vec::new();
        for (course, plan) in plans.iter().enumerate() {
            let Course { patient, start, .. } = self.courses[course];
            events.push((self.courses[course].leaves(), Due::Leave { course }));
            let Some(when) = plan.seated else { continue };
            let when = start.saturating_add_signed(when * 60);
            events
                .push((when, Due::Seat { course, typed: plan.mistake.map_or(patient, |(typed, _)| typed) }));
            if let Some((_, mended)) = plan.mistake {
                events.push((when + mended * MINUTE, Due::Mend { course }));
            }
        }
        let last = self.courses.last().unwrap().end + 30 * MINUTE;
        let mut times: Vec<u64> = events.iter().map(|(second, _)| *second).collect();
        times.extend(
            self.courses.iter().flat_map(|course| [course.start, course.start + course.clears, course.end]),
        );
        times.extend(troubles.iter().map(|(minute, _)| minute * MINUTE));
        let mut up_at = None;
        self.start_gateway().await;
        while self.second <= last {
            let second = self.second;
            for (_, trouble) in troubles.iter().filter(|(minute, _)| minute * MINUTE == second) {
                self.story.push(format!("{}: {trouble:?}", second / MINUTE));
                self.promised.clear();
                match trouble {
                    Trouble::Silent(minutes) => self.silent_until = second + minutes * MINUTE,
                    Trouble::Set(minutes) => {
                        self.clock.ahead.fetch_add(minutes * 60_000_000, Ordering::Relaxed);
                    }
                    Trouble::Down(minutes, is_orderly) => {
                        if let Some(gateway) = self.gateway.take().filter(|_| *is_orderly) {
                            gateway.shared.seats.close().unwrap();
                        }
                        up_at = Some(second + minutes * MINUTE);
                        times.extend(up_at);
                    }
                    Trouble::Unseat => self.due.push(Due::Unseat),
                }
            }
            if up_at.is_some_and(|at| at <= second) {
                up_at = None;
                self.start_gateway().await;
            }
            self.due.extend(events.iter().filter(|(at, _)| *at == second).map(|(_, due)| *due));
            self.poll().await;
            self.nurse().await;
            self.keep_promises();
            // Polls are close where something happens; in between the machine is asked now and then.
            let is_near = times.iter().any(|at| *at <= second + MINUTE && second < *at + 6 * MINUTE);
            let next = times.iter().filter(|at| **at > second).min().copied().unwrap_or(u64::MAX);
            let stride = if is_near { 30 } else { 5 * MINUTE };
            self.second = (second + stride).min(next);
            self.clock.tick.store(self.second * 1_000_000, Ordering::Relaxed);
        }
    }

    /// Who was told to be seated for the next treatment has it, a few minutes into it.
    fn keep_promises(&mut self) {
        for (course, (told, patient)) in self.promised.clone() {
            let Course { start, end, .. } = self.courses[course];
            let is_begun = self.second >= start + 5 * MINUTE && self.second < end;
            if !is_begun {
                continue;
            }
            self.promised.remove(&course);
            let gateway = self.gateway.as_ref().unwrap();
            let running = gateway.shared.seats.running(&gateway.chair.name);
            let whose = running.and_then(|running| self.whose(running.id));
            if self.second - told < 115 * MINUTE {
                assert_eq!(whose, Some(patient), "promised to course {course}: {:#?}", self.story);
            }
        }
    }

    fn whose(&self, treatment: TreatmentId) -> Option<u8> {
        let border = Pseudonymiser::new(Arc::clone(&self.keyring));
        let told = border.subject(&ehr(), treatment, border.revision(treatment)?)?;
        (0..PATIENTS).find(|patient| {
            let number = Sensitive::new(format!("record {patient}"));
            border.name_of(&ehr(), &number).is_some_and(|name| name == told)
        })
    }

    /// Every reading with a patient was taken while that patient was there.
    async fn check(&self) {
        let all = BatchLimit { records: 100_000 };
        let tick = Tick::from_micros(u64::MAX);
        let records = self.spool.lease(&ehr(), all, Lane::Backlog, tick).await.unwrap();
        let mut known: BTreeMap<TreatmentId, Option<u8>> = BTreeMap::new();
        for stored in records {
            let (Body::Values(_), Some(treatment)) = (stored.record.body(), stored.record.treatment()) else {
                continue;
            };
            let Some(whose) = *known.entry(treatment).or_insert_with(|| self.whose(treatment)) else {
                continue;
            };
            let second = stored.record.origin().tick.as_micros() / 1_000_000;
            let here = self
                .courses
                .iter()
                .any(|course| (course.comes()..course.leaves()).contains(&second) && course.patient == whose);
            assert!(
                here,
                "a reading of minute {} is patient {whose}'s: {:#?} {:#?}",
                second / MINUTE,
                self.courses,
                self.story
            );
        }
    }
}

const PATIENTS: u8 = 4;

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let turnover = prop_oneof![3 => 15_u64..30, 1 => 30_u64..150];
    let minutes = prop_oneof![2 => 2_u64..30, 3 => 30_u64..280];
    let clears = prop_oneof![3 => Just(0_u64), 1 => prop::sample::select(vec![30_u64, 60, 120])];
    let seated = prop_oneof![2 => -40_i64..0, 2 => 0_i64..20, 1 => -120_i64..300];
    let mistake = prop_oneof![4 => Just(None), 1 => (0..PATIENTS, 1_u64..40).prop_map(Some)];
    let plan = (0..PATIENTS, turnover, minutes, clears, prop::option::weighted(0.8, seated), mistake)
        .prop_map(|(patient, turnover, minutes, clears, seated, mistake)| Plan {
            patient,
            turnover,
            minutes,
            clears,
            seated,
            mistake: mistake.filter(|(typed, _)| *typed != patient),
        });
    prop::collection::vec(plan, 1..5)
}

fn troubles() -> impl Strategy<Value = Vec<(u64, Trouble)>> {
    let trouble = prop_oneof![
        3 => (1_u64..60).prop_map(Trouble::Silent),
        1 => (60_u64..300).prop_map(Trouble::Silent),
        3 => (1_u64..60, any::<bool>()).prop_map(|(minutes, orderly)| Trouble::Down(minutes, orderly)),
        1 => (60_u64..300, any::<bool>()).prop_map(|(minutes, orderly)| Trouble::Down(minutes, orderly)),
        3 => (-300_i64..300).prop_map(Trouble::Set),
        1 => Just(Trouble::Unseat),
    ];
    prop::collection::vec((1_u64..700, trouble), 0..6)
}

fn days() -> u32 {
    std::env::var("CHAIRSIDE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(1_000)
}

proptest! {
    // The same days each time; more of them by `CHAIRSIDE_SEEDS`.
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(days()) })]

    #[test]
    fn no_reading_ends_with_a_patient_who_was_not_there(
        has_flag in any::<bool>(), plans in plans(), troubles in troubles(),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut day = Day::new(has_flag, &plans);
            day.go_by(&plans, &troubles).await;
            // A mistake that could not be mended in time is the nurse's to mend by hand.
            if day.mistaken.is_empty() && !day.is_beyond_mending {
                day.check().await;
            }
        });
    }
}
