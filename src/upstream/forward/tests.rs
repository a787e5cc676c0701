//! Whole turns of the forwarder in virtual time, against a spool in memory and an upstream that does what it is told.

mod cut_off;
mod gone;
mod letters;

use super::correcting::PAGE;
use super::*;
use crate::clock::SystemClock;
use crate::model::alarm::{Alarm, AlarmEdge, Phase};
use crate::model::name::UpstreamName;
use crate::privacy::record::{Correction, Record, Revision, TreatmentId};
use crate::spool::handle::{Urgency, start};
use crate::spool::memory::MemorySpool;
use crate::spool::{BatchLimit, Counts, Reason, StoreId};
use crate::upstream::fhir::testing::{TREATMENT, number, origin};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What the upstream does with the next batches; when nothing is left, it takes everything.
type Script = VecDeque<Act>;
type Act = Box<dyn FnOnce(&[Stored]) -> Delivery + Send>;

/// What it saw, with the second it saw it in.
#[derive(Debug, PartialEq, Eq)]
enum Saw {
    Delivered(u64, Vec<u64>),
    Corrected(Revision, Vec<u64>),
    NotKept,
}

struct Told {
    name: UpstreamName,
    clock: Arc<dyn Clock>,
    script: Arc<Mutex<Script>>,
    saw: Arc<Mutex<Vec<Saw>>>,
    behind: Arc<Mutex<Option<Sequence>>>,
}

fn all(verdict: &Verdict, batch: &[Stored]) -> Delivery {
    Delivery {
        verdicts: batch.iter().map(|stored| (stored.sequence, verdict.clone())).collect(),
        resources: u64::from(matches!(verdict, Verdict::Delivered { .. })) * batch.len() as u64,
        ..Delivery::default()
    }
}

const DONE: Verdict = Verdict::Delivered { parts: 1, refused_parts: Vec::new() };

impl Told {
    fn answer(&self, batch: &[Stored]) -> Delivery {
        let next = self.script.lock().unwrap().pop_front();
        next.map_or_else(|| all(&DONE, batch), |act| act(batch))
    }
}

fn numbers(batch: &[Stored]) -> Vec<u64> {
    batch.iter().map(|stored| stored.sequence.0).collect()
}

impl Upstream for Told {
    fn name(&self) -> &UpstreamName {
        &self.name
    }
    fn begins_behind(&mut self, last: Sequence) {
        assert!(self.saw.lock().unwrap().is_empty(), "said before anything else");
        *self.behind.lock().unwrap() = Some(last);
    }
    async fn deliver(&mut self, batch: &[Stored]) -> Delivery {
        let second = self.clock.tick().as_micros() / 1_000_000;
        self.saw.lock().unwrap().push(Saw::Delivered(second, numbers(batch)));
        self.answer(batch)
    }
    async fn correct(
        &mut self,
        correction: Correction,
        batch: &[Stored],
        _: &BTreeSet<Sequence>,
    ) -> Delivery {
        self.saw.lock().unwrap().push(Saw::Corrected(correction.old, numbers(batch)));
        self.answer(batch)
    }
    fn refusals_not_kept(&mut self) {
        self.saw.lock().unwrap().push(Saw::NotKept);
    }
}

