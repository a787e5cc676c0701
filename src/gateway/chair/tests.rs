//! One chair's sealing, driven by hand: its clock is set, its alarms are on when it is cut off.

use super::*;
use crate::audit::{Audit, Caller};
use crate::config::settings::Unseated;
use crate::control::server::Desk;
use crate::control::{Answer, Correct, RefusalCode, Request};
use crate::gateway::desk::FrontDesk;
use crate::gateway::seating::{self, Claim};
use crate::model::alarm::Alarm;
use crate::model::name::{MachineName, UpstreamName};
use crate::model::parameter::Parameter;
use crate::model::value::{Doubts, Mark, Reading, Value};
use crate::normalise::testing as machine;
use crate::privacy::keyring::Keyring;
use crate::privacy::record::Body;
use crate::privacy::seats::{SeatError, SeatOutcome, Seated};
use crate::spool::memory::MemorySpool;
use crate::spool::slots::Missing;
use crate::spool::{BatchLimit, Lane, Retention, StoreId, Stored, Verdict, handle};
use chairside_drivers::kit::sensitive::Sensitive;
use jiff::tz::TimeZone;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

pub(super) const NOON: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);
const HOUR: i64 = 3_600_000_000;

/// A clock that anybody may set.
#[derive(Debug)]
pub(super) struct Settable {
    pub(super) tick: AtomicU64,
    pub(super) ahead: AtomicI64,
    pub(super) trusted: AtomicBool,
}

impl Clock for Settable {
    fn tick(&self) -> Tick {
        Tick::from_micros(self.tick.load(Ordering::Relaxed))
    }

    fn now(&self) -> (Timestamp, ClockTrust) {
        let at = NOON.after(self.tick().since(Tick::ZERO)).shifted(self.ahead.load(Ordering::Relaxed));
        let trusted = self.trusted.load(Ordering::Relaxed);
        (at, if trusted { ClockTrust::Trusted } else { ClockTrust::Untrusted })
    }
}

pub(in crate::gateway) struct House {
    pub(super) clock: Arc<Settable>,
    pub(in crate::gateway) shared: Arc<Shared>,
    keyring: Arc<Keyring>,
}

/// A chair with its machine.
pub(in crate::gateway) struct Place {
    pub(in crate::gateway) sealing: Sealing,
    pub(super) machine: machine::Chair,
}

pub(super) fn ehr() -> UpstreamName {
    UpstreamName::new("ehr").unwrap()
}

pub(super) fn settings(name: &str) -> ChairSettings {
    ChairSettings {
        name: ChairName::new(name).unwrap(),
        machine: MachineName::new("asset-14").unwrap(),
        port: "/nowhere".into(),
        every: Duration::from_secs(10),
        model: Arc::from(machine::model("kpoll/nikkiso_dbb27c")),
        map: Arc::new(machine::nikkiso_map()),
    }
}

impl House {
    pub(in crate::gateway) fn open() -> Self {
        Self::with_volumes_of(MemorySpool::VOLUME_RECORDS)
    }

    fn with_volumes_of(records: u64) -> Self {
        Self::with(Keyring::in_memory().unwrap(), Path::new("/nowhere"), records)
    }

    /// A house with these keys, and the folder in which its spool has space in reserve.
    pub(super) fn with_keyring(keyring: Keyring, spool_home: &Path) -> Self {
        Self::with(keyring, spool_home, MemorySpool::VOLUME_RECORDS)
    }

    fn with(keyring: Keyring, spool_home: &Path, records: u64) -> Self {
        let clock = Arc::new(Settable {
            tick: AtomicU64::new(1_000_000),
            ahead: AtomicI64::new(0),
            trusted: AtomicBool::new(true),
        });
        let keyring = Arc::new(keyring);
        keyring.ensure_recipients([&ehr()]).unwrap();
        let (spool, _thread) =
            handle::start(MemorySpool::with_volumes_of(records, StoreId([7; 16]), &[ehr()])).unwrap();
        // A run before left this of a clock that nobody had set.
        let every = settings("chair-1").every;
        let through = Some(Timestamp::from_micros(0));
        let left = Left { through, every, holes: Vec::new(), cut_off: true };
        let shared = Arc::new(Shared {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            seats: Arc::new(Seats::new(Arc::clone(&keyring), Unseated::Hold)),
            border: Pseudonymiser::new(Arc::clone(&keyring)),
            spool,
            spool_home: spool_home.into(),
            board: Arc::default(),
            left: [(ChairName::new("chair-1").unwrap(), left)].into(),
            last_alive: None,
            steps: Steps::default(),
            simulated: false,
        });
        Self { clock, shared, keyring }
    }

