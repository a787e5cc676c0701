//! Random binding schedules against an oracle of their own: no treatment is ever the wrong patient's.
//!
//! The oracle keeps no state that it updates. It looks at the written history of a chair and asks of one treatment: whose
//! word reached it last, by the rules as the ward knows them?

use super::*;
use crate::model::name::UpstreamName;
use crate::privacy::Pseudonymiser;
use crate::upstream::Identities;
use proptest::prelude::*;

/// What happens to a chair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Start,
    End,
    Progress,
    Seat(u8),
    Correct(u8),
    Unseat,
    Restart,
}

/// One line of a chair's history.
#[derive(Clone, Copy, Debug)]
struct Entry {
    minute: u64,
    act: Act,
}

/// One treatment as the history tells it: born and died at these lines.
#[derive(Clone, Copy, Debug)]
struct Life {
    born: usize,
    died: Option<usize>,
    /// Over already when that line acts: nobody had heard of it for long.
    silent: bool,
    /// The minute of its end, which is earlier than the line for one that was not heard of for long.
    ended: u64,
}

const KEEP_MINUTES: u64 = 3 * 24 * 60;

/// A treatment cut in two by a seat or an unseat, and whom the next one is for.
#[derive(Clone, Copy, Debug)]
struct Cut {
    before: usize,
    piece: usize,
    seat: Option<(u8, u64)>,
    /// Whether the machine had shown a time by then. Here it shows the same one for ever, so no next treatment is proven.
    counts: bool,
}

/// A chair's history up to some line.
struct History<'a> {
    lines: &'a [Entry],
    lives: Vec<Life>,
    /// The cut that is known when a line is about to act.
    cuts: Vec<Option<Cut>>,
}

impl<'a> History<'a> {
    fn read(lines: &'a [Entry]) -> Self {
        let mut history = Self { lines, lives: Vec::new(), cuts: vec![None] };
        for (line, Entry { minute, act }) in lines.iter().enumerate() {
            history.end_silent(line);
            let running = history.running(line);
            let next = history.cut_after(line, *act);
            history.cuts.push(next);
            let (dies, born) = match (act, running) {
                (Act::Start, None) => (None, true),
                (Act::Start, Some(life)) => (Some(history.end(life, line)), true),
                (Act::End, Some(life)) => (Some(history.end(life, line)), false),
                (Act::Unseat, Some(life))
                    if !(history.is_cut(line)
                        || history.is_over(life, line) && history.awaited(line).is_some()) =>
                {
                    (Some(*minute), true)
                }
                (Act::Seat(patient), Some(life)) if history.settled(life, line) => {
                    let taken = history.patient(life, line).is_some_and(|whose| whose != *patient);
                    (taken.then_some(*minute), taken)
                }
                _ => (None, false),
            };
            if let (Some(ended), Some(life)) = (dies, running) {
                history.lives[life].died = Some(line);
                history.lives[life].ended = ended;
            }
            if born {
                history.lives.push(Life { born: line, died: None, silent: false, ended: 0 });
            }
        }
        history
    }

    /// Whether a word at this line is about the next treatment.
    fn is_cut(&self, line: usize) -> bool {
        self.cuts[line].is_some_and(|cut| self.running(line) == Some(cut.piece)) || self.has_early_seat(line)
    }

    fn has_early_seat(&self, line: usize) -> bool {
        let seat = self.cuts[line].and_then(|cut| cut.seat);
        seat.is_some_and(|(_, since)| self.lines[line].minute - since <= 120)
    }

    /// Whether this patient's treatment was the one that was cut.
    fn was_here_before(&self, patient: u8, line: usize) -> bool {
        self.cuts[line].is_some_and(|cut| self.patient(cut.before, line) == Some(patient))
    }

