//! Whether a receiver refuses single resources or everything: a refusal is believed once the hundred answers after it were
//! not mostly refusals. Until then nothing is given up for it.

use crate::privacy::record::Revision;
use crate::spool::{Reason, Sequence, Verdict};
use chairside_drivers::kit::time::Tick;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// The answers that are looked back over.
pub(super) const WINDOW: usize = 100;
/// Where little is sent, a refusal is believed after this time, if anything was taken since.
const LONG_ENOUGH: Duration = Duration::from_secs(3600);
/// A record in doubt is looked at again after this time, then after twice as long ...
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// ... and so on, up to this. Looking costs no request.
const LONGEST_LOOK: Duration = Duration::from_secs(60);
/// So many looks in vain are worth a word to a person.
const LOOKS_UNTOLD: u32 = 5;
/// Records in doubt that are remembered. One that is forgotten is sent again and refused again.
const MOST_DOUBTS: usize = 10_000;
/// So many refusals and nothing taken are enough for a receiver that refused everything when it was last asked.
const STILL_REFUSES: usize = 3;

/// The last hundred answers, and the records whose refusal is not believed yet.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The newest last; `true` is a refusal.
    answers: VecDeque<bool>,
    refused: usize,
    /// Answers since the start.
    heard: u64,
    /// Resources taken since the start.
    taken: u64,
    /// It refused nearly everything when it was last asked.
    on_probation: bool,
    last: Option<Reason>,
    doubts: HashMap<Sequence, Doubt>,
    /// Believed in the last round. They are forgotten with the next one, unless the spool could not keep them.
    told: Vec<Sequence>,
}

#[derive(Debug)]
struct Doubt {
    /// The binding under which it was refused; under another one it is another resource.
    revision: Revision,
    /// The spool was told, and could not keep it.
    is_told: bool,
    /// What becomes of the record once its refusal is believed.
    verdict: Verdict,
    heard: u64,
    taken: u64,
    at: Tick,
    looks: u32,
}

/// What is known of a record that was refused before.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Belief {
    /// Nothing: it has to be sent.
    Unknown,
    /// Its refusal stands.
    Believed(Verdict),
    /// Not yet to be told.
    Doubted {
        /// When to look again.
        not_before: Tick,
        /// Whether that has gone on for long.
        told: bool,
    },
}

impl Refusals {
    /// The receiver took a resource.
    pub(super) fn took(&mut self) {
        self.taken += 1;
        self.answered(false);
    }

    /// The receiver refused a resource.
    pub(super) fn refused(&mut self, reason: Reason) {
        self.last = Some(reason);
        self.answered(true);
    }

    fn answered(&mut self, refused: bool) {
        self.heard += 1;
        self.answers.push_back(refused);
        self.refused += usize::from(refused);
        if self.answers.len() > WINDOW && self.answers.pop_front() == Some(true) {
            self.refused -= 1;
        }
    }

    /// The reason of the last refusal, if it is no longer about single resources.
    pub(super) fn of_everything(&self) -> Option<Reason> {
        let taken = self.answers.len() - self.refused;
        let still = self.on_probation && taken == 0 && self.refused >= STILL_REFUSES;
        self.last.filter(|_| self.refused > WINDOW / 2 || still)
    }

    /// The same at the end of a round: one that refused everything before must take more than it refuses.
    pub(super) fn at_end_of_round(&mut self) -> Option<Reason> {
        let taken = self.answers.len() - self.refused;
        if self.on_probation && self.refused > taken {
            return self.last;
        }
        if taken > 0 {
            self.on_probation = false;
        }
        self.of_everything()
    }

    /// Nothing of the window counts, and no record is given up for it: it was not about them.
    pub(super) fn disbelieve(&mut self) {
        self.answers.clear();
        self.refused = 0;
        self.doubts.clear();
        self.on_probation = true;
    }

    /// Keeps a record with refused parts until it is known what that means.
    pub(super) fn doubt(
        &mut self,
        sequence: Sequence,
        revision: Revision,
        verdict: Verdict,
        now: Tick,
    ) -> Verdict {
        if self.doubts.len() < MOST_DOUBTS {
            let (heard, taken) = (self.heard, self.taken);
            let doubt = Doubt { revision, is_told: false, verdict, heard, taken, at: now, looks: 0 };
            self.doubts.insert(sequence, doubt);
        }
        Verdict::Retry { not_before: now.after(FIRST_LOOK) }
    }

    /// A new round: what was believed in the last one is settled by now.
    pub(super) fn begin_round(&mut self) {
        for sequence in std::mem::take(&mut self.told) {
            self.doubts.remove(&sequence);
        }
    }

    /// What was believed in this round could not be settled; it stands.
    pub(super) fn keep_told(&mut self) {
        for sequence in std::mem::take(&mut self.told) {
            if let Some(doubt) = self.doubts.get_mut(&sequence) {
                doubt.is_told = true;
            }
        }
    }

