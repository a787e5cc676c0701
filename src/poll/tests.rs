//! Conversations in virtual time, with a small machine of our own and with every model's simulator.

use super::*;
use crate::clock::SystemClock;
use crate::model::time::{ClockTrust, Timestamp};
use chairside_drivers::kit::decimal::Decimal;
use chairside_drivers::kit::driver::{
    Channel, ChannelId, Direction, Driver, Effect, Evidence, FrameFault, ModelId, Outcome, Output, Parity,
    Reading, RequestSpec, Sample, Trouble,
};
use chairside_drivers::kit::simulator::Machine;
use proptest::prelude::*;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const EVERY: Duration = Duration::from_secs(10);
const QUIET: Duration = Duration::from_millis(500);

/// A machine that answers `?` with digits and a line end, and wants `bye` before the line closes.
#[derive(Clone, Debug)]
struct Digits {
    id: ModelId,
    requests: Vec<RequestSpec>,
    /// Whether its driver breaks the rules, and which.
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    SendsUnlisted,
    NeverRests,
    LeavesSlotsOpen,
    EndsForeignSlots,
    WakesInThePast,
}

fn spec(name: &'static str, effect: Effect, bytes: &'static [u8]) -> RequestSpec {
    RequestSpec { name, effect, bytes: Cow::Borrowed(bytes), source: "test" }
}

impl Digits {
    fn new(fault: Option<Fault>) -> Self {
        let requests = vec![spec("read", Effect::Read, b"?"), spec("stop", Effect::StopStreaming, b"bye")];
        Self { id: ModelId::from_static("test/digits"), requests, fault }
    }
}

impl Model for Digits {
    fn id(&self) -> &ModelId {
        &self.id
    }
    fn evidence(&self) -> Evidence {
        Evidence::SiteDescribed
    }
    fn line(&self) -> LineSettings {
        LineSettings {
            baud: 9600,
            data_bits: 8,
            parity: Parity::None,
            stop_bits: 1,
            direction: Direction::Poll,
        }
    }
    fn channels(&self) -> &[Channel] {
        &[]
    }
    fn requests(&self) -> &[RequestSpec] {
        &self.requests
    }
    fn quiet_time(&self) -> Duration {
        QUIET
    }
    fn driver(&self) -> Box<dyn Driver> {
        Box::new(DigitsDriver {
            model: self.clone(),
            open: None,
            heard: Vec::new(),
            outputs: VecDeque::new(),
        })
    }
    fn machine(&self, _: u64) -> Box<dyn Machine> {
        unreachable!("the tests play the machine themselves")
    }
}

struct DigitsDriver {
    model: Digits,
    open: Option<(Slot, Tick)>,
    heard: Vec<u8>,
    outputs: VecDeque<Output>,
}

impl DigitsDriver {
    fn send(&mut self, place: usize) {
        self.outputs.push_back(Output::Send(self.model.requests[place].request()));
    }

    fn end(&mut self, outcome: Outcome) {
        let Some((slot, _)) = self.open.take() else { return };
        match self.model.fault {
            Some(Fault::LeavesSlotsOpen) => {}
            Some(Fault::EndsForeignSlots) => {
                self.outputs.push_back(Output::EndOfPoll(Slot(slot.0 + 7), outcome))
            }
            _ => self.outputs.push_back(Output::EndOfPoll(slot, outcome)),
        }
    }
}

impl Driver for DigitsDriver {
    fn handle_open(&mut self, _: Tick) {}

    fn handle_poll_due(&mut self, now: Tick, slot: Slot) {
        if self.open.is_some() {
            self.outputs.push_back(Output::Trouble(Trouble::Overrun));
            self.end(Outcome::Silent);
        }
        self.heard.clear();
        self.open = Some((slot, now.after(QUIET)));
        if self.model.fault == Some(Fault::SendsUnlisted) {
            let unlisted = spec("read", Effect::Read, b"set=1").request();
            self.outputs.push_back(Output::Send(unlisted));
        } else {
            self.send(0);
        }
    }