    /// The gateway is started again: what need not survive is gone.
    pub(super) fn restart(&mut self) {
        let Shared { clock, border, spool, spool_home, board, last_alive, simulated, .. } = &*self.shared;
        let shared = Shared {
            clock: Arc::clone(clock),
            seats: Arc::new(Seats::new(Arc::clone(&self.keyring), Unseated::Hold)),
            border: border.clone(),
            spool: spool.clone(),
            spool_home: spool_home.clone(),
            board: Arc::clone(board),
            left: BTreeMap::new(),
            last_alive: *last_alive,
            steps: Steps::default(),
            simulated: *simulated,
        };
        self.shared = Arc::new(shared);
    }

    pub(super) fn sealing(&self, name: &str) -> Sealing {
        Sealing::new(Arc::clone(&self.shared), settings(name), Pulse::default())
    }

    pub(in crate::gateway) fn place(&self, name: &str) -> Place {
        let mut machine = machine::Chair::nikkiso();
        machine.show_all(&[("M", "1"), ("K", "0")]);
        Place { sealing: self.sealing(name), machine }
    }

    pub(super) fn pass(&self, seconds: u64) {
        self.clock.tick.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
    }

    fn set_clock(&self, hours: i64) {
        self.clock.ahead.fetch_add(hours * HOUR, Ordering::Relaxed);
    }

    /// Everything in the spool, in its order.
    pub(in crate::gateway) async fn records(&self) -> Vec<Stored> {
        let all = BatchLimit { records: 10_000 };
        let mut records = Vec::new();
        let tick = Tick::from_micros(u64::MAX);
        let mut leased = self.shared.spool.lease(&ehr(), all, Lane::Backlog, tick).await.unwrap();
        records.append(&mut leased);
        records.sort_by_key(|stored| stored.sequence);
        records
    }
}

impl Place {
    /// The machine is asked and answers.
    pub(in crate::gateway) async fn poll(&mut self, house: &House) {
        self.machine.now = house.clock.tick();
        self.machine.slot += 1;
        let (slot, samples) = (Slot(self.machine.slot), self.machine.samples());
        let (moment, chair) = (self.sealing.moment(), self.sealing.chair.name.clone());
        let event = LineEvent::Answered { slot, samples };
        self.sealing.hear(ChairEvent { chair, event, moment }).await.unwrap();
        self.sealing.write().await.unwrap();
    }

    pub(super) async fn seat(&mut self, patient: &str) -> Seated {
        self.say(patient, Correct::No).await.unwrap()
    }

    async fn say(&mut self, patient: &str, correct: Correct) -> Result<Seated, SeatError> {
        let (answer, answered) = oneshot::channel();
        let record_number = Sensitive::new(patient.to_owned());
        let keep_delivered = Duration::from_secs(3 * 24 * 3600);
        let act = seating::Act::Seat { record_number, correct, keep_delivered };
        self.sealing.seat(SeatRequest { act, claim: Claim::default(), answer }).await.unwrap();
        answered.await.unwrap()
    }

    pub(super) fn running(&self) -> Option<TreatmentId> {
        self.sealing.shared.seats.running(&self.sealing.chair.name).map(|running| running.id)
    }
}