    /// What is known of a cut once this line has acted; the life that it may begin is the next one.
    fn cut_after(&self, line: usize, act: Act) -> Option<Cut> {
        let now = self.lines[line].minute;
        let (cut, running) = (self.cuts[line], self.running(line));
        let next_life = self.lives.len();
        let begun = |before, seat: Option<u8>| {
            let counts = self.counts(before, line);
            let seat = seat.filter(|_| counts).map(|patient| (patient, now));
            Some(Cut { before, piece: next_life, seat, counts })
        };
        let renewed =
            |patient| cut.map(|cut| Cut { seat: Some((patient, now)).filter(|_| cut.counts), ..cut });
        let cancelled = || {
            cut.filter(|cut| running.or(self.last(line)) == Some(cut.piece))
                .map(|cut| Cut { seat: None, ..cut })
        };
        match (act, running) {
            (Act::Start, _) => cut.filter(|_| self.has_early_seat(line)),
            (Act::Seat(patient), None) if self.is_cut(line) => renewed(patient),
            (Act::Seat(_), None) if self.was_late(line) => cut,
            (Act::Seat(_), None) => cancelled(),
            (Act::Seat(patient), Some(life)) if self.settled(life, line) => match self.patient(life, line) {
                Some(whose) if whose == patient => cut,
                Some(_) => begun(life, Some(patient)),
                None if self.is_cut(line) && !self.was_here_before(patient, line) => renewed(patient),
                None => None,
            },
            (Act::Seat(_), Some(life)) if self.is_over(life, line) => cancelled(),
            (Act::Correct(patient), None) if self.awaited(line).is_none() && self.is_cut(line) => {
                renewed(patient)
            }
            (Act::Correct(_), Some(life)) if self.is_over(life, line) && self.awaited(line).is_some() => {
                cancelled()
            }
            (Act::Correct(patient), _) => {
                let target = running.or(self.last(line)).filter(|life| self.corrects(*life, line));
                cut.filter(|_| target.is_none_or(|life| self.patient(life, line) == Some(patient)))
            }
            (Act::Unseat, _) if self.is_cut(line) => cancelled(),
            (Act::Unseat, Some(life)) if !(self.is_over(life, line) && self.awaited(line).is_some()) => {
                begun(life, None)
            }
            _ => cut,
        }
    }

    /// Whether the machine had shown a time in the treatment, or in what it is a piece of.
    fn counts(&self, life: usize, line: usize) -> bool {
        for back in (0..line).rev() {
            match self.lines[back].act {
                Act::Progress if back > self.lives[life].born => return true,
                Act::Start if back == self.lives[life].born => return false,
                _ if back == self.lives[life].born => {
                    let before = self.lives.iter().position(|other| other.died == Some(back));
                    return before.is_some_and(|before| self.counts(before, back));
                }
                _ => {}
            }
        }
        false
    }

    /// A person's word, where it is heard at all, finds no treatment running that nobody heard of for long.
    fn end_silent(&mut self, line: usize) {
        let Some(life) = self.running(line).filter(|life| self.is_silent(*life, line)) else { return };
        let heard = match self.lines[line].act {
            Act::Seat(_) | Act::Unseat => true,
            Act::Correct(_) => {
                self.awaited(line).is_some() || self.has_early_seat(line) || self.is_kept(life, line)
            }
            Act::Start | Act::End | Act::Progress | Act::Restart => false,
        };
        if heard {
            let ended = self.end(life, line);
            self.lives[life] = Life { died: Some(line), silent: true, ended, ..self.lives[life] };
        }
    }

    /// Confirmed by the machine, but not for twenty minutes, or twelve hours old.
    fn is_silent(&self, life: usize, line: usize) -> bool {
        let now = self.lines[line].minute;
        let too_long = now - self.lines[self.lives[life].born].minute >= 12 * 60;
        self.settled(life, line) && (too_long || now - self.heard(life, line) > 20)
    }