    fn handle_bytes(&mut self, _: Tick, bytes: &[u8]) {
        for byte in bytes {
            match (byte, self.open) {
                (_, None) => {
                    let junk = Trouble::Junk { why: FrameFault::Leftover, bytes: 1 };
                    self.outputs.push_back(Output::Trouble(junk));
                }
                (b'\n', Some(_)) => {
                    match std::str::from_utf8(&self.heard).ok().and_then(|text| text.parse().ok()) {
                        Some(number) => {
                            self.outputs.push_back(Output::Sample(Sample {
                                channel: ChannelId::from_static("N"),
                                reading: Reading::Number(Decimal::new(number, 0).unwrap()),
                            }));
                            self.end(Outcome::Answered);
                        }
                        None => self.end(Outcome::Faulty(FrameFault::Value)),
                    }
                }
                (byte, Some(_)) if self.heard.len() < 8 => self.heard.push(*byte),
                _ => self.end(Outcome::Faulty(FrameFault::Length)),
            }
        }
    }

    fn handle_tick(&mut self, now: Tick) {
        if self.open.is_some_and(|(_, until)| until <= now) {
            self.end(Outcome::Silent);
        }
    }

    fn handle_close(&mut self, _: Tick) {
        self.end(Outcome::Closed);
        self.send(1);
    }

    fn poll(&mut self) -> Output {
        if self.model.fault == Some(Fault::NeverRests) {
            return Output::Trouble(Trouble::Unexpected);
        }
        let past = (self.model.fault == Some(Fault::WakesInThePast)).then_some(Tick::ZERO);
        self.outputs.pop_front().unwrap_or(Output::Wait(past.or(self.open.map(|(_, until)| until))))
    }
}

/// Opens one end of a pipe each time and hands the other end to the test, or refuses as the test says.
struct Cables {
    refusals: Arc<Mutex<VecDeque<LineError>>>,
    ends: mpsc::UnboundedSender<DuplexStream>,
}

impl Opener for Cables {
    type Port = DuplexStream;

    fn path(&self) -> &Path {
        Path::new("/dev/test")
    }

    fn open(&mut self) -> Result<DuplexStream, LineError> {
        if let Some(refusal) = self.refusals.lock().unwrap().pop_front() {
            return Err(refusal);
        }
        let (ours, machine) = duplex(256);
        self.ends.send(machine).map_err(|_| LineError::NoPort { port: PathBuf::from("/dev/test") })?;
        Ok(ours)
    }
}

/// Wall time that goes with the virtual clock.
#[derive(Debug)]
struct VirtualClock(SystemClock);

impl Clock for VirtualClock {
    fn tick(&self) -> Tick {
        self.0.tick()
    }

    fn now(&self) -> (Timestamp, ClockTrust) {
        let since_start = i64::try_from(self.tick().as_micros()).unwrap();
        (Timestamp::from_micros(1_000_000_000_000_000 + since_start), ClockTrust::Trusted)
    }
}

/// One chair in conversation with the test.
struct Bedside {
    events: mpsc::Receiver<ChairEvent>,
    ends: mpsc::UnboundedReceiver<DuplexStream>,
    figures: Arc<Figures>,
    stop: Option<oneshot::Sender<()>>,
    conversation: JoinHandle<()>,
    clock: Arc<VirtualClock>,
}

impl Bedside {
    fn new(model: impl Model + 'static, refusals: Vec<LineError>) -> Self {
        Self::with_room(Arc::new(model), refusals, event::EVENTS)
    }

    fn with_room(model: Arc<dyn Model>, refusals: Vec<LineError>, room: usize) -> Self {
        let (events, received) = mpsc::channel(room);
        let (ends, taken) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let figures = Arc::new(Figures::default());
        let clock = Arc::new(VirtualClock(SystemClock::new(Timestamp::from_micros(0))));
        let conversation = Conversation {
            chair: ChairName::new("chair-1").unwrap(),
            model,
            every: EVERY,
            opener: Cables { refusals: Arc::new(Mutex::new(refusals.into())), ends },
            clock: clock.clone(),
            events,
            figures: figures.clone(),
        };
        let conversation = tokio::spawn(converse(conversation, async {
            let _ = stopped.await;
        }));
        Self { events: received, ends: taken, figures, stop: Some(stop), conversation, clock }
    }