struct Ward {
    spool: SpoolHandle,
    script: Arc<Mutex<Script>>,
    saw: Arc<Mutex<Vec<Saw>>>,
    behind: Arc<Mutex<Option<Sequence>>>,
    state: watch::Receiver<State>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Ward {
    async fn with(records: Vec<Record>, script: Script) -> Self {
        let name = UpstreamName::new("ehr").unwrap();
        let spool = MemorySpool::new(StoreId([3; 16]), std::slice::from_ref(&name));
        Self::over(spool, records, script).await
    }

    async fn over(spool: impl crate::spool::Spool + 'static, records: Vec<Record>, script: Script) -> Self {
        let (spool, _) = start(spool).unwrap();
        spool.append(records, Urgency::Now).await.unwrap();
        Self::on(spool, script)
    }

    /// A forwarder on a spool that others may have worked on before.
    fn on(spool: SpoolHandle, script: Script) -> Self {
        let name = UpstreamName::new("ehr").unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(Timestamp::from_micros(0)));
        let (script, saw) = (Arc::new(Mutex::new(script)), Arc::default());
        let behind: Arc<Mutex<_>> = Arc::default();
        let told = Told {
            name,
            clock: clock.clone(),
            script: Arc::clone(&script),
            saw: Arc::clone(&saw),
            behind: Arc::clone(&behind),
        };
        let (sender, state) = watch::channel(State::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let stop_future = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(forward(told, spool.clone(), clock, sender, stop_future));
        Self { spool, script, saw, behind, state, stop, task }
    }

    async fn counts(&self) -> Counts {
        self.spool.status().await.unwrap().upstreams[0].1
    }

    /// Waits until the spool's counts are like this; virtual time runs as fast as it has to.
    async fn until(&self, holds: impl Fn(&Counts) -> bool) {
        for _ in 0..40_000 {
            if holds(&self.counts().await) {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
        panic!("never came to be: {:?}", self.counts().await);
    }

    fn delivered_batches(&self) -> Vec<Vec<u64>> {
        let saw = self.saw.lock().unwrap();
        saw.iter()
            .filter_map(|it| match it {
                Saw::Delivered(_, numbers) => Some(numbers.clone()),
                Saw::Corrected(..) | Saw::NotKept => None,
            })
            .collect()
    }

    fn seconds(&self) -> Vec<u64> {
        let saw = self.saw.lock().unwrap();
        saw.iter()
            .filter_map(|it| match it {
                Saw::Delivered(second, _) => Some(*second),
                Saw::Corrected(..) | Saw::NotKept => None,
            })
            .collect()
    }
}

fn reading() -> Record {
    Record::sample(origin(), Some(TREATMENT), Body::Values(vec![number("venous_pressure", "142")]))
}

fn readings(count: usize) -> Vec<Record> {
    (0..count).map(|_| reading()).collect()
}

fn correction(old: u32, new: u32) -> Record {
    let correction = Correction { treatment: TREATMENT, old: Revision(old), new: Revision(new) };
    Record::sample(origin(), Some(TREATMENT), Body::Correction(correction))
}

fn trouble() -> Trouble {
    Trouble { code: "test", what: "a test".to_owned(), remedy: "nothing" }
}

fn says(next: Next) -> Act {
    Box::new(|_| Delivery { next, ..Delivery::default() })
}

fn wait(at_least: Option<u64>) -> Next {
    Next::Wait { at_least: at_least.map(Duration::from_secs), why: trouble() }
}

#[tokio::test(start_paused = true)]
async fn everything_is_delivered_the_newest_first() {
    let ward = Ward::with(readings(100), Script::new()).await;
    ward.until(|counts| counts.delivered == 100).await;
    let batches = ward.delivered_batches();
    assert!(batches[0].contains(&100), "fresh data first: {batches:?}");
    assert!(batches[1].contains(&1), "then what waits longest: {batches:?}");
    assert_eq!(batches.concat().len(), 100, "each once");
    let state = ward.state.borrow().clone();
    assert_eq!((state.delivered, state.resources, state.condition), (100, 100, Condition::Connected));
    assert!(state.last_success.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_record_appended_later_is_delivered_without_anybody_asking() {
    let ward = Ward::with(readings(1), Script::new()).await;
    ward.until(|counts| counts.delivered == 1).await;
    ward.spool.append(readings(1), Urgency::Now).await.unwrap();
    ward.until(|counts| counts.delivered == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_is_not_ready_is_asked_with_growing_waits_and_gets_everything_in_the_end() {
    let script = (0..30).map(|_| says(wait(None))).collect();
    let ward = Ward::with(readings(3), script).await;
    ward.until(|counts| counts.delivered == 3).await;
    let seconds = ward.seconds();
    let gaps: Vec<u64> = seconds.windows(2).map(|pair| pair[1] - pair[0]).take(30).collect();
    assert!(gaps.iter().all(|gap| (1..=300).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().skip(10).sum::<u64>() > 300, "the waits grow: {gaps:?}");
    assert_eq!(ward.state.borrow().condition, Condition::Connected);
}

#[tokio::test(start_paused = true)]
async fn the_receivers_own_wish_to_wait_is_honoured() {
    let ward = Ward::with(readings(1), Script::from([says(wait(Some(120)))])).await;
    ward.until(|counts| counts.delivered == 1).await;
    let seconds = ward.seconds();
    assert!(seconds[1] - seconds[0] >= 120, "{seconds:?}");
}

#[tokio::test(start_paused = true)]
async fn a_paused_upstream_keeps_everything_and_looks_again_once_a_minute() {
    let script = (0..3).map(|_| says(Next::Pause(trouble()))).collect();
    let mut ward = Ward::with(readings(2), script).await;
    ward.state.wait_for(|state| state.condition == Condition::Paused(trouble())).await.unwrap();
    assert_eq!(ward.counts().await.waiting, 2);
    ward.until(|counts| counts.delivered == 2).await;
    let gaps: Vec<u64> = ward.seconds().windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps, [60, 60, 60, 0], "a single record shows that it is back, then the rest");
}

#[tokio::test(start_paused = true)]
async fn held_records_wait_for_their_release_and_go_out_then() {
    let hold = || -> Act { Box::new(|batch| all(&Verdict::Held(TREATMENT), batch)) };
    let ward = Ward::with(readings(2), Script::from([hold()])).await;
    ward.until(|counts| counts.held == 2).await;
    sleep(Duration::from_secs(4000)).await;
    assert_eq!(ward.delivered_batches().len(), 1, "held is held");
    ward.spool.release(TREATMENT).await.unwrap();
    ward.until(|counts| counts.delivered == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_record_to_be_tried_again_comes_back_at_its_time() {
    let act: Act = Box::new(|batch| {
        let later = Verdict::Retry { not_before: Tick::from_micros(30_000_000) };
        let mut delivery = all(&DONE, batch);
        delivery.verdicts[0].1 = later;
        delivery
    });
    let ward = Ward::with(readings(2), Script::from([act])).await;
    ward.until(|counts| counts.delivered == 2).await;
    let seconds = ward.seconds();
    assert!(seconds.last().copied().unwrap() >= 30, "{seconds:?}");
    assert!(seconds.last().copied().unwrap() < 40, "{seconds:?}");
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_forgets_a_record_is_not_asked_without_a_pause() {
    let script = (0..20).map(|_| says(Next::Continue)).collect();
    let ward = Ward::with(readings(1), script).await;
    ward.until(|counts| counts.delivered == 1).await;
    let seconds = ward.seconds();
    assert!(seconds.windows(2).all(|pair| pair[1] > pair[0]), "{seconds:?}");
}

#[tokio::test(start_paused = true)]
async fn a_correction_rewrites_the_records_before_it_page_by_page_and_is_settled_last() {
    let mut records = readings(70);
    records.push(correction(1, 2));
    records.extend(readings(3));
    let ward = Ward::with(records, Script::new()).await;
    ward.until(|counts| counts.delivered == 74).await;
    let saw = ward.saw.lock().unwrap();
    let corrected: Vec<u64> = saw
        .iter()
        .filter_map(|it| match it {
            Saw::Corrected(old, numbers) => {
                assert_eq!(*old, Revision(1));
                assert!(numbers.len() <= PAGE.records);
                Some(numbers.clone())
            }
            Saw::Delivered(..) | Saw::NotKept => None,
        })
        .flatten()
        .collect();
    assert_eq!(corrected, (1..=70).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_correction_broken_off_goes_on_where_it_was_and_is_not_settled_before() {
    let mut records = readings(70);
    records.push(correction(1, 2));
    // Delivered: the readings of the live lane; then two pages, the second of which fails.
    let take = || -> Act { Box::new(|batch| all(&DONE, batch)) };
    let ward = Ward::with(records, Script::from([take(), take(), says(wait(None))])).await;
    ward.until(|counts| counts.delivered == 71).await;
    let saw = ward.saw.lock().unwrap();
    let pages: Vec<u64> = saw
        .iter()
        .filter_map(|it| match it {
            Saw::Corrected(_, numbers) => numbers.first().copied(),
            Saw::Delivered(..) | Saw::NotKept => None,
        })
        .collect();
    assert_eq!(pages, [1, 33, 33, 65]);
}

#[tokio::test(start_paused = true)]
async fn a_correction_whose_records_were_refused_says_so() {
    let refuse: Act = Box::new(|batch| {
        all(&Verdict::Refused { parts: 1, reason: Reason { status: 422, issue: None } }, batch)
    });
    let other = Record::sample(origin(), Some(TreatmentId::from_bytes([9; 16])), Body::TreatmentStarted);
    let take = || -> Act { Box::new(|batch| all(&DONE, batch)) };
    let script = Script::from([take(), refuse]);
    let ward = Ward::with(vec![reading(), other, correction(1, 2)], script).await;
    ward.until(|counts| counts.delivered == 3).await;
    assert_eq!(ward.counts().await.refused, 0, "the correction itself went through, with refused parts");
}

#[tokio::test(start_paused = true)]
async fn asked_to_stop_it_finishes_the_batch_in_hand_and_leases_no_other() {
    let (entered, has_entered) = std::sync::mpsc::channel::<()>();
    let act: Act = Box::new(move |batch| {
        entered.send(()).unwrap();
        all(&DONE, batch)
    });
    let ward = Ward::with(readings(100), Script::from([act])).await;
    ward.stop.send(()).unwrap();
    ward.task.await.unwrap();
    let taken = usize::from(has_entered.try_recv().is_ok()) * Breaker::default().lease().records;
    let counts = ward.spool.status().await.unwrap().upstreams[0].1;
    assert_eq!(counts.delivered, taken as u64, "what was sent is settled");
    assert_eq!(counts.delivered + counts.waiting, 100, "and nothing is left in between");
}

#[tokio::test(start_paused = true)]
async fn a_waiting_forwarder_stops_at_once() {
    for next in [wait(Some(3600)), Next::Pause(trouble())] {
        let mut ward = Ward::with(readings(1), Script::from([says(next)])).await;
        ward.state.wait_for(|state| state.condition != Condition::Untried).await.unwrap();
        ward.stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(1), ward.task).await.unwrap().unwrap();
    }
    let idle = Ward::with(readings(1), Script::new()).await;
    idle.until(|counts| counts.delivered == 1).await;
    assert!(idle.script.lock().unwrap().is_empty());
    idle.stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(1), idle.task).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_closed_spool_ends_the_forwarder() {
    let ward = Ward::with(readings(1), Script::new()).await;
    ward.until(|counts| counts.delivered == 1).await;
    ward.spool.close().await.unwrap();
    tokio::time::timeout(Duration::from_secs(600), ward.task).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_upstream_learns_which_records_were_there_before_it() {
    let ward = Ward::with(readings(3), Script::new()).await;
    ward.until(|counts| counts.delivered == 3).await;
    assert_eq!(*ward.behind.lock().unwrap(), Some(Sequence(3)));
}

#[tokio::test(start_paused = true)]
async fn what_keeps_records_back_is_told_while_it_lasts() {
    let act: Act = Box::new(|batch| {
        let mut delivery = all(&DONE, batch);
        delivery.verdicts[0].1 = Verdict::Retry { not_before: Tick::from_micros(60_000_000) };
        delivery.setback = Some(trouble());
        delivery
    });
    let mut ward = Ward::with(readings(2), Script::from([act])).await;
    ward.state.wait_for(|state| state.setback == Some(trouble())).await.unwrap();
    ward.until(|counts| counts.delivered == 2).await;
    assert!(ward.state.borrow().setback.is_some(), "not taken back at once");
    sleep(Duration::from_secs(200)).await;
    ward.spool.append(readings(1), Urgency::Now).await.unwrap();
    ward.until(|counts| counts.delivered == 3).await;
    assert_eq!(ward.state.borrow().setback, None);
}

/// A spool that does not take the next settlements, or of them only those with a refusal.
struct Sulking {
    inner: MemorySpool,
    refusals: u32,
    only_letters: bool,
}

impl crate::spool::Spool for Sulking {
    fn append(&mut self, batch: &[Record]) -> Result<Vec<Sequence>, SpoolError> {
        self.inner.append(batch)
    }
    fn lease(
        &mut self,
        upstream: &UpstreamName,
        limit: BatchLimit,
        lane: Lane,
        now: Tick,
    ) -> Result<Vec<Stored>, SpoolError> {
        self.inner.lease(upstream, limit, lane, now)
    }
    fn settle(
        &mut self,
        upstream: &UpstreamName,
        verdicts: &[(Sequence, Verdict)],
    ) -> Result<(), SpoolError> {
        let is_about_letters = verdicts.iter().any(|(_, verdict)| is_refusal(verdict));
        if self.refusals > 0 && (is_about_letters || !self.only_letters) {
            self.refusals -= 1;
            return Err(SpoolError::Engine { act: "settle", why: "a test" });
        }
        self.inner.settle(upstream, verdicts)
    }
    fn release(&mut self, treatment: TreatmentId) -> Result<(), SpoolError> {
        self.inner.release(treatment)
    }
    fn read_treatment(
        &mut self,
        treatment: TreatmentId,
        after: Sequence,
        limit: BatchLimit,
    ) -> Result<Vec<Stored>, SpoolError> {
        self.inner.read_treatment(treatment, after, limit)
    }
    fn tools(&mut self) -> &mut dyn crate::spool::tools::SpoolTools {
        self.inner.tools()
    }
    fn prune(
        &mut self,
        policy: crate::spool::Retention,
        now: Timestamp,
    ) -> Result<crate::spool::Pruned, SpoolError> {
        self.inner.prune(policy, now)
    }
    fn space(&mut self) -> crate::spool::space::Space {
        self.inner.space()
    }
    fn begin_run(
        &mut self,
        chairs: &[(crate::model::name::ChairName, Duration)],
    ) -> Result<BTreeMap<crate::model::name::ChairName, crate::spool::slots::Left>, SpoolError> {
        self.inner.begin_run(chairs)
    }
    fn status(&mut self) -> crate::spool::SpoolStatus {
        self.inner.status()
    }
    fn flush(&mut self) -> Result<(), SpoolError> {
        self.inner.flush()
    }
    fn close(&mut self) -> Result<(), SpoolError> {
        self.inner.close()
    }
}

#[tokio::test(start_paused = true)]
async fn records_leased_when_the_spool_fails_are_handed_back() {
    for refusals in 1..4 {
        let name = UpstreamName::new("ehr").unwrap();
        let inner = MemorySpool::new(StoreId([3; 16]), std::slice::from_ref(&name));
        let ward =
            Ward::over(Sulking { inner, refusals, only_letters: false }, readings(2), Script::new()).await;
        ward.until(|counts| counts.delivered == 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_a_single_record_shows_whether_the_receiver_is_back() {
    let take = || -> Act { Box::new(|batch| all(&DONE, batch)) };
    let script: Vec<Act> = vec![
        take(),
        take(),
        take(),
        take(),
        says(wait(None)),
        says(wait(None)),
        says(Next::Pause(trouble())),
    ];
    let ward = Ward::with(readings(300), Script::from(script)).await;
    ward.until(|counts| counts.delivered == 300).await;
    let sizes: Vec<usize> = ward.delivered_batches().iter().map(Vec::len).collect();
    assert_eq!(sizes[..5], [4, 8, 16, 32, 64], "more and more, as long as it is quick");
    assert_eq!(sizes[5..8], [1, 1, 1], "after each failure and each pause");
    assert_eq!(sizes[8..10], [4, 8], "and then as at the start");
    assert_eq!(ward.state.borrow().circuit, Circuit::Closed);
}

/// A receiver that takes its time over every record, and when it had them.
struct Slow {
    name: UpstreamName,
    clock: Arc<dyn Clock>,
    had: Arc<Mutex<Vec<(u64, Tick)>>>,
}

impl Upstream for Slow {
    fn name(&self) -> &UpstreamName {
        &self.name
    }
    fn begins_behind(&mut self, _: Sequence) {}
    async fn deliver(&mut self, batch: &[Stored]) -> Delivery {
        sleep(Duration::from_millis(200 + 60 * batch.len() as u64)).await;
        let now = self.clock.tick();
        self.had.lock().unwrap().extend(batch.iter().map(|stored| (stored.sequence.0, now)));
        all(&DONE, batch)
    }
    async fn correct(&mut self, _: Correction, batch: &[Stored], _: &BTreeSet<Sequence>) -> Delivery {
        all(&DONE, batch)
    }
}

#[tokio::test(start_paused = true)]
async fn live_records_and_alarms_stay_fresh_while_a_slow_receiver_drains_a_long_backlog() {
    const BACKLOG: usize = 4000;
    let name = UpstreamName::new("ehr").unwrap();
    let spool = MemorySpool::new(StoreId([3; 16]), std::slice::from_ref(&name));
    let (spool, _) = start(spool).unwrap();
    spool.append(readings(BACKLOG), Urgency::Now).await.unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(Timestamp::from_micros(0)));
    let had: Arc<Mutex<Vec<_>>> = Arc::default();
    let slow = Slow { name, clock: clock.clone(), had: Arc::clone(&had) };
    let (sender, _state) = watch::channel(State::default());
    tokio::spawn(forward(slow, spool.clone(), clock.clone(), sender, std::future::pending()));
    // Thirty machines at one poll in ten seconds, and now and then an alarm.
    let (mut appended, mut alarms) = (Vec::new(), Vec::new());
    for number in 0..1200 {
        sleep(Duration::from_millis(333)).await;
        let read_at = clock.tick();
        let (spool, is_alarm) = (spool.clone(), number % 100 == 50);
        let task = tokio::spawn(async move {
            let (record, urgency) =
                if is_alarm { (alarm(), Urgency::Prompt) } else { (reading(), Urgency::Routine) };
            spool.append(vec![record], urgency).await.unwrap()[0].0
        });
        if is_alarm { &mut alarms } else { &mut appended }.push((task, read_at));
    }
    sleep(Duration::from_secs(60)).await;
    let had: BTreeMap<u64, Tick> = had.lock().unwrap().iter().copied().collect();
    let mut ages = [Vec::new(), Vec::new()];
    for (of, all) in ages.iter_mut().zip([appended, alarms]) {
        for (task, read_at) in all {
            of.push(had[&task.await.unwrap()].since(read_at));
        }
        of.sort();
    }
    let [readings, alarms] = ages;
    let p95 = readings[readings.len() * 95 / 100];
    assert!(p95 <= Duration::from_secs(5), "{p95:?}, the longest {:?}", readings.last());
    assert!(*alarms.last().unwrap() <= Duration::from_secs(5), "{alarms:?}");
    let drained = had.keys().filter(|sequence| **sequence <= BACKLOG as u64).count();
    assert_eq!(drained, BACKLOG, "meanwhile the backlog was drained");
}

fn alarm() -> Record {
    let alarm = Alarm::from_key("venous_pressure").unwrap();
    let edge = AlarmEdge { alarm, phase: Phase::Start, raw: 2, occurrence: 17 };
    Record::sample(origin(), Some(TREATMENT), Body::Alarm(edge))
}