    /// What became of a record in doubt, while this binding of it is in force.
    pub(super) fn look_at(
        &mut self,
        sequence: Sequence,
        in_force: impl FnOnce() -> Revision,
        now: Tick,
    ) -> Belief {
        let Some(doubt) = self.doubts.get_mut(&sequence) else { return Belief::Unknown };
        if doubt.revision != in_force() {
            self.doubts.remove(&sequence);
            return Belief::Unknown;
        }
        let followed = self.heard.saturating_sub(doubt.heard) >= WINDOW as u64;
        let alone = self.taken > doubt.taken && now.since(doubt.at) >= LONG_ENOUGH;
        if !followed && !alone && !doubt.is_told {
            doubt.looks = doubt.looks.saturating_add(1);
            let wait = FIRST_LOOK.saturating_mul(1 << doubt.looks.min(8)).min(LONGEST_LOOK);
            return Belief::Doubted { not_before: now.after(wait), told: doubt.looks > LOOKS_UNTOLD };
        }
        self.told.push(sequence);
        Belief::Believed(doubt.verdict.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REASON: Reason = Reason { status: 422, issue: Some("invariant") };
    const REFUSED: Verdict = Verdict::Refused { parts: 1, reason: REASON };

    const FIRST: Revision = Revision(1);

    fn second(of: u64) -> Tick {
        Tick::from_micros(of * 1_000_000)
    }

    #[test]
    fn a_refusal_is_believed_once_a_hundred_answers_followed() {
        let mut it = Refusals::default();
        it.refused(REASON);
        assert!(matches!(it.doubt(Sequence(1), FIRST, REFUSED, second(0)), Verdict::Retry { .. }));
        for _ in 0..99 {
            it.took();
            assert!(matches!(it.look_at(Sequence(1), || FIRST, second(5)), Belief::Doubted { .. }));
        }
        it.took();
        assert_eq!(it.look_at(Sequence(1), || FIRST, second(5)), Belief::Believed(REFUSED));
        it.begin_round();
        assert_eq!(it.look_at(Sequence(1), || FIRST, second(5)), Belief::Unknown);
    }

    #[test]
    fn a_refusal_that_could_not_be_settled_is_believed_again_until_it_is() {
        let mut it = Refusals::default();
        it.refused(REASON);
        it.doubt(Sequence(1), FIRST, REFUSED, second(0));
        (0..100).for_each(|_| it.took());
        for _ in 0..3 {
            it.begin_round();
            assert_eq!(it.look_at(Sequence(1), || FIRST, second(5)), Belief::Believed(REFUSED));
            it.keep_told();
        }
        it.begin_round();
        assert_eq!(it.look_at(Sequence(1), || FIRST, second(5)), Belief::Believed(REFUSED));
        it.begin_round();
        assert_eq!(it.look_at(Sequence(1), || FIRST, second(5)), Belief::Unknown, "now it was");
    }

    #[test]
    fn a_refusal_under_one_binding_says_nothing_under_another() {
        let mut it = Refusals::default();
        it.refused(REASON);
        it.doubt(Sequence(1), FIRST, REFUSED, second(0));
        (0..100).for_each(|_| it.took());
        assert_eq!(it.look_at(Sequence(1), || Revision(2), second(5)), Belief::Unknown);
    }

    #[test]
    fn where_little_is_sent_one_that_is_taken_is_enough_after_an_hour() {
        let mut it = Refusals::default();
        it.refused(REASON);
        it.doubt(Sequence(1), FIRST, REFUSED, second(0));
        assert!(matches!(
            it.look_at(Sequence(1), || FIRST, second(7200)),
            Belief::Doubted { told: false, .. }
        ));
        it.took();
        assert_eq!(it.look_at(Sequence(1), || FIRST, second(7200)), Belief::Believed(REFUSED));
    }

    #[test]
    fn a_receiver_that_refused_everything_has_to_take_more_than_it_refuses() {
        let mut it = Refusals::default();
        (0..51).for_each(|_| it.refused(REASON));
        assert_eq!(it.at_end_of_round(), Some(REASON));
        it.disbelieve();
        it.refused(REASON);
        assert_eq!(it.of_everything(), None, "one may be bad");
        assert_eq!(it.at_end_of_round(), Some(REASON), "but so far nothing else was seen");
        it.disbelieve();
        (0..3).for_each(|_| it.refused(REASON));
        assert_eq!(it.of_everything(), Some(REASON), "no need to ask further");
        it.disbelieve();
        (0..20).for_each(|_| it.took());
        it.refused(REASON);
        assert_eq!(it.at_end_of_round(), None);
        it.refused(REASON);
        assert_eq!(it.at_end_of_round(), None, "it is as any other again");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Whatever a receiver answers: no refusal is believed out of a hundred answers of which most were refusals.
        #[test]
        fn no_refusal_is_believed_out_of_a_window_that_was_mostly_refused(
            answers in (0.05..0.95).prop_flat_map(|of| prop::collection::vec(prop::bool::weighted(of), 1..400))
        ) {
            let mut it = Refusals::default();
            for (number, refused) in (0_u64..).zip(&answers) {
                if *refused {
                    it.refused(REASON);
                    it.doubt(Sequence(number), FIRST, REFUSED, second(0));
                } else {
                    it.took();
                }
                if it.of_everything().is_some() {
                    it.disbelieve();
                }
                for earlier in 0..=number {
                    if matches!(it.look_at(Sequence(earlier), || FIRST, second(1)), Belief::Believed(_)) {
                        let at = usize::try_from(earlier).unwrap();
                        let after = &answers[at..=usize::try_from(number).unwrap()];
                        let followed = &after[1..=WINDOW];
                        prop_assert!(followed.iter().filter(|it| **it).count() <= WINDOW / 2);
                    }
                }
            }
        }
    }
}