    async fn event(&mut self) -> ChairEvent {
        self.events.recv().await.unwrap()
    }

    async fn machine(&mut self) -> DuplexStream {
        assert!(matches!(self.event().await.event, LineEvent::Up));
        self.ends.recv().await.unwrap()
    }

    /// Stops and gives the remaining events.
    async fn stop(mut self) -> Vec<LineEvent> {
        self.stop.take().unwrap().send(()).unwrap();
        self.conversation.await.unwrap();
        let mut rest = Vec::new();
        while let Some(event) = self.events.recv().await {
            rest.push(event.event);
        }
        rest
    }

    fn seconds(&self) -> u64 {
        self.clock.tick().as_micros() / 1_000_000
    }
}

async fn hears(machine: &mut DuplexStream, expected: &[u8]) {
    let mut heard = vec![0; expected.len()];
    machine.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, expected);
}

fn answered(event: &LineEvent, slot: u64, number: i64) -> bool {
    let LineEvent::Answered { slot: found, samples } = event else { return false };
    *found == Slot(slot)
        && samples.len() == 1
        && samples[0].reading == Reading::Number(Decimal::new(number, 0).unwrap())
}

fn missed(event: &LineEvent, first: u64, count: u32, why: MissCause) -> bool {
    matches!(event, LineEvent::Missed { slot, slots, cause } if *slot == Slot(first) && *slots == count && *cause == why)
}

#[tokio::test(start_paused = true)]
async fn each_slot_is_asked_on_time_and_its_answer_is_told() {
    let mut bedside = Bedside::new(Digits::new(None), Vec::new());
    let mut machine = bedside.machine().await;
    for slot in 0..5 {
        hears(&mut machine, b"?").await;
        assert_eq!(bedside.seconds(), slot * 10);
        machine.write_all(b"4").await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        machine.write_all(b"2\n").await.unwrap();
        let told = bedside.event().await;
        assert!(answered(&told.event, slot, 42), "{told:?}");
        assert_eq!(told.moment.tick.as_micros(), slot * 10_000_000 + 200_000);
        assert_eq!(
            told.moment.at.as_micros(),
            1_000_000_000_000_000 + i64::try_from(told.moment.tick.as_micros()).unwrap()
        );
    }
    assert_eq!(bedside.figures.now().answered, 5);
    assert_eq!(bedside.figures.now().sent["read"], 5);
}