    /// The treatment that runs when this line is about to act.
    fn running(&self, line: usize) -> Option<usize> {
        let runs = |life: &Life| life.died.is_none_or(|died| died > line || died == line && !life.silent);
        self.lives.iter().position(|life| life.born < line && runs(life))
    }

    /// The last treatment that began before this line.
    fn last(&self, line: usize) -> Option<usize> {
        self.lives.iter().rposition(|life| life.born < line)
    }

    /// Whether the machine has spoken for the treatment since the last restart.
    fn settled(&self, life: usize, line: usize) -> bool {
        for back in (0..line).rev() {
            match self.lines[back].act {
                Act::Restart => return false,
                Act::Progress if back > self.lives[life].born => return true,
                _ if back == self.lives[life].born => {
                    // Begun by the machine, or by hand on a treatment that the machine had confirmed.
                    let by_machine = self.lines[back].act == Act::Start;
                    let before = self.lives.iter().position(|other| other.died == Some(back));
                    return by_machine || before.is_some_and(|before| self.settled(before, back));
                }
                _ => {}
            }
        }
        false
    }

    /// Left open by a restart for so long that it cannot go on.
    fn is_over(&self, life: usize, line: usize) -> bool {
        let age = self.lines[line].minute - self.lines[self.lives[life].born].minute;
        !self.settled(life, line) && age >= 12 * 60
    }

    /// The minute at which the machine's word at this line ends the treatment: now, or when it was last heard of.
    fn end(&self, life: usize, line: usize) -> u64 {
        let (now, heard) = (self.lines[line].minute, self.heard(life, line));
        if self.settled(life, line) && now - heard <= 20 { now } else { heard }
    }

    /// The minute at which the machine was last heard of in this treatment.
    fn heard(&self, life: usize, line: usize) -> u64 {
        let born = self.lines[self.lives[life].born].minute;
        let heard = |entry: &&Entry| matches!(entry.act, Act::Start | Act::Progress);
        self.lines[..line].iter().rev().find(heard).map_or(born, |entry| entry.minute.max(born))
    }

    /// Whose treatment it is, as far as the lines before this one say.
    fn patient(&self, life: usize, line: usize) -> Option<u8> {
        let Life { born, .. } = self.lives[life];
        let mut whose = match self.lines[born].act {
            Act::Start => self.awaited(born),
            _ => None,
        };
        for reached in born + 1..line {
            match self.lines[reached].act {
                Act::Seat(patient) if whose.is_none() && self.reaches(life, patient, reached) => {
                    whose = Some(patient);
                }
                Act::Correct(patient) if self.corrects(life, reached) => whose = Some(patient),
                Act::Correct(patient) if self.corrects_before(life, patient, reached) => {
                    whose = Some(patient)
                }
                _ => {}
            }
        }
        whose
    }

    /// Whether a seat at this line binds an unbound treatment: it runs and is not of two words, or ended at most half an hour
    /// ago with none since.
    fn reaches(&self, life: usize, patient: u8, line: usize) -> bool {
        match self.running(line) {
            Some(running) => {
                let is_open = || !self.is_cut(line) || self.was_here_before(patient, line);
                running == life && self.settled(life, line) && is_open()
            }
            None => {
                let is_last = self.last(line) == Some(life);
                is_last
                    && !self.is_cut(line)
                    && !self.is_piece(life)
                    && self.minutes_since_end(life, line) <= 30
            }
        }
    }

    /// Whether it ran on from a seat or an unseat to its end, and so was nobody's.
    fn is_piece(&self, life: usize) -> bool {
        let cut = self.lives[life].died.and_then(|died| self.cuts[died]);
        cut.is_some_and(|cut| cut.piece == life)
    }

    fn minutes_since_end(&self, life: usize, line: usize) -> u64 {
        self.lines[line].minute - self.lives[life].ended
    }

