//! The demo: the daemon's own code in front of a simulated ward, and a verdict at the end.

use crate::control::{Answer, Correct, client};
use crate::gateway::{self, GatewayError, Notify, RunOptions};
use crate::model::time::Timestamp;
use crate::sim::holdings::Counts;
use crate::sim::report::{Polls, Records, Resources, Verdict};
use crate::sim::resource::Kind;
use crate::sim::scenario::{Cue, What, is_never_seated, scenario};
use crate::sim::stage::{NAMESPACE, Plan, Stage, StageError};
use crate::sim::verdict::{Chair, Comparison, compare};
use crate::status::{Board, GatewayState, Seat, Snapshot, UpstreamState};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use zeroize::Zeroizing;

/// When the receiver is cut off, per mille of the length: early, because after twenty seconds the forwarder may wait
/// another half minute before it tries again.
const OUTAGE: u32 = 100;
/// How often the onlooker is told.
const LOOK: Duration = Duration::from_millis(500);
/// How often the nurse looks whether a chair is free.
const LOOK_AT_SEATS: Duration = Duration::from_millis(100);
/// The gateway is ready long before this, or it never is.
const READY: Duration = Duration::from_secs(20);
/// When nothing more was delivered for this long, what is missing will not come.
const PATIENCE: Duration = Duration::from_secs(90);
/// The board learns once a second what the spool holds; an older board may not know the last records yet.
const BOARD: Duration = Duration::from_millis(2_200);

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The stage could not be set.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The gateway ended by itself.
    #[error("the gateway ended")]
    Gateway(#[source] GatewayError),
    /// The gateway ended by a fault of ours.
    #[error("the gateway broke off")]
    Broken(#[source] tokio::task::JoinError),
    /// The gateway ended although nobody asked it to.
    #[error("the gateway ended although nobody told it to")]
    Ended,
    /// The gateway was not ready in time.
    #[error("the gateway was not ready within {} s", READY.as_secs())]
    NotReady,
    /// Somebody wants it to end.
    #[error("interrupted; nothing was compared")]
    Interrupted,
}

/// What an onlooker sees.
#[derive(Debug)]
pub struct View {
    /// Since the first cue.
    pub elapsed: Duration,
    /// The gateway's own board.
    pub board: Snapshot,
    /// What the receiver has counted.
    pub receiver: Counts,
    /// Whether the receiver can be reached.
    pub reachable: bool,
    /// What is going on.
    pub act: &'static str,
}

/// Plays the whole scenario in front of the daemon's own code, unless `interrupted` completes first. The gateway has
/// let go of everything when this returns.
///
/// # Errors
/// [`DemoError`] when there can be no verdict.
pub async fn play(
    stage: &Stage,
    plan: &Plan,
    look: impl FnMut(&View) + Send,
    interrupted: impl Future<Output = ()> + Send,
) -> Result<Verdict, DemoError> {
    let board = Arc::new(Board::default());
    let (stop, stopped) = oneshot::channel();
    let options =
        RunOptions { clock: Some(stage.clock.clone()), board: board.clone(), notify: Notify::Nobody };
    let settings = stage.settings.clone();
    let gateway = tokio::spawn(gateway::run(settings, options, async {
        // Dropping the other end stops the gateway as well.
        let _ = stopped.await;
    }));
    let mut director = Director {
        stage,
        plan,
        board,
        gateway,
        look,
        most_waiting: 0,
        started: Duration::ZERO,
        postponed: Vec::new(),
        seating: JoinSet::new(),
        disagreements: Vec::new(),
    };
    let played = tokio::select! {
        played = director.play() => played,
        () = interrupted => Err(DemoError::Interrupted),
    };
    let end = director.board.snapshot(stage.clock.now().0);
    // The ward goes on until the gateway has let go of every port.
    let _ = stop.send(());
    match &played {
        Ok(()) => (&mut director.gateway).await.map_err(DemoError::Broken)?.map_err(DemoError::Gateway)?,
        Err(DemoError::NotReady | DemoError::Interrupted) => {
            let _ = (&mut director.gateway).await;
        }
        // It has ended already.
        Err(_) => {}
    }
    played?;
    let last = director.board.snapshot(stage.clock.now().0);
    Ok(director.judge(&end, &last))
}

struct Director<'a, L> {
    stage: &'a Stage,
    plan: &'a Plan,
    board: Arc<Board>,
    gateway: JoinHandle<Result<(), GatewayError>>,
    look: L,
    most_waiting: u64,
    /// On the monotonic clock.
    started: Duration,
    /// Seats that wait for the gateway to see that the last patient has gone.
    postponed: Vec<Cue>,
    /// Seats on their way; each ends with what was refused.
    seating: JoinSet<Option<String>>,
    /// What went wrong on the way.
    disagreements: Vec<String>,
}

