//! Whatever had become of the records of a treatment when its binding was corrected: in the end each of them stands in the right
//! chart, and in the wrong one stands none. The forwarder, the spool in memory and the writer together.

use super::*;
use crate::privacy::record::Record;
use crate::spool::handle::{SpoolHandle, Urgency, start};
use crate::spool::memory::MemorySpool;
use crate::spool::{Counts, StoreId};
use crate::upstream::forward::{State, forward};
use crate::upstream::{Trouble, Upstream};
use std::sync::Mutex;
use tokio::sync::watch;
use tokio::time::sleep;

/// What had become of a record when the correction came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Delivered,
    /// Refused for good, under the wrong patient.
    Refused,
    /// One of its two parts was.
    PartRefused,
    /// Refused, and not yet believed.
    InDoubt,
    /// The receiver was away.
    Queued,
    /// The receiver took it, and its answer was lost.
    Unanswered,
    /// Nobody was seated when it was first looked at, and it has not been looked at since.
    Held,
}

const FATES: [Fate; 7] = [
    Fate::Delivered,
    Fate::Refused,
    Fate::PartRefused,
    Fate::InDoubt,
    Fate::Queued,
    Fate::Unanswered,
    Fate::Held,
];

/// What becomes of requests on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Way {
    #[default]
    Open,
    Closed,
    /// Requests arrive, answers do not.
    NoAnswer,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<(Server, Way)>>);

impl Post for Shared {
    async fn post(&mut self, bundle: Vec<u8>) -> Result<Answer, LinkFault> {
        let away = || Trouble { code: "away", what: "away".to_owned(), remedy: "wait" };
        let (server, way) = &mut *self.0.lock().unwrap();
        let bundle: Value = serde_json::from_slice(&bundle).unwrap();
        match way {
            Way::Open => Ok(server.behave(&bundle)),
            Way::Closed => Err(LinkFault::Unreached(away())),
            Way::NoAnswer => {
                server.behave(&bundle);
                Err(LinkFault::Away(away()))
            }
        }
    }
}

struct Served(crate::model::name::UpstreamName, Writer<Shared>);

impl Upstream for Served {
    fn name(&self) -> &crate::model::name::UpstreamName {
        &self.0
    }
    fn begins_behind(&mut self, last: Sequence) {
        self.1.history.begins_behind(last);
    }
    async fn deliver(&mut self, batch: &[Stored]) -> Delivery {
        self.1.deliver(batch).await
    }
    async fn correct(
        &mut self,
        correction: Correction,
        batch: &[Stored],
        open: &BTreeSet<Sequence>,
    ) -> Delivery {
        self.1.correct(correction, batch, open).await
    }
    fn refusals_not_kept(&mut self) {
        self.1.refusals_not_kept();
    }
}

struct Ward {
    spool: SpoolHandle,
    server: Shared,
    bindings: Arc<Bindings>,
    fates: Vec<Fate>,
}

fn two_values() -> Body {
    Body::Values(vec![number("venous_pressure", "142"), number("arterial_pressure", "-80")])
}