    /// Whether a correction of what runs reaches the treatment that was cut as well.
    fn corrects_before(&self, life: usize, patient: u8, line: usize) -> bool {
        let Some(cut) = self.cuts[line].filter(|cut| cut.before == life) else { return false };
        self.running(line).or(self.last(line)) == Some(cut.piece)
            && self.corrects(cut.piece, line)
            && self.patient(cut.piece, line) != Some(patient)
            && self.is_kept(life, line)
    }

    fn corrects(&self, life: usize, line: usize) -> bool {
        let nobody_waits = || self.awaited(line).is_none();
        self.is_kept(life, line)
            && match self.running(line) {
                Some(running) if running != life => false,
                Some(_) => self.settled(life, line) || self.is_over(life, line) && nobody_waits(),
                None => self.last(line) == Some(life) && nobody_waits() && !self.is_cut(line),
            }
    }

    fn is_kept(&self, life: usize, line: usize) -> bool {
        self.lines[line].minute - self.lines[self.lives[life].born].minute <= KEEP_MINUTES
    }

    /// For whom a seat waits when this line acts: the last word that was not on a treatment, at most two hours old.
    fn awaited(&self, line: usize) -> Option<u8> {
        for back in (0..line).rev() {
            let young = self.lines[line].minute - self.lines[back].minute <= 120;
            let running = self.running(back);
            let settled = running.map(|life| self.settled(life, back));
            let refused = running.is_some_and(|life| settled == Some(false) && !self.is_over(life, back));
            match self.lines[back].act {
                Act::Start | Act::Unseat => return None,
                Act::Seat(_) | Act::Correct(_) if refused => {}
                Act::Seat(_) if settled == Some(true) => return None,
                Act::Seat(_) if running.is_none() && (self.is_cut(back) || self.was_late(back)) => {
                    return None;
                }
                Act::Seat(patient) => return young.then_some(patient),
                Act::Correct(_) if settled == Some(true) => {
                    if running.is_some_and(|life| self.is_kept(life, back)) {
                        return None;
                    }
                }
                Act::Correct(patient) => return self.awaited(back).and(young.then_some(patient)),
                Act::End | Act::Progress | Act::Restart => {}
            }
        }
        None
    }

    /// Whether a seat at this line, with nothing running, was spent on the treatment before.
    fn was_late(&self, line: usize) -> bool {
        self.last(line).is_some_and(|last| self.patient(last, line).is_none() && self.reaches(last, 0, line))
    }
}

/// A chair under test: the real thing, and the history that the oracle reads.
struct Chair {
    name: ChairName,
    lines: Vec<Entry>,
    /// Treatments in the order in which they began.
    treatments: Vec<TreatmentId>,
}

struct Ward {
    keyring: Arc<Keyring>,
    seats: Seats,
    chairs: Vec<Chair>,
    minute: u64,
}

fn ehr() -> UpstreamName {
    UpstreamName::new("ehr").unwrap()
}

fn number(patient: u8) -> Sensitive<String> {
    Sensitive::new(format!("record {patient}"))
}

impl Ward {
    fn new() -> Self {
        let keyring = Arc::new(Keyring::in_memory().unwrap());
        keyring.ensure_recipients([&ehr()]).unwrap();
        let chairs = ["chair-1", "chair-2"].map(|name| Chair {
            name: ChairName::new(name).unwrap(),
            lines: Vec::new(),
            treatments: Vec::new(),
        });
        let seats = Seats::new(Arc::clone(&keyring), Unseated::Machine);
        Self { keyring, seats, chairs: chairs.into(), minute: 1_000_000 }
    }

