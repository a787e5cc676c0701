//! What happens in the simulated ward: who comes when, what the nurse does, what the cuff measures.

use crate::sim::ward::Patient;
use chairside_drivers::kit::simulator::{Act, Switch};
use std::time::Duration;

/// Something that happens at a chair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cue {
    /// When, counted from the start.
    pub at: Duration,
    /// The chair's place in the ward, from zero.
    pub chair: usize,
    /// What.
    pub what: What,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Somebody does something at the machine.
    Machine(Act),
    /// A patient takes the chair and the treatment starts.
    Starts(Patient),
    /// The treatment ends and the patient leaves; nobody tells the gateway.
    Ends,
    /// The nurse tells the gateway who sits there, as soon as it knows that the last patient has gone.
    Seat(Patient),
}

/// The least a scenario needs to leave room between its events.
pub const SHORTEST: Duration = Duration::from_secs(10);

/// Every cue of a ward, in order of time.
///
/// Chairs take turns in what is special about them, counted in fours and eights: the first of eight changes its
/// patient in the middle, while its machine goes on showing the first one's blood pressure; the second of four is
/// seated late, so its readings are held and then released; the third of four raises an alarm; the last of eight is
/// never seated.
#[must_use]
pub fn scenario(chairs: usize, length: Duration) -> Vec<Cue> {
    let length = length.max(SHORTEST);
    let mut cues: Vec<Cue> = (0..chairs).flat_map(|chair| of_chair(chair, chairs, length)).collect();
    cues.sort_by_key(|cue| (cue.at, cue.chair));
    cues
}

/// How many of `chairs` have a patient who is never seated.
#[must_use]
pub fn is_never_seated(chair: usize) -> bool {
    chair % 8 == 7
}

fn of_chair(chair: usize, chairs: usize, length: Duration) -> Vec<Cue> {
    // Per mille of the length; chairs start one after the other.
    let stagger = 60 * chair / chairs.max(1);
    let cue = |per_mille: usize, what| {
        let share = u32::try_from(per_mille + stagger).unwrap_or(u32::MAX);
        Cue { at: length * share / 1000, chair, what }
    };
    let number = u16::try_from(chair).unwrap_or(u16::MAX);
    let first = Patient(number * 2 + 1);
    let second = Patient(number * 2 + 2);
    let mut cues =
        vec![cue(80, What::Starts(first)), cue(250, What::Machine(cuff(number, 0))), cue(880, What::Ends)];
    match chair % 4 {
        1 => cues.push(cue(350, What::Seat(first))),
        _ if is_never_seated(chair) => {}
        _ => cues.push(cue(40, What::Seat(first))),
    }
    if chair % 4 == 2 {
        cues.push(cue(400, What::Machine(Act::VenousPressureAlarm(Switch::On))));
        cues.push(cue(480, What::Machine(Act::VenousPressureAlarm(Switch::Off))));
    }
    if chair.is_multiple_of(8) {
        cues.push(cue(470, What::Ends));
        cues.push(cue(550, What::Seat(second)));
        cues.push(cue(600, What::Starts(second)));
        cues.push(cue(760, What::Machine(cuff(number, 1))));
    } else {
        cues.push(cue(700, What::Machine(cuff(number, 1))));
    }
    cues
}

/// A blood pressure that no other chair and no other time has.
fn cuff(chair: u16, turn: u16) -> Act {
    Act::MeasureBloodPressure {
        systolic: 110 + chair % 60 + turn * 5,
        diastolic: 60 + chair % 30 + turn * 3,
        pulse: 60 + chair % 40 + turn * 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cues_come_in_order_and_within_the_length() {
        for chairs in [1, 4, 24, 96] {
            let length = Duration::from_secs(30);
            let cues = scenario(chairs, length);
            assert!(cues.is_sorted_by_key(|cue| cue.at));
            assert!(cues.iter().all(|cue| cue.at < length));
        }
    }

    #[test]
    fn the_nurse_seats_only_who_comes_and_everybody_who_comes_leaves() {
        let cues = scenario(24, SHORTEST);
        for chair in 0..24 {
            let of = |wanted: fn(&What) -> Option<Patient>| {
                let at_chair = cues.iter().filter(|cue| cue.chair == chair);
                at_chair.filter_map(|cue| wanted(&cue.what)).collect::<Vec<_>>()
            };
            let came = of(|what| if let What::Starts(patient) = what { Some(*patient) } else { None });
            let seated = of(|what| if let What::Seat(patient) = what { Some(*patient) } else { None });
            let expected = if is_never_seated(chair) { Vec::new() } else { came.clone() };
            assert_eq!(seated, expected, "chair {chair}");
            let left = cues.iter().filter(|cue| cue.chair == chair && cue.what == What::Ends).count();
            assert_eq!(left, came.len());
        }
    }
}