impl Ward {
    fn new(fates: Vec<Fate>) -> Self {
        let site = Site::default();
        let name = site.upstream.name.clone();
        let spool = MemorySpool::new(StoreId([3; 16]), std::slice::from_ref(&name));
        let (spool, _) = start(spool).unwrap();
        let (server, bindings) = (Shared::default(), Arc::new(Bindings::default()));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(NOON));
        let writer = Writer::new(site.encoder(), bindings.clone(), clock.clone(), server.clone());
        let (sender, _) = watch::channel(State::default());
        tokio::spawn(forward(Served(name, writer), spool.clone(), clock, sender, std::future::pending()));
        Self { spool, server, bindings, fates }
    }

    fn way(&self, way: Way) {
        self.server.0.lock().unwrap().1 = way;
    }

    /// Appends every record of this fate; gives their numbers.
    async fn append(&self, fate: Fate) -> Vec<u64> {
        let count = self.fates.iter().filter(|it| **it == fate).count();
        let records = (0..count).map(|_| Record::sample(origin(), Some(TREATMENT), two_values()));
        let sequences = self.spool.append(records.collect(), Urgency::Now).await.unwrap();
        sequences.into_iter().map(|sequence| sequence.0).collect()
    }

    /// Records that are delivered under whatever binding there is: of the machine itself, so that none of them is rewritten.
    async fn others(&self, count: usize) {
        let gap = crate::privacy::record::Gap {
            from: NOON,
            to: NOON,
            slots: 1,
            cause: crate::privacy::record::GapCause::LineDown,
        };
        let records = (0..count).map(|_| Record::sample(origin(), None, Body::Gap(gap)));
        self.spool.append(records.collect(), Urgency::Now).await.unwrap();
    }

    fn dislike(&self, sequences: &[u64], parts: &[usize]) {
        for sequence in sequences {
            for part in parts {
                let url = url_under(*sequence, *part, &["p-wrong"]);
                self.server.0.lock().unwrap().0.dislikes.push((url, 422, "invariant"));
            }
        }
    }

    async fn until(&self, holds: impl Fn(&Counts) -> bool) {
        for _ in 0..20_000 {
            let counts = self.spool.status().await.unwrap().upstreams[0].1;
            if holds(&counts) {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
        panic!("never came to be: {:?} of {:?}", self.spool.status().await.unwrap().upstreams, self.fates);
    }
}

/// The url of a part of a record under the last of these patients.
fn url_under(sequence: u64, part: usize, patients: &[&'static str]) -> String {
    let bindings = Bindings::default();
    patients.iter().for_each(|patient| bindings.bind(TREATMENT, patient));
    match Site::default().encoder().encode(&stored(sequence, Some(TREATMENT), two_values()), &bindings) {
        Encoded::Write(rendering) => format!("Observation/{}", rendering.parts[part].draft.id()),
        other => panic!("{other:?}"),
    }
}

/// Lets every record come to its fate, corrects the binding, and looks at the charts.
async fn live(fates: Vec<Fate>) {
    let ward = Ward::new(fates);
    let held = ward.append(Fate::Held).await;
    ward.until(|counts| counts.held == held.len() as u64).await;
    ward.bindings.bind(TREATMENT, "p-wrong");

    let delivered = ward.append(Fate::Delivered).await;
    // Learned from a spool whose numbers are dense.
    let next = (held.len() + delivered.len()) as u64 + 1;
    let count = |fate| ward.fates.iter().filter(|it| **it == fate).count() as u64;
    let refused: Vec<u64> = (next..next + count(Fate::Refused)).collect();
    let next = next + count(Fate::Refused);
    let part_refused: Vec<u64> = (next..next + count(Fate::PartRefused)).collect();
    ward.dislike(&refused, &[0, 1]);
    ward.dislike(&part_refused, &[1]);
    assert_eq!(ward.append(Fate::Refused).await, refused);
    assert_eq!(ward.append(Fate::PartRefused).await, part_refused);
    ward.others(150).await;
    ward.until(|counts| counts.waiting == 0).await;

    let next = ward.spool.status().await.unwrap().last + 1;
    let doubted: Vec<u64> = (next..next + count(Fate::InDoubt)).collect();
    ward.dislike(&doubted, &[0, 1]);
    assert_eq!(ward.append(Fate::InDoubt).await, doubted);
    sleep(Duration::from_secs(3)).await;
    ward.way(Way::NoAnswer);
    let unanswered = ward.append(Fate::Unanswered).await;
    sleep(Duration::from_secs(700)).await;
    ward.way(Way::Closed);
    let queued = ward.append(Fate::Queued).await;
    sleep(Duration::from_secs(700)).await;
    let open = [&doubted, &unanswered, &queued].map(Vec::len).iter().sum::<usize>() as u64;
    ward.until(|counts| counts.waiting == open && counts.held == held.len() as u64).await;

    ward.bindings.bind(TREATMENT, "p-right");
    let correction = Correction { treatment: TREATMENT, old: Revision(1), new: Revision(2) };
    let correction = Record::sample(origin(), Some(TREATMENT), Body::Correction(correction));
    ward.spool.append(vec![correction], Urgency::Now).await.unwrap();
    ward.spool.release(TREATMENT).await.unwrap();
    ward.way(Way::Open);
    ward.others(150).await;
    ward.until(|counts| counts.waiting == 0 && counts.held == 0).await;

    let server = &ward.server.0.lock().unwrap().0;
    let all = [held, delivered, refused, part_refused, doubted, unanswered, queued].concat();
    assert_eq!(all.len(), ward.fates.len());
    for sequence in all {
        for part in [0, 1] {
            let right = &server.stored.get(&url_under(sequence, part, &["p-wrong", "p-right"]));
            let right = right.map(|it| it["status"].clone());
            assert_eq!(right, Some(json!("final")), "{sequence}, part {part}, of {:?}", ward.fates);
            let wrong = server.stored.get(&url_under(sequence, part, &["p-wrong"]));
            let is_void = wrong.is_none_or(|it| it["status"] == "entered-in-error");
            assert!(is_void, "{sequence}, part {part}, of {:?}: {wrong:?}", ward.fates);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_correction_every_record_is_in_the_right_chart_whatever_had_become_of_it() {
    for fate in FATES {
        live(vec![fate; 2]).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn after_a_correction_every_mix_of_records_is_in_the_right_chart(
        fates in prop::collection::vec(prop::sample::select(FATES.to_vec()), 1..40)
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(true);
        runtime.build().unwrap().block_on(live(fates));
    }
}