impl<L: FnMut(&View) + Send> Director<'_, L> {
    async fn play(&mut self) -> Result<(), DemoError> {
        self.ready().await?;
        self.perform().await?;
        self.drain().await
    }

    async fn ready(&mut self) -> Result<(), DemoError> {
        let deadline = self.now() + READY;
        while self.now() < deadline {
            if self.board.snapshot(self.wall()).state == GatewayState::Ready {
                self.started = self.now();
                return Ok(());
            }
            self.pause(Duration::from_millis(20)).await?;
        }
        Err(DemoError::NotReady)
    }

    /// Cue by cue, and the outage between them.
    async fn perform(&mut self) -> Result<(), DemoError> {
        let outage = self.plan.length * OUTAGE / 1000;
        let mut cable = [outage, outage + self.plan.outage].into_iter().peekable();
        let cues = scenario(self.plan.chairs, self.plan.length);
        let mut cues = cues.into_iter().peekable();
        loop {
            let elapsed = self.elapsed();
            for cue in std::mem::take(&mut self.postponed) {
                self.cue(cue);
            }
            while let Some(cue) = cues.next_if(|cue| cue.at <= elapsed) {
                self.cue(cue);
            }
            while cable.next_if(|at| *at <= elapsed).is_some() {
                // An outage of no length leaves the cable in.
                if cable.peek().is_some() && !self.plan.outage.is_zero() {
                    self.stage.receiver.cut();
                } else {
                    self.stage.receiver.restore();
                }
            }
            self.tell(if self.stage.receiver.is_reachable() { "treating" } else { "receiver cut off" });
            let next = [cues.peek().map(|cue| cue.at), cable.peek().copied()].into_iter().flatten().min();
            let Some(next) = next.or_else(|| (elapsed < self.plan.length).then_some(self.plan.length)) else {
                return Ok(());
            };
            let look = if self.postponed.is_empty() { LOOK } else { LOOK_AT_SEATS };
            self.pause(next.saturating_sub(self.elapsed()).min(look)).await?;
        }
    }

    fn cue(&mut self, cue: Cue) {
        let Some(bed) = self.stage.beds.get(cue.chair) else { return };
        match cue.what {
            What::Machine(act) => bed.act(act),
            What::Starts(patient) => bed.start(patient),
            What::Ends => bed.end(),
            What::Seat(patient) => {
                let Some(chair) = self.stage.settings.chairs.get(cue.chair) else { return };
                let board = self.board.snapshot(self.wall());
                // A seat on a running treatment would take it away from the patient before.
                if board.chairs.get(cue.chair).is_some_and(|chair| chair.seat == Seat::Seated) {
                    self.postponed.push(cue);
                    return;
                }
                let socket = self.stage.settings.gateway.control.clone();
                let chair = chair.name.as_str().to_owned();
                let number = Zeroizing::new(patient.record_number());
                // A task of its own: the ward does not stand still while the gateway writes down who sits there.
                self.seating.spawn(async move {
                    // The same way as `chairside seat`.
                    let refused = match client::seat(&socket, &chair, number, Correct::No).await {
                        Ok(Answer::Done { .. }) => return None,
                        Ok(Answer::Refused { why, .. }) => why,
                        Ok(Answer::Status { .. } | Answer::Spool { .. } | Answer::Gaps { .. }) => {
                            "the gateway answered something else".to_owned()
                        }
                        Err(error) => error.to_string(),
                    };
                    Some(format!("{chair}: nobody could be seated: {refused}"))
                });
            }
        }
    }

    /// Waits until everything of the scenario is delivered, or until nothing more is.
    async fn drain(&mut self) -> Result<(), DemoError> {
        while let Some(seated) = self.seating.join_next().await {
            self.disagreements.extend(seated.unwrap_or_else(|error| Some(error.to_string())));
        }
        if !self.postponed.is_empty() {
            self.disagreements.push("the gateway never saw that a patient had gone".to_owned());
        }
        let end = self.wall();
        self.pause(BOARD).await?;
        let mut delivered = 0;
        let mut progress = self.now();
        loop {
            self.tell("draining");
            let snapshot = self.board.snapshot(self.wall());
            let upstream = snapshot.upstreams.first();
            // Empty chairs are still asked; what they say is newer than the end.
            let is_done = |it: &UpstreamState| {
                it.waiting == 0 || it.oldest_waiting.is_some_and(|oldest| Timestamp::from(oldest) > end)
            };
            if upstream.is_some_and(is_done) {
                return Ok(());
            }
            let now_delivered = upstream.map_or(0, |it| it.delivered);
            if now_delivered != delivered {
                (delivered, progress) = (now_delivered, self.now());
            }
            if self.now() > progress + PATIENCE {
                let words = format!("nothing more was delivered for {} s", PATIENCE.as_secs());
                self.disagreements.push(words);
                return Ok(());
            }
            self.pause(LOOK).await?;
        }
    }

    fn judge(mut self, end: &Snapshot, last: &Snapshot) -> Verdict {
        let ledgers: Vec<_> = self.stage.beds.iter().map(|bed| bed.ledger().clone()).collect();
        let settings = self.stage.settings.chairs.iter();
        let chairs: Vec<_> = settings
            .zip(&ledgers)
            .enumerate()
            .map(|(index, (chair, ledger))| Chair {
                name: chair.name.as_str(),
                model: chair.model.id().as_str(),
                map: &chair.map,
                seated: !is_never_seated(index),
                ledger,
            })
            .collect();
        let holdings = self.stage.receiver.holdings();
        let comparison = compare(&chairs, &holdings, NAMESPACE);
        let mut resources = Resources {
            total: holdings.len(),
            by_type: BTreeMap::new(),
            repeated: holdings.counts().repeated,
            refused: holdings.counts().refused,
        };
        for ((kind, _), _) in holdings.iter() {
            *resources.by_type.entry(type_name(*kind).to_owned()).or_default() += 1;
        }
        drop(holdings);
        let polls = self.polls(&chairs, end, last);
        let records = self.records(end);
        if resources.refused > 0 {
            self.disagreements.push(format!("the receiver refused {} entries", resources.refused));
        }
        let elapsed = self.elapsed();
        self.verdict(comparison, polls, records, resources, elapsed)
    }

    /// Each screen that left was an answered poll, or one that the gateway counts as missed; and each poll is in its ledger.
    fn polls(&mut self, chairs: &[Chair<'_>], end: &Snapshot, last: &Snapshot) -> Polls {
        let mut polls = Polls { unaccounted: end.slots.unaccounted, ..Polls::default() };
        if end.slots.unaccounted > 0 || end.slots.captured == 0 {
            let words = format!(
                "the gateway cannot say what became of {} of {} polls, and captured {}",
                end.slots.unaccounted, end.slots.due, end.slots.captured
            );
            self.disagreements.push(words);
        }
        for (truth, chair) in chairs.iter().zip(&last.chairs) {
            let shown = truth.ledger.shown.len() as u64;
            let answered = chair.figures.answered;
            polls.shown += shown;
            polls.answered += answered;
            let missed: u64 = chair.figures.missed.values().sum();
            polls.missed += missed;
            if truth.ledger.torn > 0 || !(answered..=answered + missed).contains(&shown) {
                let words = format!("{}: {shown} screens were sent, {answered} polls answered", truth.name);
                self.disagreements.push(words);
            }
        }
        polls
    }

    fn records(&mut self, end: &Snapshot) -> Records {
        let Some(upstream) = end.upstreams.first() else { return Records::default() };
        let UpstreamState { delivered, skipped, waiting, held, refused, evicted, lost, .. } = *upstream;
        let records = Records {
            total: end.spool.last,
            delivered,
            skipped,
            held,
            waiting,
            refused,
            lost,
            most_waiting: self.most_waiting,
        };
        if refused + evicted + lost > 0 {
            self.disagreements
                .push(format!("{refused} records were refused, {evicted} evicted and {lost} lost"));
        }
        if let Some(trouble) = &upstream.trouble {
            self.disagreements.push(format!("the upstream is in trouble: {}", trouble.text));
        }
        records
    }

    fn verdict(
        self,
        comparison: Comparison,
        polls: Polls,
        records: Records,
        resources: Resources,
        elapsed: Duration,
    ) -> Verdict {
        let agrees = comparison.agrees() && self.disagreements.is_empty();
        let mut disagreements = self.disagreements;
        if comparison.values == 0 {
            disagreements.push("no value reached the receiver".to_owned());
        }
        disagreements.extend(comparison.disagreements);
        Verdict {
            agrees,
            simulated: true,
            chairs: self.plan.chairs,
            speed: self.plan.speed,
            seconds: elapsed.as_secs_f64(),
            outage_seconds: self.plan.outage.as_secs_f64(),
            polls,
            records,
            resources,
            treatments: comparison.treatments,
            values_compared: comparison.values,
            alarm_edges: comparison.alarms,
            wrong: comparison.wrong,
            misattributed: comparison.misattributed,
            duplicates: comparison.duplicates,
            missing: comparison.missing,
            told_as_gaps: comparison.told_as_gaps,
            disagreements,
        }
    }

    fn tell(&mut self, act: &'static str) {
        let board = self.board.snapshot(self.wall());
        let waiting = board.upstreams.iter().map(|upstream| upstream.waiting).sum();
        self.most_waiting = self.most_waiting.max(waiting);
        let receiver = self.stage.receiver.holdings().counts();
        let reachable = self.stage.receiver.is_reachable();
        let elapsed = self.elapsed();
        (self.look)(&View { elapsed, board, receiver, reachable, act });
    }

    /// Waits, unless the gateway ends meanwhile.
    async fn pause(&mut self, wait: Duration) -> Result<(), DemoError> {
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            ended = &mut self.gateway => Err(match ended {
                Ok(Ok(())) => DemoError::Ended,
                Ok(Err(error)) => DemoError::Gateway(error),
                Err(error) => DemoError::Broken(error),
            }),
        }
    }

    fn elapsed(&self) -> Duration {
        self.now().saturating_sub(self.started)
    }

    fn now(&self) -> Duration {
        Duration::from_micros(self.stage.clock.tick().as_micros())
    }

    fn wall(&self) -> Timestamp {
        self.stage.clock.now().0
    }
}

const fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Device => "Device",
        Kind::DeviceMetric => "DeviceMetric",
        Kind::Patient => "Patient",
        Kind::Procedure => "Procedure",
        Kind::Observation => "Observation",
    }
}