/// More values than any record may hold.
fn too_large(origin: Origin) -> Record {
    let parameter = Parameter::from_key("venous_pressure").unwrap();
    let reading = Reading::Number(Decimal::parse(b"120.25").unwrap());
    let value = Value { parameter, reading, mark: Mark::New, doubts: Doubts::NONE };
    Record::sample(origin, None, Body::Values(vec![value; 4000]))
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_no_record_can_hold_becomes_a_gap_with_a_cause_and_stops_nothing() {
    let house = House::open();
    let mut place = house.place("chair-1");
    place.poll(&house).await;
    house.pass(10);
    place.machine.slot += 1;
    let moment = place.sealing.moment();
    // Between an alarm of the same commit and one that comes behind it.
    for (raw, at) in [(1, 0), (2, 2)] {
        let edge = AlarmEdge {
            alarm: Alarm::from_key("venous_pressure").unwrap(),
            phase: alarm::Phase::Start,
            raw,
            occurrence: raw,
        };
        place
            .sealing
            .records
            .insert(at / 2, Record::sample(place.sealing.origin(moment, None), None, Body::Alarm(edge)));
    }
    let large = too_large(place.sealing.origin(moment, Some(Slot(place.machine.slot))));
    place.sealing.records.insert(1, large);
    place.sealing.readings.push((1, Some(Slot(place.machine.slot)), moment.at));
    place.sealing.write().await.unwrap();
    house.pass(10);
    place.poll(&house).await;

    let all = house.records().await;
    let kinds: Vec<_> = all
        .iter()
        .filter_map(|stored| match stored.record.body() {
            Body::Values(_) => Some(("values", stored.record.origin().slot.map(|slot| slot.0))),
            Body::Alarm(edge) => Some(("alarm", Some(edge.raw.into()))),
            Body::Gap(gap) => {
                assert_eq!((gap.slots, gap.cause), (1, GapCause::AnswerFaulty));
                Some(("gap", stored.record.origin().slot.map(|slot| slot.0)))
            }
            _ => None,
        })
        .collect();
    let expected = [("values", 1), ("alarm", 1), ("gap", 2), ("alarm", 2), ("values", 3)]
        .map(|(kind, n)| (kind, Some(n)));
    assert_eq!(kinds, expected);
    let slots = house.shared.spool.status().await.unwrap().slots;
    let (_, slots) = slots.iter().find(|(name, _)| *name == place.sealing.chair.name).unwrap();
    assert_eq!(
        (slots.captured(), slots.missing()[Missing::AnswerFaulty as usize], slots.open_below(4)),
        (2, 1, 1)
    );
}

fn edges(records: &[Stored]) -> Vec<(alarm::Phase, u32, Option<TreatmentId>)> {
    let edge = |stored: &Stored| match stored.record.body() {
        Body::Alarm(edge) => Some((edge.phase, edge.occurrence, stored.record.treatment())),
        _ => None,
    };
    records.iter().filter_map(edge).collect()
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_and_forth_by_hours_changes_neither_order_nor_treatment_nor_seat() {
    let house = House::open();
    let (mut one, mut two) = (house.place("chair-1"), house.place("chair-2"));
    one.poll(&house).await;
    two.poll(&house).await;
    one.seat("11").await;
    let treatments = (one.running(), two.running());
    let steps = [3, -7, 24, -1, -20];
    for (minute, hours) in (1..).zip(steps) {
        for _ in 0..6 {
            house.pass(10);
            one.poll(&house).await;
            two.poll(&house).await;
        }
        for place in [&mut one, &mut two] {
            place.machine.show("K", &minute.to_string());
        }
        house.set_clock(hours);
    }
    house.pass(10);
    one.poll(&house).await;
    two.poll(&house).await;
    assert_eq!((one.running(), two.running()), treatments);
    assert!(house.shared.seats.running(&one.sealing.chair.name).unwrap().seated);

    let records = house.records().await;
    let sequences: Vec<u64> = records.iter().map(|stored| stored.sequence.0).collect();
    assert_eq!(sequences, (1..=records.len() as u64).collect::<Vec<_>>(), "nothing is lost or doubled");
    for place in [&one, &two] {
        let own = records.iter().map(|stored| stored.record.origin());
        let slots: Vec<_> =
            own.filter(|it| it.chair == place.sealing.chair.name).filter_map(|it| it.slot).collect();
        assert_eq!(slots, (1..=place.machine.slot).map(Slot).collect::<Vec<_>>(), "in the order of polling");
    }
    let told: Vec<i64> = records
        .iter()
        .filter_map(|stored| match stored.record.body() {
            Body::ClockStep(step) => Some(step.found.micros_since(step.expected) / HOUR),
            _ => None,
        })
        .collect();
    assert_eq!(told, steps, "one record a step, whatever the number of chairs");
    let gaps = records.iter().filter(|stored| matches!(stored.record.body(), Body::Gap(_))).count();
    assert_eq!(gaps, 0);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_for_the_first_time_moves_the_treatment_with_it_and_claims_no_gap() {
    let house = House::open();
    house.clock.ahead.store(-NOON.as_micros(), Ordering::Relaxed);
    house.clock.trusted.store(false, Ordering::Relaxed);
    let mut place = house.place("chair-1");
    place.sealing.tell_downtime();
    place.poll(&house).await;

    house.pass(60);
    house.clock.ahead.store(0, Ordering::Relaxed);
    house.clock.trusted.store(true, Ordering::Relaxed);
    place.poll(&house).await;
    let running = house.shared.seats.running(&place.sealing.chair.name).unwrap();
    assert_eq!(running.started, NOON.after(Duration::from_secs(1)));
    let records = house.records().await;
    assert!(records.iter().all(|stored| !matches!(stored.record.body(), Body::Gap(_))), "{records:?}");

    let mut next = house.sealing("chair-1");
    next.tell_downtime();
    assert_eq!(next.records, [], "nobody was asked in 1970");
}

#[tokio::test(start_paused = true)]
async fn an_alarm_that_was_on_when_the_gateway_was_cut_off_is_closed_once_at_the_next_start() {
    let house = House::open();
    let mut place = house.place("chair-1");
    place.poll(&house).await;
    place.machine.show("c", "1");
    house.pass(10);
    place.poll(&house).await;
    let treatment = place.running();
    drop(place);

    for _ in 0..2 {
        house.pass(600);
        let mut next = house.sealing("chair-1");
        next.close_alarms();
        next.write().await.unwrap();
    }
    let [(alarm::Phase::Start, raised, whose), (alarm::Phase::EndGatewayDown, closed, whose_end)] =
        edges(&house.records().await)[..]
    else {
        panic!("{:?}", edges(&house.records().await))
    };
    assert_eq!((raised, whose, whose_end), (closed, treatment, treatment));
}

#[tokio::test(start_paused = true)]
async fn an_orderly_stop_closes_its_alarms_and_leaves_none_to_the_next_start() {
    let house = House::open();
    let mut place = house.place("chair-1");
    place.machine.show("c", "1");
    place.poll(&house).await;
    place.sealing.lose_line(place.sealing.moment()).await.unwrap();
    place.sealing.write().await.unwrap();
    let mut next = house.sealing("chair-1");
    next.close_alarms();
    assert_eq!(next.records, []);
    let phases: Vec<_> = edges(&house.records().await).into_iter().map(|(phase, ..)| phase).collect();
    assert_eq!(phases, [alarm::Phase::Start, alarm::Phase::EndConnectionLost]);
}

#[tokio::test(start_paused = true)]
async fn an_alarm_that_is_on_when_another_patient_is_seated_is_closed_for_the_one_who_leaves() {
    let house = House::open();
    let mut place = house.place("chair-1");
    place.machine.show_all(&[("c", "1"), ("K", "5")]);
    place.poll(&house).await;
    place.seat("11").await;
    let first = place.running();
    let piece = place.seat("12").await.started;
    house.pass(10);
    place.poll(&house).await;
    let found = edges(&house.records().await);
    let [(alarm::Phase::Start, raised, whose), (alarm::Phase::EndTreatmentChanged, closed, whose_end), next] =
        found[..]
    else {
        panic!("{found:?}")
    };
    assert_eq!((raised, whose, whose_end), (closed, first, first));
    assert_eq!((next.0, next.2), (alarm::Phase::Start, piece), "what goes on is nobody's, and raised anew");
}

#[tokio::test(start_paused = true)]
async fn a_correction_is_refused_once_records_of_the_treatment_have_left_the_spool_early() {
    let house = House::with_volumes_of(4);
    let mut place = house.place("chair-1");
    for _ in 0..10 {
        place.poll(&house).await;
        house.pass(10);
    }
    place.seat("11").await;
    let corrected = place.say("12", Correct::Yes).await.unwrap();
    assert!(matches!(corrected.outcome, SeatOutcome::Corrected { .. }), "all of it is there: {corrected:?}");

    let done = Verdict::Delivered { parts: 1, refused_parts: Vec::new() };
    let delivered = house.records().await.iter().map(|stored| (stored.sequence, done.clone())).collect();
    house.shared.spool.settle(&ehr(), delivered).await.unwrap();
    let full = Retention { keep_delivered: Duration::ZERO, max_bytes: u64::MAX };
    assert!(house.shared.spool.prune(full, house.clock.now().0).await.unwrap().records > 0);
    let treatment = place.running();
    let refused = place.say("11", Correct::Yes).await.unwrap_err();
    let SeatError::LeftEarly { span, .. } = refused else { panic!("{refused}") };
    assert_eq!((span.from, span.until), (NOON.after(Duration::from_secs(1)), None));
    assert_eq!(place.running(), treatment);
    assert_eq!(house.records().await, [], "no correction is written that could not be kept");

    // What the refusal tells to do for what follows.
    assert_eq!(place.say("12", Correct::Yes).await.unwrap().outcome, SeatOutcome::AlreadySeated);
    place.poll(&house).await;
}

/// A desk in front of chair-1, and the chair's end of its requests.
fn desk(house: &House, state: &Path) -> (FrontDesk, mpsc::Receiver<SeatRequest>) {
    let (to_chair, at_chair) = mpsc::channel(4);
    let desk = FrontDesk {
        shared: Arc::clone(&house.shared),
        audit: Arc::new(Audit::open(state).unwrap()),
        chairs: [(ChairName::new("chair-1").unwrap(), to_chair)].into(),
        zone: TimeZone::UTC,
        keep_delivered: Duration::from_secs(3 * 24 * 3600),
        malformed: Arc::default(),
    };
    (desk, at_chair)
}

fn seat_request() -> Option<Request> {
    let record_number = Sensitive::new("4711".to_owned());
    Some(Request::Seat { chair: "chair-1".to_owned(), record_number, correct: Correct::No })
}

const NURSE: Caller = Caller { uid: Some(1000) };

#[tokio::test(start_paused = true)]
async fn a_seat_that_the_chair_did_not_come_to_is_refused_and_never_done_later() {
    let (house, state) = (House::open(), tempfile::tempdir().unwrap());
    let mut place = house.place("chair-1");
    let (desk, mut at_chair) = desk(&house, state.path());
    // The chair waits for room on its disk and hears nothing.
    let Answer::Refused { code, why } = desk.answer(NURSE, seat_request()).await else { panic!("done") };
    assert_eq!(code, RefusalCode::NotNow);
    assert!(why.contains("nothing was changed"), "{why}");
    // Hours later there is room, and the chair finds the request.
    let chair = ChairName::new("chair-1").unwrap();
    place.sealing.seat(at_chair.recv().await.unwrap()).await.unwrap();
    assert!(house.shared.seats.waiting(&chair, NOON).is_none());
    // The next one is heard in time.
    let heard = async { place.sealing.seat(at_chair.recv().await.unwrap()).await.unwrap() };
    let (answer, ()) = tokio::join!(desk.answer(NURSE, seat_request()), heard);
    assert!(matches!(answer, Answer::Done { .. }), "{answer:?}");
    assert!(house.shared.seats.waiting(&chair, NOON).is_some());
    let audit = std::fs::read_to_string(state.path().join("audit.jsonl")).unwrap();
    assert_eq!((audit.matches("not_now").count(), audit.matches("waiting").count()), (1, 1), "{audit}");
}

#[tokio::test(start_paused = true)]
async fn a_seat_whose_caller_hung_up_meanwhile_is_in_the_audit_record_all_the_same() {
    let (house, state) = (House::open(), tempfile::tempdir().unwrap());
    let mut place = house.place("chair-1");
    let (desk, mut at_chair) = desk(&house, state.path());
    let asked = tokio::spawn(async move { desk.answer(NURSE, seat_request()).await });
    let request = at_chair.recv().await.unwrap();
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    place.sealing.seat(request).await.unwrap();
    let noted = async {
        while !std::fs::read_to_string(state.path().join("audit.jsonl")).unwrap().contains("waiting") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), noted).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn lines_that_nobody_understands_are_one_entry_a_minute_with_their_number() {
    let (house, state) = (House::open(), tempfile::tempdir().unwrap());
    let (desk, _at_chair) = desk(&house, state.path());
    for line in 0..50 {
        house.pass(if line == 40 { 61 } else { 0 });
        let answer = desk.answer(NURSE, None).await;
        assert!(matches!(answer, Answer::Refused { code: RefusalCode::Malformed, .. }));
    }
    let audit = std::fs::read_to_string(state.path().join("audit.jsonl")).unwrap();
    let lines: Vec<&str> = audit.lines().collect();
    assert_eq!(lines.len(), 2, "{audit}");
    assert!(!lines[0].contains("times") && lines[1].contains("\"times\":40"), "{audit}");
}

#[tokio::test(start_paused = true)]
async fn the_board_is_shown_while_the_spool_does_not_answer_with_the_age_of_its_counts() {
    let (house, state) = (House::open(), tempfile::tempdir().unwrap());
    let (desk, _at_chair) = desk(&house, state.path());
    let Answer::Status { status } = desk.answer(NURSE, Some(Request::Status)).await else {
        panic!("no board")
    };
    let counted = status.counts_of;
    assert!(counted.is_some());
    // A call that hangs, as one at a disk does.
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    let hangs = Arc::clone(&house.shared);
    tokio::spawn(async move { hangs.spool.tools(move |_| Ok(held.recv().map_err(drop))).await });
    tokio::task::yield_now().await;
    house.pass(3600);
    // A thread that hangs keeps this clock from going on by itself.
    let waits = || tokio::time::advance(Duration::from_secs(60));
    let (answer, ()) = tokio::join!(desk.answer(NURSE, Some(Request::Status)), waits());
    let Answer::Status { status } = answer else { panic!("no board") };
    assert_eq!(status.counts_of, counted);
    let (answer, ()) = tokio::join!(desk.answer(NURSE, Some(Request::Gaps)), waits());
    let Answer::Refused { code, .. } = answer else { panic!("gaps") };
    assert_eq!(code, RefusalCode::NotNow);
    drop(let_go);
}