    fn act(&mut self, chair: usize, wait: u64, act: Act) {
        self.minute += wait;
        let entry = Entry { minute: self.minute, act };
        if act == Act::Restart {
            self.seats = Seats::new(Arc::clone(&self.keyring), Unseated::Machine);
            self.chairs.iter_mut().for_each(|chair| chair.lines.push(entry));
            return;
        }
        let at = Timestamp::from_micros(i64::try_from(self.minute).unwrap() * 60_000_000);
        let machine = MachineName::new("asset-14").unwrap();
        let Chair { name, lines, treatments } = &mut self.chairs[chair];
        lines.push(entry);
        let keep = Duration::from_secs(KEEP_MINUTES * 60);
        let seated = match act {
            Act::Start => {
                treatments.push(self.seats.treatment_started(name, &machine, at).unwrap());
                return;
            }
            Act::End => {
                let before = self.seats.running(name).map(|running| running.id);
                assert_eq!(self.seats.treatment_ended(name, at).unwrap(), before);
                return;
            }
            Act::Progress => {
                self.seats.progress(name, at, Decimal::whole(1)).unwrap();
                // Written at once, so that the history and a restart know the same.
                return self.seats.close().unwrap();
            }
            Act::Seat(patient) => self.seats.seat(name, number(patient), at),
            Act::Correct(patient) => self.seats.correct(name, number(patient), at, keep, &BTreeSet::new()),
            Act::Unseat => self.seats.unseat(name, at),
            Act::Restart => return,
        };
        if let Ok(seated) = seated {
            treatments.extend(seated.started);
            // Whatever became somebody else's is announced, once, under the next revision.
            for Rebound { treatment, correction } in seated.rebound() {
                let correction = correction.unwrap();
                assert_eq!((correction.treatment, correction.new.0), (treatment, correction.old.0 + 1));
            }
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let border = Pseudonymiser::new(Arc::clone(&self.keyring));
        let told = |treatment| {
            let revision = border.revision(treatment)?;
            border.subject(&ehr(), treatment, revision).map(|seen| seen.as_str().to_owned())
        };
        let name_of = |patient| {
            let number = RecordNumber::parse(&number(patient)).unwrap();
            let row = self.keyring.change(|state| rules::row(state, &number)).unwrap();
            border.pseudonym(&ehr(), row).unwrap().as_str().to_owned()
        };
        for chair in &self.chairs {
            let history = History::read(&chair.lines);
            prop_assert_eq!(chair.treatments.len(), history.lives.len(), "{:?}", chair.lines);
            for (life, treatment) in chair.treatments.iter().enumerate() {
                let whose = history.patient(life, chair.lines.len());
                prop_assert_eq!(
                    told(*treatment),
                    whose.map(name_of),
                    "treatment {} of {:?}",
                    life,
                    chair.lines
                );
                let story = border.treatment(*treatment).unwrap();
                let ended = history.lives[life].died.map(|_| history.lives[life].ended);
                let seen = story.ended.map(|ended| u64::try_from(ended.as_micros() / 60_000_000).unwrap());
                prop_assert_eq!(seen, ended, "treatment {} of {:?}", life, chair.lines);
            }
        }
        Ok(())
    }
}

/// How many schedules are tried; `CHAIRSIDE_SEEDS` asks for more.
fn schedules() -> u32 {
    std::env::var("CHAIRSIDE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(1_000)
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => Just(Act::Start),
        4 => Just(Act::End),
        3 => Just(Act::Progress),
        6 => (0_u8..3).prop_map(Act::Seat),
        2 => (0_u8..3).prop_map(Act::Correct),
        2 => Just(Act::Unseat),
        2 => Just(Act::Restart),
    ]
}

fn waits() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0_u64..5,
        3 => prop::sample::select(vec![29_u64, 30, 31, 60, 119, 120, 121]),
        2 => 0_u64..240,
        2 => prop::sample::select(vec![719_u64, 720, 721, KEEP_MINUTES, KEEP_MINUTES + 1]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(schedules()))]

    #[test]
    fn no_treatment_is_ever_the_wrong_patients(
        schedule in proptest::collection::vec((0..2_usize, waits(), acts()), 1..24),
    ) {
        let mut ward = Ward::new();
        for (chair, wait, act) in schedule {
            ward.act(chair, wait, act);
        }
        ward.check()?;
    }
}