#[tokio::test(start_paused = true)]
async fn a_silent_machine_and_a_faulty_answer_are_told_apart() {
    let mut bedside = Bedside::new(Digits::new(None), Vec::new());
    let mut machine = bedside.machine().await;
    hears(&mut machine, b"?").await;
    let told = bedside.event().await;
    assert!(missed(&told.event, 0, 1, MissCause::MachineSilent));
    assert_eq!(told.moment.tick, Tick::ZERO, "a missed slot is told with the time it was due");
    hears(&mut machine, b"?").await;
    machine.write_all(b"4x\n").await.unwrap();
    assert!(missed(&bedside.event().await.event, 1, 1, MissCause::AnswerFaulty(FrameFault::Value)));
    assert_eq!(bedside.figures.now().missed(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_cable_pulled_in_mid_frame_loses_that_slot_and_the_line_comes_back() {
    let mut bedside = Bedside::new(Digits::new(None), Vec::new());
    let mut machine = bedside.machine().await;
    hears(&mut machine, b"?").await;
    machine.write_all(b"4").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(machine);
    assert!(missed(&bedside.event().await.event, 0, 1, MissCause::LineDown));
    assert!(matches!(bedside.event().await.event, LineEvent::Down { why: LineError::Gone { .. } }));
    let mut machine = bedside.machine().await;
    assert!((1..=2).contains(&bedside.seconds()), "the first wait is one second and up to a half more");
    hears(&mut machine, b"?").await;
    machine.write_all(b"7\n").await.unwrap();
    let told = bedside.event().await;
    assert!(answered(&told.event, 1, 7), "the half answer is forgotten: {told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pulled_cable_loses_no_reading_already_on_the_wire() {
    let mut bedside = Bedside::new(Digits::new(None), Vec::new());
    let mut machine = bedside.machine().await;
    hears(&mut machine, b"?").await;
    machine.write_all(b"42\n").await.unwrap();
    drop(machine);
    assert!(answered(&bedside.event().await.event, 0, 42));
    assert!(matches!(bedside.event().await.event, LineEvent::Down { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_busy_port_is_told_once_and_every_slot_meanwhile_is_counted() {
    let busy = || LineError::Busy { port: PathBuf::from("/dev/test"), holder: None };
    let mut bedside = Bedside::new(Digits::new(None), (0..5).map(|_| busy()).collect());
    assert!(matches!(bedside.event().await.event, LineEvent::Down { why: LineError::Busy { .. } }));
    let mut slots = 0;
    loop {
        match bedside.event().await.event {
            LineEvent::Up => break,
            event => assert!(missed(&event, slots, 1, MissCause::LineDown), "{event:?}"),
        }
        slots += 1;
    }
    // Five waits of 1, 2, 4, 8 and 16 seconds, each stretched by up to a half.
    assert!((31..=47).contains(&bedside.seconds()));
    assert_eq!(slots, bedside.seconds() / 10 + 1);
    let mut machine = bedside.ends.recv().await.unwrap();
    hears(&mut machine, b"?").await;
    machine.write_all(b"1\n").await.unwrap();
    assert!(answered(&bedside.event().await.event, slots, 1));
}

#[tokio::test(start_paused = true)]
async fn another_reason_for_a_port_that_stays_away_is_told_again() {
    let port = || PathBuf::from("/dev/test");
    let refusals = vec![
        LineError::NoPort { port: port() },
        LineError::NoPort { port: port() },
        LineError::Permission { port: port() },
    ];
    let mut bedside = Bedside::new(Digits::new(None), refusals);
    let mut reasons = Vec::new();
    loop {
        match bedside.event().await.event {
            LineEvent::Down { why } => reasons.push(why.word()),
            LineEvent::Up => break,
            _ => {}
        }
    }
    assert_eq!(reasons, ["no port", "permission denied"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_sends_the_stop_frame_and_leaves_no_slot_open() {
    let mut bedside = Bedside::new(Digits::new(None), Vec::new());
    let mut machine = bedside.machine().await;
    hears(&mut machine, b"?").await;
    let rest = bedside.stop().await;
    assert_eq!(rest.len(), 1);
    assert!(missed(&rest[0], 0, 1, MissCause::GatewayDown), "{rest:?}");
    let mut heard = Vec::new();
    machine.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"bye");
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_wait_for_a_port_too() {
    let refusals = (0..50).map(|_| LineError::NoPort { port: PathBuf::from("/dev/test") }).collect();
    let mut bedside = Bedside::new(Digits::new(None), refusals);
    assert!(matches!(bedside.event().await.event, LineEvent::Down { .. }));
    bedside.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_sends_what_is_not_listed_closes_its_line_for_good() {
    let mut bedside = Bedside::new(Digits::new(Some(Fault::SendsUnlisted)), Vec::new());
    let mut machine = bedside.machine().await;
    let mut heard = Vec::new();
    machine.read_to_end(&mut heard).await.unwrap();
    assert!(heard.is_empty());
    assert!(missed(&bedside.event().await.event, 0, 1, MissCause::LineDown));
    assert!(matches!(bedside.event().await.event, LineEvent::Down { why: LineError::Forbidden { .. } }));
    for slot in 1..100 {
        assert!(missed(&bedside.event().await.event, slot, 1, MissCause::LineDown));
    }
    assert!(bedside.ends.try_recv().is_err(), "the port was opened again");
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_never_rests_closes_its_line_and_not_the_process() {
    let mut bedside = Bedside::new(Digits::new(Some(Fault::NeverRests)), Vec::new());
    let _machine = bedside.machine().await;
    loop {
        match bedside.event().await.event {
            LineEvent::Down { why } => {
                assert!(matches!(why, LineError::Restless { .. }));
                break;
            }
            event => assert!(matches!(event, LineEvent::Missed { .. })),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_forgets_slots_or_invents_them_still_leaves_each_counted_once() {
    for fault in [Fault::LeavesSlotsOpen, Fault::EndsForeignSlots] {
        let mut bedside = Bedside::new(Digits::new(Some(fault)), Vec::new());
        let mut machine = bedside.machine().await;
        for slot in 0_u64..3 {
            hears(&mut machine, b"?").await;
            machine.write_all(b"42\n").await.unwrap();
            if let Some(before) = slot.checked_sub(1) {
                assert!(missed(&bedside.event().await.event, before, 1, MissCause::MachineSilent));
            }
        }
        assert_eq!(bedside.figures.now().answered, 0);
        assert_eq!(bedside.figures.now().troubles["slot left open"], 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_wants_to_be_woken_in_the_past_does_not_stop_time() {
    let mut bedside = Bedside::new(Digits::new(Some(Fault::WakesInThePast)), Vec::new());
    let mut machine = bedside.machine().await;
    for slot in 0..2 {
        hears(&mut machine, b"?").await;
        machine.write_all(b"42\n").await.unwrap();
        assert!(answered(&bedside.event().await.event, slot, 42));
    }
}

#[tokio::test(start_paused = true)]
async fn slots_that_pass_while_the_events_are_not_taken_are_counted() {
    let mut bedside = Bedside::with_room(Arc::new(Digits::new(None)), Vec::new(), 1);
    // The channel holds one event, `Up`; the next one waits until the test takes it 47 seconds later.
    let mut machine = bedside.ends.recv().await.unwrap();
    hears(&mut machine, b"?").await;
    machine.write_all(b"42\n").await.unwrap();
    tokio::time::sleep(Duration::from_secs(47)).await;
    assert!(matches!(bedside.event().await.event, LineEvent::Up));
    assert!(answered(&bedside.event().await.event, 0, 42));
    assert!(missed(&bedside.event().await.event, 1, 3, MissCause::GatewayDown));
    hears(&mut machine, b"?").await;
    machine.write_all(b"43\n").await.unwrap();
    assert!(answered(&bedside.event().await.event, 4, 43));
}

#[tokio::test(start_paused = true)]
async fn the_conversation_ends_when_nobody_listens_to_it_any_more() {
    let mut bedside = Bedside::new(Digits::new(None), Vec::new());
    let _machine = bedside.machine().await;
    drop(bedside.events);
    bedside.conversation.await.unwrap();
}

/// Plays `chunks` as a machine that says anything at all, and returns every byte the gateway wrote.
async fn babble(model: Arc<dyn Model>, chunks: Vec<(Vec<u8>, u16)>) -> Vec<u8> {
    let mut bedside = Bedside::with_room(model, Vec::new(), 4096);
    let mut written = Vec::new();
    let mut buffer = [0; 256];
    let mut machine = bedside.machine().await;
    for (bytes, pause) in chunks {
        machine.write_all(&bytes).await.unwrap();
        let pause = tokio::time::sleep(Duration::from_millis(u64::from(pause)));
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                read = machine.read(&mut buffer) => written.extend_from_slice(&buffer[..read.unwrap()]),
            }
        }
    }
    bedside.stop().await;
    machine.read_to_end(&mut written).await.unwrap();
    written
}

/// Whether `written` is made of listed requests and nothing else.
fn is_listed(mut written: &[u8], requests: &[RequestSpec]) -> bool {
    while !written.is_empty() {
        let Some(rest) = requests.iter().find_map(|request| written.strip_prefix(&*request.bytes)) else {
            return false;
        };
        written = rest;
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_bytes_on_the_line_never_panic_and_only_listed_requests_are_written(
        chunks in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..80), any::<u16>()), 0..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let own: Arc<dyn Model> = Arc::new(Digits::new(None));
        let models = chairside_drivers::MODELS.iter().map(|entry| (entry.build)(&Default::default()).unwrap().into());
        for model in models.chain([own]) {
            let written = runtime.block_on(babble(model.clone(), chunks.clone()));
            prop_assert!(is_listed(&written, model.requests()), "{}: wrote more than its list", model.id());
        }
    }
}
